"""What happens to the states between the steps, besides the cells: decay, recurrent dropout, zoneout, weight dropout,
detach_every; against their published formulas step by step, and the generator of the masks."""

from __future__ import annotations

import copy
import itertools
import pickle

import cuda_emulation
import pytest
import torch
from cases import LAYERS
from marks import deliberately_not_built, needs_extension
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from walks import MIXABLE, Problem, assert_results, differentiable, outputs_and_gradients, results

import seqcuda
from seqcuda import autograd, masks
from seqcuda.testing import assert_close_to_exact, assert_within_rule
from seqcuda.walk import Factors

ENGINES = seqcuda.engines()
FACTORS = [("decay",), ("drop",), ("keep",), ("decay", "drop", "mask")]
WALKS = {
    "both, lengths, resets": {"reverse": (False, True), "ragged": "lengths", "resets": True},
    "packed, reverse": {"reverse": (True,), "ragged": "packed"},
    "lean": {"save": "states", "resets": True},
}
T, B, I, H = 6, 4, 3, 5


def make(kind: str, *args, **kwargs):
    torch.manual_seed(1)
    return getattr(seqcuda, kind)(I, H, *args, dtype=torch.float64, **kwargs)


def data(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def parts(states) -> list[torch.Tensor]:
    return list(states) if isinstance(states, tuple) else [states]


def joined(states: list[torch.Tensor]):
    return tuple(states) if len(states) > 1 else states[0]


def by_hand(module, x, change, hx=None):
    """y and the final states of a layer of one direction, a torch.nn-like cell at a time.

    change(t, cell, states) -> new states, where ``cell(states, factor)`` is one step whose products read factor * h.
    """
    w_ih, w_hh, b_ih, b_hh = module._flat_weights[:4]
    cell = module.cell
    states = hx or [x.new_zeros(x.shape[1], H) for _ in range(cell.states)]
    ys = []
    for t in range(len(x)):

        def one(states, factor=1.0, t=t):
            def recurrent(operand, first=0, last=cell.gates):
                rows = slice(first * H, last * H)
                return torch.nn.functional.linear(operand * factor, w_hh[rows], b_hh[rows])

            return list(cell.step(torch.nn.functional.linear(x[t], w_ih, b_ih), recurrent, tuple(states))[0])

        states = change(t, one, states)
        ys.append(states[0])
    return torch.stack(ys), states


def assert_same(actual, expected):
    """Results, and the gradients of their sums of squares for the parameters of the module."""
    for a, e in zip(actual, expected, strict=True):
        assert_close_to_exact(a, e)


def with_gradients(module, y, states, *inputs):
    tensors = [y, *states]
    gradients = torch.autograd.grad(sum(t.square().sum() for t in tensors), [*module.parameters(), *inputs])
    return [*tensors, *gradients]


@needs_extension
@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
@pytest.mark.parametrize("cell", MIXABLE)
def test_engines(cell, factors, save):
    problems = [Problem(cell, T=5, B=4, H=17, factors=factors, **{**walk, "save": save}) for walk in WALKS.values()]
    problems += [Problem("lstm", H=17, P=3, factors=factors, resets=True, save=save)] * (cell == "lstm")
    for problem, engine in itertools.product(problems, ENGINES):
        assert_results(problem, torch.float64, outputs_and_gradients(problem, torch.float64, engine))
    for dtype, engine in itertools.product((torch.float32, torch.bfloat16), ENGINES):
        assert_results(problem, dtype, outputs_and_gradients(problem, dtype, engine))


@pytest.mark.parametrize("cell", MIXABLE)
def test_gradcheck(backend_name, cell):
    for walk in WALKS.values():
        problem = Problem(cell, T=3, B=2, H=3, factors=("decay", "drop", "keep"), **walk)
        tensors = problem.inputs().tensors()
        which = differentiable(tensors)

        def function(*values, problem=problem, tensors=tensors, which=which):
            given = list(tensors)
            for i, value in zip(which, values, strict=True):
                given[i] = value
            return tuple(t for t in results(problem, tuple(given)) if t.numel())

        inputs = [tensors[i].clone().requires_grad_() for i in which]
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        if backend_name in ("reference", "auto"):
            assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@needs_extension
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm"])
def test_opcheck(cell):
    problem = Problem(cell, T=3, B=2, H=3, factors=("decay", "drop", "keep"), detach_every=2, save="all")
    inputs = problem.inputs()
    states = (inputs.h0, inputs.c0, *(None,) * 5)
    arguments = (cell, inputs.x, inputs.weights, *states, problem.reverse, "all", "auto", *problem.additions(inputs))
    torch.library.opcheck(torch.ops.seqcuda.sequence.default, arguments)
    y, _, _, c_all, saved = torch.ops.seqcuda.sequence(*arguments)
    needs = [i in differentiable(inputs.tensors()) for i in range(len(inputs.tensors()))]
    arguments = (
        cell, y, None, None, None, inputs.x, inputs.weights, *states, y, c_all, saved, problem.reverse, "auto", needs,
        0, *problem.additions(inputs),
    )  # fmt: skip
    torch.library.opcheck(torch.ops.seqcuda.sequence_backward.default, arguments)


@needs_extension
@pytest.mark.parametrize("name", Factors._fields)
def test_the_op_checks_the_factors(name):
    inputs = Problem("lstm", factors=("decay", "drop", "keep")).inputs()
    factor = getattr(inputs.factors, name)
    for wrong in (factor[..., :1], factor.float()):
        factors = inputs.factors._replace(**{name: wrong})
        with pytest.raises(RuntimeError, match=f"{name} must be"):
            autograd.sequence(Problem("lstm").walk(), inputs._replace(factors=factors))


# Decay


@pytest.mark.parametrize("kind", LAYERS)
def test_decay(backend_name, kind):
    """Che et al. 2016 (GRU-D), equation 10: h = decay h before the step, here for h and c alike."""
    module, x = make(kind), data(T, B, I)
    decay = torch.rand(T, B, H, dtype=torch.float64, requires_grad=True)
    expected = by_hand(module, x, lambda t, cell, states: cell([decay[t] * s for s in states]))
    y, final = module(x, decay=decay)
    actual = (y, [s[0] for s in parts(final)])
    assert_same(with_gradients(module, *actual, decay), with_gradients(module, *expected, decay))


def test_decay_of_a_pair(backend_name):
    """Of c alone, T-LSTM's place."""
    module, x = make("LSTM"), data(T, B, I)
    decay = torch.rand(T, B, 1, dtype=torch.float64)
    expected, _ = by_hand(module, x, lambda t, cell, states: cell([states[0], decay[t] * states[1]]))
    assert_close_to_exact(module(x, decay=(None, decay))[0], expected)
    assert_close_to_exact(module(x, decay=(torch.ones(1, dtype=torch.float64), decay))[0], expected)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(T, B, H), (T, 1, H), (T, B, 1), (B, 1), (H,), ()])
