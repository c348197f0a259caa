"""examples/translation.py."""

from __future__ import annotations

import programs
import pytest
import torch

SMALL = ["--device", "cpu", "--embedding", "24", "--hidden", "24", "--pieces", "200", "--beam", "2"]


@pytest.fixture
def translation(monkeypatch):
    """The program, with few sentences."""
    program = programs.load(monkeypatch, "translation")
    monkeypatch.setattr(program, "PAIRS", 160)
    monkeypatch.setattr(program, "HELD_OUT", 20)
    monkeypatch.setattr(program, "LONGEST", 40)
    return program


@pytest.fixture
def corpus(translation, tmp_path):
    """A folder as the public one."""
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("train", "val", "test_2016_flickr"):
        for language, lines in zip(("en", "de"), translation.generated.pairs(40, 1), strict=True):
            (folder / f"{part}.{language}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def task(translation):
    """A task and a function that makes it models that are not trained."""
    task = translation.Translation(translation.arguments(SMALL), torch.device("cpu"))
    torch.manual_seed(3)
    return task, task.model("seqcuda").eval()


@pytest.mark.parametrize(
    "given", [[], ["--attention", "none", "--cell", "gru", "--layers", "2"]], ids=["attention", "none"]
)
def test_both_libraries_train_alike(translation, tmp_path, given):
    given = [*SMALL, *given, "--batch", "20", "--steps", "4", "--every", "2", "--twins", "1"]
    found = programs.check_both_libraries_train_alike(translation, given, tmp_path)
    assert found["bleu"].keys() == {"beam", "greedy"} and len(found["translated"]) == 3
    if "--attention" not in given:
        programs.check_pictures(tmp_path, "attention.png")


def test_ctrl_c_and_resume_with_its_own_words(translation, tmp_path):
    programs.check_ctrl_c(translation, [*SMALL, "--teacher", "0.5", "--every", "2"], tmp_path, 4)


def test_data_in_the_public_format(translation, corpus, tmp_path):
    given = [*SMALL, "--data", str(corpus), "--batch", "8", "--steps", "2", "--translate", "The dog sees a cat."]
    assert translation.main([*given, "--out", str(tmp_path)]) == 0
    found = programs.metrics(tmp_path)
    assert found["data"] == "en to de, 40 train, 40 val, 40 test pairs"
    assert found["translated"].keys() == {"The dog sees a cat."}


def test_the_decoder_in_one_call_and_word_by_word(translation, task):
    task, model = task
    model = model.double()
    x, lengths, y = task.batch(range(6))
    source, state = model.encode(x, lengths)
    at_once, _, weights = model.decode(y[:-1], state, source)
    by_word = []
    for word in y[:-1]:
        scores, state, _ = model.decode(word[None], state, source)
        by_word.append(scores)
    translation.training.agreement.testing.assert_close_to_exact(torch.cat(by_word), at_once)
    assert torch.allclose(weights.sum(2), torch.ones(()).double())
    assert (weights.permute(2, 1, 0)[~source.alive] == 0).all()  # nothing is taken from padding


def test_padding_does_not_count(translation, task):
    task, model = task
    rows = sorted(range(len(task.rows)), key=lambda row: len(task.rows[row][1]))
    short, long = rows[0], rows[-1]

    def loss(*rows: int):
        x, lengths, y = task.batch(rows)
        source, state = model.encode(x, lengths)
        scores = model.decode(y[:-1], state, source)[0]
        return torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), y[1:].flatten(), ignore_index=translation.PAD, reduction="sum"
        )

    assert loss(short, long).item() == pytest.approx((loss(short) + loss(long)).item(), rel=1e-5)


def test_a_beam_of_one_is_greedy(translation, task):
    task, model = task
    task.args.beam = 1
    for line in task.lines["val"][0][:5]:
        assert task.translate(model, line) == task.greedy(model, [line])[0]


def test_bad_input(translation, corpus, tmp_path, capsys):
    programs.check_common_refusals(translation, capsys, tmp_path)
    here = ["--out", str(tmp_path), "--data", str(corpus)]
    assert "no folder" in programs.refused(translation, capsys, "--data", str(tmp_path / "none"))
    assert "has no file train*.fr" in programs.refused(translation, capsys, *here, "--target", "fr")
    assert "--pieces 5 do not fit" in programs.refused(translation, capsys, *here, "--pieces", "5")
    assert "--teacher" in programs.refused(translation, capsys, *here, "--teacher", "2")
    assert "--translate" in programs.refused(translation, capsys, *here, "--translate", " ")
    (corpus / "val.de").write_text("Eine Zeile.\n")
    assert "has 40 lines and" in programs.refused(translation, capsys, *here)
    (corpus / "val.de").write_bytes("Größe\n".encode("latin-1") * 40)
    assert "not UTF-8" in programs.refused(translation, capsys, *here)
