"""Draw the speed picture from the results of `benchmarks.run`.

    python -m benchmarks.plot                                     # those in benchmarks/results/ -> docs/speed.png
    python -m benchmarks.plot a.json b.json --out speed.png

One row of panels for each machine, one panel for each mode; in it the ratio of every shape, cell and number of
threads, on a logarithmic axis. Left of the line at 1 torch.nn is faster.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from seqcuda.shapes import CELLS, MODES

from .run import RESULTS

COLOURS = {"rnn": "#2f9e44", "gru": "#1971c2", "lstm": "#d9480f"}
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "speed.png"


def rows(results: list[dict]) -> list[str]:
    """The shapes in the order of the file."""
    return list(dict.fromkeys(r["shape"] for r in results))


def panel(axes, results: list[dict], mode: str) -> None:
    """The ratios of one mode: a dot for each, its quartiles as a bar; hollow for one thread."""
    names = rows(results)
    most = max(r["threads"] for r in results)
    for r in (r for r in results if r["mode"] == mode):
        q, single = r["ratio"], r["threads"] != most
        y = names.index(r["shape"]) + 0.24 * (CELLS.index(r["cell"]) - 1) + 0.09 * single
        axes.errorbar(
            q["median"], y, xerr=[[q["median"] - q["low"]], [q["high"] - q["median"]]], fmt="o", ms=5, lw=1,
            color=COLOURS[r["cell"]], markerfacecolor="white" if single else COLOURS[r["cell"]],
        )  # fmt: skip
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = min(low, 0.7), max(high, 1.5)
    axes.axvspan(low, 1, color="#868e96", alpha=0.15, lw=0)
    axes.axvline(1, color="#495057", lw=1)
    axes.text(0.97, len(names) - 0.55, "torch.nn faster", ha="right", va="bottom", fontsize=7, color="#495057")
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set(xlim=(low, high), ylim=(len(names) - 0.5, -0.5), title=mode, xlabel="time of torch.nn / time of seqcuda")
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(files: list[dict], out: Path) -> None:
    figure = Figure(figsize=(10, 0.6 + sum(1.2 + 0.5 * len(rows(f["results"])) for f in files)), dpi=120)
    figure.set_layout_engine("constrained")
    for part, content in zip(figure.subfigures(len(files), 1, squeeze=False)[:, 0], files, strict=True):
        m, results = content["machine"], content["results"]
        processor = m.get("gpu") or f"{m['cpu']}, {m['instruction set']}"
        part.suptitle(f"{processor}, {m['cores']} cores, torch {m['torch']}", fontsize=11)
        for axes, mode in zip(part.subplots(1, len(MODES), sharey=True), MODES, strict=True):
            panel(axes, results, mode)
        threads = sorted({r["threads"] for r in results})
        cells = [c for c in CELLS if any(r["cell"] == c for r in results)]
        handles = [axes.plot([], [], "o", color=COLOURS[c], label=c.upper())[0] for c in cells]
        for n in threads:
            colour = "white" if n != threads[-1] else "#495057"
            label = f"{n} thread" + "s" * (n != 1)
            handles.append(axes.plot([], [], "o", color="#495057", markerfacecolor=colour, label=label)[0])
        part.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: benchmarks/results/*.json but cpu-* and cuda-*")
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args()
    paths = args.files or sorted(p for p in RESULTS.glob("*.json") if not p.name.startswith(("cpu-", "cuda-")))
    if not paths:
        print("error: there are no results yet; python -m benchmarks.run writes them", file=sys.stderr)
        return 2
    try:
        files = [json.loads(path.read_text()) for path in paths]
    except (OSError, ValueError) as error:
        print(f"error: the results cannot be read: {error}", file=sys.stderr)
        return 2
    draw(files, args.out)
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
