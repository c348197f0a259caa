from __future__ import annotations

import torch

from ..cells import CELLS, Cell
from ..functional import rnn_cell_name
from .sequence import SequenceLayer


class RNN(SequenceLayer, torch.nn.RNN):
    """Elman RNN: ``h_t = tanh(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh)``, or relu instead of tanh.

    A torch.nn.RNN in its arguments, parameters ``weight_ih_l{k} (H, I)``, ``weight_hh_l{k} (H, H)``,
    ``bias_ih_l{k}``, ``bias_hh_l{k} (H)``, initialisation and state_dict. `forward` takes keyword-only `lengths`,
    `resets`, `reset_state`, `return_states`, `decay` and `detach_every` as well.

    Args:
        input_size, hidden_size: I and H.
        num_layers, nonlinearity ("tanh" or "relu"), bias, batch_first, dropout, bidirectional, device, dtype: as
            in torch.nn.RNN.
        save: keyword-only. What training keeps of the forward: "all", or "states", for the backward to compute the
            gates again; a number of steps is taken as in seqcuda.LSTM, and keeps what "states" does.
        recurrent_dropout: keyword-only. Probability of dropping a unit of h_{t-1} in the product with W_hh, in
            training: one mask for all steps of a row, Gal and Ghahramani 2015, arXiv:1512.05287.
        zoneout: keyword-only. Probability that a unit of the state stays as it was before the step; in eval mode its
            expectation. Krueger et al. 2016, arXiv:1606.01305.
        weight_dropout: keyword-only. Probability of dropping a weight of W_hh, in training: one mask for a call, Merity
            et al. 2017, arXiv:1708.02182.
        heads: keyword-only. As in seqcuda.LSTM: blocks of W_hh in ``weight_hh_l{k} (H, H/heads)``.

    Shapes: input ``(T, B, I)``, hx and h_n ``(num_layers * directions, B, H)``, output ``(T, B, directions * H)``.
    """

    @property
    def cell(self) -> Cell:
        return CELLS[rnn_cell_name("RNN", self.mode.removeprefix("RNN_").lower())]
