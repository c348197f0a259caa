"""Everything about the modules that is not the numbers: they are torch.nn's modules."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from cases import CELLS, LAYERS, flat, twin
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._pytree import tree_map

import seqcuda
from seqcuda._backend import compiled
from seqcuda.testing import assert_close_to_exact

ALL = pytest.mark.parametrize("kind", LAYERS + CELLS)
SEQUENCES = pytest.mark.parametrize("kind", LAYERS)


def pair(kind, **kwargs):
    """The module of seqcuda and of torch.nn, made under the same seed, in float64."""
    if kind in LAYERS:
        kwargs = {"num_layers": 2, "bidirectional": True} | kwargs
    modules = []
    for namespace in (seqcuda, torch.nn):
        torch.manual_seed(0)
        modules.append(getattr(namespace, kind)(3, 4, dtype=torch.float64, **kwargs))
    return modules


def sample(kind):
    """Input and hx."""
    generator = torch.Generator().manual_seed(1)
    shape, state = ((2, 3), (2, 4)) if kind in CELLS else ((5, 2, 3), (4, 2, 4))
    h, c = (torch.randn(state, generator=generator).double() for _ in range(2))
    return torch.randn(shape, generator=generator).double(), (h, c) if "LSTM" in kind else h


def same(a, b) -> bool:
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_close(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name in a:
        assert_close_to_exact(a[name], b[name], name=name)


@ALL
def test_class(kind):
    ours, theirs = pair(kind)
    assert isinstance(ours, type(theirs)) and issubclass(getattr(seqcuda, kind), getattr(torch.nn, kind))
    signature = inspect.signature(getattr(seqcuda, kind).forward).parameters
    assert list(signature)[:3] == ["self", "input", "hx"]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(signature.values())[3:])


@ALL
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_and_initialisation(kind, bias):
    ours, theirs = pair(kind, bias=bias)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert same(tuple(ours.parameters()), tuple(theirs.parameters()))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("kind", [*LAYERS, "SLSTM", "IndRNN"])
def test_signature(kind):
    """help() shows every argument of the constructor, and each can be given so."""
    cls = getattr(seqcuda, kind)
    parameters = inspect.signature(cls).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional[:3] == ["input_size", "hidden_size", "num_layers"] and {"save", "heads"} < set(parameters)
    assert ("proj_size" in positional) == (kind == "LSTM") and ("nonlinearity" in positional) == (kind == "RNN")
    defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    assert (
        repr(cls(3, 4, **defaults))
        == repr(cls(3, 4))
        == repr(cls(3, 4, *list(defaults.values())[: len(positional) - 2]))
    )

    class Mine(cls):
        def __init__(self, size):
            super().__init__(size, size)

    assert list(inspect.signature(Mine).parameters) == ["size"]
    assert inspect.signature(type("Same", (cls,), {})) == inspect.signature(cls)


def test_projection_and_nonlinearity():
    ours, theirs = pair("LSTM", proj_size=2, dropout=0.5, batch_first=True)
    assert repr(ours) == repr(theirs) and same(tuple(ours.parameters()), tuple(theirs.parameters()))
    assert repr(seqcuda.LSTM(10, 20, num_layers=2)) == "LSTM(10, 20, num_layers=2)"
    assert repr(seqcuda.RNNCell(3, 4, nonlinearity="relu")) == "RNNCell(3, 4, nonlinearity=relu)"
    assert seqcuda.RNN(3, 4, 2, "relu").nonlinearity == "relu"


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_reset_after_in_repr(kind):
    cls = getattr(seqcuda, kind)
    assert repr(cls(3, 4)) == f"{kind}(3, 4)" and repr(cls(3, 4, reset_after=True)) == f"{kind}(3, 4)"
    assert repr(cls(3, 4, reset_after=False)) == f"{kind}(3, 4, reset_after=False)"
    for copied in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        assert not copied(cls(3, 4, reset_after=False)).reset_after


@SEQUENCES
def test_save(kind):
    """The same gradients from less memory."""
    full, _ = pair(kind)
    ours = getattr(seqcuda, kind)(3, 4, 2, bidirectional=True, save="states", dtype=torch.float64)
    ours.load_state_dict(full.state_dict())
    assert repr(ours).endswith("save='states')") and pickle.loads(pickle.dumps(ours)).save == "states"
    kept, results = [], []
    for layer in (ours, full):
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=numbers: (n.append(t.numel()), t)[1], lambda t: t):
            y, _ = layer(*sample(kind))
        results.append(torch.autograd.grad(y.square().sum(), list(layer.parameters())))
        kept.append(sum(numbers))
    assert_close(*results)
    if kind != "RNN" and compiled is not None:
        assert kept[0] < kept[1]
    assert not hasattr(seqcuda.convert(ours, to="torch"), "save")
    with pytest.raises(ValueError, match="save must be .* got 'gates'"):
        getattr(seqcuda, kind)(3, 4, save="gates")


@pytest.mark.skipif(compiled is None, reason="too slow for the reference, which has no such limit")
@pytest.mark.parametrize("steps_and_rows", [(70_000, 1), (1, 70_000)])
def test_more_than_65535_steps_or_rows(steps_and_rows):
    """Of which cuDNN's kernels take no more."""
    layer, x = seqcuda.GRU(1, 2, bidirectional=True, dtype=torch.float64), torch.randn(*steps_and_rows, 1).double()
    y, _ = layer(x)
    gradient = torch.autograd.grad(y[-5:, -5:].sum(), layer.weight_hh_l0)[0]
    last = layer(x[-500:, -5:])[0][-5:]
    assert_close(y[-5:, -5:, :2], last[..., :2])
    assert_close(gradient, torch.autograd.grad(last.sum(), layer.weight_hh_l0)[0])


