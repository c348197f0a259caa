"""The checks of the arguments of layers and cells. Nothing is computed or changed before all of them have passed.

The types of the exceptions are torch.nn's. Where torch.nn fails by accident, with a type that depends on the sizes,
the exception raised here has all of those types, so that whoever catches torch.nn's catches this one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class InputTypeError(TypeError, AttributeError):
    """The input is not a tensor. torch.nn: AttributeError."""


class DtypeError(ValueError, RuntimeError):
    """The input's dtype is not the weights'. torch.nn: ValueError, for packed input to an LSTM RuntimeError."""


class StateError(RuntimeError, TypeError, ValueError, IndexError, AttributeError):
    """A state is not of the kind the layer needs. torch.nn: any of the five, by kind of layer, sizes and packing."""


def kind(value: object) -> str:
    """What a value is, for a message."""
    if isinstance(value, Tensor):
        return f"a Tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def check_input(name: str, x: Tensor, input_size: int, dims: tuple[int, ...]) -> None:
    """The type, number of dimensions and last dimension of the input of a sequence layer."""
    if not isinstance(x, Tensor):
        raise InputTypeError(f"{name}: input must be a Tensor or a PackedSequence, got {kind(x)}")
    _check_dense(name, x)
    if x.dim() not in dims:
        error, what = (RuntimeError, "packed input to be 2D") if dims == (2,) else (ValueError, "input to be 2D or 3D")
        raise error(f"{name}: Expected {what}, got {x.dim()}D instead")
    if x.size(-1) != input_size:
        raise RuntimeError(
            f"{name}: input.size(-1) must be equal to input_size. Expected {input_size}, got {x.size(-1)}"
        )


def _check_dense(name: str, x: Tensor) -> None:
    if x.layout not in (torch.strided, torch.jagged):
        raise RuntimeError(f"{name}: input must be dense, of layout torch.strided, got {x.layout}")


def check_batch_sizes(name: str, batch_sizes: Tensor, rows: int) -> None:
    """The batch_sizes of a PackedSequence, which anyone can make by hand."""
    if batch_sizes.device.type != "cpu" or batch_sizes.dtype != torch.int64 or batch_sizes.dim() != 1:
        raise RuntimeError(
            f"{name}: batch_sizes must be a 1-D int64 Tensor on the CPU, got {batch_sizes.dtype} of shape "
            f"{tuple(batch_sizes.shape)} on {batch_sizes.device}"
        )
    if _readable(batch_sizes):
        sizes = batch_sizes.tolist()
        positive = bool(sizes) and sizes[-1] > 0
        if not positive or any(a < b for a, b in zip(sizes, sizes[1:], strict=False)) or sum(sizes) != rows:
            raise RuntimeError(
                f"{name}: batch_sizes must be positive, not increasing and add up to the {rows} rows of the packed "
                f"data, got {sizes if len(sizes) < 20 else [*sizes[:20], '...']}"
            )


def check_input_dtype(x: Tensor, weight: Tensor) -> None:
    """Of layers and cells alike, where autocast does not convert."""
    if x.dtype != weight.dtype:
        convert_model = f", or convert model: model.to({x.dtype})" if x.is_floating_point() else ""
        raise DtypeError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}){convert_model}"
        )


def check_alike(name: str, argument: str, t: Tensor, x: Tensor, autocast: bool, whose: str = "input") -> None:
    """The device and dtype of an argument: those of x, which is `whose`, but any floating dtype where autocast
    converts."""
    if t.device != x.device:
        raise RuntimeError(f"{name}: {argument} must be on the device of {whose}, {x.device}, got {t.device}")
    if t.dtype != x.dtype and not (autocast and t.is_floating_point()):
        raise RuntimeError(f"{name}: {argument} must have the dtype of {whose}, {x.dtype}, got {t.dtype}")


def check_weights(name: str, weights: list[Tensor], shapes: list[tuple[int, ...]]) -> None:
    """The shapes of flat weights."""
    for i, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        if weight.shape != shape:
            raise RuntimeError(f"{name}: weight {i} has shape {tuple(weight.shape)}, expected {shape}")


def as_states(name: str, argument: str, value, states: tuple[str, ...]) -> tuple[Tensor, ...]:
    """A state argument as a tuple, one tensor for each of the names: a cell with one state takes a tensor."""
    count = len(states)
    if count == 1:
        if not isinstance(value, Tensor):
            raise StateError(f"{name}: {argument} must be a Tensor, got {kind(value)}")
        return (value,)
    wanted = f"{name}: {argument} must be a tuple of {count} Tensors ({', '.join(states)})"
    if not isinstance(value, (tuple, list)) or len(value) != count:
        raise StateError(f"{wanted}, got {kind(value)}")
    for i, part in enumerate(value):
        if not isinstance(part, Tensor):
            raise StateError(f"{wanted}, got {kind(part)} as member {i}")
    return tuple(value)


def check_states(name: str, states: tuple[Tensor, ...], shapes: list[tuple[int, ...]]) -> None:
    """hx of a sequence layer; `shapes` are (L*D, B, .) or, for unbatched input, (L*D, .)."""
    for i, (state, shape) in enumerate(zip(states, shapes, strict=True)):
        hidden = "hidden" if len(states) == 1 else f"hidden[{i}]"
        if state.shape != shape:
            batch = "batched" if len(shape) == 3 else "unbatched"
            message = f"{name}: hx: Expected {hidden} size {shape}, got {list(state.shape)}"
            if state.dim() == len(shape):
                raise RuntimeError(message)
            raise StateError(f"{message} ({batch} input needs a {len(shape)}-D hx)")


def expanded(name: str, states: tuple[Tensor, ...], shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """reset_state, expanded to the shapes of hx."""
    for i, (state, shape) in enumerate(zip(states, shapes, strict=True)):
        trailing = zip(reversed(state.shape), reversed(shape), strict=False)
        if state.dim() > len(shape) or any(size not in (1, wanted) for size, wanted in trailing):
            part = "" if len(states) == 1 else f"[{i}]"
            raise StateError(
                f"{name}: reset_state{part} must have the shape of hx, {shape}, or be broadcastable to it, "
                f"got {tuple(state.shape)}"
            )
    return tuple(state.expand(shape) for state, shape in zip(states, shapes, strict=True))


def as_lengths(name: str, lengths, steps: int, batch: int, device: torch.device) -> Tensor:
    """`lengths` as an int64 tensor ``(B,)`` on `device`, never waiting for a device.

    Values are checked where the host can read them without waiting, and clamped to [0, T] elsewhere.
    """
    if not isinstance(lengths, Tensor):
        try:
            lengths = torch.as_tensor(lengths, dtype=None if len(lengths) else torch.int64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            wanted = "a 1-D integer Tensor or a list of ints"
            given = lengths if isinstance(lengths, list) and len(lengths) < 10 else kind(lengths)
            raise TypeError(f"{name}: lengths must be {wanted}, got {given}") from None
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"{name}: lengths must have an integer dtype, got {lengths.dtype}")
    if lengths.shape != (batch,):
        raise RuntimeError(f"{name}: lengths must have shape ({batch},), one for each row, got {tuple(lengths.shape)}")
    readable = _readable(lengths)
    if readable and batch:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise ValueError(f"{name}: lengths must be from 0 to {steps}, the number of steps, got {low} to {high}")
    lengths = lengths.to(device, torch.int64, non_blocking=device.type != "cpu")
    # On the CPU the compiled op checks what was not readable here.
    return lengths if readable or device.type == "cpu" else lengths.clamp(0, steps)


def as_resets(
    name: str, resets: Tensor, shape: tuple[int, ...], device: torch.device, argument: str = "resets"
) -> Tensor:
    """`resets` as a bool tensor on `device`; `argument` is what the caller knows it by."""
    if not isinstance(resets, Tensor):
        raise TypeError(f"{name}: {argument} must be a bool Tensor of shape {shape}, got {kind(resets)}")
    if resets.dtype != torch.bool:
        raise TypeError(f"{name}: {argument} must be bool, got {resets.dtype}")
    if resets.shape != shape:
        raise RuntimeError(f"{name}: {argument} must have shape {shape}, got {tuple(resets.shape)}")
    return resets.to(device, non_blocking=device.type != "cpu")


def as_decays(name: str, decay, count: int) -> tuple:
    """`decay` as a tuple of `count`: one for all states, or for a cell with several a tuple of one or None for each."""
    parts = (decay,) * count
    if isinstance(decay, (tuple, list)) and not isinstance(decay, PackedSequence):
        parts = tuple(decay)
    if len(parts) != count or not all(part is None or isinstance(part, (Tensor, PackedSequence)) for part in parts):
        wanted = "a Tensor" if count == 1 else f"a Tensor or a tuple of {count}, Tensors or None, for (h, c)"
        raise TypeError(f"{name}: decay must be {wanted}, got {kind(decay)}")
    return parts


def expanded_decay(name: str, decay: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A decay, expanded to `shape`."""
    trailing = zip(reversed(decay.shape), reversed(shape), strict=False)
    if decay.dim() > len(shape) or any(size not in (1, wanted) for size, wanted in trailing):
        raise RuntimeError(f"{name}: decay must be broadcastable to {shape}, got {tuple(decay.shape)}")
    return decay.expand(shape)


