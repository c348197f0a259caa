"""The CUDA engines against the reference in float64: in the emulation on the CPU and, where there is one, on a GPU.
Then the emulation itself: faults that it must notice, and the sanitizers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import cuda_emulation
import marks
import pytest
import torch
from cuda_emulation import fault, knob
from hypothesis import given, settings
from walks import (
    STRUCTS,
    Problem,
    assert_groups_add_up,
    assert_members_as_alone,
    assert_results,
    joined,
    members_and_alone,
    op_outputs_and_gradients,
    outputs_and_gradients,
    problems,
)

import seqcuda
from seqcuda import _backend
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact, assert_within_rule

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CLUSTER_CELLS = ("gru", "lstm", "rnn_relu", "rnn_tanh")
ON_CHIP = {"cluster": CLUSTER_CELLS, "group": (*CLUSTER_CELLS, "slstm")}
CAPABILITIES = {"stepwise": ((7, 5), (99,)), "cluster": ((9,), (12,)), "group": ((8,), (99,))}  # from, to
OPTIONS = {
    "padded": {},
    "no biases, no states": {"bias": False, "initial": False},
    "reverse, resets": {"reverse": (True,), "resets": True},
    "both, lengths": {"reverse": (False, True), "ragged": "lengths"},
    "both, packed, lean": {"reverse": (False, True), "ragged": "packed", "save": "states"},
    "both, lengths, resets, lean": {"reverse": (False, True), "ragged": "lengths", "resets": True, "save": "states"},
    "packed, resets": {"ragged": "packed", "resets": True},
    "one step of one row": {"T": 1, "B": 1},
    "no input features": {"I": 0},
    "decay, dropout, zoneout": {"factors": ("decay", "drop", "mask"), "reverse": (False, True), "ragged": "lengths"},
    "zoneout, lean, detached": {"factors": ("decay", "keep"), "resets": True, "save": "states", "detach_every": 2},
    "more than one block": {"T": 3, "B": 9, "H": 70, "ragged": "lengths", "resets": True},
    "heads, both, packed": {"H": 6, "heads": 3, "reverse": (False, True), "ragged": "packed", "resets": True},
    "heads, lean, zoneout": {"H": 70, "heads": 2, "factors": ("decay", "keep"), "save": "states", "ragged": "lengths"},
    "both, lengths, resets, segments": {
        "T": 7,
        "reverse": (False, True),
        "ragged": "lengths",
        "resets": True,
        "save": "3",
        "return_states": False,
    },
    "heads, zoneout, packed, segments": {
        "T": 7,
        "H": 6,
        "heads": 3,
        "factors": ("decay", "keep"),
        "ragged": "packed",
        "save": "2",
        "return_states": False,
    },
}
STEPWISE = {"factors", "detach_every", "heads"}  # what no other engine does
# What each engine can run.
ENGINES = [("stepwise", cell, dtype, name) for cell in STRUCTS for dtype in DTYPES for name in OPTIONS]
ENGINES += [
    (engine, cell, dtype, name)
    for engine, cells in ON_CHIP.items()
    for cell in cells
    for dtype in DTYPES[1:]
    for name, options in OPTIONS.items()
    if not STEPWISE & options.keys()
]


def for_op(problem: Problem) -> Problem:
    """Without heads where the cell normalises: the op refuses them, since a norm is over all of them."""
    return replace(problem, heads=1) if CELLS[problem.cell].norms else problem


PLACES = ["emulated", *([pytest.param("cuda", marks=marks.gpu)] if marks.has_gpu else [])]


class Place(NamedTuple):
    """Where the CUDA op pair runs."""

    ops: object
    device: str

    def skip_without(self, engine: str) -> None:
        oldest, end = CAPABILITIES[engine]
        if self.device == "cuda" and not oldest <= torch.cuda.get_device_capability() < end:
            pytest.skip(f"engine {engine} needs compute capability {oldest} to below {end}")

    def run(self, problem: Problem, dtype: torch.dtype, engine: str = "stepwise") -> list[torch.Tensor]:
        self.skip_without(engine)
        return op_outputs_and_gradients(problem, dtype, self.ops, self.device, engine)

    def check(self, problem: Problem, dtype: torch.dtype, engine: str = "stepwise") -> None:
        assert_results(problem, dtype, self.run(problem, dtype, engine))


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    if request.param == "cuda":
        return Place(torch.ops.seqcuda, "cuda")
    return Place(request.getfixturevalue("emulated"), "cpu")


@pytest.mark.parametrize(("engine", "cell", "dtype", "options"), ENGINES, ids=str)
def test_engine(place, engine, cell, dtype, options):
    place.check(for_op(Problem(cell, **OPTIONS[options])), dtype, engine)


@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if cell.options or cell.unit_names])
def test_stepwise_with_the_parameters_of_a_cell(place, cell):
    """Its options, and the gradients of its unit weights, beside what happens between the steps."""
    for dtype, factors in itertools.product(DTYPES, ((), ("decay", "drop", "keep"))):
        walk = {"reverse": (False, True), "ragged": "lengths", "resets": True, "save": "states"}
        place.check(Problem(cell, options=True, factors=factors, **walk), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [name for name, options in OPTIONS.items() if "heads" not in options])
def test_stepwise_projected(place, options, dtype):
    place.check(Problem("lstm", P=3, **OPTIONS[options]), dtype)


@pytest.mark.parametrize("options", [{}, {"ragged": "lengths", "resets": True, "reverse": (False, True)}, {"P": 3}])
def test_gradients_of_weights_by_groups(place, options):
    for cell in ("lstm",) if "P" in options else sorted(CELLS):
        assert_groups_add_up(Problem(cell, B=6, save="states", **options), place.ops, place.device)


MEMBERS = {
    "padded": {},
    "both, lengths, resets, lean": OPTIONS["both, lengths, resets, lean"],
    "packed": {"ragged": "packed", "resets": True, "bias": False},
    "one step": {"T": 1, "B": 1, "initial": False},
    "more than one block": OPTIONS["more than one block"],
    "factors": {"factors": ("decay", "drop", "keep"), "reverse": (True,), "detach_every": 2, "save": "states"},
    "heads": {"H": 6, "heads": 3, "reverse": (False, True), "ragged": "lengths"},
    "segments": OPTIONS["both, lengths, resets, segments"],
    "heads, segments": OPTIONS["heads, zoneout, packed, segments"],
}


@pytest.mark.parametrize("options", MEMBERS)
@pytest.mark.parametrize("cell", STRUCTS)
def test_members_give_what_they_give_alone(place, cell, options):
    assert_members_as_alone(for_op(Problem(cell, **MEMBERS[options])), place.ops, place.device)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("options", [{"H": 6, "heads": 2, "save": "states"}, {"P": 3, "ragged": "lengths"}], ids=str)
def test_members_of_any_dtype(place, dtype, options):
    for cell in ("lstm",) if "P" in options else ("gru_reset_before", "lstm", "slstm"):
        assert_members_as_alone(Problem(cell, resets=True, **options), place.ops, place.device, dtype=dtype)


@pytest.mark.parametrize("options", [{}, {"H": 6, "heads": 3}, {"P": 3}], ids=str)
def test_gradients_of_the_weights_of_members_by_groups(place, options):
    for cell in ("lstm",) if "P" in options else STRUCTS:
        problem = for_op(Problem(cell, B=6, resets=True, reverse=(False, True), **options))
        assert_members_as_alone(problem, place.ops, place.device, groups=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("engine", "cell", "members"), [("stepwise", "lstm", 1), ("cluster", "gru", 2), ("group", "slstm", 2)]
)
def test_members_that_are_walked_alone_give_the_same_bits(place, engine, cell, members, dtype):
    place.skip_without(engine)
    problem = Problem(cell, reverse=(False, True), ragged="lengths", resets=True)
    for ours, alone, _ in members_and_alone(problem, place.ops, place.device, engine, dtype, members=members):
        assert torch.equal(ours, alone)


@pytest.mark.parametrize(
    ("members", "heads", "products"),
    [(1, 1, {"mm": 9}), (3, 1, {"bmm": 9}), (1, 2, {"mm": 1, "bmm": 8}), (3, 2, {"bmm": 1 + 3 * 8})],
)
def test_a_product_is_of_all_members_or_of_all_heads(emulated, members, heads, products):
    """One of the input, then one for each phase of each step."""
    problem = Problem("gru_reset_before", T=4, H=6, heads=heads, initial=False)
    inputs = problem.inputs()
    weights = [None if w is None else torch.stack([w] * members) for w in inputs.weights]
    with torch.autograd.profiler.profile() as profile:
        emulated.sequence(
            problem.cell, inputs.x.expand(members, -1, -1, -1), weights, *(None,) * 7, (False,), "all", "stepwise"
        )
    seen = {event.key.removeprefix("aten::"): event.count for event in profile.key_averages()}
    assert {name: seen[name] for name in ("mm", "bmm") if name in seen} == products


@pytest.mark.parametrize(
    ("cell", "reverse", "operations"),
    [
        ("lstm", (False,), {"mm": 2 * 3 + 2 * 3 + 2, "addmm": 2 * 2, "sum": 3}),
        ("gru", (False, True), {"mm": 2 * (2 * 3 + 3 + 2), "addmm": 2 * (3 + 2 * 2), "sum": 2 * 2 * 3}),
    ],
    ids=["lstm", "gru, both"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_later_chunks_add_to_those_of_the_first(emulated, dtype, cell, reverse, operations):
    """Three chunks of a step: two products each in the forward; in the backward one of the step, one for x, added to
    where there are two directions, and one for each weight. A gradient of both biases is summed once."""
    with knob(emulated.set_chunk_bytes, [1, 1], emulated.chunk_bytes()), torch.autograd.profiler.profile() as profile:
        op_outputs_and_gradients(Problem(cell, T=3, reverse=reverse), dtype, emulated, engine="stepwise")
    seen = {event.key.removeprefix("aten::"): event.count for event in profile.key_averages()}
    assert {name: seen[name] for name in operations} == operations


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("stepwise", torch.float64),
        ("stepwise", torch.bfloat16),
        ("cluster", torch.float32),
        ("cluster", torch.bfloat16),
        ("group", torch.bfloat16),
    ],
    ids=str,
)
def test_any_problem(place, engine, dtype):
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(problems())
    def run(problem):
        if engine in ON_CHIP:
            problem = replace(problem, factors=(), detach_every=0, P=None, heads=1)
        problem = for_op(problem)
        if engine == "stepwise" or problem.cell in ON_CHIP[engine]:
            place.check(problem, dtype, engine)

    run()


@pytest.mark.parametrize("engine", sorted(ON_CHIP))
def test_long_sums_of_one_sign(place, engine):
    """What a tensor core cuts off would add up, over a sum and over the steps."""
    place.skip_without(engine)
    H, T = 500, 8
    generator = torch.Generator().manual_seed(0)
    h0, w_hh = (torch.rand(shape, generator=generator) for shape in ((1, 3, H), (H, H)))
    w_hh *= 2 / H  # h stays about as large as it is

    def steps(dtype):
        h, all_steps = h0[0].to(dtype), []
        for _ in range(T):
            h = h @ w_hh.to(dtype).T
            all_steps.append(h)
        return torch.stack(all_steps)

    x, w_ih, w, h = (t.to(place.device) for t in (torch.zeros(T, 3, 1), torch.zeros(H, 1), w_hh, h0))
    arguments = ("rnn_relu", x, (w_ih, w, *[None] * 4), h, *(None,) * 6, (False,), "nothing", engine)
    y = place.ops.sequence(*arguments)[0].cpu()
    assert_within_rule(y, steps(torch.float32), steps(torch.float64))


@pytest.mark.parametrize("ragged", ["no", "lengths", "packed"])
@pytest.mark.parametrize("save", ["all", "states"])
def test_more_steps_than_a_chunk_and_a_table_hold(place, ragged, save):
    """A chunk of this layer is 262 steps, a table 256."""
    problem = Problem("gru", T=530, B=20, H=200, reverse=(False, True), ragged=ragged, resets=True, save=save)
    ours = place.run(problem, torch.float64)
    assert_close_to_exact(joined(ours), joined(outputs_and_gradients(problem, torch.float64, "auto")))


@pytest.mark.parametrize("ragged", ["no", "lengths", "packed"])
@pytest.mark.parametrize(
    ("engine", "cell", "P"),
    [
        ("stepwise", "lstm", 3),
        ("stepwise", "lstm_peephole", None),
        ("stepwise", "lstm_layer_norm", None),
        ("stepwise", "slstm", None),
        ("group", "slstm", None),
    ],
)
def test_segments_and_chunks(emulated, engine, cell, P, ragged):
    """Of two steps: a chunk of several segments, and a segment of several chunks."""
    walk = {"T": 7, "B": 4, "P": P, "reverse": (False, True), "ragged": ragged, "resets": True, "return_states": False}
    two_steps = 2 * 4 * CELLS[cell].gates * 5 * 4  # of the gates, in float32
    with knob(emulated.set_chunk_bytes, [two_steps, two_steps], emulated.chunk_bytes()):
        for save in ("1", "3"):
            Place(emulated, "cpu").check(Problem(cell, save=save, **walk), torch.float32, engine)


def test_more_rows_and_steps_than_65535(place):
    place.check(Problem("gru", T=2, B=70_000, I=1, H=1), torch.float32)
    inputs = Problem("rnn_tanh", T=70_000, B=1, I=1, H=1, bias=False).inputs()
    x, h0, w_ih, w_hh = (t.to(place.device) for t in (inputs.x, inputs.h0, *inputs.weights[:2]))

    def run(x, h0):
        weights = (w_ih, w_hh, *[None] * 4)
        return place.ops.sequence("rnn_tanh", x, weights, h0, *(None,) * 6, (False,), "nothing", "auto")[0]

    y = run(x, h0)
    assert torch.equal(y[-5:], run(x[-5:], y[-6:-5]))


def test_empty_batch_and_no_steps(place):
    for options in ({"B": 0}, {"T": 0}, {"T": 0, "ragged": "lengths"}):
        for cell in CELLS:
            place.check(Problem(cell, **options), torch.float64)
        for engine, cells in ON_CHIP.items():
            for cell in cells:
                place.check(Problem(cell, **options), torch.float32, engine)


@pytest.mark.parametrize(
    ("cell", "engine", "dtype"),
    [
        ("lstm", "stepwise", torch.float64),
        ("lstm_layer_norm", "stepwise", torch.float64),
        ("lstm", "cluster", torch.float32),
        ("lstm", "group", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("save", ["all", "states", "2"])
def test_what_lies_past_the_end_of_a_row_does_not_matter(place, save, cell, engine, dtype):
    walk = {"reverse": (False, True), "ragged": "lengths", "resets": True, "return_states": save != "2"}
    problem = Problem(cell, T=6, B=4, save=save, **walk)
    inputs = problem.inputs()
    expected = place.run(problem, dtype, engine)
    past = torch.arange(problem.T)[:, None] >= inputs.lengths
    assert past.any()

    class Spoiled(type(problem)):
        def inputs(self, dtype=torch.float64):
            x = inputs.x.clone()
            x[past] = torch.nan
            return inputs._replace(x=x)

    spoiled = place.run(Spoiled(**vars(problem)), dtype, engine)
    assert all(torch.equal(a, b) for a, b in zip(expected, spoiled, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("engine", "H"), [("stepwise", 70), ("cluster", 150), ("group", 40)])
def test_the_same_bits_in_any_order_of_threads(emulated, dtype, engine, H):
    problem = Problem("gru", T=4, B=7, H=H, reverse=(False, True), ragged="lengths", resets=True)
    runs = []
    for seed in range(3):
        emulated.set_seed(seed)
        runs.append(op_outputs_and_gradients(problem, dtype, emulated, engine=engine))
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


WALKED = [("stepwise", {"P": 3}), ("stepwise", {"H": 6, "heads": 3}), ("cluster", {}), ("group", {})]


@pytest.mark.parametrize(("engine", "options"), WALKED, ids=str)
def test_nothing_waits_for_the_device(emulated, engine, options):
    """No operation that reads a value of a tensor on the host, and none that copies between devices."""
    waits = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "index"}
    walk = {"reverse": (False, True), "ragged": "lengths", "resets": True, **options}
    for save in ("all", "states", "2"):
        problem = Problem("lstm", save=save, return_states=save != "2", **walk)
        with torch.autograd.profiler.profile() as profile:
            op_outputs_and_gradients(problem, torch.float32, emulated, engine=engine)
        seen = {event.key.removeprefix("aten::") for event in profile.key_averages()}
        assert "mm" in seen
        assert not seen & waits


@pytest.mark.parametrize(("engine", "options"), WALKED, ids=str)
def test_every_kernel_goes_to_the_current_stream(emulated, engine, options):
    problem = Problem("lstm", **options, reverse=(False, True), ragged="lengths", resets=True, save="states")
    emulated.take_streams()
    emulated.set_stream(7)
    try:
        op_outputs_and_gradients(problem, torch.float32, emulated, engine=engine)
    finally:
        emulated.set_stream(0)
    assert emulated.take_streams() == [7]


@pytest.mark.skipif(not seqcuda.engines("cuda"), reason="the extension is built without CUDA")
def test_what_is_built_with_cuda_is_registered_for_it():
    for name in ("seqcuda::sequence", "seqcuda::sequence_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
    assert "cuda" in _backend.devices()


def test_engines_by_name(emulated):
    inputs = Problem("gru").inputs()
    arguments = ("gru", inputs.x, inputs.weights, *(None,) * 7, (False,), "nothing")
    chosen, named = (emulated.sequence(*arguments, engine) for engine in ("auto", "stepwise"))
    assert all(torch.equal(a, b) for a, b in zip(chosen, named, strict=True))
    with pytest.raises(ValueError, match="must be auto, stepwise.*, got 'panel'"):
        emulated.sequence(*arguments, "panel")


@pytest.fixture
def explain(emulated):
    """Engine, why, and the other lines, of a GRU on a GPU of a compute capability."""

    def ask(engine: str, capability: int = 90) -> list[str]:
        inputs = Problem("gru").inputs()
        emulated.set_capability(capability)
        return emulated.explain("gru", inputs.x, *inputs.weights[:2], engine)

    yield ask
    emulated.set_capability(90)


def test_explain(explain):
    engine, why, *more = explain("auto")
    assert engine == "stepwise" and "no measurement" in why
    assert "compute_capability: 9.0" in more
    assert "tested: in the emulation, no GPU has run it yet" in more
    assert explain("stepwise")[:2] == ["stepwise", "asked for by name"]


def test_an_engine_that_was_measured_is_chosen_where_it_runs(emulated):
    inputs = Problem("gru").inputs(torch.float32)
    layer = ("gru", inputs.x, *inputs.weights[:2])
    assert emulated.remember_engine(*layer, "cluster") == ""
    try:
        assert emulated.explain(*layer, "auto")[:2] == ["cluster", "the fastest that seqcuda.tune measured"]
        emulated.set_capability(80)
        assert emulated.explain(*layer, "auto")[0] == "stepwise"
    finally:
        emulated.set_capability(90)
        assert emulated.remember_engine(*layer, "") == "cluster"
    assert emulated.explain(*layer, "auto")[0] == "stepwise"


def test_a_gpu_that_is_too_old_is_refused(explain):
    explain("auto", 80)
    with pytest.raises(RuntimeError, match="compute capability 7.0, for which the extension was not compiled"):
        explain("auto", 70)


def test_the_emulation_runs_barriers(emulated):
    x = torch.randn(96)
    assert torch.equal(emulated.reverse(x, -1), x.flip(0))
    with pytest.raises(RuntimeError, match="deadlock"):
        emulated.deadlock()
    with pytest.raises(RuntimeError, match="block"):
        emulated.reverse(torch.randn(1025), -1)
    assert torch.equal(emulated.reverse(x, -1), x.flip(0))


def test_the_emulation_runs_clusters(emulated):
    assert emulated.exchange(5, 40, True).tolist() == [31] * 5
    with pytest.raises(RuntimeError, match="deadlock"):
        emulated.exchange(5, 48, True)
    with pytest.raises(RuntimeError, match="on their way"):
        emulated.exchange(5, 40, False)
    with pytest.raises(RuntimeError, match="cluster"):
        emulated.exchange(17, 136, True)
    with pytest.raises(RuntimeError, match="a push in a cluster of one block"):
        emulated.exchange(1, 8, True)


@pytest.mark.parametrize(("type", "depth"), [("bfloat16", 16), ("float16", 16), ("tf32", 8)])
def test_the_emulation_multiplies_fragments(emulated, type, depth):
    a, b = torch.randint(-8, 9, (16, depth)).float(), torch.randint(-8, 9, (depth, 8)).float()
    assert torch.equal(emulated.multiply(type, a, b), a @ b)


def test_a_removed_barrier_is_noticed(emulated):
    x = torch.randn(96)
    with fault(emulated, "no barriers"):
        assert not torch.equal(emulated.reverse(x, -1), x.flip(0))


def test_rows_that_have_ended_cost_nothing():
    """Their threads touch nothing but the lengths; those of other rows, whose memory is not there, end the process.
    A product that a cell normalises is there for all rows, and its norm is taken of all."""
    cells = sorted(name for name, cell in CELLS.items() if not cell.norms)
    program = f"""
