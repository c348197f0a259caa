"""Several gradients through one graph: is_grads_batched, vectorize=True, torch.func.vmap of torch.autograd.grad."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, LAYERS, flat
from torch.autograd.functional import hessian, jacobian
from torch.nn.utils.rnn import pack_padded_sequence

import seqcuda
from seqcuda.testing import assert_close_to_exact

FORMS = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True},
    "one step": {"steps": 1},
    "lengths": {"lengths": [4, 2]},
    "packed": {"packed": True},
    "without tangents": {"detach_every": 2},
}
CALLS = [(kind, form) for kind in LAYERS for form in FORMS] + [(kind, "one step") for kind in CELLS]
each_call = pytest.mark.parametrize(("kind", "form"), CALLS)


def function_and_input(kind, form):
    """A function of x ``(T, B, I)``, which gives y, its parameters and x."""
    options = dict(FORMS[form])
    steps, packed = options.pop("steps", 4), options.pop("packed", False)
    made = {name: options.pop(name) for name in ("num_layers", "bidirectional") if name in options}
    torch.manual_seed(0)
    module = getattr(seqcuda, kind)(3, 2, dtype=torch.float64, **made)
    shape = (2, 3) if kind in CELLS else (steps, 2, 3)

    def function(x):
        given = pack_padded_sequence(x, [4, 2]) if packed else x
        return next(iter(flat(module(given, **options)).values()))

    return function, list(module.parameters()), torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_all_close(actual, exact):
    for a, b in zip(actual, exact, strict=True):
        assert_close_to_exact(a, b)


@each_call
def test_as_one_by_one(kind, form):
    function, parameters, x = function_and_input(kind, form)
    y = function(x)
    grads = torch.randn(3, *y.shape, dtype=torch.float64)

    def pull(grad, **options):
        return torch.autograd.grad(y, [x, *parameters], grad, retain_graph=True, **options)

    expected = [torch.stack(parts) for parts in zip(*map(pull, grads), strict=True)]
    assert_all_close(pull(grads, is_grads_batched=True), expected)
    assert_all_close(torch.func.vmap(pull)(grads), expected)
    twice = torch.func.vmap(torch.func.vmap(pull))(grads.unsqueeze(1))
    assert_all_close(twice, [t.unsqueeze(1) for t in expected])


@each_call
def test_vectorized_jacobian_and_its_derivative(kind, form):
    function, _, x = function_and_input(kind, form)
    results = []
    for vectorize in (True, False):
        of_x = jacobian(lambda x: function(x).square(), x, create_graph=True, vectorize=vectorize)
        results.append((of_x, *torch.autograd.grad(of_x.square().sum(), x)))
    assert_all_close(*results)


# torch cannot pack tangents
@pytest.mark.parametrize(("kind", "form"), [call for call in CALLS if call[1] != "packed"])
def test_vectorized_in_forward_mode(kind, form):
    function, _, x = function_and_input(kind, form)
    options = {"vectorize": True, "strategy": "forward-mode"}
    assert_all_close([jacobian(function, x, **options)], [jacobian(function, x)])


@each_call
def test_vectorized_hessian(kind, form):
    function, _, x = function_and_input(kind, form)
    of_x = [hessian(lambda x: function(x).square().sum(), x, vectorize=vectorize) for vectorize in (True, False)]
    assert_all_close(of_x[:1], of_x[1:])
