from __future__ import annotations

import torch

from ..cells import CELLS, Cell
from ..functional import lstm_variant
from .sequence import SequenceLayer
from .weights import set_forget_bias


class LSTM(SequenceLayer, torch.nn.LSTM):
    """LSTM: ``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``, with i, f, o sigmoids and g a tanh of
    ``x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh``; with `proj_size` h_t is then multiplied by ``W_hr``.

    A torch.nn.LSTM in its arguments, parameters ``weight_ih_l{k} (4H, I)``, ``weight_hh_l{k} (4H, P)``,
    ``bias_ih_l{k}``, ``bias_hh_l{k} (4H)``, ``weight_hr_l{k} (P, H)``, initialisation and state_dict. `forward`
    takes keyword-only `lengths`, `resets`, `reset_state`, `return_states`, `decay` and `detach_every` as well.

    Args:
        input_size, hidden_size: I and H.
        num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as in torch.nn.LSTM.
        save: keyword-only. What training keeps of the forward: "all"; "states", for the backward to compute the gates
            again; or k, c after every k steps and h, for it to compute the rest again.
        recurrent_dropout: keyword-only. Probability of dropping a unit of h_{t-1} in the product with W_hh, in
            training: one mask for all steps of a row, Gal and Ghahramani 2015, arXiv:1512.05287.
        zoneout: keyword-only. Probability that a unit of the state stays as it was before the step; in eval mode its
            expectation. Krueger et al. 2016, arXiv:1606.01305. A pair for h and c.
        weight_dropout: keyword-only. Probability of dropping a weight of W_hh, in training: one mask for a call, Merity
            et al. 2017, arXiv:1708.02182.
        heads: keyword-only. W_hh is block-diagonal, of so many blocks, and ``weight_hh_l{k} (4H, H/heads)`` holds them
            one below the other: each head sees its own units of h alone, as in FlashRNN (arXiv:2412.07752).
        peephole: keyword-only. The gates see c through one weight for each unit, ``weight_unit_l{k} (3H)``, p_i, p_f
            and p_o (Gers and Schmidhuber 2000): i and f add ``p c_{t-1}`` to what the sigmoid takes, o ``p_o c_t``.
        cell_clip: keyword-only. c_t is limited to [-cell_clip, cell_clip], as in TensorFlow 1's LSTMCell.
        gate_activation: keyword-only. What i, f and o are: "sigmoid"; "hard_sigmoid", ``x/6 + 1/2`` limited to [0, 1],
            torch's and Keras 3's; "hard_sigmoid_0.2", ``0.2 x + 1/2`` limited so, Keras's before 3.
        layer_norm: keyword-only. ``x_t W_ih^T`` and ``h_{t-1} W_hh^T`` are normalised over all gates before the biases
            are added, and c_t before the tanh that makes h_t (Ba et al. 2016, arXiv:1607.06450). The gains of x and h
            for the gates, of c_t, which begin with 1, and the bias of c_t, 0, are ``weight_unit_l{k} (10H)``.
        forget_bias: keyword-only. What the forget gate's bias, the sum of two, is initialised to, as in Jozefowicz et
            al. 2015 (ICML) and Keras's unit_forget_bias, both of which take 1; None: as in torch.nn.

    Shapes: input ``(T, B, I)``, h_0 and h_n ``(num_layers * directions, B, P)``, c_0 and c_n
    ``(num_layers * directions, B, H)``, output ``(T, B, directions * P)``; P is proj_size, or H without one.
    """

    cell: Cell = CELLS["lstm"]
    forget_bias = None
    _variant = ""

    def __init__(
        self,
        *args,
        peephole: bool = False,
        cell_clip: float | None = None,
        gate_activation: str = "sigmoid",
        layer_norm: bool = False,
        forget_bias: float | None = None,
        device=None,
        dtype=None,
        **kwargs,
    ):
        cell = lstm_variant("LSTM", peephole, cell_clip, gate_activation, layer_norm)
        if cell is not LSTM.cell:
            self.cell = cell
            self._variant = ", peephole=True" if peephole else ""
            self._variant += "" if cell_clip is None else f", cell_clip={cell_clip}"
            self._variant += "" if gate_activation == "sigmoid" else f", gate_activation={gate_activation!r}"
            self._variant += ", layer_norm=True" if layer_norm else ""
        self.forget_bias = forget_bias
        super().__init__(*args, device=device, dtype=dtype, **kwargs)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        set_forget_bias(self, self.forget_bias)

    def extra_repr(self) -> str:
        forget_bias = "" if self.forget_bias is None else f", forget_bias={self.forget_bias}"
        return super().extra_repr() + self._variant + forget_bias
