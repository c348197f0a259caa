"""The cells' mathematics: every C++ backward against its forward by dual numbers, and the lanes' functions."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from marks import needs_extension

import seqcuda
import seqcuda.testing
from seqcuda.cells import CELLS

ROOT = Path(__file__).parents[1]


def test_backward_is_the_derivative_of_forward(tmp_path):
    program = tmp_path / "dual_cells"
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++20", "-O1", "-Wall", "-Werror", f"-I{ROOT}/csrc"]
    source = ROOT / "tests" / "cpp" / "dual_cells.cpp"
    built = subprocess.run([*command, source, "-o", program], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert {line.split()[0] for line in ran.stdout.splitlines()} == set(CELLS)


def one_step(cell: str, gates: torch.Tensor, engine: str = "panel") -> torch.Tensor:
    """h after one step from a zero state, where row b's gates are gates[b] for its single unit, with no rounding."""
    B, G = gates.shape
    weights = (torch.eye(G, dtype=gates.dtype), torch.zeros(G, 1, dtype=gates.dtype), *[None] * 4)
    arguments = (cell, gates.unsqueeze(0), weights, *(None,) * 7, (False,), "nothing", engine)
    return torch.ops.seqcuda.sequence(*arguments)[0].view(B)


def ulps(actual: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error in units of the spacing of actual's dtype at the exact value."""
    spacing = torch.finfo(actual.dtype).eps * torch.exp2(torch.floor(torch.log2(exact.abs())))
    return ((actual.double() - exact).abs() / spacing.clamp(min=torch.finfo(actual.dtype).tiny)).max().item()


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_and_sigmoid_are_accurate(instruction_set, dtype):
    small = torch.logspace(-12, 1.5, 4001, dtype=torch.float64)
    x = torch.cat([small, -small, torch.linspace(-30, 30, 4001, dtype=torch.float64)]).to(dtype)
    # For float64 the oracle is no more accurate than what it checks: half an ulp more is its own.
    allowed = 1.5 if dtype == torch.float32 else 3
    nonzero = x[x != 0]
    assert ulps(one_step("rnn_tanh", nonzero[:, None]), nonzero.double().tanh()) <= allowed
    # From h = 0, a GRU with n saturated at 1 gives h' = 1 - z.
    gates = torch.stack([torch.zeros_like(x), -x, torch.full_like(x, 40)], dim=1)
    ours = one_step("gru", gates)
    exact = 1 - torch.sigmoid(-x.double())
    assert (ours.double() - exact).abs().max().item() <= 2 * torch.finfo(dtype).eps


@needs_extension
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu"])
def test_extreme_and_undefined_inputs(instruction_set, cell):
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, -1e30, 0.0, -0.0, 1e-40])
    exact = x.tanh() if cell == "rnn_tanh" else x.relu()
    torch.testing.assert_close(one_step(cell, x[:, None]), exact, rtol=0, atol=0, equal_nan=True)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 63, 64, 65])  # around every kernel's rows at once
def test_a_single_step_of_any_number_of_rows(instruction_set, dtype, batch):
    torch.manual_seed(batch)
    for inputs, hidden in ((1, 1), (3, 9), (33, 18), (70, 31)):
        cell = torch.nn.LSTMCell(inputs, hidden, dtype=torch.float64)
        args = [torch.randn(batch, n, dtype=torch.float64) for n in (inputs, hidden, hidden)]
        results = {}
        for name, kind, of in (
            ("exact", torch.nn.LSTMCell, torch.float64),
            ("rival", torch.nn.LSTMCell, dtype),
            ("ours", seqcuda.LSTMCell, dtype),
        ):
            at = kind(inputs, hidden, dtype=of)
            at.load_state_dict(cell.state_dict())
            x, h, c = (t.to(of).requires_grad_() for t in args)
            h_new, c_new = at(x, (h, c))
            results[name] = h_new, c_new, *torch.autograd.grad((h_new * c_new).sum(), [x, h, c, *at.parameters()])
        for ours, rival, exact in zip(results["ours"], results["rival"], results["exact"], strict=True):
            if dtype == torch.float64:  # torch.nn's is the exact one
                seqcuda.testing.assert_close_to_exact(ours, exact)
            else:
                seqcuda.testing.assert_within_rule(ours, rival, exact)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_a_half_type_are_read_exactly(instruction_set, dtype):
    """A single step reads them as they lie: every number of the type, alone in its sum."""

    def h_of(x, w_ih):
        H = w_ih.size(0)
        weights = (w_ih, torch.zeros(H, H, dtype=dtype), *[None] * 4)
        arguments = ("rnn_relu", x[None], weights, *(None,) * 7, (False,), "nothing", "stepwise")
        return torch.ops.seqcuda.sequence(*arguments)[0][0]

    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = numbers[numbers.isfinite()].view(-1, 128)
    one = torch.eye(128, dtype=dtype)
    expected = finite.t().clamp(min=0)
    assert torch.equal(h_of(one, finite), expected)
    if (instruction_set, dtype) == ("avx512_bf16", torch.bfloat16):  # of few rows, products of pairs: no subnormals
        expected = expected * (expected >= torch.finfo(dtype).tiny)
    assert torch.equal(torch.cat([h_of(row[None], finite) for row in one]), expected)
    special = numbers[~numbers.isfinite()][:, None]
    for batch in (1, 5):
        got = h_of(torch.ones(batch, 1, dtype=dtype), special)
        torch.testing.assert_close(got, special.t().clamp(min=0).expand(batch, -1), rtol=0, atol=0, equal_nan=True)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_h_is_rounded_to_nearest_even(instruction_set, dtype):
    """Sums of two half numbers need rounding; torch's own conversion says to what."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-9, 4.7, 5000)
    x = (torch.rand(5000, generator=generator) * scale).to(dtype)
    bias = torch.tensor([1 + 2**-7], dtype=dtype) * 0.01
    weights = (torch.ones(1, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype), bias, *[None] * 3)
    arguments = ("rnn_relu", x.view(1, -1, 1), weights, *(None,) * 7, (False,), "nothing", "panel")
    y = torch.ops.seqcuda.sequence(*arguments)[0].view(-1)
    assert torch.equal(y, (x.float() + bias.float()).to(dtype))


def test_python_cells_are_torch_nn():
    """One step of `step` is torch.nn's cell, to the bit of the same products."""
    generator = torch.Generator().manual_seed(3)
    with seqcuda.backend("reference"):
        for ours, theirs in (
            (seqcuda.RNNCell, torch.nn.RNNCell),
            (seqcuda.LSTMCell, torch.nn.LSTMCell),
            (seqcuda.GRUCell, torch.nn.GRUCell),
        ):
            theirs = theirs(4, 6, dtype=torch.float64)
            ours = ours(4, 6, dtype=torch.float64)
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
            a, b = ours(x), theirs(x)
            for p, q in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
                seqcuda.testing.assert_close_to_exact(p, q)
