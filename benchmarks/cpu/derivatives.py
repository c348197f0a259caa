"""Derivatives beyond the first: a training step with a gradient penalty; a gradient for each sample of a batch."""

from __future__ import annotations

import functools
import statistics
import timeit
from collections.abc import Callable

import torch
from torch.func import functional_call, grad, vmap

import seqcuda
from seqcuda import bench
from seqcuda.shapes import CELLS, Shape

from ..tables import Column, columns, quartiles
from .section import FEWEST, THREADS, Case, Section, at_most, facts, number, timed
from .speed import shapes

MOST = 1  # GFLOP
STEPS, SAMPLES, HIDDEN = (10, 100), (16, 128), (16, 64, 256)


def penalty_cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    plain = [case for case in shapes(quick, MOST) if case.mode == "training"]
    return timed(measure_penalty, plain, threads)


def sample_cases(threads: tuple[int, ...], quick: bool, measure: Callable | None = None) -> list[Case]:
    sizes = [Shape(f"T={T} B={B} H={H}", T, B, I=H, H=H) for T in STEPS for B in SAMPLES for H in HIDDEN]
    some = sizes[:1] if quick else [shape for shape in sizes if shape.T * shape.B * shape.H**2 <= 1e9]
    cases = [bench.Case(shape, cell, "training") for shape in some for cell in CELLS]
    return timed(measure or measure_samples, cases, threads)


def compiled_cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    cases = sample_cases(threads, quick, measure_compiled)
    return cases[:1] if quick else cases


def of_loss(case: bench.Case, penalty: bool) -> Callable[[], object]:
    """The gradients of a loss; with `penalty` the squared norm of the gradient of x is in it."""
    layer, x = bench.layer_and_input(case, "seqcuda")
    wanted = [x.requires_grad_(), *layer.parameters()]

    def step():
        loss = layer(x)[0].square().mean()
        if penalty:
            (of_x,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = loss + of_x.square().sum()
        return torch.autograd.grad(loss, wanted)

    return step


def by_torch_func(case: bench.Case, per_sample: bool = True, compiled: bool = False) -> Callable[[], object]:
    """The gradients of all weights: of each row of the batch, or of all rows together."""
    layer, x = bench.layer_and_input(case, "seqcuda")
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    gradients = grad(lambda parameters, x: functional_call(layer, parameters, x)[0].square().sum())
    if per_sample:
        gradients = vmap(gradients, (None, 1))
    if compiled:
        torch.compiler.reset()  # torch compiles the same lines only so many times
        gradients = torch.compile(gradients, fullgraph=True)
        gradients(parameters, x)
    return lambda: gradients(parameters, x)


@functools.cache
def torch_func_alone() -> float:
    """Seconds of vmap(grad) of a layer that multiplies one number by another: what torch.func takes for itself."""
    layer, x = torch.nn.Linear(1, 1), torch.randn(1, 16, 1)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    call = vmap(grad(lambda parameters, x: functional_call(layer, parameters, x).square().sum()), (None, 1))
    return min(timeit.repeat(lambda: call(parameters, x), number=20, repeat=FEWEST)) / 20


def of_batch(case: bench.Case) -> Callable[[], object]:
    layer, x = bench.layer_and_input(case, "seqcuda")
    wanted = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(x)[0].square().sum(), wanted)


def measure_penalty(case: bench.Case, seconds: float) -> dict:
    penalised, without_loss = of_loss(case, penalty=True), bench.prepare(case, "seqcuda")
    row = _row(case, seconds / 2, penalised, of_loss(case, penalty=False))
    return {**row, "without a loss": bench.ratio(*bench.pair(penalised, without_loss, seconds / 2, fewest=FEWEST))}


def directly(case: bench.Case) -> Callable[[], object]:
    """The gradients of all weights of each row, from a gradient of the output, as Opacus asks for them."""
    layer, x = bench.layer_and_input(case, "seqcuda")
    grad_output = torch.randn_like(layer(x)[0])
    return lambda: seqcuda.per_sample_gradients(layer, x, grad_output)


