"""Few steps: whether laying the weights out in panels pays, and whether "auto" knows."""

from __future__ import annotations

from collections.abc import Callable

from seqcuda import _backend, bench
from seqcuda.shapes import CELLS, MODES, Shape

from ..run import COLUMNS
from .section import FEWEST, Case, Section, at_least, at_most, facts, number, timed

STEPS, ROWS, HIDDEN = (2, 4, 16), (1, 8), (128, 256, 512, 1024)
OTHER = {"panel": "stepwise", "stepwise": "panel"}


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    sizes = [Shape(f"T={T} B={B} H={H}", T, B, I=H, H=H) for H in HIDDEN for B in ROWS for T in STEPS]
    some = sizes[:1] if quick else sizes
    return timed(
        measure, [bench.Case(shape, cell, mode) for shape in some for cell in CELLS for mode in MODES], threads
    )


def measure(case: bench.Case, seconds: float) -> dict:
    row = {**facts(case), **bench.time_case(case, seconds, fewest=FEWEST)}
    call, (layer, x) = bench.prepare(case, "seqcuda"), bench.layer_and_input(case, "seqcuda")
    weights = [*layer.parameters(), None, None]

    def choose(engine: str) -> None:
        _backend.compiled.remember_engine(layer.cell.name, x, weights, None, [False], engine)

    def by(engine: str) -> Callable[[], object]:
        def call_by_engine() -> object:
            choose(engine)
            return call()

        return call_by_engine

    try:
        ours, other = bench.pair(by(row["engine"]), by(OTHER[row["engine"]]), seconds, fewest=FEWEST)
    finally:
        choose("")
    return {**row, "over the other engine": bench.ratio(ours, other)}


def goals(rows: list[dict]):
    yield at_least("the lowest of all sizes", 1, rows, "ratio")
    yield at_most("the chosen engine over the other one, mean over sizes", 1, rows, "over the other engine", mean=True)


SECTION = Section(
    "short",
    """Sequences of a few steps: torch.nn against seqcuda as in section speed, and the time of the engine that "auto"
chooses over that of the other one, below 1 where the choice was right.""",
    cases,
    goals,
    (*COLUMNS, number("over the other engine")),
    effort=0.2,
)
