"""The options that torch.nn does not have: initialisation, parameters and states, representation, errors."""

from __future__ import annotations

import pytest
import torch

import seqcuda


@pytest.mark.parametrize("make", [lambda **k: seqcuda.LSTM(3, 5, 2, bidirectional=True, **k), None])
def test_forget_bias_is_an_initialisation(make):
    make = make or (lambda **k: seqcuda.LSTMCell(3, 5, **k))
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    layer = make(forget_bias=1.5)
    for name, parameter in layer.named_parameters():
        expected = plain.get_parameter(name).detach().clone()
        if name.startswith("bias"):
            expected[5:10] = 1.5 if "ih" in name else 0
        assert torch.equal(parameter, expected), name
    assert "forget_bias=1.5" in repr(layer)
    assert "forget_bias" not in repr(plain)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    layer.reset_parameters()
    assert all(b[5:10].eq(1.5).all() for name, b in layer.named_parameters() if name.startswith("bias_ih"))


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_forget_bias_is_a_number_of_a_layer_with_biases(kind):
    with pytest.raises(TypeError, match=f"{kind}: forget_bias must be a number or None, got str"):
        getattr(seqcuda, kind)(3, 5, forget_bias="1")
    with pytest.raises(ValueError, match=f"{kind}: forget_bias=1 needs bias=True"):
        getattr(seqcuda, kind)(3, 5, bias=False, forget_bias=1)
