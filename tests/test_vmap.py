"""torch.func over the layers: per-sample gradients, ensembles, jacobians. The rules for vmap are autograd.py's own."""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS
from marks import needs_extension
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.profiler import profile
from walks import MIXABLE, Problem, assert_groups_add_up, assert_members_as_alone, gradients_of_weights

import seqcuda
from seqcuda._backend import compiled
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact

OPTIONS = {
    "stacked": {"num_layers": 2, "bidirectional": True},
    "reset before": {"reset_after": False},
    "projected": {"proj_size": 2},
    "layer norm": {"layer_norm": True, "heads": 2},
}
CASES = [(kind, "stacked") for kind in LAYERS] + [("GRU", "reset before"), ("LSTM", "projected"), ("GRU", "layer norm")]
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


def ensemble(kind, options, members=3):
    """A layer, and the parameters of some members of its kind, each and stacked."""
    layer, _ = layer_of(kind, options)
    modules = [layer_of(kind, options)[0].requires_grad_(False) for _ in range(members)]
    for i, module in enumerate(modules):
        torch.nn.utils.vector_to_parameters(
            normal(sum(p.numel() for p in module.parameters())) / (i + 2), module.parameters()
        )
    return layer, [dict(module.named_parameters()) for module in modules], stack_module_state(modules)[0]


@case
@pytest.mark.parametrize("own_data", [False, True])
def test_ensembles(kind, options, own_data):
    """Members with weights of their own, over the same data or their own, in one call: outputs and gradients."""
    layer, members, stacked = ensemble(kind, options)
    data = normal(3, T, B, 3), torch.randint(0, T + 1, (3, B)), torch.rand(3, T, B) < 0.3, normal(3, T, B, 1).sigmoid()
    dims = (0, 0, 0, 0) if own_data else (None,) * 4
    data = data if own_data else [t[0] for t in data]

    def loss(parameters, x, lengths, resets, decay):
        given = {"lengths": lengths, "resets": resets, "decay": decay, "return_states": True}
        y, final, states = functional_call(layer, parameters, x, given)
        return y.square().sum() + states.h.sum() + sum(s.sum() for s in (final if kind == "LSTM" else (final,)))

    together = vmap(torch.func.grad_and_value(loss, (0, 1)), (0, *dims))
    (of_parameters, of_x), values = together(stacked, *data)
    for i, member in enumerate(members):
        own = [t[i] for t in data] if own_data else data
        (exact, exact_x), value = torch.func.grad_and_value(loss, (0, 1))(member, *own)
        assert_close_to_exact(values[i], value)
        assert_close_to_exact(of_x[i], exact_x)
        for name, g in exact.items():
            assert_close_to_exact(of_parameters[name][i], g, name=name)
    if compiled is not None:
        assert ops_called(lambda: together(stacked, *data)) == [layer.num_layers] * 2


def test_gradients_of_samples_of_ensembles():
    """Each sample's, of each member, from one call; and their derivative."""
    layer, members, stacked = ensemble("GRU", "reset before")
    x = normal(N, T, B, 3)

    def loss(parameters, x):
        return functional_call(layer, parameters, x)[0].square().sum()

    of_samples = vmap(grad(loss), (None, 0))
    gradients = vmap(of_samples, (0, None))(stacked, x)
    for i, member in enumerate(members):
        for name, exact in of_samples(member, x).items():
            assert_close_to_exact(gradients[name][i], exact, name=name)
    if compiled is not None:
        assert ops_called(lambda: vmap(of_samples, (0, None))(stacked, x)) == [1, 1]

    def norms(parameters):
        return sum(g.square().sum() for g in vmap(of_samples, (0, None))(parameters, x).values())

    ours = grad(norms)(stacked)
    for i, member in enumerate(members):
        exact = grad(lambda p: sum(g.square().sum() for g in of_samples(p, x).values()))(member)
        for name, g in exact.items():
            assert_close_to_exact(ours[name][i], g, name=name)


