"""Who computes a layer, and why nobody else: `seqcuda.explain`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import _backend, checks
from .cells import CELLS
from .forms import form_of
from .functional import gru_cell_name, rnn_cell_name
from .heads import for_engines
from .layers import Weights, autocast_dtype
from .modules import GRUCell, LSTMCell, RNNCell
from .modules.sequence import SequenceLayer


@dataclass(frozen=True)
class LayerPlan:
    """One layer: what runs it.

    Attributes:
        layer: its number.
        engine: "reference", or a compiled engine by name.
        why: why this one, in a sentence.
        details: what else a compiled engine says, such as instruction set and threads; empty for the reference.
        not_chosen: the other engines -> why they do not run here.
    """

    layer: int
    engine: str
    why: str
    details: dict[str, str]
    not_chosen: dict[str, str]


@dataclass(frozen=True)
class Explanation:
    """What `explain` gives: a line per layer when printed, a `LayerPlan` per layer when iterated."""

    subject: str
    layers: tuple[LayerPlan, ...]

    def __iter__(self) -> Iterator[LayerPlan]:
        return iter(self.layers)

    def __str__(self) -> str:
        lines = [self.subject]
        for plan in self.layers:
            details = "".join(f", {key.replace('_', ' ')}: {value}" for key, value in plan.details.items())
            lines.append(f"  layer {plan.layer}: {plan.engine} ({plan.why}{details})")
            lines += [f"    not {name}: {why}" for name, why in plan.not_chosen.items()]
        return "\n".join(lines)


def explain(module: torch.nn.Module, input: Tensor | PackedSequence) -> Explanation:
    """Which engine computes each layer of `module` for `input`, and why not another. Computes nothing.

    Args:
        module: a layer or cell of seqcuda; convert a torch.nn one first.
        input: as for the module's forward.

    Raises:
        TypeError: not a module of seqcuda.
        RuntimeError, ValueError: an input that the module would refuse, or a backend asked for by name
            (`seqcuda.backend`, SEQCUDA_BACKEND) that cannot run.
    """
    layers = layers_of(module, input, "explain")
    plans = tuple(_plan(number, *layer) for number, layer in enumerate(layers))
    return Explanation(f"{module} on {layers[0][1].device.type}, {layers[0][1].dtype}", plans)


def layers_of(module: torch.nn.Module, input: Tensor | PackedSequence, caller: str) -> list[tuple]:
    """Cell name, x, batch_sizes, weights and directions of each layer. Only shapes of x count past the first."""
    if isinstance(module, SequenceLayer):
        return _sequence_layers(module, input)
    if isinstance(module, (RNNCell, LSTMCell, GRUCell)):
        return _cell(module, input)
    raise TypeError(f"{caller} takes a layer or cell of seqcuda, got {type(module).__name__}; see seqcuda.convert")


def _sequence_layers(module: SequenceLayer, input: Tensor | PackedSequence) -> list[tuple]:
    name = type(module).__name__
    stack = module._stack(module.batch_first, False)
    weights = Weights.of(stack, module._flat_weights)
    form = form_of(name, input, module.input_size, module.batch_first)
    form.check_steps(None)
    amp = autocast_dtype(form.x, module._flat_weights)
    if amp is None:
        checks.check_input_dtype(form.x, module._flat_weights[0])
    width = stack.directions * weights.width
    first = form.x if amp is None else form.x.new_empty(1, dtype=amp).expand(form.x.shape)
    later = first.new_empty(1).expand(*form.x.shape[:-1], width)
    reverse = stack.walk().reverse
    return [
        (stack.cell.name, first if number == 0 else later, form.batch_sizes, layer, reverse)
        for number, layer in enumerate((weights if amp is None else weights.to(amp)).per_layer)
    ]


def _cell(module: RNNCell | LSTMCell | GRUCell, input: Tensor) -> list[tuple]:
    if isinstance(module, RNNCell):
        name = rnn_cell_name("RNNCell", module.nonlinearity)
    else:
        name = "lstm" if isinstance(module, LSTMCell) else gru_cell_name(module.reset_after)
    weights = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh, None, None)
    checks.check_cell_input(type(module).__name__, input, module.weight_ih)
    amp = autocast_dtype(input, weights)
    if amp is None:
        checks.check_input_dtype(input, module.weight_ih)
    x = input.reshape(1, -1, input.shape[-1])
    if amp is not None:
        x, weights = x.to(amp), tuple(None if w is None else w.to(amp) for w in weights)
    return [(name, x, None, weights, (False,))]


def _plan(number: int, cell_name: str, x: Tensor, batch_sizes, weights, reverse: tuple[bool, ...]) -> LayerPlan:
    asked = _backend.choose(cell_name, x)
    reason = _backend.reason_for_reference(cell_name, x)
    if asked == "reference":
        why = reason or "asked for by name"
        others = {engine: reason or "the reference was asked for" for engine in _backend.engines(x.device.type)}
        return LayerPlan(number, "reference", why, {}, others)
    weights = for_engines(CELLS[cell_name], weights)
    found = _backend.compiled.explain(cell_name, x, weights, batch_sizes, reverse, asked)
    engine, why = found["engine"], found["why"]
    others = {name: f"{engine} was chosen: {why}" for name in _backend.engines(x.device.type) if name != engine}
    others |= found["refusals"] | {"reference": "a compiled engine can run"}
    return LayerPlan(number, engine, why, found["details"], others)
