from __future__ import annotations

from ..cells import CELLS, Cell
from .sequence import SequenceLayer


class SLSTM(SequenceLayer):
    """sLSTM, the scalar LSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517, equations 8 to 17), as FlashRNN has it:
    ``c_t = f c_{t-1} + i z``, ``n_t = f n_{t-1} + i``, ``h_t = o c_t / n_t``, with z a tanh, o and f sigmoids and i the
    exponential of ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh``, i and f scaled by exp(-m_t), which keeps them small.

    Parameters and their initialisation: as of torch.nn.LSTM, the gates in the order i f z o.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            torch.nn.LSTM.
        heads: keyword-only. W_hh is block-diagonal, of so many blocks, and ``weight_hh_l{k} (4H, H/heads)`` holds them
            one below the other.
        save: keyword-only. As in seqcuda.LSTM.

    Arguments and results of a call: as of seqcuda.LSTM, with (h, c, n, m) where that has (h, c). A state of zeros is
    one that keeps nothing.
    """

    cell: Cell = CELLS["slstm"]

    def __init__(self, *args, device=None, dtype=None, **kwargs):
        super().__init__("LSTM", *args, device=device, dtype=dtype, **kwargs)
