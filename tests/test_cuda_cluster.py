"""Engine "cluster" where its layout changes: blocks, tiles, weights beyond the registers; TF32; faults; refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cuda_emulation import knob
from walks import Problem, assert_results, joined, op_outputs_and_gradients, outputs_and_gradients

from seqcuda.testing import assert_within_rule

MATH = {"tf32": 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
RAGGED = {"reverse": (False, True), "ragged": "lengths", "resets": True}


def run(emulated, problem: Problem, dtype: torch.dtype) -> list[torch.Tensor]:
    return op_outputs_and_gradients(problem, dtype, emulated, engine="cluster")


def check(emulated, problem: Problem, dtype: torch.dtype) -> None:
    assert_results(problem, dtype, run(emulated, problem, dtype))


def shapes(emulated, problem: Problem, math) -> list[tuple[int, ...]]:
    """Forward and backward: blocks and tiles of a cluster, clusters of a direction, fragments in shared memory."""
    sizes = (problem.cell, problem.B, problem.H, len(problem.reverse), MATH[math])
    return [tuple(emulated.cluster_shape(*sizes, backward)) for backward in (False, True)]


@pytest.mark.parametrize(
    ("cell", "H", "dtype"),
    [("lstm", 150, torch.bfloat16), ("gru", 260, torch.float16), ("lstm", 140, torch.float32)],
    ids=str,
)
def test_several_blocks(emulated, cell, H, dtype):
    problem = Problem(cell, T=3, B=11, H=H, **RAGGED)
    assert all(blocks > 1 for blocks, *_ in shapes(emulated, problem, dtype))
    check(emulated, problem, dtype)


def test_sixteen_blocks(emulated):
    problem = Problem("rnn_tanh", T=3, B=9, H=256)
    assert [blocks for blocks, *_ in shapes(emulated, problem, torch.bfloat16)] == [16, 16]
    check(emulated, problem, torch.bfloat16)


@pytest.mark.parametrize("H", [40, 150])  # one block, several
@pytest.mark.parametrize("options", [RAGGED, {"ragged": "packed", "resets": True, "reverse": (True,)}], ids=str)
def test_several_tiles(emulated, options, H):
    problem = Problem("lstm", T=5, B=45, H=H, **options)
    with knob(emulated.set_gpcs, [2], emulated.gpcs()):
        assert all(tiles > 2 for _, tiles, *_ in shapes(emulated, problem, torch.bfloat16))
        check(emulated, problem, torch.bfloat16)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("H", [128, 192, 256, 384])
def test_all_clusters_run_at_once(emulated, H, directions):
    """One that has to wait for the others to end would double the time."""
    problem = Problem("lstm", T=1, B=256, H=H, reverse=(False, True)[:directions])
    for blocks, _, clusters, _ in shapes(emulated, problem, torch.bfloat16):
        assert clusters * directions <= sum(gpc // blocks for gpc in emulated.gpcs())


def test_a_gpu_without_large_clusters(emulated):
    problem = Problem("rnn_tanh", T=3, B=9, H=256)
    with knob(emulated.set_gpcs, [10, 9], emulated.gpcs()):
        assert all(1 < blocks <= 10 for blocks, *_ in shapes(emulated, problem, torch.bfloat16))
        check(emulated, problem, torch.bfloat16)
        with pytest.raises(RuntimeError, match="must fit .* a cluster of 10 blocks"):
            run(emulated, Problem("lstm", T=1, B=1, H=700), torch.bfloat16)


def test_weights_beyond_the_registers(emulated):
    problem = Problem("lstm", T=2, B=3, H=384)
    assert all(overflow > 0 for *_, overflow in shapes(emulated, problem, torch.float32))
    check(emulated, problem, torch.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_tf32(emulated, cell):
    """TF32 has the mantissa of float16, so that the rival is the reference in float16. The switch is that of recurrent
    layers, not that of other products."""
    problem = Problem(cell, T=5, B=9, H=70, **RAGGED)
    exact = outputs_and_gradients(problem, torch.float64, "reference")
    rival = [t.float() for t in outputs_and_gradients(problem, torch.float16, "reference")]
    true = run(emulated, problem, torch.float32)
    rnn, matmul = torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    with knob(partial(setattr, rnn, "fp32_precision"), "tf32", rnn.fp32_precision):
        ours = run(emulated, problem, torch.float32)
    assert_within_rule(joined(ours), joined(rival), joined(exact))
    assert not torch.equal(joined(ours), joined(true))
    with knob(partial(setattr, matmul, "fp32_precision"), "tf32", matmul.fp32_precision):
        assert torch.equal(joined(run(emulated, problem, torch.float32)), joined(true))


@pytest.mark.parametrize("save", ["all", "states"])
def test_more_steps_than_a_table_holds(emulated, save):
    problem = Problem("gru", T=270, B=3, H=5, reverse=(False, True), ragged="packed", resets=True, save=save)
    check(emulated, problem, torch.float32)


@pytest.mark.parametrize("save", ["states", "1", "3"])
@pytest.mark.parametrize("ragged", ["no", "lengths", "packed"])
def test_more_steps_than_a_chunk_holds(emulated, ragged, save):
    walk = {"reverse": (False, True), "ragged": ragged, "resets": True}
    problem = Problem("lstm", T=7, B=11, H=16, save=save, return_states=save == "states", **walk)
    step = problem.B * 4 * problem.H * 4
    for steps in ((2, 2), (1, 3)):  # as usual, in a launch
        with knob(emulated.set_chunk_bytes, [n * step for n in steps], emulated.chunk_bytes()):
            check(emulated, problem, torch.bfloat16)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_tanh"])
@pytest.mark.parametrize("name", ["no barriers", "shifted index"])
def test_faults_are_noticed(emulated, cell, name):
    """By wrong numbers, or by threads of a warp that part and wait for each other."""
    problem = Problem(cell, T=3, B=8, H=150)
    with knob(emulated.set_fault, name, "none"), pytest.raises((AssertionError, RuntimeError), match="error|deadlock"):
        check(emulated, problem, torch.float32)


@pytest.mark.parametrize(
    ("problem", "dtype", "message"),
    [
        (Problem("lstm"), torch.float64, "no float64"),
        (Problem("lstm", P=3), torch.float32, "no projection"),
        (Problem("lstm", H=6, heads=3), torch.float32, "no heads, weight_hh is of 3 blocks"),
        (Problem("gru_reset_before"), torch.float32, "gru_reset_before has more than one phase"),
        (Problem("lstm_peephole"), torch.float32, "lstm_peephole has .* parameters"),
        (Problem("lstm", factors=("decay",)), torch.float32, "no factors between the steps"),
        (Problem("lstm", detach_every=2), torch.float32, "no detach_every"),
        (Problem("lstm", T=1, B=1, H=1024), torch.bfloat16, "8192 KiB for 1024 hidden units.* cluster of 16 blocks"),
    ],
    ids=str,
)
def test_what_it_cannot_run_is_refused(emulated, problem, dtype, message):
    with pytest.raises(RuntimeError, match=f"engine cluster cannot run this layer: .*{message}"):
        run(emulated, problem, dtype)


def test_an_older_gpu_is_refused(emulated):
    with (
        knob(emulated.set_capability, 89, 90),
        pytest.raises(RuntimeError, match="compute capability 9.0 to 11"),
    ):
        run(emulated, Problem("lstm"), torch.float32)


def test_empty_kernels_are_refused(emulated):
    """The PTX of an older GPU runs on a newer one, but was compiled without what the engine needs."""
    for compiled in ([80], [80, 89]):
        with (
            knob(emulated.set_compiled_for, compiled, [80, 90]),
            pytest.raises(RuntimeError, match=r"kernels for .* 9.0, .* compiled for 8.*; build .*ARCH_LIST=9.0"),
        ):
            run(emulated, Problem("lstm"), torch.float32)
