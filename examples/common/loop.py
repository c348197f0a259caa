"""What a training loop needs around the model."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import Tensor
from tqdm import tqdm


class Interrupt:
    """``with Interrupt() as interrupt:`` Ctrl-C sets `interrupt.asked`, so that the loop can finish its step, save
    and end; a second Ctrl-C stops at once."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def progress(total: int, done: int, title: str) -> tqdm:
    """A bar on stderr, where that is a terminal, and of several processes by the first; elsewhere nothing is drawn."""
    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    return tqdm(total=total, initial=done, desc=title, unit="step", dynamic_ncols=True, disable=not shown)


def clock(device: torch.device) -> float:
    """Seconds, after everything queued on the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def detached(state: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...] | None:
    """The state a truncated backpropagation carries on: its values, without its graph."""
    if isinstance(state, tuple):
        return tuple(s.detach() for s in state)
    return None if state is None else state.detach()
