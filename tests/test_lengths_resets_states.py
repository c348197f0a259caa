"""lengths=, resets=, reset_state= and return_states= of all layers, directions and forms, against a plain loop."""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from cases import LAYERS, twin
from oracle import loop
from torch.nn.utils.rnn import pack_padded_sequence

import seqcuda
from seqcuda.testing import assert_close_to_exact, assert_within_rule

FORMS = ("padded", "batch_first", "unbatched", "jagged", "packed", "packed_sorted")
ADDITIONS = ("lengths", "resets", "both", "neither")


class Problem:
    """A layer and its inputs, drawn from a seed in float32 and converted, and the loop's results for them."""

    def __init__(self, kind: str, form: str, additions: str, seed: int, dtype=torch.float64):
        rng = random.Random(f"{kind} {form} {additions} {seed}")
        torch.manual_seed(rng.randrange(10**6))
        extra = {"nonlinearity": rng.choice(("tanh", "relu"))} if kind == "RNN" else {}
        extra |= {"proj_size": 2} if kind == "LSTM" and rng.random() < 0.4 else {}
        layers, D = rng.choice((1, 2, 3)), rng.choice((1, 2))
        self.T, self.B, self.H = rng.choice((1, 4, 6)), 1 if form == "unbatched" else 4, 5
        self.module = getattr(torch.nn, kind)(
            3, self.H, layers, bidirectional=D == 2, bias=rng.random() < 0.7, batch_first=form == "batch_first", **extra
        ).to(dtype)  # fmt: skip
        self.form, self.is_lstm = form, kind == "LSTM"
        packed = form.startswith("packed")
        self.lengths = [self.T] * self.B
        jagged = form == "jagged"
        if packed or jagged or additions in ("lengths", "both"):
            self.lengths = [rng.randint(1 if packed else 0, self.T) for _ in range(self.B)]
        if packed or jagged:
            self.lengths[rng.randrange(self.B)] = self.T
        if form == "packed_sorted":
            self.lengths.sort(reverse=True)
        self.has_lengths = additions in ("lengths", "both") and not (packed or jagged)
        self.x = torch.randn(self.T, self.B, 3).to(dtype).requires_grad_()
        widths = [extra.get("proj_size", self.H)] + [self.H] * self.is_lstm
        self.hx = [torch.randn(layers * D, self.B, w).to(dtype).requires_grad_() for w in widths]
        self.resets = None
        self.reset_state = [torch.randn(layers * D, self.B, w).to(dtype).requires_grad_() for w in widths]
        if additions in ("resets", "both"):
            self.resets = torch.rand(self.T, self.B) < 0.4

    def jagged(self, rows, like=None):
        """(T, B, ...) as a NestedTensor (B, j, ...)."""
        values = torch.cat([rows[:length, b] for b, length in enumerate(self.lengths)])
        offsets = torch.tensor([0, *self.lengths]).cumsum(0) if like is None else like.offsets()
        return torch.nested.nested_tensor_from_jagged(values, offsets)

    def paired(self, states):
        return tuple(states) if self.is_lstm else states[0]

    def loop(self):
        hx, reset_state = self.paired(self.hx), self.paired(self.reset_state)
        return loop(self.module, self.x, hx, self.lengths, self.resets, reset_state)

    def call(self):
        """Ours, brought back to the loop's padded form."""
        module = twin(self.module, seqcuda)
        x, hx, options = self.x, self.hx, {"return_states": True}
        form, packed = self.form, self.form.startswith("packed")
        resets, reset_state = self.resets, self.reset_state
        if form == "unbatched":
            x, hx, reset_state = x.squeeze(1), [s.squeeze(1) for s in hx], [s.squeeze(1) for s in reset_state]
            resets = None if resets is None else resets.squeeze(1)
        elif form == "batch_first":
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        elif form == "jagged":
            x = self.jagged(x)
            resets = None if resets is None else self.jagged(resets, like=x)
        elif packed:
            x = pack_padded_sequence(x, self.lengths, enforce_sorted=form == "packed_sorted")
        if resets is not None:
            options |= {"resets": resets, "reset_state": self.paired(reset_state)}
        if self.has_lengths:
            options["lengths"] = self.lengths
        y, final, states = module(x, self.paired(hx), **options)
        final = list(final) if self.is_lstm else [final]
        states = [states.h] + ([states.c] if self.is_lstm else [])
        if form == "unbatched":
            y, final, states = y.unsqueeze(1), [s.unsqueeze(1) for s in final], [s.unsqueeze(2) for s in states]
        elif form == "batch_first":
            y = y.transpose(0, 1)
        elif form == "jagged":
            assert y.shape[:2] == x.shape[:2]  # so that input and output can be added
            y = y.to_padded_tensor(0.0).transpose(0, 1)
        elif packed:
            y = torch.nn.utils.rnn.pad_packed_sequence(y)[0]
        return module, y, final, states

    def gradients(self, module, y, final, states):
        generator = torch.Generator().manual_seed(5)
        every = [y, *final, *states]
        loss = sum((t * torch.randn(t.shape, generator=generator).to(t.dtype)).sum() for t in every)
        wanted = [self.x, *self.hx, *self.reset_state, *module.parameters()]
        return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


