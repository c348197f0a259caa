"""Text: reading files, words, and numbers for characters or words."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from torch import Tensor

from .cli import fail

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<s>", "</s>"
_tokenizer = Tokenizer13a()


def read(path: Path | str, encodings: tuple[str, ...] = ("utf-8-sig",)) -> str:
    """A text file, plain or gzip (told by its first bytes), in the first of `encodings` that it is valid in; what is
    none is one sentence and exit status 2."""
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except FileNotFoundError:
        fail(f"there is no file {path}")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        fail(f"{path} begins like a gzip file and cannot be unpacked")
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    text = _decoded(path, data, encodings).replace("\r\n", "\n")
    if control := re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        fail(f"{path} is a binary file or a text of another encoding (it holds the control character {control[0]!r})")
    if not text.strip():
        fail(f"{path} is empty")
    return text


def _decoded(path: Path | str, data: bytes, encodings: tuple[str, ...]) -> str:
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            place = error.start
    names = " or ".join(encoding.upper().removesuffix("-SIG") for encoding in encodings)
    fail(f"{path} is not {names} text (byte {place} does not belong there)")


def find(folder: Path | str, pattern: str, *, needed: bool = True) -> Path | None:
    """The first file in `folder` whose name fits the pattern, as it is or gzip'd."""
    if not Path(folder).is_dir():
        fail(f"there is no folder {folder}")
    found = sorted([*Path(folder).glob(pattern), *Path(folder).glob(f"{pattern}.gz")])
    if not found and needed:
        fail(f"the folder {folder} has no file {pattern} or {pattern}.gz")
    return found[0] if found else None


def digest(content: object) -> str:
    """A short name for data, by which a checkpoint knows them again."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def words(line: str) -> list[str]:
    """The words and punctuation marks of a line, in lower case: the tokenizer "13a" of BLEU."""
    return _tokenizer(line).lower().split()


class Vocabulary:
    """Tokens, characters or words, as numbers: the `special` ones first, then by frequency.

    Only tokens that occur `at_least` times are taken. With UNKNOWN among the special ones it stands for all others;
    without it another token is a KeyError.
    """

    def __init__(self, tokens: Iterable[str], *, special: tuple[str, ...] = (), at_least: int = 1):
        counts = Counter(tokens)
        by_frequency = sorted((t for t, n in counts.items() if n >= at_least), key=lambda t: (-counts[t], t))
        self.tokens = [*special, *(t for t in by_frequency if t not in special)]
        self._index = {t: i for i, t in enumerate(self.tokens)}
        self._unknown = self._index.get(UNKNOWN)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._index

    def __getitem__(self, token: str) -> int:
        return self._index[token] if self._unknown is None else self._index.get(token, self._unknown)

    def encode(self, tokens: Iterable[str]) -> Tensor:
        """(number of tokens,) int64."""
        return torch.tensor([self[t] for t in tokens], dtype=torch.long)

    def decode(self, indices: Iterable[int]) -> list[str]:
        return [self.tokens[i] for i in indices]