def test_the_same_decay_in_every_form(backend_name, kind, shape):
    torch.manual_seed(0)
    module = make(kind, 2, bidirectional=True)
    first = make(kind, 2, bidirectional=True, batch_first=True)
    x, lengths = data(T, B, I), torch.tensor([4, 6, 1, 3])
    decay = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    full = decay.expand(T, B, H)

    def results_of(y, final):
        gradient = torch.autograd.grad(sum(s.square().sum() for s in (y, *parts(final))), decay)[0]
        return [y, *parts(final), gradient]

    expected = results_of(*module(x, decay=decay, lengths=lengths))
    y, final = first(x.transpose(0, 1), decay=full.transpose(0, 1), lengths=lengths)
    assert_same(results_of(y.transpose(0, 1), final), expected)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    for given in (decay, pack_padded_sequence(full, lengths, enforce_sorted=False)):
        y, final = module(packed, decay=given)
        assert_same(results_of(pad_packed_sequence(y)[0], final), expected)
    rows = [x[:n, b] for b, n in enumerate(lengths)]
    jagged = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    nested = torch.nested.nested_tensor_from_jagged(
        torch.cat([full[:n, b] for b, n in enumerate(lengths)]), jagged.offsets()
    )
    y, final = module(jagged, decay=nested)
    assert_same(results_of(y.to_padded_tensor(0.0).transpose(0, 1), final), expected)
    y, _ = module(x[:4, 0], decay=full[:4, 0])
    assert_close_to_exact(y, expected[0][:4, 0])


