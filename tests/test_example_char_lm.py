"""examples/char_lm.py: a smoke test, bad input, resume, Ctrl-C, gzip."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "examples" / "char_lm.py"
SMALL = ["--device", "cpu", "--embedding", "8", "--hidden", "12", "--batch", "4", "--length", "16", "--sample", "20"]


@pytest.fixture
def char_lm(monkeypatch):
    """The program, as a module."""
    for needed in ("matplotlib", "tqdm", "rich"):
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import char_lm

    return char_lm


@pytest.fixture
def book(tmp_path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text((PROGRAM.parent / "data" / "hallow_quay.txt").read_text()[:6000])
    return path


def metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def losses(out: Path, name: str) -> list[float]:
    return metrics(out)["runs"][name]["losses"]


def refused(char_lm, capsys, *given: str) -> str:
    """The one sentence the program ends with, at exit status 2."""
    with pytest.raises(SystemExit) as ended:
        char_lm.main([*SMALL, *given])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_both_libraries_train_alike(char_lm, book, tmp_path, capsys, cell):
    given = [*SMALL, "--text", str(book), "--backend", "both", "--cell", cell, "--out", str(tmp_path)]
    assert char_lm.main([*given, "--steps", "40", "--every", "10"]) == 0
    found = metrics(tmp_path)
    assert found["comparison"]["equal"] and found["comparison"]["ratio"]["pairs"] == 4
    assert [check["step"] for check in found["comparison"]["checks"]] == [0, 20, 40]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    for name in ("torch", "seqcuda"):
        validation = [v["loss"] for v in found["runs"][name]["validations"]]
        assert validation[-1] < validation[0]
    assert len(found["sample"]) == len("The ") + 20 and found["sample"] in capsys.readouterr().out


def test_one_layer_one_library_and_epochs(char_lm, book, tmp_path):
    given = ["--text", str(book), "--backend", "torch", "--layers", "1", "--epochs", "2", "--out", str(tmp_path)]
    assert char_lm.main([*SMALL, *given]) == 0
    assert len(losses(tmp_path, "torch")) == 2 * ((5400 // 4 - 1) // 16)


def test_a_difference_between_the_libraries_is_seen(char_lm, book, tmp_path, monkeypatch, capsys):
    from common import backends

    class OffByALittle(torch.nn.LSTM):
        def forward(self, x, state=None):
            y, state = super().forward(x, state)
            return y * (1 + 1e-4), state

    monkeypatch.setattr(backends, "layer_class", lambda backend, cell: getattr(torch.nn, cell.upper()))
    monkeypatch.setattr(
        char_lm, "layer_class", lambda backend, cell: OffByALittle if backend == "seqcuda" else torch.nn.LSTM
    )
    given = [*SMALL, "--text", str(book), "--backend", "both", "--out", str(tmp_path), "--steps", "10", "--every", "5"]
    assert char_lm.main(given) == 1
    comparison = metrics(tmp_path)["comparison"]
    assert not comparison["equal"] and comparison["checks"][0]["broken"]
    assert not comparison["curves"]["training"]["within"]
    assert "NOT EQUAL" in capsys.readouterr().out


@pytest.mark.parametrize("dropout", ["0", "0.3"])
def test_resume_ends_as_an_uninterrupted_run(char_lm, book, tmp_path, dropout):
    given = [*SMALL, "--text", str(book), "--dropout", dropout, "--every", "7"]
    assert char_lm.main([*given, "--out", str(tmp_path / "whole"), "--steps", "30"]) == 0
    assert char_lm.main([*given, "--out", str(tmp_path / "parts"), "--steps", "14"]) == 0
    assert char_lm.main([*given, "--out", str(tmp_path / "parts"), "--steps", "30", "--resume"]) == 0
    assert losses(tmp_path / "parts", "seqcuda") == losses(tmp_path / "whole", "seqcuda")
    assert metrics(tmp_path / "parts")["sample"] == metrics(tmp_path / "whole")["sample"]


def test_ctrl_c_inside_a_stretch_and_resume(char_lm, book, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)  # not Python's own where the tests run in the background
    given = [*SMALL, "--text", str(book), "--backend", "both", "--twins", "1", "--every", "10", "--steps", "30"]
    assert char_lm.main([*given, "--out", str(tmp_path / "whole")]) == 0
    step = char_lm.Run._train_step

    def interrupted_step(run):
        if run.name == "seqcuda" and run.step == 16:
            signal.raise_signal(signal.SIGINT)
        step(run)

    with monkeypatch.context() as patched:
        patched.setattr(char_lm.Run, "_train_step", interrupted_step)
        assert char_lm.main([*given, "--out", str(tmp_path / "cut")]) == 130
    assert "interrupted at step torch 20, seqcuda 17, twin 1 10 of 30" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) == before
    assert char_lm.main([*given, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    for name in ("torch", "seqcuda", "twin 1"):
        assert losses(tmp_path / "cut", name) == losses(tmp_path / "whole", name)


def test_ctrl_c_ends_the_program(char_lm, book, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *SMALL, "--text", str(book), "--out", str(tmp_path), "--steps", "1000000"],
        env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("step    50")
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    at = re.search(r"interrupted at step seqcuda (\d+) of 1000000; saved ", said)
    assert at, said
    saved = torch.load(tmp_path / "checkpoint.pt")["content"]["runs"]["seqcuda"]
    assert len(saved["losses"]) == int(at[1]) >= 50


def test_a_gzip_text_is_the_same_text(char_lm, book, tmp_path):
    packed = tmp_path / "book.txt.gz"
    packed.write_bytes(gzip.compress(book.read_bytes()))
    for path, out in ((book, "plain"), (packed, "gz")):
        assert char_lm.main([*SMALL, "--text", str(path), "--steps", "3", "--out", str(tmp_path / out)]) == 0
    assert losses(tmp_path / "gz", "seqcuda") == losses(tmp_path / "plain", "seqcuda")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"a few words", "too short"),
        (b"words and words " * 100 + b"\0", "binary file"),
        (bytes(range(128, 256)) * 20, "not UTF-8"),
        (gzip.compress(b"a text " * 500, mtime=0)[:40], "cannot be unpacked"),
        (b"words and words " * 70, "too short for --batch"),
    ],
    ids=["nothing", "blank", "a few words", "binary", "not UTF-8", "cut gzip", "short for the batch"],
)
def test_a_text_that_is_none(char_lm, tmp_path, capsys, content, sentence):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    given = ["--text", str(path), "--out", str(tmp_path), "--batch", "64"]
    assert sentence in refused(char_lm, capsys, *given)


def test_bad_arguments(char_lm, book, tmp_path, capsys):
    here = ["--text", str(book), "--out", str(tmp_path)]
    assert "there is no text file" in refused(char_lm, capsys, "--text", str(tmp_path / "none.txt"))
    assert "cannot be read" in refused(char_lm, capsys, "--text", str(tmp_path))
    assert "--cell" in refused(char_lm, capsys, *here, "--cell", "elman")
    assert "--hidden" in refused(char_lm, capsys, *here, "--hidden", "0")
    assert "--temperature" in refused(char_lm, capsys, *here, "--temperature", "cold")
    assert "device" in refused(char_lm, capsys, *here, "--device", "abacus")
    assert "--prompt" in refused(char_lm, capsys, *here, "--prompt", "\u00e9t\u00e9")
    assert "no checkpoint" in refused(char_lm, capsys, *here, "--resume")
    assert "cannot be made" in refused(char_lm, capsys, "--text", str(book), "--out", str(book))


def test_a_checkpoint_that_does_not_fit(char_lm, book, tmp_path, capsys):
    here = ["--text", str(book), "--out", str(tmp_path)]
    assert char_lm.main([*SMALL, *here, "--steps", "2"]) == 0
    assert "hidden 12, this run has hidden 16" in refused(char_lm, capsys, *here, "--resume", "--hidden", "16")
    assert "cell lstm, this run has cell gru" in refused(char_lm, capsys, *here, "--resume", "--cell", "gru")
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path)
    model = content["content"]["runs"]["seqcuda"]["model"]
    model["output.bias"] = model["output.bias"][:-1]
    torch.save(content, path)
    assert "output.bias of shape" in refused(char_lm, capsys, *here, "--resume")
    path.write_bytes(path.read_bytes()[:1000])
    assert "damaged" in refused(char_lm, capsys, *here, "--resume")
