"""Layers one on another at the same time, each on a stream of its own: the same bits as one after the other."""

from __future__ import annotations

import weakref

import pytest
import torch
from cuda_emulation import fault
from walks import Problem

import seqcuda
from seqcuda._fake import _stack
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact

L, T, B, H = 3, 50, 3, 5
CHUNK = 16  # steps, the fewest for which layers walk together; the last chunk is cut
OPTIONS = {
    "padded": {},
    "lengths, resets, reverse": {"ragged": "lengths", "resets": True, "reverse": (True,)},
    "packed, no states": {"ragged": "packed", "initial": False, "bias": False},
}


def stack_inputs(problem: Problem, dtype: torch.dtype = torch.float32, layers: int = L):
    """The arguments of the op before the walk's own, and the same of each layer but for x."""
    problems = [
        Problem(**{**vars(problem), "I": (problem.P or problem.H) if i else problem.I, "seed": i})
        for i in range(layers)
    ]
    each = [p.inputs(dtype) for p in problems]
    first = each[0]

    def joined(name, dim):
        parts = [getattr(inputs, name) for inputs in each]
        return None if parts[0] is None else torch.cat(parts, dim)

    shared = (first.lengths, first.batch_sizes, first.resets)
    weights = sum((inputs.weights for inputs in each), ())
    resets = (joined("reset_h", 0), joined("reset_c", 1))
    whole = (problem.cell, first.x, weights, joined("h0", 0), joined("c0", 1), *shared, *resets)
    parts = [(inputs.weights, inputs.h0, inputs.c0, *shared, inputs.reset_h, inputs.reset_c) for inputs in each]
    return whole, parts


def together(ops, problem: Problem, saves, engine="stepwise", dtype=torch.float32):
    whole, _ = stack_inputs(problem, dtype, len(saves))
    return list(zip(*ops.stack(*whole, problem.reverse, saves, engine), strict=True))


def one_by_one(ops, problem: Problem, saves, engine="stepwise", dtype=torch.float32):
    """In chunks of as many steps."""
    (cell, x, *_), parts = stack_inputs(problem, dtype, len(saves))
    ops.set_chunk_bytes([CHUNK * B * CELLS[cell].gates * problem.H * 4] * 2)  # of the gates, in float32
    outputs = []
    for part, save in zip(parts, saves, strict=True):
        outputs.append(ops.sequence(cell, x, *part, problem.reverse, save, engine))
        x = outputs[-1][0]
    return outputs


def bits(t: torch.Tensor) -> torch.Tensor:
    """Equal for NaN as well, which is what nobody has written."""
    return t.contiguous().view(torch.uint8)


