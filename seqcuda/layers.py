"""A stack of recurrent layers, once for all cells, and one step of a cell.

Form (padded, unbatched, packed), checks, autocast, layers, dropout between them and the states of all steps are
settled here; what is left for `autograd.sequence` is one layer, both directions at once.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields
from numbers import Integral
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import _backend, autograd, checks, stacks
from .cells import Cell
from .factors import Room, decays_in, with_weight_dropout
from .forms import Form, form_of
from .masks import new_seed
from .walk import Inputs, Outputs, Walk, compute_dtype


class RNNStates(NamedTuple):
    """The states of all steps, of all layers and directions in the order of hx.

    Attributes:
        h: ``(T, L*D, B, H)`` (proj_size instead of H where there is one), without B for unbatched input. The
            batch stays the third dimension with batch_first too, so that ``h[t]`` is a valid hx.
        c: ``(T, L*D, B, H)`` for an LSTM, so that ``(h[t], c[t])`` is a valid hx, else None.
        gates: ``(T, L*D, B, G, H)`` with ``return_states="gates"``, else None: the activated gates in the order
            of the weights' rows (LSTM i f g o, GRU r z n, RNN h), 0 past the end of a row. Not differentiable.
        others: the states beside h and c, each as c (sLSTM n, m).

    Past the end of a row h and c are kept: the forward direction's final state; the reverse direction, which
    has not begun there, its initial state.
    """

    h: Tensor
    c: Tensor | None = None
    gates: Tensor | None = None
    others: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Stack:
    """What a stack of layers is, apart from its tensors, for one call. `name` is for messages."""

    cell: Cell
    name: str
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    training: bool = False
    batch_first: bool = False
    return_states: bool | str = False
    save: str | int = "all"
    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, float] = 0.0
    weight_dropout: float = 0.0
    detach_every: int = 0
    heads: int = 1

    @staticmethod
    def of(cell: Cell, name: str, options: dict) -> Stack:
        """From the keyword arguments of a function of seqcuda.functional."""
        known = [field.name for field in fields(Stack)[2:]]
        for option in options:
            if option not in known:
                raise TypeError(f"{name}: unexpected keyword argument {option!r}, expected one of {', '.join(known)}")
        return Stack(cell, name, **options)

    def __post_init__(self):
        if not isinstance(self.num_layers, int) or self.num_layers < 1:
            raise ValueError(f"{self.name}: num_layers must be a positive int, got {self.num_layers!r}")
        for option in ("dropout", "recurrent_dropout", "weight_dropout"):
            self._check_probability(option, getattr(self, option))
        if isinstance(self.zoneout, (tuple, list)):
            if self.cell.states == 1 or len(self.zoneout) != 2:
                wanted = "a number" if self.cell.states == 1 else "a number or a pair (of h, of c)"
                raise ValueError(f"{self.name}: zoneout must be {wanted}, got {self.zoneout!r}")
        for z in self.zones:
            self._check_probability("zoneout", z)
        if not isinstance(self.detach_every, int) or self.detach_every < 0:
            raise ValueError(f"{self.name}: detach_every must be an int, 0 or more, got {self.detach_every!r}")
        if self.return_states not in (False, True, "gates"):
            raise ValueError(f'{self.name}: return_states must be False, True or "gates", got {self.return_states!r}')
        check_save(self.name, self.save)
        check_heads(self.name, self.heads, self.cell)
        if not self.cell.recurrent and (self.recurrent_dropout or self.weight_dropout):
            raise ValueError(
                f"{self.name}: recurrent_dropout and weight_dropout drop of weight_hh, which it does not have"
            )
        if self.cell.states > 2 and any(self.zones):
            raise ValueError(f"{self.name}: zoneout cannot mix states that are scaled by another, got {self.zoneout!r}")

    def _check_probability(self, option: str, p) -> None:
        if not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ValueError(f"{self.name}: {option} must be a number from 0 to 1, got {p!r}")

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def zones(self) -> tuple[float, float]:
        """The probabilities of zoneout of h and of c."""
        return tuple(self.zoneout) if isinstance(self.zoneout, (tuple, list)) else (self.zoneout, self.zoneout)

    @property
    def draws_masks(self) -> bool:
        return self.training and any((self.recurrent_dropout, self.weight_dropout, *self.zones))

    @property
    def plain(self) -> bool:
        """Nothing but the cells changes the states."""
        return not any(self.zones) and not self.draws_masks

    def walk(self) -> Walk:
        reverse = (False, True) if self.bidirectional else (False,)
        return Walk(
            self.cell, reverse, str(self.save), bool(self.return_states), self.return_states == "gates",
            self.detach_every,
        )  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """The flat weights of a stack in torch.nn's order, checked, as `Walk` takes them."""

    per_layer: tuple[tuple[Tensor | None, ...], ...]
    hidden: int
    width: int  # of h

    @staticmethod
    def of(stack: Stack, flat: list[Tensor]) -> Weights:
        if not isinstance(flat, (list, tuple)) or not all(isinstance(w, Tensor) for w in flat):
            given = [checks.kind(w) for w in flat] if isinstance(flat, (list, tuple)) else checks.kind(flat)
            raise TypeError(f"{stack.name}: weights must be a list of Tensors, got {given}")
        cell, D, layers = stack.cell, stack.directions, stack.num_layers * stack.directions
        layouts, each = cell.layouts, len(flat) // layers
        if len(flat) != each * layers or each not in layouts:
            most = max(layouts.items())[1]
            kinds = ", ".join(kind if kind in min(layouts.items())[1] else f"[{kind}]" for kind in most)
            raise RuntimeError(
                f"{stack.name}: weights must hold {kinds} for each of {layers} layers and directions, "
                f"got {len(flat)} tensors"
            )
        kinds = layouts[each]
        if stack.heads > 1 and "weight_hr" in kinds:
            raise RuntimeError(f"{stack.name}: heads={stack.heads} and weight_hr exclude each other")
        width = flat[1].size(1) * stack.heads if cell.recurrent else flat[0].size(0) // cell.gates
        hidden = flat[1].size(0) // cell.gates if "weight_hr" in kinds else width
        columns = [flat[0].size(1)] * D + [width * D] * (layers - D)
        shapes = [cell.weight_shapes(size, hidden, width, "bias_ih" in kinds, stack.heads) for size in columns]
        checks.check_weights(stack.name, flat, [shape[kind] for shape in shapes for kind in kinds])
        per_direction = []
        for i, shape in enumerate(shapes):
            given = dict(zip(kinds, flat[i * each : (i + 1) * each], strict=True))
            per_direction.append(tuple(given.get(kind) for kind in shape))
        joined = tuple(sum(per_direction[i : i + D], ()) for i in range(0, layers, D))
        return Weights(joined, hidden, width)

    def to(self, dtype: torch.dtype) -> Weights:
        cast = tuple(tuple(None if w is None else w.to(dtype) for w in layer) for layer in self.per_layer)
        return Weights(cast, self.hidden, self.width)


