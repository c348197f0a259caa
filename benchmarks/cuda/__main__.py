"""Measure the CUDA engines against cuDNN; write the result, with the machine, as JSON and as a page.

    python -m benchmarks.cuda --seconds 300                  # benchmarks/results/cuda-<gpu>.json and .md
    python -m benchmarks.cuda --seconds 60 --out /tmp/look

It measures the most important layers first and ends when the time is used up; what was not reached is listed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import seqcuda
from seqcuda import _backend, bench

from ..run import RESULTS, default_path
from .device import Gpu
from .grid import Point, points
from .measure import measure
from .page import goals, markdown

SECONDS, SECONDS_PER_ENGINE = 300, 0.05
BETWEEN_WRITES = 10  # seconds: whoever ends the program loses no more


def parser() -> argparse.ArgumentParser:
    of = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of.add_argument("--seconds", type=float, default=SECONDS, help=f"in all (default: {SECONDS})")
    of.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help=f"default: {RESULTS}")
    return of


def run(
    todo: Iterable[Point],
    device,
    seconds: float,
    write: Callable[[dict], None],
    per_engine: float = SECONDS_PER_ENGINE,
    clock: Callable[[], float] = time.monotonic,
) -> dict:
    """Measures the points in order until the time is used up, and writes now and then, and in the end.

    Args:
        device: a `Gpu`, or what has the same methods.
    """
    start = written = clock()
    todo, rows, done, stopped = list(todo), [], 0, None

    def result() -> dict:
        return bench.head(per_engine, stopped is not None, device.name) | {
            "machine": device.facts,
            "stopped": stopped,
            "goals": [goal.as_row() for goal in goals(rows)],
            "results": rows,
            "not measured": [point.name for point in todo[done:]],
        }

    try:
        for point in todo:
            if clock() - start >= seconds:
                break
            rows += _measured(point, device, per_engine)
            done += 1
            if clock() - written > BETWEEN_WRITES:
                write(result())
                written = clock()
    except KeyboardInterrupt:
        stopped = "interrupted"
    except RuntimeError as error:
        stopped = f"the device failed, {str(error).splitlines()[0]}"
    found = result()
    write(found)
    return found


def _measured(point: Point, device, seconds: float) -> list[dict]:
    """The rows of a point; where it fails, one that says so. Raises RuntimeError where the device is lost."""
    try:
        return measure(point, device, seconds)
    except RuntimeError as error:  # out of memory among them
        row = {"case": point.name, **vars(point), "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        device.check()
        device.free()
        return [row]


def check(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError: what can be known to fail."""
    if _backend.compiled is None:
        raise ValueError(f"there is no engine to measure: {_backend.why_not_compiled}")
    if not seqcuda.engines("cuda"):
        raise ValueError("the extension was built without CUDA; SEQCUDA_CUDA=1 at its build says why")
    if not torch.cuda.is_available():
        raise ValueError("torch sees no GPU")
    if not args.seconds > 0:
        raise ValueError(f"--seconds must be above 0, got {args.seconds:g}")
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK):
        raise ValueError(f"--out: {args.out} cannot be written to")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        check(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = Gpu()
    path = args.out / default_path(device.facts, "cuda").name

    def write(result: dict) -> None:
        bench.write(result, path)
        path.with_suffix(".md").write_text(markdown(result))

    result = run(points(), device, args.seconds, write)
    print(f"{len(result['results'])} results, {len(result['not measured'])} layers not measured")
    print("written:", path, path.with_suffix(".md"))
    if result["stopped"]:
        print(f"error: stopped early: {result['stopped']}", file=sys.stderr)
    return {None: 0, "interrupted": 130}.get(result["stopped"], 1)


if __name__ == "__main__":
    sys.exit(main())
