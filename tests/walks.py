"""Problems for one layer, `Walk` and `Inputs`, and how to run one with gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

import seqcuda
from seqcuda import autograd
from seqcuda.cells import CELLS, Cell
from seqcuda.testing import assert_close_to_exact, assert_within_rule
from seqcuda.walk import Factors, Inputs, Walk

# One of those cells that are the same struct of csrc/cells with another activation, for tests that take long.
STRUCTS = sorted(set(CELLS) - {"gru_hard_sigmoid", "gru_reset_before_hard_sigmoid", "indrnn_tanh"})
MIXABLE = [name for name in STRUCTS if CELLS[name].states < 3]  # the states of others are scaled by one of them
MIXES = ((), (), ("decay",), ("drop", "mask"), ("decay", "drop", "keep"))


@dataclass(frozen=True)
class Problem:
    """Sizes and options; `tensors` makes the inputs, the same for the same seed."""

    cell: str
    T: int = 4
    B: int = 3
    I: int = 2
    H: int = 5
    P: int | None = None  # width of a projected h
    reverse: tuple[bool, ...] = (False,)
    ragged: str = "no"  # "no", "lengths", "packed"
    resets: bool = False
    bias: bool = True
    initial: bool = True  # initial and reset states are given
    save: str = "all"
    return_states: bool = True
    factors: tuple[str, ...] = ()  # of "decay", "drop", "keep" (fractions), "mask" (zeros and ones)
    detach_every: int = 0
    options: bool = False  # the cell's are on
    unit: bool = True  # unit weights are given
    heads: int = 1
    seed: int = 0

    def kind(self) -> Cell:
        cell = CELLS[self.cell]
        return replace(cell, options=(0.25,) * len(cell.options)) if self.options else cell

    def walk(self) -> Walk:
        return Walk(self.kind(), self.reverse, self.save, self.return_states, detach_every=self.detach_every)

    def inputs(self, dtype: torch.dtype = torch.float64) -> Inputs:
        generator = torch.Generator().manual_seed(self.seed)
        cell, D, T, B, H = CELLS[self.cell], len(self.reverse), self.T, self.B, self.H
        width = self.P or H

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)

        weights = []
        for _ in self.reverse:
            rows, scale = cell.gates * H, H**-0.5
            weights += [normal(rows, self.I, scale=scale), None]
            if cell.recurrent:
                weights[-1] = normal(rows, width // self.heads, scale=(H / self.heads) ** -0.5)
            weights += [normal(rows), normal(rows) if cell.recurrent else None] if self.bias else [None, None]
            weights.append(normal(width, H, scale=scale) if self.P else None)
            # Normalised products do not shrink: with gains of 1 a walk is chaotic, and its rounding errors grow.
            scale = 0.25 if cell.norms else 1.0
            weights.append(normal(len(cell.unit_names) * H, scale=scale) if cell.unit_names and self.unit else None)
        x, lengths, batch_sizes = normal(T, B, self.I), None, None
        resets = torch.rand(T, B, generator=generator) < 0.3 if self.resets else None
        if self.ragged != "no":
            lengths = torch.randint(0, T + 1, (B,), generator=generator)
        if self.ragged == "packed":
            lengths = lengths.clamp(min=1).sort(descending=True).values
            lengths[0] = T
            alive = torch.arange(T)[:, None] < lengths
            batch_sizes, lengths, x = alive.sum(1), None, x[alive]
            resets = None if resets is None else resets[alive]

        def states() -> tuple[Tensor | None, Tensor | None]:
            h = normal(D, B, width)
            if cell.states == 1:
                return h, None
            others = normal(cell.states - 1, D, B, H)
            others[1:] = others[1:].abs() + 1  # as the n of an sLSTM always is
            return h, others

        h0, c0 = states() if self.initial else (None, None)
        reset_h, reset_c = states() if self.initial and self.resets else (None, None)

        def factor(name: str, of_c: bool) -> Tensor | None:
            if name not in self.factors or (of_c and cell.states == 1):
                return None
            leading = (cell.states - 1, T, B, D, H) if of_c else (T, B, D, width)
            compute = torch.float64 if dtype == torch.float64 else torch.float32
            values = torch.rand(leading, generator=generator).to(torch.bfloat16).to(compute)
            return values.round() if name == "mask" else values

        drop = factor("drop", False)
        if drop is not None:  # the same at all steps
            drop = drop[:1].expand(drop.shape)
        keep = "mask" if "mask" in self.factors else "keep"
        factors = Factors(factor("decay", False), factor("decay", True), drop, factor(keep, False), factor(keep, True))
        return Inputs(x, tuple(weights), h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, factors)

    def additions(self, inputs: Inputs) -> tuple:
        """The last arguments of the bare ops."""
        return (inputs.factors if self.factors else None, self.detach_every, self.kind().options)


def results(problem: Problem, tensors: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """The outputs of a walk that are defined everywhere."""
    inputs = Inputs.from_tensors(tensors)
    out = autograd.sequence(problem.walk(), inputs)
    c_all = out.c_all
    if c_all is not None and inputs.lengths is not None:
        alive = torch.arange(problem.T)[:, None] < inputs.lengths
        c_all = torch.where(alive[..., None], c_all, c_all.new_zeros(()))
    return tuple(t for t in (out.y, out.h_n, out.c_n, c_all) if t is not None)


def differentiable(tensors: tuple[Tensor | None, ...]) -> list[int]:
    return [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point() and i not in MASKS]


FACTORS, MASKS = range(8, 13), range(10, 13)  # in Inputs.tensors(); masks have no gradients


def tensors_for(problem: Problem, dtype: torch.dtype) -> list[Tensor | None]:
    """The inputs at a dtype: the same numbers at every dtype."""
    tensors = list(problem.inputs(torch.float64).tensors())
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    for i, t in enumerate(tensors):
        if t is not None and t.is_floating_point():
            source = t.to(torch.float16 if dtype == torch.float16 else torch.bfloat16)
            tensors[i] = source.to(compute if i in FACTORS else dtype)
    return tensors


def weightings(problem: Problem, outputs) -> list[Tensor]:
    """What the gradients weigh the outputs by, float64."""
    generator = torch.Generator().manual_seed(problem.seed + 1)
    return [torch.randn(o.shape, dtype=torch.float64, generator=generator) for o in outputs]


def outputs_and_gradients(problem: Problem, dtype: torch.dtype, backend: str) -> list[Tensor]:
    """All outputs, and the gradients of a fixed random weighting of them for all inputs, float64 weights throughout."""
    tensors = tensors_for(problem, dtype)
    wanted = differentiable(tensors)
    for i in wanted:
        tensors[i].requires_grad_()
    with seqcuda.backend(backend):
        outputs = results(problem, tuple(tensors))
    weights = weightings(problem, outputs)
    loss = sum((w * o.double()).sum() for w, o in zip(weights, outputs, strict=True))
    gradients = torch.autograd.grad(loss, [tensors[i] for i in wanted], allow_unused=True, materialize_grads=True)
    return [*outputs, *gradients]


def op_outputs_and_gradients(
    problem: Problem, dtype: torch.dtype, ops, device: str = "cpu", engine: str = "auto"
) -> list[Tensor]:
    """The same of a bare op pair, `ops.sequence` and `ops.sequence_backward`, without autograd."""
    tensors = tensors_for(problem, dtype)
    tensors = [t if t is None or i == 4 else t.to(device) for i, t in enumerate(tensors)]  # batch_sizes stay

    def weigh(outputs: list[Tensor]) -> list[Tensor]:
        return [w.to(o) for w, o in zip(weightings(problem, outputs), outputs, strict=True)]

    return [t.cpu() for part in _call(problem, tensors, ops, engine, weigh) for t in part]


def _call(
    problem: Problem, tensors: list[Tensor | None], ops, engine: str, weigh, groups: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Of a bare op pair: the outputs, and the gradients of them weighted by what `weigh` says of them, those of the
    weights by so many groups of rows."""
    inputs = Inputs.from_tensors(tuple(tensors))
    states = (inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c)
    walk = (problem.cell, inputs.x, inputs.weights, *states)
    additions = problem.additions(inputs)
    y, h_n, c_n, c_all, saved = ops.sequence(*walk, problem.reverse, problem.save, engine, *additions)
    outputs = [y, h_n, c_n, *([c_all] if problem.return_states else [])]
    needs = [i in differentiable(tensors) for i in range(len(tensors))]
    grads = (*weigh(outputs), *([] if problem.return_states else [None]))
    *of_inputs, of_weights = ops.sequence_backward(
        problem.cell, *grads, *walk[1:], y, c_all, saved, problem.reverse, engine, needs, groups, *additions
    )
    x, h0, c0, *others = of_inputs
    gradients = (x, h0, c0, None, None, None, *others, None, None, None, *of_weights)
    return outputs, [g for g, need in zip(gradients, needs, strict=True) if need]


