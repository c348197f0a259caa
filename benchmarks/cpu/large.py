"""Where the products are the cost: the share of the machine's own rate of matrix products."""

from __future__ import annotations

import functools
import statistics

import torch

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES, Shape

from ..tables import columns
from .section import FEWEST, THREADS, Case, Section, at_least, number, timed, work

SIZES = ((256, 64), (64, 256), (32, 512), (16, 1024), (48, 1024))  # rows, hidden units
STEPS = 10
SQUARE = 1536  # of the matrices of the product
GOALS = {"inference": 0.90, "training": 0.85}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    shapes = [Shape(f"B={B} H={H}", T=1 if quick else STEPS, B=B, I=H, H=H) for B, H in SIZES[: 1 if quick else None]]
    todo = [bench.Case(shape, cell, mode) for shape in shapes for cell in CELLS for mode in MODES]
    return timed(measure, todo, threads, 256 if quick else SQUARE)


@functools.cache
def square_product(square: int):
    a, b, out = torch.randn(3, square, square)
    return functools.partial(torch.mm, a, b, out=out)


def rate(square: int, seconds: float) -> float:
    """GFLOP/s of a product of squares that took so long."""
    return 2e-9 * square**3 / seconds


def products(case: bench.Case) -> float:
    """GFLOP of the products of a case."""
    return work(case.shape, GATES[case.cell]) * (3 if case.mode == "training" else 1)


def measure(case: bench.Case, square: int, seconds: float) -> dict:
    shape = case.shape
    theirs, ours = bench.pair(square_product(square), bench.prepare(case, "seqcuda"), seconds, fewest=FEWEST)
    gflop = products(case)
    return {
        "case": f"{shape.name}, {case.cell}",
        "sizes": shape.describe(),
        "cell": case.cell,
        "mode": case.mode,
        "threads": case.threads,
        "engine": bench.engine(case),
        "GFLOP/s": gflop / statistics.median(ours),
        "product GFLOP/s": rate(square, statistics.median(theirs)),
        "share": bench.ratio([gflop / rate(square, t) for t in theirs], ours),
    }


def goals(rows: list[dict]):
    for mode, wanted in GOALS.items():
        some = [r for r in rows if r["mode"] == mode]
        yield at_least(f"{mode}, share of the rate of products, the lowest", wanted, some, "share")


SECTION = Section(
    "large",
    f"""The rate of the products of a layer (training: three times those of the forward) over the rate of torch.mm with
matrices of {SQUARE} x {SQUARE}, timed in turn.""",
    cases,
    goals,
    (
        *columns("sizes", "cell", "mode"), THREADS, number("GFLOP/s"), number("product GFLOP/s"), number("share"),
        *columns("engine"),
    ),
)  # fmt: skip
