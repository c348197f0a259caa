"""The autograd Function of layers one on another in one direction, where a device walks them at the same time.

`StackedSequence` calls the op `seqcuda::stack`, its backward `seqcuda::stack_backward`. What is to be differentiated
once more, or is of a vmap, goes layer by layer through `autograd.SequenceBackward`, whose x is then an output of
`StackedSequence`: the outputs of all layers are its own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from . import _backend
from .autograd import SequenceBackward, apply, gather, kept_by, outputs_of, spread
from .heads import for_engines
from .members import OUTPUTS, ROWS_IN, of_older_vmap
from .walk import WEIGHTS_PER_DIRECTION, Inputs, Outputs, Walk

LAYERS_IN = {1: 0, 2: 1, 6: 0, 7: 1}  # where the layers are in the states among Inputs.tensors()


def stack(walk: Walk, inputs: Inputs) -> list[Outputs] | None:
    """What `autograd.sequence` gives for each of the layers one on another in one direction, where a device walks them
    at the same time. Elsewhere None.

    Args:
        inputs: as for one layer, with the layers in the place of the directions and the weights of all of them.
    """
    if torch.compiler.is_compiling() or not _backend.has_stacks(inputs.x.device):
        return None
    engine = _backend.choose(walk.cell.name, inputs.x)
    if engine == "reference" or _transformed():
        return None
    inputs = inputs._replace(weights=for_engines(walk.cell, inputs.weights))
    tensors, layers = inputs.tensors(), len(inputs.weights) // WEIGHTS_PER_DIRECTION
    first = len(tensors)
    if torch.is_grad_enabled():
        first = next((i for i, t in enumerate(tensors) if t is not None and t.requires_grad), first)
    lowest = max(first - len(ROWS_IN), 0) // WEIGHTS_PER_DIRECTION
    saves = [kept_by(walk, layer >= lowest) for layer in range(layers)]
    there = tuple(t is not None for t in tensors)
    call = _Call(walk, engine, saves, lowest, there)
    if lowest < layers:
        outputs = of_older_vmap(functools.partial(StackedSequence.apply, call), gather(there, tensors))
    else:
        outputs = _forward_op(call, inputs)
    parts = zip(*_by_layer(outputs, layers), strict=True)
    return [outputs_of(walk, _weights_of(inputs, layer, 1), *own) for layer, own in enumerate(parts)]


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or _backend.forward_mode()


@dataclass(frozen=True, eq=False)
class _Call:
    """What `StackedSequence` is told beside its tensors, of which it is given those that there are.

    Attributes:
        saves: what each layer keeps.
        lowest: the lowest layer whose outputs have gradients.
        there: which of `Inputs.tensors()` there are.
    """

    walk: Walk
    engine: str
    saves: list[str]
    lowest: int
    there: tuple[bool, ...]


def _forward_op(call: _Call, inputs: Inputs) -> tuple[Tensor, ...]:
    walk = call.walk
    outputs = torch.ops.seqcuda.stack.default(
        walk.cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
        inputs.resets, inputs.reset_h, inputs.reset_c, walk.reverse, call.saves, call.engine, walk.detach_every,
        walk.cell.options,
    )  # fmt: skip
    return tuple(chain(*outputs))


def _by_layer(tensors, layers: int) -> list:
    """What there is for each of so many layers, part by part."""
    return [tensors[i : i + layers] for i in range(0, len(tensors), layers)]


def _weights_of(inputs: Inputs, first: int, layers: int) -> tuple[Tensor | None, ...]:
    return inputs.weights[first * WEIGHTS_PER_DIRECTION : (first + layers) * WEIGHTS_PER_DIRECTION]


def _inputs_of(inputs: Inputs, x: Tensor, first: int, layers: int) -> Inputs:
    """Those of so many layers of a stack, from the first on, which reads `x`."""
    tensors = list(inputs._replace(x=x, weights=_weights_of(inputs, first, layers)).tensors())
    for i, dim in LAYERS_IN.items():
        if tensors[i] is not None and tensors[i].shape[dim] != layers:
            tensors[i] = tensors[i].narrow(dim, first, layers)
    return Inputs.from_tensors(tuple(tensors))


class StackedSequence(torch.autograd.Function):
    """Outputs: y of all layers, h_n, c_n, c_all and, not differentiable, what the engine saved."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor):
        return _forward_op(call, Inputs.from_tensors(spread(call.there, tensors)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, *tensors = inputs
        first, layers = call.lowest, len(call.saves)
        ctx.call = call
        y, *finals, c_all, saved = _by_layer(output, layers)
        inputs = Inputs.from_tensors(spread(call.there, tensors))
        inputs = _inputs_of(inputs, y[first - 1] if first else inputs.x, first, layers - first)
        ctx.save_for_backward(*y[first:], *c_all[first:], *saved[first:], *inputs.tensors())
        ctx.mark_non_differentiable(*saved, *(t for part in (y, *finals, c_all) for t in part[:first]))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        call, tensors, n = ctx.call, ctx.saved_tensors, len(ROWS_IN)
        first, layers = call.lowest, len(call.saves) - call.lowest
        grads = [part[first:] for part in _by_layer(grads, len(call.saves))[:OUTPUTS]]
        kept, inputs = _by_layer(tensors[: 3 * layers], layers), Inputs.from_tensors(tensors[3 * layers :])
        wanted = tuple(map(bool, spread(call.there, ctx.needs_input_grad[1:])))
        below = first * WEIGHTS_PER_DIRECTION  # weights without gradients
        needs = (wanted[0] and not first, *wanted[1:n], *wanted[n + below :])
        given = (_backward_op if _one_call(grads) else _layer_by_layer)(call, needs, grads, kept, inputs)
        given = (*given[:n], *(None,) * below, *given[n:])
        return None, *gather(call.there, (g if want else None for g, want in zip(given, wanted, strict=True)))


def _one_call(grads) -> bool:
    """Whether the op can: it has no derivatives of its own. It walks from the uppermost layer on."""
    if torch.is_grad_enabled() or _transformed() or all(part[-1] is None for part in grads):
        return False
    return _backend.compiled.older_vmap_level(list(chain(*grads))) < 0


def _backward_op(call: _Call, needs, grads, kept, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """The gradients of `Inputs.tensors()`; those that are not needed are empty."""
    x, h0, c0, reset_h, reset_c, weights = torch.ops.seqcuda.stack_backward.default(
        call.walk.cell.name, *grads, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths,
        inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c, *kept, call.walk.reverse, call.engine,
        needs, call.walk.detach_every, call.walk.cell.options,
    )  # fmt: skip
    return Inputs(x, tuple(weights), h0, c0, None, None, None, reset_h, reset_c).tensors()


def _layer_by_layer(call: _Call, needs, grads, kept, inputs: Inputs) -> tuple[Tensor | None, ...]:
    """The same, differentiably. What no gradient comes to has none, or of states, zeros."""
    n, each, ys = len(ROWS_IN), WEIGHTS_PER_DIRECTION, kept[0]
    of_all = any(needs[:n])
    weights = [needs[i : i + each] for i in range(n, len(needs), each)]
    lowest = next(i for i, own in enumerate(weights) if of_all or any(own))
    states = {i: [] for i in LAYERS_IN if needs[i]}
    of_weights, of_x = [], None
    for i in reversed(range(lowest, len(ys))):
        own = _inputs_of(inputs, ys[i - 1] if i else inputs.x, i, 1)
        from_outputs = [part[i] for part in grads]
        if of_x is not None:
            from_outputs[0] = of_x if from_outputs[0] is None else from_outputs[0] + of_x
        own_needs = (i > lowest or needs[0], *needs[1:n], *weights[i])
        given = (None,) * len(own_needs)
        if any(g is not None for g in from_outputs):
            tensors = (*from_outputs, *(part[i] for part in kept), *own.tensors())
            walk = call.walk._replace(save=call.saves[-1])
            given = spread(own_needs, apply(SequenceBackward, tensors, walk, call.engine, own_needs))
        of_x = given[0]
        of_weights = [*given[n:], *of_weights]
        for k, parts in states.items():
            parts.insert(0, torch.zeros_like(own.tensors()[k]) if given[k] is None else given[k])
    joined = [torch.cat(states[i], LAYERS_IN[i]) if i in states else None for i in range(n)]
    joined[0] = of_x
    return (*joined, *(None,) * (lowest * each), *of_weights)
