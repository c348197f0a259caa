"""save=k: the states beside h kept after every k steps, all between computed again in the backward."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import needs_extension
from test_autograd import function_of
from torch.func import functional_call, grad, jvp, vmap
from walks import (
    STRUCTS,
    Problem,
    assert_groups_add_up,
    assert_results,
    differentiable,
    outputs_and_gradients,
    problems,
)

import seqcuda
from seqcuda import autograd
from seqcuda.cells import CELLS
from seqcuda.testing import assert_close_to_exact

KEEPING = [name for name in STRUCTS if CELLS[name].states > 1]  # something besides h, which is in y
VARIANTS = {
    "both, lengths, resets": {"reverse": (False, True), "ragged": "lengths", "resets": True},
    "packed, resets": {"ragged": "packed", "resets": True, "reverse": (True,)},
    "no states, no biases": {"initial": False, "bias": False},
    "factors, detached": {"factors": ("decay", "drop"), "detach_every": 3, "reverse": (False, True)},
    "zoneout": {"factors": ("keep",)},
    "heads": {"heads": 5, "resets": True, "reverse": (False, True)},
}


def marked(cell: str, save: str, **options) -> Problem:
    options = {k: v for k, v in options.items() if k != "factors" or CELLS[cell].states < 3}
    return Problem(cell, save=save, return_states=False, **options)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_against_the_reference(instruction_set, dtype):
    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(problems(), st.sampled_from(KEEPING), st.sampled_from(["1", "2", "3", "7", "50"]))
    def run(problem, cell, save):
        options = {k: v for k, v in vars(problem).items() if k not in ("cell", "save", "return_states")}
        problem = marked(cell, save, **{**options, "P": options["P"] if cell.startswith("lstm") else None})
        assert_results(problem, dtype, outputs_and_gradients(problem, dtype, "auto"))

    run()


@needs_extension
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", KEEPING)
@pytest.mark.parametrize("engine", seqcuda.engines())
def test_the_bits_of_fast(cell, variant, engine):
    """On engine panel, but for what is summed over the steps, or over directions: its order is another. A chunk of the
    larger layer is 15 steps."""
    for T, B, H, dtype, saves in (
        (40, 31, 70, torch.float32, ("3", "16", "39")),
        (7, 5, 5, torch.bfloat16, ("1", "2", "7")),
    ):
        fast = marked(cell, "all", T=T, B=B, H=H, **VARIANTS[variant])
        exact = outputs_and_gradients(fast, dtype, engine)
        weights = sum(w is not None for w in fast.inputs().weights)
        for save in saves:
            ours = outputs_and_gradients(replace(fast, save=save), dtype, engine)
            for i, (a, b) in enumerate(zip(ours, exact, strict=True)):
                summed = i >= len(ours) - weights or (i == 3 and len(fast.reverse) == 2)  # of weights, of x
                if engine == "panel" and not summed and not fast.factors.count("keep"):  # a mix that may be contracted
                    assert torch.equal(a, b), i
                else:
                    assert_close_to_exact(a, b.double())


@needs_extension
@pytest.mark.parametrize("cell", KEEPING)
def test_more_threads_and_chunks(cell):
    """A segment of several chunks, and chunks of several segments."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for save in ("20", "100"):
            problem = marked(cell, save, T=150, B=5, I=3, H=70, reverse=(False, True), ragged="lengths", resets=True)
            assert_results(problem, torch.float64, outputs_and_gradients(problem, torch.float64, "auto"))
    finally:
        torch.set_num_threads(before)


@needs_extension
def test_nothing_to_walk():
    for options in ({"T": 0}, {"B": 0}, {"T": 0, "ragged": "lengths"}, {"T": 1}):
        problem = marked("lstm", "2", **options)
        assert_results(problem, torch.float64, outputs_and_gradients(problem, torch.float64, "auto"))