@pytest.mark.parametrize("kind", LAYERS)
def test_decay_by_steps(backend_name, kind):
    module, x = make(kind, 2), data(T, B, I)
    decay = torch.rand(T, B, H, dtype=torch.float64)
    expected, _ = module(x, decay=decay)
    hx, stream = None, module.stream(B)
    for t in range(T):
        y, hx = module.step(x[t], hx, decay=decay[t])
        assert_close_to_exact(y, expected[t])
        assert_close_to_exact(stream(x[t], decay=decay[t]), expected[t])
    y, _ = module.step(x[0, 0], decay=decay[0, 0])
    assert_close_to_exact(y, expected[0, 0])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "decay, error, match",
    [
        (torch.ones(T, B, H + 1).double(), RuntimeError, r"decay must be broadcastable to \(6, 4, 5\)"),
        (torch.ones(1, T, B, H).double(), RuntimeError, "decay must be broadcastable"),
        (0.5, TypeError, "decay must be"),
        ((torch.ones(1).double(),) * 3, TypeError, "decay must be"),
        (torch.ones(T, B, H), RuntimeError, "decay.* must have the dtype of input"),
    ],
)
def test_decay_errors(kind, decay, error, match):
    with pytest.raises(error, match=match):
        make(kind)(data(T, B, I), decay=decay)


# Dropout and zoneout


def mask_of(seed, layer, kind, *shape: int, p: float, hit: float = 0.0, miss: float = 1.0) -> torch.Tensor:
    number = 4 * layer + masks.KINDS.index(kind)
    return masks.reference(seed, number, shape, p, hit, miss, torch.float64)


