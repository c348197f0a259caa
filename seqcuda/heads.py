"""Block-diagonal recurrent weights: each head of the units sees its own part of h alone."""

from __future__ import annotations

from torch import Tensor

from .cells import Cell
from .walk import WEIGHTS_PER_DIRECTION


def heads_of(cell: Cell, weights: tuple[Tensor | None, ...]) -> int:
    """How many, as the shapes of the weights of a direction say."""
    w_ih, w_hh, _, _, w_hr, _ = weights[:WEIGHTS_PER_DIRECTION]
    if w_hh is None or w_hr is not None:
        return 1
    return w_ih.shape[0] // cell.gates // w_hh.shape[1]


def for_engines(cell: Cell, weights: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """As the compiled ops take them: with weight_hh whole where the cell normalises, since a norm is over all heads."""
    if not cell.norms or heads_of(cell, weights) == 1:
        return weights
    return with_w_hh(weights, lambda w: dense(w, cell.gates))


def with_w_hh(weights, function) -> tuple[Tensor | None, ...]:
    """`weights` of any number of directions, with every weight_hh that there is put through `function`."""
    return tuple(function(w) if w is not None and i % WEIGHTS_PER_DIRECTION == 1 else w for i, w in enumerate(weights))


def dense(blocks: Tensor, gates: int) -> Tensor:
    """The matrix (G*H, H) that is 0 outside its blocks (G*H, H/heads)."""
    heads = blocks.shape[0] // gates // blocks.shape[1]
    split = blocks.unflatten(0, (gates, heads, -1))  # (G, heads, H/heads, H/heads)
    return split.movedim(1, -1).diag_embed(dim1=1, dim2=3).flatten(3).flatten(0, 2)


def blocks_of(matrix: Tensor, gates: int, heads: int) -> Tensor:
    """The blocks (G*H, H/heads) of a matrix (G*H, H)."""
    split = matrix.unflatten(1, (heads, -1)).unflatten(0, (gates, heads, -1))  # (G, heads, H/heads, heads, H/heads)
    return split.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 2)