@pytest.mark.parametrize(("cell", "variant"), [("lstm", "both, lengths, resets"), ("slstm", "packed, resets")])
def test_second_derivatives(cell, variant):
    function, inputs = function_of(marked(cell, "2", T=5, B=2, H=3, **VARIANTS[variant]), "auto")
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def layers(kind, **options):
    """Two that differ in `save` alone."""
    fast = getattr(seqcuda, kind)(3, 4, 2, bidirectional=True, dtype=torch.float64, **options)
    ours = getattr(seqcuda, kind)(3, 4, 2, bidirectional=True, dtype=torch.float64, save=3, **options)
    ours.load_state_dict(fast.state_dict())
    return ours, fast


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_same(call, x, *layers):
    """Outputs and gradients."""
    results = []
    for layer in layers:
        torch.manual_seed(1)  # of masks
        outputs = [t for t in flat(call(layer, x)).values() if t.requires_grad]
        loss = sum(t.square().sum() for t in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        assert_close_to_exact(a, b)


NO_DECAY = ("SLSTM", "decay")  # its states are scaled by one of them
CALLS = {
    "plain": lambda layer, x: layer(x),
    "lengths": lambda layer, x: layer(x, lengths=[5, 0, 10, 3]),
    "packed": lambda layer, x: layer(torch.nn.utils.rnn.pack_padded_sequence(x, [5, 1, 10, 3], enforce_sorted=False)),
    "unbatched": lambda layer, x: layer(x[:, 0]),
    "resets": lambda layer, x: layer(x, resets=x.detach()[..., 0] > 1, detach_every=2),
    "decay": lambda layer, x: layer(x, decay=x[..., :1].sigmoid()),
    "states": lambda layer, x: layer(x, return_states=True),
    "gates": lambda layer, x: layer(x, return_states="gates"),
}


@pytest.mark.parametrize(
    ("kind", "call"),
    [(kind, call) for kind in ("RNN", "LSTM", "GRU", "IndRNN", "SLSTM") for call in CALLS if (kind, call) != NO_DECAY],
)
def test_layers(kind, call):
    assert_same(CALLS[call], normal(10, 4, 3), *layers(kind))


def test_masks():
    both = layers("LSTM", recurrent_dropout=0.3, zoneout=(0.2, 0.4), weight_dropout=0.1, dropout=0.5, heads=2)
    assert_same(CALLS["lengths"], normal(10, 4, 3), *both)


def kept(save, kind="LSTM", dtype=torch.float32, **options) -> int:
    """Numbers of one layer that autograd keeps for the backward, without the input and the weights."""
    layer = getattr(seqcuda, kind)(8, 16, save=save, dtype=dtype)
    x = torch.randn(48, 4, 8, dtype=dtype)
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = layer(x, **options)
    for t in (x, *layer.parameters()):
        storages.pop(t.untyped_storage().data_ptr(), None)
    del result
    return sum(storages.values()) // 4


@needs_extension
@pytest.mark.parametrize("options", [{}, {"resets": torch.zeros(48, 4, dtype=torch.bool)}], ids=["C++", "Python"])
def test_what_is_kept(options):
    of_step = 4 * 16
    own = 48 if options else 0  # the resets, 48 * 4 bytes
    assert kept("all", **options) == (1 + 1 + 4) * 48 * of_step + own
    assert kept("states", **options) == (1 + 1) * 48 * of_step + own
    for k, marks in ((1, 47), (8, 5), (10, 4), (47, 1), (48, 0), (1000, 0)):
        assert kept(k, **options) == (48 + marks) * of_step + own
    for kind in ("RNN", "GRU"):  # whose only state is the output
        assert kept(8, kind, **options) == kept("states", kind, **options) == 48 * of_step + own


@needs_extension
def test_under_torch_func():
    x = torch.randn(3, 7, 2, 3, dtype=torch.float64)
    ours, fast = layers("LSTM")
    parameters = {name: p.detach() for name, p in ours.named_parameters()}
    lengths = torch.tensor([[7, 2], [0, 5], [3, 6]])

    def loss(layer):
        return lambda parameters, x, lengths: (
            functional_call(layer, parameters, x, {"lengths": lengths})[0].square().sum()
        )

    of_samples = [vmap(grad(loss(layer)), (None, 0, 0))(parameters, x, lengths) for layer in (ours, fast)]
    members = {name: torch.stack((p, -p)) for name, p in parameters.items()}
    of_members = [vmap(grad(loss(layer)), (0, None, None))(members, x[0], lengths[0]) for layer in (ours, fast)]
    tangents = [jvp(lambda x, layer=layer: layer(x)[0], (x[0],), (x[1],))[1] for layer in (ours, fast)]
    for name in parameters:
        assert_close_to_exact(of_samples[0][name], of_samples[1][name], name=name)
        assert_close_to_exact(of_members[0][name], of_members[1][name], name=name)
    assert_close_to_exact(*tangents)


@needs_extension
def test_several_gradients_at_once():
    x, of_y = normal(7, 2, 3), torch.randn(5, 7, 2, 8, dtype=torch.float64)
    both = layers("LSTM")
    ours, exact = (
        torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], of_y, is_grads_batched=True) for layer in both
    )
    for a, b in zip(ours, exact, strict=True):
        assert_close_to_exact(a, b)


