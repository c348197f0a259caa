"""The cells and options that torch.nn does not have, as users call them: each against its published equations, written
out as a loop over layers, directions and steps; then parameters, states, representation and errors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from marks import needs_extension
from walks import Problem, assert_groups_add_up

import seqcuda
from seqcuda import autograd
from seqcuda.cells import CELLS
from seqcuda.heads import blocks_of, dense
from seqcuda.testing import assert_close_to_exact

T, B, I, H = 6, 3, 4, 8


def tensor_of(layer, kind: str, suffix: str):
    return getattr(layer, f"{kind}_{suffix}", torch.zeros((), dtype=torch.float64))


def recurrent(layer, h, suffix: str):
    """h R^T, head by head where there are several: FlashRNN, Poeppel et al., arXiv:2412.07752."""
    blocks = tensor_of(layer, "weight_hh", suffix).unflatten(0, (-1, layer.heads, H // layer.heads))
    parts = [part @ blocks[:, head].transpose(-1, -2) for head, part in enumerate(h.chunk(layer.heads, -1))]
    return torch.cat(parts, -1).movedim(0, -2).flatten(-2) + tensor_of(layer, "bias_hh", suffix)  # (B, G*H)


def lstm(layer, x, states, suffix, gate=torch.sigmoid, clip=torch.inf):
    """Gers and Schmidhuber 2000; the clip as in TensorFlow 1's LSTMCell."""
    h, c = states
    p = tensor_of(layer, "weight_unit", suffix)
    p_i, p_f, p_o = p.chunk(3) if p.dim() else (p, p, p)
    i, f, g, o = (x + recurrent(layer, h, suffix)).chunk(4, -1)
    c = gate(f + p_f * c) * c + gate(i + p_i * c) * g.tanh()
    c = c.clamp(-clip, clip)
    return gate(o + p_o * c) * c.tanh(), c


def hard_sigmoid(x):
    return F.relu6(x + 3) / 6


def keras2_hard_sigmoid(x):
    return (0.2 * x + 0.5).clamp(0, 1)


def clipped_lstm(*args):
    return lstm(*args, gate=hard_sigmoid, clip=0.3)


def old_lstm(*args):
    return lstm(*args, gate=keras2_hard_sigmoid)


def gru(layer, x, states, suffix, gate=torch.sigmoid):
    (h,) = states
    x_r, x_z, x_n = x.chunk(3, -1)
    h_r, h_z, h_n = recurrent(layer, h, suffix).chunk(3, -1)
    r, z = gate(x_r + h_r), gate(x_z + h_z)
    if not layer.reset_after:
        h_n = recurrent(layer, r * h, suffix).chunk(3, -1)[2]
        r = 1
    return ((1 - z) * (x_n + r * h_n).tanh() + z * h,)


def hard_gru(*args):
    return gru(*args, gate=hard_sigmoid)


def elman(layer, x, states, suffix):
    return ((x + recurrent(layer, states[0], suffix)).tanh(),)


def indrnn(layer, x, states, suffix):
    """Li et al. 2018, arXiv:1803.04831, equation 2."""
    x = x + tensor_of(layer, "weight_unit", suffix) * states[0]
    return (x.relu() if layer.nonlinearity == "relu" else x.tanh(),)


def slstm(layer, x, states, suffix):
    """Beck et al. 2024, arXiv:2405.04517, equations 8 to 14, without the stabiliser m: h is the same."""
    h, c, n = states
    i, f, z, o = (x + recurrent(layer, h, suffix)).chunk(4, -1)
    i, f = i.exp(), f.sigmoid()
    c, n = f * c + i * z.tanh(), f * n + i
    return o.sigmoid() * c / n, c, n


