"""seqcuda.convert: the layers of a model swapped in place, and back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import CELLS, LAYERS, flat
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_sequence

import seqcuda
from seqcuda.testing import assert_close_to_exact

ALL = pytest.mark.parametrize("kind", LAYERS + CELLS)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.layers = torch.nn.ModuleList([torch.nn.LSTM(4, 6, 2, dropout=0.3), torch.nn.GRU(6, 5, bidirectional=True)])
        self.again = self.layers[0]
        self.cell = torch.nn.ModuleDict({"rnn": torch.nn.RNNCell(10, 3, nonlinearity="relu")})
        self.head = torch.nn.Linear(3, 7)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)[0]
        return self.head(self.cell["rnn"](x[-1]))


def model():
    torch.manual_seed(0)
    return Model().double()


TOKENS = torch.arange(12).reshape(4, 3) % 7


def test_a_model_and_back():
    original, converted, report = model(), model(), []
    parameters = dict(converted.named_parameters())
    assert seqcuda.convert(converted, report=report) is converted
    assert [(e.name, type(e.layer), e.swapped) for e in report] == [
        ("layers.0", seqcuda.LSTM, True), ("layers.1", seqcuda.GRU, True), ("cell.rnn", seqcuda.RNNCell, True),
    ]  # fmt: skip
    assert str(report[0]) == "layers.0: LSTM, swapped"
    assert converted.again is converted.layers[0]
    assert all(parameters[n] is p for n, p in converted.named_parameters())
    assert repr(converted) == repr(original) and converted.state_dict().keys() == original.state_dict().keys()
    torch.manual_seed(1)
    expected = original(TOKENS)
    torch.manual_seed(1)
    assert_close_to_exact(converted(TOKENS), expected)

    back = []
    seqcuda.convert(converted, to="torch", report=back)
    assert [(e.name, type(e.layer)) for e in back] == [
        ("layers.0", torch.nn.LSTM), ("layers.1", torch.nn.GRU), ("cell.rnn", torch.nn.RNNCell),
    ]  # fmt: skip
    torch.manual_seed(1)
    assert torch.equal(converted(TOKENS), expected)
    assert all(parameters[n] is p for n, p in converted.named_parameters())
    copy.deepcopy(converted.float())(TOKENS)


def test_an_optimizer_made_before_goes_on():
    losses = []
    for convert in (False, True):
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if convert:
            seqcuda.convert(net)
        torch.manual_seed(2)
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(TOKENS), TOKENS[0])
            loss.backward()
            optimizer.step()
        losses.append(loss)
    assert_close_to_exact(losses[1], losses[0])


@ALL
def test_a_layer_itself(kind):
    torch.manual_seed(0)
    layer, x = getattr(torch.nn, kind)(3, 4).eval(), torch.randn(5, 3)
    layer.extra, layer.weight = "kept", 3
    layer.register_buffer("scale", torch.ones(1))
    seen = []
    layer.register_forward_hook(lambda m, args, out: seen.append(type(m)))
    expected = flat(layer(x))
    assert seqcuda.convert(layer) is layer and type(layer) is getattr(seqcuda, kind)
    assert not layer.training and layer.extra == "kept" and "scale" in layer.state_dict()
    actual = flat(layer(x))
    for name in expected:
        assert_close_to_exact(actual[name], expected[name].double())
    assert seen == [getattr(torch.nn, kind), getattr(seqcuda, kind)]
    assert seqcuda.convert(layer, to="torch") is layer and type(layer) is getattr(torch.nn, kind)
    assert all(torch.equal(t, expected[name]) for name, t in flat(layer(x)).items())


@ALL
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_of_a_converted_layer(kind, copied):
    torch.manual_seed(0)
    layer, x = getattr(torch.nn, kind)(3, 4), torch.randn(5, 3)
    for to in ("seqcuda", "torch"):
        other = copied(seqcuda.convert(layer, to=to))
        assert type(other) is type(layer)
        assert all(map(torch.equal, flat(other(x)).values(), flat(layer(x)).values()))


@ALL
def test_nothing_to_do(kind):
    report = []
    seqcuda.convert(getattr(seqcuda, kind)(3, 4), report=report)
    seqcuda.convert(getattr(torch.nn, kind)(3, 4), to="torch", report=report)
    seqcuda.convert(torch.nn.Linear(3, 4), report=report)
    assert report == []


@ALL
def test_parametrized_and_pruned(kind):
    suffix = "" if kind in CELLS else "_l0"
    torch.manual_seed(0)
    layer, x = getattr(torch.nn, kind)(3, 4).double(), torch.randn(5, 3).double()
    parametrizations.weight_norm(layer, "weight_hh" + suffix)
    prune.random_unstructured(layer, "weight_ih" + suffix, amount=0.5)
    expected, parameters = flat(layer(x)), dict(layer.named_parameters())
    for to, namespace in (("seqcuda", seqcuda), ("torch", torch.nn), ("seqcuda", seqcuda)):
        seqcuda.convert(layer, to=to)
        assert isinstance(layer, getattr(namespace, kind)) and parametrize.is_parametrized(layer)
        assert isinstance(layer, getattr(seqcuda, kind)) == (to == "seqcuda")
        for name, t in flat(layer(x)).items():
            assert_close_to_exact(t, expected[name])
        assert all(parameters[n] is p for n, p in layer.named_parameters())
    parametrize.remove_parametrizations(layer, "weight_hh" + suffix)
    assert type(layer) is getattr(seqcuda, kind)


class Mine(torch.nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input * 2, hx)


def test_what_is_left():
    layers = {"mine": Mine(3, 4), "gru": seqcuda.GRU(3, 4, reset_after=False), "rnn": torch.nn.RNN(3, 4)}
    net = torch.nn.ModuleDict(layers)
    with pytest.warns(UserWarning, match=r"left 1 recurrent .*: mine: Mine, left: its class test_convert.Mine is not"):
        seqcuda.convert(net)
    assert type(net["mine"]) is Mine and type(net["rnn"]) is seqcuda.RNN
    report = []
    seqcuda.convert(net, to="torch", report=report)
    assert [(e.name, e.swapped, e.reason) for e in report] == [
        ("gru", False, "torch.nn has no GRU with reset_after=False"),
        ("rnn", True, ""),
    ]
    assert type(net["gru"]) is seqcuda.GRU and not net["gru"].reset_after
    assert str(report[0]) == "gru: GRU, left: torch.nn has no GRU with reset_after=False"
    with pytest.warns(UserWarning, match="torch.nn has no IndRNN"):
        seqcuda.convert(seqcuda.IndRNN(3, 4), to="torch")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_layer_is_left():
    report = []
    seqcuda.convert(torch.nn.Sequential(torch.jit.script(torch.nn.GRU(3, 4))), report=report)
    assert [(e.name, e.reason) for e in report] == [("0", "it is compiled by torch.jit")]


def test_wrong_arguments_change_nothing():
    net = model()
    with pytest.raises(ValueError, match='to must be "seqcuda" or "torch", got \'cuda\''):
        seqcuda.convert(net, to="cuda")
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        seqcuda.convert([net])
    assert type(net.layers[0]) is torch.nn.LSTM


@pytest.mark.parametrize("kind", LAYERS)
def test_converted_layers_have_the_additions(kind):
    layer = seqcuda.convert(getattr(torch.nn, kind)(3, 4, 2, bidirectional=True).double())
    x = [torch.randn(n, 3).double() for n in (5, 2)]
    padded = torch.nn.utils.rnn.pad_sequence(x)
    y, _, states = layer(padded, lengths=[5, 2], return_states=True)
    assert states.h.shape == (5, 4, 2, 4)
    assert_close_to_exact(torch.nn.utils.rnn.pad_packed_sequence(layer(pack_sequence(x))[0])[0], y)
