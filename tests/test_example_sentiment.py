"""examples/sentiment.py."""

from __future__ import annotations

import programs
import pytest
import torch

SMALL = ["--device", "cpu", "--embedding", "16", "--hidden", "24", "--batch", "50"]


@pytest.fixture
def sentiment(monkeypatch):
    return programs.load(monkeypatch, "sentiment")


@pytest.fixture
def reviews(tmp_path):
    """A folder as the public one, in its encoding."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rt-polarity.pos").write_bytes("a café of delights \u2013 lovely\nmoving\n".encode("cp1252") * 10)
    (folder / "rt-polarity.neg").write_bytes(b"dull and long\nflat\n" * 10)
    return folder


def test_both_libraries_train_alike(sentiment, tmp_path, capsys):
    given = [*SMALL, "--steps", "12", "--every", "6", "--say", "a lovely film", "dull"]
    found = programs.check_both_libraries_train_alike(sentiment, given, tmp_path)
    assert found["answers"].keys() == {"a lovely film", "dull"}
    assert "favourable: a lovely film" in capsys.readouterr().out


def test_it_learns(sentiment, tmp_path):
    given = ["--device", "cpu", "--embedding", "32", "--hidden", "32", "--dropout", "0.2", "--lr", "0.01"]
    assert sentiment.main([*given, "--cell", "gru", "--epochs", "3", "--out", str(tmp_path)]) == 0
    run = programs.trainings(tmp_path)["gru"]["runs"]["seqcuda"]
    assert max(v["accuracy"] for v in run["validations"]) > 0.9


def test_lengths_packed_and_padded_give_the_same(sentiment, tmp_path):
    states = {}
    for form in sentiment.ragged.FORMS:
        args = sentiment.arguments([*SMALL, "--form", form])
        task = sentiment.Sentiment(args, torch.device("cpu"))
        torch.manual_seed(1)
        model = task.model("seqcuda").double().eval()
        loss, _ = task.loss(model, 0)
        loss.backward()
        states[form] = [loss.detach(), *(p.grad for p in model.parameters())]
    for form in ("packed", "padded"):
        for name, exact in zip(["loss", *dict(model.named_parameters())], states["lengths"], strict=True):
            ours = states[form].pop(0)
            sentiment.training.agreement.testing.assert_close_to_exact(ours, exact, name=f"{form} {name}")


def test_ctrl_c_and_resume(sentiment, tmp_path):
    programs.check_ctrl_c(sentiment, [*SMALL, "--every", "4"], tmp_path, 8)


def test_data_in_the_public_format(sentiment, reviews, tmp_path):
    given = [*SMALL, "--data", str(reviews), "--batch", "8", "--epochs", "2", "--at-least", "1"]
    assert sentiment.main([*given, "--out", str(tmp_path)]) == 0
    assert programs.metrics(tmp_path)["data"] == "movie reviews, 36 sentences and 4 for validation"


def test_bad_input(sentiment, reviews, tmp_path, capsys):
    programs.check_common_refusals(sentiment, capsys, tmp_path)
    here = ["--data", str(reviews), "--out", str(tmp_path)]
    assert "--form lengths" in programs.refused(sentiment, capsys, *here, "--form", "lengths", "--backend", "torch")
    assert "--say" in programs.refused(sentiment, capsys, *here, "--say", " ")
    assert "no folder" in programs.refused(sentiment, capsys, "--data", str(tmp_path / "none"))
    (reviews / "rt-polarity.neg").write_bytes("好戏".encode("utf-16"))
    assert "another encoding" in programs.refused(sentiment, capsys, *here)
    (reviews / "rt-polarity.neg").write_bytes(b"\x81\x8d\xff")
    assert "not UTF-8 or CP1252 text" in programs.refused(sentiment, capsys, *here)
    (reviews / "rt-polarity.neg").write_text("one\ntwo\n")
    assert "too few sentences" in programs.refused(sentiment, capsys, *here)
    (reviews / "rt-polarity.neg").unlink()
    assert "has no file *.neg" in programs.refused(sentiment, capsys, *here)
