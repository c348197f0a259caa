"""Which layers are measured, the most important first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from seqcuda.shapes import Case, Shape

# Of each axis the most important first.
DTYPES = ("bfloat16", "tf32", "float16", "float32")
CELLS = ("lstm", "gru", "rnn")
HIDDEN = (512, 256, 1024, 768, 128, 64, 2048, 192, 160)
ROWS = (32, 8, 1, 64, 128, 256)
STEPS = (128, 1024, 16, 1)
MODES = ("inference", "training")
FORMS = {  # layers, directions
    "plain": (1, 1),
    "bidirectional": (1, 2),
    "packed": (1, 1),
    "stacked": (3, 1),
}
PACKED_STEPS = 1000


@dataclass(frozen=True)
class Point:
    """One layer, or a stack, with as many input features as hidden units. dtype: as torch names it, or tf32."""

    dtype: str
    cell: str
    H: int
    B: int
    T: int
    mode: str
    form: str = "plain"

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.cell}, {self.form}, {self.mode}, H={self.H} B={self.B} T={self.T}"

    @property
    def case(self) -> Case:
        layers, directions = FORMS[self.form]
        return Case(Shape(self.form, self.T, self.B, self.H, self.H, layers, directions), self.cell, self.mode)


# The point that FlashRNN was published with.
FLASH_RNN = [Point(dtype, "lstm", 768, 16, 1024, mode) for dtype in ("bfloat16", "float16") for mode in MODES]


def plain() -> list[Point]:
    return [Point(*sizes) for sizes in itertools.product(DTYPES, CELLS, HIDDEN, ROWS, STEPS, MODES)]


def other_forms() -> list[Point]:
    """Stacked, bidirectional and packed ones of some sizes."""
    points = []
    for form in FORMS:
        for dtype, cell, H, B, mode in itertools.product(DTYPES, CELLS, HIDDEN[:3], ROWS[:2], MODES):
            if form != "plain":
                points.append(Point(dtype, cell, H, B, PACKED_STEPS if form == "packed" else STEPS[0], mode, form))
    return points


def importance(point: Point) -> int:
    """How far from the most important: the sum of the places on all axes, the sizes that no axis has being first."""
    axes = (DTYPES, CELLS, HIDDEN, ROWS, STEPS, MODES, tuple(FORMS))
    values = (point.dtype, point.cell, point.H, point.B, point.T, point.mode, point.form)
    return sum(axis.index(value) for axis, value in zip(axes, values, strict=True) if value in axis)


def points() -> list[Point]:
    """All, in the order in which they are measured."""
    return FLASH_RNN + sorted(plain() + other_forms(), key=importance)
