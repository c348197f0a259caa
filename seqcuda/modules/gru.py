from __future__ import annotations

import torch

from ..cells import CELLS, Cell
from ..functional import gru_variant
from .sequence import SequenceLayer


class GRU(SequenceLayer, torch.nn.GRU):
    """GRU: ``h_t = (1 - z) n + z h_{t-1}``, with r and z sigmoids of ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh`` and
    n the tanh of the same with the reset gate r before the recurrent part.

    A torch.nn.GRU in its arguments, parameters ``weight_ih_l{k} (3H, I)``, ``weight_hh_l{k} (3H, H)``,
    ``bias_ih_l{k}``, ``bias_hh_l{k} (3H)``, initialisation and state_dict. `forward` takes keyword-only `lengths`,
    `resets`, `reset_state`, `return_states`, `decay` and `detach_every` as well.

    Args:
        input_size, hidden_size: I and H.
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in torch.nn.GRU.
        save: keyword-only. What training keeps of the forward: "all", or "states", for the backward to compute the
            gates again; a number of steps is taken as in seqcuda.LSTM, and keeps what "states" does.
        recurrent_dropout: keyword-only. Probability of dropping a unit of h_{t-1} in the product with W_hh, in
            training: one mask for all steps of a row, Gal and Ghahramani 2015, arXiv:1512.05287.
        zoneout: keyword-only. Probability that a unit of the state stays as it was before the step; in eval mode its
            expectation. Krueger et al. 2016, arXiv:1606.01305.
        weight_dropout: keyword-only. Probability of dropping a weight of W_hh, in training: one mask for a call, Merity
            et al. 2017, arXiv:1708.02182.
        reset_after: keyword-only. True, as in torch.nn: r multiplies ``h W_hn^T + b_hn``. False, as in Cho et al.
            2014: r multiplies h, before the product.
        gate_activation: keyword-only. What r and z are: "sigmoid", "hard_sigmoid" or "hard_sigmoid_0.2", as in
            seqcuda.LSTM.
        heads: keyword-only. As in seqcuda.LSTM: blocks of W_hh in ``weight_hh_l{k} (3H, H/heads)``.
        layer_norm: keyword-only. ``x_t W_ih^T`` and ``h_{t-1} W_hh^T`` are normalised before the biases are added, r
            and z together, n on its own, with gains for the gates of x and of h, ``weight_unit_l{k} (6H)``, which begin
            with 1 (Ba et al. 2016, arXiv:1607.06450).

    Shapes: input ``(T, B, I)``, hx and h_n ``(num_layers * directions, B, H)``, output ``(T, B, directions * H)``.
    """

    cell: Cell = CELLS["gru"]
    reset_after = True
    _variant = ""

    def __init__(
        self,
        *args,
        reset_after: bool = True,
        gate_activation: str = "sigmoid",
        layer_norm: bool = False,
        device=None,
        dtype=None,
        **kwargs,
    ):
        if not isinstance(reset_after, bool):
            raise TypeError(f"reset_after should be of type bool, got: {type(reset_after).__name__}")
        cell = gru_variant("GRU", reset_after, gate_activation, layer_norm)
        if cell is not GRU.cell:
            self.cell = cell
            self._variant = "" if reset_after else ", reset_after=False"
            self._variant += "" if gate_activation == "sigmoid" else f", gate_activation={gate_activation!r}"
            self._variant += ", layer_norm=True" if layer_norm else ""
        self.reset_after = reset_after
        super().__init__(*args, device=device, dtype=dtype, **kwargs)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._variant
