"""The three cells: torch.nn's classes with another forward."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .weights import set_forget_bias, weights_of

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RNNCell(torch.nn.RNNCell):
    """One step of an Elman RNN, a torch.nn.RNNCell: ``h' = tanh(x W_ih^T + b_ih + h W_hh^T + b_hh)``, or relu.

    Shapes: input ``(B, I)``, hx ``(B, H)`` or None for zeros, result ``(B, H)``; or all without B.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return functional.rnn_cell(input, hx, *weights_of(self, _NAMES), nonlinearity=self.nonlinearity)


class LSTMCell(torch.nn.LSTMCell):
    """One step of an LSTM, a torch.nn.LSTMCell.

    Args:
        input_size, hidden_size, bias, device, dtype: as in torch.nn.LSTMCell.
        forget_bias: keyword-only. What the forget gate's bias, the sum of two, is initialised to; None: as in torch.nn.

    Shapes: input ``(B, I)``, hx = (h, c), each ``(B, H)``, or None for zeros, result (h', c'); or all without B.
    """

    forget_bias = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        forget_bias: float | None = None,
    ):
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        set_forget_bias(self, self.forget_bias)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.forget_bias is None else f", forget_bias={self.forget_bias}")

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return functional.lstm_cell(input, hx, *weights_of(self, _NAMES))


class GRUCell(torch.nn.GRUCell):
    """One step of a GRU, a torch.nn.GRUCell.

    Args:
        input_size, hidden_size, bias, device, dtype: as in torch.nn.GRUCell.
        reset_after: keyword-only. True, as in torch.nn: the reset gate multiplies ``h W_hn^T + b_hn``; False: h.

    Shapes: input ``(B, I)``, hx ``(B, H)`` or None for zeros, result ``(B, H)``; or all without B.
    """

    reset_after = True

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device=None, dtype=None, *, reset_after: bool = True
    ):
        if not isinstance(reset_after, bool):
            raise TypeError(f"reset_after should be of type bool, got: {type(reset_after).__name__}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.reset_after = reset_after

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return functional.gru_cell(input, hx, *weights_of(self, _NAMES), reset_after=self.reset_after)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")
