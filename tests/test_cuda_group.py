"""Engine "group" where test_cuda.py does not go: many blocks and tiles, a wait in vain, faults, refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import cuda_emulation
import pytest
import torch
from cuda_emulation import fault, knob
from walks import Problem, assert_results, op_outputs_and_gradients

RAGGED = {"reverse": (False, True), "ragged": "lengths", "resets": True}


def run(emulated, problem: Problem, dtype: torch.dtype) -> list[torch.Tensor]:
    return op_outputs_and_gradients(problem, dtype, emulated, engine="group")


def check(emulated, problem: Problem, dtype: torch.dtype) -> None:
    assert_results(problem, dtype, run(emulated, problem, dtype))


@pytest.mark.parametrize(
    ("problem", "dtype"),
    [
        (Problem("lstm", T=3, B=11, H=70, **RAGGED), torch.float32),  # 5 blocks
        (Problem("gru", T=3, B=90, H=200, ragged="lengths"), torch.bfloat16),  # 13 blocks, two tiles each
        (Problem("lstm", T=2, B=3, H=300, save="states"), torch.bfloat16),  # 19 blocks, more than a cluster has
    ],
    ids=["5 blocks", "two tiles", "19 blocks"],
)
def test_many_blocks(emulated, problem, dtype):
    check(emulated, problem, dtype)


def test_more_launches_than_are_counted_at_once(emulated):
    """A step each."""
    with knob(emulated.set_chunk_bytes, [1, 1], emulated.chunk_bytes()):
        check(emulated, Problem("gru", T=30, H=70, **RAGGED), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_who_waits_in_vain_gives_up_and_all_are_told(emulated, dtype):
    """By NaN in what was not received, and by an error of the next call, once."""
    inputs = Problem("lstm", T=3, H=40).inputs(dtype)
    walk = (inputs.x, inputs.weights, inputs.h0, inputs.c0, *(None,) * 5)

    def forward():
        return emulated.sequence("lstm", *walk, (False,), "all", "group")

    def backward(y, h_n, c_n, c_all, saved):
        grads = (torch.ones_like(y), None, None, None)
        needs = [True] + [False] * 12 + [w is not None for w in inputs.weights]
        return emulated.sequence_backward("lstm", *grads, *walk, y, c_all, saved, (False,), "group", needs, 0)

    expected = forward()
    with fault(emulated, "lost counts"):
        assert forward()[0].isnan().all()
    with pytest.raises(RuntimeError, match="engine group gave up"):
        forward()
    assert torch.equal(forward()[0], expected[0])

    dx, *_, of_weights = backward(*expected)
    with fault(emulated, "lost counts"):
        lost, *_, of_weights_lost = backward(*expected)
    assert lost[:-1].isnan().all() and torch.equal(lost[-1], dx[-1])  # the last step waits for nobody
    assert of_weights_lost[0].isnan().all()
    with pytest.raises(RuntimeError, match="engine group gave up"):
        backward(*expected)
    again, *_, of_weights_again = backward(*expected)
    assert torch.equal(again, dx) and torch.equal(of_weights_again[0], of_weights[0])


def test_a_host_without_memory_is_not_remembered():
    """In a process of its own: what it has once been given it keeps. The emulation refuses memory to whoever is not
    apart from graphs that are being captured."""
    program = """
import cuda_emulation
import pytest
import torch
from test_cuda_group import check
from walks import Problem
emulated = cuda_emulation.load()
with cuda_emulation.fault(emulated, "no host memory"), pytest.raises(RuntimeError, match="no memory of the host"):
    check(emulated, Problem("gru"), torch.bfloat16)
check(emulated, Problem("gru"), torch.bfloat16)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, timeout=600, check=False, cwd=cuda_emulation.ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["no barriers", "shifted index"])
def test_faults_are_noticed(emulated, name):
    """By wrong results, or by threads of a warp that never meet."""
    with fault(emulated, name), pytest.raises((AssertionError, RuntimeError)):
        check(emulated, Problem("lstm", T=3, B=8, H=70), torch.float32)


@pytest.mark.parametrize(
    ("problem", "dtype", "message"),
    [
        (Problem("lstm"), torch.float64, "no float64"),
        (Problem("lstm", P=3), torch.float32, "no projection"),
        (Problem("lstm", H=6, heads=3), torch.float32, "no heads, weight_hh is of 3 blocks"),
        (Problem("gru_reset_before"), torch.float32, "gru_reset_before has more than one phase"),
        (Problem("lstm", T=1, B=1, H=1600), torch.float32, "40000 KiB for 1600 hidden units.* the 132 multiprocessors"),
    ],
    ids=["float64", "projection", "heads", "phases", "size"],
)
def test_what_it_cannot_run_is_refused(emulated, problem, dtype, message):
    with pytest.raises(RuntimeError, match=f"engine group cannot run this layer: .*{message}"):
        run(emulated, problem, dtype)


def test_empty_kernels_are_refused(emulated):
    emulated.set_compiled_for([75])
    try:
        with pytest.raises(RuntimeError, match="kernels for compute capability 8.0, those .* were compiled for 7.5"):
            run(emulated, Problem("lstm"), torch.float32)
    finally:
        emulated.set_compiled_for([80, 90])
