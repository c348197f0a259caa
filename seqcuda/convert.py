"""Swap torch.nn's recurrent layers in a model for seqcuda's, and back."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch.nn.utils import parametrize

from . import modules

OURS = tuple(map(modules.__dict__.get, modules.__all__))
TO_SEQCUDA = {getattr(torch.nn, cls.__name__): cls for cls in OURS if hasattr(torch.nn, cls.__name__)}
TO_TORCH = {ours: theirs for theirs, ours in TO_SEQCUDA.items()}
_OPTIONS = ("recurrent_dropout", "zoneout", "weight_dropout")  # that change what a layer computes


class Conversion(NamedTuple):
    """What became of one recurrent layer. ``str()`` is a line for people.

    Attributes:
        name: the layer's name in the model, "" for the model itself; the first one where it has several.
        layer: the layer.
        swapped: it was swapped.
        reason: why not, else "".
    """

    name: str
    layer: torch.nn.Module
    swapped: bool
    reason: str = ""

    def __str__(self) -> str:
        outcome = "swapped" if self.swapped else f"left: {self.reason}"
        return f"{self.name or '(the model)'}: {type(self.layer).__name__}, {outcome}"


def convert(model: torch.nn.Module, to: str = "seqcuda", *, report: list | None = None) -> torch.nn.Module:
    """Swap every torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell and GRUCell in `model` for seqcuda's, or back.

    The layers stay the objects they are and change their class, as torch.nn.utils.parametrize does it: parameters,
    buffers, hooks, parametrizations, pruning, training flag, optimizers, layers shared between places and references
    from elsewhere all stay valid, and a model that is itself a recurrent layer is converted like any other.

    Only the exact classes are swapped. A subclass, whose code may rely on torch.nn's, a scripted layer, and, on the
    way to torch.nn, a layer with an option that torch.nn does not have (reset_after=False, zoneout, ...) are left; a
    warning names them where no report is asked for.

    Args:
        model: changed in place. Nothing is changed when an error is raised.
        to: "seqcuda" or "torch".
        report: a list that gets one `Conversion` for each recurrent layer that was swapped or left::

            report = []
            seqcuda.convert(model, report=report)
            print(*report, sep="\\n")

    Returns:
        `model`.

    Raises:
        ValueError: unknown `to`.
        TypeError: `model` is not a torch.nn.Module.
    """
    if to not in ("seqcuda", "torch"):
        raise ValueError(f'to must be "seqcuda" or "torch", got {to!r}')
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    classes = TO_SEQCUDA if to == "seqcuda" else TO_TORCH
    entries = []
    for name, layer in list(model.named_modules()):
        if not _is_recurrent(layer) or isinstance(layer, OURS) != (to == "torch"):
            continue
        reason = _reason_to_leave(layer, classes)
        if not reason:
            _swap(layer, classes[_base(layer)])
        entries.append(Conversion(name, layer, not reason, reason))
    if report is not None:
        report.extend(entries)
    elif left := [str(entry) for entry in entries if not entry.swapped]:
        warnings.warn(f"seqcuda.convert left {len(left)} recurrent layers: {'; '.join(left)}", stacklevel=2)
    return model


def _is_recurrent(layer: torch.nn.Module) -> bool:
    if isinstance(layer, torch.jit.ScriptModule):
        return getattr(layer, "original_name", None) in modules.__all__
    return isinstance(layer, (torch.nn.RNNBase, torch.nn.RNNCellBase))


def _base(layer: torch.nn.Module) -> type:
    """The class of a layer, without the one that a parametrization puts before it."""
    cls = type(layer)
    return cls.__bases__[0] if parametrize.is_parametrized(layer) else cls


def _reason_to_leave(layer: torch.nn.Module, classes: dict[type, type]) -> str:
    if isinstance(layer, torch.jit.ScriptModule):
        return "it is compiled by torch.jit"
    if _base(layer) in OURS and _base(layer) not in classes:
        return f"torch.nn has no {_base(layer).__name__}"
    if _base(layer) not in classes:
        return f"its class {type(layer).__module__}.{type(layer).__qualname__} is not exactly one of the six"
    if not getattr(layer, "reset_after", True):
        return "torch.nn has no GRU with reset_after=False"
    for option in _OPTIONS:
        if getattr(layer, option, 0):
            return f"torch.nn has no {option}"
    if getattr(layer, "heads", 1) > 1 or getattr(layer, "_variant", ""):
        return f"torch.nn has no {layer}"
    return ""


def _swap(layer: torch.nn.Module, cls: type) -> None:
    old = type(layer)
    if old is not _base(layer):  # the class of a parametrized layer: a subclass that holds properties
        members = {k: v for k, v in vars(old).items() if k not in ("__dict__", "__weakref__")}
        cls = type(old.__name__, (cls,), members)
    # Two lists of torch.nn's, of the weights and of weak references to them, which can be neither copied nor pickled;
    # then what is only ours.
    for name in ("_flat_weights", "_flat_weight_refs", "forget_bias", "heads", "reset_after", "save", *_OPTIONS):
        layer.__dict__.pop(name, None)
    layer.__class__ = cls
    if isinstance(layer, torch.nn.RNNBase):
        layer._init_flat_weights()
