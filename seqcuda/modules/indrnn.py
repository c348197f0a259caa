from __future__ import annotations

import torch

from ..cells import CELLS, Cell
from .sequence import SequenceLayer


class IndRNN(SequenceLayer):
    """IndRNN: ``h_t = max(0, x_t W_ih^T + b_ih + u h_{t-1})``, or tanh; u is one number for each unit, so that a unit
    sees no other unit's past (Li et al. 2018, arXiv:1803.04831, equation 2).

    Parameters ``weight_ih_l{k} (H, I)``, ``bias_ih_l{k} (H)``, initialised as torch.nn.RNN's, and u,
    ``weight_unit_l{k} (H)``, uniform in [0, 1].

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in
            torch.nn.RNN.
        nonlinearity: keyword-only. "relu" or "tanh".
        save: keyword-only. As in seqcuda.RNN.

    Arguments and results of a call: as of seqcuda.RNN.
    """

    def __init__(self, *args, nonlinearity: str = "relu", device=None, dtype=None, **kwargs):
        if nonlinearity not in ("relu", "tanh"):
            raise ValueError(f"IndRNN: nonlinearity must be relu or tanh, got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__("RNN_RELU", *args, device=device, dtype=dtype, **kwargs)

    @property
    def cell(self) -> Cell:
        return CELLS[f"indrnn_{self.nonlinearity}"]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith("weight_unit"):
                torch.nn.init.uniform_(parameter)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "relu" else f", nonlinearity={self.nonlinearity!r}")
