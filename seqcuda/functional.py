"""One function per sequence layer (`rnn`, `lstm`, `gru`) and per cell (`rnn_cell`, `lstm_cell`, `gru_cell`).

`T` steps, `B` rows of the batch, `I` input features, `H` hidden units, `P` width of h (H, or proj_size), `L` layers,
`D` directions, `G` gates.

Arguments of the sequence layers:

- input: ``(T, B, I)``, ``(B, T, I)`` with `batch_first`, unbatched ``(T, I)``, a PackedSequence, or a NestedTensor
  ``(B, j, I)`` of layout torch.jagged, which gives such an output.
- hx: the initial state, ``(L*D, B, P)``; for the LSTM a tuple of it and c ``(L*D, B, H)``; unbatched without B. None
  for zeros.
- weights: a flat list in the order of ``torch.nn.LSTM``: for each layer, for each direction ``weight_ih``,
  ``weight_hh``, with biases ``bias_ih``, ``bias_hh``, with a projection ``weight_hr``, with unit weights
  ``weight_unit``.
- lengths: ``(B,)`` integers, a tensor on any device or a list, in any order, 0 allowed: row b ends after
  ``lengths[b]`` steps. The output is 0 past the end, h_n is the state at the end, the reverse direction starts
  there. Values on the CPU are checked; on other devices they are clamped to [0, T], as checking would wait for the
  device. Not together with a PackedSequence or NestedTensor.
- resets: bool ``(T, B)``, ``(B, T)`` with `batch_first`, ``(T,)`` unbatched; for packed input ``(T, B)`` in the
  original order of the batch, or packed as the input is; for nested input nested by the same offsets. Where true at
  t, the state that enters step t is `reset_state`, in every direction; in the reverse direction what enters step t
  comes from t + 1, so that there a reset at t cuts between t + 1 and t. Ignored past the end of a row.
- reset_state: as hx, or broadcastable to it; None for zeros. It can be learned.
- decay: as hx's states multiplied by it at step t, `reset_state` included: broadcastable to ``(T, B, P)``, see
  ``seqcuda.LSTM.forward``. Differentiable.
- num_layers, bidirectional, dropout, training, batch_first: as in torch.nn.
- return_states: True adds a third result, `RNNStates`; "gates" the activated gates as well.
- save: what training keeps from the forward for the backward: "all"; "states", which computes the gates again; or k,
  the states beside h after every k steps at most, and what is between again.
- recurrent_dropout, zoneout, weight_dropout: as in the constructor of seqcuda.LSTM.
- detach_every: k cuts the gradient of the state after every k steps; 0: nowhere.
- heads: W_hh is block-diagonal of so many blocks, and ``weight_hh (G*H, H/heads)`` holds them one below the other.

Results of the sequence layers: the output ``(T, B, D*P)``, in the form of the input, and h_n, or (h_n, c_n), as hx.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import layers
from .cells import CELLS, Cell
from .layers import RNNStates, Stack
from .walk import Walk

__all__ = ["RNNStates", "gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]


def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: list[Tensor],
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | list[int] | None = None,
    resets: Tensor | PackedSequence | None = None,
    reset_state: Tensor | None = None,
    decay: Tensor | PackedSequence | None = None,
    **options,
):
    """Elman RNN, `nonlinearity` "tanh" or "relu": output, h_n[, RNNStates]. Arguments: see the module.

    `options`: those from num_layers on in the list of the module.
    """
    cell = CELLS[rnn_cell_name("RNN", nonlinearity)]
    return layers.run(Stack.of(cell, "RNN", options), input, hx, weights, lengths, resets, reset_state, decay)


def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
    weights: list[Tensor],
    *,
    lengths: Tensor | list[int] | None = None,
    resets: Tensor | PackedSequence | None = None,
    reset_state: tuple[Tensor, Tensor] | None = None,
    decay: Tensor | PackedSequence | tuple[Tensor | PackedSequence | None, ...] | None = None,
    peephole: bool = False,
    cell_clip: float | None = None,
    gate_activation: str = "sigmoid",
    layer_norm: bool = False,
    **options,
):
    """LSTM: output, (h_n, c_n)[, RNNStates]. Arguments: see the module.

    `peephole`, `cell_clip`, `gate_activation`, `layer_norm`: as in seqcuda.LSTM. Each direction's weights end with
    ``weight_unit``, (3*H) with peepholes and (10*H) with layer normalisation.
    `options`: those from num_layers on in the list of the module.
    """
    cell = lstm_variant("LSTM", peephole, cell_clip, gate_activation, layer_norm)
    return layers.run(Stack.of(cell, "LSTM", options), input, hx, weights, lengths, resets, reset_state, decay)


def gru(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: list[Tensor],
    *,
    reset_after: bool = True,
    gate_activation: str = "sigmoid",
    layer_norm: bool = False,
    lengths: Tensor | list[int] | None = None,
    resets: Tensor | PackedSequence | None = None,
    reset_state: Tensor | None = None,
    decay: Tensor | PackedSequence | None = None,
    **options,
):
    """GRU: output, h_n[, RNNStates]. Arguments: see the module.

    `reset_after`: the reset gate multiplies the recurrent product, as in torch.nn; False: the state before it.
    `gate_activation`, `layer_norm`: as in seqcuda.GRU. With layer normalisation each direction's weights end with
    ``weight_unit (6*H)``.
    `options`: those from num_layers on in the list of the module.
    """
    cell = gru_variant("GRU", reset_after, gate_activation, layer_norm)
    return layers.run(Stack.of(cell, "GRU", options), input, hx, weights, lengths, resets, reset_state, decay)


def rnn_cell(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
) -> Tensor:
    """One step of an Elman RNN: h' ``(B, H)`` from input ``(B, I)`` and hx ``(B, H)`` or None; B may be missing."""
    walk = _WALKS[rnn_cell_name("RNNCell", nonlinearity)]
    return layers.step(walk, "RNNCell", input, hx, (weight_ih, weight_hh, bias_ih, bias_hh))[0]


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: (h', c') from input ``(B, I)`` and hx (h, c) of ``(B, H)`` or None; B may be missing."""
    return layers.step(_WALKS["lstm"], "LSTMCell", input, hx, (weight_ih, weight_hh, bias_ih, bias_hh))


def gru_cell(
    input: Tensor,
    hx: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
) -> Tensor:
    """One step of a GRU: h' ``(B, H)`` from input ``(B, I)`` and hx ``(B, H)`` or None; B may be missing."""
    walk = _WALKS[gru_cell_name(reset_after)]
    return layers.step(walk, "GRUCell", input, hx, (weight_ih, weight_hh, bias_ih, bias_hh))[0]


