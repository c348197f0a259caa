"""Batches as functions of the training step: rows of like length, or windows of one long text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

POOL = 50  # batches that are drawn together and sorted by length


class ByLength:
    """The rows of a data set in batches of like length, in another order in every epoch."""

    def __init__(self, lengths: list[int], batch: int, seed: int):
        self._lengths, self._batch, self._seed = torch.tensor(lengths), batch, seed
        self.per_epoch = -(-len(lengths) // batch)
        self._epoch, self._batches = -1, ()

    def rows(self, step: int) -> list[int]:
        """The rows of training step `step`."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._drawn(epoch)
        return self._batches[place].tolist()

    def _drawn(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._lengths), generator=generator)
        pools = [pool[self._lengths[pool].argsort(stable=True)] for pool in order.split(POOL * self._batch)]
        batches = torch.cat(pools).split(self._batch)
        return [batches[k] for k in torch.randperm(len(batches), generator=generator)]


def in_order(rows: int, batch: int) -> list[range]:
    """All rows once, for validation."""
    return [range(start, min(start + batch, rows)) for start in range(0, rows, batch)]


def padded(sequences: list[Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Sequences (T_b, ...) as one tensor (T, B, ...), filled up with `value`, and their lengths (B,)."""
    return pad_sequence(sequences, padding_value=value), torch.tensor([len(s) for s in sequences])


class Streams:
    """A text as `batch` streams read side by side, `length` tokens at a time.

    Window w continues where window w - 1 ended, in every stream, so that the state can be carried from one to the
    next; after the last window of a round the text begins again, with a new state.
    """

    def __init__(self, codes: Tensor, batch: int, length: int, device: torch.device):
        per_stream = codes.numel() // batch
        self.windows = (per_stream - 1) // length  # of a round
        self.length = length
        self._streams = codes[: per_stream * batch].view(batch, per_stream).t().contiguous().to(device)

    def starts_round(self, step: int) -> bool:
        return step % self.windows == 0

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Input and target, one token later, of training step `step`: (length, batch) int64 each."""
        start = step % self.windows * self.length
        return self._streams[start : start + self.length], self._streams[start + 1 : start + self.length + 1]
