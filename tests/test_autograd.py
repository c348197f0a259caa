"""Gradients to second order in double, by finite differences; what decides whether a graph is kept; the raw ops."""

from __future__ import annotations

import itertools

import pytest
import torch
from marks import needs_extension
from walks import STRUCTS, Problem, differentiable, results

import seqcuda
import seqcuda.testing
from seqcuda import autograd
from seqcuda.cells import CELLS

BACKENDS = ("reference", *seqcuda.engines())

VARIANTS = {
    "forward": {},
    "reverse": {"reverse": (True,)},
    "both": {"reverse": (False, True)},
    "lengths": {"ragged": "lengths", "reverse": (False, True)},
    "resets": {"resets": True, "reverse": (False, True)},
    "packed": {"ragged": "packed", "reverse": (False, True)},
    "lengths and resets": {"ragged": "lengths", "resets": True, "reverse": (True,)},
    "packed and resets": {"ragged": "packed", "resets": True},
    "no biases": {"bias": False},
    "no initial states": {"initial": False, "resets": True},
    "lean": {"save": "states", "ragged": "lengths", "resets": True, "reverse": (False, True)},
}
SIZES = [{"T": 2, "B": 3, "H": 1}, {"T": 7, "B": 1, "H": 5}, {"T": 1, "B": 1, "H": 17, "I": 1}]


def function_of(problem: Problem, backend: str, which: list[int] | None = None):
    """The outputs as a function of the differentiable inputs `which` (by default all), and those inputs."""
    tensors = problem.inputs().tensors()
    which = differentiable(tensors) if which is None else which

    def function(*values):
        given = list(tensors)
        for i, value in zip(which, values, strict=True):
            given[i] = value
        with seqcuda.backend(backend):
            return tuple(t for t in results(problem, tuple(given)) if t.numel())

    return function, [tensors[i].clone().requires_grad_() for i in which]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", STRUCTS)
def test_gradcheck(cell, variant, backend):
    for size in SIZES:
        function, inputs = function_of(Problem(cell, **{**size, **VARIANTS[variant]}), backend)
        assert torch.autograd.gradcheck(function, inputs, fast_mode=size["H"] > 1)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", STRUCTS)
def test_gradgradcheck(cell, variant, backend):
    for size in (SIZES[0], {"T": 4, "B": 1, "H": 5}):  # those of the reference take long
        function, inputs = function_of(Problem(cell, **{**size, **VARIANTS[variant]}), backend)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["both", "lengths and resets", "packed", "lean"])
def test_projection(variant, backend):
    function, inputs = function_of(Problem("lstm", T=3, H=4, P=2, **VARIANTS[variant]), backend)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_third_derivative():
    problem = Problem("lstm", T=2, B=2, H=3)
    for backend in BACKENDS:
        function, inputs = function_of(problem, backend)
        first = torch.autograd.grad(function(*inputs)[0].pow(2).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs, create_graph=True)
        third = torch.autograd.grad(sum(g.pow(2).sum() for g in second), inputs)
        if backend == "reference":
            expected = third
        for ours, theirs in zip(third, expected, strict=True):
            seqcuda.testing.assert_close_to_exact(ours, theirs)


