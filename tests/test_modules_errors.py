"""A mistake raises an exception of the type that torch.nn raises, names the argument, and changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import CELLS, LAYERS, Case
from torch.nn.utils.rnn import PackedSequence

import seqcuda

CONSTRUCTIONS = [
    *((kind, (3,), {}) for kind in LAYERS + CELLS),
    *((kind, (3, 5.0), {}) for kind in LAYERS + CELLS),
    *((kind, (3, -5), {}) for kind in LAYERS + CELLS),
    *((kind, (3, 5), {"foo": 1}) for kind in LAYERS + CELLS),
    *((kind, (3, 5), {"dtype": torch.int32}) for kind in LAYERS + CELLS),
    *((kind, (0, 5), {}) for kind in LAYERS),
    *((kind, (3, 5, 0), {}) for kind in LAYERS),
    *((kind, (3, 5), {"dropout": 1.5}) for kind in LAYERS),
    *((kind, (3, 5), {"dropout": True}) for kind in LAYERS),
    *((kind, (3, 5), {"bias": 1}) for kind in LAYERS),
    *((kind, (3, 5), {"batch_first": "yes"}) for kind in LAYERS),
    *((kind, (3, 5), {"proj_size": 5}) for kind in LAYERS),
    *((kind, (3, 5), {"proj_size": -1}) for kind in LAYERS),
    ("RNN", (3, 5), {"nonlinearity": "sigmoid"}),
    ("RNN", (3, 5, 1, "sigmoid"), {}),
]


@pytest.mark.parametrize(("kind", "args", "kwargs"), CONSTRUCTIONS)
def test_constructor(kind, args, kwargs):
    with pytest.raises(Exception) as theirs:
        getattr(torch.nn, kind)(*args, **kwargs)
    with pytest.raises(theirs.type) as ours:
        getattr(seqcuda, kind)(*args, **kwargs)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_reset_after_must_be_bool(kind):
    with pytest.raises(TypeError, match="reset_after should be of type bool, got: int"):
        getattr(seqcuda, kind)(3, 5, reset_after=1)


def on_input(change):
    def mistake(x, hx):
        return (x._replace(data=change(x.data)) if isinstance(x, PackedSequence) else change(x)), hx

    return mistake


def on_hx(change):
    return lambda x, hx: (x, tuple(map(change, hx)) if isinstance(hx, tuple) else change(hx))


def more(dim: int):
    return lambda t: torch.cat([t, t.narrow(dim, 0, 1)], dim)


# name: the argument that the message must name, and what turns a right call into a wrong one
MISTAKES = {
    "list": ("input", lambda x, hx: ([1.0, 2.0], hx)),
    "None": ("input", lambda x, hx: (None, hx)),
    "array": ("input", on_input(lambda t: t.detach().numpy())),
    "0 dimensions": ("input", on_input(lambda t: t.sum())),
    "two dimensions more": ("input", on_input(lambda t: t[None, None])),
    "features": ("input", on_input(more(-1))),
    "int": ("input", on_input(lambda t: t.long())),
    "double": ("input", on_input(lambda t: t.double())),
    "half": ("input", on_input(lambda t: t.half())),
    "complex": ("input", on_input(lambda t: t.to(torch.complex64))),
    "meta": ("input", on_input(lambda t: t.to("meta"))),
    "hx str": ("hx", lambda x, hx: (x, "zeros")),
    "hx wrapped": ("hx", lambda x, hx: (x, (hx,))),
    "hx ()": ("hx", lambda x, hx: (x, ())),
    "hx three": ("hx", lambda x, hx: (x, (hx, hx, hx) if isinstance(hx, torch.Tensor) else (*hx, hx[0]))),
    "hx half a pair": ("hx", lambda x, hx: (x, hx[0] if isinstance(hx, tuple) else (hx, None))),
    "hx width": ("hid", on_hx(more(-1))),
    "hx first dimension": ("hid", on_hx(more(0))),
    "hx dimension less": ("h", on_hx(lambda t: t[0])),
    "hx two dimensions more": ("h", on_hx(lambda t: t[None, None])),
    "hx double": ("hx", on_hx(lambda t: t.double())),
    "hx meta": ("hx", on_hx(lambda t: t.to("meta"))),
}
FORMS = {"padded": (3, None), "batch of one": (1, None), "unbatched": (None, None), "packed": (3, (4, 1, 2))}
# Where torch.nn computes something all the same, reading the features wrongly or leaving out a state.
TORCH_ACCEPTS = {
    ("LSTM", "packed", "features"),
    ("LSTM", "packed", "hx three"),
    ("LSTM", "unbatched", "hx three"),
    ("LSTMCell", "unbatched", "hx three"),
}


# A cell takes no packed input, a PackedSequence no array.
CALLS = [
    (kind, form, mistake)
    for kind in LAYERS + CELLS
    for form in FORMS
    for mistake in MISTAKES
    if form != "packed" or (kind in LAYERS and mistake != "array")
]


@pytest.mark.parametrize(("kind", "form", "mistake"), CALLS)
def test_call(kind, form, mistake):
    batch, lengths = FORMS[form]
    arguments = {} if kind in CELLS else {"num_layers": 2, "batch_first": False, "dropout": 0.5}
    case = Case(0, kind, 3, 5, 4, batch, arguments, lengths)
    argument, wrong = MISTAKES[mistake]
    (_, x), (_, hx) = case.input(torch.float32), case.hx(torch.float32)
    x, hx = wrong(x, hx)
    if (kind, form, mistake) in TORCH_ACCEPTS:
        expected = RuntimeError
    else:
        with pytest.raises(Exception) as theirs:
            case.module(torch.nn, torch.float32)(x, hx)
        expected = theirs.type
    module = case.module(seqcuda, torch.float32)
    before, random_state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(expected, match=argument):
        module(x, hx)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_sparse_input(kind):
    with pytest.raises(
        RuntimeError, match=f"{kind}: input must be dense, of layout torch.strided, got torch.sparse_coo"
    ):
        getattr(seqcuda, kind)(3, 5)(torch.ones(4, 3).to_sparse())


@pytest.mark.parametrize("kind", LAYERS)
def test_no_steps(kind):
    x = torch.zeros(0, 2, 3)
    for namespace in (torch.nn, seqcuda):
        with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
            getattr(namespace, kind)(3, 5)(x)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [4, 5, 1]}, ValueError, "lengths must be from 0 to 4, the number of steps, got 1 to 5"),
        ({"lengths": [-1, 2, 1]}, ValueError, "lengths must be from 0 to 4, the number of steps, got -1 to 2"),
        ({"lengths": [1, 2]}, RuntimeError, r"lengths must have shape \(3,\).* got \(2,\)"),
        ({"lengths": torch.ones(3, 1).long()}, RuntimeError, r"lengths must have shape \(3,\).* got \(3, 1\)"),
        ({"lengths": torch.ones(3)}, TypeError, "lengths must have an integer dtype, got torch.float32"),
        ({"lengths": [True, False, True]}, TypeError, "lengths must have an integer dtype, got torch.bool"),
        ({"lengths": 3}, TypeError, "lengths must be a 1-D integer Tensor or a list of ints, got int"),
        ({"lengths": "abc"}, TypeError, "lengths must be a 1-D integer Tensor or a list of ints, got str"),
        ({"resets": [True]}, TypeError, r"resets must be a bool Tensor of shape \(4, 3\), got list of 1"),
        ({"resets": torch.zeros(4, 3)}, TypeError, "resets must be bool, got torch.float32"),
        ({"resets": torch.zeros(3, 4).bool()}, RuntimeError, r"resets must have shape \(4, 3\), got \(3, 4\)"),
        ({"return_states": "all"}, ValueError, "return_states must be False, True or \"gates\", got 'all'"),
        ({"reset_state": torch.zeros(1, 3, 5)}, ValueError, "reset_state was given without resets"),
    ],
)
def test_additions(kind, options, error, message):
    module = getattr(seqcuda, kind)(3, 5)
    if kind == "LSTM" and "reset_state" in options:
        options = {"reset_state": (options["reset_state"],) * 2}
    with pytest.raises(error, match=message):
        module(torch.zeros(4, 3, 3), **options)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(1, 3, 6), (2, 3, 5), (1, 1, 3, 5), (4,)])
def test_reset_state_shape(kind, shape):
    state = torch.zeros(shape)
    with pytest.raises(RuntimeError, match=r"reset_state.* must have the shape of hx, \(1, 3, 5\)"):
        getattr(seqcuda, kind)(3, 5)(
            torch.zeros(4, 3, 3),
            resets=torch.zeros(4, 3, dtype=torch.bool),
            reset_state=(state, state) if kind == "LSTM" else state,
        )


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_input_has_its_own_lengths(kind):
    case = replace(Case.draw(0), kind=kind, arguments={"batch_first": False}, batch=3, lengths=(4, 1, 2), steps=4)
    _, x = case.input(torch.float32)
    module = case.module(seqcuda, torch.float32)
    with pytest.raises(ValueError, match="lengths and a PackedSequence exclude each other"):
        module(x, lengths=[4, 1, 2])
    with pytest.raises(RuntimeError, match="resets must be packed as the input is"):
        module(x, resets=torch.nn.utils.rnn.pack_sequence([torch.zeros(2, dtype=torch.bool)]))
    with pytest.raises(RuntimeError, match=r"resets must have shape \(4, 3\)"):
        module(x, resets=torch.zeros(7, dtype=torch.bool))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", LAYERS)
def test_nested_input(kind):
    module, rows = getattr(seqcuda, kind)(3, 5), [torch.zeros(2, 3), torch.zeros(4, 3)]
    jagged = torch.nested.nested_tensor(rows, layout=torch.jagged)
    strided = torch.nested.nested_tensor(rows, layout=torch.strided)
    with pytest.raises(ValueError, match=r"Expected nested input to be \(B, j, I\) of layout torch.jagged, got 3D"):
        module(strided)
    with pytest.raises(ValueError, match="lengths and nested input exclude each other"):
        module(jagged, lengths=[2, 4])
    with pytest.raises(RuntimeError, match="Expected 3, got 2"):
        module(jagged[..., :2])
    with pytest.raises(TypeError, match="resets of nested input must be nested"):
        module(jagged, resets=torch.zeros(4, 2, dtype=torch.bool))
    other = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(3)], layout=torch.jagged).bool()
    with pytest.raises(RuntimeError, match="their lengths differ"):
        module(jagged, resets=other)


@pytest.mark.parametrize("weights", [0, 1, 6])
def test_functional_wants_whole_weights(weights):
    with pytest.raises(RuntimeError, match=f"got {weights} tensors"):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, [torch.zeros(20, 3)] * weights)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"num_layers": 0}, ValueError, "LSTM: num_layers must be a positive int, got 0"),
        ({"num_layers": "two"}, ValueError, "LSTM: num_layers must be a positive int, got 'two'"),
        ({"dropout": 2.0}, ValueError, "LSTM: dropout must be a number from 0 to 1, got 2.0"),
        ({"layers": 2}, TypeError, "LSTM: unexpected keyword argument 'layers', expected one of num_layers, "),
    ],
)
def test_functional_wants_known_options(options, error, sentence):
    with pytest.raises(error, match=sentence):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, [torch.zeros(20, 3), torch.zeros(20, 5)], **options)


@pytest.mark.parametrize("weights", [None, torch.zeros(20, 3), [torch.zeros(20, 3), None]])
def test_functional_wants_a_list_of_weights(weights):
    with pytest.raises(TypeError, match="LSTM: weights must be a list of Tensors, got"):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, weights)


def test_functional_names_the_wrong_weight():
    flat = [torch.zeros(20, 3), torch.zeros(20, 5), torch.zeros(20), torch.zeros(19)]
    with pytest.raises(RuntimeError, match=r"weight 3 has shape \(19,\), expected \(20,\)"):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, flat)
    with pytest.raises(RuntimeError, match=r"weight 1 must have the dtype of input, torch.float32, got torch.float64"):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, [flat[0], flat[1].double()])
    with pytest.raises(ValueError, match="save must be"):
        seqcuda.functional.lstm(torch.zeros(2, 1, 3), None, flat[:2], save="some")


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_tensors_of_another_device_are_named(kind):
    """A device without memory stands for any other."""
    module = getattr(seqcuda, kind)(3, 5)
    x = torch.zeros((4, 2, 3) if kind in LAYERS else (2, 3))
    h = torch.zeros((1, 2, 5) if kind in LAYERS else (2, 5))
    hx, name = ((h, h.to("meta")), r"hx\[1\]") if "LSTM" in kind else (h.to("meta"), "hx")
    with pytest.raises(RuntimeError, match=f"{kind}: {name} must be on the device of input, cpu, got meta"):
        module(x, hx)
    with pytest.raises(RuntimeError, match=f"{kind}: weight.* must be on the device of input, meta, got cpu"):
        module(x.to("meta"))
    module(x)
