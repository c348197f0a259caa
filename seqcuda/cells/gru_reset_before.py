"""GRU with the reset gate before the recurrent product: Cho et al. 2014 (arXiv:1406.1078), equations 5 to 8,
with the update gate in torch.nn's sense (z keeps the old state)."""

from .cell import Cell


def step(gx, recurrent, states):
    (h,) = states
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz = recurrent(h, 0, 2).chunk(2, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + recurrent(r * h, 2, 3)).tanh()
    return (n + z * (h - n),), (r, z, n)


GRU_RESET_BEFORE = Cell(name="gru_reset_before", gate_names=("r", "z", "n"), state_names=("h",), saved=3, step=step)