def assert_same(ours, theirs):
    for layer, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(layer, other, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("engine", "cell", "dtype"),
    [
        *(
            ("stepwise", cell, torch.float32)
            for cell in ("gru_reset_before", "indrnn_relu", "lstm", "lstm_layer_norm", "slstm")
        ),
        ("stepwise", "lstm", torch.bfloat16),
        ("cluster", "gru", torch.bfloat16),
    ],
    ids=str,
)
def test_the_same_bits_as_one_after_the_other(ops, engine, cell, dtype, options):
    problem, saves = Problem(cell, T=T, B=B, H=H, **OPTIONS[options]), ["nothing", "states", "all"]
    expected = one_by_one(ops, problem, saves, engine, dtype)
    for seed in range(3):
        ops.set_seed(seed)
        assert_same(together(ops, problem, saves, engine, dtype), expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", ["lstm", "lstm_layer_norm", "slstm"])
def test_segments_that_end_inside_chunks(ops, cell, options):
    problem, saves = Problem(cell, T=T, B=B, H=H, **OPTIONS[options]), ["1", "7", "30"]
    assert_same(together(ops, problem, saves), one_by_one(ops, problem, saves))


def test_a_projected_stack(ops):
    problem = Problem("lstm", T=T, B=B, H=H, P=3)
    assert_same(together(ops, problem, ["all"] * L), one_by_one(ops, problem, ["all"] * L))


@pytest.mark.parametrize("cell", ["gru_reset_before", "slstm"])
def test_a_stack_with_heads(ops, cell):
    problem, saves = Problem(cell, T=T, B=B, H=6, heads=3, ragged="lengths", resets=True), ["nothing", "states", "all"]
    assert_same(together(ops, problem, saves), one_by_one(ops, problem, saves))
    with pytest.raises(RuntimeError, match="engine cluster cannot run this layer: it has no heads, .* of 3 blocks"):
        together(ops, problem, saves, "cluster")


@pytest.mark.parametrize(
    ("steps", "layers", "engine", "streams"),
    [(T, L, "stepwise", L), (T, 2, "cluster", 2), (T, 1, "stepwise", 1), (31, L, "stepwise", 1), (T, L, "group", 1)],
)
def test_which_streams_work(ops, steps, layers, engine, streams):
    """That of the caller alone for few steps, for one layer, and for engine group, which has the whole GPU."""
    ops.set_stream(7)
    ops.take_streams()
    together(ops, Problem("gru", T=steps, B=B, H=H), ["nothing"] * layers, engine)
    used = ops.take_streams()
    assert len(used) == streams and 7 in used


@pytest.mark.parametrize(("name", "error"), [("no waits", AssertionError), ("no join", RuntimeError)])
def test_a_removed_wait_is_noticed(ops, name, error):
    problem, saves = Problem("lstm", T=T, B=B, H=H), ["all"] * L
    expected = one_by_one(ops, problem, saves)
    with fault(ops, name), pytest.raises(error):
        assert_same(together(ops, problem, saves), expected)
    ops.forget_work()
    assert_same(together(ops, problem, saves), expected)


@pytest.mark.parametrize("products", [0, 5, 100])
def test_after_running_out_of_memory_the_next_call_works(ops, products):
    problem, saves = Problem("lstm", T=T, B=B, H=H), ["all"] * L
    expected = one_by_one(ops, problem, saves)
    ops.run_out_of_memory_after(products)
    with pytest.raises(torch.OutOfMemoryError):
        together(ops, problem, saves)
    assert_same(together(ops, problem, saves), expected)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("RNN", {}),
        ("LSTM", {}),
        ("GRU", {}),
        ("SLSTM", {"heads": H}),
        ("LSTM", {"layer_norm": True, "heads": H}),
    ],
    ids=str,
)
@pytest.mark.parametrize("save", ["all", "states", 7])
def test_layers_and_their_gradients(cuda_is_emulated, kind, options, save):
    torch.manual_seed(0)
    layer = getattr(seqcuda, kind)(4, H, num_layers=L, save=save, dtype=torch.float64, **options)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not name.endswith("_l0"))
    x, lengths = torch.randn(T, B, 4, dtype=torch.float64), [T, 0, 33]

    def results():
        layer.zero_grad()
        y, final = layer(x, lengths=lengths)
        y.square().sum().backward()
        final = final if isinstance(final, tuple) else (final,)
        return [y, *final, *(p.grad for p in layer.parameters() if p.requires_grad)]

    cuda_is_emulated.take_streams()
    ours = results()
    assert len(cuda_is_emulated.take_streams()) == L
    with seqcuda.backend("reference"):
        expected = results()
    for a, b in zip(ours, expected, strict=True):
        assert_close_to_exact(a.detach(), b.detach())


def test_the_graph_of_a_stack_is_freed(cuda_is_emulated):
    """It keeps outputs of its own, which must not keep it."""
    layer = seqcuda.GRU(4, H, num_layers=L)
    y = layer(torch.randn(T, B, 4))[0]
    node = weakref.ref(y.grad_fn)
    del y
    assert node() is None


@pytest.mark.parametrize("cell", ["gru", "lstm_layer_norm", "slstm"])
def test_shapes_without_computing(ops, cell):
    whole, _ = stack_inputs(Problem(cell, T=T, B=B, H=H))
    arguments = (*whole, (False,), ["nothing", "7", "all"], "auto")
    for ours, known in zip(_stack(*arguments), ops.stack(*arguments), strict=True):
        assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in known]