def norms(layer, x, h, suffix, shapes):
    """The normalised products of x and of h, for all gates, and the unit weights after the gains."""
    rows = layer.weight_ih_l0.shape[0]
    a_x, a_h, more = tensor_of(layer, "weight_unit", suffix).split([rows, rows, len(shapes) % 2 * 2 * H])
    b_x, b_h = (tensor_of(layer, name, suffix) for name in ("bias_ih", "bias_hh"))

    def norm(product, gain):
        parts = zip(product.split(shapes, -1), gain.split(shapes), strict=True)
        return torch.cat([F.layer_norm(part, part.shape[-1:], a) for part, a in parts], -1)

    return norm(x - b_x, a_x) + b_x, norm(recurrent(layer, h, suffix) - b_h, a_h) + b_h, more


def normed_lstm(layer, x, states, suffix):
    """Ba et al. 2016, arXiv:1607.06450, equations 20 to 22."""
    h, c = states
    gx, gh, of_c = norms(layer, x, h, suffix, [4 * H])
    i, f, g, o = (gx + gh).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * F.layer_norm(c, (H,), *of_c.chunk(2)).tanh(), c


def normed_gru(layer, x, states, suffix):
    """Ba et al. 2016, arXiv:1607.06450, equations 23 to 25, with torch.nn's z."""
    (h,) = states
    gx, gh, _ = norms(layer, x, h, suffix, [2 * H, H])
    r, z = (gx + gh).sigmoid()[:, : 2 * H].chunk(2, -1)
    return ((1 - z) * (gx[:, 2 * H :] + r * gh[:, 2 * H :]).tanh() + z * h,)


# The class, its arguments, the equations and their number of states.
KINDS = {
    "peephole": (seqcuda.LSTM, {"peephole": True}, lstm, 2),
    "peephole, clip, hard": (
        seqcuda.LSTM,
        {"peephole": True, "cell_clip": 0.3, "gate_activation": "hard_sigmoid"},
        clipped_lstm,
        2,
    ),
    "hard_sigmoid_0.2": (seqcuda.LSTM, {"gate_activation": "hard_sigmoid_0.2"}, old_lstm, 2),
    "LSTM, heads": (seqcuda.LSTM, {"heads": 2}, lstm, 2),
    "GRU, hard": (seqcuda.GRU, {"gate_activation": "hard_sigmoid"}, hard_gru, 1),
    "GRU, reset before, hard": (seqcuda.GRU, {"gate_activation": "hard_sigmoid", "reset_after": False}, hard_gru, 1),
    "GRU, reset before, heads": (seqcuda.GRU, {"heads": 4, "reset_after": False}, gru, 1),
    "RNN, heads": (seqcuda.RNN, {"heads": 8}, elman, 1),
    "IndRNN": (seqcuda.IndRNN, {}, indrnn, 1),
    "IndRNN, tanh": (seqcuda.IndRNN, {"nonlinearity": "tanh", "bias": False}, indrnn, 1),
    "SLSTM": (seqcuda.SLSTM, {}, slstm, 3),
    "SLSTM, heads": (seqcuda.SLSTM, {"heads": 2, "bias": False}, slstm, 3),
    "LSTM, layer norm": (seqcuda.LSTM, {"layer_norm": True}, normed_lstm, 2),
    "GRU, layer norm": (seqcuda.GRU, {"layer_norm": True}, normed_gru, 1),
    "GRU, layer norm, heads": (seqcuda.GRU, {"layer_norm": True, "heads": 2, "bias": False}, normed_gru, 1),
}


def make(kind: str, **more) -> torch.nn.Module:
    cls, arguments, _, _ = KINDS[kind]
    torch.manual_seed(0)
    layer = cls(I, H, dtype=torch.float64, **arguments, **more)
    for name, parameter in layer.named_parameters():
        if "layer_norm" in arguments and name.startswith("weight_unit"):
            torch.nn.init.normal_(parameter)
    return layer