@pytest.mark.parametrize("cell", STRUCTS)
@pytest.mark.parametrize("save", ["all", "states"])
def test_every_subset_of_inputs(cell, save):
    """A gradient does not depend on which others are asked for."""
    problem = Problem(cell, T=3, B=2, H=4, reverse=(False, True), ragged="lengths", resets=True, save=save)
    tensors = problem.inputs().tensors()
    every = differentiable(tensors)
    for backend in seqcuda.engines():
        function, inputs = function_of(problem, backend)
        full = dict(zip(every, torch.autograd.grad(sum(o.sum() for o in function(*inputs)), inputs), strict=True))
        first_direction = every[: len(every) - 4]  # the second has the same kinds of weights
        for count in range(1, len(first_direction) + 1):
            for subset in itertools.combinations(first_direction, count):
                function, inputs = function_of(problem, backend, list(subset))
                for i, gradient in zip(
                    subset, torch.autograd.grad(sum(o.sum() for o in function(*inputs)), inputs), strict=True
                ):
                    assert torch.equal(gradient, full[i]), f"input {i} of {subset}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_subset_of_outputs(cell, backend):
    """The gradient of a sum is the sum of the gradients, so what is not used of the outputs counts as zero."""
    function, inputs = function_of(Problem(cell, ragged="lengths", resets=True), backend)
    outputs = function(*inputs)
    whole = torch.autograd.grad(sum(o.sum() for o in outputs), inputs, retain_graph=True)
    parts = [
        torch.autograd.grad(o.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for o in outputs
    ]
    for total, *each in zip(whole, *parts, strict=True):
        seqcuda.testing.assert_close_to_exact(sum(each), total)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_second_backward_gives_the_same(cell, save, backend):
    function, inputs = function_of(Problem(cell, resets=True, save=save), backend)
    loss = sum(o.sum() for o in function(*inputs))
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("backend", seqcuda.engines())
def test_changing_an_output_in_place_is_an_error_not_a_wrong_gradient(backend):
    function, inputs = function_of(Problem("gru", return_states=False), backend)
    y = function(*inputs)[0]
    loss = y.sum()
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_what_decides_is_requires_grad(kind, backend):
    with seqcuda.backend(backend):
        layer, x = getattr(seqcuda, kind)(3, 4), torch.randn(5, 2, 3)
        trained = layer(x)[0]
        assert trained.requires_grad
        assert layer.eval()(x)[0].requires_grad
        layer.eval()(x)[0].sum().backward()
        assert layer.weight_hh_l0.grad is not None
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                y, final = layer(x)
            assert not y.requires_grad
            assert torch.equal(y, trained)
            assert y.is_inference() == (mode is torch.inference_mode)
        layer.requires_grad_(False)
        assert not layer(x)[0].requires_grad
        assert layer(x.clone().requires_grad_())[0].requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_lean_gives_the_gradients_of_fast(cell, backend):
    for variant in ("both", "lengths", "packed and resets", "no biases"):
        options = {"T": 9, "B": 5, "H": 12, **VARIANTS[variant]}
        fast, lean = (function_of(Problem(cell, save=save, **options), backend) for save in ("all", "states"))
        gradients = [torch.autograd.grad(sum(o.sum() for o in f(*inputs)), inputs) for f, inputs in (fast, lean)]
        for ours, theirs in zip(*gradients, strict=True):
            seqcuda.testing.assert_close_to_exact(ours, theirs)


@needs_extension
def test_lean_saves_no_gates():
    for cell in CELLS.values():
        for save, gates in (("all", cell.saved), ("states", 0), ("nothing", 0)):
            problem = Problem(cell.name, save=save)
            *_, c_all, saved = autograd._forward_op(problem.walk(), "auto", problem.inputs())
            assert saved.numel() == 4 * 3 * 5 * gates
            assert c_all.numel() == (4 * 3 * 5 * (cell.states - 1) if save != "nothing" else 0)


@needs_extension
@pytest.mark.parametrize("cell", STRUCTS)
@pytest.mark.parametrize("variant", ["both", "lengths and resets", "packed and resets", "no biases", "lean"])
def test_opcheck(cell, variant):
    problem = Problem(cell, **VARIANTS[variant])
    inputs = problem.inputs()
    for weight in inputs.weights:
        if weight is not None:
            weight.requires_grad_()
    states = (inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c)
    arguments = (cell, inputs.x, inputs.weights, *states, problem.reverse, problem.save, "auto")
    torch.library.opcheck(torch.ops.seqcuda.sequence.default, arguments)
    with torch.no_grad():
        y, h_n, c_n, c_all, saved = torch.ops.seqcuda.sequence(*arguments)
    needs = tuple(t is not None and t.is_floating_point() for t in inputs.tensors())
    arguments = (
        cell, torch.randn_like(y), None, torch.randn_like(c_n), None, inputs.x, inputs.weights, *states,
        y, c_all, saved, problem.reverse, "auto", needs,
    )  # fmt: skip
    with torch.no_grad():
        torch.library.opcheck(torch.ops.seqcuda.sequence_backward.default, arguments)


@needs_extension
@pytest.mark.parametrize("changed", ["grad_y", "grad_c_n", "y", "c_all", "saved"])
def test_the_backward_op_checks_what_it_is_given(changed):
    inputs = Problem("lstm").inputs()
    states = (inputs.h0, inputs.c0, *(None,) * 5)
    y, h_n, c_n, c_all, saved = torch.ops.seqcuda.sequence(
        "lstm", inputs.x, inputs.weights, *states, (False,), "all", "auto"
    )
    given = {"grad_y": y, "grad_c_n": c_n, "y": y, "c_all": c_all, "saved": saved}
    given[changed] = given[changed][..., :1]
    with pytest.raises(RuntimeError, match=changed):
        torch.ops.seqcuda.sequence_backward(
            "lstm", given["grad_y"], None, given["grad_c_n"], None, inputs.x, inputs.weights, *states,
            given["y"], given["c_all"], given["saved"], (False,), "auto", (True,) * 19,
        )  # fmt: skip


@needs_extension
@pytest.mark.parametrize("save", ["nothing", "states", "all"])
def test_the_bare_op_is_differentiable_and_its_backward_refuses(save):
    """The backward has no formula of its own: an error, never zeros."""
    problem = Problem("lstm", return_states=False)
    function, inputs = function_of(problem, "auto")
    expected = torch.autograd.grad(function(*inputs)[0].square().sum(), inputs)
    given = problem.inputs()
    (x, h0, c0, *weights), states = inputs, (None,) * 5
    arguments = ("lstm", x, [*weights, *given.weights[len(weights) :]], h0, c0, *states, (False,))
    y, _, c_n, c_all, saved = torch.ops.seqcuda.sequence(*arguments, save, "auto")
    for ours, theirs in zip(torch.autograd.grad(y.square().sum(), inputs), expected, strict=True):
        seqcuda.testing.assert_close_to_exact(ours, theirs)
    backward = torch.ops.seqcuda.sequence_backward
    grads = (torch.ones_like(y), None, None, None)
    with pytest.raises(NotImplementedError, match="seqcuda.functional"):
        backward("lstm", *grads, *arguments[1:-1], y, c_all, saved, (False,), "auto", (True,) * 19)


def test_forward_mode_and_vmap_give_right_numbers():
    """Whoever computes: never a silent zero."""
    layer = seqcuda.GRU(3, 4, dtype=torch.float64)
    x, tangent = (torch.randn(5, 2, 3, dtype=torch.float64) for _ in range(2))
    _, ours = torch.func.jvp(lambda v: layer(v)[0], (x,), (tangent,))
    with seqcuda.backend("reference"):
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0], x)
    expected = torch.einsum("abcdef,def->abc", jacobian, tangent)
    seqcuda.testing.assert_close_to_exact(ours, expected)
    batch = torch.randn(6, 5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        mapped = torch.vmap(lambda v: layer(v)[0])(batch)
        for one, row in zip(mapped, batch, strict=True):
            seqcuda.testing.assert_close_to_exact(one, layer(row)[0])
