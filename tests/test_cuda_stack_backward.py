"""The backward of layers one on another at the same time: the same bits as one after the other."""

from __future__ import annotations

import pytest
import torch
from cuda_emulation import fault
from test_cuda_stack import CHUNK, OPTIONS, B, H, L, T, bits, stack_inputs
from walks import Problem

from seqcuda._fake import _stack_backward
from seqcuda.cells import CELLS
from seqcuda.walk import Inputs

N = 13  # tensors of `Inputs` before the weights


class Backward:
    """A stack that the op has walked forward, and random gradients of its outputs, of y of the last layer alone."""

    def __init__(self, ops, problem: Problem, save="all", engine="stepwise", dtype=torch.float32, layers: int = L):
        self.ops, self.problem, self.engine = ops, problem, engine
        ops.set_chunk_bytes([CHUNK * B * CELLS[problem.cell].gates * problem.H * 4] * 2)  # of the gates, in float32
        self.whole, self.parts = stack_inputs(problem, dtype, layers)
        saves = save if isinstance(save, list) else [save] * layers
        self.outputs = ops.stack(*self.whole, problem.reverse, saves, engine)
        generator = torch.Generator().manual_seed(1)
        self.grads = [[torch.randn(t.shape, generator=generator).to(t) for t in part] for part in self.outputs[:4]]
        self.grads[0][:-1] = [None] * (layers - 1)
        if any(save.isdigit() for save in saves):
            self.grads[3] = [None] * layers
        _, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c = self.whole
        tensors = Inputs(x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c).tensors()
        self.needs = [t is not None and t.is_floating_point() for t in tensors]

    def together(self, needs=None):
        y, _, _, c_all, saved = self.outputs
        cell, *inputs = self.whole
        arguments = (cell, *self.grads, *inputs, y, c_all, saved, self.problem.reverse, self.engine)
        *of_inputs, of_weights = self.ops.stack_backward(*arguments, needs or self.needs)
        return [*of_inputs, *of_weights]

    def one_by_one(self):
        """In chunks of as many steps."""
        (cell, x, *_), each, of_x, known = self.whole, len(self.whole[2]) // len(self.parts), None, []
        y, _, _, c_all, saved = self.outputs
        for i in reversed(range(len(self.parts))):
            grads = [part[i] for part in self.grads]
            grads[0] = of_x if grads[0] is None else grads[0]
            needs = [True, *self.needs[1:N], *self.needs[N + i * each : N + (i + 1) * each]]
            inputs = (y[i - 1] if i else x, *self.parts[i])
            arguments = (cell, *grads, *inputs, y[i], c_all[i], saved[i], self.problem.reverse, self.engine)
            known.insert(0, self.ops.sequence_backward(*arguments, needs))
            of_x = known[0][0]
        states = [torch.cat([layer[k] for layer in known], dim) for k, dim in ((1, 0), (2, 1), (3, 0), (4, 1))]
        return [of_x, *states, *(g for layer in known for g in layer[-1])]


def assert_same_bits(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(bits(a.reshape(-1)), bits(b.reshape(-1)))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("engine", "cell", "dtype", "save"),
    [
        *(("stepwise", cell, torch.float32, "all") for cell in ("gru_reset_before", "indrnn_relu", "lstm_layer_norm")),
        *(("stepwise", cell, torch.float32, "states") for cell in ("gru_reset_before", "slstm")),
        *(("stepwise", cell, torch.float32, "7") for cell in ("lstm", "lstm_layer_norm", "slstm")),
        ("stepwise", "lstm_peephole", torch.float32, "30"),
        ("stepwise", "lstm", torch.bfloat16, "all"),
        ("cluster", "gru", torch.bfloat16, "states"),
        ("cluster", "lstm", torch.float32, "7"),
    ],
    ids=str,
)
def test_the_same_bits_as_one_after_the_other(ops, engine, cell, dtype, save, options):
    backward = Backward(ops, Problem(cell, T=T, B=B, H=H, **OPTIONS[options]), save, engine, dtype)
    expected = backward.one_by_one()
    assert all(torch.isfinite(t).all() for t in expected)
    for seed in range(3):
        ops.set_seed(seed)
        assert_same_bits(backward.together(), expected)


@pytest.mark.parametrize("options", [{"P": 3}, {"H": 6, "heads": 3}, {"detach_every": 4}], ids=str)
def test_a_stack_of_another_kind(ops, options):
    problem = Problem("lstm", **{"T": T, "B": B, "H": H, "ragged": "lengths", "resets": True, **options})
    backward = Backward(ops, problem, "states")
    assert_same_bits(backward.together(), backward.one_by_one())


