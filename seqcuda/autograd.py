"""The autograd Functions over the op pair, written once for all cells.

`Sequence` calls the op `seqcuda::sequence`; its backward is `SequenceBackward`, a Function of its own that calls
`seqcuda::sequence_backward`. The derivative of both in one direction is `SequenceTangent`, which calls
`seqcuda::sequence_tangent`: what forward mode asks for, and double backward as well. For the gradients are those of one
number, the sum of grad * output, so that their derivatives are a symmetric matrix: its product with a vector from the
left, which a backward gives, is that from the right, a derivative in one direction.

Where that op cannot be, and for what is differentiated once more, the reference goes the same way, to any order.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import compress

import torch
from torch import Tensor

from . import _backend, reference, transforms
from .cells import CELLS
from .derivatives import of_groups, parts_of, replaced, tangent_by_reference
from .heads import blocks_of, dense, for_engines, heads_of, with_w_hh
from .members import (
    OUTPUTS,
    ROWS_IN,
    ROWS_OUT,
    Fold,
    are_members,
    by_member,
    foldable,
    inputs_of_members,
    of_members,
    of_older_vmap,
    one_by_one,
    stackable,
)
from .walk import Factors, Inputs, Outputs, Walk


def sequence(walk: Walk, inputs: Inputs) -> Outputs:
    """Walk one layer over time, differentiably, by the selected backend. Shapes: seqcuda/walk.py."""
    engine = _backend.choose(walk.cell.name, inputs.x, _has_tangents(walk, inputs))
    if engine == "reference":
        return reference.sequence(walk, inputs)
    inputs = inputs._replace(weights=for_engines(walk.cell, inputs.weights))
    tensors = inputs.tensors()
    forward_mode = _backend.forward_mode()
    transformed = torch._C._are_functorch_transforms_active() or forward_mode
    differentiable = torch.is_grad_enabled() and (forward_mode or transforms.want_gradients(tensors))
    exporting = torch.compiler.is_exporting() and walk.save == "all"  # a program asks for that itself: see below
    walk = walk._replace(save=kept_by(walk, differentiable and not exporting))
    if (differentiable or transformed) and not torch.compiler.is_compiling():
        outputs = apply(Sequence, tensors, walk, engine)
    else:  # a compiler sees the op, whose Autograd kernel is `sequence_with_graph`
        outputs = _forward_op(walk, engine, inputs)
    return outputs_of(walk, inputs.weights, *outputs)


def kept_by(walk: Walk, differentiable: bool) -> str:
    """What the forward keeps."""
    if walk.return_gates:
        return "all"
    if differentiable and (walk.keeps_states or not walk.return_states):
        return walk.save
    return "states" if walk.return_states else "nothing"


def outputs_of(walk: Walk, weights, y: Tensor, h_n: Tensor, c_n: Tensor, c_all: Tensor, saved: Tensor) -> Outputs:
    """From those of the op, for which more is kept than was asked for."""
    gates = _gates(walk, weights, y, saved) if walk.return_gates else None
    return Outputs(y, h_n, c_n, c_all if walk.return_states else None, gates)


def _gates(walk: Walk, weights, y: Tensor, saved: Tensor) -> Tensor:
    """The activated gates (D, ..., G*H) from what fast training saves; a cell that saves nothing has h as its gate."""
    if saved.shape[0] == 0:
        return torch.stack(y.detach().chunk(walk.directions, dim=-1))
    heads = heads_of(walk.cell, weights)
    of_heads = saved.detach().unflatten(-1, (heads, -1, weights[0].shape[0] // walk.cell.gates // heads))
    return of_heads[..., : walk.cell.gates, :].transpose(-3, -2).flatten(-3)


def _forward_op(walk: Walk, engine: str, inputs: Inputs) -> tuple[Tensor, ...]:
    return torch.ops.seqcuda.sequence.default(
        walk.cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
        inputs.resets, inputs.reset_h, inputs.reset_c, walk.reverse, walk.save, engine, *_additions(walk, inputs),
    )  # fmt: skip


def _additions(walk: Walk, inputs: Inputs) -> tuple:
    """The last arguments of both ops, which have defaults: left out where there is nothing to say."""
    given = any(factor is not None for factor in inputs.factors)
    all_of_them = list(inputs.factors) if given else None, walk.detach_every, walk.cell.options
    return all_of_them if any(all_of_them) else ()


def sequence_with_graph(
    cell: str, reverse, save: str, engine: str, detach_every: int, options, weights, *tensors: Tensor | None
):
    """What the op does where gradients are asked of it, and under torch.func: csrc/ops/registration.cpp. An exported
    program, which runs with and without gradients, tells it to save nothing."""
    kind = replace(CELLS[cell], options=tuple(options))
    if save == "nothing" and torch.is_grad_enabled():
        save = "all"
    walk = Walk(kind, tuple(reverse), save, detach_every=detach_every)
    return apply(Sequence, (*tensors, *weights), walk, engine)


_NO_GRADS = (None,) * OUTPUTS


def spread(there, values) -> tuple:
    """One value for each True of `there`, None for each False."""
    found = [None] * len(there)
    for i, value in zip(compress(range(len(there)), there), values, strict=True):
        found[i] = value
    return tuple(found)


def gather(there, values) -> tuple:
    return tuple(value for value, t in zip(values, there, strict=True) if t)


@dataclass(frozen=True, eq=False)
class _Call:
    """What a Function is told beside its tensors, of which it is given those that there are: to torch.func every
    argument has a cost, None and the members of a tuple as well, and this is one.

    Attributes:
        needs: of which inputs of `Sequence` gradients, or tangents of gradients, are wanted; no others are given.
        groups: 0, or into how many groups of neighbours the rows of the batch fall, each with its own gradient of the
            weights, in a first dimension.
        there: which tensors there are.
    """

    walk: Walk
    engine: str
    needs: tuple[bool, ...]
    groups: int
    there: tuple[bool, ...]

    def spread(self, tensors) -> tuple:
        return spread(self.there, tensors)

    def gather(self, tensors) -> tuple:
        return gather(self.there, tensors)


def apply(function, tensors, walk: Walk, engine: str, needs: tuple[bool, ...] = (), groups: int = 0):
    there = tuple(t is not None for t in tensors)
    call = _Call(walk, engine, needs, groups, there)
    return of_older_vmap(functools.partial(transforms.apply, function, call), gather(there, tensors))


class Sequence(torch.autograd.Function):
    """Outputs: y, h_n, c_n, c_all and, not differentiable, what the engine saved."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor):
        return _forward_op(call.walk, call.engine, Inputs.from_tensors(call.spread(tensors)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, *tensors = inputs
        y, _, _, c_all, saved = output
        ctx.save_for_backward(y, c_all, saved, *tensors)
        ctx.save_for_forward(*tensors)
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        call, (y, c_all, saved, *tensors) = ctx.call, ctx.saved_tensors
        needs = tuple(map(bool, call.spread(ctx.needs_input_grad[1:])))
        tensors = (*grads[:OUTPUTS], y, c_all, saved, *call.spread(tensors))
        given = apply(SequenceBackward, tensors, call.walk, call.engine, needs)
        return None, *call.gather(spread(needs, given))

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call = ctx.call
        inputs, directions = call.spread(ctx.saved_tensors), call.spread(directions)
        nothing = (False,) * len(inputs)
        return *_tangent(call.walk, 0, nothing, _NO_GRADS, _NO_GRADS, inputs, directions)[:OUTPUTS], None

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        inputs, dims = call.spread(tensors), call.spread(in_dims[1:])
        if not stackable(inputs, dims):
            return one_by_one(Sequence, info, in_dims, (call, *tensors))
        if not foldable(inputs, dims):
            outputs = apply(Sequence, inputs_of_members(info.batch_size, inputs, dims), call.walk, call.engine)
            return outputs, (0,) * len(outputs)
        fold = Fold(info.batch_size)
        outputs = apply(Sequence, fold.inputs(inputs, dims), call.walk, call.engine)
        return tuple(map(fold.unfold, outputs, ROWS_OUT)), ROWS_OUT


class SequenceBackward(torch.autograd.Function):
    """Inputs: the four gradients, y, c_all, saved, then the inputs of `Sequence`, whose gradients it gives."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor):
        tensors = call.spread(tensors)
        grads, (y, c_all, saved), inputs = tensors[:4], tensors[4:7], Inputs.from_tensors(tensors[7:])
        backward = torch.ops.seqcuda.sequence_backward.default
        x, h0, c0, reset_h, reset_c, decay_h, decay_c, weights = backward(
            call.walk.cell.name, *grads, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths,
            inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c, y, c_all, saved, call.walk.reverse,
            call.engine, call.needs, call.groups, *_additions(call.walk, inputs),
        )  # fmt: skip
        factors = Factors(decay_h, decay_c)
        given = Inputs(x, tuple(weights), h0, c0, None, None, None, reset_h, reset_c, factors)
        return gather(call.needs, given.tensors())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, *tensors = inputs
        tensors = ctx.call.spread(tensors)
        kept = (*tensors[:OUTPUTS], *tensors[7:])
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grad_grads: Tensor | None):
        call, grads, inputs = ctx.call, ctx.saved_tensors[:OUTPUTS], ctx.saved_tensors[OUTPUTS:]
        wanted = tuple(map(bool, call.spread(ctx.needs_input_grad[1:])))
        directions = spread(call.needs, grad_grads)
        result = _tangent(call.walk, call.groups, wanted[7:], grads, _NO_GRADS, inputs, directions)
        if call.groups:  # of weights that all groups share
            first, dim = OUTPUTS + len(ROWS_IN), int(are_members(inputs))
            result = (*result[:first], *(None if t is None else t.sum(dim) for t in result[first:]))
        return None, *call.gather((*result[:OUTPUTS], None, None, None, *result[OUTPUTS:]))

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call, grads, inputs = ctx.call, ctx.saved_tensors[:OUTPUTS], ctx.saved_tensors[OUTPUTS:]
        directions = call.spread(directions)
        grad_directions, directions = directions[:OUTPUTS], directions[7:]
        if call.groups:
            directions = of_groups(call.groups, directions, int(are_members(inputs)))
        result = _tangent(call.walk, call.groups, call.needs, grads, grad_directions, inputs, directions)
        return gather(call.needs, result[OUTPUTS:])

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        all_tensors, dims = call.spread(tensors), call.spread(in_dims[1:])
        if not stackable(all_tensors[7:], dims[7:]):
            return one_by_one(SequenceBackward, info, in_dims, (call, *tensors))
        if not foldable(all_tensors[7:], dims[7:]):
            stacked = of_members(info.batch_size, all_tensors[:7], dims[:7])
            stacked += inputs_of_members(info.batch_size, all_tensors[7:], dims[7:])
            grads = apply(SequenceBackward, stacked, call.walk, call.engine, call.needs, call.groups)
            return grads, (0,) * len(grads)
        fold, n = Fold(info.batch_size), len(ROWS_IN)
        rows = (*ROWS_OUT[:OUTPUTS], ROWS_OUT[0], *ROWS_OUT[3:])
        folded = (*fold.fold_all(all_tensors[:7], dims[:7], rows), *fold.inputs(all_tensors[7:], dims[7:]))
        groups = info.batch_size * max(call.groups, 1) if any(call.needs[n:]) else 0
        grads = apply(SequenceBackward, folded, call.walk, call.engine, call.needs, groups)
        rows = gather(call.needs[:n], ROWS_IN)
        of_rows, of_weights = grads[: len(rows)], grads[len(rows) :]
        if call.groups:
            of_weights = [fold.unfold(g, 0) for g in of_weights]
        return (*map(fold.unfold, of_rows, rows), *of_weights), (*rows, *(0 for _ in of_weights))


class SequenceTangent(torch.autograd.Function):
    """The derivatives of `Sequence` and of its gradients in one direction.

    Inputs: the gradients of y, h_n, c_n and c_all, their directions, the inputs of `Sequence`, their directions.
    Outputs: the tangents of y, h_n, c_n and c_all, then those of the gradients.
    """

    @staticmethod
    def forward(call: _Call, *tensors: Tensor):
        grads, grad_directions, inputs, directions = parts_of(call.spread(tensors))
        cell, heads = call.walk.cell, heads_of(call.walk.cell, inputs[len(ROWS_IN) :])
        if heads > 1:  # the op knows whole matrices
            inputs, directions = (_with_w_hh(part, lambda w: dense(w, cell.gates)) for part in (inputs, directions))
        inputs = Inputs.from_tensors(inputs)
        y, h_n, c_n, c_all, x, h0, c0, reset_h, reset_c, weights = torch.ops.seqcuda.sequence_tangent.default(
            cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
            inputs.resets, inputs.reset_h, inputs.reset_c, directions, grads, grad_directions, call.walk.reverse,
            call.needs, call.walk.keeps_states,
        )  # fmt: skip
        gradients = Inputs(x, tuple(weights), h0, c0, None, None, None, reset_h, reset_c).tensors()
        if heads > 1:
            gradients = _with_w_hh(gradients, lambda w: blocks_of(w, cell.gates, heads) if w.dim() == 2 else w)
        return y, h_n, c_n, c_all, *gather(call.needs, gradients)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        given = [i for i, g in enumerate(grads) if g is not None]
        needed = [i for i, need in enumerate(ctx.needs_input_grad[1:]) if need]
        _, pull = torch.func.vjp(*_second_reference(ctx, needed, given))
        gradients = pull(tuple(grads[i] for i in given))
        return None, *replaced((None,) * len(ctx.saved_tensors), needed, gradients)

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call, moving = ctx.call, [i for i, t in enumerate(directions) if t is not None]
        outputs = OUTPUTS + sum(call.needs)
        given = [i for i in range(outputs) if i != OUTPUTS - 1 or call.walk.keeps_states]
        function, *values = _second_reference(ctx, moving, given)
        _, tangents = torch.func.jvp(function, tuple(values), tuple(directions[i] for i in moving))
        return tuple(replaced((None,) * outputs, given, tangents))

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        n, parts, dims = len(ROWS_IN), parts_of(call.spread(tensors)), parts_of(call.spread(in_dims[1:]))
        if not all(map(foldable, parts[2:], dims[2:])) or any(call.needs[n:]):
            return one_by_one(SequenceTangent, info, in_dims, (call, *tensors))
        fold, rows = Fold(info.batch_size), ROWS_OUT[:OUTPUTS]
        folded = [t for i in range(2) for t in fold.fold_all(parts[i], dims[i], rows)]
        folded += [t for i in range(2, 4) for t in fold.inputs(parts[i], dims[i])]
        outputs = apply(SequenceTangent, folded, call.walk, call.engine, call.needs)
        out_dims = (*rows, *gather(call.needs[:n], ROWS_IN))
        return tuple(map(fold.unfold, outputs, out_dims)), out_dims


def _with_w_hh(tensors, function) -> tuple[Tensor | None, ...]:
    """`tensors`, in the order of `Inputs.tensors()`, with every weight_hh put through `function`."""
    n = len(ROWS_IN)
    return *tensors[:n], *with_w_hh(tensors[n:], function)


def _tangent(walk: Walk, groups: int, needs, grads, grad_directions, inputs, directions) -> tuple[Tensor | None, ...]:
    """The tangents of y, h_n, c_n, c_all and of the gradients of all inputs, None where `needs` does not ask for them.
    With groups, directions and gradients of weights have a first dimension."""
    if all(t is None for t in (*grad_directions, *directions)):
        return (None,) * (OUTPUTS + len(inputs))
    if are_members(inputs):
        return by_member(functools.partial(_tangent, walk, groups, needs), grads, grad_directions, inputs, directions)
    if groups > 1 or not _has_tangents(walk, Inputs.from_tensors(inputs)):
        return tangent_by_reference(walk, groups, needs, (*grads, *grad_directions, *inputs, *directions))
    n = len(ROWS_IN)
    if groups:
        directions = (*directions[:n], *(None if d is None else d[0] for d in directions[n:]))
    tensors = (*grads, *grad_directions, *inputs, *directions)
    outputs = apply(SequenceTangent, tensors, walk, "auto", tuple(needs))
    result = (*outputs[:OUTPUTS], *spread(needs, outputs[OUTPUTS:]))
    if groups:
        result = (*result[: OUTPUTS + n], *(None if t is None else t[None] for t in result[OUTPUTS + n :]))
    return result


def _has_tangents(walk: Walk, inputs: Inputs) -> bool:
    """Whether the op can: for cells without parameters, where nothing happens to the states between the steps."""
    cell = walk.cell
    plain = cell.recurrent and not cell.unit_names and not cell.options
    between = walk.detach_every or any(factor is not None for factor in inputs.factors)
    return plain and not between and _backend.has_tangents(inputs.x.device)


def _second_reference(ctx, moving: list[int], given: list[int]):
    """The outputs `given` of `SequenceTangent` as a function of its tensors `moving`, by the reference; and those."""
    call, tensors = ctx.call, ctx.saved_tensors

    def function(*values: Tensor):
        all_tensors = call.spread(replaced(tensors, moving, values))
        results = tangent_by_reference(call.walk, 0, call.needs, all_tensors)
        results = (*results[:OUTPUTS], *gather(call.needs, results[OUTPUTS:]))
        return tuple(results[i] for i in given)

    return function, *(tensors[i] for i in moving)


def plain_gradients(cell: str, reverse, needs, grads, inputs, results) -> list[Tensor | None]:
    """The gradients of a plain layer, which may be of a vmap, with a graph of their own; for
    csrc/ops/gradient_function.cpp.

    Args:
        needs: of which of `Inputs.tensors()` gradients are wanted.
        grads: of y, h_n and c_n.
        inputs: as `Inputs.tensors()`.
        results: y, c_all and what was saved.
    """
    walk = Walk(CELLS[cell], tuple(reverse))
    given = apply(SequenceBackward, (*grads, None, *results, *inputs), walk, "auto", tuple(needs))
    return list(spread(needs, given))


def plain_tangents(cell: str, reverse, needs, grads, inputs, directions) -> list[Tensor | None]:
    """The tangents of y, h_n and c_n of a plain layer and of its gradients, with a graph of their own; for
    csrc/ops/gradient_function.cpp.

    Args:
        needs: of which of `Inputs.tensors()` the gradients' tangents are wanted.
        grads: of y, h_n and c_n.
        inputs, directions: as `Inputs.tensors()`.
    """
    walk = Walk(CELLS[cell], tuple(reverse), save="nothing")
    y, h_n, c_n, _, *of_gradients = _tangent(walk, 0, needs, (*grads, None), _NO_GRADS, inputs, directions)
    return [y, h_n, c_n, *of_gradients]
