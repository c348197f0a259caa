"""The goals, and the page of a result."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from ..goals import GOAL, Goal, geometric_mean, highest, lowest, plural, summary
from ..run import RATIO_ALONE
from ..tables import Column, columns, heading, table
from .grid import PACKED_STEPS

GOAL_HIDDEN, GOAL_ROWS = range(256, 1025), range(65)
FASTER = {"inference": 3, "training": 2.5}  # geometric means
ABOUT = """\
Microseconds per step by CUDA events, medians of calls whose data were not in L2, with what the host takes to launch
them. The ratio is the time of torch.nn (cuDNN) over that of seqcuda, above 1 where seqcuda is faster: the median of
pairs timed in turn in one process, and its quartiles. Every engine that can run a layer is measured; "auto" says which
one is chosen. The share of the model is the estimate of benchmarks/cuda/model.py, for the recurrence alone on an H200,
over what was measured. Peak is what a call takes at most beside its input and weights, kept what training holds between
forward and backward, lean that with save="states". Results of the first steps are compared with float64 by the rule of
seqcuda/testing.py. Goals are judged by the fastest engine of each layer whose results are right."""


def goals(rows: list[dict]) -> Iterator[Goal]:
    best = fastest(rows)
    named = [r for r in best if r["dtype"] in ("bfloat16", "tf32") and r["H"] in GOAL_HIDDEN and r["B"] in GOAL_ROWS]
    for mode, wanted in FASTER.items():
        some = [r for r in named if r["mode"] == mode]
        yield _goal(
            f"bfloat16 and tf32, H 256 to 1024, B to 64, {mode}, mean", "at least", wanted, some, geometric_mean
        )
    yield _goal("the lowest of all layers", "at least", 1, best, lowest)
    packed = [r for r in best if r["form"] == "packed" and r["T"] == PACKED_STEPS]
    yield _goal("packed, the lowest", "at least", 5, packed, lowest)
    slow = [r | {"over": 1 / r["share of the model"]} for r in best if r["share of the model"]]
    yield _goal("time over the model, the highest", "at most", 1.5, slow, highest, "over")
    kept = [r | {"over": r["lean kept MB"] / r["torch kept MB"]} for r in best if r["mode"] == "training"]
    yield _goal("kept by lean training over torch.nn, the highest", "at most", 0.33, kept, highest, "over")


def _goal(what: str, bound: str, wanted: float, rows: list[dict], of: Callable, figure: str = "ratio") -> Goal:
    return Goal(what, bound, wanted, {"": of(rows, figure)} if rows else {})


def fastest(rows: Iterable[dict]) -> list[dict]:
    """Of each case the engine with the least time, of those that are right."""
    best: dict[str, dict] = {}
    for row in timed(rows):
        before = best.get(row["case"])
        if not row["wrong"] and (before is None or row["seqcuda us"] < before["seqcuda us"]):
            best[row["case"]] = row
    return list(best.values())


def timed(rows: Iterable[dict]) -> list[dict]:
    """Those that are not a failure."""
    return [row for row in rows if "error" not in row]


def kept(row: dict) -> str:
    if row["mode"] == "inference":
        return ""
    return " / ".join(f"{row[f'{name} kept MB']:.1f}" for name in ("torch", "seqcuda", "lean"))


def share(row: dict) -> str:
    return "" if row["share of the model"] is None else f"{row['share of the model']:.2f}"


COLUMNS = (
    *columns("dtype", "cell", "form", "mode"),
    *columns("H", "B", "T", right=True),
    Column("engine", lambda r: r["engine"] + ", auto" * r["chosen"]),
    Column("torch.nn us", lambda r: f"{r['torch us']:.2f}", right=True),
    Column("seqcuda us", lambda r: f"{r['seqcuda us']:.2f}", right=True),
    *RATIO_ALONE,
    Column("share of the model", share, right=True),
    Column("peak MB, torch.nn / ours", lambda r: f"{r['torch peak MB']:.1f} / {r['seqcuda peak MB']:.1f}", right=True),
    Column("kept MB, torch.nn / ours / lean", kept, right=True),
    Column("right", lambda r: "**no**" if r["wrong"] else "yes"),
)
ENGINES = (
    *columns("engine", "mode"),
    *columns("layers", "fastest", right=True),
    Column("ratio, mean", lambda r: f"{r['ratio']:.2f}", right=True),
    *columns("wrong", right=True),
)


def by_engine(rows: list[dict]) -> list[dict]:
    """How often each engine ran, was the fastest that is right, and was wrong."""
    won = Counter((r["engine"], r["mode"]) for r in fastest(rows))
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in timed(rows):
        groups.setdefault((row["engine"], row["mode"]), []).append(row)
    return [
        {
            "engine": key[0], "mode": key[1], "layers": len(group), "fastest": won[key],
            "ratio": statistics.geometric_mean(r["ratio"]["median"] for r in group),
            "wrong": sum(bool(r["wrong"]) for r in group),
        }
        for key, group in sorted(groups.items())
    ]  # fmt: skip


def markdown(result: dict) -> str:
    rows, missing = result["results"], result["not measured"]
    lines = [*heading(result, "python -m benchmarks.cuda"), "", ABOUT, ""]
    if result["stopped"]:
        lines += [f"Stopped early: {result['stopped']}.", ""]
    lines += ["## Goals", "", summary(result["goals"]), "", *table(GOAL, result["goals"]), ""]
    lines += ["## Engines", "", *table(ENGINES, by_engine(rows)), ""]
    lines += ["## Layers", "", *table(COLUMNS, timed(rows))]
    failed = [row for row in rows if "error" in row]
    wrong = [row for row in timed(rows) if row["wrong"]]
    if failed or wrong:
        lines += ["", "## Failures", ""]
        lines += [f"- {row['case']}: {row['error']}" for row in failed]
        lines += [f"- {row['case']}, {row['engine']}: {row['wrong']}" for row in wrong]
    if missing:
        groups = Counter(", ".join(name.split(", ")[:3]) for name in missing)
        lines += ["", "## Not measured", ""]
        lines += [f"{plural(len(missing), 'layer')} did not fit into the time. Each stands in the JSON file.", ""]
        lines += [f"- {name}: {count}" for name, count in groups.items()]
    return "\n".join(lines) + "\n"