def seed_of(manual: int) -> torch.Tensor:
    torch.manual_seed(manual)
    return masks.new_seed(torch.device("cpu"))


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_dropout(backend_name, kind):
    """Gal and Ghahramani 2015: one mask on h for all steps of a row, in the products alone."""
    module, x = make(kind, recurrent_dropout=0.4), data(T, B, I)
    drop = mask_of(seed_of(7), 0, "recurrent dropout", 1, B, H, p=0.4, miss=1 / 0.6)[0]
    assert 0 < (drop == 0).sum() < drop.numel()
    expected = by_hand(module, x, lambda t, cell, states: cell(states, drop))
    torch.manual_seed(7)
    y, final = module(x)
    actual = (y, [s[0] for s in parts(final)])
    assert_same(with_gradients(module, *actual), with_gradients(module, *expected))
    assert_close_to_exact(module.eval()(x)[0], by_hand(module, x, lambda t, cell, states: cell(states))[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_zoneout(backend_name, kind, training):
    """Krueger et al. 2016, equation 1: s = z s_before + (1 - z) s_new with a mask z; in eval its expectation."""
    zones = (0.3, 0.6) if kind == "LSTM" else (0.3,)
    module, x = make(kind, zoneout=joined(list(zones))).train(training), data(T, B, I)
    seed = seed_of(7)
    keeps = [torch.full((T, B, H), z, dtype=torch.float64) for z in zones]
    if training:
        names = ("zoneout of h", "zoneout of c")
        keeps = [mask_of(seed, 0, name, T, B, H, p=z, hit=1.0, miss=0.0) for name, z in zip(names, zones, strict=False)]
        assert all(0 < keep.sum() < keep.numel() for keep in keeps)

    def change(t, cell, states):
        new = cell(states)
        return [k[t] * s + (1 - k[t]) * n for k, s, n in zip(keeps, states, new, strict=True)]

    expected = by_hand(module, x, change)
    torch.manual_seed(7)
    y, final = module(x)
    actual = (y, [s[0] for s in parts(final)])
    assert_same(with_gradients(module, *actual), with_gradients(module, *expected))


@pytest.mark.parametrize("kind", LAYERS)
def test_weight_dropout(backend_name, kind):
    """Merity et al. 2017: DropConnect on the recurrent weights, one mask for a call."""
    module, x = make(kind, 2, weight_dropout=0.4), data(T, B, I)
    plain, seed = make(kind, 2), seed_of(7)
    gates = module.cell.gates
    with torch.no_grad():
        for layer in range(2):
            drop = mask_of(seed, layer, "weight dropout", 1, gates * H, H, p=0.4, miss=1 / 0.6)[0]
            getattr(plain, f"weight_hh_l{layer}").mul_(drop)
    torch.manual_seed(7)
    assert_close_to_exact(module(x)[0], plain(x)[0])
    module(x)[0].sum().backward()
    assert (module.weight_hh_l0.grad == 0).any()
    module.eval()
    assert torch.equal(module(x)[0], make(kind, 2)(x)[0])


OPTIONS = {"recurrent_dropout": 0.3, "zoneout": 0.2, "weight_dropout": 0.1}


@pytest.mark.parametrize("kind", LAYERS)
def test_masks_are_of_the_row(backend_name, kind):
    """Not of the batch, packing or padding; and every layer and direction has its own."""
    module = make(kind, 2, bidirectional=True, **OPTIONS)
    x, lengths = data(T, B, I), [4, 6, 1, 3]

    def run(*args, **kwargs):
        torch.manual_seed(5)
        return module(*args, **kwargs)[0]

    y = run(x, lengths=lengths)
    assert torch.equal(run(x, lengths=lengths), y)
    assert not torch.equal(module(x, lengths=lengths)[0], y)
    assert_close_to_exact(run(x[:, :3], lengths=lengths[:3]), y[:, :3])
    packed = run(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    assert_close_to_exact(pad_packed_sequence(packed)[0], y)
    longer = torch.cat([x, data(2, B, I)])
    assert_close_to_exact(run(longer, lengths=lengths)[:T], y)


def test_options_draw_random_numbers_only_where_they_are_set():
    x = data(T, B, I)
    for options, training, draws in (({}, True, False), (OPTIONS, True, True), (OPTIONS, False, False)):
        module = make("LSTM", **options).train(training)
        torch.manual_seed(0)
        module(x)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), state) != draws


@pytest.mark.parametrize("kind", LAYERS)
def test_options_in_every_place(backend_name, kind):
    module = make(kind, 2, **OPTIONS)
    text = "recurrent_dropout=0.3, zoneout=0.2, weight_dropout=0.1"
    assert text in repr(module) and "dropout" not in repr(make(kind))
    x = data(1, B, I)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.manual_seed(2)
        y, _ = other(x)
        torch.manual_seed(2)
        assert torch.equal(module(x)[0], y)
    report = []
    assert seqcuda.convert(module, "torch", report=report) is module
    assert not report[0].swapped and "recurrent_dropout" in report[0].reason
    torch.manual_seed(4)
    y, _ = module.step(x[0])
    torch.manual_seed(4)
    assert torch.equal(module(x)[0][0], y)
    module.eval()
    stream, (expected, _) = module.stream(B), module(torch.cat([x, x]))
    for t in range(2):
        assert_close_to_exact(stream(x[0]), expected[t])


@pytest.mark.parametrize(
    "options, match",
    [
        ({"zoneout": 1.5}, "zoneout must be a number from 0 to 1, got 1.5"),
        ({"zoneout": (0.1, 0.2)}, "zoneout must be a number, got"),
        ({"recurrent_dropout": -1}, "recurrent_dropout must be a number from 0 to 1, got -1"),
        ({"weight_dropout": "much"}, "weight_dropout must be a number from 0 to 1, got 'much'"),
    ],
)
def test_option_errors(options, match):
    with pytest.raises(ValueError, match=match):
        seqcuda.GRU(I, H, **options)
    with pytest.raises(ValueError, match="zoneout must be a number or a pair"):
        seqcuda.LSTM(I, H, zoneout=(0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="detach_every must be an int, 0 or more, got -1"):
        seqcuda.GRU(I, H)(torch.zeros(T, B, I), detach_every=-1)


def test_zoneout_with_a_projection(backend_name):
    module = make("LSTM", proj_size=2, zoneout=(1.0, 0.0))
    hx = data(1, B, 2), data(1, B, H)
    y, (h_n, c_n) = module(data(T, B, I), hx)
    assert torch.equal(y, hx[0].expand_as(y)) and torch.equal(h_n, hx[0]) and not torch.equal(c_n, hx[1])


# The gradient of the state, cut


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("every", [1, 2, 4])
def test_detach_every(backend_name, kind, every):
    """What a loop over pieces of the sequence computes, detaching the state between them; the bits of the forward."""
    module, x = make(kind), data(T, B, I)
    hx = [data(1, B, H).requires_grad_() for _ in range(module.cell.states)]
    ys, state = [], joined(hx)
    for piece in x.split(every):
        y, state = module(piece, state if not ys else joined([s.detach() for s in parts(state)]))
        ys.append(y)
    expected = with_gradients(module, torch.cat(ys), parts(state), *hx)
    y, final = module(x, joined(hx), detach_every=every)
    assert_same(with_gradients(module, y, parts(final), *hx), expected)
    assert torch.equal(y, module(x, joined(hx))[0])


@needs_extension
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("cell", MIXABLE)
def test_detach_every_by_the_engines(cell, every):
    for walk, engine in itertools.product(WALKS.values(), ENGINES):
        problem = Problem(cell, T=7, B=4, H=5, factors=("decay",), detach_every=every, **walk)
        assert_results(problem, torch.float64, outputs_and_gradients(problem, torch.float64, engine))


@pytest.mark.parametrize("kind", LAYERS)
def test_detach_every_cuts_at_the_same_steps_in_reverse(backend_name, kind):
    """Between steps 1 and 2, and 3 and 4, whatever stands behind the end of a row."""
    module, x = make(kind, bidirectional=True), data(T, B, I).requires_grad_()

    def gradient(x, lengths):
        y, _ = module(x, lengths=lengths, detach_every=2)
        return torch.autograd.grad(y[2, :, H:].sum(), x)[0]

    whole = gradient(x, [T] * B)
    assert whole[2:4].any() and not whole[4:].any() and not whole[:2].any()
    assert torch.equal(gradient(torch.cat([x, x]), [T] * B)[:T], whole)


# Under the transforms, a compiler, autocast


@needs_extension
@pytest.mark.parametrize("kind", LAYERS)
def test_per_sample_gradients(kind):
    module, x = make(kind, 2, bidirectional=True), data(3, T, B, I)
    decay = torch.rand(3, T, B, 1, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters, x, decay):
        return torch.func.functional_call(module, parameters, x, {"decay": decay})[0].square().sum()

    gradient = torch.func.grad(loss, (0, 2))
    weights, decays = torch.vmap(gradient, (None, 0, 0))(parameters, x, decay)
    for i in range(3):
        of_weights, of_decay = gradient(parameters, x[i], decay[i])
        assert_close_to_exact(decays[i], of_decay)
        for name, expected in of_weights.items():
            assert_close_to_exact(weights[name][i], expected)


@needs_extension
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled(kind):
    module, x = make(kind, 2, **OPTIONS), data(T, B, I)
    decay = torch.rand(T, B, 1, dtype=torch.float64, requires_grad=True)

    def run(module):
        torch.manual_seed(3)
        y, final = module(x, decay=decay, detach_every=2)
        return with_gradients(module, y, parts(final), decay)

    assert_same(run(torch.compile(module, fullgraph=True, backend="aot_eager")), run(module))


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(backend_name, kind):
    module, x = make(kind, zoneout=0.2).eval(), data(T, B, I).bfloat16()
    decay = torch.rand(T, B, H).bfloat16()
    exact, _ = module(x.double(), decay=decay.double())
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module.float()(x.float(), decay=decay.float())
    assert_within_rule(y, module.bfloat16()(x, decay=decay)[0], exact)


# The generator


def test_philox_known_answers():
    """From the known answers of Random123, the library of the paper."""
    known = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in known:
        words = masks.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
        assert tuple(int(word) for word in words) == expected


MASKS = [((3, 5, 7), 0.3), ((1, 2, 8), 0.5), ((4, 1, 1), 0.0), ((2, 3, 9), 1.0), ((0, 3, 4), 0.5), ((2, 0, 4), 0.5)]


@pytest.mark.parametrize("place", ["cpu", "emulated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape, p", MASKS)
def test_the_same_masks_everywhere(request, place, dtype, shape, p):
    if place == "cpu" and deliberately_not_built:
        pytest.skip("the extension is deliberately not built")
    ops = torch.ops.seqcuda if place == "cpu" else cuda_emulation.load()
    for seed in (torch.tensor(0), torch.tensor(2**62 + 12345678901), torch.tensor(-1)):
        drawn = ops.mask(seed, 6, *shape, p, 0.0, 1.25, dtype)
        assert torch.equal(drawn, masks.reference(seed, 6, shape, p, 0.0, 1.25, dtype))


@needs_extension
def test_the_op_of_the_masks():
    torch.library.opcheck(torch.ops.seqcuda.mask.default, (torch.tensor(3), 1, 2, 3, 5, 0.5, 0.0, 2.0, torch.float32))
    with pytest.raises(ValueError, match="probability must be from 0 to 1, got 2"):
        torch.ops.seqcuda.mask(torch.tensor(3), 1, 2, 3, 5, 2.0, 0.0, 2.0, torch.float32)
    with pytest.raises(RuntimeError, match="seed must be one int64"):
        torch.ops.seqcuda.mask(torch.zeros(2), 1, 2, 3, 5, 0.5, 0.0, 2.0, torch.float32)
