"""sLSTM: Beck et al. 2024 (arXiv:2405.04517), equations 8 to 17, with the sigmoid forget gate. The input gate is an
exponential; n sums the gates and divides c; m keeps the exponents small and does not change h.

Where n is 0, as in a state of zeros, there is nothing to keep and m' is the exponent of the input gate, as FlashRNN
(arXiv:2412.07752) has it.
"""

import torch
import torch.nn.functional as F

from .cell import Cell


def step(gx, recurrent, states):
    h, c, n, m = states
    i, f, z, o = (gx + recurrent(h)).chunk(4, -1)
    a = F.logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(a, i))
    i, f = (i - m).exp(), (a - m).clamp(max=0).exp()
    z, o = z.tanh(), o.sigmoid()
    c, n = f * c + i * z, f * n + i
    return (o * (c / n), c, n, m), (i, f, z, o)


SLSTM = Cell(name="slstm", gate_names=("i", "f", "z", "o"), state_names=("h", "c", "n", "m"), saved=5, step=step)
