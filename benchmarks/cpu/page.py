"""The page of a run: the goals first, then every section's table."""

from __future__ import annotations

import textwrap

from ..goals import GOAL, summary
from ..tables import columns, heading, table
from .section import Section

GOALS = (*columns("section"), *GOAL)


def markdown(result: dict, sections: tuple[Section, ...], picture: str | None = None) -> str:
    """The page of a result as JSON has it; `picture` is the file of growth, beside the page."""
    goals, found = result["goals"], result["sections"]
    lines = [*heading(result, "python -m benchmarks.cpu"), ""]
    if result["quick"]:
        lines += ["A quick look with small sizes, which says nothing about the goals.", ""]
    if result["interrupted"]:
        lines += ["Interrupted: what was not reached is missing.", ""]
    lines += ["## Goals", "", summary(goals), ""]
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
