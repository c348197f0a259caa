"""nn.Modules with torch.nn's names, arguments, shapes, errors and state_dict."""

from .cells import GRUCell, LSTMCell, RNNCell
from .gru import GRU
from .indrnn import IndRNN
from .lstm import LSTM
from .rnn import RNN
from .slstm import SLSTM

__all__ = ["GRU", "LSTM", "RNN", "SLSTM", "GRUCell", "IndRNN", "LSTMCell", "RNNCell"]
