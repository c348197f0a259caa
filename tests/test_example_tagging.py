"""examples/tagging.py."""

from __future__ import annotations

import programs
import pytest

SMALL = ["--device", "cpu", "--embedding", "16", "--suffix", "8", "--hidden", "24"]
SENTENCE = (
    "# text = They fish.\n1-2\tThey'd\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tThey\tthey\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2\tfish\tfish\tVERB\tVBP\t_\t0\troot\t_\t_\n"
    "2.1\tfish\tfish\tVERB\tVBP\t_\t_\t_\t_\t_\n3\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_\n\n"
)


@pytest.fixture
def tagging(monkeypatch):
    return programs.load(monkeypatch, "tagging")


@pytest.fixture
def treebank(tmp_path):
    """A folder as a public one without its training part."""
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("dev", "test"):
        (folder / f"en_ewt-ud-{part}.conllu").write_text(SENTENCE * 12)
    return folder


def test_both_libraries_train_alike(tagging, tmp_path):
    programs.check_both_libraries_train_alike(tagging, [*SMALL, "--steps", "12", "--every", "6"], tmp_path)
    programs.check_pictures(tmp_path, "confusion.png")


def test_it_learns_what_only_the_neighbours_tell(tagging, tmp_path, capsys):
    given = [*SMALL, "--epochs", "4", "--lr", "0.01", "--say", "they fish near the fish"]
    assert tagging.main([*given, "--out", str(tmp_path)]) == 0
    assert "they/PRON fish/VERB near/ADP the/DET fish/NOUN" in capsys.readouterr().out
    found = programs.metrics(tmp_path)
    assert found["figure"] == "accuracy 100.0%"
    counts = found["confusion"]["counts"]
    assert all((n > 0) == (i == j) for i, row in enumerate(counts) for j, n in enumerate(row))


def test_ctrl_c_and_resume(tagging, tmp_path):
    programs.check_ctrl_c(tagging, [*SMALL, "--every", "4"], tmp_path, 8)


def test_data_in_the_public_format(tagging, treebank, tmp_path):
    given = [*SMALL, "--batch", "4", "--epochs", "1"]
    assert tagging.main([*given, "--data", str(treebank), "--out", str(tmp_path)]) == 0
    assert "12 sentences and 12 for validation, 72 words, 3 tags" in programs.metrics(tmp_path)["data"]
    file = treebank / "en_ewt-ud-dev.conllu"
    assert tagging.main([*given, "--data", str(file), "--out", str(tmp_path)]) == 0
    assert "10 sentences and 2 for validation" in programs.metrics(tmp_path)["data"]


def test_bad_input(tagging, treebank, tmp_path, capsys):
    programs.check_common_refusals(tagging, capsys, tmp_path)
    here = ["--out", str(tmp_path), "--data"]
    dev = treebank / "en_ewt-ud-dev.conllu"
    assert "no file" in programs.refused(tagging, capsys, *here, str(tmp_path / "none"))
    assert "--say" in programs.refused(tagging, capsys, *here, str(dev), "--say", "")
    dev.write_text(SENTENCE + "1\tThey\tPRON\n\n")
    assert "line 8 has 3 columns, 10 are needed" in programs.refused(tagging, capsys, *here, str(dev))
    dev.write_bytes(SENTENCE.replace("They", "Café").encode("latin-1"))
    assert "not UTF-8" in programs.refused(tagging, capsys, *here, str(treebank))
    dev.write_text(SENTENCE)
    assert "at least 10 are needed" in programs.refused(tagging, capsys, *here, str(dev))
    dev.write_text("# nothing\n\n")
    assert "no sentences" in programs.refused(tagging, capsys, *here, str(treebank))
    dev.unlink()
    assert "has no file *-dev.conllu" in programs.refused(tagging, capsys, *here, str(treebank))
