"""The factors of a layer's walk (`walk.Factors`) and the mask on its weights, from the options of a stack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .forms import Form
from .masks import mask
from .walk import WEIGHTS_PER_DIRECTION, Factors, compute_dtype


def decays_in(form: Form, decay: tuple[Tensor | None, ...], widths: tuple[int, ...], D: int, dtype: torch.dtype):
    """`decay`, for every state a tensor as `forward` takes it or None, as decay_h and decay_c of every layer."""
    h, *others = (
        None if part is None else form.decay_in(part.to(dtype), width).unsqueeze(2)
        for part, width in zip(decay, widths, strict=True)
    )
    decay_h = None if h is None else h.expand(-1, -1, D, -1)
    if not others or others[0] is None:
        return decay_h, None
    return decay_h, others[0].expand(len(others), -1, -1, D, -1)


@dataclass(frozen=True)
class Room:
    """What happens in one call to the states between the steps, besides the cells.

    Attributes:
        widths: of h and of each state beside it.
        dtype: of the factors.
        decays: decay_h and decay_c, for all layers.
        recurrent_dropout, zoneout: probabilities, `zoneout` of h and of c.
        seed: of the masks; None: in inference, where zoneout is its expectation and dropout is nothing.
    """

    form: Form
    widths: tuple[int, ...]
    directions: int
    dtype: torch.dtype
    decays: tuple[Tensor | None, Tensor | None]
    recurrent_dropout: float
    zoneout: tuple[float, float]
    seed: Tensor | None

    def factors(self, layer: int) -> Factors:
        keep_h = self._keep(layer, 0)
        keep_c = self._keep(layer, 1) if len(self.widths) > 1 else None
        if keep_c is not None:
            keep_c = keep_c.expand(len(self.widths) - 1, *keep_c.shape)
        return Factors(*self.decays, self._drop(layer), keep_h, keep_c)

    def _drop(self, layer: int) -> Tensor | None:
        """One mask for all steps of a row."""
        p = self.recurrent_dropout
        if p == 0 or self.seed is None:
            return None
        drop = self._draw(layer, "recurrent dropout", 1, self.widths[0], p, 0.0, survivor(p))
        return drop.expand(self.form.steps, -1, -1, -1)

    def _keep(self, layer: int, state: int) -> Tensor | None:
        z, width = self.zoneout[state], self.widths[state]
        if z == 0:
            return None
        if self.seed is None:
            expected = torch.full((width,), z, dtype=self.dtype, device=self.form.x.device)
            return expected.expand(self.form.steps, self.form.batch, self.directions, width)
        return self._draw(layer, f"zoneout of {'hc'[state]}", self.form.steps, width, z, 1.0, 0.0)

    def _draw(self, layer: int, kind: str, steps: int, width: int, p: float, hit: float, miss: float) -> Tensor:
        """``(steps, B, D, width)``, B in the order of the rows of x."""
        shape = (steps, self.form.batch, self.directions * width)
        drawn = mask(self.seed, layer, kind, shape, p, hit, miss, _real(self.dtype))
        return self.form.rows_in(drawn, 1).unflatten(2, (self.directions, width))


def _real(dtype: torch.dtype) -> torch.dtype:
    """The type of a complex number's parts; torch.compile does not know dtype.to_real."""
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def survivor(p: float) -> float:
    """What a number that dropout leaves is multiplied by."""
    return 1 / (1 - p) if p < 1 else 0.0


def with_weight_dropout(weights: tuple[Tensor | None, ...], layer: int, p: float, seed: Tensor | None):
    """The weights of a layer, each weight_hh with a mask of this call."""
    if p == 0 or seed is None:
        return weights
    w_hh = weights[1::WEIGHTS_PER_DIRECTION]
    rows, columns = w_hh[0].shape
    shape = (1, len(w_hh) * rows, columns)
    dtype = _real(compute_dtype(w_hh[0].dtype))
    masks = mask(seed, layer, "weight dropout", shape, p, 0.0, survivor(p), dtype)[0].split(rows)
    dropped = list(weights)
    dropped[1::WEIGHTS_PER_DIRECTION] = [w * m.to(w.dtype) for w, m in zip(w_hh, masks, strict=True)]
    return tuple(dropped)
