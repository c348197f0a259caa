"""What a training ends with: losses, times, the comparison of two libraries, metrics.json and loss.png.

A run is anything with `name`, `losses` (of every step), `validations` ({"step", "seconds", "loss"}) and `seconds`.
"""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from seqcuda import bench

from . import agreement
from .files import write_json
from .plots import COLOURS, picture


def compare(runs: dict, checks: list[dict]) -> dict:
    """Runs "torch", "seqcuda" and the twins of "torch": are the two the same training, and which is faster?

    `checks`: from `agreement.within_rule`, each with its "step".
    """
    torch_run, ours = runs["torch"], runs["seqcuda"]
    peers = [run for name, run in runs.items() if name != "seqcuda"]
    curves = {}
    if len(peers) > 1:
        curves["training"] = _curve(ours.losses, [run.losses for run in peers])
        curves["validation"] = _curve(_validation(ours), [_validation(run) for run in peers])
    return {
        "checks": checks,
        "curves": curves,
        "seconds": {"torch": torch_run.seconds, "seqcuda": ours.seconds},
        "ratio": bench.ratio(_interval_seconds(torch_run), _interval_seconds(ours)),
        "equal": not any(check["broken"] for check in checks) and all(c["within"] for c in curves.values()),
    }


def _curve(ours: list[float], peers: list[list[float]]) -> dict:
    """`peers`: the curve of torch.nn, then those of its twins."""
    apart, bar = agreement.apart(ours, peers[0]), agreement.bar(peers)
    return {
        "largest difference": apart[-1],
        "bar at the end": bar[-1],
        "largest share of the bar": max(a / b for a, b in zip(apart, bar, strict=True)),
        "within": all(a <= b for a, b in zip(apart, bar, strict=True)),
    }


def _validation(run) -> list[float]:
    return [v["loss"] for v in run.validations]


def _interval_seconds(run) -> list[float]:
    ends = [v["seconds"] for v in run.validations]
    return [end - start for start, end in zip([0.0, *ends], ends, strict=False)]


def show(runs: dict, comparison: dict | None, sample: str, out: Path, per_step: int) -> None:
    """Print it. `per_step`: characters of a training step."""
    console = Console(highlight=False)
    table = Table("library", "training loss", "validation loss", "perplexity", "time", "chars/s")
    for run in (runs[name] for name in ("torch", "seqcuda") if name in runs):
        last = run.validations[-1]["loss"]
        table.add_row(
            {"torch": "torch.nn"}.get(run.name, run.name), f"{run.losses[-1]:.4f}", f"{last:.4f}",
            f"{math.exp(last):.2f}", f"{run.seconds:.1f} s", f"{len(run.losses) * per_step / run.seconds:,.0f}",
        )  # fmt: skip
    console.print(table)
    if comparison:
        for line in _comparison_lines(comparison):
            console.print(line, soft_wrap=True)
    if sample:
        console.rule("sample")
        console.print(sample, markup=False, soft_wrap=True)
        console.rule()
    console.print(f"written: {out / 'loss.png'}, {out / 'metrics.json'}, {out / 'checkpoint.pt'}", soft_wrap=True)


def _comparison_lines(comparison: dict) -> list[str]:
    ratio = comparison["ratio"]
    lines = [
        f"time, torch.nn / seqcuda: {ratio['median']:.2f} (median of {ratio['pairs']} stretches trained in turn; "
        f"quartiles {ratio['low']:.2f} to {ratio['high']:.2f})"
    ]
    for check in comparison["checks"]:
        verdict = "within the rule" if not check["broken"] else "NOT within the rule: " + "; ".join(check["broken"])
        lines.append(
            f"loss and gradients at step {check['step']}, same weights: error against float64 {check['ours']:.1e}, "
            f"torch.nn's {check['torch']:.1e}: {verdict}"
        )
    for name, curve in comparison["curves"].items():
        lines.append(
            f"{name} loss, whole training: largest difference {curve['largest difference']:.1e}, bar "
            f"{curve['bar at the end']:.1e}: {'within it' if curve['within'] else 'NOT within it'} at every point"
        )
    if comparison["curves"]:
        lines.append(
            f"(the bar: {agreement.CHANCE} times how far torch.nn parts from itself, by then, when its hidden units "
            "are numbered otherwise: the same network, rounded in another order)"
        )
    lines.append("the two trainings are equal within these bounds" if comparison["equal"] else "NOT EQUAL")
    return lines


def write(out: Path, runs: dict, comparison: dict | None, more: dict) -> None:
    """metrics.json, with `more` beside what is known here, and loss.png."""
    measured = {
        name: {"seconds": run.seconds, "losses": run.losses, "validations": run.validations}
        for name, run in runs.items()
    }
    write_json(out / "metrics.json", {**more, "runs": measured, "comparison": comparison})
    with picture(out / "loss.png", columns=2) as (by_step, by_time):
        for name, style in (("torch", "-"), ("seqcuda", "--" if "torch" in runs else "-")):
            if name not in runs:
                continue
            run, label = runs[name], {"torch": "torch.nn"}.get(name, name)
            by_step.plot(range(1, len(run.losses) + 1), run.losses, style, color=COLOURS[name], alpha=0.35, lw=1)
            for panel, key in ((by_step, "step"), (by_time, "seconds")):
                points = [v[key] for v in run.validations], _validation(run)
                panel.plot(*points, style, color=COLOURS[name], label=label, marker="o", ms=3)
        by_step.set(xlabel="training step", ylabel="loss, nats per character", title="training (thin), validation")
        by_time.set(xlabel="seconds of training", ylabel="validation loss", title="the same over time")
        by_time.legend(frameon=False)
