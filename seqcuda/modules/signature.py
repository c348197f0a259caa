from __future__ import annotations

from inspect import Parameter, Signature, signature

import torch

_PACKAGE = __name__.partition(".")[0]


class ConstructorSignature:
    """As ``__signature__`` of a sequence layer: what its constructor takes, for help() and editors. The constructors
    hand ``*args`` and ``**kwargs`` on, in the end to torch.nn's, so that none of them says it all."""

    def __get__(self, instance, layer: type) -> Signature:
        classes = [cls for cls in layer.__mro__ if "__init__" in vars(cls)]
        ours = [cls for cls in classes if cls.__module__.partition(".")[0] == _PACKAGE]
        if instance is not None or classes[0] not in ours:  # which says itself what it takes
            raise AttributeError("__signature__")
        left_out = {"mode", "device", "dtype"} | ({"proj_size"} if not issubclass(layer, torch.nn.LSTM) else set())
        theirs = [p for p in signature(torch.nn.RNNBase).parameters.values() if p.name not in left_out]
        if issubclass(layer, torch.nn.RNN):
            at = [p.name for p in theirs].index("num_layers") + 1
            theirs.insert(at, Parameter("nonlinearity", Parameter.POSITIONAL_OR_KEYWORD, default="tanh"))
        more = {p.name: p for cls in reversed(ours) for p in signature(cls.__init__).parameters.values()}
        return Signature([*theirs, *(p for p in more.values() if p.kind is Parameter.KEYWORD_ONLY)])
