"""The backward of layers one on another at the same time: the same bits as one after the other, and the gradients of
the reference."""

from __future__ import annotations

import pytest
import torch
from cuda_emulation import fault
from test_cuda import PLACES
from test_cuda_stack import CHUNK, OPTIONS, B, H, L, T, bits, stack_inputs
from walks import Problem, joined

import seqcuda
from seqcuda import autograd, stacks
from seqcuda._fake import _stack_backward
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact, assert_within_rule
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


@pytest.mark.parametrize(
    ("name", "error"), [("no waits", AssertionError), ("no join", RuntimeError), ("one memory", AssertionError)]
)
def test_a_removed_wait_and_memory_of_another_stream_are_noticed(ops, name, error):
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


@pytest.fixture(params=PLACES)
def device(request):
    """Where layers go the way of those on CUDA: the emulation on the CPU and, where there is one, a GPU."""
    if request.param == "emulated":
        request.getfixturevalue("cuda_is_emulated")
        return "cpu"
    return "cuda"


def leaves(problem: Problem, dtype: torch.dtype, layers: int, device: str) -> Inputs:
    """Of a stack, with a row without steps where there are lengths: the same numbers at every dtype."""
    (_, x, weights, h0, c0, lengths, *others), _ = stack_inputs(problem, torch.float64, layers)
    if lengths is not None:
        lengths[0] = 0
    tensors = Inputs(x, weights, h0, c0, lengths, *others).tensors()
    return Inputs.from_tensors(
        tuple(
            t if t is None or i == 4 else t.bfloat16().to(device, dtype).requires_grad_() if t.is_floating_point()
            else t.to(device)
            for i, t in enumerate(tensors)
        )
    )  # fmt: skip


def wanted(inputs: Inputs) -> list[torch.Tensor]:
    return [t for t in inputs.tensors() if t is not None and t.requires_grad]


def outputs(problem: Problem, inputs: Inputs, layers: int) -> list[torch.Tensor]:
    """y of the last layer, then of the others, and the states of all: those that are defined everywhere."""
    outs, x = stacks.stack(problem.walk(), inputs), inputs.x
    if outs is None:
        outs = []
        for layer in range(layers):
            outs.append(autograd.sequence(problem.walk(), stacks._inputs_of(inputs, x, layer, 1)))
            x = outs[-1].y
    c_all = [out.c_all for out in outs if out.c_all is not None and out.c_all.numel()]
    if inputs.lengths is not None:
        alive = torch.arange(problem.T, device=x.device)[:, None, None] < inputs.lengths[:, None]
        c_all = [torch.where(alive, c, c.new_zeros(())) for c in c_all]
    return [*(out.y for out in reversed(outs)), *(s for out in outs for s in (out.h_n, out.c_n) if s.numel()), *c_all]


def loss_of(results) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t.device) for t in results]
    return sum((w * t.double()).sum() for w, t in zip(weights, results, strict=True))


