"""examples/delayed_outputs.py."""

from __future__ import annotations

import re

import programs
import pytest
import torch

SMALL = ["--device", "cpu", "--hidden", "16", "--dropout", "0.1", "--delays", "0", "3"]


@pytest.fixture
def delayed_outputs(monkeypatch):
    """The program, with few utterances."""
    program = programs.load(monkeypatch, "delayed_outputs")
    monkeypatch.setattr(program, "UTTERANCES", 80)
    return program


@pytest.fixture
def speech(tmp_path):
    """A folder as the public one."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [f"{k}.5,1,2,{k % 3}:0,{-k},1,1:{k % 2 + 1}" for k in range(8)]
    for part in ("TRAIN", "TEST"):
        (folder / f"Vowels_{part}.ts").write_text("\n".join(["# made", "@dimensions 2", "@data", *lines]) + "\n")
    return folder


def test_both_libraries_train_alike(delayed_outputs, tmp_path):
    given = [*SMALL, "--cell", "lstm", "--batch", "4", "--steps", "6", "--every", "3"]
    found = programs.check_both_libraries_train_alike(delayed_outputs, given, tmp_path)
    assert list(found["trainings"]) == ["lstm delay 0", "lstm delay 3", "lstm bidirectional"]
    assert found["streamed"]["largest difference"] < 1e-4
    programs.check_pictures(tmp_path, "delays.png")


def test_later_answers_are_better(delayed_outputs, tmp_path):
    given = [*SMALL, "--cell", "gru", "--hidden", "32", "--batch", "8", "--epochs", "6", "--out", str(tmp_path)]
    assert delayed_outputs.main(given) == 0
    found = programs.metrics(tmp_path)["accuracies"]["gru"]
    assert found["0"] + 0.05 < found["3"]
    assert found["0"] + 0.05 < found["bidirectional"]


@pytest.mark.parametrize("backend", ["torch", "seqcuda"])
def test_frame_by_frame_is_one_call(delayed_outputs, backend):
    args = delayed_outputs.arguments([*SMALL, "--cell", "lstm"])
    data = delayed_outputs.Data(args)
    task = delayed_outputs.DelayedOutputs("lstm", 2, data, args, torch.device("cpu"))
    assert task.streamed(task.model(backend).eval())["largest difference"] < 1e-5


def test_an_answer_stands_k_frames_later(delayed_outputs):
    args = delayed_outputs.arguments(SMALL)
    data = delayed_outputs.Data(args)
    task = delayed_outputs.DelayedOutputs("gru", 2, data, args, torch.device("cpu"))
    x, lengths, labels = task.batch(data.train[:1])
    frames, given = data.train[0]
    assert len(x) == len(frames) + 2 == lengths[0] and (x[-2:] == 0).all()
    assert labels[:2, 0].tolist() == [delayed_outputs.IGNORED] * 2 and torch.equal(labels[2:, 0], given)


def test_ctrl_c_and_resume(delayed_outputs, tmp_path):
    programs.check_ctrl_c(delayed_outputs, [*SMALL, "--cell", "gru", "--every", "3"], tmp_path, 6)


def test_data_in_the_public_format(delayed_outputs, speech, tmp_path):
    given = [*SMALL, "--data", str(speech), "--steps", "2", "--out", str(tmp_path)]
    assert delayed_outputs.main(given) == 0
    assert programs.metrics(tmp_path)["accuracies"].keys() == {"rnn", "gru", "lstm"}
    assert "8 utterances and 8 for validation, 64 frames, 2 channels, 2 classes" in programs.metrics(tmp_path)["data"]


def test_bad_input(delayed_outputs, speech, tmp_path, capsys):
    programs.check_common_refusals(delayed_outputs, capsys, tmp_path)
    here = ["--out", str(tmp_path), "--data", str(speech)]
    assert "no folder" in programs.refused(delayed_outputs, capsys, "--data", str(tmp_path / "none"))
    assert "--delays" in programs.refused(delayed_outputs, capsys, *here, "--delays", "-1")
    file = speech / "Vowels_TEST.ts"
    for content, sentence in (
        ("1,2:a\n", "no line @data"),
        ("@data\n1,2:1,x:a\n", "line 2 .* no number"),
        ("@data\n1,2:1,2:a\n1,2:1:a\n", "line 3 .* unequal length"),
        ("@data\n1,2:a\n", "differ in the number of channels"),
    ):
        file.write_text(content)
        assert re.search(sentence, programs.refused(delayed_outputs, capsys, *here)), sentence
    file.unlink()
    assert "has no file *_TEST.ts" in programs.refused(delayed_outputs, capsys, *here)
