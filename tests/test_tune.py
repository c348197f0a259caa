"""seqcuda.tune: what it chooses, what it leaves as it was. Times are given, none is asserted."""

from __future__ import annotations

import pytest
import torch
from marks import needs_extension
from torch.nn.utils.rnn import pack_sequence

import seqcuda
from seqcuda import _backend, testing, timing

pytestmark = needs_extension


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test has tuned is forgotten at its end."""
    remember, told = _backend.compiled.remember_engine, []

    class Compiled:
        def __getattr__(self, name):
            return getattr(compiled, name)

        def remember_engine(self, *layer_and_engine):
            told.append(layer_and_engine[:-1])
            return remember(*layer_and_engine)

    compiled = _backend.compiled
    monkeypatch.setattr(_backend, "compiled", Compiled())
    yield
    for layer in told:
        remember(*layer, "")


@pytest.fixture
def faster(monkeypatch):
    """`faster(name)`: timing finds that engine to be twice as fast as the others."""

    def set_faster(name: str) -> None:
        def in_turn(a, b, seconds, timed):
            assert timed(a, 1) > 0 and timed(b, 2) > 0
            return [1.0 + (b == name)] * 3, [1.0 + (a == name)] * 3

        monkeypatch.setattr(timing, "in_turn", in_turn)

    return set_faster


def engine(module, x) -> str:
    return next(iter(seqcuda.explain(module, x))).engine


def case(kind: str):
    torch.manual_seed(0)
    x = torch.randn(6, 5, 3)
    if kind == "cell":
        return seqcuda.LSTMCell(3, 4), x[0], {}
    if kind == "packed":
        return seqcuda.LSTM(3, 4), pack_sequence([x[:n, 0] for n in (6, 4, 1)]), {}
    if kind == "nested":
        parts = [x[:n, 0] for n in (2, 6, 3)]
        return seqcuda.GRU(3, 4, batch_first=True), torch.nested.nested_tensor(parts, layout=torch.jagged), {}
    if kind == "lengths, states, float64":
        return seqcuda.GRU(3, 4).double(), x.double(), {"lengths": [6, 0, 2, 5, 1], "return_states": True}
    if kind == "weight norm":
        layer = seqcuda.RNN(3, 4)
        torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
        return layer, x, {"hx": torch.randn(1, 5, 4)}
    if kind == "heads, bfloat16":
        return seqcuda.LSTM(3, 4, heads=2).bfloat16(), x.bfloat16(), {}
    return seqcuda.GRU(3, 4, 2, bidirectional=True, dropout=0.5, recurrent_dropout=0.2), x, {}


KINDS = ("stack", "cell", "packed", "nested", "lengths, states, float64", "weight norm", "heads, bfloat16")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fastest_runs_from_now_on(kind, training, faster):
    module, x, options = case(kind)
    module.train(training)
    before = engine(module, x)
    (other,) = set(seqcuda.engines()) - {before}
    faster(other)
    weights, state = [p.detach().clone() for p in module.parameters()], torch.get_rng_state()
    found = seqcuda.tune(module, x, **options)
    assert found.engine == other and module.training is training
    assert {c.engine: c.ratio for c in found.candidates} == {before: 1.0, other: 2.0}
    assert ("backward" in found.subject) is training
    assert {f"  {before}: ran before", f"  {other}: 2.00 times as fast"} == set(str(found).splitlines()[-2:])
    assert all(p.grad is None and torch.equal(p, w) for p, w in zip(module.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    for plan in seqcuda.explain(module, x):
        assert (plan.engine, plan.why) == (other, "the fastest that seqcuda.tune measured")
    faster(before)
    assert seqcuda.tune(module, x, **options).engine == before == engine(module, x)


def test_for_what_it_holds(faster):
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    faster("stepwise")
    assert engine(layer, x) == "panel"
    seqcuda.tune(layer, x)
    assert engine(seqcuda.GRU(7, 4), torch.randn(9, 5, 7)) == "stepwise"  # other steps and input features
    with seqcuda.backend("stepwise"):
        exact = layer(x)[0]
    assert torch.equal(layer(x)[0], exact)
    for other, given in (
        (layer, x[:, :4]), (seqcuda.GRU(3, 4).double(), x.double()), (seqcuda.LSTM(3, 4), x), (seqcuda.GRU(3, 5), x),
        (seqcuda.GRU(3, 4, bidirectional=True), x),
    ):  # fmt: skip
        assert engine(other, given) == "panel"


def test_an_engine_that_is_wrong_is_not_chosen(faster, monkeypatch):
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    faster("stepwise")
    monkeypatch.setattr(testing, "is_within_rule", lambda actual, rival, exact: False)
    found = seqcuda.tune(layer, x)
    assert found.engine == "panel" == engine(layer, x)
    assert "stepwise: computes something wrong here" in str(found)


def test_an_engine_that_refuses_is_not_chosen(faster, monkeypatch):
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    faster("stepwise")
    explain = seqcuda.tune.__globals__["explain"]

    def refusing(module, input):
        if seqcuda._backend.selected() == "stepwise":
            raise RuntimeError("engine stepwise cannot run this layer: on purpose\nand more")
        return explain(module, input)

    monkeypatch.setitem(seqcuda.tune.__globals__, "explain", refusing)
    found = seqcuda.tune(layer, x)
    assert found.engine == "panel"
    assert "  stepwise: engine stepwise cannot run this layer: on purpose" in str(found).splitlines()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_all_is_as_it_was(error, faster, monkeypatch):
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    faster("stepwise")
    seqcuda.tune(layer, x)

    def fails(*arguments):
        raise error

    monkeypatch.setattr(timing, "in_turn", fails)
    state = torch.get_rng_state()
    with pytest.raises(error):
        seqcuda.tune(layer, x)
    assert engine(layer, x) == "stepwise" and layer.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_timing_itself():
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    found = seqcuda.tune(layer, x, seconds=0.01)
    assert found.engine in seqcuda.engines()
    assert all(candidate.ratio > 0 for candidate in found.candidates)


def test_bad_input():
    layer, x = seqcuda.GRU(3, 4), torch.randn(6, 5, 3)
    with pytest.raises(TypeError, match="tune takes a layer or cell of seqcuda, got GRU; see seqcuda.convert"):
        seqcuda.tune(torch.nn.GRU(3, 4), x)
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        seqcuda.tune(layer, x, seconds=0)
    with pytest.raises(RuntimeError, match="input.size"):
        seqcuda.tune(layer, x[..., :2])
    with seqcuda.backend("panel"), pytest.raises(ValueError, match="the backend 'panel' is selected"):
        seqcuda.tune(layer, x)
    with pytest.raises(RuntimeError, match="no engine to choose: no compiled engine for torch.complex64"):
        seqcuda.tune(seqcuda.GRU(3, 4).to(torch.complex64), x.to(torch.complex64))
