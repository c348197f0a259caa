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

RESULTS = Path(__file__).parent / "results"


def markdown(result: dict) -> str:
    """The machine and the table."""
    m = result["machine"]
    lines = [
        f"# {m.get('gpu') or m['cpu']}, {m['cores']} cores",
        "",
        f"{result['date'][:10]}. "
        + ", ".join(f"{name} {value}" for name, value in m.items() if name not in ("cpu", "cores"))
        + ".",
        "Written by `python -m benchmarks.run`.",
        "",
        "Milliseconds are medians. The ratio is the time of torch.nn over the time of seqcuda, above 1 where seqcuda",
        "is faster: the median of pairs timed in turn in one process, and its quartiles.",
        "",
        "| shape | sizes | cell | mode | threads | torch.nn ms | seqcuda ms | ratio | quartiles | engine |",
        "|---|---|---|---|--:|--:|--:|--:|---|---|",
    ]
    for r in result["results"]:
        q = r["ratio"]
        median = f"{q['median']:.2f}"
        lines.append(
            f"| {r['shape']} | {r['sizes']} | {r['cell']} | {r['mode']} | {r['threads']} | "
            f"{bench.milliseconds(r['torch ms'])} | {bench.milliseconds(r['seqcuda ms'])} | "
            f"{f'**{median}**' if q['low'] > 1 else median} | {q['low']:.2f} to {q['high']:.2f} | {r['engine']} |"
        )
    return "\n".join(lines) + "\n"


def default_path(machine: dict) -> Path:
    name = f"{machine.get('gpu') or machine['cpu']} {machine['cores']} cores"
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
