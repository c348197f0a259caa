"""Markdown of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """What a table shows of a row of results."""

    title: str
    text: Callable[[dict], str]
    right: bool = False


def columns(*keys: str, right: bool = False) -> tuple[Column, ...]:
    """A column for each of these keys of a row, as it stands."""
    return tuple(Column(key, lambda row, key=key: str(row[key]), right) for key in keys)


def table(columns: Iterable[Column], rows: Iterable[dict]) -> list[str]:
    columns = list(columns)

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [
        line(column.title for column in columns),
        "|" + "|".join("--:" if c.right else "---" for c in columns) + "|",
    ]
    return head + [line(column.text(row) for column in columns) for row in rows]


def heading(result: dict, command: str) -> list[str]:
    """The machine, the date, and what wrote the page."""
    m = result["machine"]
    facts = ", ".join(f"{name} {value}" for name, value in m.items() if name not in ("cpu", "cores"))
    return [
        f"# {m.get('gpu') or m['cpu']}, {m['cores']} cores",
        "",
        f"{result['date'][:10]}. {facts}.",
        f"Written by `{command}`.",
    ]


def median(ratio: dict) -> str:
    """The median; bold where three quarters of the pairs are above 1."""
    return f"**{ratio['median']:.2f}**" if ratio["low"] > 1 else f"{ratio['median']:.2f}"


def quartiles(ratio: dict) -> str:
    return f"{ratio['low']:.2f} to {ratio['high']:.2f}"
