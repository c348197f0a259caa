"""Weights of Keras: Keras's own equations, written out with numpy, give what the layers with those weights give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune

import seqcuda
from seqcuda.testing import assert_close_to_exact

T, B, I, H = 5, 3, 4, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_rnn(x, kernel, recurrent, bias):
    h = np.zeros((B, H))
    for x_t in x:
        h = np.tanh(x_t @ kernel + h @ recurrent + bias)
        yield h


def lstm(x, kernel, recurrent, bias):
    h = c = np.zeros((B, H))
    for x_t in x:
        i, f, g, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


def gru_reset_after(x, kernel, recurrent, bias):
    h = np.zeros((B, H))
    for x_t in x:
        x_z, x_r, x_h = np.split(x_t @ kernel + bias[0], 3, axis=1)
        h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3, axis=1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z * h + (1 - z) * np.tanh(x_h + r * h_h)
        yield h


def gru_reset_before(x, kernel, recurrent, bias):
    h = np.zeros((B, H))
    for x_t in x:
        x_z, x_r, x_h = np.split(x_t @ kernel + bias, 3, axis=1)
        z, r = sigmoid(x_z + h @ recurrent[:, :H]), sigmoid(x_r + h @ recurrent[:, H : 2 * H])
        h = z * h + (1 - z) * np.tanh(x_h + (r * h) @ recurrent[:, 2 * H :])
        yield h


# The equations, their gates, and the layer and cell that compute them.
KINDS = {
    "SimpleRNN": (simple_rnn, 1, seqcuda.RNN, seqcuda.RNNCell, {}),
    "LSTM": (lstm, 4, seqcuda.LSTM, seqcuda.LSTMCell, {}),
    "GRU": (gru_reset_after, 3, seqcuda.GRU, seqcuda.GRUCell, {}),
    "GRU, reset before": (gru_reset_before, 3, seqcuda.GRU, seqcuda.GRUCell, {"reset_after": False}),
}


def keras_weights(gates: int, rows_of_bias: tuple[int, ...], inputs: int = I, seed: int = 0) -> list:
    random = np.random.default_rng(seed)
    shapes = (inputs, gates * H), (H, gates * H), (*rows_of_bias, gates * H)
    return [random.normal(scale=0.5, size=shape) for shape in shapes]


def weights_of(kind: str, **more) -> list:
    return keras_weights(KINDS[kind][1], (2,) if kind == "GRU" else (), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_and_a_cell(kind):
    equations, _, layer, cell, arguments = KINDS[kind]
    weights, x = weights_of(kind), np.random.default_rng(1).normal(size=(T, B, I))
    expected = torch.as_tensor(np.stack(list(equations(x, *weights))))
    layer = layer(I, H, dtype=torch.float64, **arguments)
    seqcuda.from_keras_weights(layer, weights)
    assert_close_to_exact(layer(torch.as_tensor(x))[0], expected)
    cell = cell(I, H, dtype=torch.float64, **arguments)
    seqcuda.from_keras_weights(cell, weights)
    h = cell(torch.as_tensor(x[0]))
    assert_close_to_exact(h[0] if isinstance(h, tuple) else h, expected[0])
    for back in (seqcuda.to_keras_weights(layer), seqcuda.to_keras_weights(cell)):
        for ours, theirs in zip(back, weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_and_bidirectional(kind):
    """Of each layer the forward direction's weights, then the backward one's."""
    equations, _, layer, _, arguments = KINDS[kind]
    sizes = (I, I, 2 * H, 2 * H)
    weights = [weights_of(kind, inputs=inputs, seed=seed) for seed, inputs in enumerate(sizes)]
    x = y = np.random.default_rng(9).normal(size=(T, B, I))
    for forward, backward in (weights[:2], weights[2:]):
        both = list(equations(y, *forward)), list(equations(y[::-1], *backward))[::-1]
        y = np.concatenate([np.stack(part) for part in both], axis=2)
    layer = layer(I, H, 2, bidirectional=True, dtype=torch.float64, **arguments)
    flat = [w for group in weights for w in group]
    seqcuda.from_keras_weights(layer, flat)
    assert_close_to_exact(layer(torch.as_tensor(x))[0], torch.as_tensor(y))
    for ours, theirs in zip(seqcuda.to_keras_weights(layer), flat, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_of_torch_and_layers_without_bias():
    weights = weights_of("GRU")
    layer = torch.nn.GRU(I, H)
    seqcuda.from_keras_weights(layer, weights)
    np.testing.assert_array_equal(seqcuda.to_keras_weights(layer)[2], weights[2].astype(np.float32))
    seqcuda.from_keras_weights(seqcuda.GRU(I, H, bias=False), weights[:2])


def test_what_does_not_fit_is_named_and_changes_nothing():
    layer, weights = seqcuda.GRU(I, H), weights_of("GRU")
    before = layer.weight_ih_l0.clone()
    with pytest.raises(ValueError, match="3 arrays for each of 1 layers and directions, got 2"):
        seqcuda.from_keras_weights(layer, weights[:2])
    with pytest.raises(ValueError, match=r"weights\[2\] must have shape \(2, 18\), got \(18,\)"):
        seqcuda.from_keras_weights(layer, weights_of("GRU, reset before"))
    with pytest.raises(TypeError, match="layer must be an RNN, LSTM or GRU, or such a cell, got Linear"):
        seqcuda.from_keras_weights(torch.nn.Linear(2, 3), weights)
    with pytest.raises(ValueError, match="Keras has no weights for weight_hr_l0"):
        seqcuda.to_keras_weights(seqcuda.LSTM(I, H, proj_size=2))
    with pytest.raises(ValueError, match="Keras has no layer with heads, got heads=2"):
        seqcuda.to_keras_weights(seqcuda.LSTM(I, H, heads=2))
    assert torch.equal(layer.weight_ih_l0, before)


def test_nothing_is_copied_into_a_weight_that_is_computed():
    layer, weights = seqcuda.GRU(I, H), weights_of("GRU")
    parametrizations.weight_norm(layer, "weight_hh_l0")
    prune.l1_unstructured(layer, "weight_ih_l0", amount=0.5)
    before = layer.weight_ih_l0.clone()
    with pytest.raises(ValueError, match="weight_ih_l0, weight_hh_l0: parametrized or pruned"):
        seqcuda.from_keras_weights(layer, weights)
    assert torch.equal(layer.weight_ih_l0, before)
    assert len(seqcuda.to_keras_weights(layer)) == 3
