"""Derivatives in one direction, of a walk and of its gradients: forward mode, and what double backward is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from marks import needs_extension
from test_autograd import SIZES, VARIANTS, function_of
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from walks import Problem, differentiable, joined, problems, tensors_for

import seqcuda
from seqcuda import autograd, derivatives
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact, assert_within_rule
from seqcuda.walk import Inputs

# The cells that the op knows; of others the reference, whatever is asked for.
COMPILED = [cell.name for cell in CELLS.values() if cell.recurrent and not cell.unit_names and not cell.options]
cells = pytest.mark.parametrize("cell", COMPILED)


def tangents(problem: Problem, dtype: torch.dtype, function, which: tuple[str, ...] = ("x", "states", "weights")):
    """All results of `function`, which is called as `autograd._tangent` is, for random gradients and directions."""
    tensors = tensors_for(problem, dtype)
    generator = torch.Generator().manual_seed(problem.seed + 1)

    def random(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, dtype=torch.float64, generator=generator).to(torch.bfloat16).to(dtype)

    kinds = ["x", *["states"] * 12, *["weights"] * (len(tensors) - 13)]
    wanted = differentiable(tensors)
    needs = tuple(i in wanted for i in range(len(tensors)))
    directions = [random(t) if i in wanted else None for i, t in enumerate(tensors)]
    directions = [d if kind in which else None for d, kind in zip(directions, kinds, strict=True)]
    with torch.no_grad():
        out = derivatives.by_reference(problem.walk()._replace(return_states=True), 0, Inputs.from_tensors(tensors))
    grads, grad_directions = ([random(t) for t in out[:4]] for _ in range(2))
    if problem.ragged == "lengths":  # where the states of all steps are undefined, their gradients are zero
        dead = torch.arange(problem.T)[:, None] >= tensors[3]
        for g in (grads[3], grad_directions[3]):
            g.masked_fill_(dead[..., None], 0)
    results = list(function(problem.walk(), 0, needs, grads, grad_directions, tensors, directions))
    if problem.ragged == "lengths":
        results[3] = results[3].masked_fill(dead[..., None], 0)
    return joined([t for t in results if t is not None])


def by_reference(walk, groups, needs, *parts):
    return derivatives.tangent_by_reference(walk, groups, needs, [t for part in parts for t in part])


def check(problem: Problem, dtype: torch.dtype, *which) -> None:
    exact = tangents(problem, torch.float64, by_reference, *which)
    ours = tangents(problem, dtype, autograd._tangent, *which)
    if dtype == torch.float64:
        assert_close_to_exact(ours, exact)
    else:
        assert_within_rule(ours, tangents(problem, dtype, by_reference, *which), exact)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_the_reference(instruction_set, dtype):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(problems())
    def run(problem):
        check(problem, dtype)

    run()


@needs_extension
@cells
@pytest.mark.parametrize("which", [("x",), ("states",), ("weights",)], ids="".join)
def test_some_directions(cell, which):
    check(Problem(cell, reverse=(False, True), ragged="lengths", resets=True), torch.float64, which)


@needs_extension
@cells
def test_chunks_of_time(cell):
    problem = Problem(cell, T=150, B=5, I=3, H=70, reverse=(False, True), ragged="lengths", resets=True)
    check(problem, torch.float64)


@needs_extension
@cells
@pytest.mark.parametrize("size", [{"T": 12, "B": 9, "H": 20}, {"T": 5, "B": 3, "H": 120}], ids=["rows", "units"])
def test_threads_give_the_same_bits(cell, size):
    problem = Problem(cell, reverse=(False, True), resets=True, **size)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(tangents(problem, torch.float32, autograd._tangent))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@needs_extension
def test_projection_in_threads():
    problem = Problem("lstm", T=5, B=3, H=120, P=40, resets=True, reverse=(True,))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        check(problem, torch.float64)
    finally:
        torch.set_num_threads(before)


@needs_extension
@cells
@pytest.mark.parametrize("T, B", [(0, 2), (3, 0)])
def test_nothing_to_walk(cell, T, B):
    check(Problem(cell, T=T, B=B), torch.float64)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", [*COMPILED, "lstm_peephole"])
def test_forward_mode(cell, variant, backend):
    for size in SIZES[:2]:
        function, inputs = function_of(Problem(cell, **{**size, **VARIANTS[variant]}), backend)
        assert torch.autograd.gradcheck(
            function, inputs, fast_mode=True, check_forward_ad=True, check_backward_ad=False
        )


@pytest.mark.parametrize("variant", ["both", "lengths and resets", "packed", "lean"])
@cells
def test_forward_over_reverse(cell, variant):
    function, inputs = function_of(Problem(cell, T=2, H=3, **VARIANTS[variant]), "auto")
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@cells
def test_the_hessian_is_symmetric(cell, dtype):
    """Its product with a vector from the left is that from the right: reverse over reverse, forward over reverse."""
    problem = Problem(cell, T=9, B=4, H=20, ragged="lengths", resets=True)
    results = {}
    for backend, kind in (("reference", torch.float64), ("reference", dtype), ("auto", dtype)):
        tensors = tensors_for(problem, kind)
        which = differentiable(tensors)
        function, _ = function_of(replace(problem, return_states=False), backend, which)

        def loss(*values, function=function):
            return sum(out.square().sum() for out in function(*values))

        points = tuple(tensors[i] for i in which)
        generator = torch.Generator().manual_seed(1)
        v = tuple(torch.randn(t.shape, generator=generator).to(kind) for t in points)
        first = grad(loss, tuple(range(len(points))))
        _, right = jvp(first, points, v)
        _, pull = torch.func.vjp(first, *points)
        results[backend, kind] = joined(right), joined(pull(v))
    exact, _ = results["reference", torch.float64]
    for ours, rival in zip(results["auto", dtype], results["reference", dtype], strict=True):
        assert_within_rule(ours, rival, exact)


@needs_extension
def test_compiled_by_every_way():
    """One call of the op per layer; of a batch of directions at x as well."""
    layer = seqcuda.LSTM(3, 4, num_layers=2, dtype=torch.float64)
    x, v = torch.randn(2, 5, 2, 3, dtype=torch.float64)

    def f(x):
        return layer(x)[0]

    def loss(x):
        return f(x).square().sum()

    def penalty():
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        g.square().sum().backward()

    layer.requires_grad_(False)
    for function, calls in (
        (penalty, 2),
        (lambda: jvp(f, (x,), (v,)), 2),
        (lambda: jacfwd(f)(x), 2),
        (lambda: jvp(grad(loss), (x,), (v,)), 4),  # of the outputs, then of the gradients
        (lambda: hessian(loss)(x), 4),
        (lambda: vmap(lambda x: jvp(f, (x,), (v,)))(torch.stack([x, v])), 2),
    ):
        with torch.profiler.profile() as record:
            function()
        counts = {event.key: event.count for event in record.key_averages()}
        assert counts.get("seqcuda::sequence_tangent", 0) == calls


@cells
def test_orders_above_the_second(cell):
    """Every way to a third derivative."""
    problem = Problem(cell, T=2, B=2, H=3, return_states=False)
    tensors = problem.inputs().tensors()

    def third(outer, backend):
        function, _ = function_of(problem, backend, [0])
        return outer(hessian(lambda x: function(x)[0].pow(3).sum()))(tensors[0])

    for outer in (jacfwd, jacrev):
        assert_close_to_exact(third(outer, "auto"), third(outer, "reference"))


def test_forward_mode_without_torch_func():
    layer = seqcuda.GRU(3, 4, dtype=torch.float64)
    x, v = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), torch.autograd.forward_ad.dual_level():
            y = layer(torch.autograd.forward_ad.make_dual(x, v))[0]
            ours = torch.autograd.forward_ad.unpack_dual(y).tangent
        assert_close_to_exact(ours, jvp(lambda x: layer(x)[0], (x,), (v,))[1])


@needs_extension
@cells
@pytest.mark.parametrize("variant", ["both", "lengths and resets", "packed and resets", "no biases"])
def test_opcheck(cell, variant):
    problem = Problem(cell, **VARIANTS[variant])
    inputs = problem.inputs()
    states = (inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c)
    tensors = inputs.tensors()
    needs = [i in differentiable(tensors) for i in range(len(tensors))]
    directions = [torch.ones_like(t) if need else None for t, need in zip(tensors, needs, strict=True)]
    y = torch.ops.seqcuda.sequence(cell, inputs.x, inputs.weights, *states, problem.reverse, "all", "auto")[0]
    arguments = (
        cell, inputs.x, inputs.weights, *states, directions, [torch.ones_like(y), None, None, None], [None] * 4,
        problem.reverse, needs, True,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.seqcuda.sequence_tangent.default, arguments)


@needs_extension
@pytest.mark.parametrize(
    "changed, says",
    [
        ({"directions": 0}, "the direction of x must be Double of shape .4, 3, 2. on cpu, got Double of shape .1."),
        ({"directions": 14}, "the direction of a weight must be"),
        ({"grads": 0}, "the gradient of y must be Double of shape .4, 3, 5. on cpu, got Double of shape .1."),
        ({"grad_directions": 2}, "the gradient of c_n must be"),
    ],
    ids=["x", "weight", "y", "c_n"],
)
def test_what_is_given_is_checked(changed, says):
    problem = Problem("lstm")
    inputs = problem.inputs()
    given = {"directions": [None] * 19, "grads": [None] * 4, "grad_directions": [None] * 4}
    for name, i in changed.items():
        given[name][i] = torch.ones(1, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=says):
        torch.ops.seqcuda.sequence_tangent(
            "lstm", inputs.x, inputs.weights, inputs.h0, inputs.c0, *(None,) * 5, *given.values(), (False,),
            [False] * 19, False,
        )  # fmt: skip


@needs_extension
def test_a_cell_with_parameters_has_no_compiled_tangents():
    inputs = Problem("lstm_peephole").inputs()
    with pytest.raises(NotImplementedError, match="cell 'lstm_peephole' has no compiled tangents"):
        torch.ops.seqcuda.sequence_tangent(
            "lstm_peephole", inputs.x, inputs.weights, *(None,) * 7, [None] * 19, [None] * 4, [None] * 4, (False,),
            [False] * 19, False,
        )  # fmt: skip


@needs_extension
def test_the_bare_op_refuses_to_be_differentiated():
    inputs = Problem("lstm").inputs()
    with pytest.raises(NotImplementedError, match="seqcuda::sequence_tangent is not differentiable"):
        torch.ops.seqcuda.sequence_tangent(
            "lstm", inputs.x.requires_grad_(), inputs.weights, *(None,) * 7, [None] * 19, [None] * 4, [None] * 4,
            (False,), [False] * 19, False,
        )  # fmt: skip
