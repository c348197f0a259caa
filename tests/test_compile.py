"""torch.compile: one graph for all sizes, with gradients and every argument, and nothing changed for torch.nn.

With Inductor: docs/compile.md, which is run.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import types

import pytest
import torch
import torch._dynamo
from cases import CELLS, LAYERS, flat
from marks import needs_extension
from torch._dynamo.utils import counters
from torch.func import functional_call, grad, jvp, vmap

import seqcuda
from seqcuda import _dynamo
from seqcuda.testing import assert_close_to_exact

pytestmark = needs_extension


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def graphs() -> int:
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def check(function, module, *args, **kwargs):
    """Outputs and gradients of `function`, which is `module` compiled."""
    ours, exact = (list(flat(f(*args, **kwargs)).values()) for f in (function, module))
    for a, b in zip(ours, exact, strict=True):
        assert_close_to_exact(a, b)
    if ours[0].requires_grad:
        given = flat((args, kwargs.get("reset_state"))).values()
        leaves = [*module.parameters(), *(t for t in given if t.requires_grad)]
        grads = (
            torch.autograd.grad(sum(t.square().sum() for t in r if t.requires_grad), leaves) for r in (ours, exact)
        )
        for a, b in zip(*grads, strict=True):
            assert_close_to_exact(a, b)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_one_graph_for_every_size(kind):
    module = getattr(seqcuda, kind)(3, 4, dtype=torch.float64)
    function = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    for T, B in ((5, 2), (7, 3), (6, 6)):
        check(function, module, normal(B, 3) if kind in CELLS else normal(T, B, 3))
    assert graphs() == 1
    with torch.no_grad():
        check(function, module, normal(3, 3) if kind in CELLS else normal(5, 3, 3))
    assert graphs() == 2


def test_every_argument_in_one_graph():
    module = seqcuda.LSTM(3, 4, 2, bidirectional=True, batch_first=True, dtype=torch.float64)
    function = torch.compile(module, backend="aot_eager", fullgraph=True)  # static, then dynamic
    reset_state = (normal(4, 1, 4), normal(1, 1, 4))
    for T, B in ((5, 2), (7, 3), (6, 6)):
        check(
            function, module, normal(B, T, 3), (normal(4, B, 4), normal(4, B, 4)),
            lengths=torch.randint(0, T + 1, (B,)), resets=torch.rand(B, T) < 0.3, reset_state=reset_state,
            return_states="gates",
        )  # fmt: skip
    assert graphs() == 2


def test_autocast():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = seqcuda.GRU(3, 4), torch.nn.Linear(4, 1)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.head(self.gru(x)[0].tanh())

    torch.manual_seed(0)
    model, x = Model(), torch.randn(5, 2, 3)
    exact = model(x)
    ours = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)(x)
    assert ours.dtype == torch.bfloat16
    assert_close_to_exact(ours, exact)
    grads = [torch.autograd.grad(y.float().sum(), model.gru.weight_hh_l0) for y in (ours, exact)]
    assert_close_to_exact(*grads[0], *grads[1], torch.bfloat16)


@pytest.mark.parametrize("kind", LAYERS + CELLS)
def test_torch_func_in_a_graph(kind):
    """A gradient for each sample, from one graph."""
    module = getattr(seqcuda, kind)(3, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    samples = normal(3, 2, 3) if kind in CELLS else normal(3, 5, 2, 3)

    def loss(parameters, x):
        return sum(t.square().sum() for t in flat(functional_call(module, parameters, (x,))).values())

    gradients = vmap(grad(loss), (None, 0))
    ours = torch.compile(gradients, backend="aot_eager", fullgraph=True)(parameters, samples.detach())
    assert graphs() == 1
    for name, exact in gradients(parameters, samples.detach()).items():
        assert_close_to_exact(ours[name], exact, name=name)


def test_jvp_in_a_graph():
    module, x, v = seqcuda.LSTM(3, 4, dtype=torch.float64).requires_grad_(False), normal(5, 2, 3), normal(5, 2, 3)

    def tangent(x, v):
        return jvp(lambda x: module(x)[0], (x,), (v,))[1]

    given = x.detach(), v.detach()
    assert_close_to_exact(torch.compile(tangent, backend="aot_eager", fullgraph=True)(*given), tangent(*given))


def test_the_backend_is_guarded():
    """Another backend, of this thread, is another graph, never the old one in silence."""
    layer, x = seqcuda.GRU(3, 4), torch.randn(3, 2, 3)
    calls = []

    def spy(graph, _):
        calls.append(any("sequence" in str(node.target) for node in graph.graph.nodes))
        return graph

    function = torch.compile(layer, backend=spy, fullgraph=True)
    with torch.no_grad():
        function(x)
        with seqcuda.backend("reference"):
            function(x)
            thread = threading.Thread(target=function, args=(x,))
            thread.start()
            thread.join()
        function(x)
        torch.compile(lambda: _under("reference", layer, x), backend=spy, fullgraph=True)()
    assert calls[:2] == [True, False] and not calls[-1]


def _under(name, layer, x):
    with seqcuda.backend(name):
        return layer(x)


def refused(layer) -> bool:
    try:
        torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(3, 2, 3))
    except torch._dynamo.exc.Unsupported as error:
        return "allow_rnn" in str(error)
    return False


def test_the_patch_is_for_one_class(monkeypatch):
    class Mine(torch.nn.GRU):
        pass

    builder = torch._dynamo.variables.builder.VariableBuilder
    monkeypatch.setattr(builder, "wrap_module", builder.wrap_module)
    assert refused(torch.nn.GRU(3, 4)) and refused(Mine(3, 4))
    _dynamo.allow(Mine)
    assert refused(torch.nn.GRU(3, 4)) and not refused(Mine(3, 4))


def test_the_patch_waits_for_torch_dynamo():
    code = """
import sys, seqcuda, torch
assert "torch._dynamo" not in sys.modules
with torch.no_grad():
    torch.compile(seqcuda.GRU(3, 4), backend="eager", fullgraph=True)(torch.randn(3, 2, 3))
assert not [finder for finder in sys.meta_path if "seqcuda" in type(finder).__module__]
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_patch_where_the_names_are_others():
    nothing = types.SimpleNamespace()
    _dynamo._patch(nothing, seqcuda.GRU)
    assert vars(nothing) == {}
