"""Export to ONNX: a layer becomes the operator RNN, LSTM or GRU.

Needs the packages onnx and onnxscript, as torch.onnx.export does.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from . import _backend
from .cells import CELLS
from .walk import WEIGHTS_PER_DIRECTION

# The operator, its attributes, and its order of the blocks of rows of the weights: of gates, by our names.
_OPERATORS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "rnn_tanh": ("RNN", {"activations": ["Tanh"]}, ("h",)),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}, ("h",)),
    "lstm": ("LSTM", {}, ("i", "o", "f", "g")),
    "gru": ("GRU", {"linear_before_reset": 1}, ("z", "r", "n")),
    "gru_reset_before": ("GRU", {"linear_before_reset": 0}, ("z", "r", "n")),
}


def export(
    model: torch.nn.Module,
    args: tuple[Any, ...] = (),
    f: str | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: dict[str, Any] | tuple[Any, ...] | list[Any] | None = None,
    **options,
) -> torch.onnx.ONNXProgram:
    """torch.onnx.export for a model with recurrent layers; each layer becomes one ONNX operator.

    Translated are the cells of torch.nn and the GRU with reset_after=False, directions, layers, initial states, and
    `lengths`, which become sequence_lens. A GRU of either kind becomes a GRU by the attribute linear_before_reset. The
    number of steps and the batch stay free where `dynamic_shapes` says so.

    Args:
        model: in eval mode, if it is to be exported without dropout.
        args, f, kwargs, dynamic_shapes: as for ``torch.onnx.export(..., dynamo=True)``.
        options: the other arguments of torch.onnx.export.

    Raises:
        RuntimeError: the extension is not built, so that there is no op to translate.
        ValueError: a layer does what no ONNX operator does: a projection, resets, a decay, zoneout, packed data, or the
            states of all steps beside h.
    """
    if _backend.compiled is None:
        raise RuntimeError(f"seqcuda.onnx: {_backend.why_not_compiled}")
    sequence = torch.ops.seqcuda.sequence.default
    table = {sequence: _translate} | options.pop("custom_translation_table", {})
    with torch.no_grad():
        program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes)
        for node in program.graph.nodes:
            if node.target is sequence:
                _check(node)
        return torch.onnx.export(
            program, f=f, dynamo=True, dynamic_shapes=dynamic_shapes, custom_translation_table=table, **options
        )


def _check(node: torch.fx.Node) -> None:
    """What ONNX has no operator for, named."""
    cell, _, weights, _, _, _, batch_sizes, resets, *_ = node.args
    used = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    refused = {
        f"cell {cell!r}": cell not in _OPERATORS,
        "a projection (proj_size)": weights[4] is not None,
        "packed data; use lengths=": batch_sizes is not None,
        "resets": resets is not None,
        "a decay, recurrent dropout or zoneout": len(node.args) > 13 and node.args[13] is not None,
        "the states of all steps (return_states), of which only h is an output": not used <= {0, 1, 2},
    }
    for what, given in refused.items():
        if given:
            raise ValueError(f"seqcuda.onnx: ONNX has no operator for {what}")


def _translate(
    cell, x, weights, h0, c0, lengths, batch_sizes, resets, reset_h, reset_c, reverse, save, engine, factors=None,
    detach_every=0, options=(),
):  # fmt: skip
    """The op `seqcuda::sequence` in ONNX; the arguments are seqcuda/walk.py's, the tensors symbolic."""
    from onnxscript import INT32, ir
    from onnxscript import opset18 as op

    name, attributes, order = _OPERATORS[cell]
    gates = CELLS[cell].gate_names

    hidden, columns = weights[0].shape[0] // len(gates), weights[1].shape[1]
    rows = [gates.index(gate) * hidden + unit for gate in order for unit in range(hidden)]

    def directions(index):
        """A weight or bias of every direction, its rows in the operator's order: (D, G*H, .)."""
        reordered = (op.Gather(w, rows, axis=0) for w in weights[index::WEIGHTS_PER_DIRECTION])
        return op.Concat(*(op.Unsqueeze(w, [0]) for w in reordered), axis=0)

    if columns < hidden:  # heads: the blocks with zeros between them
        heads = hidden // columns
        own = op.Constant(value_floats=[float(i == j) for i in range(heads) for j in range(heads)])
        own = op.Reshape(own, [heads, 1, heads, 1])
        weights = list(weights)
        for i in range(1, len(weights), WEIGHTS_PER_DIRECTION):
            blocks = op.Reshape(weights[i], [len(gates), heads, columns, 1, columns])
            weights[i] = op.Reshape(op.Mul(blocks, op.CastLike(own, blocks)), [len(gates) * hidden, hidden])
    w_ih, w_hh = directions(0), directions(1)
    bias = None if weights[2] is None else op.Concat(directions(2), directions(3), axis=1)
    direction = "bidirectional" if len(reverse) == 2 else "reverse" if reverse[0] else "forward"
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * len(reverse)}
    first = [h0] if name != "LSTM" else [h0, None if c0 is None else op.Squeeze(c0, [0])]
    ends = None if lengths is None else op.Cast(lengths, to=INT32.dtype)
    operate = getattr(op, name)
    y, *last = operate(x, w_ih, w_hh, bias, ends, *first, hidden_size=hidden, direction=direction, **attributes)
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, D, B, H) to (T, B, D*H)
    if lengths is not None and h0 is not None:
        # A row of length 0 keeps its state; ONNX leaves it open, and onnxruntime gives 0.
        empty = op.Unsqueeze(op.Equal(lengths, 0), [0, 2])
        last = [op.Where(empty, old, new) for old, new in zip(first, last, strict=True)]
    h_n, *c_n = last
    c_n = op.Unsqueeze(c_n[0], [0]) if c_n else ir.Value()
    return y, h_n, c_n, ir.Value(), ir.Value()  # values that no node gives; `_check` has seen that none takes them
