"""torch.nn against seqcuda, the named shapes."""

from __future__ import annotations

from dataclasses import replace

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES

from .. import run
from .section import FEWEST, Case, Section, at_least, cut, facts, timed

GOALS = {"inference": {"rnn": 3, "gru": 4, "lstm": 1.6}, "training": {"rnn": 5, "gru": 5, "lstm": 1.6}}
MOST = 12  # GFLOP


def shapes(quick: bool, most: float) -> list[bench.Case]:
    """The named cases that this benchmark takes, long ones with fewer steps."""
    chosen = bench.cases(("single step", "agents") if quick else None)
    return [replace(case, shape=cut(case.shape, 0.05 if quick else most)) for case in chosen]


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return timed(measure, shapes(quick, MOST), threads)


def measure(case: bench.Case, seconds: float) -> dict:
    return {**facts(case), **bench.time_case(case, seconds, fewest=FEWEST)}


def goals(rows: list[dict]):
    for mode in MODES:
        for cell in CELLS:
            some = [r for r in rows if r["mode"] == mode and r["cell"] == cell and r["steps"] > 1]
            yield at_least(f"{mode}, {cell.upper()}, mean over shapes", GOALS[mode][cell], some, "ratio", mean=True)
    yield at_least("the lowest of all shapes", 1, rows, "ratio")


SECTION = Section(
    "speed",
    f"""{run.LEGEND} A mean is the geometric mean over the shapes of more than one step. Shapes with
more than {MOST} GFLOP in an LSTM's forward are timed with fewer steps, which the sizes say.""",
    cases,
    goals,
    run.COLUMNS,
)
