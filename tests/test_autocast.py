"""Autocast is the same for all six classes: everything is cast to its dtype, and nothing is an error."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, LAYERS, flat
from torch.nn.utils.rnn import pack_sequence

import seqcuda
from seqcuda.testing import assert_within_rule

ALL = pytest.mark.parametrize("kind", LAYERS + CELLS)
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def make(kind, namespace=seqcuda):
    torch.manual_seed(0)
    return getattr(namespace, kind)(3, 4, **({"num_layers": 2, "bidirectional": True} if kind in LAYERS else {}))


def inputs(kind, dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn((2, 3) if kind in CELLS else (5, 2, 3), dtype=dtype)
    states = [torch.randn((2, 4) if kind in CELLS else (4, 2, 4), dtype=dtype) for _ in range(2)]
    return x, (tuple(states) if "LSTM" in kind else states[0])


def cast(value, dtype):
    return tuple(v.to(dtype) for v in value) if isinstance(value, tuple) else value.to(dtype)


@ALL
@DTYPES
def test_is_the_cast_module(backend_name, kind, dtype):
    """Outputs have the dtype of autocast and are those of a module and inputs that were cast by hand."""
    module, (x, hx) = make(kind), inputs(kind)
    with torch.autocast("cpu", dtype):
        result = flat(module(x, hx))
    by_hand = flat(make(kind).to(dtype)(x.to(dtype), cast(hx, dtype)))
    assert all(t.dtype == dtype for t in result.values())
    assert all(torch.equal(t, by_hand[name]) for name, t in result.items())


@ALL
@DTYPES
def test_within_the_rule(backend_name, kind, dtype):
    """Against torch.nn with everything cast by hand, as its own autocast fails for some of these."""
    x, hx = inputs(kind)
    rounded = make(kind, torch.nn).to(dtype)
    rival = flat(rounded(x.to(dtype), cast(hx, dtype)))
    exact = flat(rounded.double()(x.to(dtype).double(), cast(cast(hx, dtype), torch.float64)))
    with torch.autocast("cpu", dtype):
        result = flat(make(kind)(x, hx))
    for name in exact:
        assert_within_rule(result[name], rival[name], exact[name], name=name)


@ALL
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("hx_dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_mixed_dtypes_are_no_error(backend_name, kind, x_dtype, hx_dtype):
    module, (x, hx) = make(kind), inputs(kind)
    hx = None if hx_dtype is None else cast(hx, hx_dtype)
    with torch.autocast("cpu", torch.bfloat16):
        result = flat(module(x.to(x_dtype), hx))
    assert all(t.dtype == torch.bfloat16 for t in result.values())


@ALL
def test_gradients_have_the_dtype_of_the_parameters(backend_name, kind):
    module, (x, hx) = make(kind), inputs(kind)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(t.float().sum() for t in flat(module(x, hx)).values())
    loss.backward()
    assert x.grad.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in module.parameters())


@ALL
def test_float64_stays(backend_name, kind):
    """As autocast leaves all float64 operations as they are."""
    module, (x, hx) = make(kind).double(), inputs(kind, torch.float64)
    expected = flat(module(x, hx))
    with torch.autocast("cpu", torch.bfloat16):
        result = flat(module(x, hx))
    assert all(torch.equal(t, expected[name]) for name, t in result.items())


@ALL
def test_disabled_inside(backend_name, kind):
    module, (x, hx) = make(kind), inputs(kind)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        result = flat(module(x, hx))
    expected = flat(module(x, hx))
    assert all(torch.equal(t, expected[name]) for name, t in result.items())


@ALL
def test_integers_are_an_error(kind):
    module, (x, _) = make(kind), inputs(kind)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=r"input dtype \(torch.int64\)"):
        module(x.long())


@pytest.mark.parametrize("kind", LAYERS)
def test_with_the_additions(backend_name, kind):
    module, (x, hx) = make(kind), inputs(kind)
    resets = torch.rand(5, 2) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        y, _, states = module(x, hx, lengths=[5, 2], resets=resets, reset_state=hx, return_states="gates")
        packed, _ = module(pack_sequence([x[:, 0], x[:2, 1]]), hx)
    assert {t.dtype for t in (y, packed.data, *(s for s in states[:3] if s is not None))} == {torch.bfloat16}
