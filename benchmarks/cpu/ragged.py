"""Rows of different lengths: training, as lengths and packed."""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from seqcuda import bench
from seqcuda.shapes import CELLS

from ..tables import Column, columns
from .section import FEWEST, THREADS, Case, Section, at_least, at_most, number

STEPS, SHORT = 2000, 400  # torch.nn's time for packed data grows with the square of the steps
ROWS, INPUTS, HIDDEN = 8, 64, 128
FORMS = ("lengths", "packed")
LONGEST = {"uniform": 1.0, "most of them short": 0.2}  # lengths are uniform up to this share of T, but for one row


@dataclass(frozen=True)
class Ragged:
    """Training with random lengths, one of which is T."""

    cell: str
    lengths_are: str
    T: int

    def prepare(self, library: str, form: str):
        """A call; `form` is "padded", "lengths" or "packed"."""
        torch.manual_seed(0)
        layer = getattr(bench.LIBRARIES[library], self.cell.upper())(INPUTS, HIDDEN)
        x = torch.randn(self.T, ROWS, INPUTS)
        lengths = self.lengths()
        if form == "packed":
            packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
            wanted = [packed.data.requires_grad_(), *layer.parameters()]
            return bench.training(lambda: layer(packed)[0].data, wanted)
        given = {"lengths": lengths} if form == "lengths" else {}
        return bench.training(lambda: layer(x, **given)[0], [x.requires_grad_(), *layer.parameters()])

    def lengths(self) -> torch.Tensor:
        most = max(1, int(LONGEST[self.lengths_are] * self.T))
        lengths = torch.randint(1, most + 1, (ROWS,), generator=torch.Generator().manual_seed(0))
        lengths[0] = self.T
        return lengths

    def row(self, form: str, threads: int) -> dict:
        return {
            "case": f"{self.cell}, {form}, {self.lengths_are}",
            "cell": self.cell,
            "form": form,
            "lengths": self.lengths_are,
            "T": self.T,
            "threads": threads,
            "true steps": self.lengths().sum().item() / (self.T * ROWS),
        }

    def against_padded(self, form: str, threads: int, seconds: float) -> dict:
        calls = (self.prepare("seqcuda", each) for each in (form, "padded"))
        ragged, padded = bench.pair(*calls, seconds, fewest=FEWEST)
        over = bench.ratio(ragged, padded)
        row = self.row(form, threads)
        return row | {
            "rival": "seqcuda, padded",
            "rival ms": statistics.median(padded) * 1e3,
            "seqcuda ms": statistics.median(ragged) * 1e3,
            "over": over,
            "over true steps": over["median"] / row["true steps"],
        }

    def against_torch(self, threads: int, seconds: float) -> dict:
        calls = (self.prepare(library, "packed") for library in ("seqcuda", "torch"))
        ours, theirs = bench.pair(*calls, seconds, fewest=1)
        return self.row("packed", threads) | {
            "rival": "torch.nn, packed",
            "rival ms": statistics.median(theirs) * 1e3,
            "seqcuda ms": statistics.median(ours) * 1e3,
            "over": bench.ratio(ours, theirs),
            "ratio": bench.ratio(theirs, ours),
        }


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    long, short = (40, 20) if quick else (STEPS, SHORT)
    against_padded = [
        Case(f"{cell}, {form}, {lengths}", n, functools.partial(Ragged(cell, lengths, long).against_padded, form, n))
        for n in threads
        for cell in CELLS
        for lengths in LONGEST
        for form in FORMS
    ]
    against_torch = [
        Case(f"{cell}, packed, torch.nn", n, functools.partial(Ragged(cell, "uniform", short).against_torch, n))
        for n in threads
        for cell in CELLS
    ]
    return against_padded + against_torch


def goals(rows: list[dict]):
    padded = [r for r in rows if r["rival"] == "seqcuda, padded"]
    for form in FORMS:
        some = [r for r in padded if r["form"] == form and r["lengths"] == "uniform"]
        yield at_most(f"{form}, uniform, time over padded, the highest", 0.6, some, "over")
    yield at_least("packed, torch.nn's time over ours, the lowest", 1, [r for r in rows if "ratio" in r], "ratio")


SECTION = Section(
    "ragged",
    f"""Training with random lengths, B={ROWS} I={INPUTS} H={HIDDEN}: the time over that of the rival. The share of true
steps is the sum of the lengths over T*B; where time follows the sum of lengths, time over padded is that share.
torch.nn's time for packed data grows with the square of T, which is why it has fewer steps here.""",
    cases,
    goals,
    (
        *columns("cell", "form", "lengths", "T"),
        THREADS,
        number("true steps"),
        *columns("rival"),
        Column("rival ms", lambda r: bench.milliseconds(r["rival ms"]), right=True),
        Column("seqcuda ms", lambda r: bench.milliseconds(r["seqcuda ms"]), right=True),
        number("time over the rival's", "over"),
    ),
)