def loop(layer, equations, states: int, x: torch.Tensor) -> torch.Tensor:
    for number in range(layer.num_layers):
        outputs = []
        for suffix in (f"l{number}", f"l{number}_reverse")[: 2 if layer.bidirectional else 1]:
            gx = x @ tensor_of(layer, "weight_ih", suffix).T + tensor_of(layer, "bias_ih", suffix)
            state, steps = (x.new_zeros(B, H),) * states, []
            for gx_t in gx.flip(0) if "reverse" in suffix else gx:
                state = equations(layer, gx_t, state, suffix)
                steps.append(state[0])
            outputs.append(torch.stack(steps[::-1] if "reverse" in suffix else steps))
        x = torch.cat(outputs, -1)
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_published_equations(kind, backend_name):
    layer, (_, _, equations, states) = make(kind, num_layers=2, bidirectional=True), KINDS[kind]
    x, weight = torch.randn(T, B, I, dtype=torch.float64), torch.randn(T, B, 2 * H, dtype=torch.float64)
    results = []
    for run in (lambda x: layer(x)[0], lambda x: loop(layer, equations, states, x)):
        own = x.clone().requires_grad_()
        y = run(own)
        gradients = torch.autograd.grad((y * weight).sum(), [own, *layer.parameters()])
        results.append(torch.cat([t.flatten() for t in (y, *gradients)]))
    assert_close_to_exact(*results)


@needs_extension
@pytest.mark.parametrize("heads", [2, 3, 12])
@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if cell.recurrent])
def test_heads_are_a_matrix_with_zeros(cell, heads):
    """The op with blocks and with the matrix that they are, both ways to save, gates too."""
    for save in ("all", "states"):
        problem = Problem(cell, T=9, B=5, H=12, heads=heads, reverse=(False, True), ragged="lengths", save=save)
        inputs, walk = problem.inputs(), problem.walk()._replace(return_gates=True)
        gates = CELLS[cell].gates
        whole = [dense(w, gates) if j % 6 == 1 else w for j, w in enumerate(inputs.weights)]
        for engine in seqcuda.engines():
            with seqcuda.backend(engine):
                ours, exact = (
                    autograd.sequence(walk, inputs._replace(weights=tuple(w))) for w in (inputs.weights, whole)
                )
            alive = torch.arange(9)[:, None] < inputs.lengths
            for name, a, b in zip(ours._fields, ours, exact, strict=True):
                at = alive[..., None].to(a) if name in ("c_all", "gates") else 1
                assert_close_to_exact(a * at, b * at, name=name)
    assert torch.equal(blocks_of(whole[1], gates, heads), inputs.weights[1])


@needs_extension
def test_gradients_of_samples_with_heads():
    for cell in ("gru_reset_before", "lstm_peephole"):
        problem = Problem(cell, B=6, H=4, heads=2, reverse=(False, True), save="states", ragged="lengths")
        assert_groups_add_up(problem, torch.ops.seqcuda)


