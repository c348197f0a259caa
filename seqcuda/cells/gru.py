"""GRU with the reset gate after the recurrent product, as torch.nn.GRU and cuDNN compute it."""

from .cell import Cell


def step(gx, recurrent, states):
    (h,) = states
    xr, xz, xn = gx.chunk(3, -1)
    hr, hz, hn = recurrent(h).chunk(3, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    return (n + z * (h - n),), (r, z, n)


GRU = Cell(name="gru", gate_names=("r", "z", "n"), state_names=("h",), saved=4, step=step)
