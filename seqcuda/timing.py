"""Timing of two calls in turn, A B B A A B ..., so that whatever else the machine does meets both alike."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator

import torch

SAMPLE = 2e-3  # seconds a timed sample lasts at least, by calling again
WARM = 0.02  # seconds of warm-up of each call, where all may take that long
FEWEST = 5  # pairs, whatever the time
MOST = 2000


def pair(
    a: Callable[[], object],
    b: Callable[[], object],
    seconds: float,
    synchronise: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    *,
    sample: float = SAMPLE,
    fewest: int = FEWEST,
    rest: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[float]]:
    """Seconds per call of `a` and of `b`, timed in turn for about `seconds` after a warm-up.

    Args:
        sample: seconds that each timed sample lasts at least, by calling again.
        fewest: pairs, whatever the time.
        rest: called before every sample, not timed.
    """

    def timed(call: Callable[[], object], times: int) -> float:
        rest()
        return per_call(call, times, synchronise, clock)

    return in_turn(a, b, seconds, timed, sample, fewest)


def per_call(
    call: Callable[[], object],
    times: int,
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds per call, of so many."""
    synchronise()
    start = clock()
    for _ in range(times):
        call()
    synchronise()
    return (clock() - start) / times


def synchronise_with(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done what it was given."""
    return (lambda: None) if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)


def in_turn(
    a: Callable[[], object],
    b: Callable[[], object],
    seconds: float,
    timed: Callable[[Callable[[], object], int], float],
    sample: float = SAMPLE,
    fewest: int = FEWEST,
    most: int = MOST,
) -> tuple[list[float], list[float]]:
    """The times of `a` and of `b`, A B B A A B ..., for about `seconds` after a warm-up.

    Args:
        timed: seconds per call of a function that it calls so many times.
        sample: seconds that each timed sample lasts at least, by calling again.
        fewest, most: pairs, whatever the time.
    """

    def warm_up(call: Callable[[], object]) -> float:
        """Seconds of a call once it is warm: a small one takes dozens of calls to come to its own time."""
        each = [timed(call, 1)]
        while len(each) < 3 and each[0] <= seconds or sum(each) < min(seconds, WARM):
            each.append(timed(call, 1))
        return statistics.median(each[-3:])

    rough = [warm_up(call) for call in (a, b)]
    times = [max(1, round(sample / max(once, 1e-9))) for once in rough]
    pairs = round(seconds / max(sum(n * once for n, once in zip(times, rough, strict=True)), 1e-9))
    of_a, of_b = [], []
    turn = [(a, times[0], of_a), (b, times[1], of_b)]
    with _no_garbage_collection():
        for _ in range(min(most, max(fewest, pairs))):
            for call, n, found in turn:
                found.append(timed(call, n))
            turn.reverse()
    return of_a, of_b


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect(1)  # a full one takes longer than many a case
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ratio(a: list[float], b: list[float]) -> dict:
    """The pairwise ratios a / b: median, quartiles (`low`, `high`), and how many pairs there were."""
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {"median": median, "low": low, "high": high, "pairs": len(ratios)}
