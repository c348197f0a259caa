"""LSTM: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, as torch.nn.LSTM computes it."""

from .cell import Cell


def step(gx, recurrent, states):
    h, c = states
    i, f, g, o = (gx + recurrent(h)).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    return (o * c.tanh(), c), (i, f, g, o)


LSTM = Cell(name="lstm", gate_names=("i", "f", "g", "o"), state_names=("h", "c"), saved=4, step=step)
