"""examples/forecasting.py."""

from __future__ import annotations

import re

import programs
import pytest
import torch

SMALL = ["--device", "cpu", "--hidden", "16", "--window", "24", "--horizon", "6"]


@pytest.fixture
def forecasting(monkeypatch):
    """The program, with a short series."""
    program = programs.load(monkeypatch, "forecasting")
    monkeypatch.setattr(program, "HOURS", 700)
    return program


@pytest.fixture
def table(tmp_path):
    """A file in the public format."""
    path = tmp_path / "ETTh1.csv"
    hours = [f"2016-07-01 {h:02}:00:00,{h % 24},{(h * 7) % 11 / 2}" for h in range(300)]
    path.write_text("\n".join(["date,HUFL,OT", *hours]) + "\n")
    return path


def test_both_libraries_train_alike(forecasting, tmp_path):
    given = [*SMALL, "--batch", "8", "--steps", "6", "--every", "3"]
    found = programs.check_both_libraries_train_alike(forecasting, given, tmp_path)
    assert found["test"].keys() == {"last hour", "last day", "linear", "rnn", "gru", "lstm"}
    programs.check_pictures(tmp_path, "forecasts.png")


def test_it_learns_more_than_the_naive_forecasts(forecasting, tmp_path, monkeypatch):
    monkeypatch.setattr(forecasting, "HOURS", 1000)
    given = [*SMALL, "--cell", "gru", "--epochs", "8", "--lr", "0.005", "--out", str(tmp_path)]
    assert forecasting.main(given) == 0
    found = programs.metrics(tmp_path)["test"]
    assert found["gru"]["MSE"] < min(found["last hour"]["MSE"], found["last day"]["MSE"])


def test_the_baselines(forecasting):
    args = forecasting.arguments([*SMALL, "--window", "48", "--horizon", "30"])
    series = forecasting.Series(args, torch.device("cpu"))
    found = forecasting.baselines(series)
    known, _ = series.windows("test", [0, 2])
    assert torch.equal(found["last hour"](known), known[-1:].repeat(30, 1, 1))
    assert torch.equal(found["last day"](known), torch.cat([known[-24:], known[-24:-18]]))
    slope = torch.arange(48.0)[:, None, None].repeat(1, 2, 3)
    assert (
        forecasting.errors(series, "train", found["linear"])[0]
        < forecasting.errors(series, "train", found["last day"])[0]
    )
    assert found["linear"](slope).shape == (30, 2, 3)


def test_ctrl_c_and_resume(forecasting, tmp_path):
    programs.check_ctrl_c(forecasting, [*SMALL, "--cell", "gru", "--every", "4"], tmp_path, 8)


def test_data_in_the_public_format(forecasting, table, tmp_path):
    given = [*SMALL, "--cell", "gru", "--data", str(table), "--steps", "3", "--out", str(tmp_path)]
    assert forecasting.main(given) == 0
    assert programs.metrics(tmp_path)["data"] == "ETTh1.csv: 300 hours, 2 variables"


def test_bad_input(forecasting, table, tmp_path, capsys):
    programs.check_common_refusals(forecasting, capsys, tmp_path)
    here = ["--out", str(tmp_path), "--data", str(table)]
    assert "no file" in programs.refused(forecasting, capsys, "--data", str(tmp_path / "none.csv"))
    assert "--window must be at least 24" in programs.refused(forecasting, capsys, *here, "--window", "12")
    assert "has 300 hours" in programs.refused(forecasting, capsys, *here, "--window", "96")
    good = table.read_text()
    for content, sentence in (
        (good + "2016-07-13 12:00:00,1\n", "line 302 of .* has 2 columns, the header has 3"),
        (good + "2016-07-13 12:00:00,1,warm\n", "line 302 .* no number: .*warm"),
        (good + "2016-07-13 12:00:00,1,nan\n", "not finite"),
        ("date\n2016\n", "has 1 column"),
        ("date,OT\n" + "2016,1\n" * 700, "a variable that never changes: OT"),
    ):
        table.write_text(content)
        assert re.search(sentence, programs.refused(forecasting, capsys, *here)), sentence
