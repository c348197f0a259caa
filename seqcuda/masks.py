"""Random masks that are a function of where they are used: of a seed, a layer, and step, row and unit.

The generator is Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3":

    key      the seed, its low word first
    counter  unit // 4, row, step, stream, of 32 bits each
    number   word unit % 4 of the four words that come out

with ``stream = 4 * layer + kind``. Rows count in the caller's order of the batch, units through both directions. So a
mask depends neither on the size of the batch nor on packing or padding, and every backend draws the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _backend

KINDS = ("recurrent dropout", "zoneout of h", "zoneout of c", "weight dropout")

_LOW = 0xFFFFFFFF


def new_seed(device: torch.device) -> Tensor:
    """An int64 scalar, from torch's default generator for `device`."""
    return torch.randint(2**63 - 1, (), device=device)


def mask(
    seed: Tensor, layer: int, kind: str, shape: tuple[int, int, int], probability: float, hit: float, miss: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """``(steps, rows, units)``, a `shape`: `hit` with this probability, else `miss`. dtype: float32 or float64."""
    stream = len(KINDS) * layer + KINDS.index(kind)
    if seed.device.type in _backend.devices():
        return torch.ops.seqcuda.mask.default(seed, stream, *shape, probability, hit, miss, dtype)
    return reference(seed, stream, shape, probability, hit, miss, dtype)


def reference(
    seed: Tensor, stream: int, shape: tuple[int, int, int], probability: float, hit: float, miss: float,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The op `seqcuda::mask` in torch."""
    steps, rows, units = (torch.arange(n, device=seed.device) for n in shape)
    groups = torch.arange((shape[2] + 3) // 4, device=seed.device)
    t, b, group = torch.meshgrid(steps, rows, groups, indexing="ij")
    words = philox((group, b, t, torch.full_like(t, stream)), (seed & _LOW, (seed >> 32) & _LOW))
    numbers = torch.stack(words, -1).flatten(2)[..., : len(units)]
    yes, no = (torch.tensor(value, dtype=dtype, device=seed.device) for value in (hit, miss))
    return torch.where(numbers < round(probability * 2**32), yes, no)


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words from a counter of four and a key of two; words are int64 tensors from 0 to 2^32 - 1."""

    def product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
        """High and low word of a * b, which wraps around in int64."""
        whole = a * b
        return (whole >> 32) & _LOW, whole & _LOW

    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        (high0, low0), (high1, low1) = product(c0, 0xD2511F53), product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3
