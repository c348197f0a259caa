"""Problems for one layer, `Walk` and `Inputs`, and how to run one with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import seqcuda
from seqcuda import autograd
from seqcuda.cells import CELLS
from seqcuda.walk import Inputs, Walk


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
    seed: int = 0

    def walk(self) -> Walk:
        return Walk(CELLS[self.cell], self.reverse, self.save, self.return_states)

    def inputs(self, dtype: torch.dtype = torch.float64) -> Inputs:
        generator = torch.Generator().manual_seed(self.seed)
        cell, D, T, B, H = CELLS[self.cell], len(self.reverse), self.T, self.B, self.H
        width = self.P or H

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype)

        weights = []
        for _ in self.reverse:
            rows, scale = cell.gates * H, H**-0.5
            weights += [normal(rows, self.I, scale=scale), normal(rows, width, scale=scale)]
            weights += [normal(rows), normal(rows)] if self.bias else [None, None]
            weights.append(normal(width, H, scale=scale) if self.P else None)
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
            return h, normal(cell.states - 1, D, B, H) if cell.states > 1 else None

        h0, c0 = states() if self.initial else (None, None)
        reset_h, reset_c = states() if self.initial and self.resets else (None, None)
        return Inputs(x, tuple(weights), h0, c0, lengths, batch_sizes, resets, reset_h, reset_c)


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
    return [i for i, t in enumerate(tensors) if t is not None and t.is_floating_point()]


def outputs_and_gradients(problem: Problem, dtype: torch.dtype, backend: str) -> list[Tensor]:
    """All outputs, and the gradients of a fixed random weighting of them for all inputs, float64 weights throughout."""
    tensors = list(problem.inputs(torch.float64).tensors())
    wanted = differentiable(tensors)
    for i in wanted:
        # Half inputs of the float64 run are the same numbers.
        source = tensors[i].to(torch.float16 if dtype == torch.float16 else torch.bfloat16)
        tensors[i] = source.to(dtype).requires_grad_()
    with seqcuda.backend(backend):
        outputs = results(problem, tuple(tensors))
    generator = torch.Generator().manual_seed(problem.seed + 1)
    loss = sum((torch.randn(o.shape, dtype=torch.float64, generator=generator) * o.double()).sum() for o in outputs)
    gradients = torch.autograd.grad(loss, [tensors[i] for i in wanted], allow_unused=True, materialize_grads=True)
    return [*outputs, *gradients]
