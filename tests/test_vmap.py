"""torch.func over the layers: per-sample gradients, ensembles, jacobians. The rules for vmap are autograd.py's own."""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS
from marks import needs_extension
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.profiler import profile
from walks import Problem, assert_groups_add_up, gradients_of_weights

import seqcuda
from seqcuda._backend import compiled
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact

OPTIONS = {
    "stacked": {"num_layers": 2, "bidirectional": True},
    "reset before": {"reset_after": False},
    "projected": {"proj_size": 2},
}
CASES = [(kind, "stacked") for kind in LAYERS] + [("GRU", "reset before"), ("LSTM", "projected")]
case = pytest.mark.parametrize(("kind", "options"), CASES)
T, B, N = 6, 2, 5  # N samples of B rows


def layer_of(kind, options):
    torch.manual_seed(0)
    layer = getattr(seqcuda, kind)(3, 4, dtype=torch.float64, **OPTIONS[options])
    return layer, {name: p.detach() for name, p in layer.named_parameters()}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def ops_called(function) -> list[int]:
    with profile() as record:
        function()
    counts = {event.key: event.count for event in record.key_averages()}
    return [counts.get(f"seqcuda::{name}", 0) for name in ("sequence", "sequence_backward")]


@case
def test_gradients_of_samples(kind, options):
    """As one by one, with lengths and resets of each sample's own."""
    layer, parameters = layer_of(kind, options)
    x, lengths, resets = normal(N, T, B, 3), torch.randint(0, T + 1, (N, B)), torch.rand(N, T, B) < 0.3

    def loss(parameters, x, lengths, resets):
        y, final, states = functional_call(
            layer, parameters, x, {"lengths": lengths, "resets": resets, "return_states": True}
        )
        return y.square().sum() + states.h.sum() + sum(s.sum() for s in (final if kind == "LSTM" else (final,)))

    together = vmap(grad(loss, (0, 1)), (None, 0, 0, 0))
    of_parameters, of_x = together(parameters, x, lengths, resets)
    for i in range(N):
        alone, alone_x = grad(loss, (0, 1))(parameters, x[i], lengths[i], resets[i])
        for name, exact in alone.items():
            assert_close_to_exact(of_parameters[name][i], exact, name=name)
        assert_close_to_exact(of_x[i], alone_x)
    if compiled is not None:
        layers = layer.num_layers
        assert ops_called(lambda: together(parameters, x, lengths, resets)) == [layers, layers]


@case
def test_ensembles(kind, options):
    """Members with weights of their own, over the same x: outputs and gradients."""
    layer, _ = layer_of(kind, options)
    members = [layer_of(kind, options)[0].requires_grad_(False) for _ in range(3)]
    for i, member in enumerate(members):
        torch.nn.utils.vector_to_parameters(
            normal(sum(p.numel() for p in member.parameters())) / (i + 2), member.parameters()
        )
    stacked, _ = stack_module_state(members)
    x = normal(T, B, 3)

    def loss(parameters, x):
        return functional_call(layer, parameters, x)[0].square().sum()

    gradients, values = vmap(torch.func.grad_and_value(loss), (0, None))(stacked, x)
    for i, member in enumerate(members):
        exact, value = torch.func.grad_and_value(loss)(dict(member.named_parameters()), x)
        assert_close_to_exact(values[i], value)
        for name, g in exact.items():
            assert_close_to_exact(gradients[name][i], g, name=name)


def test_vmap_in_vmap_and_around_autograd():
    layer, parameters = layer_of("LSTM", "stacked")
    x = normal(2, 3, T, B, 3)
    y = vmap(vmap(lambda x: layer(x)[0], 1, 1), out_dims=1)(x.movedim(2, 1))
    assert_close_to_exact(
        y.movedim(1, 0).movedim(2, 1), torch.stack([torch.stack([layer(b)[0] for b in a]) for a in x])
    )
    y.square().sum().backward()  # of parameters that require it, with no torch.func.grad
    expected = grad(lambda p: sum(functional_call(layer, p, b)[0].square().sum() for a in x for b in a))(parameters)
    for name, p in layer.named_parameters():
        assert_close_to_exact(p.grad, expected[name], name=name)


def test_packed_data_is_mapped_one_by_one():
    problem = Problem("gru", ragged="packed", return_states=False)
    inputs = problem.inputs()
    xs = torch.stack([inputs.x, 2 * inputs.x])

    def run(x):
        return seqcuda.autograd.sequence(problem.walk(), inputs._replace(x=x)).y

    for i, y in enumerate(vmap(run)(xs)):
        assert_close_to_exact(y, run(xs[i]))


@pytest.mark.parametrize("kind", LAYERS)
def test_jacobians(kind):
    """All ways to the same derivatives, the first order compiled."""
    layer, _ = layer_of(kind, "stacked")
    x, tangent = normal(3, B, 3), normal(3, B, 3)

    def f(x):
        return layer(x)[0]

    exact = torch.autograd.functional.jacobian(f, x)
    assert_close_to_exact(jacrev(f)(x), exact)
    assert_close_to_exact(jacfwd(f)(x), exact)
    assert_close_to_exact(jvp(f, (x,), (tangent,))[1], torch.einsum("abcxyz,xyz->abc", exact, tangent))
    if compiled is not None:
        assert ops_called(lambda: jacrev(f)(x)) == [2, 2]

    def g(x):
        return f(x).square().sum()

    exact = torch.autograd.functional.hessian(g, x)
    for ours in (hessian, lambda g: jacrev(jacrev(g)), lambda g: jacrev(jacfwd(g))):
        assert_close_to_exact(ours(g)(x), exact)


@needs_extension
@pytest.mark.parametrize("variant", [{}, {"ragged": "lengths", "resets": True}, {"bias": False}])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_gradients_of_weights_by_groups(cell, variant):
    assert_groups_add_up(Problem(cell, B=6, H=4, reverse=(False, True), save="states", **variant), torch.ops.seqcuda)


@needs_extension
def test_groups_that_cannot_be():
    problem = Problem("gru", B=6)
    with pytest.raises(RuntimeError, match="weight_groups must divide the 6 rows of padded data, got 4"):
        gradients_of_weights(problem, torch.ops.seqcuda, 4)
    with pytest.raises(RuntimeError, match="got 2 for packed data"):
        gradients_of_weights(Problem("gru", B=6, ragged="packed"), torch.ops.seqcuda, 2)


def test_a_derivative_of_the_norms_of_samples():
    """Per-sample gradients are differentiable themselves."""
    layer, parameters = layer_of("GRU", "reset before")
    x = normal(N, T, B, 3)

    def loss(parameters, x):
        return functional_call(layer, parameters, x)[0].square().sum()

    def norms(parameters):
        gradients = vmap(grad(loss), (None, 0))(parameters, x)
        return sum(g.square().flatten(1).sum(1) for g in gradients.values()).sqrt().sum()

    ours = grad(norms)(parameters)
    with seqcuda.backend("reference"):
        exact = grad(norms)(parameters)
    for name in parameters:
        assert_close_to_exact(ours[name], exact[name], name=name)
