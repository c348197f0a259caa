"""Gradients of all weights for each row of a batch, without torch.func."""

from __future__ import annotations

import copy

import pytest
import torch
from marks import needs_extension
from torch.nn.utils.rnn import pack_padded_sequence
from torch.profiler import profile

import seqcuda
from seqcuda.testing import assert_close_to_exact

CASES = {
    "rnn": ("RNN", {}),
    "gru": ("GRU", {}),
    "lstm, stacked, both directions": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "gru, batch first, lean": ("GRU", {"batch_first": True, "num_layers": 3, "save": "states"}),
    "gru, reset before": ("GRU", {"reset_after": False}),
    "lstm, projected": ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    "lstm, no bias, heads": ("LSTM", {"bias": False, "heads": 2}),
    "lstm, peephole": ("LSTM", {"peephole": True}),
    "lstm, norms and heads": ("LSTM", {"layer_norm": True, "heads": 2}),
    "indrnn": ("IndRNN", {"num_layers": 2}),
    "slstm": ("SLSTM", {"heads": 2}),
}
T, B, I = 6, 5, 3


def problem(case: str, dtype=torch.float64):
    """A layer, its input, its state and other arguments, each row with its own."""
    torch.manual_seed(0)
    kind, options = CASES[case]
    layer = getattr(seqcuda, kind)(I, 4, dtype=dtype, **options)
    rows = (B, T) if layer.batch_first else (T, B)
    x = torch.randn(*rows, I, dtype=dtype)
    _, final = layer(x)
    states = final if isinstance(final, tuple) else (final,)
    hx = tuple(torch.rand_like(s) for s in states)
    given = {"lengths": torch.tensor([6, 1, 0, 4, 2]), "resets": torch.rand(rows) < 0.3}
    return layer, x, hx if len(hx) > 1 else hx[0], given


def one_by_one(layer, x, grad, hx, given) -> list[dict[str, torch.Tensor]]:
    wanted = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    rows, found = 0 if layer.batch_first else 1, []
    for i in range(B):
        own = tuple(s[:, i : i + 1] for s in (hx if isinstance(hx, tuple) else (hx,)))
        y, _ = layer(
            x.narrow(rows, i, 1),
            own if len(own) > 1 else own[0],
            lengths=given["lengths"][i : i + 1],
            resets=given["resets"].narrow(rows, i, 1),
        )
        of_row = torch.autograd.grad(y, list(wanted.values()), grad.narrow(rows, i, 1))
        found.append(dict(zip(wanted, of_row, strict=True)))
    return found


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_as_one_by_one(case, backend):
    layer, x, hx, given = problem(case)
    layer.weight_ih_l0.requires_grad_(False)
    grad = torch.randn_like(layer(x)[0])
    expected = one_by_one(layer, x, grad, hx, given)
    with seqcuda.backend(backend):
        found = seqcuda.per_sample_gradients(layer, x, grad, hx, **given)
    assert list(found) == [name for name in layer._flat_weights_names if name != "weight_ih_l0"]
    for name, of_rows in found.items():
        for own, exact in zip(of_rows, expected, strict=True):
            assert_close_to_exact(own, exact[name])
    assert all(p.grad is None for p in layer.parameters()) and not any(g.requires_grad for g in found.values())


def test_their_sum_is_what_a_backward_adds():
    layer, x, _, _ = problem("lstm, stacked, both directions", torch.float32)
    y, _ = layer(x)
    grad = torch.randn_like(y)
    y.backward(grad)
    for name, of_rows in seqcuda.per_sample_gradients(layer, x, grad).items():
        p = getattr(layer, name)
        assert of_rows.dtype == torch.float32 and of_rows.shape == (B, *p.shape)
        torch.testing.assert_close(of_rows.sum(0), p.grad)


def assert_as_in_double(found, layer, x, grad, hx):
    """Of a layer of bfloat16, to the rule for that type."""
    layer = copy.deepcopy(layer).double()
    states = tuple(s.double() for s in hx) if isinstance(hx, tuple) else hx.double()
    for name, exact in seqcuda.per_sample_gradients(layer, x.double(), grad.double(), states).items():
        assert_close_to_exact(found[name].bfloat16(), exact)


