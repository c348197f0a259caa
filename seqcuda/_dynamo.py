"""Lets torch.compile see the sequence layers.

It refuses every torch.nn.RNN, LSTM and GRU by its class unless torch._dynamo.config.allow_rnn is set, because it cannot
keep the number of steps of torch.nn's dynamic. A layer of seqcuda is an instance of those classes and one op. So the
flag is set while one of its layers is wrapped, and stays as it is for torch.nn's.

Nothing of torch._dynamo is public: where its names are others, nothing is done, and the flag is the user's to set.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

_BUILDER = "torch._dynamo.variables.builder"


def allow(layer: type) -> None:
    """Let torch.compile trace instances of `layer`: now, or once torch._dynamo, which is slow to import, is there."""
    if _BUILDER in sys.modules:
        _patch(sys.modules[_BUILDER], layer)
    else:
        sys.meta_path.insert(0, _OnImport(layer))


def _patch(builder, layer: type) -> None:
    variable_builder, config = getattr(builder, "VariableBuilder", None), getattr(builder, "config", None)
    if not (hasattr(variable_builder, "wrap_module") and hasattr(config, "allow_rnn")):
        return
    wrap_module = variable_builder.wrap_module

    def wrap(self, value):
        if not isinstance(value, layer):
            return wrap_module(self, value)
        with config.patch(allow_rnn=True):
            return wrap_module(self, value)

    variable_builder.wrap_module = wrap


class _OnImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself; once, it patches what the others have found."""

    def __init__(self, layer: type):
        self._layer = layer

    def find_spec(self, name, path, target=None):
        if name != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            _patch(module, self._layer)

        spec.loader.exec_module = execute_and_patch
        return spec
