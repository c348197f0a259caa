"""A call by the shortest way: what takes it, what does not, and that it gives what the reference gives."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from marks import needs_extension

import seqcuda
import seqcuda.testing
from seqcuda import _backend

pytestmark = needs_extension

MODULES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
CELL_OF = {"RNN": "rnn_tanh", "LSTM": "lstm", "GRU": "gru"}


def flat(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in flat(part)]


# Of the calls that follow: one step of a cell or of a stack, and stacks over more steps, in one direction and in both.
ONE_STEP = [dict(layers=1), dict(layers=3), dict(layers=2, batch_first=True)]
STEPS = [dict(steps=4), dict(steps=3, layers=2, bidirectional=True, batch_first=True), dict(bidirectional=True)]


def forms(kind) -> list[dict]:
    return [{}] if kind.endswith("Cell") else [*ONE_STEP, *STEPS]


def call(
    kind, batch=3, layers=1, batch_first=False, bias=True, initial=True, steps=1, bidirectional=False, save="all"
):  # fmt: skip
    """A module in double, its input and the tensors of its hx; batch None: unbatched."""
    torch.manual_seed(0)
    rows = () if batch is None else (batch,)
    if kind.endswith("Cell"):
        module, leading, states = getattr(seqcuda, kind)(4, 5, bias=bias), rows, rows
    else:
        options = dict(bias=bias, batch_first=batch_first, bidirectional=bidirectional, save=save)
        module = getattr(seqcuda, kind)(4, 5, layers, **options)
        leading = (*rows, steps) if batch_first and rows else (steps, *rows)
        states = (layers * (2 if bidirectional else 1), *rows)
    count = (2 if "LSTM" in kind else 1) if initial else 0
    x, *hx = (torch.randn(*shape, dtype=torch.float64) for shape in ((*leading, 4), *[(*states, 5)] * count))
    return module.double(), x, hx


def as_hx(tensors):
    return None if not tensors else tuple(tensors) if len(tensors) == 2 else tensors[0]


def quick(module, x, hx, weights=None):
    """The quick way alone: None where it is not taken."""
    kind = type(module).__name__
    weights = list(module.parameters()) if weights is None else weights
    name = CELL_OF[kind.removesuffix("Cell")]
    if kind.endswith("Cell"):
        return _backend.quick_call(name, x, as_hx(hx), weights)
    directions = 2 if module.bidirectional else 1
    return _backend.quick_call(
        name, x, as_hx(hx), weights, module.num_layers, directions, module.batch_first, module.save
    )


def results(module, x, hx, backend, dtype=torch.float64):
    """Outputs and the gradients of everything."""
    module = deepcopy(module).to(dtype)
    x, *hx = (t.to(dtype, copy=True).requires_grad_() for t in (x, *hx))
    with seqcuda.backend(backend):
        outputs = flat(module(x, as_hx(hx)))
    loss = sum((t * torch.linspace(-1, 1, t.numel(), dtype=dtype).view(t.shape)).sum() for t in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *hx, *module.parameters()])]


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [None, 1, 3, 9])
@pytest.mark.parametrize("kind", MODULES)
def test_gives_what_the_reference_gives(kind, batch, bias, initial):
    for form in forms(kind):
        given = call(kind, batch, bias=bias, initial=initial, **form)
        assert quick(*given) is not None
        exact = results(*given, "reference")
        for dtype in (torch.float64, torch.float32):
            for ours, wanted in zip(results(*given, "auto", dtype), exact, strict=True):
                seqcuda.testing.assert_close_to_exact(ours, wanted)


@pytest.mark.parametrize("kind", MODULES)
def test_derivatives_of_both_orders(kind):
    more_steps = [] if kind.endswith("Cell") else [dict(steps=2, bidirectional=True)]
    for form in ({}, dict(initial=False), *more_steps):
        module, x, hx = call(kind, batch=1 if more_steps else 2, **form)
        states = len(hx)

        def function(x, *rest, module=module, states=states):
            result = quick(module, x, rest[:states], list(rest[states:]))
            assert result is not None
            return tuple(flat(result))

        inputs = [t.detach().requires_grad_() for t in (x, *hx, *module.parameters())]
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode="steps" in form)


@pytest.mark.parametrize("kind", MODULES)
def test_third_derivatives(kind):
    """Above the second the reference goes on, from a graph that C++ has made."""
    module, x, hx = call(kind, batch=2, **({} if kind.endswith("Cell") else {"steps": 2}))
    inputs = [t.requires_grad_() for t in (x, *hx, *module.parameters())]
    orders = {}
    for backend in ("auto", "reference"):
        with seqcuda.backend(backend):
            value = sum(t.square().sum() for t in flat(module(x, as_hx(hx))))
            for _ in range(3):
                grads = torch.autograd.grad(value, inputs, create_graph=True)
                value = sum(g.square().sum() for g in grads)
        orders[backend] = grads
    for ours, exact in zip(*orders.values(), strict=True):
        seqcuda.testing.assert_close_to_exact(ours, exact)


@pytest.mark.parametrize("kind", MODULES)
def test_every_single_gradient(kind):
    """A gradient does not depend on which others are asked for, nor on an earlier backward."""
    for form in forms(kind):
        module, x, hx = call(kind, **form)
        inputs = [x, *hx, *module.parameters()]
        for t in inputs:
            t.requires_grad_()
        loss = sum(t.sum() for t in flat(module(x, as_hx(hx))))
        expected = torch.autograd.grad(loss, inputs, retain_graph=True)
        assert all(map(torch.equal, torch.autograd.grad(loss, inputs), expected))
        for wanted, gradient in zip(inputs, expected, strict=True):
            for t in inputs:
                t.requires_grad_(t is wanted)
            loss = sum(t.sum() for t in flat(module(x, as_hx(hx))))
            assert torch.equal(torch.autograd.grad(loss, wanted)[0], gradient)


@pytest.mark.parametrize("kind", MODULES)
def test_every_output_alone(kind):
    for form in forms(kind):
        module, x, hx = call(kind, **form)
        count = len(flat(module(x, as_hx(hx))))
        for i in range(count):
            gradients = []
            for backend in ("auto", "reference"):
                with seqcuda.backend(backend):
                    output = flat(module(x, as_hx(hx)))[i]
                given = torch.autograd.grad(output.sum(), list(module.parameters()), allow_unused=True)
                gradients.append([g if g is not None else torch.zeros(()) for g in given])
            for ours, theirs in zip(*gradients, strict=True):
                seqcuda.testing.assert_close_to_exact(ours, theirs.expand(ours.shape))


@pytest.mark.parametrize("kind", MODULES)
def test_results_are_the_callers(kind):
    """They may be changed before the backward, and share no memory."""
    module, x, hx = call(kind)
    expected = torch.autograd.grad(sum(t.sum() for t in flat(module(x, as_hx(hx)))), list(module.parameters()))
    outputs = flat(module(x, as_hx(hx)))
    assert len({t.data_ptr() for t in (*outputs, *hx)}) == len(outputs) + len(hx)
    with torch.no_grad():
        for t in outputs:
            t.detach().zero_()
    loss = sum(t.sum() for t in outputs)
    assert all(map(torch.equal, torch.autograd.grad(loss, list(module.parameters())), expected))


@pytest.mark.parametrize("kind", MODULES)
def test_what_goes_the_general_way(kind):
    module, x, hx = call(kind)
    weights = list(module.parameters())
    assert quick(module, x, hx) is not None
    for key, taken in (("Negative", True), ("CPU", False)):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C._dispatch_key_parse(key))):
            assert (quick(module, x, hx) is not None) == taken

    class Subclass(torch.Tensor):
        pass

    assert quick(module, x.as_subclass(Subclass), hx) is None
    assert quick(module, x.float(), hx) is None
    assert quick(module, x[..., :3], hx) is None
    assert quick(module, x.repeat(*[2] * x.dim()), hx) is None
    assert quick(module, x, [t[..., :4] for t in hx]) is None
    assert quick(module, x, [t.unsqueeze(0) for t in hx]) is None
    assert quick(module, x, [*hx, hx[0]]) is None
    assert quick(module, x, hx, weights[:-1]) is None
    assert quick(module, x, hx, [w.t() if w.dim() == 2 else w for w in weights]) is None
    assert quick(module, x.numpy(), hx) is None
    assert quick(module, x.to("meta"), hx) is None
    for name in ("reference", *seqcuda.engines()):
        with seqcuda.backend(name):
            assert quick(module, x, hx) is None
    with torch.autocast("cpu"):
        assert quick(module, x, hx) is None
    with torch.autograd.forward_ad.dual_level():
        assert quick(module, torch.autograd.forward_ad.make_dual(x, x), hx) is None
    seen = []
    torch.func.vmap(lambda x: seen.append(quick(module, x, hx)) or x)(torch.stack([x, x]))
    torch.func.grad(lambda x: seen.append(quick(module, x, hx)) or x.sum())(x)
    assert seen == [None, None]
    with torch._subclasses.FakeTensorMode():
        assert quick(module, torch.empty(x.shape), hx) is None


@pytest.mark.parametrize("kind", MODULES)
def test_strides_and_half_types(kind):
    for form in forms(kind):
        module, x, hx = call(kind, **form)
        expected = flat(quick(module, x, hx))
        wide = torch.randn(*x.shape[:-1], 8, dtype=x.dtype)
        wide[..., :4] = x
        for ours, theirs in zip(flat(quick(module, wide[..., :4], hx)), expected, strict=True):
            seqcuda.testing.assert_close_to_exact(ours, theirs)
        strided = torch.empty(4, *x.shape[:-1], dtype=x.dtype).movedim(0, -1).copy_(x)
        hx_strided = [torch.empty(5, *t.shape[:-1], dtype=t.dtype).movedim(0, -1).copy_(t) for t in hx]
        for ours, theirs in zip(flat(quick(module, strided, hx_strided)), expected, strict=True):
            seqcuda.testing.assert_close_to_exact(ours, theirs)
        for half in (torch.bfloat16, torch.float16):
            halves = deepcopy(module).to(half), x.to(half), [t.to(half) for t in hx]
            ours = flat(quick(*halves))
            with seqcuda.backend("reference"):
                theirs = flat(halves[0](halves[1], as_hx(halves[2])))
            for a, b in zip(ours, theirs, strict=True):
                assert a.dtype == half
                seqcuda.testing.assert_close_to_exact(a, b.double())


@pytest.mark.parametrize("half", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("batch", [1, 3, 9, 20])  # own products up to 8 and 16 rows
@pytest.mark.parametrize("kind", ("RNNCell", "LSTMCell", "GRUCell"))
def test_half_types_train(kind, batch, half, instruction_set):
    torch.manual_seed(0)
    module = getattr(seqcuda, kind)(21, 19, dtype=half).double()
    x, *hx = (torch.randn(batch, n, dtype=half).double() for n in (21, 19, 19)[: 3 if kind == "LSTMCell" else 2])
    assert quick(deepcopy(module).to(half), x.to(half), [t.to(half) for t in hx]) is not None
    ours, exact = results(module, x, hx, "auto", half), results(module, x, hx, "reference")
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == half
        seqcuda.testing.assert_close_to_exact(a, b)


@pytest.mark.parametrize("kind", MODULES)
def test_second_derivatives_of_half_types(kind):
    module, x, hx = call(kind)
    module, inputs = module.bfloat16(), [t.bfloat16().requires_grad_() for t in (x, *hx)]
    orders = []
    for backend in ("auto", "reference"):
        with seqcuda.backend(backend):
            loss = sum(t.float().square().sum() for t in flat(module(inputs[0], as_hx(inputs[1:]))))
        grads = torch.autograd.grad(loss, inputs, create_graph=True)
        orders.append(torch.autograd.grad(sum(g.float().square().sum() for g in grads), inputs))
    for ours, theirs in zip(*orders, strict=True):
        seqcuda.testing.assert_close_to_exact(ours, theirs.double())


@pytest.mark.parametrize("half", (torch.bfloat16, torch.float16))
def test_gradients_of_half_weights_are_rounded_as_torch_rounds(half, instruction_set):
    """Numbers below the normal ones, too large ones, and NaN: an LSTM's gates do not depend on the rounding of h."""
    torch.manual_seed(0)
    module = seqcuda.LSTMCell(40, 8, dtype=half)
    torch.nn.init.uniform_(module.weight_ih, -1e-3, 1e-3)
    x = torch.randn(1, 40, dtype=half) * torch.logspace(-7, 2, 40).to(half)
    hx = torch.randn(2, 1, 8, dtype=half).unbind()
    grad = torch.tensor([[1e-3, 1.0, 6e4, 6e4, 1e-6, -6e4, -6e4, torch.nan]]).to(half)
    results = []
    for each, dtype in ((module, half), (deepcopy(module).float(), torch.float32)):
        h, _ = each(x.to(dtype), tuple(t.to(dtype) for t in hx))
        results.append(torch.autograd.grad(h, [each.weight_ih, each.weight_hh], grad.to(dtype)))
    expected = [single.to(half) for single in results[1]]
    numbers = torch.cat([t.flatten() for t in expected])
    assert numbers.isnan().any()
    assert half == torch.bfloat16 or (numbers.isinf().any() and (numbers.abs() < 2**-14).any())
    for ours, rounded in zip(results[0], expected, strict=True):
        torch.testing.assert_close(ours, rounded, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", MODULES)
def test_training_needs_no_python(kind, monkeypatch):
    """Not for the gradients of a plain layer: what the slow ways of csrc/ops/gradient_function.cpp are."""
    module, x, hx = call(kind)
    monkeypatch.delattr(seqcuda.autograd, "plain_gradients")
    flat(module(x, as_hx(hx)))[0].sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("kind", ("RNN", "LSTM", "GRU"))
def test_lean_training_gives_the_same(kind):
    gradients = []
    for save in ("all", "states"):
        module, x, hx = call(kind, steps=5, layers=2, save=save)
        outputs = flat(quick(module, x, hx))
        gradients.append(torch.autograd.grad(sum(t.sum() for t in outputs), list(module.parameters())))
    for a, b in zip(*gradients, strict=True):
        seqcuda.testing.assert_close_to_exact(a, b)


def test_inactive_dropout_does_not_stand_in_the_way(monkeypatch):
    module = seqcuda.GRU(4, 5, 2, dropout=0.5)
    calls = []
    real = _backend.quick_call
    monkeypatch.setattr(_backend, "quick_call", lambda *a: calls.append(a) or real(*a))
    module(torch.zeros(3, 2, 4))
    assert not calls
    module.eval()(torch.zeros(3, 2, 4))
    assert calls


def test_inference_mode():
    module, x, hx = call("LSTMCell")
    with torch.inference_mode():
        assert all(t.is_inference() for t in quick(module, x, hx))


def test_saved_tensors_are_checked():
    """What torch.autograd promises: a tensor that the backward needs and that was changed is an error."""
    module, x, hx = call("GRUCell")
    h = module(x, hx[0])
    with torch.no_grad():
        module.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()