def numbered(y, final, states, gradients):
    return {
        "y": y,
        **{f"final {i}": s for i, s in enumerate(final)},
        **{f"states {i}": s for i, s in enumerate(states)},
        **{f"gradient {i}": g for i, g in enumerate(gradients)},
    }


@cache
def by_loop(*arguments):
    problem = Problem(*arguments)
    results = problem.loop()
    return numbered(*results, problem.gradients(problem.module, *results))


def by_call(*arguments):
    problem = Problem(*arguments)
    module, *results = problem.call()
    return numbered(*results, problem.gradients(module, *results))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("additions", ADDITIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_against_a_loop(backend_name, kind, form, additions, seed):
    expected, actual = by_loop(kind, form, additions, seed), by_call(kind, form, additions, seed)
    for name in expected:
        assert_close_to_exact(actual[name], expected[name], name=name)


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("kind", LAYERS)
def test_single_precision(backend_name, kind, form):
    arguments = (kind, form, "both", 0)
    exact, rival, actual = by_loop(*arguments), by_loop(*arguments, torch.float32), by_call(*arguments, torch.float32)
    for name in exact:
        assert_within_rule(actual[name], rival[name], exact[name], name=name)


def make(kind, *args, **kwargs):
    torch.manual_seed(0)
    return getattr(seqcuda, kind)(*args, **kwargs).double()


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_are_packing(backend_name, kind):
    """The same numbers as a PackedSequence gives, and the same whatever stands in the padding."""
    module = make(kind, 3, 5, 2, bidirectional=True)
    x, lengths = torch.randn(6, 4, 3).double(), [2, 6, 1, 4]
    packed, expected = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    y = torch.nn.utils.rnn.pad_packed_sequence(packed)[0]
    for b, length in enumerate(lengths):
        x[length:, b] = float("nan")
    for given in (lengths, tuple(lengths), torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32)):
        actual, final = module(x, lengths=given)
        assert_close_to_exact(actual, y)
        for a, e in zip(as_tuple(final), as_tuple(expected), strict=True):
            assert_close_to_exact(a, e)


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_of_length_zero(backend_name, kind):
    module = make(kind, 3, 5, 2, bidirectional=True)
    hx = tuple(torch.randn(4, 2, 5).double() for _ in range(2))
    hx = hx if kind == "LSTM" else hx[0]
    for x, lengths in ((torch.randn(3, 2, 3), [0, 0]), (torch.randn(0, 2, 3), [0, 0])):
        y, final, states = module(x.double(), hx, lengths=lengths, return_states="gates")
        assert not y.any() and not states.gates.any()
        for a, e in zip(as_tuple(final), as_tuple(hx), strict=True):
            assert torch.equal(a, e)
        for s, e in zip(states[:2], as_tuple(hx), strict=False):
            assert s.shape == (len(x), *e.shape) and torch.equal(s, e.expand_as(s))
    y, final = module(torch.randn(3, 0, 3).double(), lengths=[])
    assert y.shape == (3, 0, 10)


