"""Gradients of all weights for each row of a batch, without torch.func, whose own part of a call takes longer than a
small layer does for its."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _backend, autograd, checks, layers
from .forms import Jagged, Packed, Unbatched
from .heads import for_engines
from .layers import Ready, Stack
from .members import OUTPUTS, ROWS_IN
from .modules.sequence import SequenceLayer
from .walk import Inputs


def check_layer(name: str, layer: SequenceLayer) -> None:
    """A forward of its own repeats the one that gave the output: nothing is drawn in it."""
    for option in ("dropout", "recurrent_dropout", "zoneout", "weight_dropout"):
        value = getattr(layer, option)
        if value and (option != "dropout" or layer.num_layers > 1):
            raise ValueError(f"{name} must have {option}=0, got {value}")


@torch.no_grad()
def per_sample_gradients(
    layer: SequenceLayer,
    input: Tensor,
    grad_output: Tensor,
    hx: Tensor | tuple[Tensor, ...] | None = None,
    *,
    lengths: Tensor | list[int] | None = None,
    resets: Tensor | None = None,
) -> dict[str, Tensor]:
    """The gradients of every weight for each row of a batch, from one forward and one backward of the whole batch.

    They are those of ``(grad_output * output).sum()``, where `grad_output` is what a backward through the rest of a
    model brings. Their sum over the rows is what ``output.backward(grad_output)`` adds to the weights' `grad`, which
    stays as it is here. `torch.func.vmap` of `torch.func.grad` gives the same, of any loss and differentiably, and
    takes longer.

    Args:
        layer: an RNN, LSTM, GRU, IndRNN or SLSTM of this package, without dropout and zoneout.
        input: ``(T, B, I)``, or ``(B, T, I)`` with batch_first.
        grad_output: of the shape and dtype of the output: ``(T, B, D*P)``, or ``(B, T, D*P)`` with batch_first.
        hx, lengths, resets: as in the `forward` of the layer.

    Returns:
        ``(B, *shape)`` for each weight that requires a gradient, by its name.

    Raises:
        TypeError: `layer` is no such layer, `grad_output` no Tensor.
        ValueError: the layer has dropout or zoneout; `input` is packed, nested or without a batch.
        RuntimeError: `grad_output` has another shape or dtype than the output; and what the `forward` raises.
    """
    if not isinstance(layer, SequenceLayer):
        got = f"{type(layer).__module__}.{type(layer).__name__}"
        raise TypeError(f"per_sample_gradients: layer must be a sequence layer of seqcuda, got {got}")
    name = f"per_sample_gradients of {type(layer).__name__}"
    check_layer(name, layer)
    stack = layer._stack(layer.batch_first)
    with torch.enable_grad():  # a parametrized weight shows only then that it requires a gradient
        weights = dict(zip(layer._flat_weights_names, layer._flat_weights, strict=True))
    wanted = [each for each, w in weights.items() if w.requires_grad]
    ready = layers.ready(stack, input, hx, list(weights.values()), lengths, resets)
    if isinstance(ready.form, (Packed, Unbatched, Jagged)):
        raise ValueError(f"{name}: input must be a padded batch, (T, B, I) or (B, T, I), got another form")
    shape, dtype = (*input.shape[:2], ready.widths[0] * stack.directions), ready.amp or input.dtype
    if not isinstance(grad_output, Tensor):
        raise TypeError(f"{name}: grad_output must be a Tensor, got {checks.kind(grad_output)}")
    if grad_output.shape != shape or grad_output.dtype != dtype:
        got = f"{grad_output.dtype} of shape {tuple(grad_output.shape)}"
        raise RuntimeError(f"{name}: grad_output must be {dtype} of shape {shape}, got {got}")
    if not wanted or ready.form.batch == 0:
        return {each: weights[each].new_zeros((0, *weights[each].shape)) for each in wanted}
    engine = _backend.choose(stack.cell.name, input)
    if engine == "reference" or any(for_engines(stack.cell, w) is not w for w in ready.weights.per_layer):
        return _by_torch_func(stack, input, grad_output, hx, weights, wanted, lengths, resets)
    found = _by_ops(stack, ready, grad_output, engine)
    return {each: g.to(weights[each].dtype) for each, g in zip(wanted, found, strict=True)}


def _by_ops(stack: Stack, ready: Ready, grad_output: Tensor, engine: str) -> list[Tensor]:
    """The gradients of the weights that require them, in order."""
    walk, form, calls = stack.walk(), ready.form, []
    x, start, weights, _ = ready.cast()
    for layer, of_layer in enumerate(weights.per_layer):
        given = tuple(None if w is None else w.detach() for w in of_layer)
        h0, c0 = layers.state_of_layer(start, layer, stack.directions, stack.num_layers)
        inputs = Inputs(x, given, h0, c0, form.lengths, None, ready.resets).tensors()
        x, _, _, c_all, saved = autograd.apply(autograd.Sequence, inputs, walk, engine)
        calls.append((inputs, (x, c_all, saved)))

    grad_y, found = form.output(grad_output), []
    for layer, (inputs, results) in reversed(list(enumerate(calls))):
        asked = (w is not None and w.requires_grad for w in ready.weights.per_layer[layer])
        needs = (layer > 0, *(False,) * (len(ROWS_IN) - 1), *asked)
        tensors = (grad_y, *(None,) * (OUTPUTS - 1), *results, *inputs)
        of_inputs = autograd.apply(autograd.SequenceBackward, tensors, walk, engine, needs, form.batch)
        if layer > 0:
            grad_y, *of_inputs = of_inputs
        found = [*of_inputs, *found]
    return found


def _by_torch_func(stack: Stack, input, grad_output, hx, weights: dict[str, Tensor], wanted, lengths, resets):
    """The same for what the reference computes, and for heads whose weights the engines take as a whole."""
    rows = 0 if stack.batch_first else 1
    given = {"input": input, "hx": hx, "lengths": lengths, "resets": resets, "grad": grad_output}
    dims = {"input": rows, "hx": 1, "lengths": 0, "resets": rows, "grad": rows}
    given = {name: torch.as_tensor(t) if name == "lengths" else t for name, t in given.items() if t is not None}

    def loss(of_wanted: dict[str, Tensor], sample: dict) -> Tensor:
        alone = {
            name: torch.utils._pytree.tree_map(lambda t, dim=dims[name]: t.unsqueeze(dim), value)
            for name, value in sample.items()
        }
        x, grad, hx = alone.pop("input"), alone.pop("grad"), alone.pop("hx", None)
        y, _ = layers.run(stack, x, hx, list({**weights, **of_wanted}.values()), **alone)
        return (y * grad).sum()

    of_samples = torch.func.vmap(torch.func.grad(loss), (None, {name: dims[name] for name in given}))
    return of_samples({name: weights[name].detach() for name in wanted}, given)
