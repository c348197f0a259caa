"""Drop-in replacements for torch.nn's recurrent layers, with fused kernels."""

import warnings

from . import _backend, functional
from ._backend import backend, engines
from .convert import Conversion, convert
from .explain import explain
from .keras import from_keras_weights, to_keras_weights
from .layers import RNNStates
from .modules import GRU, LSTM, RNN, SLSTM, GRUCell, IndRNN, LSTMCell, RNNCell
from .samples import per_sample_gradients
from .stream import Stream
from .tune import Tuning, tune

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Conversion",
    "GRUCell",
    "IndRNN",
    "LSTMCell",
    "RNNCell",
    "RNNStates",
    "Stream",
    "Tuning",
    "__version__",
    "backend",
    "convert",
    "engines",
    "explain",
    "from_keras_weights",
    "functional",
    "per_sample_gradients",
    "to_keras_weights",
    "tune",
]

if _backend.compiled is None:  # said here, where the level above is whoever imports
    warnings.warn(f"seqcuda computes in pure PyTorch: {_backend.why_not_compiled}.", RuntimeWarning, stacklevel=2)
