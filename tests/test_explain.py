"""seqcuda.explain says what runs, which is what would run."""

from __future__ import annotations

import pytest
import torch
from marks import needs_extension

import seqcuda
from seqcuda import _backend
from seqcuda._backend import compiled


@needs_extension
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_stack(kind):
    module = getattr(seqcuda, kind)(3, 5, num_layers=2, bidirectional=True)
    plans = list(seqcuda.explain(module, torch.zeros(30, 4, 3)))
    assert [plan.layer for plan in plans] == [0, 1]
    for plan in plans:
        assert plan.engine in seqcuda.engines()
        assert set(plan.not_chosen) == {*seqcuda.engines(), "reference"} - {plan.engine}
        assert plan.details["instruction_set"] == compiled.instruction_set()


@needs_extension
@pytest.mark.parametrize(
    ("hidden", "steps", "batch", "dtype", "engine"),
    [
        (32, 1, 100, torch.float32, "stepwise"),
        (32, 3, 1, torch.float32, "stepwise"),
        (32, 2, 2, torch.float32, "panel"),
        (256, 24, 1, torch.float32, "stepwise"),
        (256, 25, 1, torch.float32, "panel"),
        (256, 25, 1, torch.float64, "panel"),
        (512, 8, 8, torch.float32, "stepwise"),
        (512, 9, 8, torch.float32, "panel"),
        (512, 8, 8, torch.bfloat16, "panel"),  # the weights are copied, whoever computes
    ],
    ids=str,
)
def test_the_fewer_the_rows_and_the_larger_the_weights_the_less_it_pays_to_pack_them(
    hidden, steps, batch, dtype, engine
):
    layer = seqcuda.LSTM(hidden, hidden, dtype=dtype)
    (plan,) = seqcuda.explain(layer, torch.zeros(steps, batch, hidden, dtype=dtype))
    assert plan.engine == engine


@needs_extension
@pytest.mark.parametrize("name", seqcuda.engines())
def test_a_backend_by_name(name):
    with seqcuda.backend(name):
        (plan,) = seqcuda.explain(seqcuda.GRUCell(3, 5), torch.zeros(2, 3))
    assert (plan.engine, plan.why) == (name, "asked for by name")


def test_the_reference():
    with seqcuda.backend("reference"):
        explanation = seqcuda.explain(seqcuda.LSTM(3, 5), torch.zeros(2, 3))
    (plan,) = explanation
    assert plan.engine == "reference"
    assert set(plan.not_chosen) == set(seqcuda.engines())
    assert "LSTM(3, 5) on cpu, torch.float32\n  layer 0: reference (asked for by name)" in str(explanation)


@needs_extension
def test_a_device_without_engines_is_said_once(monkeypatch):
    monkeypatch.setattr(_backend, "_ENGINES", {"other": ()})
    _backend._warn_of_device.cache_clear()
    layer, x = seqcuda.LSTM(3, 5), torch.zeros(4, 2, 3)
    with pytest.warns(
        RuntimeWarning, match="pure PyTorch: no compiled engine for device cpu .compiled: other."
    ) as said:
        for _ in range(2):
            layer(x, lengths=[4, 2])
    assert len(said) == 1


@needs_extension
def test_what_no_engine_takes():
    (plan,) = seqcuda.explain(seqcuda.LSTM(3, 5).to(torch.complex64), torch.zeros(2, 3, dtype=torch.complex64))
    assert plan.engine == "reference"
    assert "no compiled engine for torch.complex64" in plan.why


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_autocast(kind):
    module, x = getattr(seqcuda, kind)(3, 5), torch.zeros(2, 3)
    with torch.autocast("cpu"):
        assert "on cpu, torch.bfloat16" in str(seqcuda.explain(module, x))
        result = module(x)
    while not isinstance(result, torch.Tensor):
        result = result[0]
    assert result.dtype == torch.bfloat16


def test_wrong_arguments():
    with pytest.raises(TypeError, match="explain takes a layer or cell of seqcuda, got LSTM"):
        seqcuda.explain(torch.nn.LSTM(3, 5), torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="Expected 3, got 4"):
        seqcuda.explain(seqcuda.LSTM(3, 5), torch.zeros(2, 4))


@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
@pytest.mark.parametrize("wrong", [None, torch.zeros(2, 4), torch.zeros(2, 3).long(), torch.zeros(2, 3).double()])
def test_what_the_module_refuses(kind, wrong):
    module = getattr(seqcuda, kind)(3, 5)
    with pytest.raises(Exception) as refused:
        module(wrong)
    with pytest.raises(refused.type) as error:
        seqcuda.explain(module, wrong)
    assert str(error.value) == str(refused.value)
