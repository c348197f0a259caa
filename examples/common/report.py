"""What a program ends with: figures, times, the comparison of the two libraries, metrics.json and loss.png."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from seqcuda import bench

from . import agreement
from .files import write_json
from .plots import COLOURS, picture
from .training import Run, Training

MOST_IN_A_LEGEND = 6
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def finish(program: str, args: argparse.Namespace, trainings: list[Training], *, data: str, figure: str, **more) -> int:
    """Compare, show and write; the exit status of the program, 1 where the two libraries are not equal.

    `data`: what was trained on. `figure`: what was reached, in words. `more`: further entries of metrics.json.
    """
    compared = {t.name: compare(t) for t in trainings if args.backend == "both"}
    _show(trainings, compared)
    console.print(figure, style="bold", markup=False)
    out = trainings[0].out
    _draw(trainings)
    runs = [run for t in trainings for run in t.runs.values()]
    measured = {
        t.name: {
            "runs": {run.name: {"seconds": run.seconds, "best step": run.best["step"], "losses": run.losses,
                                "validations": run.validations} for run in t.runs.values()},
            "comparison": compared.get(t.name),
        }
        for t in trainings
    }  # fmt: skip
    write_json(out / "metrics.json", {
        "program": program, "data": data, "figure": figure,
        "seconds": {side: sum(run.seconds for run in runs if run.name == side) for side in shown(trainings[0])},
        "machine": bench.machine(trainings[0].device), "settings": {**vars(args), "steps": trainings[0].steps},
        **more, "trainings": measured,
    })  # fmt: skip
    console.print(f"written: {out / 'metrics.json'}, {out / 'loss.png'} and what lies beside them")
    return 0 if all(comparison["equal"] for comparison in compared.values()) else 1


def compare(training: Training) -> dict:
    """Are the runs of both sides the same training, and which is faster?"""
    ours = training.runs[training.task.sides[1]]
    peers = [run for run in training.runs.values() if run is not ours]
    curves = {}
    if len(peers) > 1:
        curves["training"] = _curve(ours.losses, [run.losses for run in peers])
        curves["validation"] = _curve(_validation(ours), [_validation(run) for run in peers])
    return {
        "checks": training.checks,
        "curves": curves,
        "ratio": bench.ratio(_interval_seconds(peers[0]), _interval_seconds(ours)),
        "equal": not any(check["broken"] for check in training.checks) and all(c["within"] for c in curves.values()),
    }


def _curve(ours: list[float], peers: list[list[float]]) -> dict:
    """`peers`: the curve of the rival, then those of its twins."""
    apart, bar = agreement.apart(ours, peers[0]), agreement.bar(peers)
    return {
        "largest difference": apart[-1],
        "bar at the end": bar[-1],
        "largest share of the bar": max(a / b for a, b in zip(apart, bar, strict=True)),
        "within": all(a <= b for a, b in zip(apart, bar, strict=True)),
    }


def shown(training: Training) -> dict[str, Run]:
    """The runs of the sides, without the twins."""
    return {side: training.runs[side] for side in training.task.sides if side in training.runs}


def label(side: str) -> str:
    return "torch.nn" if side == "torch" else side


def _validation(run: Run) -> list[float]:
    return [v["loss"] for v in run.validations]


def _interval_seconds(run: Run) -> list[float]:
    ends = [v["seconds"] for v in run.validations]
    return [end - start for start, end in zip([0.0, *ends], ends, strict=False)]


def _show(trainings: list[Training], compared: dict[str, dict]) -> None:
    figures = [name for name in trainings[0].run.at_best if name not in ("step", "seconds")]
    table = Table("training", "by", "training loss", *(f"validation {name}" for name in figures), "time", "steps/s")
    for training in trainings:
        for side, run in shown(training).items():
            table.add_row(
                training.name, label(side), f"{run.losses[-1]:.4f}", *(f"{run.at_best[name]:.4f}" for name in figures),
                f"{run.seconds:.1f} s", f"{run.step / run.seconds:,.0f}",
            )  # fmt: skip
    console.print(table)
    for training, comparison in compared.items():
        rival, ours = (label(side) for side in trainings[0].task.sides)
        for line in _comparison_lines(comparison, rival, ours):
            console.print(line if len(compared) == 1 else f"{training}: {line}")
    if any(comparison["curves"] for comparison in compared.values()):
        console.print(
            f"(the bar: {agreement.CHANCE} times how far {rival} parts from itself, by then, when its weights are "
            "rounded once more, at random, before every step)"
        )


def _comparison_lines(comparison: dict, rival: str, ours: str) -> list[str]:
    ratio = comparison["ratio"]
    lines = [
        f"time, {rival} / {ours}: {ratio['median']:.2f} (median of {ratio['pairs']} stretches trained in turn; "
        f"quartiles {ratio['low']:.2f} to {ratio['high']:.2f})"
    ]
    for check in comparison["checks"]:
        verdict = "within the rule" if not check["broken"] else "NOT within the rule: " + "; ".join(check["broken"])
        lines.append(
            f"loss and gradients at step {check['step']}, same weights: error against float64 {check['ours']:.1e}, "
            f"that of {rival} {check['rival']:.1e}: {verdict}"
        )
    for name, curve in comparison["curves"].items():
        lines.append(
            f"{name} loss, whole training: largest difference {curve['largest difference']:.1e}, bar "
            f"{curve['bar at the end']:.1e}: {'within it' if curve['within'] else 'NOT within it'} at every point"
        )
    lines.append("the two trainings are equal within these bounds" if comparison["equal"] else "NOT EQUAL")
    return lines


def _draw(trainings: list[Training]) -> None:
    """loss.png: the losses over steps and over time."""
    with picture(trainings[0].out / "loss.png", columns=2) as (by_step, by_time):
        for k, training in enumerate(trainings):
            for side, run in shown(training).items():
                ours = side == training.task.sides[1]
                style = "--" if ours and len(training.runs) > 1 else "-"
                colour = COLOURS[ours] if len(trainings) == 1 else f"C{k}"
                name = label(side) if len(trainings) == 1 else f"{training.name}, {label(side)}"
                by_step.plot(range(1, run.step + 1), run.losses, style, color=colour, alpha=0.35, lw=1)
                for panel, key in ((by_step, "step"), (by_time, "seconds")):
                    points = [v[key] for v in run.validations], _validation(run)
                    panel.plot(*points, style, color=colour, label=name, marker="o", ms=3)
        by_step.set(xlabel="training step", ylabel="loss", title="training (thin), validation")
        by_time.set(xlabel="seconds of training", ylabel="validation loss", title="the same over time")
        if len(trainings) <= MOST_IN_A_LEGEND:
            by_time.legend(frameon=False, fontsize="small")
