"""The forms in which a batch of sequences comes: padded, unbatched, jagged and packed. Each knows its way to the one
form of `walk.Inputs` and back, so that nothing else in the package asks which form it has.

`T`, `B`, `L`, `D`: see seqcuda/walk.py; L is the number of layers.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import checks
from .walk import packed_alive, packed_rows


class Padded:
    """``(T, B, I)``, or ``(B, T, I)`` with `batch_first`."""

    batch_sizes = None

    def __init__(self, name: str, input: Tensor, input_size: int, batch_first: bool):
        checks.check_input(name, input, input_size, (2, 3))
        self.name = name
        self.batch_first = batch_first
        self.x = input.transpose(0, 1) if batch_first else input  # (T, B, I)
        self.steps, self.batch = self.x.shape[:2]
        self.lengths: Tensor | None = None

    def check_steps(self, lengths) -> None:
        """Takes `lengths`; without them there must be a first step, as in torch.nn."""
        if lengths is not None:
            self.lengths = checks.as_lengths(self.name, lengths, self.steps, self.batch, self.x.device)
        elif self.steps == 0:
            raise RuntimeError(
                f"{self.name}: Expected sequence length to be larger than 0 in RNN, got 0 steps; with lengths= that is "
                "no error"
            )

    def state_shape(self, layers: int, width: int) -> tuple[int, ...]:
        """The shape of a state argument of all layers and directions."""
        return (layers, self.batch, width)

    def state_in(self, state: Tensor) -> Tensor:
        """A state argument as ``(L*D, B, .)`` in the order of the rows of x."""
        return state

    def state_out(self, state: Tensor) -> Tensor:
        """The inverse of `state_in`, for any tensor ``(..., B, .)``."""
        return state

    def resets_in(self, resets) -> Tensor:
        """`resets` beside the rows of x: ``(T, B)``."""
        shape = (self.batch, self.steps) if self.batch_first else (self.steps, self.batch)
        resets = checks.as_resets(self.name, resets, shape, self.x.device)
        return resets.transpose(0, 1) if self.batch_first else resets

    def decay_in(self, decay, width: int) -> Tensor:
        """A `decay` of a state as ``(T, B, width)``, B in the order of the rows of x."""
        if self.batch_first:
            return checks.expanded_decay(self.name, decay, (self.batch, self.steps, width)).transpose(0, 1)
        return checks.expanded_decay(self.name, decay, (self.steps, self.batch, width))

    def rows_in(self, t: Tensor, dim: int) -> Tensor:
        """Any tensor whose dimension `dim` is B, in the order of the rows of x."""
        return t

    def output(self, y: Tensor) -> Tensor:
        return y.transpose(0, 1) if self.batch_first else y

    def pad(self, rows: Tensor) -> Tensor:
        """Values beside the rows of x as ``(T, B, ...)``."""
        return rows

    @property
    def alive(self) -> Tensor | None:
        """``(T, B)``: which rows take part in which step; None for all in all."""
        if self.lengths is None:
            return None
        return torch.arange(self.steps, device=self.x.device)[:, None] < self.lengths


class Unbatched(Padded):
    """``(T, I)``: a batch of one row, whose dimension the caller does not see."""

    def __init__(self, name: str, input: Tensor, input_size: int):
        super().__init__(name, input.unsqueeze(1), input_size, False)

    def check_steps(self, lengths) -> None:
        if isinstance(lengths, Tensor) and lengths.dim() == 0:
            lengths = lengths.unsqueeze(0)
        super().check_steps(lengths)

    def state_shape(self, layers: int, width: int) -> tuple[int, ...]:
        return (layers, width)

    def state_in(self, state: Tensor) -> Tensor:
        return state.unsqueeze(1)

    def state_out(self, state: Tensor) -> Tensor:
        return state.squeeze(-2)

    def resets_in(self, resets) -> Tensor:
        return checks.as_resets(self.name, resets, (self.steps,), self.x.device).unsqueeze(1)

    def decay_in(self, decay, width: int) -> Tensor:
        return checks.expanded_decay(self.name, decay, (self.steps, width)).unsqueeze(1)

    def output(self, y: Tensor) -> Tensor:
        return y.squeeze(1)


class Jagged(Padded):
    """A NestedTensor of layout torch.jagged, ``(B, j, I)``: padded with lengths on the way in, jagged again on the way
    out, with the offsets of the input. `batch_first` does not matter, the batch is always first."""

    def __init__(self, name: str, input: Tensor, input_size: int):
        if input.layout != torch.jagged or input.dim() != 3 or input._ragged_idx != 1:
            raise ValueError(
                f"{name}: Expected nested input to be (B, j, I) of layout torch.jagged, got {input.dim()}D of layout "
                f"{input.layout}"
            )
        if input.lengths() is not None:  # with holes between the rows
            input = input.contiguous()
        self.name, self.batch_first = name, False
        self.input, values = input, input.values()
        checks.check_input(name, values, input_size, (2,))
        self.steps, self.batch = input._get_max_seqlen(), input.size(0)
        self.lengths = input.offsets().diff()
        b = torch.arange(self.batch, device=values.device).repeat_interleave(self.lengths, output_size=len(values))
        self._rows = torch.arange(len(values), device=values.device) - input.offsets()[b], b
        self.x = self._padded(values)

    def _padded(self, values: Tensor) -> Tensor:
        return values.new_zeros((self.steps, self.batch, *values.shape[1:])).index_put(self._rows, values)

    def check_steps(self, lengths) -> None:
        if lengths is not None:
            raise ValueError(f"{self.name}: lengths and nested input exclude each other, its lengths are its own")

    def resets_in(self, resets) -> Tensor:
        if not (isinstance(resets, Tensor) and resets.is_nested):
            got = checks.kind(resets)
            raise TypeError(f"{self.name}: resets of nested input must be nested as the input is, got {got}")
        if resets.layout != torch.jagged or resets.shape[:2] != self.input.shape[:2]:
            raise RuntimeError(f"{self.name}: resets must be nested by the offsets of the input, their lengths differ")
        rows = len(self._rows[0])
        return self._padded(checks.as_resets(self.name, resets.values(), (rows,), self.x.device))

    def decay_in(self, decay, width: int) -> Tensor:
        if not decay.is_nested:
            return super().decay_in(decay, width)
        if decay.layout != torch.jagged or decay.shape[:2] != self.input.shape[:2]:
            raise RuntimeError(f"{self.name}: decay must be nested by the offsets of the input, their lengths differ")
        return self._padded(checks.expanded_decay(self.name, decay.values(), (len(self._rows[0]), width)))

    def output(self, y: Tensor) -> Tensor:
        lengths = {"min_seqlen": self.input._get_min_seqlen(), "max_seqlen": self.steps}
        return torch.nested.nested_tensor_from_jagged(y[self._rows], self.input.offsets(), **lengths)


class Packed:
    """A PackedSequence, read where it lies: x is its data ``(N, I)``."""

    lengths = None

    def __init__(self, name: str, input: PackedSequence, input_size: int):
        checks.check_input(name, input.data, input_size, (2,))
        self.name = name
        self.input = input
        self.x, self.batch_sizes = input.data, input.batch_sizes
        checks.check_batch_sizes(name, self.batch_sizes, len(self.x))
        self.steps, self.batch = len(self.batch_sizes), int(self.batch_sizes[0])

    def check_steps(self, lengths) -> None:
        if lengths is not None:
            raise ValueError(f"{self.name}: lengths and a PackedSequence exclude each other, its lengths are its own")

    def state_shape(self, layers: int, width: int) -> tuple[int, ...]:
        return (layers, self.batch, width)

    def state_in(self, state: Tensor) -> Tensor:
        return self.rows_in(state, 1)

    def state_out(self, state: Tensor) -> Tensor:
        order = self.input.unsorted_indices
        return state if order is None else state.index_select(-2, order)

    def resets_in(self, resets) -> Tensor:
        if isinstance(resets, PackedSequence):
            if not torch.equal(resets.batch_sizes, self.batch_sizes):
                raise RuntimeError(f"{self.name}: resets must be packed as the input is, their batch_sizes differ")
            return checks.as_resets(self.name, resets.data, self.x.shape[:1], self.x.device)
        resets = checks.as_resets(self.name, resets, (self.steps, self.batch), self.x.device)
        order = self.input.sorted_indices
        return (resets if order is None else resets.index_select(1, order))[self._rows]

    def decay_in(self, decay, width: int) -> Tensor:
        if isinstance(decay, PackedSequence):
            if not torch.equal(decay.batch_sizes, self.batch_sizes):
                raise RuntimeError(f"{self.name}: decay must be packed as the input is, their batch_sizes differ")
            return self.pad(checks.expanded_decay(self.name, decay.data, (len(self.x), width)))
        return self.rows_in(checks.expanded_decay(self.name, decay, (self.steps, self.batch, width)), 1)

    def rows_in(self, t: Tensor, dim: int) -> Tensor:
        order = self.input.sorted_indices
        return t if order is None else t.index_select(dim, order)

    def output(self, y: Tensor) -> PackedSequence:
        return PackedSequence(y, self.batch_sizes, self.input.sorted_indices, self.input.unsorted_indices)

    def pad(self, rows: Tensor) -> Tensor:
        return rows.new_zeros((self.steps, self.batch, *rows.shape[1:])).index_put(self._rows, rows)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Step and row of the batch, each ``(N,)``, of every row of x."""
        return packed_rows(self.batch_sizes, self.x.device)

    @cached_property
    def alive(self) -> Tensor:
        return packed_alive(self.batch_sizes).to(self.x.device, non_blocking=True)


Form = Padded | Packed


def form_of(name: str, input: Tensor | PackedSequence, input_size: int, batch_first: bool) -> Form:
    """The form of an input, which is checked."""
    if isinstance(input, PackedSequence):
        return Packed(name, input, input_size)
    if isinstance(input, Tensor) and input.is_nested:
        return Jagged(name, input, input_size)
    if isinstance(input, Tensor) and input.dim() == 2:
        return Unbatched(name, input, input_size)
    return Padded(name, input, input_size, batch_first)
