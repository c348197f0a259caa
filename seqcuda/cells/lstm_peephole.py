"""LSTM with peepholes: Gers and Schmidhuber 2000, Recurrent nets that time and count; the gates see the state c through
one weight for each unit.

Two options: `limit` bounds c, as cell_clip of TensorFlow 1's LSTMCell does, before o and h are made of it; `slope` is
the gates' (`cell.gate`). Without weights the peepholes are closed.
"""

from .cell import Cell, gate


def step(gx, recurrent, states, unit, options):
    h, c = states
    p_i, p_f, p_o = unit or (0, 0, 0)
    limit, slope = options
    i, f, g, o = (gx + recurrent(h)).chunk(4, -1)
    i, f, g = gate(i + p_i * c, slope), gate(f + p_f * c, slope), g.tanh()
    c = f * c + i * g
    c = c.clamp(-limit, limit) if limit > 0 else c
    o = gate(o + p_o * c, slope)
    return (o * c.tanh(), c), (i, f, g, o)


LSTM_PEEPHOLE = Cell(
    name="lstm_peephole",
    gate_names=("i", "f", "g", "o"),
    state_names=("h", "c"),
    saved=4,
    step=step,
    unit_names=("p_i", "p_f", "p_o"),
    options=(0.0, 0.0),
)
