"""The weights of Keras's SimpleRNN, LSTM and GRU for the layers here, and back. Keras itself is not needed.

Keras computes (keras/src/layers/rnn), with W the kernel, U the recurrent kernel and b the bias, gates side by side:

- SimpleRNN: ``h' = tanh(x W + h U + b)``, or another activation.
- LSTM: gates i f c o of ``x W + h U + b``; its c is g here.
- GRU, reset_after=True: gates z r h of ``x W + b[0]`` and ``h U + b[1]``, ``h~ = tanh(x_h + r (h U_h + b[1]_h))``,
  ``h' = z h + (1 - z) h~``: two rows of biases.
- GRU, reset_after=False: ``h~ = tanh(x_h + (r h) U_h)``, one row of biases.

Kernels are ``(I, G*H)``, the transpose of torch.nn's weights. Keras has one bias where torch.nn has the sum of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def from_keras_weights(layer: torch.nn.Module, weights: Sequence[Any]) -> None:
    """Copy the weights of Keras layers into `layer`.

    Args:
        layer: an RNN, LSTM or GRU, or such a cell, of seqcuda or of torch.nn. A GRU must have the reset_after of
            Keras's.
        weights: what ``get_weights()`` gives in Keras: kernel ``(I, G*H)``, recurrent kernel ``(H, G*H)`` and, with
            bias, bias ``(G*H)``, or ``(2, 3*H)`` of a GRU with reset_after. Of a Bidirectional layer the forward one's,
            then the backward one's; of stacked layers the first one's, then the next one's.

    Raises:
        TypeError: `layer` is of another kind.
        ValueError: the number or the shape of the weights is not that of the layer, or a weight of the layer is
            parametrized or pruned. The weights of the layer then stay.
    """
    groups = _parameters(layer)
    if computed := [name for group in _names(layer) for name in group if name not in layer._parameters]:
        raise ValueError(f"{', '.join(computed)}: parametrized or pruned, so that nothing can be copied there")
    each = len(_to_keras(layer, groups[0]))
    if len(weights) != each * len(groups):
        raise ValueError(
            f"weights must hold {each} arrays for each of {len(groups)} layers and directions, got {len(weights)}"
        )
    arrays = [torch.as_tensor(w) for w in weights]
    for i, expected in enumerate(kept for group in groups for kept in _to_keras(layer, group)):
        if arrays[i].shape != expected.shape:
            raise ValueError(f"weights[{i}] must have shape {tuple(expected.shape)}, got {tuple(arrays[i].shape)}")
    with torch.no_grad():
        for i, group in enumerate(groups):
            kernel, recurrent, *bias = (_reordered(layer, w) for w in arrays[i * each : (i + 1) * each])
            group[0].copy_(kernel.t())
            group[1].copy_(recurrent.t())
            if bias:
                both = bias[0] if bias[0].dim() == 2 else torch.stack([bias[0], torch.zeros_like(bias[0])])
                group[2].copy_(both[0])
                group[3].copy_(both[1])


def to_keras_weights(layer: torch.nn.Module) -> list:
    """The weights of `layer` as numpy arrays for Keras's ``set_weights``; see `from_keras_weights`."""
    return [w.cpu().numpy() for group in _parameters(layer) for w in _to_keras(layer, group)]


def _parameters(layer: torch.nn.Module) -> list[tuple[Tensor, ...]]:
    """weight_ih, weight_hh[, bias_ih, bias_hh] of each layer and direction."""
    return [tuple(getattr(layer, name).detach() for name in group) for group in _names(layer)]


def _names(layer: torch.nn.Module) -> list[list[str]]:
    if isinstance(layer, (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU)):
        names = layer._all_weights
    elif isinstance(layer, (torch.nn.RNNCell, torch.nn.LSTMCell, torch.nn.GRUCell)):
        names = [["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if layer.bias else [])]]
    else:
        raise TypeError(f"layer must be an RNN, LSTM or GRU, or such a cell, got {type(layer).__name__}")
    if len(names[0]) not in (2, 4):
        raise ValueError(f"Keras has no weights for {', '.join(names[0][4 if layer.bias else 2 :])}")
    if getattr(layer, "heads", 1) > 1:
        raise ValueError(f"Keras has no layer with heads, got heads={layer.heads}")
    return names


def _to_keras(layer: torch.nn.Module, group: tuple[Tensor, ...]) -> list[Tensor]:
    w_ih, w_hh, *bias = group
    weights = [w_ih.t(), w_hh.t()]
    if bias:
        weights.append(torch.stack(bias) if _is_gru(layer) and getattr(layer, "reset_after", True) else sum(bias))
    return [_reordered(layer, w).contiguous() for w in weights]


def _is_gru(layer: torch.nn.Module) -> bool:
    return isinstance(layer, (torch.nn.GRU, torch.nn.GRUCell))


def _reordered(layer: torch.nn.Module, t: Tensor) -> Tensor:
    """From our order of gates to Keras's or back: those of a GRU, r z n and z r h, differ by one exchange."""
    if not _is_gru(layer):
        return t
    first, second, last = t.chunk(3, -1)
    return torch.cat([second, first, last], -1)