def check_save(name: str, save: str | int) -> str | int:
    """`save`, a number of steps as an int, of whatever kind of integer it is given."""
    if isinstance(save, Integral) and not isinstance(save, bool) and save > 0:
        return int(save)
    if isinstance(save, str) and save in ("all", "states"):
        return save
    raise ValueError(f'{name}: save must be "all", "states" or a positive int, got {save!r}')


def check_heads(name: str, heads: int, cell: Cell) -> None:
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise ValueError(f"{name}: heads must be a positive int, got {heads!r}")
    if heads > 1 and not cell.recurrent:
        raise ValueError(f"{name}: heads={heads} are blocks of weight_hh, which this layer does not have")


class Ready(NamedTuple):
    """The arguments of a call, checked. `amp`: what autocast asks to compute in, or None. `widths`: of the states.
    `start`, `reset`: states ``(L*D, B, .)``."""

    form: Form
    amp: torch.dtype | None
    weights: Weights
    widths: tuple[int, ...]
    start: tuple[Tensor, ...] | None
    resets: Tensor | None
    reset: tuple[Tensor, ...] | None

    def cast(self) -> tuple[Tensor, tuple[Tensor, ...] | None, Weights, tuple[Tensor, ...] | None]:
        """x, start, weights and reset, in the type that autocast asks for."""
        if self.amp is None:
            return self.form.x, self.start, self.weights, self.reset
        start, reset = (None if s is None else tuple(t.to(self.amp) for t in s) for s in (self.start, self.reset))
        return self.form.x.to(self.amp), start, self.weights.to(self.amp), reset


def ready(stack: Stack, input, hx, flat_weights, lengths=None, resets=None, reset_state=None) -> Ready:
    name, cell = stack.name, stack.cell
    weights = Weights.of(stack, flat_weights)
    form = form_of(name, input, flat_weights[0].size(1), stack.batch_first)
    amp = autocast_dtype(form.x, flat_weights)
    if amp is None:
        checks.check_input_dtype(form.x, flat_weights[0])
    for i, weight in enumerate(flat_weights):
        checks.check_alike(name, f"weight {i}", weight, form.x, amp is not None)
    form.check_steps(lengths)

    layers = stack.num_layers * stack.directions
    widths = (weights.width, *[weights.hidden] * (cell.states - 1))
    shapes = [form.state_shape(layers, width) for width in widths]
    start = reset = None
    if hx is not None:
        start = checks.as_states(name, "hx", hx, cell.state_names)
        checks.check_states(name, start, shapes)
        _check_states_alike(name, "hx", start, form.x, amp)
        start = tuple(form.state_in(s) for s in start)
    if resets is not None:
        resets = form.resets_in(resets)
    if reset_state is not None:
        if resets is None:
            raise ValueError(f"{name}: reset_state was given without resets, so no step would ever start from it")
        reset = checks.as_states(name, "reset_state", reset_state, cell.state_names)
        _check_states_alike(name, "reset_state", reset, form.x, amp)
        reset = tuple(form.state_in(s) for s in checks.expanded(name, reset, shapes))
    return Ready(form, amp, weights, widths, start, resets, reset)