import cuda_emulation
for length in (3, 5):
    for cell in {cells}:
        cuda_emulation.load().step_without_memory(cell, length)
    print(length, flush=True)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True, text=True, timeout=600, check=False, cwd=cuda_emulation.ROOT,
    )  # fmt: skip
    assert ran.stdout == "3\n", ran.stderr
    assert ran.returncode < 0, "no signal has ended it"


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_wrong_index_is_noticed(emulated, cell):
    with fault(emulated, "shifted index"), pytest.raises(AssertionError):
        Place(emulated, "cpu").check(Problem(cell, B=4, H=64), torch.float32)


def sanitized(*arguments: str) -> subprocess.CompletedProcess:
    """Python with the sanitized build."""
    environment = {
        "SEQCUDA_EMULATION": "sanitized",
        "LD_PRELOAD": cuda_emulation.sanitizer_runtime(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=600, check=False, cwd=cuda_emulation.ROOT,
    )  # fmt: skip


def test_with_sanitizers():
    cuda_emulation.build("sanitized")
    tests = "test_engine or test_stepwise or test_members_of_any_dtype or test_the_emulation_runs"
    tests = f"({tests}) and not torch.float16"  # cuda_emulation.TWINS
    ran = sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", tests, __file__)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    assert "passed" in ran.stdout


def test_the_sanitizers_notice_an_index_outside_its_array():
    cuda_emulation.build("sanitized")
    program = "import torch, cuda_emulation as c; c.load().reverse(torch.randn(96), 96)"
    ran = sanitized("-c", program)
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