@pytest.mark.parametrize("saves", [["all", "states", "all"], ["7", "all", "states"], ["7", "30", "1"]], ids=str)
def test_layers_that_keep_different_things(ops, saves):
    backward = Backward(ops, Problem("lstm", T=T, B=B, H=H), saves)
    assert_same_bits(backward.together(), backward.one_by_one())


WANTED = {
    "x": {0},
    "h0": {1},
    "reset_c": {7},
    "weight_hh of layer 1": {N + 6 + 1},
    "bias_hh of layer 0, weight_ih of layer 2": {N + 3, N + 12},
    "weights of layer 2": {N + 12, N + 13, N + 14, N + 15},
    "nothing": set(),
}


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("steps", [T, 20])
def test_some_gradients(ops, wanted, steps):
    backward = Backward(ops, Problem("lstm", T=steps, B=B, H=H, ragged="lengths", resets=True))
    everything = backward.together()
    ours = backward.together([i in WANTED[wanted] for i in range(len(backward.needs))])
    place = [0, 1, 2, 6, 7, *range(N, len(backward.needs))]  # of each gradient in Inputs.tensors()
    for i, a, b in zip(place, ours, everything, strict=True):
        assert torch.equal(a, b) if i in WANTED[wanted] else a.shape == (0,)


@pytest.mark.parametrize(
    ("steps", "layers", "engine", "streams"),
    [(T, L, "stepwise", L), (T, 2, "cluster", 2), (T, 1, "stepwise", 1), (31, L, "stepwise", 1), (T, L, "group", 1)],
)
def test_which_streams_work(ops, steps, layers, engine, streams):
    """That of the caller alone for few steps, for one layer, and for engine group, which has the whole GPU."""
    backward = Backward(ops, Problem("gru", T=steps, B=B, H=H), engine=engine, layers=layers)
    ops.set_stream(7)
    ops.take_streams()
    backward.together()
    used = ops.take_streams()
    assert len(used) == streams and 7 in used


@pytest.mark.parametrize(("name", "error"), [("no waits", AssertionError), ("no join", RuntimeError)])
def test_a_removed_wait_is_noticed(ops, name, error):
    backward = Backward(ops, Problem("lstm", T=T, B=B, H=H), "states")
    expected = backward.one_by_one()
    with fault(ops, name), pytest.raises(error):
        assert_same_bits(backward.together(), expected)
    ops.forget_work()
    assert_same_bits(backward.together(), expected)


@pytest.mark.parametrize("products", [0, 5, 100])
def test_after_running_out_of_memory_the_next_call_works(ops, products):
    backward = Backward(ops, Problem("lstm", T=T, B=B, H=H), "states")
    expected = backward.one_by_one()
    ops.run_out_of_memory_after(products)
    with pytest.raises(torch.OutOfMemoryError):
        backward.together()
    assert_same_bits(backward.together(), expected)


@pytest.mark.parametrize("save", ["all", "states", "7"])
def test_nothing_waits_for_the_device(ops, save):
    backward = Backward(ops, Problem("lstm", T=T, B=B, H=H, ragged="lengths", resets=True), save)
    with torch.autograd.profiler.profile() as profile:
        backward.together()
    seen = {event.key.removeprefix("aten::") for event in profile.key_averages()}
    assert "mm" in seen
    assert not seen & {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "index"}


@pytest.mark.parametrize("cell", ["gru", "lstm_peephole", "slstm"])
def test_shapes_without_computing(ops, cell):
    backward = Backward(ops, Problem(cell, T=T, B=B, H=H, resets=True))
    y, _, _, c_all, saved = backward.outputs
    *known, of_weights = _stack_backward(
        cell, *backward.grads, *backward.whole[1:], y, c_all, saved, (False,), "auto", backward.needs
    )
    for ours, fake in zip(backward.together(), [*known, *of_weights], strict=True):
        assert (ours.shape, ours.dtype) == (fake.shape, fake.dtype)


def test_what_does_not_fit_together_is_refused(ops):
    backward = Backward(ops, Problem("gru", T=T, B=B, H=H))
    with pytest.raises(RuntimeError, match="needs must have 31 entries, got 30"):
        backward.together(backward.needs[:-1])
    backward.grads[0][0] = torch.zeros(T, B, H + 1)
    with pytest.raises(RuntimeError, match="grad_y must have shape 50 3 5, got"):
        backward.together()
    backward.grads[0] = backward.grads[0][1:]
    with pytest.raises(ValueError, match="of 3 layers .* must be as many, got 2"):
        backward.together()