def members_and_alone(
    problem: Problem, ops, device: str = "cpu", engine: str = "auto", dtype=torch.float64, groups: int = 0,
    members: int = 3,
) -> list[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """Of each of several layers what it gives in one call of a bare op pair with the others, what alone, and what alone
    in float64. Packed data is packed alike."""
    each = []
    for m in range(members):
        tensors = tensors_for(problem if problem.ragged == "packed" else replace(problem, seed=m), dtype)
        scaled = [t * 0.5**m if t is not None and t.is_floating_point() else t for t in tensors]
        each.append([t if t is None or i == 4 else t.to(device) for i, t in enumerate(scaled)])
    together = [
        parts[0] if parts[0] is None or i == 4 else torch.stack(parts)
        for i, parts in enumerate(zip(*each, strict=True))
    ]

    def run(tensors: list[Tensor | None], engine: str = engine) -> list[Tensor]:
        outputs, gradients = _call(problem, tensors, ops, engine, lambda outputs: [o.cos() for o in outputs], groups)
        return [*outputs, *gradients]

    ours, results = run(together), []
    for m, own in enumerate(each):
        in_float64 = [t.double() if t is not None and t.is_floating_point() else t for t in own]
        alone = joined(run(own))
        exact = alone if dtype == torch.float64 else joined(run(in_float64, "auto"))
        results.append((joined([t[m] for t in ours]), alone, exact))
    return results


def assert_members_as_alone(
    problem: Problem, ops, device: str = "cpu", engine: str = "auto", dtype=torch.float64, groups: int = 0
) -> None:
    for ours, alone, exact in members_and_alone(problem, ops, device, engine, dtype, groups):
        if dtype == torch.float64:
            assert_close_to_exact(ours, alone)
        else:
            assert_within_rule(ours, alone, exact)


def gradients_of_weights(problem: Problem, ops, groups: int, rows: slice = slice(None), device: str = "cpu"):
    """Of the sum of y over some rows of the batch, by groups of rows, from a bare op pair."""
    tensors = [t if t is None or i == 4 else t.to(device) for i, t in enumerate(problem.inputs().tensors())]
    inputs = Inputs.from_tensors(tuple(tensors))
    states = (inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c)
    walk = (inputs.x, inputs.weights, *states)
    additions = problem.additions(inputs)
    y, _, _, c_all, saved = ops.sequence(problem.cell, *walk, problem.reverse, problem.save, "auto", *additions)
    grad_y = torch.zeros_like(y)
    grad_y[..., rows, :] = 1
    needs = [False] * 13 + [w is not None for w in inputs.weights]
    grads = (grad_y, None, None, None)
    gradients = ops.sequence_backward(
        problem.cell, *grads, *walk, y, c_all, saved, problem.reverse, "auto", needs, groups, *additions
    )[-1]
    return [g.cpu() for g, need in zip(gradients, needs[13:], strict=True) if need]


def assert_groups_add_up(problem: Problem, ops, device: str = "cpu") -> None:
    """The gradients of groups of rows add up to the whole, and each is that of its rows alone."""
    whole, B = gradients_of_weights(problem, ops, 0, device=device), problem.B
    for groups in (1, 3, B):
        each = B // groups
        alone = gradients_of_weights(problem, ops, 0, slice(each * (groups - 1), B), device)
        for parts, total, last in zip(
            gradients_of_weights(problem, ops, groups, device=device), whole, alone, strict=True
        ):
            assert parts.shape == (groups, *total.shape)
            assert_close_to_exact(parts.sum(0), total)
            assert_close_to_exact(parts[-1], last)


def assert_results(problem: Problem, dtype: torch.dtype, ours: list[Tensor]) -> None:
    """The rule over all results at once: where an activation is saturated its derivative is a small difference of
    large numbers, so the scale of all results is that of the errors of each. The rival is the reference at the same
    dtype; in float64, where it is the oracle, there is none."""
    exact = outputs_and_gradients(problem, torch.float64, "reference")
    assert [t.shape for t in ours] == [t.shape for t in exact]
    if dtype == torch.float64:
        assert_close_to_exact(joined(ours), joined(exact))
    else:
        rival = outputs_and_gradients(problem, dtype, "reference")
        assert_within_rule(joined(ours), joined(rival), joined(exact))


def joined(results: list[Tensor]) -> Tensor:
    dtype = results[0].dtype
    return torch.cat([t.reshape(-1) for t in results]).to(dtype)


@st.composite
def problems(draw) -> Problem:
    """Sizes around those of tiles and vectors, which they do not divide."""
    cell = draw(st.sampled_from(sorted(CELLS)))
    H = draw(st.sampled_from([1, 3, 5, 8, 16, 17, 33, 50]))
    P = draw(st.integers(1, H - 1)) if cell in ("lstm", "lstm_peephole") and H > 1 and draw(st.booleans()) else None
    return Problem(
        cell,
        T=draw(st.sampled_from([1, 2, 3, 7, 20])),
        B=draw(st.sampled_from([1, 2, 3, 4, 5, 13, 31])),
        I=draw(st.integers(1, 9)),
        H=H,
        P=P,
        reverse=draw(st.sampled_from([(False,), (True,), (False, True)])),
        ragged=draw(st.sampled_from(["no", "lengths", "packed"])),
        resets=draw(st.booleans()),
        bias=draw(st.booleans()),
        initial=draw(st.booleans()),
        save=draw(st.sampled_from(["all", "states"])),
        factors=draw(st.sampled_from(MIXES)) if cell in MIXABLE else (),
        detach_every=draw(st.sampled_from([0, 0, 1, 3])),
        options=draw(st.booleans()) if CELLS[cell].options else False,
        unit=draw(st.booleans()) if cell == "lstm_peephole" else True,
        heads=draw(st.sampled_from([heads for heads in (1, 1, 2, 3, H) if P is None and H % heads == 0] or [1])),
        seed=draw(st.integers(0, 99)),
    )
