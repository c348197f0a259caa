"""torch.nn against seqcuda, the named shapes; and against the products of a layer alone."""

from __future__ import annotations

import timeit
from dataclasses import replace

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES

from .. import run
from ..goals import Goal, geometric_mean, plural
from ..tables import Column
from .large import SQUARE, products, rate, square_product
from .section import FEWEST, Case, Section, at_least, cut, facts, timed

GOALS = {"inference": {"rnn": 3, "gru": 4, "lstm": 1.6}, "training": {"rnn": 5, "gru": 5, "lstm": 1.6}}
MOST = 12  # GFLOP


def shapes(quick: bool, most: float) -> list[bench.Case]:
    """The named cases that this benchmark takes, long ones with fewer steps."""
    chosen = bench.cases(("single step", "agents") if quick else None)
    return [replace(case, shape=cut(case.shape, 0.05 if quick else most)) for case in chosen]


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return timed(measure, shapes(quick, MOST), threads, 256 if quick else SQUARE)


def measure(case: bench.Case, square: int, seconds: float) -> dict:
    product = min(timeit.repeat(square_product(square), number=1, repeat=FEWEST))
    row = {**facts(case), **bench.time_case(case, seconds, fewest=FEWEST)}
    return {**row, "products alone": row["torch ms"] * 1e-3 * rate(square, product) / products(case)}


def with_bound(goal: Goal, rows: list[dict]) -> Goal:
    """The goal of a mean, and beside what was measured what the products alone would give."""

    def also(label: str, figure: float) -> tuple[float, str]:
        of_label = [row for row in rows if plural(row["threads"], "thread") == label]
        return figure, f"products alone: {geometric_mean(of_label, 'products alone')[0]:.2f}"

    return replace(goal, measured={label: also(label, figure) for label, (figure, _) in goal.measured.items()})


def goals(rows: list[dict]):
    for mode in MODES:
        for cell in CELLS:
            some = [r for r in rows if r["mode"] == mode and r["cell"] == cell and r["steps"] > 1]
            goal = at_least(f"{mode}, {cell.upper()}, mean over shapes", GOALS[mode][cell], some, "ratio", mean=True)
            yield with_bound(goal, some)
    yield at_least("the lowest of all shapes", 1, rows, "ratio")


SECTION = Section(
    "speed",
    f"""{run.LEGEND} A mean is the geometric mean over the shapes of more than one step. Shapes with
more than {MOST} GFLOP in an LSTM's forward are timed with fewer steps, which the sizes say. "products alone" is the
ratio that a layer would have which did nothing but its products (training: three times those of the forward), at the
rate of torch.mm with matrices of {SQUARE} x {SQUARE} timed just before.""",
    cases,
    goals,
    (*run.COLUMNS, Column("products alone", lambda row: f"{row['products alone']:.2f}", right=True)),
)