@SEQUENCES
def test_dropout_warning_is_torchs(kind):
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        getattr(seqcuda, kind)(3, 4, dropout=0.5)


@ALL
def test_state_dict_both_ways(kind):
    ours, theirs = pair(kind)
    args = sample(kind)
    for source, target in ((ours, theirs), (theirs, ours)):
        with torch.no_grad():
            for p in source.parameters():
                p.uniform_(-1, 1)
        state = io.BytesIO()
        torch.save(source.state_dict(), state)
        state.seek(0)
        assert target.load_state_dict(torch.load(state)).missing_keys == []
        assert_close(ours(*args), theirs(*args))


@ALL
def test_copies(kind):
    module, _ = pair(kind)
    args = sample(kind)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    for copied in copies:
        assert type(copied) is type(module) and same(copied(*args), module(*args))
        with torch.no_grad():
            next(copied.parameters()).add_(1)
        assert not same(copied(*args), module(*args))
    assert copy.copy(module).weight_ih_l0 is module.weight_ih_l0 if kind in LAYERS else True


@ALL
def test_a_module_that_was_compiled_is_pickled_without(kind):
    module, args = pair(kind)[0], sample(kind)
    module.compile(backend="eager", fullgraph=True)
    assert same(pickle.loads(pickle.dumps(module))(*args), module(*args))


@ALL
def test_hooks(kind):
    module, _ = pair(kind)
    args, fired = sample(kind), []
    module.register_forward_pre_hook(lambda m, args, kwargs: fired.append(("before", kwargs)), with_kwargs=True)
    module.register_forward_hook(lambda m, args, out: fired.append(("after", type(out))))
    module.register_full_backward_hook(lambda m, grad_in, grad_out: fired.append(("backward", len(grad_in))))
    options = {"lengths": [5, 2]} if kind in LAYERS else {}
    out = module(*args, **options)
    sum(t.sum() for t in flat(out).values()).backward()
    assert fired[:2] == [("before", options), ("after", type(out))]
    assert [name for name, _ in fired[2:]] == ["backward"]


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex128])
def test_dtypes(backend_name, kind, dtype):
    if dtype.is_complex and backend_name not in ("auto", "reference"):
        pytest.skip("complex numbers go through the reference")
    module, args = pair(kind)[0].to(dtype), tree_map(lambda t: t.to(dtype), sample(kind))
    out = module(*args)
    assert all(t.dtype == dtype for t in flat(out).values())
    sum(t.real.float().sum() for t in flat(out).values()).backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in module.parameters())


@ALL
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers(kind, dtype):
    results = []
    for module, of_this in zip(pair(kind), (dtype, torch.complex128), strict=True):
        x, hx = tree_map(lambda t, to=of_this: torch.complex(t, t.flip(0)).to(to), sample(kind))
        outputs = flat(module.to(of_this)(x.requires_grad_(), hx))
        grads = torch.autograd.grad(sum(t.abs().sum() for t in outputs.values()), [x, *module.parameters()])
        results.append([torch.view_as_real(t) for t in (*outputs.values(), *grads)])
    for ours, exact in zip(*results, strict=True):
        assert_close_to_exact(ours, exact)
    if kind in LAYERS:
        options = {"zoneout": 0.5, "recurrent_dropout": 0.5, "weight_dropout": 0.5}
        y, _ = getattr(seqcuda, kind)(3, 4, dtype=dtype, **options)(x.to(dtype))
        assert y.isfinite().all() and y.imag.any()


