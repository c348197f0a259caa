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
from typing import NamedTuple

import torch
from torch import Tensor

from . import _backend, reference
from .cells import CELLS
from .heads import blocks_of, dense, heads_of
from .walk import WEIGHTS_PER_DIRECTION, Factors, Inputs, Outputs, Walk


def sequence(walk: Walk, inputs: Inputs, computed: tuple[Tensor, ...] | None = None) -> Outputs:
    """Walk one layer over time, differentiably, by the selected backend. Shapes: seqcuda/walk.py.

    Args:
        computed: what `stack` has computed for it.
    """
    engine = _backend.choose(walk.cell.name, inputs.x, _has_tangents(walk, inputs))
    if engine == "reference":
        return reference.sequence(walk, inputs)
    if not _backend.has_heads(inputs.x.device) and heads_of(walk.cell, inputs.weights) > 1:
        inputs = Inputs.from_tensors(_with_w_hh(inputs.tensors(), lambda w: dense(w, walk.cell.gates)))
    tensors = inputs.tensors()
    # Which hide what requires gradients, or has a tangent.
    transformed = torch._C._are_functorch_transforms_active() or _backend.forward_mode()
    differentiable = torch.is_grad_enabled() and (
        transformed or any(t is not None and t.requires_grad for t in tensors)
    )
    exporting = torch.compiler.is_exporting() and walk.save == "all"  # a program asks for that itself: see below
    walk = walk._replace(save=_kept(walk, differentiable and not exporting))
    if (differentiable or transformed) and not torch.compiler.is_compiling():
        outputs = _apply(Sequence, tensors, walk, engine, computed=[] if computed is None else [computed])
    else:  # a compiler sees the op, whose Autograd kernel is `sequence_with_graph`
        outputs = computed or _forward_op(walk, engine, inputs)
    y, h_n, c_n, c_all, saved = outputs
    return Outputs(
        y,
        h_n,
        c_n,
        c_all if walk.return_states else None,
        _gates(walk, inputs, y, saved) if walk.return_gates else None,
    )


def stack(walk: Walk, inputs: Inputs) -> list[tuple[Tensor, ...] | None]:
    """For each of the layers one on another in one direction what `sequence` is to take as computed: where a device
    walks layers at the same time. Elsewhere None.

    Args:
        inputs: as for one layer, with the layers in the place of the directions and the weights of all of them.
    """
    layers = len(inputs.weights) // WEIGHTS_PER_DIRECTION
    whole = heads_of(walk.cell, inputs.weights) == 1
    if torch.compiler.is_compiling() or not (whole and _backend.has_stacks(inputs.x.device)):
        return [None] * layers
    engine = _backend.choose(walk.cell.name, inputs.x)
    if engine == "reference" or torch._C._are_functorch_transforms_active() or _backend.forward_mode():
        return [None] * layers
    given = [t for t in inputs._replace(weights=()).tensors() if t is not None]
    saves, differentiable = [], any(t.requires_grad for t in given)
    for i in range(layers):
        own = inputs.weights[i * WEIGHTS_PER_DIRECTION : (i + 1) * WEIGHTS_PER_DIRECTION]
        differentiable = differentiable or any(w is not None and w.requires_grad for w in own)
        saves.append(_kept(walk, differentiable and torch.is_grad_enabled()))
    with torch.no_grad():  # the graph is made by `sequence`, layer by layer
        outputs = torch.ops.seqcuda.stack.default(
            walk.cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
            inputs.resets, inputs.reset_h, inputs.reset_c, walk.reverse, saves, engine, walk.detach_every,
            walk.cell.options,
        )  # fmt: skip
    return list(zip(*outputs, strict=True))


def _kept(walk: Walk, differentiable: bool) -> str:
    """What the forward keeps."""
    if walk.return_gates:
        return "all"
    if differentiable:
        return walk.save
    return "states" if walk.return_states else "nothing"


