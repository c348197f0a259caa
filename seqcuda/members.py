"""The members of a vmap in one call: as rows of one batch where they share the weights, else as layers of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _backend

# Where the rows of the batch are: in Inputs.tensors() (lengths have no other dimension, packed rows none of their own),
# and in the outputs.
ROWS_IN = (1, 1, 2, 0, None, 1, 1, 2, *(1, 2, 1, 1, 2))
ROWS_OUT = (1, 1, 2, 3, 2)  # y, h_n, c_n, c_all, saved
OUTPUTS = 4  # of them, those that have gradients
BATCH_SIZES = 4  # in Inputs.tensors()


class Fold(NamedTuple):
    """`members` of a vmap as neighbouring rows of one batch."""

    members: int

    def fold(self, t: Tensor | None, member_dim: int | None, rows_dim: int) -> Tensor | None:
        if t is None:
            return None
        if member_dim is None:
            t = t.unsqueeze(rows_dim).expand(*t.shape[:rows_dim], self.members, *t.shape[rows_dim:])
        else:
            t = t.movedim(member_dim, rows_dim)
        return t.flatten(rows_dim, rows_dim + 1)

    def fold_all(self, tensors, member_dims, rows_dims) -> list[Tensor | None]:
        return [self.fold(*each) for each in zip(tensors, member_dims, rows_dims, strict=True)]

    def inputs(self, tensors, member_dims) -> list[Tensor | None]:
        """Of `Sequence`; the weights stay as they are."""
        n = len(ROWS_IN)
        return [*self.fold_all(tensors[:n], member_dims[:n], ROWS_IN), *tensors[n:]]

    def unfold(self, t: Tensor | None, rows_dim: int | None) -> Tensor | None:
        """With the members before the rows, in `rows_dim`."""
        return None if t is None else t.unflatten(rows_dim, (self.members, t.shape[rows_dim] // self.members))


def foldable(tensors, member_dims) -> bool:
    """The members share the weights, and the data is not packed."""
    first_weight = len(ROWS_IN)
    return tensors[BATCH_SIZES] is None and all(dim is None for dim in member_dims[first_weight:])


def are_members(tensors) -> bool:
    """Whether the inputs of `Sequence` are those of several layers in one call: see `Inputs`."""
    return tensors[len(ROWS_IN)].dim() > 2


def stackable(tensors, member_dims) -> bool:
    """The members can be one call, each a layer of its own; those of packed data are packed alike."""
    of_one = tensors[len(ROWS_IN)].dim() - (member_dims[len(ROWS_IN)] is not None)
    return of_one == 2 and member_dims[BATCH_SIZES] is None


def of_members(members: int, tensors, member_dims) -> list[Tensor | None]:
    """`tensors` with the members as their first dimension."""

    def first(t: Tensor | None, dim: int | None) -> Tensor | None:
        if t is None:
            return None
        return t.expand(members, *t.shape) if dim is None else t.movedim(dim, 0)

    return [first(t, dim) for t, dim in zip(tensors, member_dims, strict=True)]


def inputs_of_members(members: int, tensors, member_dims) -> list[Tensor | None]:
    """The same for the inputs of `Sequence`: batch_sizes are of all members."""
    stacked = of_members(members, tensors, member_dims)
    stacked[BATCH_SIZES] = tensors[BATCH_SIZES]
    return stacked


def by_member(function, grads, grad_directions, inputs, directions) -> tuple[Tensor | None, ...]:
    """What `function` gives for each of several layers in one call, stacked."""

    def own(tensors, i: int) -> list[Tensor | None]:
        return [None if t is None else t[i] for t in tensors]

    def own_inputs(tensors, i: int) -> list[Tensor | None]:
        return [*own(tensors[:BATCH_SIZES], i), tensors[BATCH_SIZES], *own(tensors[BATCH_SIZES + 1 :], i)]

    return _stacked(
        function(own(grads, i), own(grad_directions, i), own_inputs(inputs, i), own_inputs(directions, i))
        for i in range(inputs[0].shape[0])
    )


def of_older_vmap(function, tensors) -> tuple[Tensor | None, ...]:
    """`function` of `tensors`, one member after the other where they are of torch's older vmap, to which
    autograd Functions are unknown: what a backward is given under ``is_grads_batched=True``."""
    level = _backend.compiled.older_vmap_level(tensors)
    if level < 0:
        return function(*tensors)
    # Without that vmap the members are the first dimension, of size 1 where a tensor is not of it.
    tensors = [None if t is None else torch._remove_batch_dim(t, level, 1, 0) for t in tensors]
    members = max(t.shape[0] for t in tensors if t is not None)
    each = ([None if t is None else t[i % t.shape[0]] for t in tensors] for i in range(members))
    outputs = _stacked(of_older_vmap(function, own) for own in each)
    return tuple(None if t is None else torch._add_batch_dim(t, 0, level) for t in outputs)


def one_by_one(function, info, in_dims, args):
    """The vmap rule of `function` where its members cannot be one batch."""

    def member(arg, dim, i: int):
        return arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg

    outputs = _stacked(
        function.apply(*(member(arg, dim, i) for arg, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    )
    return outputs, tuple(None if t is None else 0 for t in outputs)


def _stacked(results) -> tuple[Tensor | None, ...]:
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True))