@ALL
def test_moves(kind):
    module, theirs = pair(kind)
    args = sample(kind)
    assert next(module.half().parameters()).dtype == torch.float16
    assert next(module.bfloat16().parameters()).dtype == torch.bfloat16
    module.double().load_state_dict(theirs.state_dict())
    assert_close(module(*args), theirs(*args))
    assert {p.device.type for p in module.to("meta").parameters()} == {"meta"}
    module.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    assert_close(module(*args), theirs(*args))
    module.share_memory()
    assert all(p.is_shared() for p in module.parameters())
    assert_close(module(*args), theirs(*args))


@SEQUENCES
def test_flatten_parameters_does_nothing(kind):
    module, _ = pair(kind)
    before = [p.data_ptr() for p in module.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.flatten_parameters()
    assert [p.data_ptr() for p in module.parameters()] == before
    assert [len(weights) for weights in module.all_weights] == [4] * 4


NAMES = {**dict.fromkeys(LAYERS, "weight_hh_l1"), **dict.fromkeys(CELLS, "weight_hh")}


@ALL
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(kind, norm):
    ours, theirs = pair(kind)
    name, args = NAMES[kind], sample(kind)
    torch.manual_seed(0)
    norm(ours, name)
    torch.manual_seed(0)
    norm(theirs, name)
    ours.eval(), theirs.eval()
    assert isinstance(ours, getattr(seqcuda, kind))
    original = next(p for n, p in ours.named_parameters() if n.startswith("parametrizations"))
    before = ours(*args)
    assert_close(before, theirs(*args))
    grads = torch.autograd.grad(sum(t.sum() for t in flat(before).values()), original)
    assert grads[0].any()
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.copy_(p.add_(0.25))
    assert not same(ours(*args), before)
    assert_close(ours(*args), theirs(*args))
    assert same(copy.deepcopy(ours)(*args), ours(*args))
    parametrize.remove_parametrizations(ours, name)
    assert type(ours) is getattr(seqcuda, kind)
    assert_close(ours(*args), theirs(*args))


@ALL
def test_pruning(kind):
    module, _ = pair(kind)
    name, args = NAMES[kind], sample(kind)
    prune.l1_unstructured(module, name, amount=0.5)
    mask = getattr(module, name + "_mask")
    reference = twin_with(module, name, getattr(module, name + "_orig") * mask)
    assert_close(module(*args), reference(*args))
    with torch.no_grad():
        getattr(module, name + "_orig").mul_(2)
    assert_close(module(*args), twin_with(module, name, getattr(module, name + "_orig") * mask)(*args))
    prune.remove(module, name)
    assert not (getattr(module, name) * ~mask.bool()).any()


def twin_with(module, name, weight):
    _, other = pair(type(module).__name__)
    state = {n: getattr(module, n) for n in other.state_dict()}
    other.load_state_dict(state | {name: weight})
    return other


@ALL
def test_functional_call(kind):
    ours, theirs = pair(kind)
    args = sample(kind)
    weights = {n: torch.randn_like(p) for n, p in ours.named_parameters()}
    before = ours(*args)
    expected = torch.func.functional_call(theirs, weights, args)
    assert_close(torch.func.functional_call(ours, weights, args), expected)
    assert same(ours(*args), before)


@ALL
def test_tied_and_replaced_weights(kind):
    ours, theirs = pair(kind)
    other, _ = pair(kind)
    args = sample(kind)
    name = NAMES[kind]
    setattr(other, name, getattr(ours, name))
    assert getattr(other, name) is getattr(ours, name)
    for module in (ours, theirs):
        setattr(module, name, torch.nn.Parameter(torch.full_like(getattr(module, name), 0.1)))
    assert_close(ours(*args), theirs(*args))
    assert not same(other(*args), ours(*args))


@SEQUENCES
def test_weight_list_of_old_code(kind):
    """`_flat_weights` of torch.nn.RNNBase is read by other libraries; it is always the current weights."""
    module, _ = pair(kind)
    assert all(a is b for a, b in zip(module._flat_weights, module.parameters(), strict=True))
    module.double()._flat_weights = []
    assert len(module._flat_weights) == len(list(module.parameters()))


@SEQUENCES
def test_missing_weight_is_named(kind):
    module, _ = pair(kind)
    del module.weight_hh_l0
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        module(*sample(kind))


@SEQUENCES
def test_states_of_any_stride(backend_name, kind):
    module, theirs = pair(kind, batch_first=True)
    x = sample(kind)[0]
    for batch in (1, 5):
        hx = tuple(torch.randn(batch, 4, 4).double().transpose(0, 1) for _ in range(2))
        expanded = tuple(torch.randn(4, 1, 4).double().expand(4, batch, 4) for _ in range(2))
        for states in (hx, expanded):
            states = states if kind == "LSTM" else states[0]
            assert_close(module(x[:batch], states), theirs(x[:batch], states))


@SEQUENCES
def test_the_default_device_is_for_new_tensors_alone(backend_name, kind):
    module = getattr(seqcuda, kind)(3, 4, 2, bidirectional=True, zoneout=0.5, weight_dropout=0.5).double()
    x, hx = sample(kind)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [5, 2])
    resets = torch.rand(5, 2) < 0.5

    def run():
        torch.manual_seed(0)
        given = {"resets": resets, "return_states": "gates"}
        return module(x, hx, lengths=[5, 2], **given), module(packed, hx, **given)

    expected = run()
    with torch.device("meta"):
        assert same(run(), expected)