def test_all_derivatives_of_ensembles():
    """Around the call for all members: backward of it, in any order of the transforms, twice, and forward mode."""
    layer, members, stacked = ensemble("LSTM", "projected")
    x, direction = normal(T, B, 3), {name: torch.randn_like(p) for name, p in stacked.items()}

    def outputs(parameters):
        return vmap(lambda p: functional_call(layer, p, x)[0])(parameters)

    def each(parameters):
        return torch.stack(
            [functional_call(layer, {name: p[i] for name, p in parameters.items()}, x)[0] for i in range(len(members))]
        )

    def penalised(function):
        first = grad(lambda p: function(p).square().sum())
        return lambda p: sum(g.square().sum() for g in first(p).values())

    _, ours = jvp(outputs, (stacked,), (direction,))
    _, exact = jvp(each, (stacked,), (direction,))
    assert_close_to_exact(ours, exact)
    ours, exact = (grad(penalised(function))(stacked) for function in (outputs, each))
    ours_forward, exact_forward = (
        jvp(grad(lambda p, function=function: function(p).square().sum()), (stacked,), (direction,))[1]
        for function in (outputs, each)
    )
    of_last = vmap(lambda w: torch.func.vjp(outputs, stacked)[1](w)[0]["weight_hh_l0"])
    weights = normal(2, *outputs(stacked).shape)
    assert_close_to_exact(of_last(weights)[1], torch.func.vjp(each, stacked)[1](weights[1])[0]["weight_hh_l0"])
    for name in stacked:
        assert_close_to_exact(ours[name], exact[name], name=name)
        assert_close_to_exact(ours_forward[name], exact_forward[name], name=name)


def test_ensembles_in_ensembles():
    layer, _, stacked = ensemble("GRU", "reset before", 4)
    nested = {name: p.unflatten(0, (2, 2)) for name, p in stacked.items()}
    x = normal(T, B, 3)
    y = vmap(lambda p: functional_call(layer, p, x)[0])(stacked)
    assert_close_to_exact(vmap(vmap(lambda p: functional_call(layer, p, x)[0]))(nested).flatten(0, 1), y)


def test_some_weights_of_an_ensemble_are_shared():
    layer, members, stacked = ensemble("LSTM", "stacked")
    x = normal(T, B, 3)
    dims = {name: 0 if "weight_hh" in name else None for name in stacked}
    shared = {name: p if dims[name] == 0 else p[0] for name, p in stacked.items()}
    y = vmap(lambda p: functional_call(layer, p, x)[0], (dims,))(shared)
    for i, y_i in enumerate(y):
        own = {name: p if dims[name] is None else p[i] for name, p in shared.items()}
        assert_close_to_exact(y_i, functional_call(layer, own, x)[0])


MEMBERS = {
    "padded": {},
    "both, lengths, resets, lean": {"reverse": (False, True), "ragged": "lengths", "resets": True, "save": "states"},
    "packed, resets, no biases": {"ragged": "packed", "resets": True, "bias": False},
    "one step": {"T": 1, "B": 1, "initial": False},
    "segments, lengths": {"T": 7, "ragged": "lengths", "resets": True, "save": "2", "return_states": False},
    "factors": {"factors": ("decay", "drop", "mask"), "reverse": (True,), "detach_every": 2},
}


@needs_extension
@pytest.mark.parametrize("options", MEMBERS)
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_members_give_what_they_give_alone(cell, options):
    if cell not in MIXABLE and "factors" in MEMBERS[options]:
        return
    for engine in seqcuda.engines():
        assert_members_as_alone(Problem(cell, **MEMBERS[options]), torch.ops.seqcuda, engine=engine)


@needs_extension
@pytest.mark.parametrize("members", [2, 3, 5, 8])
def test_members_and_threads_give_the_same_bits(members):
    """As many as threads, fewer, more, and some that are left."""
    each = [Problem("lstm", T=9, B=8, H=48, seed=seed).inputs(torch.float32) for seed in range(members)]
    stacked = [
        None if parts[0] is None else torch.stack(parts) for parts in zip(*(i.tensors() for i in each), strict=True)
    ]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            walk = Problem("lstm").walk()
            results.append(seqcuda.autograd._forward_op(walk, "panel", seqcuda.walk.Inputs.from_tensors(stacked))[0])
    finally:
        torch.set_num_threads(before)
    for y in results:
        assert torch.equal(y, results[0])