def test_bfloat16():
    layer, x, hx, _ = problem("lstm, stacked, both directions", torch.bfloat16)
    grad = torch.randn_like(layer(x)[0])
    found = seqcuda.per_sample_gradients(layer, x, grad, hx)
    assert all(of_rows.dtype == torch.bfloat16 for of_rows in found.values())
    assert_as_in_double(found, layer, x, grad, hx)


@needs_extension
def test_one_forward_and_one_backward_of_each_layer():
    layer, x, hx, given = problem("lstm, stacked, both directions")
    grad = torch.randn_like(layer(x)[0])
    with profile() as record:
        seqcuda.per_sample_gradients(layer, x, grad, hx, **given)
    counts = {event.key: event.count for event in record.key_averages()}
    assert (counts["seqcuda::sequence"], counts["seqcuda::sequence_backward"]) == (2, 2)


def test_parametrized_weights():
    """The gradients are those of the weights that the layer computes with."""
    layer, x, hx, given = problem("gru")
    grad = torch.randn_like(layer(x)[0])
    expected = seqcuda.per_sample_gradients(layer, x, grad, hx, **given)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    found = seqcuda.per_sample_gradients(layer, x, grad, hx, **given)
    for name, exact in expected.items():
        torch.testing.assert_close(found[name], exact)


def test_autocast():
    """What the layer computes from numbers that are cast, its state among them."""
    layer, x, hx, _ = problem("lstm, stacked, both directions", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        grad = torch.randn_like(layer(x, hx)[0])
        found = seqcuda.per_sample_gradients(layer, x, grad, hx)
    assert all(of_rows.dtype == torch.float32 for of_rows in found.values())
    cast = tuple(s.bfloat16() for s in hx)
    assert_as_in_double(found, layer.bfloat16(), x.bfloat16(), grad, cast)


def test_no_rows():
    layer = seqcuda.GRU(I, 4)
    found = seqcuda.per_sample_gradients(layer, torch.randn(T, 0, I), torch.randn(T, 0, 4))
    assert all(found[name].shape == (0, *p.shape) for name, p in layer.named_parameters())


def test_nothing_is_asked_for():
    layer = seqcuda.GRU(I, 4, num_layers=2).requires_grad_(False)
    assert seqcuda.per_sample_gradients(layer, torch.randn(T, B, I), torch.randn(T, B, 4)) == {}


def test_only_an_upper_layer_is_asked_for():
    layer, x, _, _ = problem("lstm, stacked, both directions")
    grad = torch.randn_like(layer(x)[0])
    everything = seqcuda.per_sample_gradients(layer, x, grad)
    for name, p in layer.named_parameters():
        p.requires_grad_(name == "weight_hh_l1_reverse")
    found = seqcuda.per_sample_gradients(layer, x, grad)
    assert list(found) == ["weight_hh_l1_reverse"]
    assert torch.equal(found["weight_hh_l1_reverse"], everything["weight_hh_l1_reverse"])


def test_bad_input():
    layer, x = seqcuda.GRU(I, 4), torch.randn(T, B, I)
    grad = torch.randn(T, B, 4)
    call = seqcuda.per_sample_gradients
    with pytest.raises(TypeError, match=r"layer must be a sequence layer of seqcuda, got torch\.nn\.modules\.rnn\.GRU"):
        call(torch.nn.GRU(I, 4), x, grad)
    with pytest.raises(
        RuntimeError, match=r"grad_output must be torch.float32 of shape \(6, 5, 4\), got .*\(6, 5, 3\)"
    ):
        call(layer, x, x)
    with pytest.raises(TypeError, match="grad_output must be a Tensor, got NoneType"):
        call(layer, x, None)
    with pytest.raises(RuntimeError, match="grad_output must be torch.float32 of shape .*, got torch.float64"):
        call(layer, x, grad.double())
    with pytest.raises(ValueError, match="input must be a padded batch"):
        call(layer, x[:, 0], grad[:, 0])
    with pytest.raises(ValueError, match="input must be a padded batch"):
        call(layer, pack_padded_sequence(x, [6, 4, 3, 2, 1]), grad)
    with pytest.raises(ValueError, match="per_sample_gradients of GRU must have dropout=0, got 0.1"):
        call(seqcuda.GRU(I, 4, num_layers=2, dropout=0.1), x, grad)
    with pytest.raises(RuntimeError, match="hx: Expected hidden size"):
        call(layer, x, grad, torch.zeros(1, B, 5))
    with pytest.raises(RuntimeError, match="input.size"):
        call(layer, grad, grad)
