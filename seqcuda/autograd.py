"""The autograd Functions over the op pair, written once for all cells.

`Sequence` calls the op `seqcuda::sequence`; its backward is `SequenceBackward`, a Function of its own that calls
`seqcuda::sequence_backward`. The backward of that one is what double backward needs; it goes through the reference,
whose graph is differentiable to any order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import _backend, reference
from .cells import CELLS
from .walk import WEIGHTS_PER_DIRECTION, Factors, Inputs, Outputs, Walk


def sequence(walk: Walk, inputs: Inputs) -> Outputs:
    """Walk one layer over time, differentiably, by the selected backend. Shapes: seqcuda/walk.py."""
    engine = _backend.choose(walk.cell.name, inputs.x)
    if engine == "reference":
        return reference.sequence(walk, inputs)
    tensors = inputs.tensors()
    transformed = torch._C._are_functorch_transforms_active()  # which hide what requires gradients
    differentiable = torch.is_grad_enabled() and (
        transformed or any(t is not None and t.requires_grad for t in tensors)
    )
    exporting = torch.compiler.is_exporting() and walk.save == "all"  # a program asks for that itself: see below
    if walk.return_gates:
        walk = walk._replace(save="all")
    elif not differentiable or exporting:
        walk = walk._replace(save="states" if walk.return_states else "nothing")
    if (differentiable or transformed) and not torch.compiler.is_compiling():
        y, h_n, c_n, c_all, saved = Sequence.apply(walk, engine, *tensors)
    else:  # a compiler sees the op, whose Autograd kernel is `sequence_with_graph`
        y, h_n, c_n, c_all, saved = _forward_op(walk, engine, inputs)
    return Outputs(
        y,
        h_n,
        c_n,
        c_all if walk.return_states else None,
        _gates(walk, inputs, y, saved) if walk.return_gates else None,
    )


def _gates(walk: Walk, inputs: Inputs, y: Tensor, saved: Tensor) -> Tensor:
    """The activated gates (D, ..., G*H) from what fast training saves; a cell that saves nothing has h as its gate."""
    if saved.shape[0] == 0:
        return torch.stack(y.detach().chunk(walk.directions, dim=-1))
    hidden = inputs.weights[1].shape[0] // walk.cell.gates
    return saved[..., : walk.cell.gates * hidden].detach()


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
    """What the op does where gradients are asked of it: csrc/ops/registration.cpp. An exported program, which runs
    with and without gradients, tells it to save nothing."""
    kind, save = replace(CELLS[cell], options=tuple(options)), "all" if save == "nothing" else save
    walk = Walk(kind, tuple(reverse), save, detach_every=detach_every)
    return Sequence.apply(walk, engine, *tensors, *weights)


# Where the rows of the batch are: in Inputs.tensors() (lengths have no other dimension, packed rows none of their own),
# and in the outputs.
_ROWS_IN = (1, 1, 2, 0, None, 1, 1, 2, *(1, 2, 1, 1, 2))
_ROWS_OUT = (1, 1, 2, 3, 2)  # y, h_n, c_n, c_all, saved
_OUTPUTS = 4  # of them, those that have gradients


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

    def unfold(self, t: Tensor | None, rows_dim: int) -> Tensor | None:
        """With the members before the rows, in `rows_dim`."""
        return None if t is None else t.unflatten(rows_dim, (self.members, t.shape[rows_dim] // self.members))


def _foldable(tensors, member_dims) -> bool:
    """The members share the weights, and the data is not packed."""
    first_weight = len(_ROWS_IN)
    return tensors[4] is None and all(dim is None for dim in member_dims[first_weight:])


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
    def forward(walk: Walk, engine: str, *tensors: Tensor | None):
        return _forward_op(walk, engine, Inputs.from_tensors(tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        walk, engine, *tensors = inputs
        y, _, _, c_all, saved = output
        ctx.walk, ctx.engine = walk, engine
        ctx.save_for_backward(y, c_all, saved, *tensors)
        ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_y, grad_h_n, grad_c_n, grad_c_all, _):
        needs = ctx.needs_input_grad[2:]
        grads = (grad_y, grad_h_n, grad_c_n, grad_c_all)
        return None, None, *SequenceBackward.apply(ctx.walk, ctx.engine, needs, 0, *grads, *ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, walk: Walk, engine: str, *tensors: Tensor | None):
        dims = in_dims[2:]
        if not _foldable(tensors, dims):
            return _one_by_one(Sequence, info, in_dims, (walk, engine, *tensors))
        n, fold = len(_ROWS_IN), _Fold(info.batch_size)
        outputs = Sequence.apply(walk, engine, *fold.fold_all(tensors[:n], dims[:n], _ROWS_IN), *tensors[n:])
        return tuple(map(fold.unfold, outputs, _ROWS_OUT)), _ROWS_OUT


class SequenceBackward(torch.autograd.Function):
    """Inputs: the four gradients, y, c_all, saved, then the inputs of `Sequence`, whose gradients it gives.

    groups: 0, or into how many groups of neighbours the rows of the batch fall, each with its own gradient of the
    weights, in a first dimension.
    """

    @staticmethod
    def forward(walk: Walk, engine: str, needs: tuple[bool, ...], groups: int, *tensors: Tensor | None):
        grads, (y, c_all, saved), inputs = tensors[:4], tensors[4:7], Inputs.from_tensors(tensors[7:])
        backward = torch.ops.seqcuda.sequence_backward.default
        grad_x, grad_h0, grad_c0, grad_reset_h, grad_reset_c, grad_decay_h, grad_decay_c, grad_weights = backward(
            walk.cell.name, *grads, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths,
            inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c, y, c_all, saved, walk.reverse,
            engine, needs, groups, *_additions(walk, inputs),
        )  # fmt: skip
        factors = Factors(grad_decay_h, grad_decay_c)
        given = Inputs(
            grad_x, tuple(grad_weights), grad_h0, grad_c0, None, None, None, grad_reset_h, grad_reset_c, factors
        ).tensors()
        return tuple(g if need else None for g, need in zip(given, needs, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.walk, _, ctx.needs, ctx.groups, *tensors = inputs
        ctx.save_for_backward(*tensors[:4], *tensors[7:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grad_grads):
        """Through the reference, whose first gradients `first` gives; to any order, and under any transform."""
        tensors, walk, given = ctx.saved_tensors, ctx.walk._replace(return_gates=False), _OUTPUTS
        wanted = [i for i, (n, gg) in enumerate(zip(ctx.needs, grad_grads, strict=True)) if n and gg is not None]
        out_grads = [i for i in range(given) if tensors[i] is not None]
        needs = ctx.needs_input_grad[4 : 4 + given] + ctx.needs_input_grad[7 + given :]
        targets = [i for i, need in enumerate(needs) if need]
        result = [None] * len(tensors)
        if wanted:

            def first(*values: Tensor):
                all_tensors = _replaced(tensors, targets, values)
                inner, inputs = all_tensors[:given], all_tensors[given:]

                def outputs(*values: Tensor):
                    out = _reference(walk, ctx.groups, Inputs.from_tensors(_replaced(inputs, wanted, values)))
                    return tuple(out[i] for i in out_grads)

                inputs = [
                    t.expand(ctx.groups, *t.shape) if ctx.groups and t is not None and i >= len(_ROWS_IN) else t
                    for i, t in enumerate(inputs)
                ]
                _, pull = torch.func.vjp(outputs, *(inputs[i] for i in wanted))
                return pull(tuple(inner[i] for i in out_grads))

            _, pull = torch.func.vjp(first, *(tensors[i] for i in targets))
            second = pull(tuple(grad_grads[i] for i in wanted))
            for i, gradient in zip(targets, second, strict=True):
                result[i] = gradient
        return None, None, None, None, *result[:given], None, None, None, *result[given:]

    @staticmethod
    def vmap(info, in_dims, walk: Walk, engine: str, needs: tuple[bool, ...], groups: int, *tensors: Tensor | None):
        dims = in_dims[4:]
        n = 7 + len(_ROWS_IN)
        if not _foldable(tensors[7:], dims[7:]):
            return _one_by_one(SequenceBackward, info, in_dims, (walk, engine, needs, groups, *tensors))
        fold = _Fold(info.batch_size)
        rows = (*_ROWS_OUT[:4], _ROWS_OUT[0], *_ROWS_OUT[3:], *_ROWS_IN)
        folded = fold.fold_all(tensors[:n], dims[:n], rows)
        grads = SequenceBackward.apply(walk, engine, needs, info.batch_size * max(groups, 1), *folded, *tensors[n:])
        of_weights = grads[len(_ROWS_IN) :]
        if groups:
            of_weights = [fold.unfold(g, 0) for g in of_weights]
        out_dims = (*_ROWS_IN, *(0 for _ in of_weights))
        grads = (*map(fold.unfold, grads, _ROWS_IN), *of_weights)
        return grads, tuple(None if g is None else dim for g, dim in zip(grads, out_dims, strict=True))


def _replaced(tensors, indices: list[int], values) -> list[Tensor | None]:
    result = list(tensors)
    for i, value in zip(indices, values, strict=True):
        result[i] = value
    return result


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


def layer_backward(cell: str, reverse, needs, tensors) -> list[Tensor | None]:
    """The backward of a layer whose graph was made in C++ (csrc/ops/layer_function.cpp), with a graph of its own.

    Args:
        needs: which of `Inputs.tensors()` want a gradient, which is what is given back.
        tensors: those of `SequenceBackward`.
    """
    return list(SequenceBackward.apply(Walk(CELLS[cell], tuple(reverse)), "auto", tuple(needs), 0, *tensors))


def step_backward(
    cell_name: str, needs: tuple[bool, ...], dh: Tensor | None, dc: Tensor | None, x: Tensor, h: Tensor | None,
    c: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, kept: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The backward of a single step (csrc/ops/step.cpp) with a graph of its own.

    Args:
        needs: which of x, h, c, w_ih, w_hh, b_ih and b_hh want a gradient, which is what is given back.
        kept: what the step kept: the saved values, c and h, ``(saved + states, B, H)`` numbers.
    """
    cell, H = CELLS[cell_name], w_hh.shape[1]
    B, extra = x.numel() // w_ih.shape[1], cell.states - 1

    def as_h(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.reshape(1, B, H)

    def as_c(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.reshape(extra, 1, B, H)

    saved, c_all, y = kept.split([cell.saved * B * H, extra * B * H, B * H])
    saved = saved.view(1 if cell.saved else 0, 1, B, cell.saved * H)
    c_all, y = c_all.view(extra, 1, 1, B, H), y.view(1, B, H)
    others = WEIGHTS_PER_DIRECTION - 4  # which a step does not have
    inputs = Inputs(x.reshape(1, B, -1), (w_ih, w_hh, b_ih, b_hh, *[None] * others), as_h(h), as_c(c))
    need_x, need_h, need_c, *need_weights = needs
    grads = SequenceBackward.apply(
        Walk(cell), "auto", (need_x, need_h, need_c, *[False] * 10, *need_weights, *[False] * others), 0,
        None, as_h(dh), as_c(dc), None, y, c_all, saved, *inputs.tensors(),
    )  # fmt: skip
    given = (x, h, c, w_ih, w_hh, b_ih, b_hh)
    grads = (*grads[:3], *grads[13:17])
    return [None if g is None else g.reshape(t.shape) for g, t in zip(grads, given, strict=True)]
