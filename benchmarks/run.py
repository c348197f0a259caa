"""Time every case and write the result, with the machine, as JSON and beside it as a Markdown table.

    python -m benchmarks.run                                       # benchmarks/results/<cpu or gpu>.json and .md
    python -m benchmarks.run --quick --out /tmp/look.json

The arguments are those of `python -m seqcuda bench`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from seqcuda import bench

from .tables import Column, columns, heading, median, quartiles, table

RESULTS = Path(__file__).parent / "results"


RATIO_ALONE = (
    Column("ratio", lambda r: median(r["ratio"]), right=True),
    Column("quartiles", lambda r: quartiles(r["ratio"])),
)
RATIO = (
    Column("torch.nn ms", lambda r: bench.milliseconds(r["torch ms"]), right=True),
    Column("seqcuda ms", lambda r: bench.milliseconds(r["seqcuda ms"]), right=True),
    *RATIO_ALONE,
)
COLUMNS = (
    *columns("shape", "sizes", "cell", "mode"),
    Column("threads", lambda r: str(r["threads"]), right=True),
    *RATIO,
    *columns("engine"),
)
LEGEND = """\
Milliseconds are medians. The ratio is the time of torch.nn over the time of seqcuda, above 1 where seqcuda
is faster: the median of pairs timed in turn in one process, and its quartiles."""


def markdown(result: dict) -> str:
    """The machine and the table."""
    lines = [*heading(result, "python -m benchmarks.run"), "", LEGEND, "", *table(COLUMNS, result["results"])]
    return "\n".join(lines) + "\n"


def default_path(machine: dict, prefix: str = "") -> Path:
    """Another processor, or another instruction set of one, has a file of its own."""
    where = machine.get("gpu") or f"{machine['cpu']} {machine['instruction set']}"
    name = f"{prefix} {where} {machine['cores']} cores"
    return RESULTS / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.splitlines()[0])
    bench.add_arguments(parser)
    args = parser.parse_args()
    if args.out is None:
        args.out = default_path(bench.machine(args.device))
    status, result = bench.execute(args)
    if result is None:
        return status
    page = args.out.with_suffix(".md")
    page.write_text(markdown(result))
    print(f"written: {page}")
    return status


if __name__ == "__main__":
    sys.exit(main())
