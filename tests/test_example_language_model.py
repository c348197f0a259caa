"""examples/language_model.py, and what all programs share: resume, Ctrl-C, bad input, the comparison."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import torch

SMALL = ["--device", "cpu", "--embedding", "8", "--hidden", "12", "--batch", "4", "--length", "16", "--sample", "20"]


@pytest.fixture
def program(monkeypatch):
    return programs.load(monkeypatch, "language_model")


@pytest.fixture
def book(tmp_path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text((programs.EXAMPLES / "data" / "hallow_quay.txt").read_text()[:6000])
    return path


def losses(out: Path, name: str = "seqcuda") -> list[float]:
    return programs.losses(out)[f"lstm {name}"]


def refused(program, capsys, *given: str) -> str:
    return programs.refused(program, capsys, *SMALL, *given)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_both_libraries_train_alike(program, book, tmp_path, capsys, cell):
    given = [*SMALL, "--data", str(book), "--cell", cell, "--steps", "40", "--every", "10", "--prompt", "The "]
    found = programs.check_both_libraries_train_alike(program, given, tmp_path)
    comparison = found["trainings"][cell]["comparison"]
    assert comparison["ratio"]["pairs"] == 4
    assert [check["step"] for check in comparison["checks"]] == [0, 20, 40]
    for name in ("torch", "seqcuda"):
        validation = [v["loss"] for v in found["trainings"][cell]["runs"][name]["validations"]]
        assert validation[-1] < validation[0]
    assert len(found["sample"]) == len("The ") + 20 and found["sample"] in capsys.readouterr().out


def test_one_layer_one_library_and_epochs(program, book, tmp_path):
    given = ["--data", str(book), "--backend", "torch", "--layers", "1", "--epochs", "2", "--out", str(tmp_path)]
    assert program.main([*SMALL, *given]) == 0
    assert len(losses(tmp_path, "torch")) == 2 * ((5400 // 4 - 1) // 16)


def test_a_difference_between_the_libraries_is_seen(program, book, tmp_path, monkeypatch, capsys):
    class OffByALittle(torch.nn.LSTM):
        def forward(self, x, state=None):
            y, state = super().forward(x, state)
            return y * (1 + 1e-3), state

    monkeypatch.setattr(
        program, "layer_class", lambda backend, cell: OffByALittle if backend == "seqcuda" else torch.nn.LSTM
    )
    given = [*SMALL, "--data", str(book), "--backend", "both", "--out", str(tmp_path), "--steps", "10", "--every", "5"]
    assert program.main(given) == 1
    comparison = programs.trainings(tmp_path)["lstm"]["comparison"]
    assert not comparison["equal"] and comparison["checks"][0]["broken"]
    assert not comparison["curves"]["training"]["within"]
    assert "NOT EQUAL" in capsys.readouterr().out


@pytest.mark.parametrize("dropout", ["0", "0.3"])
def test_resume_ends_as_an_uninterrupted_run(program, book, tmp_path, dropout):
    given = [*SMALL, "--data", str(book), "--dropout", dropout, "--every", "7"]
    programs.check_resume(program, given, tmp_path, 28)
    assert programs.metrics(tmp_path / "parts")["sample"] == programs.metrics(tmp_path / "whole")["sample"]


def test_ctrl_c_inside_a_stretch_and_resume(program, book, tmp_path, capsys):
    given = [*SMALL, "--data", str(book), "--backend", "both", "--twins", "1", "--every", "10"]
    programs.check_ctrl_c(program, given, tmp_path, 30)
    assert "interrupted at step torch 20, seqcuda 16, twin 1 10 of 30" in capsys.readouterr().out


def test_ctrl_c_ends_the_program(program, book, tmp_path):
    assert programs.interrupt("language_model", [*SMALL, "--data", str(book)], tmp_path, "lstm  step    50") >= 50


def test_a_gzip_text_is_the_same_text(program, book, tmp_path):
    packed = tmp_path / "book.txt.gz"
    packed.write_bytes(gzip.compress(book.read_bytes()))
    for path, out in ((book, "plain"), (packed, "gz")):
        assert program.main([*SMALL, "--data", str(path), "--steps", "3", "--out", str(tmp_path / out)]) == 0
    assert losses(tmp_path / "gz") == losses(tmp_path / "plain")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"a few words", "too short"),
        (b"words and words " * 100 + b"\0", "control character"),
        (bytes(range(128, 256)) * 20, "not UTF-8"),
        (gzip.compress(b"a text " * 500, mtime=0)[:40], "cannot be unpacked"),
        (b"words and words " * 70, "too short for --batch"),
    ],
    ids=["nothing", "blank", "a few words", "binary", "not UTF-8", "cut gzip", "short for the batch"],
)
def test_a_text_that_is_none(program, tmp_path, capsys, content, sentence):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    given = ["--data", str(path), "--out", str(tmp_path), "--batch", "64"]
    assert sentence in refused(program, capsys, *given)


def test_bad_arguments(program, book, tmp_path, capsys):
    here = ["--data", str(book), "--out", str(tmp_path)]
    (tmp_path / "empty").mkdir()
    assert "there is no file" in refused(program, capsys, "--data", str(tmp_path / "none.txt"))
    assert "has no .json" in refused(program, capsys, "--data", str(tmp_path / "empty"))
    assert "--cell" in refused(program, capsys, *here, "--cell", "elman")
    assert "--hidden" in refused(program, capsys, *here, "--hidden", "0")
    assert "--temperature" in refused(program, capsys, *here, "--temperature", "cold")
    assert "device" in refused(program, capsys, *here, "--device", "abacus")
    assert "--prompt" in refused(program, capsys, *here, "--prompt", "\u00e9t\u00e9")
    assert "no checkpoint" in refused(program, capsys, *here, "--resume")
    assert "cannot be made" in refused(program, capsys, "--data", str(book), "--out", str(book))


def test_a_checkpoint_that_does_not_fit(program, book, tmp_path, capsys):
    here = ["--data", str(book), "--out", str(tmp_path)]
    assert program.main([*SMALL, *here, "--steps", "2"]) == 0
    assert "hidden 12, this run has hidden 16" in refused(program, capsys, *here, "--resume", "--hidden", "16")
    assert "cell lstm, this run has cell gru" in refused(program, capsys, *here, "--resume", "--cell", "gru")
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path)
    model = content["content"]["runs"]["seqcuda"]["model"]
    model["output.bias"] = model["output.bias"][:-1]
    torch.save(content, path)
    assert "output.bias of shape" in refused(program, capsys, *here, "--resume")
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged" in refused(program, capsys, *here, "--resume")


def test_words(program, book, tmp_path):
    given = [*SMALL, "--unit", "word", "--data", str(book), "--steps", "30", "--prompt", "the old man", "--top-k", "5"]
    assert program.main([*given, "--out", str(tmp_path)]) == 0
    found = programs.metrics(tmp_path)
    assert found["figure"].endswith("per word") and found["sample"].startswith("the old man")
    assert "<unk>" not in found["sample"]


def test_poems_from_a_line_and_from_an_acrostic(program, tmp_path):
    given = [*SMALL, "--data", str(programs.EXAMPLES / "data" / "poems.json"), "--steps", "60", "--out", str(tmp_path)]
    assert program.main([*given, "--prompt", "空山不見人，"]) == 0
    assert programs.metrics(tmp_path)["sample"].startswith("空山不見人，")
    assert program.main([*given, "--resume", "--acrostic", "春山月"]) == 0
    assert [line[0] for line in programs.metrics(tmp_path)["sample"].split("\n")] == list("春山月")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("[{", "not valid JSON"), ('{"title": "x"}', "not a JSON list"), ('[{"title": "x"}]', "not a JSON list")],
    ids=["cut", "no list", "no lines"],
)
def test_poems_that_are_none(program, tmp_path, capsys, content, sentence):
    path = tmp_path / "poems.json"
    path.write_text(content)
    assert sentence in refused(program, capsys, "--data", str(path), "--out", str(tmp_path))


def test_drawing_from_the_likeliest_alone(program):
    vocabulary = program.text.Vocabulary("abcd")
    args = program.arguments(["--top-k", "1"])
    sampler = program.Sampler(torch.nn.Identity(), vocabulary, args, torch.device("cpu"))
    assert {sampler._draw(torch.tensor([0.0, 3.0, 2.0, 1.0])) for _ in range(20)} == {1}


def test_an_acrostic_is_for_poems(program, book, tmp_path, capsys):
    here = ["--data", str(book), "--out", str(tmp_path)]
    assert "--acrostic is for poems" in refused(program, capsys, *here, "--acrostic", "ab")


def test_char_lm_is_the_same_program():
    shown = subprocess.run(
        [sys.executable, str(programs.EXAMPLES / "char_lm.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--text" in shown.stdout and "--resume" in shown.stdout