@needs_extension
def test_members_that_cannot_be():
    inputs = Problem("gru").inputs()
    weights = tuple(None if w is None else torch.stack((w, w)) for w in inputs.weights)
    with pytest.raises(
        RuntimeError, match=r"x of 2 members must have them as its first dimension, got shape \[4, 3, 2\]"
    ):
        seqcuda.autograd._forward_op(Problem("gru").walk(), "auto", inputs._replace(weights=weights))


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


def test_packed_data_is_mapped_in_one_call():
    problem = Problem("gru", ragged="packed", return_states=False)
    inputs = problem.inputs()
    xs = torch.stack([inputs.x, 2 * inputs.x])

    def run(x):
        return seqcuda.autograd.sequence(problem.walk(), inputs._replace(x=x)).y

    for i, y in enumerate(vmap(run)(xs)):
        assert_close_to_exact(y, run(xs[i]))
    if compiled is not None:
        assert ops_called(lambda: vmap(run)(xs)) == [1, 0]


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
@pytest.mark.parametrize("T, I, H", [(150, 3, 20), (3, 270, 50)], ids=["steps", "columns"])
def test_groups_of_many(T, I, H, instruction_set):
    """More steps, and columns of x, than are copied at once."""
    assert_groups_add_up(Problem("gru", T=T, I=I, H=H), torch.ops.seqcuda)


@needs_extension
@pytest.mark.parametrize("I", [48, 50], ids=["whole lines", "parts of lines"])
def test_gradients_of_many_mb(I, instruction_set):
    """Which are written past the caches, into memory that was used before: not while somebody holds it."""
    samples, layer = 450, seqcuda.GRU(I, 64, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = normal(samples, 2, I)

    def loss(parameters, x):
        return functional_call(layer, parameters, x)[0].square().sum()

    def check(found, x):
        for i in (0, samples // 2, samples - 1):
            for name, exact in grad(loss)(parameters, x[i]).items():
                assert_close_to_exact(found[name][i], exact, name=name)

    of_samples = vmap(grad(loss), (None, 0))
    held = of_samples(parameters, x)
    assert sum(g.nbytes for g in held.values()) > 64 << 20
    for y in (2 * x, 3 * x):
        check(of_samples(parameters, y), y)
    check(held, x)
    held["weight_ih_l0"].resize_(samples + 1, 192, I)
    assert_close_to_exact(held["weight_ih_l0"][0], grad(loss)(parameters, x[0])["weight_ih_l0"])


@pytest.mark.parametrize("known", [True, False])
def test_by_torchs_own_way(known, monkeypatch):
    """Where torch's names are others than those that seqcuda.transforms knows."""
    monkeypatch.setattr(seqcuda.transforms, "known", known)
    layer, parameters = layer_of("LSTM", "stacked")
    x = normal(N, T, B, 3)

    def loss(parameters, x):
        return functional_call(layer, parameters, x)[0].square().sum()

    gradients = vmap(grad(loss), (None, 0))(parameters, x)
    for name, exact in grad(loss)(parameters, x[1]).items():
        assert_close_to_exact(gradients[name][1], exact, name=name)
    with seqcuda.backend("reference"):
        exact = hessian(loss, 1)(parameters, x[0])
    assert_close_to_exact(hessian(loss, 1)(parameters, x[0]), exact)


def test_a_vmap_hides_no_gradients(monkeypatch):
    """What its members require outside of it is found; where nothing does, nothing is saved."""
    layer, _ = layer_of("GRU", "reset before")
    x, saves, real = normal(N, T, B, 3), [], seqcuda.autograd._forward_op
    monkeypatch.setattr(
        seqcuda.autograd, "_forward_op", lambda walk, *rest: saves.append(walk.save) or real(walk, *rest)
    )
    for required in (True, False):
        layer.requires_grad_(required)
        for y in (vmap(lambda x: layer(x)[0])(x), vmap(vmap(lambda x: layer(x)[0]))(x.unsqueeze(0))):
            assert y.requires_grad == required
    if compiled is not None:
        assert saves == ["all", "all", "nothing", "nothing"]


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
