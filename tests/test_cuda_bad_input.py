"""What a CUDA engine cannot do is an error with the sizes and the limit in it, after which the next call works; in the
emulation."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from walks import Problem, op_outputs_and_gradients

ENGINES = pytest.mark.parametrize("engine", ["stepwise", "cluster", "group"])
PROBLEM = Problem("lstm", T=3, B=9, H=40, reverse=(False, True), ragged="lengths", resets=True)


def run(emulated, engine: str, problem: Problem = PROBLEM) -> list[torch.Tensor]:
    return op_outputs_and_gradients(problem, torch.float32, emulated, engine=engine)


@contextmanager
def refused(emulated, engine: str, error: type[Exception], message: str):
    """Inside a ``with`` block; the calls before and after give the same bits."""
    expected, gpcs = run(emulated, engine), emulated.gpcs()
    with pytest.raises(error, match=message):
        yield
    emulated.set_capability(90)
    emulated.set_gpcs(gpcs)
    emulated.set_shared_bytes(227 << 10)
    emulated.run_out_of_memory_after(-1)
    assert all(torch.equal(a, b) for a, b in zip(run(emulated, engine), expected, strict=True))


@ENGINES
def test_a_gpu_that_is_too_old(emulated, engine):
    with refused(emulated, engine, RuntimeError, "compute capability 7.0, for which the extension was not compiled"):
        emulated.set_capability(70)
        run(emulated, engine)


@pytest.mark.parametrize("capability", [89, 120])
def test_a_gpu_without_clusters(emulated, capability):
    has = f"{capability // 10}.{capability % 10}"
    with refused(emulated, "cluster", RuntimeError, f"compute capability 9.0 to 11, this one has {has}"):
        emulated.set_capability(capability)
        run(emulated, "cluster")


@pytest.mark.parametrize(
    ("engine", "limit"),
    [("cluster", "a cluster of 16 blocks"), ("group", "the 132 multiprocessors for two directions")],
)
def test_more_hidden_units_than_an_engine_holds(emulated, engine, limit):
    large = replace(PROBLEM, T=1, B=1, H=1600)
    with refused(emulated, engine, RuntimeError, f"40000 KiB for 1600 hidden units, .* {limit}"):
        run(emulated, engine, large)


@pytest.mark.parametrize("engine", ["cluster", "group"])
def test_less_shared_memory_than_an_engine_needs(emulated, engine):
    with refused(emulated, engine, RuntimeError, r"\+ 4 KiB, with room for the states"):
        emulated.set_shared_bytes(4 << 10)
        run(emulated, engine)


def test_fewer_multiprocessors_than_an_engine_needs(emulated):
    with refused(emulated, "group", RuntimeError, "the 1 multiprocessors for two directions"):
        emulated.set_gpcs([1])
        run(emulated, "group")


@ENGINES
@pytest.mark.parametrize("products", [0, 1, 3, 6])
def test_out_of_memory(emulated, engine, products):
    """In the forward and in the backward."""
    with refused(emulated, engine, torch.OutOfMemoryError, "out of memory"):
        emulated.run_out_of_memory_after(products)
        run(emulated, engine)


@pytest.mark.parametrize("engine", ["cluster", "group"])
def test_an_engine_without_heads(emulated, engine):
    with refused(emulated, engine, RuntimeError, "it has no heads, weight_hh is of 4 blocks"):
        run(emulated, engine, replace(PROBLEM, heads=4))


def test_a_norm_is_over_all_heads(emulated):
    with refused(emulated, "stepwise", RuntimeError, "weight_hh of cell 'gru_layer_norm' must be whole, got 4 blocks"):
        run(emulated, "stepwise", replace(PROBLEM, cell="gru_layer_norm", heads=4))


def test_memory_that_does_not_exist(emulated):
    with refused(emulated, "stepwise", RuntimeError, "allocate"):
        inputs = Problem("gru", T=1, B=1, I=1).inputs()
        x = inputs.x.expand(1, 1, 2**46)
        w_ih = inputs.weights[0].expand(-1, 2**46)
        emulated.sequence("gru", x, (w_ih, *inputs.weights[1:]), *(None,) * 7, (False,), "nothing", "stepwise")


@pytest.mark.parametrize("which", ["x", "weight_hh", "bias_ih", "h0", "lengths", "resets"])
@ENGINES
def test_tensors_of_different_devices(emulated, which, engine):
    inputs = PROBLEM.inputs(torch.float32)
    weights = list(inputs.weights)
    if which.startswith(("weight", "bias")):
        i = {"weight_hh": 1, "bias_ih": 2}[which]
        weights[i] = weights[i].to("meta")
    else:
        inputs = inputs._replace(**{which: getattr(inputs, which).to("meta")})
    named = "weight_ih is on cpu, x on meta" if which == "x" else which
    states = (inputs.h0, inputs.c0, inputs.lengths, None, inputs.resets, None, None)
    with refused(emulated, engine, RuntimeError, named):
        emulated.sequence("lstm", inputs.x, weights, *states, PROBLEM.reverse, "all", engine)


@ENGINES
def test_an_engine_of_another_device(emulated, engine):
    with refused(emulated, engine, ValueError, "must be auto, stepwise or cluster or group, got 'panel'"):
        run(emulated, "panel")
