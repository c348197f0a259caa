"""Independent recurrent weights in one call: an ensemble of layers; the heads of a layer."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.func import functional_call, grad, stack_module_state, vmap

import seqcuda
from seqcuda import bench
from seqcuda.shapes import CELLS, Shape

from ..tables import Column, columns, quartiles
from .section import FEWEST, THREADS, Case, Section, at_most, facts, number, timed

MEMBERS = (3, 16)
ENSEMBLES = (Shape("small", T=30, B=1, I=16, H=16), Shape("middle", T=50, B=16, I=64, H=64))
HEADS = (2, 8)
WHOLE = (Shape("one row", T=50, B=1, I=256, H=512), Shape("many rows", T=20, B=32, I=256, H=512))
MODES = ("inference", "training")


def _cases(measure: Callable, counts, shapes, threads: tuple[int, ...], quick: bool) -> list[Case]:
    """A case for each count, of members or heads."""
    cases = []
    for count in counts[:1] if quick else counts:
        named = [
            bench.Case(shape, cell, mode)
            for shape in shapes[: 1 if quick else None]
            for cell in CELLS
            for mode in MODES
        ]
        several = timed(functools.partial(measure, count), named, threads)
        cases += [replace(case, name=f"{count} x {case.name}") for case in several]
    return cases


def ensemble_cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return _cases(measure_ensemble, MEMBERS, ENSEMBLES, threads, quick)


def head_cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return _cases(measure_heads, HEADS, WHOLE, threads, quick)


def measure_ensemble(members: int, case: bench.Case, seconds: float) -> dict:
    layers = [bench.layer_and_input(case, "seqcuda")[0] for _ in range(members)]
    stacked = {name: p.detach() for name, p in stack_module_state(layers)[0].items()}
    x = torch.randn(members, case.shape.T, case.shape.B, case.shape.I)

    def outputs(parameters, x):
        return functional_call(layers[0], parameters, x)[0]

    def gradients(layer, x):
        return torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))

    if case.mode == "inference":
        together = vmap(outputs)
        in_turn = bench.inference(lambda: [layer(own)[0] for layer, own in zip(layers, x, strict=True)])
    else:
        together = vmap(grad(lambda parameters, x: outputs(parameters, x).square().sum()))

        def in_turn():
            return [gradients(layer, own) for layer, own in zip(layers, x, strict=True)]

    return _row(case, "members", members, seconds, lambda: together(stacked, x), in_turn)


def measure_heads(heads: int, case: bench.Case, seconds: float) -> dict:
    shape = case.shape
    x = torch.randn(shape.T, shape.B, shape.I)

    def prepared(heads: int) -> Callable[[], object]:
        layer = getattr(seqcuda, case.cell.upper())(shape.I, shape.H, heads=heads)
        if case.mode == "inference":
            return bench.inference(lambda: layer(x)[0])
        return bench.training(lambda: layer(x)[0], list(layer.parameters()))

    return _row(case, "heads", heads, seconds, prepared(heads), prepared(1))


def _row(case: bench.Case, what: str, count: int, seconds: float, ours: Callable, plain: Callable) -> dict:
    with_several, without = bench.pair(ours, plain, seconds, fewest=FEWEST)
    row = facts(case)
    return {
        **row,
        "case": f"{count} x {row['case']}",
        what: count,
        "ms": statistics.median(with_several) * 1e3,
        "plain ms": statistics.median(without) * 1e3,
        "share": bench.ratio(with_several, without),
    }


def ensemble_goals(rows: list[dict]):
    for mode in MODES:
        of_mode = [row for row in rows if row["mode"] == mode]
        yield at_most(f"an ensemble in one call, over its members in turn, {mode}", 1, of_mode, "share", mean=True)


def head_goals(rows: list[dict]):
    for mode in MODES:
        of_mode = [row for row in rows if row["mode"] == mode]
        yield at_most(f"heads, over the whole matrix, {mode}", 1, of_mode, "share", mean=True)


def _columns(what: str) -> tuple[Column, ...]:
    return (
        *columns("shape", "sizes", "cell", "mode", what),
        THREADS,
        *(Column(key, lambda r, key=key: bench.milliseconds(r[key]), right=True) for key in ("ms", "plain ms")),
        number("share"),
        Column("quartiles", lambda r: quartiles(r["share"])),
    )


ENSEMBLE = Section(
    "ensembles",
    """The time of a vmap over the stacked weights of several layers, each with its own data, over the time of the
layers called in turn. Training is the gradients of all weights.""",
    ensemble_cases,
    ensemble_goals,
    _columns("members"),
    effort=0.3,
)
OF_HEADS = Section(
    "heads",
    """The time of a layer whose recurrent weights are blocks, one for each head, over the time of the same layer with
the whole matrix. Training is the gradients of all weights.""",
    head_cases,
    head_goals,
    _columns("heads"),
    effort=0.3,
)
