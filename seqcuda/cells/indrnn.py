"""IndRNN: Li et al. 2018 (arXiv:1803.04831), equation 2. Each unit sees its own past alone, through one weight u."""

from .cell import Cell


def step_relu(gx, recurrent, states, unit, options):
    h = (gx + unit[0] * states[0]).relu()
    return (h,), (h,)


def step_tanh(gx, recurrent, states, unit, options):
    h = (gx + unit[0] * states[0]).tanh()
    return (h,), (h,)


INDRNN_RELU = Cell(
    name="indrnn_relu",
    gate_names=("h",),
    state_names=("h",),
    saved=0,
    step=step_relu,
    unit_names=("u",),
    recurrent=False,
)
INDRNN_TANH = Cell(
    name="indrnn_tanh",
    gate_names=("h",),
    state_names=("h",),
    saved=0,
    step=step_tanh,
    unit_names=("u",),
    recurrent=False,
)
