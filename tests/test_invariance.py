"""Engine "panel": the bits of a row depend on that row alone."""

from __future__ import annotations

import pytest
import torch
from marks import needs_extension

import seqcuda

pytestmark = needs_extension

SIZES = [(7, 9, 5, 17), (33, 5, 64, 48), (12, 20, 300, 130), (9, 3, 1, 8)]  # T, B, I, H
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(autouse=True)
def panel():
    with seqcuda.backend("panel"), torch.no_grad():
        yield


@pytest.fixture(params=["RNN", "LSTM", "GRU", "LSTM layer_norm"])
def kind(request):
    return request.param


def layer_and_input(kind, size, dtype, **options):
    T, B, I, H = size
    torch.manual_seed(0)
    name, *variant = kind.split()
    layer = getattr(seqcuda, name)(I, H, **options, **dict.fromkeys(variant, True)).to(dtype)
    return layer, torch.randn(T, B, I).to(dtype)


def tensors(final):
    return final if isinstance(final, tuple) else (final,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_batch(kind, size, dtype):
    layer, x = layer_and_input(kind, size, dtype, num_layers=2, bidirectional=True)
    y, final = layer(x)
    rows = torch.randperm(size[1])
    for some in (rows, rows[:1], rows[:2]):
        y_some, final_some = layer(x[:, some])
        assert torch.equal(y_some, y[:, some])
        assert all(torch.equal(a, b[:, some]) for a, b in zip(tensors(final_some), tensors(final), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_padding_and_packing(kind, size, dtype):
    layer, x = layer_and_input(kind, size, dtype, bidirectional=True)
    lengths = torch.randint(1, size[0] + 1, (size[1],))
    y, final = layer(x, lengths=lengths)
    longer = torch.cat([x, torch.randn(40, *x.shape[1:]).to(dtype)])
    y_longer, final_longer = layer(longer, lengths=lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y_packed, final_packed = layer(packed)
    y_packed = torch.nn.utils.rnn.pad_packed_sequence(y_packed, total_length=size[0])[0]
    assert torch.equal(y_longer[: size[0]], y)
    assert torch.equal(y_packed, y)
    for other in (final_longer, final_packed):
        assert all(map(torch.equal, tensors(other), tensors(final)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_chunks_of_time(kind, size, dtype):
    """A stream gives what the batch run gives. (In half types the c of an LSTM is rounded between calls.)"""
    if kind.startswith("LSTM") and dtype == torch.bfloat16:
        dtype = torch.float32
    layer, x = layer_and_input(kind, size, dtype, num_layers=2)
    y, final = layer(x)
    hx, parts = None, []
    for first, last in ((0, 1), (1, 4), (4, size[0])):
        part, hx = layer(x[first:last], hx)
        parts.append(part)
    assert torch.equal(torch.cat(parts), y)
    assert all(map(torch.equal, tensors(hx), tensors(final)))
    hx = None
    for t in range(size[0]):
        y_t, hx = layer.step(x[t], hx)
        assert torch.equal(y_t, y[t])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2, 3, 17, 32, 33])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_single_steps(instruction_set, kind, batch, dtype):
    """They read the weights as they lie, up to 32 rows; more than one part of a long sum, blocks cut short."""
    for I, H in ((1100, 37), (33, 150), (1, 1)):
        layer, x = layer_and_input(kind, (3, batch, I, H), dtype, num_layers=2)
        y, final = layer(x)
        stream = layer.stream(batch)
        assert torch.equal(torch.stack([stream(x_t) for x_t in x]), y)
        assert all(map(torch.equal, tensors(stream.state), tensors(final)))
        cell = getattr(seqcuda, f"{kind}Cell")(I, H, dtype=dtype)
        cell.load_state_dict({name.removesuffix("_l0"): w for name, w in layer.state_dict().items() if "_l0" in name})
        hx = None
        first = getattr(seqcuda, kind)(I, H, dtype=dtype)
        first.load_state_dict({name: w for name, w in layer.state_dict().items() if "_l0" in name})
        for x_t, y_t in zip(x, first(x)[0], strict=True):
            hx = cell(x_t, hx)
            assert torch.equal(tensors(hx)[0], y_t)


@pytest.mark.parametrize("size", SIZES)
def test_threads(kind, size):
    layer, x = layer_and_input(kind, size, torch.float32, bidirectional=True)
    y, _ = layer(x)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(layer(x)[0], y)
    finally:
        torch.set_num_threads(before)


def test_gradient_of_the_input(kind):
    layer, x = layer_and_input(kind, (12, 20, 30, 33), torch.float32, bidirectional=True)

    def gradient(x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return torch.autograd.grad(layer(x)[0].pow(2).sum(), x)[0]

    whole = gradient(x)
    assert torch.equal(gradient(x[:, 3:5]), whole[:, 3:5])
