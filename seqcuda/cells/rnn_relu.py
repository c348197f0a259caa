"""Elman RNN with relu, as torch.nn.RNN(nonlinearity="relu") computes it."""

from .cell import Cell


def step(gx, recurrent, states):
    h = (gx + recurrent(states[0])).relu()
    return (h,), (h,)


RNN_RELU = Cell(name="rnn_relu", gate_names=("h",), state_names=("h",), saved=0, step=step)
