"""Measure every goal of the CPU engines; write the result, with the machine, as JSON, Markdown and a picture.

    python -m benchmarks.cpu                                       # benchmarks/results/cpu-<machine>.json, .md, .png
    python -m benchmarks.cpu --sections step memory --threads 1 --out /tmp/look.json

Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from seqcuda import _backend, bench

from ..run import default_path
from . import busy, derivatives, growth, half, large, members, memory, ragged, rival, short, speed, step
from .page import markdown
from .section import Case, Section, Unavailable

SECTIONS = (
    speed.SECTION, rival.SECTION, short.SECTION, step.SECTION, step.READING, large.SECTION, ragged.SECTION,
    memory.SECTION, busy.SECTION, growth.SECTION, half.SECTION, derivatives.PENALTY, derivatives.PER_SAMPLE,
    derivatives.COMPILED, members.ENSEMBLE, members.OF_HEADS,
)  # fmt: skip
SECONDS, QUICK_SECONDS = 0.3, 0.01
SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "SEQCUDA_")  # of the environment, which speed depends on


@dataclass(frozen=True)
class Todo:
    section: Section
    case: Case

    @property
    def name(self) -> str:
        return f"{self.section.name}: {self.case.name}"

    @property
    def threads(self) -> int:
        return self.case.threads


def parser() -> argparse.ArgumentParser:
    of = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [section.name for section in SECTIONS]
    of.add_argument("--sections", nargs="+", choices=names, metavar="NAME", help=f"of: {', '.join(names)}; default all")
    of.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: 1, and as many as torch uses")
    of.add_argument(
        "--seconds", type=float, help=f"per case, about (default: {SECONDS}; some sections take a part of it)"
    )
    of.add_argument("--quick", action="store_true", help="few and small sizes, all threads: does it run?")
    of.add_argument("--out", type=Path, metavar="FILE.json", help="default: benchmarks/results/cpu-<machine>.json")
    return of


def measure(
    sections: tuple[Section, ...], threads: tuple[int, ...], seconds: float, quick: bool, progress: bool
) -> dict:
    """The result of these sections, as JSON has it. Ctrl-C ends it early, see `seqcuda.bench.each`."""
    found = {section.name: {"missing": None, "rows": []} for section in sections}
    todo = []
    for section in sections:
        try:
            todo += [Todo(section, case) for case in section.cases(threads, quick)]
        except Unavailable as why:
            found[section.name]["missing"] = str(why)

    def one(this: Todo) -> None:
        found[this.section.name]["rows"].append(this.case.measure(seconds * this.section.effort))

    _, interrupted = bench.each(todo, one, progress)
    goals = [
        {"section": section.name, **goal.as_row()}
        for section in sections
        for goal in section.goals(found[section.name]["rows"])
    ]
    return bench.head(seconds, interrupted) | {
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
        "threads": list(threads),
        "quick": quick,
        "goals": goals,
        "sections": found,
    }


def check(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError: what can be known to fail, before minutes of measuring."""
    if _backend.compiled is None:
        raise ValueError(f"there is no CPU engine to measure: {_backend.why_not_compiled}")
    if args.seconds is not None and not args.seconds > 0:
        raise ValueError(f"--seconds must be above 0, got {args.seconds:g}")
    if args.out.suffix != ".json" or args.out.is_dir():
        raise ValueError(f"--out must be a file *.json, got {args.out}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out.parent, os.W_OK):
        raise ValueError(f"--out: {args.out.parent} cannot be written to")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.out = args.out or default_path(bench.machine(), "cpu")
    sections = tuple(section for section in SECTIONS if args.sections is None or section.name in args.sections)
    try:
        check(args)
        seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
        result = measure(sections, bench.chosen_threads(args), seconds, args.quick, sys.stderr.isatty())
    except ModuleNotFoundError as error:
        print(f"error: the benchmark needs {error.name}; pip install 'seqcuda[bench]' brings it", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bench.write(result, args.out)
    written = [args.out]
    if picture := draw(result, args.out):
        written.append(picture)
    page = args.out.with_suffix(".md")
    page.write_text(markdown(result, SECTIONS, picture and picture.name))
    print("written:", *written, page)
    missing = {name: part["missing"] for name, part in result["sections"].items() if part["missing"]}
    for name, why in missing.items():
        print(f"error: {name} was not measured: {why}", file=sys.stderr)
    return 130 if result["interrupted"] else 2 if missing else 0


def draw(result: dict, out: Path) -> Path | None:
    """The picture of growth beside the result, where there is something to draw."""
    rows = result["sections"].get("growth", {"rows": []})["rows"]
    if not rows:
        return None
    picture = out.with_name(f"{out.stem}-growth.png")
    growth.draw(rows, picture)
    return picture


if __name__ == "__main__":
    sys.exit(main())