FORMS = {
    "reverse": {"reverse": (True,)},
    "packed, lean": {"ragged": "packed", "save": "states"},
    "lengths, resets": {"ragged": "lengths", "resets": True},
    "lengths, resets, segments": {"ragged": "lengths", "resets": True, "save": "7", "return_states": False},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("all_outputs", [False, True], ids=["of the last y", "of all outputs"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "layers"), [("rnn_tanh", 2), ("gru", 3), ("lstm", 2), ("lstm", 3)])
def test_gradients_against_the_reference(device, cell, layers, form, all_outputs, dtype):
    problem = Problem(cell, T=T, B=B, H=H, **FORMS[form])

    def run(backend: str, dtype: torch.dtype) -> torch.Tensor:
        inputs = leaves(problem, dtype, layers, device)
        with seqcuda.backend(backend):
            results = outputs(problem, inputs, layers)[: None if all_outputs else 1]
        if backend == "auto" and device == "cpu":
            torch.ops.seqcuda.take_streams()
        gradients = torch.autograd.grad(loss_of(results), wanted(inputs), allow_unused=True, materialize_grads=True)
        if backend == "auto" and device == "cpu":
            assert len(torch.ops.seqcuda.take_streams()) == layers
        return joined([*results, *gradients])

    ours, exact = run("auto", dtype), run("reference", torch.float64)
    if dtype == torch.float64:
        assert_close_to_exact(ours, exact)
    else:
        assert_within_rule(ours, run("reference", dtype), exact)


LSTM = Problem("lstm", T=T, B=B, H=H, ragged="lengths", resets=True)


def pulled(inputs: Inputs, results, **options):
    return torch.autograd.grad(loss_of(results), wanted(inputs), retain_graph=True, **options)


def test_a_second_backward_gives_the_same_bits(device):
    inputs = leaves(LSTM, torch.float32, L, device)
    results = outputs(LSTM, inputs, L)
    assert_same_bits(pulled(inputs, results), pulled(inputs, results))


FROZEN = {
    "x, h0": {0, 1},
    "c0, reset_h, biases of layer 1": {2, 6, N + 6 + 2, N + 6 + 3},
    "all but weights": set(range(N)),
    "all but weights of upper layers": set(range(N + 6)),
    "weights of layer 1": set(range(N + 6, N + 12)),
}


@pytest.mark.parametrize("of", ["last y", "first y", "final states"])
@pytest.mark.parametrize("frozen", FROZEN)
def test_gradients_of_some_outputs_for_some_inputs(device, frozen, of):
    """Those of a lower layer alone go past the layers above; frozen layers and inputs have none."""
    inputs = leaves(LSTM, torch.float64, L, device)
    for i, t in enumerate(inputs.tensors()):
        if t is not None and t.is_floating_point():
            t.requires_grad_(i not in FROZEN[frozen])
    first = {"last y": 0, "first y": L - 1, "final states": L}[of]

    def run(backend: str) -> torch.Tensor:
        with seqcuda.backend(backend):
            results = outputs(LSTM, inputs, L)[first : first + 1]
        assert results[0].requires_grad == (of == "last y" or frozen != "all but weights of upper layers")
        if not results[0].requires_grad:
            return results[0]
        return joined(pulled(inputs, results, allow_unused=True, materialize_grads=True))

    assert_close_to_exact(run("auto"), run("reference"))


def test_a_frozen_layer_keeps_nothing(device):
    """But y, which the layer above reads."""
    inputs = leaves(LSTM, torch.float32, L, device)
    for t in inputs.tensors()[: N + 6]:
        if t is not None and t.is_floating_point():
            t.requires_grad_(False)
    outs = stacks.stack(LSTM.walk(), inputs)
    assert [out.y.requires_grad for out in outs] == [out.h_n.requires_grad for out in outs] == [False, True, True]
    kept = {t.data_ptr() for t in outs[-1].y.grad_fn.saved_tensors if t is not None}
    assert inputs.x.data_ptr() not in kept and outs[0].c_all.data_ptr() not in kept
    assert outs[0].y.data_ptr() in kept


def test_derivatives_of_gradients(device):
    """Of a loss of the gradients of one of the outputs, whose way goes through all layers."""
    inputs, each = leaves(LSTM, torch.float64, L, device), []
    for backend in ("auto", "reference"):
        with seqcuda.backend(backend):
            results = outputs(LSTM, inputs, L)
            first = pulled(inputs, results, create_graph=True)
            each.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted(inputs)))
    assert_close_to_exact(joined(each[0]), joined(each[1]))


@pytest.mark.parametrize(("cell", "layers"), [("gru", 2), ("lstm", 3), ("rnn_tanh", 2)])
def test_gradgradcheck(device, cell, layers):
    problem = Problem(cell, T=3, B=2, H=2, ragged="lengths", resets=True, return_states=False)
    inputs = leaves(problem, torch.float64, layers, device)
    tensors = inputs.tensors()
    moving = [i for i, t in enumerate(tensors) if t is not None and t.requires_grad]

    def function(*values):
        given = list(tensors)
        for i, value in zip(moving, values, strict=True):
            given[i] = value
        return tuple(outputs(problem, Inputs.from_tensors(tuple(given)), layers))

    values = [tensors[i] for i in moving]
    assert torch.autograd.gradcheck(function, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


def test_several_gradients_through_one_graph(device):
    """By torch's older vmap and by torch.func's."""
    inputs = leaves(LSTM, torch.float64, L, device)
    y = outputs(LSTM, inputs, L)[0]
    grads = torch.randn(2, *y.shape, dtype=torch.float64, device=y.device)

    def pull(grad, **options):
        return torch.autograd.grad(y, wanted(inputs), grad, retain_graph=True, allow_unused=True, **options)

    expected = [torch.stack(parts) for parts in zip(*map(pull, grads), strict=True)]
    for ours in (pull(grads, is_grads_batched=True), torch.func.vmap(pull)(grads)):
        for a, b in zip(ours, expected, strict=True):
            assert_close_to_exact(a, b)