def measure_samples(case: bench.Case, seconds: float) -> dict:
    each, together = by_torch_func(case), by_torch_func(case, per_sample=False)
    row = _row(case, seconds / 3, each, of_batch(case))
    return {
        **row,
        "per_sample_gradients": bench.ratio(
            *bench.pair(directly(case), bench.prepare(case, "seqcuda"), seconds / 3, fewest=FEWEST)
        ),
        "over torch.func.grad": bench.ratio(*bench.pair(each, together, seconds / 3, fewest=FEWEST)),
        "torch.func alone": torch_func_alone() * 1e3 / row["plain ms"],
    }


def measure_compiled(case: bench.Case, seconds: float) -> dict:
    return _row(case, seconds, by_torch_func(case, compiled=True), of_batch(case))


def _row(case: bench.Case, seconds: float, ours: Callable, plain: Callable) -> dict:
    with_more, without = bench.pair(ours, plain, seconds, fewest=FEWEST)
    return {
        **facts(case),
        "ms": statistics.median(with_more) * 1e3,
        "plain ms": statistics.median(without) * 1e3,
        "plain steps": bench.ratio(with_more, without),
    }


def penalty_goals(rows: list[dict]):
    yield at_most("gradient penalty, in steps without it, the highest", 4, rows, "plain steps")
    yield at_most("gradient penalty, in steps whose loss costs nothing, the highest", 4, rows, "without a loss")


def sample_goals(rows: list[dict]):
    what = "a gradient for each sample, over that of the batch"
    yield at_most(f"{what}, the highest", 2, rows, "per_sample_gradients")
    yield at_most(f"{what}, by vmap(grad), the highest", 2, rows, "plain steps")
    yield at_most(f"{what} by torch.func.grad, by vmap(grad), the highest", 2, rows, "over torch.func.grad")


def compiled_goals(rows: list[dict]):
    yield at_most(
        "a gradient for each sample, over that of the batch, by torch.compile(vmap(grad)), the highest",
        2,
        rows,
        "plain steps",
    )


_SHOWN = (
    *columns("shape", "sizes", "cell"),
    THREADS,
    *(Column(key, lambda r, key=key: bench.milliseconds(r[key]), right=True) for key in ("ms", "plain ms")),
    number("plain steps"),
    Column("quartiles", lambda r: quartiles(r["plain steps"])),
)
PENALTY = Section(
    "penalty",
    f"""The time of a training step whose loss has the squared norm of the gradient of x in it, which is differentiated
twice, over the time of the same step without it. The loss is the mean of the squared outputs; "without a loss" is over
a step that takes a random gradient of the outputs instead. All give gradients of x and of all weights. Shapes with
more than {MOST} GFLOP in an LSTM's forward are timed with fewer steps.""",
    penalty_cases,
    penalty_goals,
    (*_SHOWN, number("without a loss")),
    effort=0.6,
)
PER_SAMPLE = Section(
    "samples",
    """The gradients of all weights for each row of a batch. In "ms" and "plain steps" by vmap(grad), over a forward and
backward of the batch, which gives their sum; then by seqcuda.per_sample_gradients, over the same; then by vmap(grad)
over torch.func.grad of the batch. "torch.func alone" is the first ratio for a layer that multiplies one number: where
it is above 2, no layer could reach 2 by vmap without torch.compile (next section).""",
    sample_cases,
    sample_goals,
    (*_SHOWN, number("per_sample_gradients"), number("over torch.func.grad"), number("torch.func alone")),
    effort=0.3,
)
COMPILED = Section(
    "compiled",
    """The time of the same vmap(grad) as a program of torch.compile, once compiled, over that of a forward and
backward of the batch, which are not compiled.""",
    compiled_cases,
    compiled_goals,
    _SHOWN,
    effort=0.3,
)
