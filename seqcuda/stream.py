"""A stack of layers that is given one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from . import autograd, checks
from .layers import Stack, Weights
from .walk import Inputs


def check_one_direction(name: str, bidirectional: bool) -> None:
    if bidirectional:
        raise ValueError(
            f"{name}: a bidirectional layer cannot be given one step at a time, its reverse direction begins at the end"
        )


class Stream:
    """A layer with its state, called once for each step: ``y = stream(x)``. Made by ``layer.stream(batch_size)``.

    For inference: no gradients, no dropout, no checks beyond those of x, in the dtype of the weights. The weights are
    those that the layer had when the stream was made; changes in place are seen.

    Shapes: x ``(B, I)``, y ``(B, P)``.
    """

    def __init__(self, stack: Stack, flat_weights: list[Tensor], batch_size: int):
        name = f"{stack.name}.stream"
        check_one_direction(name, stack.bidirectional)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"{name}: batch_size must be a positive int, got {batch_size!r}")
        weights = Weights.of(stack, [w.detach() for w in flat_weights])
        self._name, self._walk, self._weights = name, stack.walk(), weights.per_layer
        self._like = weights.per_layer[0][0].new_empty(())
        self._input_shape = (batch_size, flat_weights[0].size(1))
        widths = (weights.width, *[weights.hidden] * (stack.cell.states - 1))
        self._state_shapes = [(stack.num_layers, batch_size, width) for width in widths]
        self.reset()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The output of the next step; the state moves on."""
        like = self._like
        if not isinstance(x, Tensor):
            raise checks.InputTypeError(f"{self._name}: input must be a Tensor, got {checks.kind(x)}")
        if x.shape != self._input_shape or x.dtype != like.dtype or x.device != like.device:
            raise RuntimeError(
                f"{self._name}: input must be {like.dtype} of shape {self._input_shape} on {like.device}, "
                f"got {x.dtype} of shape {tuple(x.shape)} on {x.device}"
            )
        x = x.unsqueeze(0)
        for layer, (weights, (h, c)) in enumerate(zip(self._weights, self._states, strict=True)):
            out = autograd.sequence(self._walk, Inputs(x, weights, h, c))
            self._states[layer] = out.h_n, out.c_n if c is not None else None
            x = out.y
        return x.squeeze(0)

    @property
    def state(self) -> Tensor | tuple[Tensor, ...]:
        """The state as the layer's hx: ``(L, B, P)``, for an LSTM with c ``(L, B, H)``; a copy. Can be assigned."""
        h = torch.cat([h for h, _ in self._states])
        if len(self._state_shapes) == 1:
            return h
        return h, *torch.cat([c for _, c in self._states], 1).clone().unbind(0)

    @state.setter
    def state(self, hx) -> None:
        states = checks.as_states(self._name, "state", hx, len(self._state_shapes))
        checks.check_states(self._name, states, self._state_shapes)
        for i, state in enumerate(states):
            checks.check_alike(self._name, f"state {i}", state, self._like, False)
        self._keep(tuple(s.detach().clone() for s in states))

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None) -> None:
        """Zero the state, of all rows or of those where `rows`, bool ``(B,)``, is true."""
        new = tuple(self._like.new_zeros(shape) for shape in self._state_shapes)
        if rows is not None:
            rows = checks.as_resets(self._name, rows, self._input_shape[:1], self._like.device)[:, None]
            state = checks.as_states(self._name, "state", self.state, len(new))
            new = tuple(torch.where(rows, zero, old) for zero, old in zip(new, state, strict=True))
        self._keep(new)

    def _keep(self, states: tuple[Tensor, ...]) -> None:
        h, *others = states
        c = torch.stack(others).split(1, dim=1) if others else [None] * len(h)
        self._states = list(zip(h.split(1), c, strict=True))
