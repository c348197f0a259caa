"""One step at a time: `step` and `stream` of the layers."""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS, flat
from torch.utils._pytree import tree_map

import seqcuda
from seqcuda.testing import assert_close_to_exact

KINDS = pytest.mark.parametrize("kind", LAYERS)
STACKS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 3, "batch_first": True}),
    ("LSTM", {"num_layers": 2, "proj_size": 2}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 2, "reset_after": False}),
]
EACH = pytest.mark.parametrize("kind, options", STACKS, ids=str)
BATCHES = pytest.mark.parametrize("batch", [None, 1, 3])
T, I, H = 6, 3, 5


def module_of(kind, dtype=torch.float32, **options):
    torch.manual_seed(0)
    return getattr(seqcuda, kind)(I, H, dtype=dtype, **options)


def steps_of(batch, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((T, I) if batch is None else (T, batch, I), generator=generator).to(dtype)


def state_of(module, batch):
    shapes = [(module.num_layers, batch, module.proj_size or H), (module.num_layers, batch, H)]
    shapes = [
        tuple(n for n in shape if n is not None) for shape in shapes[: 2 if isinstance(module, seqcuda.LSTM) else 1]
    ]
    h, *c = (torch.randn(shape, dtype=module.weight_ih_l0.dtype) for shape in shapes)
    return (h, *c) if c else h


def whole(module, x, hx):
    """The layer over the whole sequence, whatever its form."""
    turned = module.batch_first and x.dim() == 3
    y, hx = module(x.transpose(0, 1) if turned else x, hx)
    return y.transpose(0, 1) if turned else y, hx


def stepped(step, x, hx):
    ys = []
    for x_t in x:
        y, hx = step(x_t, hx)
        ys.append(y)
    return torch.stack(ys), hx


def same(a, b) -> bool:
    return all(map(torch.equal, flat(a).values(), flat(b).values()))


@EACH
@BATCHES
def test_steps_are_the_sequence(backend_name, kind, options, batch):
    module = module_of(kind, torch.float64, **options)
    x, hx = steps_of(batch, torch.float64), state_of(module, batch)
    expected, actual = whole(module, x, hx), stepped(module.step, x, hx)
    for name, value in flat(actual).items():
        assert_close_to_exact(value, flat(expected)[name], name=name)
    parameters = list(module.parameters())
    grads = [
        torch.autograd.grad(sum(t.square().sum() for t in flat(r).values()), parameters) for r in (actual, expected)
    ]
    for actual, expected in zip(*grads, strict=True):
        assert_close_to_exact(actual, expected)


# Not the reference: the bits of PyTorch's products depend on whether there are gradients.
@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend_name", [*seqcuda.engines(), "auto"], indirect=True)
def test_a_step_and_a_stream_have_the_bits_of_a_sequence_of_one(backend_name, kind, options, dtype):
    module = module_of(kind, dtype, **options).eval()
    x, hx = steps_of(3, dtype), None
    stream = module.stream(3)
    for x_t in x:
        y, new = module.step(x_t, hx)
        assert same((y[None], new), whole(module, x_t[None], hx))
        assert torch.equal(stream(x_t), y) and same(stream.state, new)
        hx = new


@KINDS
def test_resets(backend_name, kind):
    module, x = module_of(kind, torch.float64, num_layers=2), steps_of(2, torch.float64)
    resets = torch.rand(T, 2, generator=torch.Generator().manual_seed(2)) < 0.5
    reset_state = tree_map(lambda t: t[:, :1], state_of(module, 1))
    hx = start = state_of(module, 2)
    ys = []
    for x_t, r in zip(x, resets, strict=True):
        y, hx = module.step(x_t, hx, resets=r, reset_state=reset_state)
        ys.append(y)
    expected = module(x, start, resets=resets, reset_state=reset_state)
    for name, value in flat((torch.stack(ys), hx)).items():
        assert_close_to_exact(value, flat(expected)[name], name=name)


@KINDS
def test_the_state_of_a_stream(kind):
    """Taken over from a sequence, kept by whoever asked for it, and zeroed row by row."""
    module, x = module_of(kind, num_layers=2).eval(), steps_of(3)
    _, hx = module(x)
    stream = module.stream(3)
    assert not any(t.any() for t in flat(stream.state).values())
    stream.state = hx
    kept = stream.state
    assert same(kept, hx)
    stream(x[0])
    assert same(kept, hx) and not same(stream.state, hx)
    rows = torch.tensor([True, False, True])
    before = stream.state
    stream.reset(rows)
    assert same(stream.state, tree_map(lambda t: t * ~rows[:, None], before))
    stream.reset()
    assert torch.equal(stream(x[0]), module.step(x[0])[0])


@KINDS
def test_a_stream_is_for_inference(kind):
    """No gradients, no dropout, weights changed in place are seen."""
    module, x = module_of(kind, num_layers=2, dropout=0.5), steps_of(2)
    stream = module.stream(2)
    first = stream(x[0])
    assert not first.requires_grad and torch.equal(first, module.eval().step(x[0])[0])
    with torch.no_grad():
        module.weight_ih_l0.mul_(2)
    stream.reset()
    assert not torch.equal(stream(x[0]), first) and torch.equal(stream(x[1]), stepped(module.step, x[:2], None)[0][1])


@KINDS
def test_errors(kind):
    module, both = module_of(kind), module_of(kind, bidirectional=True)
    for call in (lambda: both.step(torch.zeros(2, I)), both.stream):
        with pytest.raises(
            ValueError, match=rf"^{kind}\.\w+: a bidirectional layer cannot be given one step at a time"
        ):
            call()
    with pytest.raises(ValueError, match="Expected input to be 1D or 2D, got 3D"):
        module.step(torch.zeros(1, 2, I))
    with pytest.raises(RuntimeError, match="got 4 expected 3"):
        module.step(torch.zeros(2, 4))
    with pytest.raises(RuntimeError, match=r"resets must have shape \(2,\), got \(3,\)"):
        module.step(torch.zeros(2, I), resets=torch.zeros(3, dtype=torch.bool))
    for size in (0, -1, 1.0, True, None):
        with pytest.raises(ValueError, match="batch_size must be a positive int, got"):
            module.stream(size)
    stream = module.stream(2)
    with pytest.raises(RuntimeError, match=r"input must have shape \(2, 3\), got \(1, 3\)"):
        stream(torch.zeros(1, I))
    with pytest.raises(ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype"):
        stream(torch.zeros(2, I).double())
    with pytest.raises(TypeError, match="input must be a Tensor, got list of 2"):
        stream([0.0, 0.0])
    with pytest.raises(RuntimeError, match=r"Expected hidden\S* size \(1, 2, 5\), got \[1, 3, 5\]"):
        stream.state = tree_map(lambda t: t.new_zeros(1, 3, 5), stream.state)
    for change in (torch.Tensor.double, lambda t: t.to("meta")):
        with pytest.raises(RuntimeError, match=r"state h must .* of the weights, .*, got"):
            stream.state = tree_map(change, stream.state)
    with pytest.raises(RuntimeError, match=r"rows must have shape \(2,\), got \(3,\)"):
        stream.reset(torch.zeros(3, dtype=torch.bool))
