"""The cells: one file each. The list below is the registry."""

from .cell import Cell
from .gru import GRU
from .gru_reset_before import GRU_RESET_BEFORE
from .lstm import LSTM
from .rnn_relu import RNN_RELU
from .rnn_tanh import RNN_TANH

CELLS: dict[str, Cell] = {c.name: c for c in (RNN_TANH, RNN_RELU, LSTM, GRU, GRU_RESET_BEFORE)}

__all__ = ["CELLS", "Cell"]
