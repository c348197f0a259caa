"""What a section of the benchmark is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from seqcuda import bench
from seqcuda.shapes import Shape

from ..goals import Goal, geometric_mean, highest, lowest, plural, value
from ..tables import Column

FEWEST = 3  # pairs of a case, whatever the time


class Unavailable(Exception):
    """A section cannot be measured here; the message says why, and what would help."""


@dataclass(frozen=True)
class Case:
    """One measurement. `measure(seconds)` gives a row of the section's table, as JSON has it."""

    name: str
    threads: int
    measure: Callable[[float], dict]


def timed(measure: Callable, cases: Iterable[bench.Case], threads: tuple[int, ...], *more) -> list[Case]:
    """Every case with every number of threads; `measure` takes the case, `more` and the seconds."""
    return [
        Case(case.name, n, functools.partial(measure, case.with_threads(n), *more)) for n in threads for case in cases
    ]


def facts(case: bench.Case) -> dict:
    """What a row says of a named case: its name without the threads, which are a column, and the rest."""
    return {"case": replace(case, threads=0).name, "steps": case.shape.T, **bench.facts(case)}


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Attributes:
        about: what is measured, and how, for the page.
        cases: those of some numbers of threads; with `quick` few and small ones. Raises Unavailable.
        goals: from the rows that were measured.
        effort: the share of --seconds that a case gets.
    """

    name: str
    about: str
    cases: Callable[[tuple[int, ...], bool], list[Case]]
    goals: Callable[[list[dict]], Iterator[Goal]]
    columns: tuple[Column, ...]
    effort: float = 1.0


def at_least(what: str, wanted: float, rows: Iterable[dict], figure: str, mean: bool = False) -> Goal:
    """Of the lowest `figure` of the rows of each number of threads, or of the geometric mean."""
    return Goal(what, "at least", wanted, _by_threads(rows, figure, geometric_mean if mean else lowest))


def at_most(what: str, wanted: float, rows: Iterable[dict], figure: str, mean: bool = False) -> Goal:
    """Of the highest `figure` of the rows of each number of threads, or of the geometric mean."""
    return Goal(what, "at most", wanted, _by_threads(rows, figure, geometric_mean if mean else highest))


def _by_threads(rows: Iterable[dict], figure: str, of: Callable) -> dict[str, tuple[float, str]]:
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["threads"], []).append(row)
    return {plural(n, "thread"): of(group, figure) for n, group in sorted(groups.items())}


def cut(shape: Shape, most: float) -> Shape:
    """The shape with fewer steps where the products of an LSTM's forward are more than `most` GFLOP."""
    return replace(shape, T=max(1, min(shape.T, int(shape.T * most / work(shape, 4)))))


def work(shape: Shape, gates: int) -> float:
    """GFLOP of the products of a forward."""
    inputs = shape.I + (shape.layers - 1) * shape.H * shape.directions + shape.layers * shape.H
    return 2e-9 * shape.T * shape.B * shape.directions * gates * shape.H * inputs


THREADS = Column("threads", lambda row: str(row["threads"]), right=True)


def number(title: str, key: str | None = None) -> Column:
    """A column of a figure."""
    return Column(title, lambda row: f"{value(row, key or title):.2f}", right=True)