def check_cell_input(name: str, x: Tensor, weight_ih: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise InputTypeError(f"{name}: input must be a Tensor, got {kind(x)}")
    _check_dense(name, x)
    if x.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.dim()}D instead")
    if x.size(-1) != weight_ih.size(1):
        raise RuntimeError(f"{name}: input has inconsistent input_size: got {x.size(-1)} expected {weight_ih.size(1)}")


def check_cell_states(name: str, states: tuple[Tensor, ...], x: Tensor, hidden_size: int) -> None:
    """hx of a cell: every state ``(B, H)`` for input ``(B, I)``, ``(H,)`` for input ``(I,)``."""
    for i, state in enumerate(states):
        if state.dim() not in (1, 2):
            which = "hidden" if len(states) == 1 else f"hx[{i}]"
            raise ValueError(f"{name}: Expected {which} to be 1D or 2D, got {state.dim()}D instead")
        if x.dim() == 2 and state.size(0) != x.size(0):
            raise RuntimeError(
                f"{name}: Input batch size {x.size(0)} doesn't match hidden{i} batch size {state.size(0)}"
            )
        if state.size(-1) != hidden_size or state.dim() != x.dim():
            got = state.size(-1) if state.dim() == x.dim() else tuple(state.shape)
            raise RuntimeError(f"{name}: hidden{i} has inconsistent hidden_size: got {got}, expected {hidden_size}")


def _readable(t: Tensor) -> bool:
    """The values can be read here and now: on the CPU, not traced, not batched by vmap."""
    return (
        not torch.compiler.is_compiling()
        and type(t) is Tensor
        and t.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
    )