@ALL
def test_inputs_are_not_changed(backend_name, kind):
    module, _ = pair(kind)
    args = sample(kind)
    tensors = [*flat(args).values(), *module.parameters()]
    before = [t.clone() for t in tensors]
    result = module(*args)
    assert all(map(torch.equal, before, tensors))
    storages = {t.untyped_storage().data_ptr() for t in tensors}
    assert storages.isdisjoint(t.untyped_storage().data_ptr() for t in flat(result).values())


@ALL
def test_modes(backend_name, kind):
    """Gradients flow in eval mode and none are recorded where they are off; the numbers are the same."""
    module, _ = pair(kind)
    module.eval()
    args = sample(kind)
    out = module(*args)
    assert all(t.requires_grad for t in flat(out).values())
    with torch.no_grad():
        quiet = module(*args)
    with torch.inference_mode():
        inference = module(*args)
    assert not any(t.requires_grad for t in flat(quiet).values())
    assert_close(quiet, out)
    assert_close(inference, out)


@SEQUENCES
def test_subclass(kind):
    class Mine(getattr(seqcuda, kind)):
        def forward(self, input, hx=None):
            return super().forward(2 * input, hx)

    torch.manual_seed(0)
    mine = Mine(3, 4, 2, bidirectional=True, dtype=torch.float64)
    module, (x, hx) = pair(kind)[0], sample(kind)
    assert same(mine(x, hx), module(2 * x, hx))
    assert repr(mine).startswith("Mine(3, 4")


@SEQUENCES
def test_twin_keeps_the_settings(kind):
    module, _ = pair(kind, batch_first=True, bias=False)
    assert repr(twin(module, torch.nn)) == repr(module)


@ALL
def test_states_can_be_detached_in_place(backend_name, kind):
    """Truncated backpropagation does that; they must not be views."""
    module, args = pair(kind)[0], sample(kind)
    result = module(*args)
    outputs = flat(result)
    assert not any(t._is_view() for t in outputs.values())
    for t in outputs.values():
        t.detach_()
        assert not t.requires_grad
    with torch.no_grad():
        assert not any(t._is_view() for t in flat(module(*args)).values())


@ALL
def test_replicas_of_data_parallel(kind):
    module, args = pair(kind)[0], sample(kind)
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter.clone())  # what torch.nn.parallel.replicate does
    for ours, theirs in zip(flat(replica(*args)).values(), flat(module(*args)).values(), strict=True):
        assert torch.equal(ours, theirs)


@ALL
def test_jit_trace(kind):
    module, args = pair(kind)[0], sample(kind)
    traced = torch.jit.trace(module, args, check_trace=False)
    for ours, theirs in zip(flat(traced(*args)).values(), flat(module(*args)).values(), strict=True):
        assert_close_to_exact(ours, theirs.double())


@pytest.mark.parametrize("kind", LAYERS)
def test_any_kind_of_integer_is_a_number_of_layers(kind):
    module = getattr(seqcuda, kind)(3, 4, np.int64(2))
    assert repr(module) == repr(getattr(torch.nn, kind)(3, 4, 2))
    x = torch.randn(5, 2, 3)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(x)[0], module(x)[0])
