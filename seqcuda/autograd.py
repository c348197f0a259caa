"""The autograd Functions over the op pair, written once for all cells.

`Sequence` calls the op `seqcuda::sequence`; its backward is `SequenceBackward`, a Function of its own that calls
`seqcuda::sequence_backward`. The backward of that one is what double backward needs; it goes through the reference,
whose graph is differentiable to any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _backend, reference
from .cells import CELLS
from .walk import Inputs, Outputs, Walk


def sequence(walk: Walk, inputs: Inputs) -> Outputs:
    """Walk one layer over time, differentiably, by the selected backend. Shapes: seqcuda/walk.py."""
    engine = _backend.choose(walk.cell.name, inputs.x)
    if engine == "reference":
        return reference.sequence(walk, inputs)
    tensors = inputs.tensors()
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    exporting = torch.compiler.is_exporting() and walk.save == "all"  # a program asks for that itself: see below
    if walk.return_gates:
        walk = walk._replace(save="all")
    elif not differentiable or exporting:
        walk = walk._replace(save="states" if walk.return_states else "nothing")
    if differentiable and not torch.compiler.is_compiling():
        y, h_n, c_n, c_all, saved = Sequence.apply(walk, engine, *tensors)
    else:  # a compiler sees the op, whose Autograd kernel is `sequence_with_graph`
        y, h_n, c_n, c_all, saved = _forward_op(walk, engine, inputs)
    return Outputs(
        y,
        h_n,
        c_n,
        c_all if walk.return_states else None,
        _gates(walk, y, saved) if walk.return_gates else None,
    )


def _gates(walk: Walk, y: Tensor, saved: Tensor) -> Tensor:
    """The activated gates (D, ..., G*H) from what fast training saves; a cell that saves nothing has h as its gate."""
    if walk.cell.saved == 0:
        return torch.stack(y.detach().chunk(walk.directions, dim=-1))
    hidden = saved.shape[-1] // walk.cell.saved
    return saved[..., : walk.cell.gates * hidden].detach()


def _forward_op(walk: Walk, engine: str, inputs: Inputs) -> tuple[Tensor, ...]:
    return torch.ops.seqcuda.sequence.default(
        walk.cell.name, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes,
        inputs.resets, inputs.reset_h, inputs.reset_c, walk.reverse, walk.save, engine,
    )  # fmt: skip


def sequence_with_graph(cell: str, reverse, save: str, engine: str, weights, *tensors: Tensor | None):
    """What the op does where gradients are asked of it: csrc/ops/registration.cpp. An exported program, which runs
    with and without gradients, tells it to save nothing."""
    walk = Walk(CELLS[cell], tuple(reverse), "all" if save == "nothing" else save)
    return Sequence.apply(walk, engine, *tensors, *weights)


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
        return None, None, *SequenceBackward.apply(ctx.walk, ctx.engine, needs, *grads, *ctx.saved_tensors)


class SequenceBackward(torch.autograd.Function):
    """Inputs: the four gradients, y, c_all, saved, then the inputs of `Sequence`, whose gradients it gives."""

    @staticmethod
    def forward(walk: Walk, engine: str, needs: tuple[bool, ...], *tensors: Tensor | None):
        grads, (y, c_all, saved), inputs = tensors[:4], tensors[4:7], Inputs.from_tensors(tensors[7:])
        backward = torch.ops.seqcuda.sequence_backward.default
        grad_x, grad_h0, grad_c0, grad_reset_h, grad_reset_c, grad_weights = backward(
            walk.cell.name, *grads, inputs.x, inputs.weights, inputs.h0, inputs.c0, inputs.lengths,
            inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c, y, c_all, saved, walk.reverse,
            engine, needs,
        )  # fmt: skip
        given = Inputs(
            grad_x, tuple(grad_weights), grad_h0, grad_c0, None, None, None, grad_reset_h, grad_reset_c
        ).tensors()
        return tuple(g if need else None for g, need in zip(given, needs, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.walk, _, ctx.needs, *tensors = inputs
        ctx.save_for_backward(*tensors[:4], *tensors[7:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grad_grads):
        inner, inputs = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        needs = ctx.needs_input_grad[3:7] + ctx.needs_input_grad[10:]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Fresh names for the inputs, tied to the caller's graph only where a third derivative may be asked for.
            def alias(t: Tensor | None) -> Tensor | None:
                if t is None or not t.is_floating_point():
                    return t
                t = t.view_as(t) if create_graph else t.detach()
                return t if t.requires_grad else t.requires_grad_()

            inner, inputs = [alias(t) for t in inner], [alias(t) for t in inputs]
            out = reference.sequence(ctx.walk._replace(return_gates=False), Inputs.from_tensors(inputs))
            pairs = zip((out.y, out.h_n, out.c_n, out.c_all), inner, strict=True)
            outs, out_grads = zip(*((o, g) for o, g in pairs if g is not None), strict=True)
            wanted = [(t, gg) for t, n, gg in zip(inputs, ctx.needs, grad_grads, strict=True) if n and gg is not None]
            if not wanted:
                return (None,) * len(ctx.needs_input_grad)
            first = torch.autograd.grad(outs, [t for t, _ in wanted], out_grads, create_graph=True, allow_unused=True)
            # A first gradient that no input has a part in adds nothing.
            connected = [(g, gg) for g, (_, gg) in zip(first, wanted, strict=True) if g is not None and g.requires_grad]
        if not connected:
            return (None,) * len(ctx.needs_input_grad)
        first, weights = zip(*connected, strict=True)
        targets = [t for t, need in zip((*inner, *inputs), needs, strict=True) if need]
        second = iter(torch.autograd.grad(first, targets, weights, create_graph=create_graph, allow_unused=True))
        result = [next(second) if need else None for need in needs]
        return None, None, None, *result[:4], None, None, None, *result[4:]


def step_backward(
    cell_name: str, needs: tuple[bool, ...], dh: Tensor | None, dc: Tensor | None, x: Tensor, h: Tensor | None,
    c: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, kept: Tensor,
) -> list[Tensor | None]:  # fmt: skip
    """The backward of one quick step (csrc/ops/step.cpp) with a graph of its own.

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
    inputs = Inputs(x.reshape(1, B, -1), (w_ih, w_hh, b_ih, b_hh, None), as_h(h), as_c(c))
    need_x, need_h, need_c, *need_weights = needs
    grads = SequenceBackward.apply(
        Walk(cell), "auto", (need_x, need_h, need_c, *[False] * 5, *need_weights, False),
        None, as_h(dh), as_c(dc), None, y, c_all, saved, *inputs.tensors(),
    )  # fmt: skip
    given = (x, h, c, w_ih, w_hh, b_ih, b_hh)
    grads = (*grads[:3], *grads[8:12])
    return [None if g is None else g.reshape(t.shape) for g, t in zip(grads, given, strict=True)]
