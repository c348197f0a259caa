"""examples/table.py: the README of the examples."""

from __future__ import annotations

import json

import programs
import pytest


@pytest.fixture
def table(monkeypatch):
    return programs.load(monkeypatch, "table")


def test_the_page_is_what_the_results_say(table):
    assert (programs.EXAMPLES / "README.md").read_text() == table.page()


def test_every_program_has_a_row(table):
    other = {"table", "char_lm"}  # the latter is language_model.py by another name
    found = {path.stem for path in programs.EXAMPLES.glob("*.py")} - other
    assert found == set(table.PICTURES)
    assert all((programs.ROOT / "tests" / f"test_example_{name}.py").exists() for name in found)


def test_metrics_and_pictures_are_taken_from_a_run(table, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    run = tmp_path / "run"
    run.mkdir()
    machine = {"cpu": "a machine", "cores": 2, "torch": "2.13.0"}
    metrics = {"program": "hello", "data": "a | word", "figure": "ohlol", "machine": machine, "trainings": {"long": 1}}
    metrics["settings"] = {"lr": 0.1, "out": str(run)}
    (run / "metrics.json").write_text(json.dumps({**metrics, "seconds": {"torch": 12.4, "seqcuda": 1.0}}))
    (run / "loss.png").write_bytes(b"picture")
    table.collect(run)
    kept = programs.metrics(tmp_path / "results" / "hello")
    assert "trainings" not in kept and kept["settings"] == {"lr": 0.1}
    assert table.row("hello").endswith(r"| a \| word | ohlol | 12 s | 1.00 s | ![](results/hello/loss.png) |")
    assert "Machine: a machine, 2 cores, torch 2.13.0." in table.page()


def test_bad_input(table, tmp_path, capsys):
    assert "cannot be read" in programs.refused(table, capsys, str(tmp_path))
    (tmp_path / "metrics.json").write_text("{")
    assert "is not JSON" in programs.refused(table, capsys, str(tmp_path))
    (tmp_path / "metrics.json").write_text("{}")
    assert "not of one of the programs" in programs.refused(table, capsys, str(tmp_path))
