"""bfloat16 against float32, and against torch.nn."""

from __future__ import annotations

import statistics

import torch

from seqcuda import bench

from ..tables import Column, columns, quartiles
from .section import FEWEST, THREADS, Case, Section, at_least, at_most, facts, number, timed
from .speed import shapes

MOST = 3  # GFLOP


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return timed(measure, shapes(quick, MOST), threads)


def measure(case: bench.Case, seconds: float) -> dict:
    ours = bench.prepare(case, "seqcuda", dtype=torch.bfloat16)
    half, single = bench.pair(ours, bench.prepare(case, "seqcuda"), seconds / 2, fewest=FEWEST)
    theirs, again = bench.pair(bench.prepare(case, "torch", dtype=torch.bfloat16), ours, seconds / 2, fewest=FEWEST)
    return {
        **facts(case),
        "bfloat16 ms": statistics.median(half) * 1e3,
        "float32 ms": statistics.median(single) * 1e3,
        "torch.nn ms": statistics.median(theirs) * 1e3,
        "over float32": bench.ratio(half, single),
        "torch.nn over ours": bench.ratio(theirs, again),
    }


def goals(rows: list[dict]):
    yield at_most("bfloat16, time over float32, the highest", 1, rows, "over float32")
    yield at_least("bfloat16, torch.nn's time over ours, the lowest", 1, rows, "torch.nn over ours")


SECTION = Section(
    "half",
    f"""The time with bfloat16 data and weights over the time with float32, and the time of torch.nn with bfloat16 over
it. Shapes with more than {MOST} GFLOP in an LSTM's forward are timed with fewer steps.""",
    cases,
    goals,
    (
        *columns("shape", "sizes", "cell", "mode"),
        THREADS,
        *(
            Column(key, lambda r, key=key: bench.milliseconds(r[key]), right=True)
            for key in ("bfloat16 ms", "float32 ms", "torch.nn ms")
        ),
        number("over float32"),
        Column("quartiles", lambda r: quartiles(r["over float32"])),
        number("torch.nn over ours"),
    ),
    effort=0.4,
)
