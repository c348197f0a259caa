"""LSTM with layer normalisation: Ba et al. 2016 (arXiv:1607.06450), equations 20 to 22::

    (i, f, g, o) = norm(x W_ih^T) a_x + b_ih + norm(h W_hh^T) a_h + b_hh
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(norm(c') a_c + b_c)

norm(v) is ``(v - mean(v)) / sqrt(variance(v) + 1e-5)``, for a product over all 4 H numbers of a row. The paper's biases
of the two norms are b_ih and b_hh.
"""

from .cell import Cell, normalised


def step(gx, recurrent, states, unit, options):
    h, c = states
    *_, a_c, b_c = unit
    i, f, g, o = (gx + recurrent(h)).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return (o * (normalised(c) * a_c + b_c).tanh(), c), (i, f, g, o)


LSTM_LAYER_NORM = Cell(
    name="lstm_layer_norm",
    gate_names=("i", "f", "g", "o"),
    state_names=("h", "c"),
    saved=9,
    step=step,
    unit_names=(*(f"a_{of}{gate}" for of in "xh" for gate in "ifgo"), "a_c", "b_c"),
    norms=((0, 4),),
)
