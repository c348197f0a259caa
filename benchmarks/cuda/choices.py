"""Writes the table of who is chosen, csrc/ops/cuda/choice_table.h, from the results of GPUs.

    python -m benchmarks.cuda.choices [FILE.json ...]        # default: benchmarks/results/cuda-*.json

An engine other than stepwise is chosen within a box of hidden units, rows and steps where, at every measured point, its
results were right and it was the fastest in inference and in training. Between boxes it is stepwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..run import RESULTS
from .page import timed

TABLE = Path(__file__).resolve().parents[2] / "csrc/ops/cuda/choice_table.h"
CELLS = {"rnn": ("rnn_tanh", "rnn_relu")}  # of the grid -> of the engines, where the names differ
HEAD = """\
// Written by `python -m benchmarks.cuda.choices` from benchmarks/results/cuda-*.json.
// clang-format off
#pragma once

#include "ops/cuda/choices.h"

namespace seq::ops {

// The engines that a GPU has run, all results right.
"""
FOOT = ";\n\n}  // namespace seq::ops\n"
SIZES = tuple[int, int, int]  # H, B, T


def winners(rows: list[dict]) -> dict[tuple[str, str], dict[SIZES, str]]:
    """dtype and cell -> the sizes that were measured in both modes -> the fastest engine that is right."""
    times: dict[tuple, dict[tuple[str, str], float]] = {}
    for row in timed(rows):
        if row["form"] == "plain" and not row["wrong"]:
            point = row["dtype"], row["cell"], (row["H"], row["B"], row["T"])
            times.setdefault(point, {})[row["engine"], row["mode"]] = row["seqcuda us"]
    found: dict[tuple[str, str], dict[SIZES, str]] = {}
    for (dtype, cell, sizes), of in times.items():
        engines = [engine for engine, mode in of if mode == "training" and (engine, "inference") in of]
        best = [e for e in engines if all(of[e, mode] <= time for (_, mode), time in of.items())]
        if engines:
            found.setdefault((dtype, cell), {})[sizes] = best[0] if best else "stepwise"
    return found


def boxes(points: dict[SIZES, str]) -> Iterator[tuple[tuple[SIZES, SIZES], str]]:
    """Lowest and highest sizes of boxes of points that one engine other than stepwise won."""
    engines = set(points.values())
    if len(engines) > 1:
        for half in min(_splits(points), key=lambda halves: sum(map(_mixed, halves))):
            yield from boxes(half)
    elif engines and engines != {"stepwise"}:
        low, high = (tuple(f(sizes[axis] for sizes in points) for axis in range(3)) for f in (min, max))
        yield (low, high), engines.pop()


def _splits(points: dict[SIZES, str]) -> Iterator[tuple[dict[SIZES, str], dict[SIZES, str]]]:
    for axis in range(3):
        for at in sorted({sizes[axis] for sizes in points})[1:]:
            yield (
                {sizes: engine for sizes, engine in points.items() if sizes[axis] < at},
                {sizes: engine for sizes, engine in points.items() if sizes[axis] >= at},
            )


def _mixed(points: dict[SIZES, str]) -> int:
    """How many are not the most frequent."""
    return len(points) - max(Counter(points.values()).values())


def lines(results: list[dict]) -> list[str]:
    """The rows of the table."""
    found = []
    for result in results:
        capability = result["machine"]["compute capability"].replace(".", "")
        for (dtype, cell), points in sorted(winners(result["results"]).items()):
            for (low, high), engine in boxes(points):
                ranges = ", ".join(f"{{{a}, {b}}}" for a, b in zip(low, high, strict=True))
                for name in CELLS.get(cell, (cell,)):
                    found.append(f'    {{{capability}, "{dtype}", "{name}", {ranges}, "{engine}"}},')
    return found


def seen(results: list[dict]) -> list[str]:
    """The engines that ran, and were never wrong."""
    rows = [row for result in results for row in timed(result["results"])]
    return sorted({row["engine"] for row in rows} - {row["engine"] for row in rows if row["wrong"]})


def table(results: list[dict]) -> str:
    names, rows = [f'"{name}"' for name in seen(results)], lines(results)
    choices = ["{{", *rows, "}}"] if rows else ["{}"]
    return (
        "\n".join(
            [
                f"{HEAD}constexpr std::array<std::string_view, {len(names)}> kSeenOnGpu{{{', '.join(names)}}};",
                "",
                f"constexpr std::array<CudaChoice, {len(rows)}> kCudaChoices{choices[0]}",
                *choices[1:],
            ]
        )
        + FOOT
    )


def committed() -> list[Path]:
    return sorted(RESULTS.glob("cuda-*.json"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda.choices", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: benchmarks/results/cuda-*.json")
    paths = parser.parse_args().files or committed()
    TABLE.write_text(table([json.loads(path.read_text()) for path in paths]))
    print(f"written: {TABLE}, from {len(paths)} results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
