"""`seqcuda.per_sample_gradients` for Opacus.

Needs the package opacus, whose GradSampleModule finds the samplers that importing this module registers.
"""

from __future__ import annotations

import weakref

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor

from .modules import GRU, LSTM, RNN
from .samples import check_layer, per_sample_gradients

_LAYERS = (RNN, LSTM, GRU)
_calls: weakref.WeakKeyDictionary[torch.nn.Module, list] = weakref.WeakKeyDictionary()


def prepare(model: torch.nn.Module) -> torch.nn.Module:
    """Make the RNN, LSTM and GRU of a model ready for Opacus; to be called before it wraps the model.

    Opacus shows a sampler the first arguments of a call and the gradient of its first result. The rest is seen to here:
    `hx`, `lengths` and `resets`, given by name, take part; a loss of the final state is an error.

    Returns:
        `model`.

    Raises:
        ValueError: a layer has dropout or zoneout, whose masks the sampler would not know.
    """
    found = {name: module for name, module in model.named_modules() if type(module) in _LAYERS}
    for name, layer in found.items():
        check_layer(f"seqcuda.opacus: {name or 'the model'}", layer)
    for layer in found.values():
        layer.register_forward_hook(_remember, with_kwargs=True)
    return model


def _remember(layer: torch.nn.Module, args, kwargs, result) -> None:
    if not (layer.training and torch.is_grad_enabled()):
        return
    calls = _calls.setdefault(layer, [])
    calls[len(getattr(layer, "activations", ())) :] = [(args, kwargs)]  # Opacus' own list, which is not longer yet
    final = result[1] if isinstance(result[1], tuple) else (result[1],)
    for state in (*final, *(result[2] if len(result) > 2 else ())):
        if state is not None and state.requires_grad:
            state.register_hook(_refuse)


def _refuse(gradient: Tensor | None) -> None:
    if gradient is not None:
        raise RuntimeError("seqcuda.opacus: the loss must be one of the output, got a gradient of a state as well")


@register_grad_sampler(_LAYERS)
def _grad_sample(layer: torch.nn.Module, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """The gradients of every parameter, ``(B, *shape)``. backprops: ``(B, T, D*P)``."""
    if layer not in _calls:
        raise RuntimeError("seqcuda.opacus: call seqcuda.opacus.prepare(model) before Opacus wraps the model")
    args, kwargs = _calls[layer].pop()
    given = {**dict(zip(("input", "hx"), args, strict=False)), **kwargs}
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if unknown := given.keys() - {"input", "hx", "lengths", "resets"}:
        raise TypeError(f"seqcuda.opacus: {', '.join(sorted(unknown))} cannot be given under Opacus")
    given = torch.utils._pytree.tree_map(lambda t: t.detach() if isinstance(t, Tensor) else t, given)
    # Opacus has its samples first; its loss is of the output alone.
    grad_output = backprops if layer.batch_first else backprops.transpose(0, 1)
    found = per_sample_gradients(layer, given.pop("input"), grad_output, given.pop("hx", None), **given)
    return {p: found[name] for name, p in layer.named_parameters() if p.requires_grad}
