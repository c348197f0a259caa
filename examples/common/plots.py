"""Pictures, as PNG files, without a display."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from .files import replacing

COLOURS = ("#6b7280", "#d9480f")  # of the rival, of ours
COLOURS_OF_CELLS = {"rnn": "#2f9e44", "gru": "#1971c2", "lstm": "#d9480f"}
matplotlib.use("Agg")


@contextlib.contextmanager
def picture(path: Path, *, columns: int = 1, width: float = 5.5, height: float = 4.0) -> Iterator[list]:
    """The axes of one row of panels; written to `path` when the ``with`` block ends."""
    figure = Figure(figsize=(width * columns, height), layout="constrained", dpi=120)
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    yield axes
    with replacing(path) as temporary:
        figure.savefig(temporary)