@pytest.mark.parametrize("kind", ["LSTM, heads", "GRU, reset before, heads", "SLSTM, heads", "GRU, layer norm, heads"])
def test_derivatives_with_heads(kind):
    """Forward mode and double backward, through the ops that know whole matrices or the reference."""
    layer = make(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(3, 2, I, dtype=torch.float64)

    def outputs(*values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), x)[0]

    inputs = [p.requires_grad_() for p in parameters.values()]
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_streams_are_the_sequence(kind):
    layer = make(kind, num_layers=2)
    x = torch.randn(T, B, I, dtype=torch.float64)
    y, final, every = layer(x, return_states=True)
    stream, hx = layer.stream(B), None
    for x_t, y_t in zip(x, y, strict=True):
        out, hx = layer.step(x_t, hx)
        assert_close_to_exact(out, y_t)
        assert_close_to_exact(stream(x_t), y_t)
    several = isinstance(final, tuple)
    states = (every.h, every.c, *every.others) if several else (every.h,)
    for a, b, steps in zip(final if several else (final,), hx if several else (hx,), states, strict=True):
        assert_close_to_exact(b, a)
        assert torch.equal(steps[-1], a)
    middle = tuple(s[2] for s in states) if several else states[0][2]
    assert_close_to_exact(layer(x[3:], middle)[0], y[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_packing(kind, backend_name):
    layer, lengths = make(kind, bidirectional=True), [6, 2, 4]
    x = torch.randn(T, B, I, dtype=torch.float64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    theirs, final = layer(packed)
    ours, final_of_lengths = layer(x, lengths=lengths)
    assert_close_to_exact(ours, torch.nn.utils.rnn.pad_packed_sequence(theirs)[0])
    for a, b in zip(final_of_lengths, final, strict=True):
        assert_close_to_exact(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_state_dicts(kind):
    layer, x = make(kind, num_layers=2, bidirectional=True), torch.randn(T, B, I, dtype=torch.float64)
    twin = make(kind, num_layers=2, bidirectional=True)
    for parameter in twin.parameters():
        torch.nn.init.zeros_(parameter)
    twin.load_state_dict(layer.state_dict())
    for copied in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x)[0], layer(x)[0])
        assert repr(copied) == repr(layer)


def test_parameters_only_where_they_are_asked_for():
    plain = torch.nn.LSTM(I, H, 2).state_dict()
    for arguments in ({}, {"cell_clip": 1.0}, {"gate_activation": "hard_sigmoid"}, {"forget_bias": 1.0}):
        assert seqcuda.LSTM(I, H, 2, **arguments).state_dict().keys() == plain.keys()
    more = seqcuda.LSTM(I, H, 2, peephole=True).state_dict()
    assert more.keys() - plain.keys() == {"weight_unit_l0", "weight_unit_l1"}
    assert more["weight_unit_l0"].shape == (3 * H,)
    assert {name: tuple(p.shape) for name, p in seqcuda.IndRNN(I, H).named_parameters()} == {
        "weight_ih_l0": (H, I),
        "bias_ih_l0": (H,),
        "weight_unit_l0": (H,),
    }
    assert seqcuda.SLSTM(I, H, heads=2).weight_hh_l0.shape == (4 * H, H // 2)
    assert seqcuda.LSTM(I, H, layer_norm=True).weight_unit_l0.shape == (10 * H,)
    assert seqcuda.GRU(I, H, layer_norm=True).weight_unit_l0.shape == (6 * H,)
    skipped = torch.nn.utils.skip_init(seqcuda.LSTM, I, H, peephole=True, heads=2)
    assert {name: p.shape for name, p in skipped.named_parameters()} == {
        name: p.shape for name, p in seqcuda.LSTM(I, H, peephole=True, heads=2).named_parameters()
    }


@pytest.mark.parametrize("kind", ["peephole, clip, hard", "IndRNN", "SLSTM, heads", "LSTM, layer norm"])
def test_bfloat16_and_autocast(kind):
    layer, x = make(kind).float(), torch.randn(T, B, I)
    exact = layer.double()(x.double())[0]
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)[0]
    assert y.dtype == torch.bfloat16
    assert_close_to_exact(y, exact)
    assert_close_to_exact(layer.bfloat16()(x.bfloat16())[0], exact)


def test_large_exponents_of_an_slstm_stay_finite(backend_name):
    layer = make("SLSTM").float()
    with torch.no_grad():
        layer.bias_ih_l0[:H] = torch.linspace(-200, 200, H)  # of the input gate
        layer.bias_ih_l0[H : 2 * H] = 100
    x = torch.randn(T, B, I, requires_grad=True)
    y, _ = layer(x)
    y.sum().backward()
    assert_close_to_exact(y, copy.deepcopy(layer).double()(x.double())[0])
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


def test_initialisation_of_the_unit_weights():
    assert all(0 <= u <= 1 for u in seqcuda.IndRNN(I, 100).weight_unit_l0)
    assert seqcuda.LSTM(I, 100, peephole=True).weight_unit_l0.abs().max() <= 0.1
    for layer in (seqcuda.LSTM(I, H, layer_norm=True, bidirectional=True), seqcuda.GRU(I, H, layer_norm=True)):
        layer.reset_parameters()
        units = [p for name, p in layer.named_parameters() if name.startswith("weight_unit")]
        gains = 9 * H if isinstance(layer, seqcuda.LSTM) else 6 * H
        assert all(u[:gains].eq(1).all() and u[gains:].eq(0).all() for u in units)


@pytest.mark.parametrize("of_cell", [False, True])
def test_forget_bias_is_an_initialisation(of_cell):
    def make(**arguments):
        torch.manual_seed(0)
        if of_cell:
            return seqcuda.LSTMCell(I, H, **arguments)
        return seqcuda.LSTM(I, H, 2, bidirectional=True, **arguments)

    plain, layer = make(), make(forget_bias=1.5)
    for name, parameter in layer.named_parameters():
        expected = plain.get_parameter(name).detach().clone()
        if name.startswith("bias"):
            expected[H : 2 * H] = 1.5 if "ih" in name else 0
        assert torch.equal(parameter, expected), name
    assert "forget_bias=1.5" in repr(layer)
    assert "forget_bias" not in repr(plain)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    layer.reset_parameters()
    assert all(b[H : 2 * H].eq(1.5).all() for name, b in layer.named_parameters() if name.startswith("bias_ih"))


def test_representation():
    layer = seqcuda.LSTM(I, H, peephole=True, cell_clip=3, gate_activation="hard_sigmoid", heads=2)
    assert repr(layer) == "LSTM(4, 8, heads=2, peephole=True, cell_clip=3, gate_activation='hard_sigmoid')"
    gru = seqcuda.GRU(I, H, reset_after=False, gate_activation="hard_sigmoid")
    assert repr(gru) == "GRU(4, 8, reset_after=False, gate_activation='hard_sigmoid')"
    assert repr(seqcuda.IndRNN(I, H, nonlinearity="tanh")) == "IndRNN(4, 8, nonlinearity='tanh')"
    assert repr(seqcuda.LSTM(I, H, layer_norm=True)) == "LSTM(4, 8, layer_norm=True)"
    assert repr(seqcuda.SLSTM(I, H, 2, heads=4)) == "SLSTM(4, 8, num_layers=2, heads=4)"


MISTAKES = [
    ("LSTM", {"forget_bias": "1"}, TypeError, "LSTM: forget_bias must be a number or None, got str"),
    ("LSTMCell", {"forget_bias": "1"}, TypeError, "LSTMCell: forget_bias must be a number or None, got str"),
    ("LSTM", {"forget_bias": 1, "bias": False}, ValueError, "LSTM: forget_bias=1 needs bias=True"),
    ("LSTM", {"peephole": 1}, TypeError, "LSTM: peephole must be a bool, got int"),
    ("LSTM", {"cell_clip": 0}, ValueError, "LSTM: cell_clip must be a positive number or None, got 0"),
    ("LSTM", {"gate_activation": "relu"}, ValueError, "LSTM: gate_activation must be one of sigmoid, hard_sigmoid, "),
    ("GRU", {"gate_activation": "relu"}, ValueError, "GRU: gate_activation must be one of sigmoid, hard_sigmoid, "),
    ("IndRNN", {"nonlinearity": "selu"}, ValueError, "IndRNN: nonlinearity must be relu or tanh, got 'selu'"),
    ("IndRNN", {"recurrent_dropout": 0.5}, ValueError, "IndRNN: recurrent_dropout and weight_dropout drop of"),
    ("SLSTM", {"zoneout": 0.5}, ValueError, "SLSTM: zoneout cannot mix states that are scaled by another, got 0.5"),
    ("IndRNN", {"heads": 2}, ValueError, "IndRNN: heads=2 are blocks of weight_hh, which this layer does not have"),
    ("IndRNN", {"proj_size": 2}, ValueError, "IndRNN: proj_size is for the LSTM alone"),
    ("SLSTM", {"proj_size": 2}, ValueError, "SLSTM: proj_size is for the LSTM alone"),
    ("SLSTM", {"heads": 3}, ValueError, "SLSTM: heads must divide hidden_size, without proj_size, got heads=3, hid"),
    ("LSTM", {"heads": 2, "proj_size": 4}, ValueError, "LSTM: heads must divide hidden_size, without proj_size"),
    ("RNN", {"heads": 0}, ValueError, "RNN: heads must be a positive int, got 0"),
    ("GRU", {"layer_norm": 1}, TypeError, "GRU: layer_norm must be a bool, got int"),
    (
        "LSTM",
        {"layer_norm": True, "peephole": True},
        ValueError,
        "LSTM: layer_norm goes without peephole, cell_clip",
    ),
    ("LSTM", {"layer_norm": True, "proj_size": 4}, ValueError, "LSTM: layer_norm goes without proj_size, got proj_siz"),
    ("GRU", {"layer_norm": True, "reset_after": False}, ValueError, "GRU: layer_norm goes without reset_after=False"),
]


@pytest.mark.parametrize(("kind", "arguments", "error", "message"), MISTAKES)
def test_mistakes(kind, arguments, error, message):
    with pytest.raises(error) as raised:
        getattr(seqcuda, kind)(I, H, **arguments)
    assert str(raised.value).startswith(message)


def test_states_and_weights_that_do_not_fit():
    x = torch.randn(T, B, I)
    with pytest.raises(ValueError, match="SLSTM: decay cannot be of states that are scaled by another"):
        seqcuda.SLSTM(I, H)(x, decay=torch.ones(T, B, H))
    with pytest.raises(TypeError, match=r"SLSTM: hx must be a tuple of 4 Tensors \(h, c, n, m\), got tuple of 2"):
        seqcuda.SLSTM(I, H)(x, (torch.zeros(1, B, H),) * 2)
    weights = [torch.zeros(4 * H, I), torch.zeros(4 * H, H)]
    expected = (
        "must hold weight_ih, weight_hh, \\[bias_ih\\], \\[bias_hh\\], \\[weight_hr\\], weight_unit for each of 1"
    )
    with pytest.raises(RuntimeError, match=expected):
        seqcuda.functional.lstm(x, None, weights, peephole=True)
    with pytest.raises(RuntimeError, match=r"weight 2 has shape \(8,\), expected \(24,\)"):
        seqcuda.functional.lstm(x, None, [*weights, torch.zeros(H)], peephole=True)


@needs_extension
@pytest.mark.parametrize("kind", ["peephole, clip, hard", "IndRNN", "SLSTM, heads", "LSTM, layer norm"])
def test_one_graph_for_every_length(kind):
    torch._dynamo.reset()  # it compiles one function only so often, and what other tests did counts
    layer = make(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps in (T, 2 * T):
        x = torch.randn(steps, B, I, dtype=torch.float64)
        ours, exact = compiled(x)[0], layer(x)[0]
        assert_close_to_exact(ours, exact)
        gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (ours, exact)]
        for a, b in zip(*gradients, strict=True):
            assert_close_to_exact(a, b)


@needs_extension
@pytest.mark.parametrize("kind", ["peephole", "IndRNN", "SLSTM", "LSTM, layer norm"])
def test_gradients_of_each_sample(kind):
    layer, x = make(kind), torch.randn(B, T, I, dtype=torch.float64)

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    parameters = dict(layer.named_parameters())
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(B):
        alone = torch.autograd.grad(loss(parameters, x[i]), list(parameters.values()))
        for ours, exact in zip(each.values(), alone, strict=True):
            assert_close_to_exact(ours[i], exact)


def test_convert_leaves_what_torch_does_not_have():
    model = torch.nn.ModuleList([seqcuda.LSTM(I, H, cell_clip=1.0), seqcuda.GRU(I, H, heads=2), seqcuda.IndRNN(I, H)])
    report = []
    seqcuda.convert(model, to="torch", report=report)
    assert [entry.swapped for entry in report] == [False] * 3
    assert str(report[0]) == "0: LSTM, left: torch.nn has no LSTM(4, 8, cell_clip=1.0)"
    assert str(report[1]) == "1: GRU, left: torch.nn has no GRU(4, 8, heads=2)"
    seqcuda.convert(model, report=report)
    assert len(report) == 3
    assert type(seqcuda.convert(seqcuda.LSTM(I, H, forget_bias=1.0), to="torch")) is torch.nn.LSTM


@needs_extension
def test_explain_knows_them():
    for kind in KINDS:
        (plan,) = seqcuda.explain(make(kind), torch.randn(T, B, I, dtype=torch.float64))
        assert plan.engine in seqcuda.engines()