def _gates(walk: Walk, inputs: Inputs, y: Tensor, saved: Tensor) -> Tensor:
    """The activated gates (D, ..., G*H) from what fast training saves; a cell that saves nothing has h as its gate."""
    if saved.shape[0] == 0:
        return torch.stack(y.detach().chunk(walk.directions, dim=-1))
    heads = heads_of(walk.cell, inputs.weights)
    of_heads = saved.detach().unflatten(-1, (heads, -1, inputs.weights[0].shape[0] // walk.cell.gates // heads))
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
    return _apply(Sequence, (*tensors, *weights), walk, engine)


# Where the rows of the batch are: in Inputs.tensors() (lengths have no other dimension, packed rows none of their own),
# and in the outputs.
_ROWS_IN = (1, 1, 2, 0, None, 1, 1, 2, *(1, 2, 1, 1, 2))
_ROWS_OUT = (1, 1, 2, 3, 2)  # y, h_n, c_n, c_all, saved
_OUTPUTS = 4  # of them, those that have gradients
_BATCH_SIZES = 4  # in Inputs.tensors()
_NO_GRADS = (None,) * _OUTPUTS


def _spread(there, values) -> tuple:
    """One value for each True of `there`, None for each False."""
    values = iter(values)
    return tuple(next(values) if t else None for t in there)


def _gather(there, values) -> tuple:
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
        computed: the outputs of `Sequence`, where `stack` has computed them. It takes them out: a graph that holds its
            own outputs is never freed.
    """

    walk: Walk
    engine: str
    needs: tuple[bool, ...]
    groups: int
    there: tuple[bool, ...]
    computed: list[tuple[Tensor, ...]]

    def spread(self, tensors) -> tuple:
        return _spread(self.there, tensors)

    def gather(self, tensors) -> tuple:
        return _gather(self.there, tensors)


def _apply(function, tensors, walk: Walk, engine: str, needs: tuple[bool, ...] = (), groups: int = 0, computed=None):
    there = tuple(t is not None for t in tensors)
    return function.apply(_Call(walk, engine, needs, groups, there, computed or []), *_gather(there, tensors))


class _Fold(NamedTuple):
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
        n = len(_ROWS_IN)
        return [*self.fold_all(tensors[:n], member_dims[:n], _ROWS_IN), *tensors[n:]]

    def unfold(self, t: Tensor | None, rows_dim: int | None) -> Tensor | None:
        """With the members before the rows, in `rows_dim`."""
        return None if t is None else t.unflatten(rows_dim, (self.members, t.shape[rows_dim] // self.members))


def _foldable(tensors, member_dims) -> bool:
    """The members share the weights, and the data is not packed."""
    first_weight = len(_ROWS_IN)
    return tensors[_BATCH_SIZES] is None and all(dim is None for dim in member_dims[first_weight:])


def _are_members(tensors) -> bool:
    """Whether the inputs of `Sequence` are those of several layers in one call: see `Inputs`."""
    return tensors[len(_ROWS_IN)].dim() > 2


def _stackable(tensors, member_dims) -> bool:
    """The members can be one call, each a layer of its own; those of packed data are packed alike."""
    of_one = tensors[len(_ROWS_IN)].dim() - (member_dims[len(_ROWS_IN)] is not None)
    return of_one == 2 and member_dims[_BATCH_SIZES] is None


def _of_members(members: int, tensors, member_dims) -> list[Tensor | None]:
    """`tensors` with the members as their first dimension."""

    def first(t: Tensor | None, dim: int | None) -> Tensor | None:
        if t is None:
            return None
        return t.expand(members, *t.shape) if dim is None else t.movedim(dim, 0)

    return [first(t, dim) for t, dim in zip(tensors, member_dims, strict=True)]


def _inputs_of_members(members: int, tensors, member_dims) -> list[Tensor | None]:
    """The same for the inputs of `Sequence`: batch_sizes are of all members."""
    stacked = _of_members(members, tensors, member_dims)
    stacked[_BATCH_SIZES] = tensors[_BATCH_SIZES]
    return stacked


def _by_member(function, grads, grad_directions, inputs, directions) -> tuple[Tensor | None, ...]:
    """What `function` gives for each of several layers in one call, stacked."""

    def own(tensors, i: int) -> list[Tensor | None]:
        return [None if t is None else t[i] for t in tensors]

    def own_inputs(tensors, i: int) -> list[Tensor | None]:
        return [*own(tensors[:_BATCH_SIZES], i), tensors[_BATCH_SIZES], *own(tensors[_BATCH_SIZES + 1 :], i)]

    results = [
        function(own(grads, i), own(grad_directions, i), own_inputs(inputs, i), own_inputs(directions, i))
        for i in range(inputs[0].shape[0])
    ]
    return tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True))


def _one_by_one(function, info, in_dims, args):
    """The vmap rule of `function` where its members cannot be one batch."""

    def member(arg, dim, i: int):
        return arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg

    results = [
        function.apply(*(member(arg, dim, i) for arg, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    outputs = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs, tuple(None if t is None else 0 for t in outputs)


class Sequence(torch.autograd.Function):
    """Outputs: y, h_n, c_n, c_all and, not differentiable, what the engine saved."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor):
        if call.computed:
            return call.computed.pop()
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
        tensors = (*grads[:_OUTPUTS], y, c_all, saved, *call.spread(tensors))
        given = _apply(SequenceBackward, tensors, call.walk, call.engine, needs)
        return None, *call.gather(_spread(needs, given))

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call = ctx.call
        inputs, directions = call.spread(ctx.saved_tensors), call.spread(directions)
        nothing = (False,) * len(inputs)
        return *_tangent(call.walk, 0, nothing, _NO_GRADS, _NO_GRADS, inputs, directions)[:_OUTPUTS], None

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        inputs, dims = call.spread(tensors), call.spread(in_dims[1:])
        if not _stackable(inputs, dims):
            return _one_by_one(Sequence, info, in_dims, (call, *tensors))
        if not _foldable(inputs, dims):
            outputs = _apply(Sequence, _inputs_of_members(info.batch_size, inputs, dims), call.walk, call.engine)
            return outputs, (0,) * len(outputs)
        fold = _Fold(info.batch_size)
        outputs = _apply(Sequence, fold.inputs(inputs, dims), call.walk, call.engine)
        return tuple(map(fold.unfold, outputs, _ROWS_OUT)), _ROWS_OUT


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
        return _gather(call.needs, given.tensors())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, *tensors = inputs
        tensors = ctx.call.spread(tensors)
        kept = (*tensors[:_OUTPUTS], *tensors[7:])
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grad_grads: Tensor | None):
        call, grads, inputs = ctx.call, ctx.saved_tensors[:_OUTPUTS], ctx.saved_tensors[_OUTPUTS:]
        wanted = tuple(map(bool, call.spread(ctx.needs_input_grad[1:])))
        directions = _spread(call.needs, grad_grads)
        result = _tangent(call.walk, call.groups, wanted[7:], grads, _NO_GRADS, inputs, directions)
        if call.groups:  # of weights that all groups share
            first, dim = _OUTPUTS + len(_ROWS_IN), int(_are_members(inputs))
            result = (*result[:first], *(None if t is None else t.sum(dim) for t in result[first:]))
        return None, *call.gather((*result[:_OUTPUTS], None, None, None, *result[_OUTPUTS:]))

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call, grads, inputs = ctx.call, ctx.saved_tensors[:_OUTPUTS], ctx.saved_tensors[_OUTPUTS:]
        directions = call.spread(directions)
        grad_directions, directions = directions[:_OUTPUTS], directions[7:]
        if call.groups:
            directions = _of_groups(call.groups, directions, int(_are_members(inputs)))
        result = _tangent(call.walk, call.groups, call.needs, grads, grad_directions, inputs, directions)
        return _gather(call.needs, result[_OUTPUTS:])

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        all_tensors, dims = call.spread(tensors), call.spread(in_dims[1:])
        if not _stackable(all_tensors[7:], dims[7:]):
            return _one_by_one(SequenceBackward, info, in_dims, (call, *tensors))
        if not _foldable(all_tensors[7:], dims[7:]):
            stacked = _of_members(info.batch_size, all_tensors[:7], dims[:7])
            stacked += _inputs_of_members(info.batch_size, all_tensors[7:], dims[7:])
            grads = _apply(SequenceBackward, stacked, call.walk, call.engine, call.needs, call.groups)
            return grads, (0,) * len(grads)
        fold, n = _Fold(info.batch_size), len(_ROWS_IN)
        rows = (*_ROWS_OUT[:_OUTPUTS], _ROWS_OUT[0], *_ROWS_OUT[3:])
        folded = (*fold.fold_all(all_tensors[:7], dims[:7], rows), *fold.inputs(all_tensors[7:], dims[7:]))
        groups = info.batch_size * max(call.groups, 1) if any(call.needs[n:]) else 0
        grads = _apply(SequenceBackward, folded, call.walk, call.engine, call.needs, groups)
        rows = _gather(call.needs[:n], _ROWS_IN)
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
        grads, grad_directions, inputs, directions = _parts(call.spread(tensors))
        cell, heads = call.walk.cell, heads_of(call.walk.cell, inputs[len(_ROWS_IN) :])
        if heads > 1:  # the op knows whole matrices
            inputs, directions = (_with_w_hh(part, lambda w: dense(w, cell.gates)) for part in (inputs, directions))
        inputs = Inputs.from_tensors(inputs)
        y, h_n, c_n, c_all, x, h0, c0, reset_h, reset_c, weights = torch.ops.seqcuda.sequence_tangent.default(
            cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
            inputs.resets, inputs.reset_h, inputs.reset_c, directions, grads, grad_directions, call.walk.reverse,
            call.needs, call.walk.save != "nothing",
        )  # fmt: skip
        gradients = Inputs(x, tuple(weights), h0, c0, None, None, None, reset_h, reset_c).tensors()
        if heads > 1:
            gradients = _with_w_hh(gradients, lambda w: blocks_of(w, cell.gates, heads) if w.dim() == 2 else w)
        return y, h_n, c_n, c_all, *_gather(call.needs, gradients)

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
        return None, *_replaced((None,) * len(ctx.saved_tensors), needed, gradients)

    @staticmethod
    def jvp(ctx, _, *directions: Tensor | None):
        call, moving = ctx.call, [i for i, t in enumerate(directions) if t is not None]
        outputs = _OUTPUTS + sum(call.needs)
        given = [i for i in range(outputs) if i != _OUTPUTS - 1 or call.walk.save != "nothing"]
        function, *values = _second_reference(ctx, moving, given)
        _, tangents = torch.func.jvp(function, tuple(values), tuple(directions[i] for i in moving))
        return tuple(_replaced((None,) * outputs, given, tangents))

    @staticmethod
    def vmap(info, in_dims, call: _Call, *tensors: Tensor):
        n, parts, dims = len(_ROWS_IN), _parts(call.spread(tensors)), _parts(call.spread(in_dims[1:]))
        if not all(map(_foldable, parts[2:], dims[2:])) or any(call.needs[n:]):
            return _one_by_one(SequenceTangent, info, in_dims, (call, *tensors))
        fold, rows = _Fold(info.batch_size), _ROWS_OUT[:_OUTPUTS]
        folded = [t for i in range(2) for t in fold.fold_all(parts[i], dims[i], rows)]
        folded += [t for i in range(2, 4) for t in fold.inputs(parts[i], dims[i])]
        outputs = _apply(SequenceTangent, folded, call.walk, call.engine, call.needs)
        out_dims = (*rows, *_gather(call.needs[:n], _ROWS_IN))
        return tuple(map(fold.unfold, outputs, out_dims)), out_dims


def _with_w_hh(tensors, function) -> list[Tensor | None]:
    """`tensors`, in the order of `Inputs.tensors()`, with every weight_hh put through `function`."""
    result = list(tensors)
    for i in range(len(_ROWS_IN) + 1, len(result), WEIGHTS_PER_DIRECTION):
        result[i] = None if result[i] is None else function(result[i])
    return result


def _parts(tensors):
    """The four parts of the inputs of `SequenceTangent`."""
    middle = (len(tensors) + 2 * _OUTPUTS) // 2
    return (
        tensors[:_OUTPUTS],
        tensors[_OUTPUTS : 2 * _OUTPUTS],
        tensors[2 * _OUTPUTS : middle],
        tensors[middle:],
    )


def _tangent(walk: Walk, groups: int, needs, grads, grad_directions, inputs, directions) -> tuple[Tensor | None, ...]:
    """The tangents of y, h_n, c_n, c_all and of the gradients of all inputs, None where `needs` does not ask for them.
    With groups, directions and gradients of weights have a first dimension."""
    if all(t is None for t in (*grad_directions, *directions)):
        return (None,) * (_OUTPUTS + len(inputs))
    if _are_members(inputs):
        return _by_member(functools.partial(_tangent, walk, groups, needs), grads, grad_directions, inputs, directions)
    if groups > 1 or not _has_tangents(walk, Inputs.from_tensors(inputs)):
        return _tangent_by_reference(walk, groups, needs, (*grads, *grad_directions, *inputs, *directions))
    n = len(_ROWS_IN)
    if groups:
        directions = (*directions[:n], *(None if d is None else d[0] for d in directions[n:]))
    tensors = (*grads, *grad_directions, *inputs, *directions)
    outputs = _apply(SequenceTangent, tensors, walk, "auto", tuple(needs))
    result = (*outputs[:_OUTPUTS], *_spread(needs, outputs[_OUTPUTS:]))
    if groups:
        result = (*result[: _OUTPUTS + n], *(None if t is None else t[None] for t in result[_OUTPUTS + n :]))
    return result


def _has_tangents(walk: Walk, inputs: Inputs) -> bool:
    """Whether the op can: for cells without parameters, where nothing happens to the states between the steps."""
    cell = walk.cell
    plain = cell.recurrent and not cell.unit_names and not cell.options
    between = walk.detach_every or any(factor is not None for factor in inputs.factors)
    return plain and not between and _backend.has_tangents(inputs.x.device)


def _tangent_by_reference(walk: Walk, groups: int, needs, tensors) -> tuple[Tensor | None, ...]:
    grads, grad_directions, inputs, directions = _parts(tensors)
    walk = walk._replace(return_states=True, return_gates=False)
    if groups:
        inputs = _of_groups(groups, inputs)
    wanted = [i for i, need in enumerate(needs) if need]
    grads = [
        torch.zeros_like(d) if g is None and d is not None else g for g, d in zip(grads, grad_directions, strict=True)
    ]
    points, moves = (*grads, *inputs), (*grad_directions, *directions)
    moving = [i for i, move in enumerate(moves) if move is not None]

    def outputs_and_gradients(*values: Tensor):
        moved = _replaced(points, moving, values)
        grads, inputs = moved[:_OUTPUTS], moved[_OUTPUTS:]

        def outputs(*values: Tensor):
            return _reference(walk, groups, Inputs.from_tensors(_replaced(inputs, wanted, values)))[:_OUTPUTS]

        if not wanted:
            return outputs()
        results, pull = torch.func.vjp(outputs, *(inputs[i] for i in wanted))
        pulled = pull(tuple(torch.zeros_like(r) if g is None else g for r, g in zip(results, grads, strict=True)))
        return (*results, *pulled)

    _, tangents = torch.func.jvp(
        outputs_and_gradients, tuple(points[i] for i in moving), tuple(moves[i] for i in moving)
    )
    return tuple(
        _replaced((*tangents[:_OUTPUTS], *(None for _ in inputs)), [_OUTPUTS + i for i in wanted], tangents[_OUTPUTS:])
    )


def _second_reference(ctx, moving: list[int], given: list[int]):
    """The outputs `given` of `SequenceTangent` as a function of its tensors `moving`, by the reference; and those."""
    call, tensors = ctx.call, ctx.saved_tensors

    def function(*values: Tensor):
        all_tensors = call.spread(_replaced(tensors, moving, values))
        results = _tangent_by_reference(call.walk, 0, call.needs, all_tensors)
        results = (*results[:_OUTPUTS], *_gather(call.needs, results[_OUTPUTS:]))
        return tuple(results[i] for i in given)

    return function, *(tensors[i] for i in moving)


def _replaced(tensors, indices: list[int], values) -> list[Tensor | None]:
    result = list(tensors)
    for i, value in zip(indices, values, strict=True):
        result[i] = value
    return result


def _of_groups(groups: int, tensors, dim: int = 0) -> list[Tensor | None]:
    """`tensors`, in the order of `Inputs.tensors()`, with the weights once for each group, in dimension `dim`."""
    n = len(_ROWS_IN)
    return [*tensors[:n], *(None if w is None else torch.stack((w,) * groups, dim) for w in tensors[n:])]


def _reference(walk: Walk, groups: int, inputs: Inputs) -> Outputs:
    """The reference; with groups, of rows of the batch, each with its own weights, which have a first dimension."""
    if not groups:
        return reference.sequence(walk, inputs)
    n, fold = len(_ROWS_IN), _Fold(groups)
    tensors = inputs.tensors()
    rows = [fold.unfold(t, dim) for t, dim in zip(tensors[:n], _ROWS_IN, strict=True)]
    each = []
    for i in range(groups):
        own = [None if t is None else t.select(dim, i) for t, dim in zip(rows, _ROWS_IN, strict=True)]
        own += [None if w is None else w[i] for w in tensors[n:]]
        each.append(reference.sequence(walk, Inputs.from_tensors(own)))
    return Outputs(
        *(
            torch.cat(parts, dim)
            for parts, dim in zip(zip(*each, strict=True), _ROWS_OUT, strict=True)
            if parts[0] is not None
        )
    )


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
