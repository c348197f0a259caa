"""Second derivatives of a single step, which has a way of its own to them: csrc/ops/step_tangent.cpp."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from cases import flat
from marks import needs_extension

import seqcuda
from seqcuda.testing import assert_close_to_exact, assert_within_rule

pytestmark = needs_extension

KINDS = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
BATCHES = [1, 3, 5, 9, 20, 40]  # values and tangents are twice as many rows; own products up to 8, 16 and 64
I, H = 21, 19


def module_and_inputs(kind: str, batch: int, bias: bool = True):
    """In double; x, then the tensors of hx."""
    torch.manual_seed(0)
    module = getattr(seqcuda, kind)(I, H, bias=bias).double()
    lead = () if kind.endswith("Cell") else (1,)
    states = 2 if "LSTM" in kind else 1
    return module, [torch.randn(*lead, batch, n, dtype=torch.float64) for n in (I, H, H)[: 1 + states]]


def derivatives(module, inputs, backend, dtype, which, outer=torch.cos, initial=True):
    """Of a loss with the gradients of some inputs in it, with respect to all of them."""
    module = deepcopy(module).to(dtype)
    x, *hx = leaves = [t.to(dtype, copy=True).requires_grad_() for t in (inputs if initial else inputs[:1])]
    parts = {"x": [x], "states": hx, "weights": list(module.parameters())}
    with seqcuda.backend(backend):
        outputs = flat(module(x, None if not hx else tuple(hx) if len(hx) > 1 else hx[0])).values()
        loss = sum(outer(t).sum() for t in outputs)
        first = torch.autograd.grad(loss, [t for part in which for t in parts[part]], create_graph=True)
        second = sum((g * torch.linspace(-1, 1, g.numel(), dtype=dtype).view(g.shape)).sin().sum() for g in first)
        return torch.autograd.grad(second, [*leaves, *module.parameters()], materialize_grads=True)


def check(module, inputs, which, **options):
    exact = derivatives(module, inputs, "reference", torch.float64, which, **options)
    for ours, wanted in zip(derivatives(module, inputs, "auto", torch.float64, which, **options), exact, strict=True):
        assert_close_to_exact(ours, wanted)
    both = (derivatives(module, inputs, backend, torch.float32, which, **options) for backend in ("auto", "reference"))
    for ours, rival, wanted in zip(*both, exact, strict=True):
        assert_within_rule(ours, rival, wanted)


@pytest.mark.parametrize("which", [("x",), ("states",), ("weights",), ("x", "states", "weights")], ids="-".join)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_of_input(kind, batch, which, instruction_set):
    check(*module_and_inputs(kind, batch), which)


@pytest.mark.parametrize("which", [("x",), ("weights",)], ids="-".join)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_from_zeros(kind, batch, bias, which):
    check(*module_and_inputs(kind, batch, bias), which, initial=False)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_linear_loss(kind):
    """Whose gradient of h does not move."""
    check(*module_and_inputs(kind, 3), ("x", "states"), outer=lambda t: 2 * t)


@pytest.mark.parametrize("kind", KINDS)
def test_no_python_is_needed(kind, monkeypatch):
    for function in ("plain_gradients", "plain_tangents"):
        monkeypatch.delattr(seqcuda.autograd, function)
    given = module_and_inputs(kind, 2)
    assert all(g.isfinite().all() for g in derivatives(*given, "auto", torch.float32, ("x", "weights")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_derivative(kind):
    """It does not depend on which others are asked for."""
    module, inputs = module_and_inputs(kind, 3)
    leaves = [*(t.requires_grad_() for t in inputs), *module.parameters()]
    x, *hx = inputs
    loss = sum(t.cos().sum() for t in flat(module(x, tuple(hx) if len(hx) > 1 else hx[0])).values())
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    second = sum(g.sin().sum() for g in first)
    expected = torch.autograd.grad(second, leaves, retain_graph=True)
    for leaf, wanted in zip(leaves, expected, strict=True):
        (ours,) = torch.autograd.grad(second, leaf, retain_graph=True)
        assert torch.equal(ours, wanted)
