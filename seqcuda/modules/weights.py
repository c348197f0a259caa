from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def weights_of(module: torch.nn.Module, names: Iterable[str]) -> list[Tensor | None]:
    """The weights of a module as they are now, by name."""
    try:  # faster than getattr
        return [module._parameters[name] for name in names]
    except KeyError:  # parametrized, pruned or missing
        return [getattr(module, name) for name in names]
