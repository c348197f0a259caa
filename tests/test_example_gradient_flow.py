"""examples/gradient_flow.py."""

from __future__ import annotations

import programs
import pytest
import torch

from seqcuda import testing

SMALL = ["--device", "cpu", "--reach", "30", "--steps", "4", "--every", "2", "--hidden", "24", "--embedding", "8"]
SMALL += ["--batch", "8", "--length", "16"]


@pytest.fixture
def gradient_flow(monkeypatch):
    return programs.load(monkeypatch, "gradient_flow")


def test_it_runs_and_draws(gradient_flow, tmp_path):
    found = programs.check_both_libraries_train_alike(gradient_flow, SMALL, tmp_path)
    programs.check_pictures(tmp_path, "gradient_flow.png", "gates.png")
    flows = found["flows"]["as initialised"]
    assert flows.keys() == {"RNN", "GRU", "LSTM", "LSTM, forget gate open"}
    assert flows["LSTM, forget gate open"]["c"][0] > 1000 * flows["RNN"]["h"][0]
    scaled = found["flows"]["RNN, scaled W_hh"]
    assert scaled["0.7 x orthogonal"]["h"][0] < 1 < scaled["1.4 x orthogonal"]["h"][0]
    assert max(scaled["1.4 x, clipped at every step"]["h"]) < 1.0001


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("backend", ["torch", "seqcuda"])
def test_the_norms_are_those_of_one_step_after_the_other(gradient_flow, cell, backend):
    torch.manual_seed(2)
    layer = gradient_flow.layer_class(backend, cell)(3, 4).double()
    x, direction = torch.randn(6, 2, 3).double(), torch.randn(4).double()
    states, state = [], None
    for x_t in x:
        _, state = layer(x_t[None], state)
        state = state if isinstance(state, tuple) else (state,)
        for s in state:
            s.retain_grad()
        states.append(state)
        state = state if cell == "lstm" else state[0]
    (states[-1][0] * direction).sum().backward()
    norms = gradient_flow.gradient_norms(layer, x, direction)
    assert len(norms) == (2 if cell == "lstm" else 1)
    for k, values in enumerate(norms.values()):
        exact = torch.stack([s[k].grad[0].norm(dim=1).mean() for s in states[:-1]])
        testing.assert_close_to_exact(torch.tensor(values, dtype=torch.float64), exact, name=cell)


def test_ctrl_c_and_resume(gradient_flow, tmp_path):
    programs.check_ctrl_c(gradient_flow, [*SMALL, "--cell", "rnn"], tmp_path, 4)


def test_bad_input(gradient_flow, tmp_path, capsys):
    programs.check_common_refusals(gradient_flow, capsys, tmp_path)
    here = ["--device", "cpu", "--out", str(tmp_path)]
    assert "--reach" in programs.refused(gradient_flow, capsys, *here, "--reach", "1")
    assert "--sentence" in programs.refused(gradient_flow, capsys, *here, "--sentence", "ж")
    assert "--sentence" in programs.refused(gradient_flow, capsys, *here, "--sentence", "")
    assert "no file" in programs.refused(gradient_flow, capsys, *here, "--data", str(tmp_path / "none.txt"))
