"""The pure-PyTorch walk over a cell's `step`: fallback, oracle and double backward.

It runs on every device and dtype that torch has, is differentiable to any order, works under every torch.func
transform, and never reads a tensor on the host. Equations: seqcuda/cells; shapes: seqcuda/walk.py.

Float16 and bfloat16 data are computed in float32; h is rounded to the data's dtype once per step, as the
compiled engines do. The rounding is transparent to gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells.cell import normalised
from .heads import heads_of
from .walk import (
    WEIGHTS_PER_DIRECTION,
    Factors,
    Inputs,
    Outputs,
    Walk,
    compute_dtype,
    hidden_and_width,
    packed_alive,
    packed_rows,
)


def sequence(walk: Walk, inputs: Inputs) -> Outputs:
    """Walk one layer over time. See `Walk`, `Inputs` and `Outputs` for arguments and shapes."""
    dtype = inputs.x.dtype
    rows = None
    if inputs.batch_sizes is not None:
        inputs, rows = _pad(inputs)
    per_direction = [_direction(walk, inputs, d, reverse) for d, reverse in enumerate(walk.reverse)]
    ys, h_ns, c_ns, c_alls, gates = zip(*per_direction, strict=True)

    y = torch.cat(ys, dim=-1).to(dtype)
    c_all = torch.stack(c_alls, dim=1) if walk.return_states else None  # (S-1, D, T, B, H)
    gate_all = torch.stack(gates).detach() if walk.return_gates else None  # (D, T, B, G*H)
    if rows is not None:
        y = y[rows]
        c_all = None if c_all is None else c_all[(slice(None), slice(None), *rows)]
        gate_all = None if gate_all is None else gate_all[(slice(None), *rows)]
    return Outputs(y, torch.stack(h_ns).to(dtype), torch.stack(c_ns, dim=1).to(dtype), c_all, gate_all)


def _pad(inputs: Inputs) -> tuple[Inputs, tuple[Tensor, Tensor]]:
    """The same walk over padded data with lengths, and where its rows lie."""
    t, b = packed_rows(inputs.batch_sizes, inputs.x.device)
    T, B = len(inputs.batch_sizes), int(inputs.batch_sizes[0])

    def pad(rows: Tensor) -> Tensor:
        return rows.new_zeros((T, B, *rows.shape[1:])).index_put((t, b), rows)

    lengths = packed_alive(inputs.batch_sizes).sum(0).to(inputs.x.device)
    resets = None if inputs.resets is None else pad(inputs.resets)
    tensors = (pad(inputs.x), inputs.h0, inputs.c0, lengths, None, resets, inputs.reset_h, inputs.reset_c)
    return Inputs.from_tensors((*tensors, *inputs.factors, *inputs.weights)), (t, b)


def _direction(walk: Walk, inputs: Inputs, d: int, reverse: bool):
    """One direction over padded data: y, h_n, c_n, c of all steps, gates of all steps, in the type of computation."""
    cell, x = walk.cell, inputs.x
    dtype = x.dtype
    compute = compute_dtype(dtype)
    begin = d * WEIGHTS_PER_DIRECTION
    weights = inputs.weights[begin : begin + WEIGHTS_PER_DIRECTION]
    w_ih, w_hh, b_ih, b_hh, w_hr, w_unit = (None if w is None else w.to(compute) for w in weights)
    T, B = x.shape[:2]
    H, P = hidden_and_width(cell, weights)
    heads = heads_of(cell, weights)
    parameters = ()
    if cell.unit_names or cell.options:
        U = len(cell.unit_names)
        parameters = ((0.0,) * U if w_unit is None else w_unit.chunk(U), cell.options)

    factors = Factors(*(None if f is None else f.select(-2, d).to(compute) for f in inputs.factors))

    def of_states(h: Tensor | None, c: Tensor | None, t: int) -> tuple[Tensor | None, ...]:
        """A factor of every state at step t."""
        return None if h is None else h[t], *([None] * (cell.states - 1) if c is None else c[:, t])

    def recurrent(operand: Tensor, first: int = 0, last: int = cell.gates) -> Tensor:
        rows = slice(first * H, last * H)
        if factors.drop is not None:
            operand = factors.drop[t] * operand
        bias = None if b_hh is None else b_hh[rows]
        if heads == 1:
            return product(operand, w_hh[rows], bias, cell.gates)
        blocks = w_hh[rows].unflatten(0, (-1, heads, H // heads))
        of_blocks = torch.einsum("bhk,ghuk->bghu", operand.unflatten(1, (heads, -1)), blocks).flatten(1)
        return with_norm(of_blocks, bias, cell.gates)

    def product(operand: Tensor, weight: Tensor, bias: Tensor | None, first_gain: int) -> Tensor:
        if not cell.norms:
            return F.linear(operand, weight, bias)
        return with_norm(F.linear(operand, weight), bias, first_gain)

    def with_norm(rows: Tensor, bias: Tensor | None, first_gain: int) -> Tensor:
        """A product, normalised where the cell says so, with its bias."""
        if cell.norms:
            parts = [normalised(rows[..., first * H : last * H]) for first, last in cell.norms]
            rows = torch.cat(parts, -1) * w_unit[first_gain * H :][: cell.gates * H]
        return rows if bias is None else rows + bias

    def start(h: Tensor | None, c: Tensor | None) -> tuple[Tensor, ...]:
        first = x.new_zeros((B, P), dtype=compute) if h is None else h[d].to(compute)
        if c is None:
            return (first, *(x.new_zeros((B, H), dtype=compute) for _ in range(cell.states - 1)))
        return (first, *c[:, d].to(compute).unbind(0))

    state = start(inputs.h0, inputs.c0)
    reset_state = None if inputs.resets is None else start(inputs.reset_h, inputs.reset_c)
    gx = product(x.to(compute), w_ih, b_ih, 0)
    y, extra, gates = [None] * T, [None] * T, [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        alive, entered = None if inputs.lengths is None else inputs.lengths > t, state
        if walk.detach_every and (t + reverse) % walk.detach_every == 0:
            entered = _detached(entered, t, T, inputs.lengths, reverse)
        if reset_state is not None:
            entered = _where(inputs.resets[t], reset_state, entered)
        decays = of_states(factors.decay_h, factors.decay_c, t)
        entered = tuple(s if f is None else f * s for s, f in zip(entered, decays, strict=True))
        new, gates[t] = cell.step(gx[t], recurrent, entered, *parameters)
        h = new[0] if w_hr is None else F.linear(new[0], w_hr)
        keeps = of_states(factors.keep_h, factors.keep_c, t)
        new = (n if k is None else k * s + (1 - k) * n for s, n, k in zip(entered, (h, *new[1:]), keeps, strict=True))
        h, *c = new
        new = (_rounded(h, dtype), *c)
        if alive is None:
            state, y[t] = new, new[0]
        else:
            state = _where(alive, new, state)
            y[t] = torch.where(alive[:, None], new[0], 0)
        extra[t] = state[1:]

    S = cell.states
    y = torch.stack(y) if T else x.new_zeros((0, B, P), dtype=compute)
    c_n = torch.stack(state[1:]) if S > 1 else x.new_zeros((0, B, H), dtype=compute)
    c_all = x.new_zeros((S - 1, T, B, H), dtype=compute)
    if walk.return_states and S > 1 and T:
        c_all = torch.stack([torch.stack(step) for step in extra], dim=1)
    gate_all = x.new_zeros((T, B, cell.gates * H), dtype=compute)
    if walk.return_gates and T:
        gate_all = torch.stack([torch.cat(step, dim=-1) for step in gates])
    return y, state[0], c_n, c_all, gate_all


def _where(rows: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Row by row: new where `rows (B,)` is true, else old."""
    return tuple(torch.where(rows[:, None], a, b) for a, b in zip(new, old, strict=True))


def _detached(state: tuple[Tensor, ...], t: int, T: int, lengths: Tensor | None, reverse: bool) -> tuple[Tensor, ...]:
    """The state that enters step t, without a graph where it comes from another step."""
    before = t + 1 if reverse else t - 1
    if not 0 <= before < T:
        return state
    detached = tuple(s.detach() for s in state)
    return detached if lengths is None else _where(lengths > before, detached, state)


def _rounded(h: Tensor, dtype: torch.dtype) -> Tensor:
    """h rounded to `dtype`, in its own dtype; the identity to gradients."""
    return h if h.dtype == dtype else h + (h.to(dtype).to(h.dtype) - h).detach()
