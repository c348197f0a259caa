"""Elman RNN with tanh: Elman 1990, as torch.nn.RNN(nonlinearity="tanh") computes it."""

from .cell import Cell


def step(gx, recurrent, states):
    h = (gx + recurrent(states[0])).tanh()
    return (h,), (h,)


RNN_TANH = Cell(name="rnn_tanh", gate_names=("h",), state_names=("h",), saved=0, step=step)