def run(
    stack: Stack,
    input: Tensor | PackedSequence,
    hx: Tensor | tuple[Tensor, ...] | None,
    flat_weights: list[Tensor],
    lengths: Tensor | list[int] | None = None,
    resets: Tensor | PackedSequence | None = None,
    reset_state: Tensor | tuple[Tensor, ...] | None = None,
    decay: Tensor | PackedSequence | tuple[Tensor | PackedSequence | None, ...] | None = None,
):
    """A stack over sequences: ``output, h_n or (h_n, c_n)[, RNNStates]``. Arguments: seqcuda/functional.py."""
    name, cell = stack.name, stack.cell
    checked = ready(stack, input, hx, flat_weights, lengths, resets, reset_state)
    form, amp, widths = checked.form, checked.amp, checked.widths
    if decay is not None:
        if cell.states > 2:
            raise ValueError(f"{name}: decay cannot be of states that are scaled by another")
        decay = checks.as_decays(name, decay, cell.states)
        for i, part in enumerate(decay):
            if part is not None:
                data = part.data if isinstance(part, PackedSequence) else part
                checks.check_alike(name, f"decay[{i}]" if len(decay) > 1 else "decay", data, form.x, amp is not None)

    x, start, weights, reset = checked.cast()
    with contextlib.nullcontext() if amp is None else _no_autocast(x):
        compute = compute_dtype(x.dtype)
        decays = (None, None) if decay is None else decays_in(form, decay, widths, stack.directions, compute)
        seed = new_seed(x.device) if stack.draws_masks else None
        room = Room(form, widths, stack.directions, compute, decays, stack.recurrent_dropout, stack.zones, seed)
        return _walk_layers(stack, form, x, start, weights, checked.resets, reset, room)


def _walk_layers(stack: Stack, form: Form, x: Tensor, start, weights: Weights, resets, reset, room: Room):
    walk, D, L = stack.walk(), stack.directions, stack.num_layers
    finals, steps, together = [], [], None
    dropout = stack.dropout > 0 and stack.training
    if L > 1 and D == 1 and stack.plain and not dropout and all(d is None for d in room.decays):
        of_all = (*_h_and_others(start), form.lengths, form.batch_sizes, resets, *_h_and_others(reset))
        together = stacks.stack(walk, Inputs(x, sum(weights.per_layer, ()), *of_all))
    for layer, layer_weights in enumerate(weights.per_layer):
        h0, c0 = state_of_layer(start, layer, D, L)
        if together is None:
            reset_h, reset_c = state_of_layer(reset, layer, D, L)
            given = with_weight_dropout(layer_weights, layer, stack.weight_dropout, room.seed)
            factors = room.factors(layer)
            inputs = Inputs(x, given, h0, c0, form.lengths, form.batch_sizes, resets, reset_h, reset_c, factors)
        out = together[layer] if together else autograd.sequence(walk, inputs)
        finals.append((out.h_n, *_members(out.c_n)))
        if stack.return_states:
            steps.append(_steps(walk, form, out, h0, c0))
        x = out.y
        if dropout and layer < L - 1:
            x = F.dropout(x, stack.dropout)
    final = tuple(form.state_out(_join(parts, 0)) for parts in zip(*finals, strict=True))
    result = form.output(x), final if len(final) > 1 else final[0]
    if stack.return_states:
        h, gates, *others = (_join(parts, 1) if parts[0] is not None else None for parts in zip(*steps, strict=True))
        return *result, RNNStates(h, others[0] if others else None, gates, tuple(others[1:]))
    return result


def state_of_layer(
    states: tuple[Tensor, ...] | None, layer: int, D: int, L: int
) -> tuple[Tensor | None, Tensor | None]:
    """One layer's part of states (L*D, B, .): h (D, B, P) and the others stacked, (S-1, D, B, H)."""
    if states is not None and L > 1:
        states = tuple(s[layer * D : (layer + 1) * D] for s in states)
    return _h_and_others(states)


def _h_and_others(states: tuple[Tensor, ...] | None) -> tuple[Tensor | None, Tensor | None]:
    if states is None or len(states) == 1:
        return (None, None) if states is None else (states[0], None)
    h, *others = states
    return h, others[0].unsqueeze(0) if len(others) == 1 else torch.stack(others)


