"""Export to ONNX, and what onnxruntime then computes, at lengths and batch sizes that the export did not see."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from cases import CELLS, flat
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

import seqcuda
from seqcuda import onnx
from seqcuda.testing import assert_within_rule

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

# What torch's exporter says on its own account.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name"),
]

STACK = {"num_layers": 2, "bidirectional": True}
LAYERS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu"} | STACK),
    ("LSTM", {}),
    ("LSTM", STACK),
    ("LSTM", {"num_layers": 2, "batch_first": True}),
    ("GRU", {}),
    ("GRU", STACK),
    ("GRU", {"reset_after": False}),
    ("LSTM", {"heads": 2, "bidirectional": True}),
    ("GRU", {"reset_after": False, "bias": False} | STACK),
]
CASES = [(kind, options, ragged) for kind, options in LAYERS for ragged in ((False, True) if not options else (True,))]


def module_of(kind, **options):
    torch.manual_seed(0)
    return getattr(seqcuda, kind)(3, 4, **options).eval()


def arguments(module, steps, batch, lengths=None):
    """x, hx and, where there are lengths, the keyword argument."""
    layers = module.num_layers * (2 if module.bidirectional else 1)
    x = torch.randn((batch, steps, 3) if module.batch_first else (steps, batch, 3))
    h, c = torch.randn(2, layers, batch, 4)
    kwargs = {} if lengths is None else {"lengths": torch.tensor(lengths)}
    return (x, (h, c) if isinstance(module, seqcuda.LSTM) else h), kwargs


def dynamic(module, with_lengths):
    batch, steps = Dim("batch"), Dim("steps")
    state = {1: batch}
    return {
        "input": {0: batch, 1: steps} if module.batch_first else {0: steps, 1: batch},
        "hx": (state, state) if isinstance(module, seqcuda.LSTM) else state,
    } | ({"lengths": {0: batch}} if with_lengths else {})


def session_of(program):
    file = io.BytesIO()
    program.save(file)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


def assert_runs_alike(session, module, args, kwargs):
    given = [t.numpy() for t in tree_leaves((args, kwargs))]
    names = [i.name for i in session.get_inputs()]
    actual = [torch.from_numpy(a) for a in session.run(None, dict(zip(names, given, strict=True)))]
    double = tree_map(lambda t: t.double() if t.is_floating_point() else t, (args, kwargs))
    with torch.no_grad():
        rival, exact = module(*args, **kwargs), copy.deepcopy(module).double()(*double[0], **double[1])
    rival, exact = flat(rival), flat(exact)
    for name, ours in zip(rival, actual, strict=True):
        assert_within_rule(ours, rival[name], exact[name], name=name)


@pytest.mark.parametrize("kind, options, ragged", CASES, ids=str)
def test_onnxruntime_agrees(kind, options, ragged):
    module = module_of(kind, **options)
    args, kwargs = arguments(module, 5, 2, [5, 3] if ragged else None)
    shapes = dynamic(module, ragged)
    program = onnx.export(module, args, kwargs=kwargs, dynamic_shapes=shapes, verbose=False)
    operators = [node.op_type for node in program.model_proto.graph.node]
    assert operators.count(kind) == module.num_layers and "Loop" not in operators and "Scan" not in operators
    session = session_of(program)
    for steps, batch, lengths in ((5, 2, [5, 3]), (9, 4, [1, 9, 0, 4]), (1, 1, [1])):
        assert_runs_alike(session, module, *arguments(module, steps, batch, lengths if ragged else None))


@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind):
    module, batch = module_of(kind), {0: Dim("batch")}
    is_lstm = kind == "LSTMCell"

    def arguments(rows):
        h, c = torch.randn(2, rows, 4)
        return torch.randn(rows, 3), (h, c) if is_lstm else h

    shapes = {"input": batch, "hx": (batch, batch) if is_lstm else batch}
    session = session_of(onnx.export(module, arguments(2), dynamic_shapes=shapes, verbose=False))
    for rows in (2, 5, 1):
        assert_runs_alike(session, module, arguments(rows), {})


def test_in_a_model_with_a_file(tmp_path):
    """Embedding, layer without states, linear; written to a file; unbatched input."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru, self.head = torch.nn.Embedding(9, 3), module_of("GRU"), torch.nn.Linear(4, 9)

        def forward(self, tokens):
            return self.head(self.gru(self.embedding(tokens))[0])

    model, path = Model().eval(), str(tmp_path / "model.onnx")
    onnx.export(model, (torch.arange(5),), path, dynamic_shapes=({0: Dim("steps")},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert_runs_alike(session, model, (torch.arange(8),), {})


class Resets(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = module_of("GRU")

    def forward(self, x, resets):
        return self.layer(x, resets=resets)[0]


class States(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = module_of("LSTM")

    def forward(self, x):
        return self.layer(x, return_states=True)[2].c


@pytest.mark.parametrize(
    "model, more, named",
    [
        (lambda: module_of("LSTM", proj_size=2), (), "a projection"),
        (Resets, (torch.zeros(5, 2, dtype=torch.bool),), "resets"),
        (States, (), "the states of all steps"),
        (lambda: module_of("GRU", zoneout=0.1), (), "a decay, recurrent dropout or zoneout"),
        (lambda: module_of("GRU", layer_norm=True), (), "cell 'gru_layer_norm'"),
    ],
    ids=["projection", "resets", "states", "zoneout", "layer norm"],
)
def test_what_onnx_has_not_is_an_error(model, more, named):
    with pytest.raises(ValueError, match=f"ONNX has no operator for {named}"):
        onnx.export(model(), (torch.randn(5, 2, 3), *more), verbose=False)
