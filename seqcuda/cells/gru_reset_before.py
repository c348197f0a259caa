"""GRU with the reset gate before the recurrent product: Cho et al. 2014 (arXiv:1406.1078), equations 5 to 8,
with the update gate in torch.nn's sense (z keeps the old state); with hard_sigmoid the slope of the gates is an
option."""

from dataclasses import replace

from .cell import Cell, gate


def step(gx, recurrent, states, unit=(), options=(0.0,)):
    (h,) = states
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz = recurrent(h, 0, 2).chunk(2, -1)
    r, z = gate(xr + hr, *options), gate(xz + hz, *options)
    n = (xn + recurrent(r * h, 2, 3)).tanh()
    return (n + z * (h - n),), (r, z, n)


GRU_RESET_BEFORE = Cell(name="gru_reset_before", gate_names=("r", "z", "n"), state_names=("h",), saved=3, step=step)
GRU_RESET_BEFORE_HARD_SIGMOID = replace(GRU_RESET_BEFORE, name="gru_reset_before_hard_sigmoid", options=(0.0,))
