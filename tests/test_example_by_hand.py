"""examples/by_hand.py."""

from __future__ import annotations

import programs
import pytest


@pytest.fixture
def by_hand(monkeypatch):
    return programs.load(monkeypatch, "by_hand")


@pytest.mark.parametrize(("backend", "recurrences"), [("seqcuda", 5), ("torch", 4)])
def test_the_lines_are_the_layers(by_hand, tmp_path, backend, recurrences):
    assert by_hand.main(["--device", "cpu", "--backend", backend, "--out", str(tmp_path)]) == 0
    found = programs.metrics(tmp_path)
    assert len(found["errors"]) == recurrences and all(error["equal"] for error in found["errors"].values())
    lstm, gru = found["parameters"]["lstm"], found["parameters"]["gru"]
    assert all(3 * a == 4 * b for a, b in zip(lstm, gru, strict=True))
    assert found["shapes"]["LSTM, 3 layers, 2 directions"] == [[12, 3, 14], [6, 3, 7], [6, 3, 7]]
    assert (tmp_path / "parameters.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_seen(by_hand, tmp_path, monkeypatch):
    monkeypatch.setattr(by_hand, "lstm", lambda x, *weights: by_hand.elman(x, *(w[:7] for w in weights)))
    assert by_hand.main(["--device", "cpu", "--cell", "lstm", "--out", str(tmp_path)]) == 1


def test_bad_arguments(by_hand, tmp_path, capsys):
    programs.check_common_refusals(by_hand, capsys, tmp_path)
