"""Every compiled engine and instruction set against the reference in float64: all cells, dtypes and options."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from marks import needs_extension
from walks import Problem, assert_results, outputs_and_gradients, problems

import seqcuda
from seqcuda._backend import compiled
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact, assert_within_rule

pytestmark = needs_extension


def check(problem: Problem, dtype: torch.dtype, engine: str) -> None:
    assert_results(problem, dtype, outputs_and_gradients(problem, dtype, engine))


@pytest.mark.parametrize("engine", seqcuda.engines())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_against_the_reference(instruction_set, dtype, engine):
    # hypothesis holds the fixtures of its test for all examples, so it stands inside.
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(problems())
    def run(problem):
        check(problem, dtype, engine)

    run()


@pytest.mark.parametrize("engine", seqcuda.engines())
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_chunks_of_time(cell, engine):
    """More steps than one chunk holds, ragged, in both directions."""
    problem = Problem(cell, T=300, B=9, I=3, H=70, reverse=(False, True), ragged="lengths", resets=True)
    check(problem, torch.float64, engine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_half_types_against_torch_nn(instruction_set, kind, dtype):
    """Half data, float32 inside: within the rule of what torch.nn makes of them."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(6, 20, 2, bidirectional=True).to(dtype)
    ours = getattr(seqcuda, kind)(6, 20, 2, bidirectional=True).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    exact = getattr(torch.nn, kind)(6, 20, 2, bidirectional=True).double()
    exact.load_state_dict(theirs.state_dict())
    x = torch.randn(15, 4, 6).to(dtype)
    weight = torch.randn(15, 4, 40)
    results = []
    for module in (ours, theirs, exact):
        own = x.to(next(module.parameters()).dtype, copy=True).requires_grad_()
        y, final = module(own)
        (y * weight.to(y.dtype)).sum().backward()
        final = final if isinstance(final, tuple) else (final,)
        results.append([y, *final, own.grad, *(p.grad for p in module.parameters())])
    for i, parts in enumerate(zip(*results, strict=True)):
        assert_within_rule(*parts, name=f"result {i}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", seqcuda.engines())
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before", "lstm_layer_norm"])
@pytest.mark.parametrize("H", [17, 18])
def test_half_types_with_all_options(H, cell, engine, dtype):
    problem = Problem(cell, T=7, B=5, I=3, H=H, reverse=(False, True), ragged="lengths", resets=True)
    check(problem, dtype, engine)


@pytest.mark.parametrize("save", ["all", "states", "16"])
@pytest.mark.parametrize("cell", ["rnn_relu", "lstm", "gru"])
def test_half_types_of_many_rows_and_steps(instruction_set, cell, save):
    """More than a chunk, a tile of rows and a block of units, and an odd number of each: of pairs one is left over."""
    for ragged in ("no", "packed", "lengths"):
        problem = Problem(cell, T=71, B=15, I=33, H=54, reverse=(True,), ragged=ragged, save=save)
        check(problem, torch.bfloat16, "panel")


@pytest.mark.parametrize("engine", seqcuda.engines())
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("B", [1, 7, 40])
def test_threads(threads, engine, B):
    """Any number of threads, more than cores too; the same bits at each run."""
    torch.set_num_threads(threads)
    try:
        for problem in (
            Problem("lstm", T=11, B=B, H=150, reverse=(False, True), ragged="lengths", resets=True),
            Problem("gru", T=11, B=B, H=300),
            Problem("gru_reset_before", T=11, B=B, H=300),
            Problem("lstm", T=11, B=B, H=300, P=100),
        ):
            check(problem, torch.float64, engine)
            first = outputs_and_gradients(problem, torch.float32, engine)
            again = outputs_and_gradients(problem, torch.float32, engine)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(1)


