"""GRU with the reset gate after the recurrent product, as torch.nn.GRU and cuDNN compute it; with hard_sigmoid the
slope of the gates is an option."""

from dataclasses import replace

from .cell import Cell, gate


def step(gx, recurrent, states, unit=(), options=(0.0,)):
    (h,) = states
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz, hn = recurrent(h).chunk(3, -1)
    r, z = gate(xr + hr, *options), gate(xz + hz, *options)
    n = (xn + r * hn).tanh()
    return (n + z * (h - n),), (r, z, n)


GRU = Cell(name="gru", gate_names=("r", "z", "n"), state_names=("h",), saved=4, step=step)
GRU_HARD_SIGMOID = replace(GRU, name="gru_hard_sigmoid", options=(0.0,))
