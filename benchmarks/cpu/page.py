"""The page of a run: the goals first, then every section's table."""

from __future__ import annotations

import textwrap

from ..tables import Column, columns, heading, table
from .section import Section, plural

VERDICTS = {True: "yes", False: "**no**", None: "not measured"}


def measured(goal: dict) -> str:
    """Each figure with its label and the case it is of."""
    parts = []
    for label, found in goal["measured"].items():
        case = f" ({found['case']})" if found["case"] else ""
        parts.append(f"{label}: {found['figure']:.2f}{case}" if label else f"{found['figure']:.2f}{case}")
    return "; ".join(parts)


GOALS = (
    *columns("section", "goal"),
    Column("wanted", lambda goal: f"{goal['bound']} {goal['wanted']:g}"),
    Column("measured", measured),
    Column("met", lambda goal: VERDICTS[goal["met"]]),
)


def markdown(result: dict, sections: tuple[Section, ...], picture: str | None = None) -> str:
    """The page of a result as JSON has it; `picture` is the file of growth, beside the page."""
    goals, found = result["goals"], result["sections"]
    judged = [goal["met"] for goal in goals if goal["met"] is not None]
    lines = [*heading(result, "python -m benchmarks.cpu"), ""]
    if result["quick"]:
        lines += ["A quick look with small sizes, which says nothing about the goals.", ""]
    if result["interrupted"]:
        lines += ["Interrupted: what was not reached is missing.", ""]
    lines += ["## Goals", "", f"{sum(judged)} of {plural(len(judged), 'goal')} that were measured are met.", ""]
    lines += table(GOALS, goals)
    for section in sections:
        if section.name not in found:
            continue
        part = found[section.name]
        lines += ["", f"## {section.name}", "", textwrap.fill(section.about, 118), ""]
        if part["missing"]:
            lines += [f"Not measured: {part['missing']}."]
            continue
        if section.name == "growth" and picture:
            lines += [f"![Time of a step over the steps, the rows and the hidden units]({picture})", ""]
        lines += table(section.columns, part["rows"])
    return "\n".join(lines) + "\n"
