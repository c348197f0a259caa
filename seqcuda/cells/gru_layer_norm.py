"""GRU with layer normalisation: Ba et al. 2016 (arXiv:1607.06450), equations 23 to 25, with z in torch.nn's sense::

    (r, z) = norm(x W_ih^T) a_x + b_ih + norm(h W_hh^T) a_h + b_hh
    n = tanh(norm(x W_in^T) a_xn + b_in + sigmoid(r) (norm(h W_hn^T) a_hn + b_hn))
    h' = (1 - sigmoid(z)) n + sigmoid(z) h

norm(v) is ``(v - mean(v)) / sqrt(variance(v) + 1e-5)``, over the 2 H numbers of r and z, and over the H of n. The
paper's biases of the four norms are b_ih and b_hh.
"""

from .cell import Cell
from .gru import step


def normalised_step(gx, recurrent, states, unit, options):
    return step(gx, recurrent, states)


GRU_LAYER_NORM = Cell(
    name="gru_layer_norm",
    gate_names=("r", "z", "n"),
    state_names=("h",),
    saved=7,
    step=normalised_step,
    unit_names=tuple(f"a_{of}{gate}" for of in "xh" for gate in "rzn"),
    norms=((0, 2), (2, 3)),
)
