"""How time grows with the steps, the rows and the hidden units."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import replace
from pathlib import Path

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES, Shape

from ..goals import Goal, plural
from ..tables import columns
from .section import FEWEST, THREADS, Case, Section, number

BASE = Shape("base", T=100, B=8, I=128, H=128)
SERIES = {
    "T": (10, 30, 100, 300, 1000, 3000, 10_000),
    "B": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "H": (32, 64, 128, 256, 512, 1024, 2048),
}
QUICK, QUICK_BASE = {"T": (10, 30), "B": (4, 8), "H": (16, 32)}, Shape("base", T=10, B=2, I=8, H=8)
STEPS = {"T": None, "B": 30, "H": 4}  # where T itself does not vary
PAST = {"B": 32, "H": 512}  # from where on the rate of growth is looked at
FLAT, LINEAR = 1.10, 1.10


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    def base(axis: str, cell: str, mode: str, n: int) -> bench.Case:
        shape = QUICK_BASE if quick else replace(BASE, T=STEPS[axis] or BASE.T)
        return bench.Case(shape, cell, mode, n)

    return [
        Case(f"{axis}={value}, {cell}, {mode}", n, functools.partial(measure, base(axis, cell, mode, n), axis, value))
        for n in threads
        for axis, values in (QUICK if quick else SERIES).items()
        for cell in CELLS
        for mode in MODES
        for value in values
    ]


def measure(base: bench.Case, axis: str, value: int, seconds: float) -> dict:
    changed = {axis: value} | ({"I": value} if axis == "H" else {})
    case = replace(base, shape=replace(base.shape, **changed))
    ours, of_base = bench.pair(bench.prepare(case, "seqcuda"), bench.prepare(base, "seqcuda"), seconds, fewest=FEWEST)
    per_step = [t / case.shape.T for t in ours]
    return {
        "case": f"{axis}={value}, {case.cell}, {case.mode}",
        "axis": axis,
        "size": value,
        "sizes": case.shape.describe(),
        "cell": case.cell,
        "mode": case.mode,
        "threads": case.threads,
        "us per step": statistics.median(per_step) * 1e6,
        "over the base": bench.ratio(per_step, [t / base.shape.T for t in of_base]),
    }


def curves(rows: list[dict], axis: str, threads: int) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """For each cell and mode: sizes, and times of a step over the base's."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for r in rows:
        if r["axis"] == axis and r["threads"] == threads:
            found.setdefault((r["cell"], r["mode"]), []).append((r["size"], r["over the base"]["median"]))
    return found


def unevenness(curve: list[tuple[int, float]]) -> float:
    """The highest time of a step over the lowest."""
    times = [time for _, time in curve]
    return max(times) / min(times)


def exponent(curve: list[tuple[int, float]], past: int) -> float:
    """The slope on logarithmic axes from `past` on, by least squares; with fewer than two sizes there, of all."""
    far = [point for point in curve if point[0] >= past]
    xs, ys = zip(*[(math.log(size), math.log(time)) for size, time in (far if len(far) > 1 else curve)], strict=True)
    return statistics.linear_regression(xs, ys).slope


def goals(rows: list[dict]):
    figures = {
        "T": ("time per step over T, the highest over the lowest", FLAT, unevenness),
        "B": ("time per step grows with B to the power of", LINEAR, lambda curve: exponent(curve, PAST["B"])),
        "H": ("time per step grows with H*H to the power of", LINEAR, lambda curve: exponent(curve, PAST["H"]) / 2),
    }
    for axis, (what, wanted, figure) in figures.items():
        measured = {}
        for n in sorted({r["threads"] for r in rows}):
            found = {", ".join(key): figure(c) for key, c in curves(rows, axis, n).items() if len(c) > 1}
            if found:
                worst = max(found, key=found.get)
                measured[plural(n, "thread")] = found[worst], worst
        yield Goal(what, "at most", wanted, measured)


def draw(rows: list[dict], out: Path) -> None:
    """Time of a step for each axis, as it was measured; most threads."""
    from matplotlib.figure import Figure

    from ..plot import COLOURS

    threads = max(r["threads"] for r in rows)
    figure = Figure(figsize=(11, 3.6), dpi=120)
    figure.set_layout_engine("constrained")
    figure.suptitle(f"seqcuda, time of a step, {plural(threads, 'thread')}", fontsize=11)
    titles = {axis: BASE if steps is None else replace(BASE, T=steps) for axis, steps in STEPS.items()}
    for axes, (axis, shape) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        some = [r for r in rows if r["axis"] == axis and r["threads"] == threads]
        for cell in CELLS:
            for mode, style in zip(MODES, ("-", "--"), strict=True):
                points = [(r["size"], r["us per step"]) for r in some if (r["cell"], r["mode"]) == (cell, mode)]
                if points:
                    label = f"{cell.upper()}, {mode}"
                    axes.plot(*zip(*points, strict=True), style, marker="o", ms=3, color=COLOURS[cell], label=label)
        others = [f"{name}={size}" for name, size in (("T", shape.T), ("B", shape.B), ("H", shape.H)) if name != axis]
        axes.set(xscale="log", yscale="log", xlabel=axis, title=" ".join(others))
        sizes = sorted({r["size"] for r in some})
        axes.set_xticks(sizes, sizes, fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("microseconds per step")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


SECTION = Section(
    "growth",
    f"""Time of a step, each size timed in turn with a base ({BASE.describe()}; fewer steps where B or H grows, and as
many input features as hidden units where H grows). Flat in T is the highest of these over the lowest. The powers are
slopes on logarithmic axes from B={PAST["B"]} and H={PAST["H"]} on; 1 is linear in B and in H*H. The worst of cells and
modes counts.""",
    cases,
    goals,
    (
        *columns("axis", "sizes", "cell", "mode"), THREADS, number("us per step"), number("over the base"),
    ),
    effort=0.2,
)  # fmt: skip
