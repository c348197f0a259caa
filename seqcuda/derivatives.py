"""The reference in the place of the compiled derivatives: tangents of a walk and of its gradients, to any order."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .members import OUTPUTS, ROWS_IN, ROWS_OUT, Fold
from .walk import Inputs, Outputs, Walk


def tangent_by_reference(walk: Walk, groups: int, needs, tensors) -> tuple[Tensor | None, ...]:
    grads, grad_directions, inputs, directions = parts_of(tensors)
    walk = walk._replace(return_states=True, return_gates=False)
    if groups:
        inputs = of_groups(groups, inputs)
    wanted = [i for i, need in enumerate(needs) if need]
    grads = [
        torch.zeros_like(d) if g is None and d is not None else g for g, d in zip(grads, grad_directions, strict=True)
    ]
    points, moves = (*grads, *inputs), (*grad_directions, *directions)
    moving = [i for i, move in enumerate(moves) if move is not None]

    def outputs_and_gradients(*values: Tensor):
        moved = replaced(points, moving, values)
        grads, inputs = moved[:OUTPUTS], moved[OUTPUTS:]

        def outputs(*values: Tensor):
            return by_reference(walk, groups, Inputs.from_tensors(replaced(inputs, wanted, values)))[:OUTPUTS]

        if not wanted:
            return outputs()
        results, pull = torch.func.vjp(outputs, *(inputs[i] for i in wanted))
        pulled = pull(tuple(torch.zeros_like(r) if g is None else g for r, g in zip(results, grads, strict=True)))
        return (*results, *pulled)

    _, tangents = torch.func.jvp(
        outputs_and_gradients, tuple(points[i] for i in moving), tuple(moves[i] for i in moving)
    )
    return tuple(
        replaced((*tangents[:OUTPUTS], *(None for _ in inputs)), [OUTPUTS + i for i in wanted], tangents[OUTPUTS:])
    )


def parts_of(tensors):
    """The four parts of the inputs of `SequenceTangent`."""
    middle = (len(tensors) + 2 * OUTPUTS) // 2
    return (
        tensors[:OUTPUTS],
        tensors[OUTPUTS : 2 * OUTPUTS],
        tensors[2 * OUTPUTS : middle],
        tensors[middle:],
    )


def replaced(tensors, indices: list[int], values) -> list[Tensor | None]:
    result = list(tensors)
    for i, value in zip(indices, values, strict=True):
        result[i] = value
    return result


def of_groups(groups: int, tensors, dim: int = 0) -> list[Tensor | None]:
    """`tensors`, in the order of `Inputs.tensors()`, with the weights once for each group, in dimension `dim`."""
    n = len(ROWS_IN)
    return [*tensors[:n], *(None if w is None else torch.stack((w,) * groups, dim) for w in tensors[n:])]


def by_reference(walk: Walk, groups: int, inputs: Inputs) -> Outputs:
    """The reference; with groups, of rows of the batch, each with its own weights, which have a first dimension."""
    if not groups:
        return reference.sequence(walk, inputs)
    n, fold = len(ROWS_IN), Fold(groups)
    tensors = inputs.tensors()
    rows = [fold.unfold(t, dim) for t, dim in zip(tensors[:n], ROWS_IN, strict=True)]
    each = []
    for i in range(groups):
        own = [None if t is None else t.select(dim, i) for t, dim in zip(rows, ROWS_IN, strict=True)]
        own += [None if w is None else w[i] for w in tensors[n:]]
        each.append(reference.sequence(walk, Inputs.from_tensors(own)))
    return Outputs(
        *(
            torch.cat(parts, dim)
            for parts, dim in zip(zip(*each, strict=True), ROWS_OUT, strict=True)
            if parts[0] is not None
        )
    )