@pytest.mark.parametrize("kind", LAYERS)
def test_states_are_valid_hx(backend_name, kind):
    """Going on from the states at t gives the rest of the sequence."""
    module = make(kind, 3, 5, 2, batch_first=True)
    x = torch.randn(2, 6, 3).double()
    y, final, states = module(x, return_states=True)
    assert states.h.shape == (6, 2, 2, 5) and states.gates is None
    assert (states.c is None) == (kind != "LSTM")
    hx = (states.h[2], states.c[2]) if kind == "LSTM" else states.h[2]
    rest, again = module(x[:, 3:], hx)
    assert_close_to_exact(rest, y[:, 3:])
    for a, e, s in zip(as_tuple(again), as_tuple(final), states[:2], strict=False):
        assert_close_to_exact(a, e)
        assert torch.equal(s[-1], e)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("form", ["padded", "unbatched", "packed"])
def test_gates(backend_name, kind, form):
    """c' = f c + i g and h' = (1 - z) n + z h, by the gates that are returned; no gradient flows through them."""
    module = make(kind, 3, 5, 2, bidirectional=True)
    x, lengths, options = torch.randn(6, 3, 3).double(), [6, 0, 3], {"return_states": "gates"}
    if form == "padded":
        options["lengths"] = lengths
    elif form == "packed":
        lengths = [6, 1, 3]
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    else:
        x, lengths = x[:, 0], [6]
    states = module(x, **options)[2]
    if form == "unbatched":
        assert states.gates.dim() == 4
        states = [None if s is None else s.unsqueeze(2) for s in states[:3]]
    h, c, gates = states[:3]
    assert not gates.requires_grad and h.requires_grad
    G = {"RNN": 1, "LSTM": 4, "GRU": 3}[kind]
    assert gates.shape == (6, 4, len(lengths), G, 5)
    for b, length in enumerate(lengths):
        assert not gates[length:, :, b].any()
        for index in range(4):
            order = range(length) if index % 2 == 0 else reversed(range(length))
            before_h = before_c = torch.zeros(5).double()
            for t in order:
                gate = gates[t, index, b]
                if kind == "RNN":
                    expected = gate[0]
                elif kind == "LSTM":
                    i, f, g, o = gate
                    before_c = f * before_c + i * g
                    expected = o * before_c.tanh()
                    assert_close_to_exact(c[t, index, b], before_c)
                else:
                    _, z, n = gate
                    expected = (1 - z) * n + z * before_h
                before_h = h[t, index, b]
                assert_close_to_exact(before_h, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_states_do_not_change_the_rest(backend_name, kind):
    """Dropout is between the layers, after the states; the random numbers are the same with and without states."""
    module = make(kind, 3, 5, 3, dropout=0.5, bidirectional=True)
    x, results = torch.randn(4, 2, 3).double(), []
    for return_states in (False, True, "gates"):
        torch.manual_seed(3)
        results.append(module(x, return_states=return_states))
    for y, final, *_ in results[1:]:
        assert torch.equal(y, results[0][0])
        assert all(map(torch.equal, as_tuple(final), as_tuple(results[0][1])))
    assert torch.equal(results[1][2].h, results[2][2].h)


@pytest.mark.parametrize("kind", LAYERS)
def test_reset_state_broadcasts_and_learns(backend_name, kind):
    module = make(kind, 3, 5, 2)
    x, resets = torch.randn(4, 3, 3).double(), torch.rand(4, 3) < 0.5
    resets[2, 0] = True
    full = [torch.randn(2, 1, 5).double().expand(2, 3, 5) for _ in range(1 + (kind == "LSTM"))]
    small = [s[:, :1].clone().requires_grad_() for s in full]
    pair = (lambda s: tuple(s)) if kind == "LSTM" else (lambda s: s[0])
    expected = module(x, resets=resets, reset_state=pair(full))[0]
    y = module(x, resets=resets, reset_state=pair(small))[0]
    assert torch.equal(y, expected)
    assert all(g.any() and g.shape == (2, 1, 5) for g in torch.autograd.grad(y.sum(), small))
    zero = module(x, resets=resets)[0]
    zeros = pair([torch.zeros(5).double() for _ in small])
    assert torch.equal(module(x, resets=resets, reset_state=zeros)[0], zero)


@pytest.mark.parametrize("kind", LAYERS)
def test_resets_packed_as_the_input(backend_name, kind):
    module = make(kind, 3, 5, bidirectional=True)
    lengths, resets = [2, 5, 3], torch.rand(5, 3) < 0.5
    x = pack_padded_sequence(torch.randn(5, 3, 3).double(), lengths, enforce_sorted=False)
    packed = pack_padded_sequence(resets, lengths, enforce_sorted=False)
    assert torch.equal(module(x, resets=packed)[0].data, module(x, resets=resets)[0].data)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_per_sample_under_vmap(kind):
    """One unbatched sequence per sample, its length a 0-dimensional tensor."""
    module = make(kind, 3, 5)
    x, lengths = torch.randn(3, 4, 3).double(), torch.tensor([4, 0, 2])
    y = torch.vmap(lambda row, length: module(row, lengths=length)[0])(x, lengths)
    assert_close_to_exact(y, module(x.transpose(0, 1), lengths=lengths)[0].transpose(0, 1))
    assert_close_to_exact(y[0], module(x[0], lengths=torch.tensor(4))[0])


def test_lengths_on_a_device_are_not_read():
    """Shapes and types are checked, values are not waited for: tried on a device that has none."""
    module = seqcuda.LSTM(3, 5, device="meta")
    y, (h, c) = module(torch.empty(4, 2, 3, device="meta"), lengths=torch.empty(2, dtype=torch.long, device="meta"))
    assert y.shape == (4, 2, 5) and h.shape == c.shape == (1, 2, 5)


@pytest.mark.parametrize("save", ["all", "states"])
def test_functional_is_the_module(backend_name, save):
    module = make("GRU", 3, 5, 2, bidirectional=True, reset_after=False)
    x, options = torch.randn(4, 2, 3).double(), {"lengths": [4, 2], "return_states": True}
    expected = module(x, **options)
    actual = seqcuda.functional.gru(
        x, None, list(module.parameters()), num_layers=2, bidirectional=True, reset_after=False, save=save, **options
    )  # fmt: skip
    weights = list(module.parameters())
    for a, e in ((actual[0], expected[0]), (actual[1], expected[1]), (actual[2].h, expected[2].h)):
        assert_close_to_exact(a, e)
        grads = (torch.autograd.grad(t.sum(), weights, retain_graph=True) for t in (a, e))
        for grad_a, grad_e in zip(*grads, strict=True):
            assert_close_to_exact(grad_a, grad_e)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_reset_before(backend_name, kind):
    """GRU with reset_after=False is the equations of Cho et al. 2014."""
    module = make(kind, 3, 5, reset_after=False)
    x, h = torch.randn(4, 2, 3).double(), torch.randn(2, 5).double()
    w_ih, w_hh, b_ih, b_hh = module.parameters()
    (w_r, w_z, w_n), (u_r, u_z, u_n) = w_ih.chunk(3), w_hh.chunk(3)
    (b_r, b_z, b_n), (a_r, a_z, a_n) = b_ih.chunk(3), b_hh.chunk(3)
    actual, expected = [], []
    state = h
    for x_t in x:
        r = torch.sigmoid(x_t @ w_r.T + b_r + state @ u_r.T + a_r)
        z = torch.sigmoid(x_t @ w_z.T + b_z + state @ u_z.T + a_z)
        n = torch.tanh(x_t @ w_n.T + b_n + (r * state) @ u_n.T + a_n)
        state = (1 - z) * n + z * state
        expected.append(state)
    if kind == "GRU":
        actual = module(x, h[None])[0]
    else:
        for x_t in x:
            h = module(x_t, h)
            actual.append(h)
        actual = torch.stack(actual)
    assert_close_to_exact(actual, torch.stack(expected))
