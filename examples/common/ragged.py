"""Sequences of different lengths through a recurrent layer, in three ways that give the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .cli import fail

FORMS = ("packed", "lengths", "padded")


def add_argument(group) -> None:
    """--form, the same for both libraries by default: it decides where dropout masks between layers fall."""
    group.add_argument("--form", choices=FORMS, default=FORMS[0], help="how ragged batches reach the layer")


def check_argument(args) -> None:
    if args.form == "lengths" and args.backend != "seqcuda":
        fail("--form lengths needs --backend seqcuda: torch.nn's layers do not take lengths")


def run(layer: torch.nn.RNNBase, x: Tensor, lengths: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """x (T, B, I), lengths (B,) on the CPU, from 1 -> y (T, B, D*H), 0 past the ends, and h_n (L*D, B, H).

    `form`: "packed" packs and unpacks; "lengths" says the lengths to the layer, which seqcuda's layers know; "padded"
    needs neither: it runs each direction on its own, and the backward one on sequences that are turned around.
    """
    if form == "padded":
        return _padded(layer, x, lengths)
    if form == "lengths":
        y, state = layer(x, lengths=lengths)
    else:
        y, state = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        y = pad_packed_sequence(y, total_length=len(x))[0]
    return y, state[0] if isinstance(state, tuple) else state


def _padded(layer: torch.nn.RNNBase, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    steps, rows = torch.arange(len(x))[:, None], torch.arange(x.shape[1])
    alive = steps < lengths
    turned = torch.where(alive, lengths - 1 - steps, steps)  # (T, B): step t of a row that is turned around
    finals = []
    for k in range(layer.num_layers):
        outputs = []
        for direction in ["", "_reverse"][: 1 + layer.bidirectional]:
            one = type(layer)(x.shape[2], layer.hidden_size, bias=layer.bias).to(x)
            weights = {name: getattr(layer, f"{name[:-1]}{k}{direction}") for name, _ in one.named_parameters()}
            y, _ = torch.func.functional_call(one, weights, x[turned, rows] if direction else x)
            finals.append(y[lengths - 1, rows])
            outputs.append(y[turned, rows] if direction else y)
        x = torch.cat(outputs, dim=2) * alive[..., None].to(x)
        if layer.training and k < layer.num_layers - 1:
            x = torch.nn.functional.dropout(x, layer.dropout)
    return x, torch.stack(finals)
