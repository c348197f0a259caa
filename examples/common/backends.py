"""torch.nn's or seqcuda's recurrent layers and cells, by name."""

from __future__ import annotations

import torch

import seqcuda

LIBRARIES = {"torch": torch.nn, "seqcuda": seqcuda}


def layer_class(backend: str, cell: str) -> type[torch.nn.RNNBase]:
    """`backend`: "torch" or "seqcuda". `cell`: "rnn", "gru" or "lstm"."""
    return getattr(LIBRARIES[backend], cell.upper())


def cell_class(backend: str, cell: str) -> type[torch.nn.RNNCellBase]:
    """The class of a single step."""
    return getattr(LIBRARIES[backend], f"{cell.upper()}Cell")
