"""The cells: one file each. The list below is the registry."""

from .cell import Cell
from .gru import GRU, GRU_HARD_SIGMOID
from .gru_layer_norm import GRU_LAYER_NORM
from .gru_reset_before import GRU_RESET_BEFORE, GRU_RESET_BEFORE_HARD_SIGMOID
from .indrnn import INDRNN_RELU, INDRNN_TANH
from .lstm import LSTM
from .lstm_layer_norm import LSTM_LAYER_NORM
from .lstm_peephole import LSTM_PEEPHOLE
from .rnn_relu import RNN_RELU
from .rnn_tanh import RNN_TANH
from .slstm import SLSTM

CELLS: dict[str, Cell] = {
    c.name: c
    for c in (
        RNN_TANH, RNN_RELU, LSTM, GRU, GRU_RESET_BEFORE, LSTM_PEEPHOLE, INDRNN_RELU, INDRNN_TANH, SLSTM,
        GRU_HARD_SIGMOID, GRU_RESET_BEFORE_HARD_SIGMOID, LSTM_LAYER_NORM, GRU_LAYER_NORM,
    )
}  # fmt: skip

__all__ = ["CELLS", "Cell"]
