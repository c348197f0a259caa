from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..cells import Cell


def weights_of(module: torch.nn.Module, names: Iterable[str]) -> list[Tensor | None]:
    """The weights of a module as they are now, by name."""
    try:  # faster than getattr
        return [module._parameters[name] for name in names]
    except KeyError:  # parametrized, pruned or missing
        return [getattr(module, name) for name in names]


@torch.no_grad()
def set_forget_bias(module: torch.nn.LSTM | torch.nn.LSTMCell, value: float | None) -> None:
    """The forget gate's bias, the sum of two, becomes `value`; None changes nothing."""
    if value is None:
        return
    name = type(module).__name__
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: forget_bias must be a number or None, got {type(value).__name__}")
    if not module.bias:
        raise ValueError(f"{name}: forget_bias={value} needs bias=True")
    for parameter_name, parameter in module.named_parameters():
        if parameter_name.startswith("bias"):
            parameter.chunk(4)[1].fill_(value if parameter_name.startswith("bias_ih") else 0)


@torch.no_grad()
def set_norms(unit: Tensor, cell: Cell) -> None:
    """The unit weights of a cell that normalises, (U*H): gains, named a_*, become 1, biases 0."""
    for name, part in zip(cell.unit_names, unit.chunk(len(cell.unit_names)), strict=True):
        part.fill_(1 if name.startswith("a_") else 0)
