"""One step: cells, and layers with T = 1; and the time of reading the weights."""

from __future__ import annotations

import functools
import itertools
import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass

import torch

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES

from ..run import RATIO
from ..tables import columns
from .section import FEWEST, THREADS, Case, Section, at_least, at_most, number

HIDDEN, ROWS = (64, 256, 512, 1024), (1, 8, 32)
READ = (256, 512, 1024)  # hidden units, of one row, whose time is held against reading the weights
KINDS = ("cell", "layer")
REPEATED = 20e-3  # seconds of a sample against reading: many calls, so that each finds the caches as it left them
READERS: dict[str, Callable[[torch.Tensor], object]] = {
    "torch.sum": torch.sum,
    "torch.amax": torch.amax,
    "torch.dot": lambda buffer: torch.dot(buffer, buffer),
}


@dataclass(frozen=True)
class Step:
    """One step of `kind` "cell" or "layer" with as many input features as hidden units."""

    cell: str
    kind: str
    mode: str
    H: int
    B: int

    @property
    def name(self) -> str:
        what = f"{self.cell} cell" if self.kind == "cell" else f"{self.cell}, T=1"
        return f"{what}, {self.mode}, H={self.H} B={self.B}"

    def prepare(self, library: str) -> tuple[torch.nn.Module, Callable[[], object]]:
        """The module and a call of it, from a state that is given."""
        torch.manual_seed(0)
        suffix, leading = ("Cell", ()) if self.kind == "cell" else ("", (1,))
        module = getattr(bench.LIBRARIES[library], self.cell.upper() + suffix)(self.H, self.H)
        x, h, c = torch.randn(3, *leading, self.B, self.H)
        hx = (h, c) if self.cell == "lstm" else h

        def forward() -> torch.Tensor:
            result = module(x, hx)
            return result[0] if isinstance(result, tuple) else result

        if self.mode == "inference":
            return module, bench.inference(forward)
        return module, bench.training(forward, [x.requires_grad_(), *module.parameters()])

    def row(self) -> dict:
        return {"case": self.name, "kind": self.kind, "cell": self.cell, "mode": self.mode, "H": self.H, "B": self.B}

    def against_torch(self, threads: int, seconds: float) -> dict:
        calls = (self.prepare(library)[1] for library in ("torch", "seqcuda"))
        theirs, ours = bench.pair(*calls, seconds, fewest=FEWEST)
        return self.row() | {
            "threads": threads,
            "torch ms": statistics.median(theirs) * 1e3,
            "seqcuda ms": statistics.median(ours) * 1e3,
            "ratio": bench.ratio(theirs, ours),
        }

    def against_reading(self, threads: int, seconds: float) -> dict:
        module, call = self.prepare("seqcuda")
        buffer = torch.cat([w.detach().flatten() for w in module.parameters() if w.dim() == 2])
        reads = {name: lambda read=read: read(buffer) for name, read in READERS.items()}
        reader = min(reads, key=lambda name: min(timeit.repeat(reads[name], number=1, repeat=9)))
        ours, theirs = bench.pair(call, reads[reader], seconds, sample=REPEATED, fewest=FEWEST)
        return self.row() | {
            "threads": threads,
            "MB": buffer.nbytes / 1e6,
            "reader": reader,
            "GB/s": buffer.nbytes / statistics.median(theirs) / 1e9,
            "step us": statistics.median(ours) * 1e6,
            "reading us": statistics.median(theirs) * 1e6,
            "times reading": bench.ratio(ours, theirs),
        }


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    hidden, rows = ((64,), (1,)) if quick else (HIDDEN, ROWS)
    steps = [Step(*given) for given in itertools.product(CELLS, KINDS, MODES, hidden, rows)]
    return [Case(step.name, n, functools.partial(step.against_torch, n)) for n in threads for step in steps]


def reading_cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    steps = [
        Step(*given, "inference", H, 1) for *given, H in itertools.product(CELLS, KINDS, READ[:1] if quick else READ)
    ]
    return [
        Case(f"{step.name}, reading", n, functools.partial(step.against_reading, n)) for n in threads for step in steps
    ]


def goals(rows: list[dict]):
    for kind in KINDS:
        for mode in MODES:
            what = "cells" if kind == "cell" else "layers, T=1"
            some = [r for r in rows if r["kind"] == kind and r["mode"] == mode]
            yield at_least(f"{what}, {mode}, mean over sizes", 4, some, "ratio", mean=True)
    yield at_least("the lowest of all sizes", 1, rows, "ratio")


def reading_goals(rows: list[dict]):
    for kind, what in zip(KINDS, ("cells", "layers, T=1"), strict=True):
        some = [r for r in rows if r["kind"] == kind]
        yield at_most(f"{what}, B=1, times the reading of the weights, the highest", 1.3, some, "times reading")


SECTION = Section(
    "step",
    """A single step from a state that is given, as many input features as hidden units: the time of torch.nn over the
time of seqcuda. The means are geometric ones over cells and sizes.""",
    cases,
    goals,
    (*columns("kind", "cell", "mode", "H", "B"), THREADS, *RATIO),
    effort=0.3,
)
READING = Section(
    "reading",
    f"""The time of one step with B=1, inference, over the time of reading as many bytes as the two weight matrices
have once, by the fastest of {", ".join(READERS)} over one buffer. Both are called in turn in samples of
{REPEATED * 1e3:.0f} ms or more, so that each finds the caches as many calls of its own left them.""",
    reading_cases,
    reading_goals,
    (
        *columns("kind", "cell", "H"), THREADS, number("MB"), *columns("reader"), number("GB/s"), number("reading us"),
        number("step us"), number("times reading"),
    ),
)  # fmt: skip
