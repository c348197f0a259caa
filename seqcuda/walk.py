"""The arguments of one walk over time, in one place: what `autograd.sequence`, `reference.sequence` and the
compiled ops all take.

Legend of shapes, used in every docstring of the package:

    T steps, B rows of the batch, I input features, H hidden units, P width of h (H, or proj_size),
    G gates and S states of the cell, D directions (1 or 2), N rows of packed data.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cells import Cell

# weight_ih (G*H, I), weight_hh (G*H, P) or, with heads, (G*H, H/heads), bias_ih, bias_hh (G*H), weight_hr (P, H),
# weight_unit (U*H), U unit weights
WEIGHTS_PER_DIRECTION = 6


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of computation of data: its own, but float32 for float16 and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Walk(NamedTuple):
    """One layer: a cell walked over time in one direction, or in both at once.

    Attributes:
        cell: which cell.
        reverse: one flag for each direction; True walks from the last step to the first.
        save: what the forward keeps for the backward: "nothing" (inference), "states" (lean: the gates are
            computed again in the backward), "all" (fast: the activated gates are kept) or a number of steps, as in
            "16": the states beside h after every so many steps at most, all others are computed again.
        return_states: the states beside h of all steps are wanted as a result.
        return_gates: the activated gates of all steps are wanted as a result.
        detach_every: the gradient of the state ends between steps ``j * detach_every - 1`` and ``j * detach_every``,
            in every direction; 0: nowhere.
    """

    cell: Cell
    reverse: tuple[bool, ...] = (False,)
    save: str = "all"
    return_states: bool = False
    return_gates: bool = False
    detach_every: int = 0

    @property
    def directions(self) -> int:
        return len(self.reverse)

    @property
    def keeps_states(self) -> bool:
        """Of all steps."""
        return self.save in ("states", "all")


class Factors(NamedTuple):
    """What happens to the state s = h, c on its way through step t, besides the cell; nothing where None::

        s' = decay (is reset ? the reset state : s of the step before)   enters the step
        drop h'                                                          stands for h' in the products with weight_hh
        s = keep s' + (1 - keep) new                                     leaves it; new is what the cell gives for s'

    In the type of computation: float32 for float16 and bfloat16 data. Where a factor is the same for all steps or rows
    it may be expanded, without memory of its own. The decays are differentiable.

    Attributes:
        decay_h, drop, keep_h: ``(T, B, D, P)``, B in the order of h0 also for packed data.
        decay_c, keep_c: ``(S-1, T, B, D, H)``.
    """

    decay_h: Tensor | None = None
    decay_c: Tensor | None = None
    drop: Tensor | None = None
    keep_h: Tensor | None = None
    keep_c: Tensor | None = None

    @property
    def has_keep(self) -> bool:
        return self.keep_h is not None or self.keep_c is not None


class Inputs(NamedTuple):
    """The tensors of a walk.

    The compiled ops take several layers at once as well, the members of a vmap: then every tensor but ``batch_sizes``
    has one dimension more, the first, and so has every result. What they share is expanded.

    Attributes:
        x: padded ``(T, B, I)`` or, with ``batch_sizes``, packed ``(N, I)``.
        weights: six per direction: ``weight_ih (G*H, I)``, ``weight_hh (G*H, P)``, ``(G*H, H/heads)`` where it is the
            blocks of a block-diagonal matrix, one below the other, None for a cell without a recurrent product,
            ``bias_ih``, ``bias_hh`` ``(G*H)`` or None, ``weight_hr (P, H)`` or None,
            ``weight_unit (U*H)`` of a cell with U unit weights, or None.
        h0: ``(D, B, P)`` or None for zeros.
        c0: the states beside h, ``(S-1, D, B, H)``, or None for zeros.
        lengths: ``(B,)`` int64 on any device: row b takes part in the steps t < lengths[b]; elsewhere its
            output is 0 and its state is kept. None: all steps. Not together with ``batch_sizes``.
        batch_sizes: ``(T,)`` int64 on the CPU, not increasing, as in a PackedSequence; None for padded data.
        resets: ``(T, B)`` bool: where true at t, the state that enters step t is the reset state, in
            whichever direction the walk goes; ignored past a row's length. Packed data: ``(N,)``, beside the
            rows of x.
        reset_h: ``(D, B, P)`` or None for zeros.
        reset_c: ``(S-1, D, B, H)`` or None for zeros.
        factors: see `Factors`.
    """

    x: Tensor
    weights: tuple[Tensor | None, ...]
    h0: Tensor | None = None
    c0: Tensor | None = None
    lengths: Tensor | None = None
    batch_sizes: Tensor | None = None
    resets: Tensor | None = None
    reset_h: Tensor | None = None
    reset_c: Tensor | None = None
    factors: Factors = Factors()

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors in a fixed order, weights last."""
        return (
            self.x, self.h0, self.c0, self.lengths, self.batch_sizes,
            self.resets, self.reset_h, self.reset_c, *self.factors, *self.weights,
        )  # fmt: skip

    @staticmethod
    def from_tensors(tensors: tuple[Tensor | None, ...]) -> Inputs:
        x, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, *rest = tensors
        n = len(Factors._fields)
        factors, weights = Factors(*rest[:n]), tuple(rest[n:])
        return Inputs(x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, factors)


class Outputs(NamedTuple):
    """What a walk gives back.

    Attributes:
        y: h of all steps, ``(T, B, D*P)`` or packed ``(N, D*P)``; 0 past a row's length.
        h_n: ``(D, B, P)``.
        c_n: ``(S-1, D, B, H)``.
        c_all: with ``return_states``: the states beside h of all steps, ``(S-1, D, T, B, H)`` or packed
            ``(S-1, D, N, H)``; undefined past a row's length. Float16 and bfloat16 data: float32.
        gates: the activated gates, ``(D, T, B, G*H)`` or packed, detached, where they were asked for;
            undefined past a row's length.
    """

    y: Tensor
    h_n: Tensor
    c_n: Tensor
    c_all: Tensor | None = None
    gates: Tensor | None = None


def hidden_and_width(cell: Cell, weights: tuple[Tensor | None, ...]) -> tuple[int, int]:
    """H and P, as the weights say."""
    w_ih, w_hr = weights[0], weights[4]
    hidden = w_ih.shape[-2] // cell.gates
    return hidden, hidden if w_hr is None else w_hr.shape[-2]


def packed_alive(batch_sizes: Tensor) -> Tensor:
    """``(T, B)``, on the CPU: which rows of packed data take part in which step."""
    return torch.arange(int(batch_sizes[0]), device="cpu") < batch_sizes[:, None]


def packed_rows(batch_sizes: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Step and row of the batch, each ``(N,)`` on `device`, of every row of packed data."""
    t, b = packed_alive(batch_sizes).nonzero(as_tuple=True)
    return t.to(device, non_blocking=True), b.to(device, non_blocking=True)