def test_unknown_names():
    with pytest.raises(ValueError, match="nonsense"), seqcuda.backend("nonsense"):
        pass
    x = torch.zeros(2, 1, 3)
    weights = (torch.zeros(4, 3), torch.zeros(4, 1), *[None] * 4)
    arguments = (x, weights, *(None,) * 7, (False,))
    with pytest.raises(ValueError, match="nonsense"):
        torch.ops.seqcuda.sequence("nonsense", *arguments, "nothing", "auto")
    with pytest.raises(ValueError, match="nonsense"):
        torch.ops.seqcuda.sequence("lstm", *arguments, "nonsense", "auto")
    with pytest.raises(ValueError, match="nonsense"):
        torch.ops.seqcuda.sequence("lstm", *arguments, "nothing", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        compiled.set_instruction_set("nonsense")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight_ih", {1: (torch.zeros(4, 9), torch.zeros(4, 1), *[None] * 4)}),
        ("bias_ih", {1: (torch.zeros(4, 3), torch.zeros(4, 1), torch.zeros(3), *[None] * 3)}),
        ("weight_hr", {1: (torch.zeros(8, 3), torch.zeros(8, 3), *[None] * 4)}),
        ("h0", {2: torch.zeros(1, 1, 2)}),
        ("c0", {3: torch.zeros(1, 2, 1, 1)}),
        ("lengths", {4: torch.zeros(2, dtype=torch.int64)}),
        ("lengths", {4: torch.tensor([3])}),
        ("lengths", {4: torch.tensor([-1])}),
        ("batch_sizes", {0: torch.zeros(2, 3), 5: torch.tensor([1, 2])}),
        ("batch_sizes", {0: torch.zeros(2, 3), 5: torch.tensor([1])}),
        ("resets", {6: torch.zeros(2, 1)}),
        ("resets", {6: torch.zeros(1, 2, dtype=torch.bool)}),
        ("reset_h", {7: torch.zeros(1, 1, 1, dtype=torch.float64)}),
    ],
)
def test_the_op_checks_what_it_is_given(name, change):
    arguments = [torch.zeros(2, 1, 3), (torch.zeros(4, 3), torch.zeros(4, 1), *[None] * 4), *[None] * 7]
    for i, value in change.items():
        arguments[i] = value
    with pytest.raises(RuntimeError, match=name):
        torch.ops.seqcuda.sequence("lstm", *arguments, (False,), "nothing", "auto")


def test_empty_batch_and_no_steps():
    for engine in seqcuda.engines():
        for cell in CELLS:
            for problem in (Problem(cell, B=0), Problem(cell, T=0)):
                assert all(
                    torch.equal(a, b)
                    for a, b in zip(
                        outputs_and_gradients(problem, torch.float64, engine),
                        outputs_and_gradients(problem, torch.float64, "reference"),
                        strict=True,
                    )
                )


@pytest.mark.parametrize("backend", seqcuda.engines())
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_no_input_features(cell, backend):
    problem = Problem(cell, T=5, B=4, I=0)
    exact = outputs_and_gradients(problem, torch.float64, "reference")
    for ours, wanted in zip(outputs_and_gradients(problem, torch.float64, backend), exact, strict=True):
        assert_close_to_exact(ours, wanted)


@pytest.mark.parametrize("H", [8, 48])
def test_sums_over_thousands_of_rows(H):
    """The gradient of W_hh, a sum over T * B rows, keeps the rule."""
    torch.manual_seed(0)
    rival = torch.nn.LSTM(8, H)
    x, grad_y = torch.randn(64, 32, 8), 0.01 * torch.randn(64, 32, H) + 0.01

    def gradient(layer, dtype):
        layer = seqcuda.convert(copy.deepcopy(rival)) if layer == "ours" else copy.deepcopy(rival)
        layer = layer.to(dtype)
        return torch.autograd.grad(layer(x.to(dtype))[0], layer.weight_hh_l0, grad_y.to(dtype))[0]

    exact = gradient("torch", torch.float64)
    assert_within_rule(gradient("ours", torch.float32), gradient("torch", torch.float32), exact)
