"""Loads the compiled module, knows what it holds, and decides who computes a walk."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import json
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from . import _fake

BUILD_INFO = Path(__file__).with_name("_C_build.json")  # written by setup.py beside the compiled module


def _how_to_build() -> str:
    build = "pip install --no-build-isolation"
    if BUILD_INFO.parents[1].joinpath("setup.py").exists():  # Python in a checkout takes this, not what is installed
        return f"`{build} -e .` builds it in this checkout; start Python elsewhere to use an installed seqcuda"
    return f"build it with `{build} .` in the seqcuda checkout"


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and one sentence that says why there is none."""
    if os.environ.get("SEQCUDA_NO_EXTENSION") == "1":
        return None, "SEQCUDA_NO_EXTENSION=1 is set"
    if BUILD_INFO.exists():
        built = json.loads(BUILD_INFO.read_text())["torch"]
        if _minor(built) != _minor(torch.__version__):
            return (
                None,
                f"the extension was built for torch {built}, this is torch {torch.__version__}; {_how_to_build()}",
            )
    # Beside this file or nowhere: the editable install of another checkout must not lend its own.
    if importlib.machinery.PathFinder.find_spec("seqcuda._C", [str(BUILD_INFO.parent)]) is None:
        return None, f"the extension is not built; {_how_to_build()}"
    try:
        return importlib.import_module("seqcuda._C"), ""
    except ImportError as error:
        return None, f"the extension does not load with torch {torch.__version__} ({error}); {_how_to_build()}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


compiled, why_not_compiled = _load()
if compiled is not None:
    _fake.register()
    os.register_at_fork(after_in_child=compiled.after_fork_in_child)


def _devices_with(op: str) -> frozenset[str]:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return frozenset(device for device in _ENGINES if has(f"seqcuda::{op}", device.upper()))


# Asked at every call, so known once.
_ENGINES = {device: tuple(compiled.engines(device)) for device in compiled.devices()} if compiled else {}
_CELLS = frozenset(compiled.cells()) if compiled else frozenset()
_TANGENTS = _devices_with("sequence_tangent")
_STACKS = _devices_with("stack")
_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_QUICK = ("auto", "panel")  # engines that `quick_call` has a way to
_NAMES = ("auto", "reference", *dict.fromkeys(name for names in _ENGINES.values() for name in names))


def _checked(name: str, source: str) -> str:
    if name not in _NAMES:
        known = ", ".join(_NAMES)
        hint = "" if compiled else f" ({why_not_compiled})"
        raise ValueError(f"{source} must be one of {known}, got {name!r}{hint}")
    return name


_AT_IMPORT = _checked(os.environ.get("SEQCUDA_BACKEND", "auto"), "SEQCUDA_BACKEND")


class _Selection(threading.local):
    """One for each thread, as torch's own switches are: what torch.compile can read, and guard."""

    def __init__(self):  # not a class attribute, which torch.compile would take for a constant
        self.name = _AT_IMPORT


_selection = _Selection()


def selected() -> str:
    """The backend asked for: by the innermost `backend(...)`, else by SEQCUDA_BACKEND at import, else "auto"."""
    return _selection.name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose who computes inside a ``with`` block, in this thread.

    Args:
        name: "auto" (the fastest engine that can run), "reference" (pure PyTorch) or a compiled engine by name
            (`seqcuda.engines()`). An engine that is asked for by name and cannot run is an error that says why;
            nothing is re-routed in silence.

    Raises:
        ValueError: unknown name.
    """
    before, _selection.name = _selection.name, _checked(name, "backend name")
    try:
        yield
    finally:
        _selection.name = before


def devices() -> tuple[str, ...]:
    """The types of device that have compiled engines; empty where the extension is not built."""
    return tuple(_ENGINES)


def engines(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """The compiled engines of a device, by name; empty where there are none."""
    return _ENGINES.get(torch.device(device).type, ())


def reason_for_reference(cell_name: str, x: Tensor, tangents: bool = True) -> str:
    """Why the compiled ops cannot compute this walk; empty where they can. tangents: their forward mode can as well."""
    if compiled is None:
        return why_not_compiled
    if cell_name not in _CELLS:
        return f"cell {cell_name} has no compiled form"
    if x.device.type not in _ENGINES:
        return f"no compiled engine for device {x.device.type} (compiled: {', '.join(_ENGINES)})"
    if x.dtype not in _DTYPES:
        return f"no compiled engine for {x.dtype}"
    if torch.jit.is_tracing():
        return "torch.jit.trace records the operations of the reference"
    if forward_mode() and not (tangents and has_tangents(x.device)):
        return f"its forward-mode derivatives on device {x.device.type} go through the reference"
    return ""


def has_tangents(device: torch.device) -> bool:
    """Whether the op that derivatives in one direction need is compiled for a device."""
    return device.type in _TANGENTS


def has_stacks(device: torch.device) -> bool:
    """Whether a device walks layers one on another at the same time."""
    return device.type in _STACKS


def quick_call(
    cell_name: str, input, hx, weights, layers: int = 0, directions: int = 1, batch_first: bool = False,
    save: str | int = "all",
):  # fmt: skip
    """A module's call by the shortest way, or None where only the general one will do, which also knows what is wrong.

    Args:
        layers: 0 for a cell, whose states are given back as a tuple; else those of a stack, whose output and final
            state are.
        save: what training keeps: see `Walk`.
    """
    engine = selected()
    if torch.compiler.is_compiling() or compiled is None or cell_name not in _CELLS or engine not in _QUICK:
        return None
    return compiled.quick_call(cell_name, input, hx, weights, layers, directions, batch_first, str(save), engine)


def forward_mode() -> bool:
    """Inside a forward-mode level, of torch.func or not, as far as a compiler does not see to that itself."""
    if torch.compiler.is_compiling():
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if torch._C._functorch.peek_interpreter_stack() is None:
        return False
    jvp = torch._C._functorch.TransformType.Jvp
    return any(interpreter.key() == jvp for interpreter in torch._C._functorch.get_interpreter_stack())


def choose(cell_name: str, x: Tensor, tangents: bool = True) -> str:
    """The engine argument of the compiled op ("auto" or a name), or "reference".

    Raises:
        RuntimeError: an engine was asked for by name and the compiled ops cannot compute this walk.
    """
    name = selected()
    if name == "reference":
        return name
    reason = reason_for_reference(cell_name, x, tangents)
    if not reason:
        return name
    if name != "auto":
        raise RuntimeError(f"backend {name!r} cannot compute this: {reason}")
    if compiled is not None and x.device.type not in (*_ENGINES, "meta") and not torch.compiler.is_compiling():
        _warn_of_device(reason)
    return "reference"


@functools.cache
def _warn_of_device(reason: str) -> None:
    """Once for each: on a GPU, the reference is far slower than torch.nn."""
    warnings.warn(f"seqcuda computes in pure PyTorch: {reason}.", RuntimeWarning, stacklevel=2)