def rnn_cell_name(name: str, nonlinearity: str) -> str:
    """The cell of an RNN; `name` is for the message."""
    if nonlinearity not in ("tanh", "relu"):
        raise RuntimeError(f"{name}: Unknown nonlinearity: {nonlinearity}, expected 'tanh' or 'relu'")
    return f"rnn_{nonlinearity}"


# What a gate's straight line rises by, by the name of its function; 0: it is no straight line.
_SLOPES = {"sigmoid": 0.0, "hard_sigmoid": 1 / 6, "hard_sigmoid_0.2": 0.2}


def _slope(name: str, gate_activation: str) -> float:
    if gate_activation not in _SLOPES:
        raise ValueError(f"{name}: gate_activation must be one of {', '.join(_SLOPES)}, got {gate_activation!r}")
    return _SLOPES[gate_activation]


def _check_layer_norm(name: str, layer_norm: bool) -> None:
    if not isinstance(layer_norm, bool):
        raise TypeError(f"{name}: layer_norm must be a bool, got {type(layer_norm).__name__}")


def lstm_variant(
    name: str, peephole: bool, cell_clip: float | None, gate_activation: str, layer_norm: bool = False
) -> Cell:
    """The cell of an LSTM; `name` is for the messages."""
    if not isinstance(peephole, bool):
        raise TypeError(f"{name}: peephole must be a bool, got {type(peephole).__name__}")
    number = isinstance(cell_clip, (int, float)) and not isinstance(cell_clip, bool)
    if cell_clip is not None and not (number and cell_clip > 0):
        raise ValueError(f"{name}: cell_clip must be a positive number or None, got {cell_clip!r}")
    slope = _slope(name, gate_activation)
    _check_layer_norm(name, layer_norm)
    if not (peephole or cell_clip or slope):
        return CELLS["lstm_layer_norm" if layer_norm else "lstm"]
    if layer_norm:
        raise ValueError(
            f"{name}: layer_norm goes without peephole, cell_clip and gate_activation, "
            f"got {peephole}, {cell_clip} and {gate_activation!r}"
        )
    cell = replace(CELLS["lstm_peephole"], options=(float(cell_clip or 0), slope))
    return cell if peephole else replace(cell, unit_names=())


def gru_cell_name(reset_after: bool) -> str:
    return "gru" if reset_after else "gru_reset_before"


def gru_variant(name: str, reset_after: bool, gate_activation: str, layer_norm: bool = False) -> Cell:
    """The cell of a GRU; `name` is for the messages."""
    slope, cell = _slope(name, gate_activation), gru_cell_name(reset_after)
    _check_layer_norm(name, layer_norm)
    if layer_norm and (slope or not reset_after):
        raise ValueError(
            f"{name}: layer_norm goes without reset_after=False and gate_activation, "
            f"got {reset_after} and {gate_activation!r}"
        )
    if layer_norm:
        return CELLS["gru_layer_norm"]
    return replace(CELLS[f"{cell}_hard_sigmoid"], options=(slope,)) if slope else CELLS[cell]


_WALKS = {name: Walk(cell) for name, cell in CELLS.items()}
