"""python -m seqcuda info | check | bench, and their exit codes."""

from __future__ import annotations

import json

import marks
import package
import pytest
import torch

import seqcuda
from seqcuda import __main__ as cli
from seqcuda import _backend, selftest, testing
from seqcuda.cells import CELLS


def test_info(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for part in (seqcuda.__version__, torch.__version__, *CELLS, *seqcuda.engines()):
        assert part in text


def test_info_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["seqcuda"] == seqcuda.__version__ and facts["package"] == str(package.ROOT / "seqcuda")
    assert set(facts["cells"]) == set(CELLS)
    assert facts["engines"] == list(seqcuda.engines())
    assert facts["extension"] == "built" or facts["extension"].startswith("absent: ")


def test_info_as_a_program():
    done = package.python("-m", "seqcuda", "info", SEQCUDA_NO_EXTENSION="1")
    assert done.returncode == 0
    assert "SEQCUDA_NO_EXTENSION=1 is set" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["info", "--nonsense"], ["check", "more"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m seqcuda" in capsys.readouterr().err


def test_help_of_every_command(capsys):
    for command in ("info", "check", "bench"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.fixture
def small(monkeypatch):
    """A self-test of one cell and one form."""
    monkeypatch.setattr(selftest, "CELLS", {"gru": CELLS["gru"]})
    monkeypatch.setattr(selftest, "FORMS", selftest.FORMS[-1:])


def test_check(small, capsys):
    passed = cli.main(["check"]) == 0
    text = capsys.readouterr().out
    assert "FAILED" not in text
    assert passed == (_backend.compiled is not None)
    assert passed or "NOT CHECKED" in text


def test_check_that_finds_an_error_is_exit_code_1(small, monkeypatch, capsys):
    def never(actual, exact, dtype=None, *, name=""):
        raise AssertionError(f"{name} is wrong")

    monkeypatch.setattr(testing, "assert_close_to_exact", never)
    assert cli.main(["check"]) == 1
    assert f"FAILED gru, reference, float32, {selftest.FORMS[0].name}" in capsys.readouterr().out


def test_what_an_engine_does_not_compute_is_no_failure(small, monkeypatch, capsys):
    reason = "seqcuda: engine stepwise cannot run this layer: a reason"
    monkeypatch.setattr(selftest, "refusal", lambda cell, runner, dtype: reason * (runner.backend != "reference"))
    cli.main(["check"])
    text = capsys.readouterr().out
    assert "FAILED" not in text
    assert text.count(f"-: {reason}") == (_backend.compiled is not None)


def test_check_without_the_extension_does_not_pass(small, monkeypatch, capsys):
    monkeypatch.setattr(_backend, "compiled", None)
    monkeypatch.setattr(_backend, "why_not_compiled", "a reason")
    assert cli.main(["check"]) == 1
    assert "NOT CHECKED: the compiled engines, a reason" in capsys.readouterr().out


RUNNERS = [pytest.param(r, marks=[marks.gpu] * (r.device == "cuda"), id=str(r)) for r in selftest.runners()]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_and_engine_passes_the_self_test(cell, runner):
    for dtype in selftest.DTYPES:
        assert selftest.check(cell, runner, dtype).failures == ()
