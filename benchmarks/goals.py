"""What is wanted of a benchmark's figures, and how a page shows it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .tables import Column, columns


@dataclass(frozen=True)
class Goal:
    """A bound, "at least" or "at most", and what was measured: a figure and the case it is of, for each label."""

    what: str
    bound: str
    wanted: float
    measured: dict[str, tuple[float, str]]

    @property
    def met(self) -> bool | None:
        """None: nothing was measured. A figure counts as it is shown, with two decimals."""
        if not self.measured:
            return None
        figures = [round(figure, 2) for figure, _ in self.measured.values()]
        return min(figures) >= self.wanted if self.bound == "at least" else max(figures) <= self.wanted

    def as_row(self) -> dict:
        """As JSON has it."""
        measured = {label: {"figure": figure, "case": case} for label, (figure, case) in self.measured.items()}
        return {
            "goal": self.what, "bound": self.bound, "wanted": self.wanted, "measured": measured, "met": self.met,
        }  # fmt: skip


def lowest(rows: list[dict], figure: str) -> tuple[float, str]:
    row = min(rows, key=lambda row: value(row, figure))
    return value(row, figure), row["case"]


def highest(rows: list[dict], figure: str) -> tuple[float, str]:
    row = max(rows, key=lambda row: value(row, figure))
    return value(row, figure), row["case"]


def geometric_mean(rows: list[dict], figure: str) -> tuple[float, str]:
    return statistics.geometric_mean(value(row, figure) for row in rows), ""


def value(row: dict, figure: str) -> float:
    """A figure of a row; of a ratio its median."""
    found = row[figure]
    return found["median"] if isinstance(found, dict) else found


def plural(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


VERDICTS = {True: "yes", False: "**no**", None: "not measured"}


def measured(goal: dict) -> str:
    """Each figure with its label and the case it is of."""
    parts = []
    for label, found in goal["measured"].items():
        case = f" ({found['case']})" if found["case"] else ""
        parts.append(f"{label}: {found['figure']:.2f}{case}" if label else f"{found['figure']:.2f}{case}")
    return "; ".join(parts)


GOAL = (
    *columns("goal"),
    Column("wanted", lambda goal: f"{goal['bound']} {goal['wanted']:g}"),
    Column("measured", measured),
    Column("met", lambda goal: VERDICTS[goal["met"]]),
)


def summary(goals: list[dict]) -> str:
    judged = [goal["met"] for goal in goals if goal["met"] is not None]
    return f"{sum(judged)} of {plural(len(judged), 'goal')} that were measured are met."
