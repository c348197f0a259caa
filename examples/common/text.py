"""A long text as numbers, cut for truncated backpropagation through time."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .cli import fail

SHORTEST = 1000  # characters; below it there is nothing to learn


def read(path: str) -> str:
    """A UTF-8 text file, plain or gzip (told by its first bytes); what is none is one sentence and exit status 2."""
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        fail(f"there is no text file {path}")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        fail(f"{path} begins like a gzip file and cannot be unpacked")
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 text (byte {error.start} does not belong there)")
    if "\0" in text:
        fail(f"{path} is a binary file, not a text")
    if not text.strip():
        fail(f"{path} is empty")
    if len(text) < SHORTEST:
        fail(f"{path} is too short: {len(text)} characters, at least {SHORTEST} are needed")
    return text


class Vocabulary:
    """The characters of a text, in a fixed order."""

    def __init__(self, text: str):
        self.characters = "".join(sorted(set(text)))
        self._index = {c: i for i, c in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """(len(text),) int64. A character that is not in the vocabulary is a KeyError."""
        return torch.tensor([self._index[c] for c in text])

    def decode(self, indices: list[int]) -> str:
        return "".join(self.characters[i] for i in indices)


class Streams:
    """A text as `batch` streams read side by side, `length` characters at a time.

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
        """Input and target, one character later, of training step `step`: (length, batch) int64 each."""
        start = step % self.windows * self.length
        return self._streams[start : start + self.length], self._streams[start + 1 : start + self.length + 1]
