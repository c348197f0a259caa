"""bfloat16 against float32."""

from __future__ import annotations

import statistics

import torch

from seqcuda import bench

from ..tables import Column, columns, quartiles
from .section import FEWEST, THREADS, Case, Section, at_most, facts, number, timed
from .speed import shapes

MOST = 3  # GFLOP


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    return timed(measure, shapes(quick, MOST), threads)


def measure(case: bench.Case, seconds: float) -> dict:
    calls = (bench.prepare(case, "seqcuda", dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    half, single = bench.pair(*calls, seconds, fewest=FEWEST)
    return {
        **facts(case),
        "bfloat16 ms": statistics.median(half) * 1e3,
        "float32 ms": statistics.median(single) * 1e3,
        "over float32": bench.ratio(half, single),
    }


def goals(rows: list[dict]):
    yield at_most("bfloat16, time over float32, the highest", 1, rows, "over float32")


SECTION = Section(
    "half",
    f"""The time with bfloat16 data and weights over the time with float32. Shapes with more than {MOST} GFLOP in an
LSTM's forward are timed with fewer steps.""",
    cases,
    goals,
    (
        *columns("shape", "sizes", "cell", "mode"),
        THREADS,
        *(
            Column(key, lambda r, key=key: bench.milliseconds(r[key]), right=True)
            for key in ("bfloat16 ms", "float32 ms")
        ),
        number("over float32"),
        Column("quartiles", lambda r: quartiles(r["over float32"])),
    ),
    effort=0.4,
)
