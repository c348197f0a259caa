"""A stack of layers that is given one step at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from . import _backend, checks, layers
from .layers import Stack, Weights


def check_one_direction(name: str, bidirectional: bool) -> None:
    if bidirectional:
        raise ValueError(
            f"{name}: a bidirectional layer cannot be given one step at a time, its reverse direction begins at the end"
        )


def decay_of_one_step(name: str, decay, states: int):
    """A `decay` broadcastable to ``(B, H)`` as one broadcastable to ``(1, B, H)``."""
    parts = checks.as_decays(name, decay, states)
    return tuple(part.unsqueeze(0) if isinstance(part, Tensor) and part.dim() == 2 else part for part in parts)


class Stream:
    """A layer with its state, called once for each step: ``y = stream(x)``. Made by ``layer.stream(batch_size)``.

    For inference: no gradients and no dropout. The weights are those that the layer had when the stream was made;
    changes in place are seen.

    Shapes: x ``(B, I)``, y ``(B, P)``.

    Attributes:
        state: as the layer's hx, ``(L, B, P)``, for an LSTM a tuple of it and c ``(L, B, H)``. Can be assigned.
    """

    def __init__(self, stack: Stack, flat_weights: list[Tensor], batch_size: int):
        self._name = name = f"{stack.name}.stream"
        check_one_direction(name, stack.bidirectional)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"{name}: batch_size must be a positive int, got {batch_size!r}")
        self._stack = replace(stack, name=name, training=False, batch_first=False, return_states=False)
        self._flat_weights = [w.detach() for w in flat_weights]
        weights = Weights.of(stack, self._flat_weights)
        self._input_shape = (batch_size, flat_weights[0].size(1))
        widths = (weights.width, *[weights.hidden] * (stack.cell.states - 1))
        self._state_shapes = [(stack.num_layers, batch_size, width) for width in widths]
        self.reset()

    def __repr__(self) -> str:
        return f"{self._name}(batch_size={self._input_shape[0]})"

    @torch.no_grad()
    def __call__(self, x: Tensor, *, decay: Tensor | tuple[Tensor | None, ...] | None = None) -> Tensor:
        """The output of the next step; the state moves on. decay: as in the layer's `step`."""
        if not isinstance(x, Tensor):
            raise checks.InputTypeError(f"{self._name}: input must be a Tensor, got {checks.kind(x)}")
        if x.shape != self._input_shape:
            raise RuntimeError(f"{self._name}: input must have shape {self._input_shape}, got {tuple(x.shape)}")
        stack, weights, x = self._stack, self._flat_weights, x.unsqueeze(0)
        result = None
        if decay is not None:
            decay = decay_of_one_step(self._name, decay, stack.cell.states)
        elif stack.plain:
            result = _backend.quick_call(stack.cell.name, x, self._state, weights, stack.num_layers)
        y, self._state = result or layers.run(stack, x, self._state, weights, decay=decay)
        return y.squeeze(0)

    @property
    def state(self) -> Tensor | tuple[Tensor, ...]:
        return self._state

    @state.setter
    def state(self, hx: Tensor | tuple[Tensor, ...]) -> None:
        states = checks.as_states(self._name, "state", hx, self._stack.cell.state_names)
        checks.check_states(self._name, states, self._state_shapes)
        for name, state in zip(self._stack.cell.state_names, states, strict=True):
            checks.check_alike(self._name, f"state {name}", state, self._flat_weights[0], False, "the weights")
        self._keep([s.detach().clone() for s in states])

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None) -> None:
        """Zero the state, of all rows or of those where `rows`, bool ``(B,)``, is true."""
        new = [self._flat_weights[0].new_zeros(shape) for shape in self._state_shapes]
        if rows is not None:
            rows = checks.as_resets(self._name, rows, self._input_shape[:1], new[0].device, "rows")[:, None]
            old = checks.as_states(self._name, "state", self._state, self._stack.cell.state_names)
            new = [torch.where(rows, zero, s) for zero, s in zip(new, old, strict=True)]
        self._keep(new)

    def _keep(self, states: list[Tensor]) -> None:
        self._state = states[0] if len(states) == 1 else tuple(states)
