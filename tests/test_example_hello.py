"""examples/hello.py."""

from __future__ import annotations

import programs
import pytest


@pytest.fixture
def hello(monkeypatch):
    return programs.load(monkeypatch, "hello")


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_it_answers_with_a_cell_and_with_a_layer(hello, tmp_path, capsys, cell):
    given = ["--cell", cell, "--device", "cpu", "--epochs", "25"]
    found = programs.check_both_libraries_train_alike(hello, given, tmp_path)
    assert found["answers"] == {"cell": "ohlol", "layer": "ohlol"}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("cell  step", "layer  step"))]
    assert len(lines) == 50 and lines[24].endswith("ohlol") and lines[49].endswith("ohlol")


def test_the_cell_and_the_layer_learn_the_same(hello, tmp_path):
    assert hello.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    found = programs.losses(tmp_path)
    assert found["cell seqcuda"] == pytest.approx(found["layer seqcuda"], rel=1e-4)


def test_ctrl_c_and_resume(hello, tmp_path):
    programs.check_ctrl_c(hello, ["--device", "cpu"], tmp_path, 10)


def test_bad_arguments(hello, tmp_path, capsys):
    programs.check_common_refusals(hello, capsys, tmp_path)
    assert "no checkpoint" in programs.refused(hello, capsys, "--out", str(tmp_path), "--resume")
