"""What a step of the recurrence may cost: the estimate that measurements are held against.

For an LSTM's forward in bfloat16 on an H200, from the rates of its matrix units, of shared memory between the
multiprocessors of a cluster and of L2, with a margin of 1.35. Other cells and types by a factor, the middle of what was
estimated for them. It holds the recurrence alone, neither the input product nor the gradients of the weights.
"""

from __future__ import annotations

import math

from .grid import FORMS, Point

HIDDEN = (64, 128, 256, 512, 768, 1024, 2048)
ROWS = (1, 8, 32, 64, 128, 256)
MICROSECONDS = (  # a line for each of HIDDEN, a column for each of ROWS
    (0.47, 0.47, 0.47, 0.47, 0.47, 0.50),
    (0.58, 0.58, 0.59, 0.60, 0.65, 0.70),
    (0.63, 0.63, 0.69, 0.73, 0.85, 1.04),
    (0.85, 0.85, 0.90, 1.25, 1.35, 2.18),
    (1.25, 1.25, 1.31, 1.73, 2.78, 3.99),
    (1.75, 1.77, 1.86, 2.59, 4.05, 5.95),
    (2.4, 2.4, 4.3, 6.9, 11, 20),
)
DTYPE = {"bfloat16": 1.0, "float16": 1.0, "tf32": 1.6}
CELL = {"lstm": 1.0, "gru": 0.87}
MODE = {"inference": 1.0, "training": 1.0 + 1.15}  # the backward's recurrence costs 0.9 to 1.4 of the forward's


def step(point: Point) -> float | None:
    """Microseconds of a step of all layers; both directions run at once. None where there is no estimate."""
    if point.dtype not in DTYPE or point.cell not in CELL:
        return None
    lstm = math.exp(_between(ROWS, [math.log(_of_hidden(point.H, j)) for j in range(len(ROWS))], point.B))
    return lstm * DTYPE[point.dtype] * CELL[point.cell] * MODE[point.mode] * FORMS[point.form][0]


def _of_hidden(H: int, column: int) -> float:
    return math.exp(_between(HIDDEN, [math.log(line[column]) for line in MICROSECONDS], H))


def _between(places: tuple[int, ...], values: list[float], at: int) -> float:
    """Linear in the logarithm of the place."""
    for (left, low), (right, high) in zip(
        zip(places, values, strict=True), zip(places[1:], values[1:], strict=False), strict=False
    ):
        if at <= right:
            return low + (high - low) * math.log(at / left) / math.log(right / left)
    raise ValueError(f"the model ends at {places[-1]}, got {at}")
