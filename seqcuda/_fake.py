"""Shapes and dtypes of the op pair without computing: what torch.compile and torch.export need."""

from __future__ import annotations

import torch
from torch import Tensor

from .cells import CELLS
from .walk import WEIGHTS_PER_DIRECTION, Factors, compute_dtype, hidden_and_width


def register() -> None:
    """Register the fake implementations; the ops must have been loaded."""
    torch.library.register_fake("seqcuda::sequence", _sequence)
    torch.library.register_fake("seqcuda::sequence_backward", _sequence_backward)
    torch.library.register_fake("seqcuda::stack", _stack)
    torch.library.register_fake("seqcuda::stack_backward", _stack_backward)
    torch.library.register_fake("seqcuda::mask", _mask)
    torch.library.register_fake("seqcuda::sequence_tangent", _sequence_tangent)


def _sequence(
    cell, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, reverse, save, engine,
    factors=None, detach_every=0, options=(),
) -> tuple[Tensor, ...]:  # fmt: skip
    kind, directions = CELLS[cell], len(reverse)
    hidden, width = hidden_and_width(kind, weights)
    extra = kind.states - 1
    members = weights[0].shape[:-2]
    leading = x.shape[len(members) : -1]
    if h0 is not None:
        batch = h0.shape[-2]
    elif batch_sizes is None:
        batch = x.shape[-2]
    else:  # the width of packed data is a number inside batch_sizes
        batch = torch.library.get_ctx().new_dynamic_size()
    compute = compute_dtype(x.dtype)

    def empty(*shape: int, dtype: torch.dtype = x.dtype) -> Tensor:
        return x.new_empty((*members, *shape), dtype=dtype)

    marked = extra > 0 and save.isdigit()
    numbers = kind.saved + (kind.states if factors is not None and Factors(*factors).has_keep else 0)
    saved = (directions if save == "all" and numbers else 0, *leading, numbers * hidden)
    if marked:
        steps = leading[0] if batch_sizes is None else batch_sizes.shape[0]
        saved = (directions, torch.sym_max(steps - 1, 0) // int(save), batch, extra * hidden)
    return (
        empty(*leading, directions * width),
        empty(directions, batch, width),
        empty(extra, directions, batch, hidden),
        empty(0 if marked or save == "nothing" else extra, directions, *leading, hidden, dtype=compute),
        empty(*saved, dtype=compute),
    )


def _sequence_backward(
    cell, grad_y, grad_h_n, grad_c_n, grad_c_all, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c,
    y, c_all, saved, reverse, engine, needs, weight_groups=0, factors=None, detach_every=0, options=(),
) -> tuple[Tensor, ...]:  # fmt: skip
    members = weights[0].dim() - 2

    def like(t: Tensor | None, need: bool, *groups: int) -> Tensor:
        if not need or t is None:
            return x.new_empty(0)
        return x.new_empty((*t.shape[:members], *groups, *t.shape[members:]))

    def decay(i: int) -> Tensor:
        need = needs[8 + i] and factors is not None
        return like(factors[i], need) if need else x.new_empty(0)

    groups = (weight_groups,) if weight_groups else ()
    of_weights = needs[len(needs) - WEIGHTS_PER_DIRECTION * len(reverse) :]
    return (
        like(x, needs[0]),
        like(h0, needs[1]),
        like(c0, needs[2]),
        like(reset_h, needs[6]),
        like(reset_c, needs[7]),
        decay(0),
        decay(1),
        [like(w, need, *groups) for w, need in zip(weights, of_weights, strict=True)],
    )


def _stack(
    cell, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, reverse, saves, engine,
    detach_every=0, options=(),
) -> tuple[list[Tensor], ...]:  # fmt: skip
    layers, each = [], WEIGHTS_PER_DIRECTION
    for i, save in enumerate(saves):
        h = None if h0 is None else h0[i : i + 1]
        own = (cell, x, weights[i * each : (i + 1) * each], h, c0, lengths, batch_sizes, resets, reset_h, reset_c)
        layers.append(_sequence(*own, reverse, save, engine))
        x = layers[-1][0]
    return tuple(map(list, zip(*layers, strict=True)))


def _stack_backward(
    cell, grad_y, grad_h_n, grad_c_n, grad_c_all, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c,
    y, c_all, saved, reverse, engine, needs, detach_every=0, options=(),
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = (x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c)
    in_its_place = tuple(reverse) * len(y)  # layers in the place of directions
    gradients = _sequence_backward(cell, *(None,) * 4, *inputs, None, None, None, in_its_place, engine, needs)
    return *gradients[:5], gradients[-1]


def _mask(seed, stream, steps, rows, units, probability, hit, miss, dtype) -> Tensor:
    return seed.new_empty((steps, rows, units), dtype=dtype)


def _sequence_tangent(
    cell, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, directions, grads, grad_directions,
    reverse, needs, return_states,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs = (x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c)
    save = "states" if return_states else "nothing"
    y, h_n, c_n, c_all, saved = _sequence(cell, *inputs, reverse, save, "auto")
    gradients = _sequence_backward(cell, *grads, *inputs, y, c_all, saved, reverse, "auto", needs)
    return y, h_n, c_n, c_all, *gradients[:5], gradients[-1]