def _steps(walk: Walk, form: Form, out: Outputs, h0: Tensor | None, c0: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of all steps of a layer: h (T, D, B, .), the gates (T, D, B, G, H) and the states beside h, each (T, D, B, H)."""
    alive = form.alive
    if alive is not None:
        alive = alive[:, None, :, None]

    def padded(rows: Tensor, past_end: Tensor | None) -> Tensor:
        """(T, D, B, .) from (T, B, D, .) or packed (N, D, .), with `past_end (D, B, .)` past the ends; None: 0."""
        steps = form.pad(rows).transpose(1, 2)
        if alive is not None:
            steps = torch.where(alive, steps, steps.new_zeros(()) if past_end is None else past_end)
        return form.state_out(steps)

    def kept(final: Tensor, first: Tensor | None) -> Tensor:
        first = torch.zeros_like(final) if first is None else first
        return torch.stack([first[d] if reverse else final[d] for d, reverse in enumerate(walk.reverse)])

    h = padded(out.y.unflatten(-1, (walk.directions, -1)), kept(out.h_n, h0))
    others = [
        padded(c_all.to(out.y.dtype).movedim(0, -2), kept(out.c_n[i], None if c0 is None else c0[i]))
        for i, c_all in enumerate(() if out.c_all is None else out.c_all)
    ]
    gates = None
    if out.gates is not None:
        gates = padded(out.gates.to(out.y.dtype).movedim(0, -2), None)
        gates = gates.unflatten(-1, (walk.cell.gates, -1))
    return h, gates, *others


def _members(c: Tensor) -> tuple[Tensor, ...]:
    """The states beside h, each (D, B, H), of (S-1, D, B, H)."""
    if c.size(0) <= 1:
        return (_unviewed(c, c.shape[1:]),) if c.size(0) else ()
    return tuple(part.clone() for part in c.unbind(0))


def _unviewed(t: Tensor, shape: torch.Size) -> Tensor:
    """`t`, which nobody else holds, in another shape; not a view, so that ``state.detach_()`` works as in torch.nn."""
    return torch.ops.aten._unsafe_view(t, shape)


def _join(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def step(walk: Walk, name: str, input: Tensor, hx, weights: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """One step of a cell: a walk with T = 1. The new states, each ``(B, H)``, or ``(H,)`` for unbatched input."""
    quick = _backend.quick_call(walk.cell.name, input, hx, weights)
    if quick is not None:
        return quick
    checks.check_cell_input(name, input, weights[0])
    amp = autocast_dtype(input, weights)
    if amp is None:
        checks.check_input_dtype(input, weights[0])
    states = None
    if hx is not None:
        states = checks.as_states(name, "hx", hx, walk.cell.state_names)
        checks.check_cell_states(name, states, input, weights[1].size(1))
        _check_states_alike(name, "hx", states, input, amp)
    checks.check_alike(name, "weight_ih", weights[0], input, amp is not None)

    if amp is not None:
        weights = tuple(None if w is None else w.to(amp) for w in weights)
        states = None if states is None else tuple(s.to(amp) for s in states)
    x = input if amp is None else input.to(amp)
    full = (1, -1, -1) if x.dim() == 2 else (1, 1, -1)  # to (T, B, I) and (D, B, H) in one operation
    h0, c0 = _h_and_others(None if states is None else tuple(s.expand(full) for s in states))
    inputs = Inputs(x.expand(full), (*weights, None, None), h0, c0)
    if amp is None:
        out = autograd.sequence(walk, inputs)
    else:
        with _no_autocast(x):
            out = autograd.sequence(walk, inputs)
    shape = out.h_n.shape[1:] if input.dim() == 2 else out.h_n.shape[2:]
    return tuple(_unviewed(s, shape) for s in (out.h_n, *_members(out.c_n)))


def _check_states_alike(name: str, argument: str, states: tuple[Tensor, ...], x: Tensor, amp) -> None:
    for i, state in enumerate(states):
        part = argument if len(states) == 1 else f"{argument}[{i}]"
        checks.check_alike(name, part, state, x, amp is not None)


def autocast_dtype(x: Tensor, weights) -> torch.dtype | None:
    """What autocast asks to compute in, or None. It leaves float64 data with float64 weights as they are."""
    device = x.device.type
    # A compiler, which torch 2.11's does not let ask, traces no data without a device.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    if not (available and torch.is_autocast_enabled(device)):
        return None
    if not x.is_floating_point() or (x.dtype == torch.float64 and weights[0].dtype == torch.float64):
        return None
    return torch.get_autocast_dtype(device)


def _no_autocast(x: Tensor):
    """For data that have been cast: what the reference computes in float32 must stay there."""
    return torch.autocast(x.device.type, enabled=False)
