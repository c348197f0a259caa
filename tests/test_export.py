"""torch.export with a free number of steps and rows, with and without gradients.

AOTInductor: docs/compile.md, which is run. ONNX: test_onnx.py.
"""

from __future__ import annotations

import pytest
import torch
from cases import LAYERS
from marks import needs_extension
from torch.export import Dim

import seqcuda
from seqcuda.testing import assert_close_to_exact

pytestmark = [
    needs_extension,
    pytest.mark.filterwarnings("ignore::FutureWarning:copyreg"),  # of torch's exporter
]


class Model(torch.nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(seqcuda, kind)(3, 4, 2, bidirectional=True, dtype=torch.float64)
        self.cell = getattr(seqcuda, f"{kind}Cell")(8, 4, dtype=torch.float64)

    def forward(self, x, lengths):
        y, _ = self.layer(x, lengths=lengths)
        return y, self.cell(y[0])[0]

    def export(self) -> torch.export.ExportedProgram:
        steps, batch = Dim("steps"), Dim("batch")
        args = (torch.randn(5, 2, 3, dtype=torch.float64), torch.tensor([5, 3]))
        return torch.export.export(self, args, dynamic_shapes={"x": {0: steps, 1: batch}, "lengths": {0: batch}})


@pytest.mark.parametrize("kind", LAYERS)
def test_a_program_runs_at_other_sizes_with_and_without_gradients(kind, tmp_path):
    model = Model(kind)
    torch.export.save(model.export(), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    x, lengths = torch.randn(9, 3, 3, dtype=torch.float64), torch.tensor([1, 9, 0])
    with torch.no_grad():
        assert all(map(torch.equal, program(x, lengths), model(x, lengths)))

    def derivatives(function):
        weights = list(function.parameters())
        first = torch.autograd.grad(sum(y.square().sum() for y in function(x, lengths)), weights, create_graph=True)
        return first, torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    for ours, exact in zip(derivatives(program), derivatives(model), strict=True):
        for a, b in zip(ours, exact, strict=True):
            assert_close_to_exact(a, b)


def test_a_program_keeps_nothing_unless_gradients_are_asked_for():
    nodes = Model("LSTM").export().graph.nodes
    kept = [node.args[-2] for node in nodes if node.target is torch.ops.seqcuda.sequence.default]
    assert kept == ["nothing"] * 3