@needs_extension
@pytest.mark.parametrize("cell", KEEPING)
def test_gradients_of_weights_by_groups(cell):
    problem = Problem(cell, T=7, B=6, H=4, save="2", reverse=(False, True), ragged="lengths", resets=True)
    assert_groups_add_up(problem, torch.ops.seqcuda)


@needs_extension
def test_one_graph_for_every_size():
    ours, fast = layers("LSTM")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    function = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=True)
    for T, B in ((7, 2), (9, 3), (14, 6)):  # three segments and more: torch makes graphs of their own for 0 and 1
        lengths = torch.randint(0, T + 1, (B,))
        assert_same(lambda layer, x, lengths=lengths: layer(x, lengths=lengths), normal(T, B, 3), function, fast)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@needs_extension
@pytest.mark.parametrize(("cell", "variant"), [("lstm", "both, lengths, resets"), ("slstm", "packed, resets")])
def test_opcheck(cell, variant):
    problem = marked(cell, "2", T=7, **VARIANTS[variant])
    inputs = problem.inputs()
    states = (inputs.h0, inputs.c0, inputs.lengths, inputs.batch_sizes, inputs.resets, inputs.reset_h, inputs.reset_c)
    arguments = (cell, inputs.x, inputs.weights, *states, problem.reverse, problem.save, "auto")
    torch.library.opcheck(torch.ops.seqcuda.sequence.default, arguments)
    y, _, c_n, c_all, saved = torch.ops.seqcuda.sequence(*arguments)
    D, extra = len(problem.reverse), CELLS[cell].states - 1
    assert c_all.shape[0] == 0 and saved.shape == (D, 3, 3, 5 * extra)
    needs = tuple(i in differentiable(inputs.tensors()) for i in range(len(inputs.tensors())))
    arguments = (
        cell, torch.randn_like(y), None, torch.randn_like(c_n), None, inputs.x, inputs.weights, *states,
        y, c_all, saved, problem.reverse, "auto", needs,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.seqcuda.sequence_backward.default, arguments)
    with pytest.raises(RuntimeError, match="saved must have shape"):
        torch.ops.seqcuda.sequence_backward(*(saved[..., :1] if a is saved else a for a in arguments))


@pytest.mark.parametrize("save", [0, -1, True, 1.5, "8", None], ids=str)
def test_what_save_can_be(save):
    x, weights = torch.zeros(2, 1, 3), list(seqcuda.LSTM(3, 4).parameters())
    for call in (seqcuda.LSTM, lambda *_, save: seqcuda.functional.lstm(x, None, weights, save=save)):
        with pytest.raises(ValueError, match=f'LSTM: save must be "all", "states" or a positive int, got {save!r}'):
            call(3, 4, save=save)


@pytest.mark.parametrize("save", [8, np.int64(8), np.uint8(8)], ids=lambda save: type(save).__name__)
def test_a_number_of_steps(save):
    layer, x = seqcuda.LSTM(3, 4, save=save), torch.randn(9, 1, 3)
    assert repr(layer) == "LSTM(3, 4, save=8)" and "save=8" in str(seqcuda.explain(layer, x))
    assert pickle.loads(pickle.dumps(layer)).save == 8 and type(layer.save) is int
    weights = list(layer.parameters())
    assert torch.equal(seqcuda.functional.lstm(x, None, weights, save=save)[0], layer(x)[0])


@needs_extension
@pytest.mark.parametrize("save", ["0", "-1", "8 ", ""])
def test_what_the_op_refuses(save):
    with pytest.raises(ValueError, match=f"save must be nothing, states, all or a positive number, got '{save}'"):
        autograd._forward_op(Problem("lstm", save=save).walk(), "auto", Problem("lstm").inputs())
