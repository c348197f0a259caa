"""What the tests of the example programs share."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NEEDED = ("matplotlib", "rich", "sacrebleu", "sentencepiece", "torchmetrics", "tqdm")


def load(monkeypatch, name: str) -> ModuleType:
    """The program as a module."""
    for needed in NEEDED:
        pytest.importorskip(needed)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


def metrics(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def trainings(out: Path) -> dict:
    return metrics(out)["trainings"]


def losses(out: Path) -> dict[str, list[float]]:
    """Of every run of every training."""
    return {f"{t} {r}": run["losses"] for t, found in trainings(out).items() for r, run in found["runs"].items()}


def check_pictures(out: Path, *names: str) -> None:
    for name in ("loss.png", *names):
        assert (out / name).read_bytes().startswith(b"\x89PNG"), name


def check_both_libraries_train_alike(program: ModuleType, given: list[str], out: Path) -> dict:
    """Runs it with both; the metrics."""
    assert program.main([*given, "--backend", "both", "--out", str(out)]) == 0
    for training in trainings(out).values():
        comparison = training["comparison"]
        assert comparison["equal"] and comparison["checks"] and comparison["curves"]
        assert {"torch", "seqcuda"} <= training["runs"].keys()
    assert metrics(out)["seconds"].keys() == {"torch", "seqcuda"}
    check_pictures(out)
    return metrics(out)


def check_resume(program: ModuleType, given: list[str], tmp_path: Path, steps: int) -> None:
    """A training in two parts ends with the numbers of an uninterrupted one."""
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert program.main([*given, "--steps", str(steps), "--out", whole]) == 0
    assert program.main([*given, "--steps", str(steps // 2), "--out", parts]) == 0
    assert program.main([*given, "--steps", str(steps), "--out", parts, "--resume"]) == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def check_ctrl_c(program: ModuleType, given: list[str], tmp_path: Path, steps: int) -> None:
    """Ctrl-C in the middle saves and ends with status 130; what is resumed ends as an uninterrupted training."""
    from common import training

    before = signal.getsignal(signal.SIGINT)  # not Python's own where the tests run in the background
    train_step = training.Run._train_step

    def interrupted_step(run):
        if run.name == "seqcuda" and run.step == steps // 2:
            signal.raise_signal(signal.SIGINT)
        train_step(run)

    given = [*given, "--steps", str(steps)]
    assert program.main([*given, "--out", str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training.Run, "_train_step", interrupted_step)
        assert program.main([*given, "--out", str(tmp_path / "cut")]) == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert program.main([*given, "--out", str(tmp_path / "cut"), "--resume"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def refused(program: ModuleType, capsys, *given: str) -> str:
    """The one sentence the program ends with, at exit status 2."""
    with pytest.raises(SystemExit) as ended:
        program.main(list(given))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def check_common_refusals(program: ModuleType, capsys, out: Path) -> None:
    """Bad input that every program can be given."""
    here = ["--out", str(out)]
    assert "--cell" in refused(program, capsys, *here, "--cell", "elman")
    assert "--backend" in refused(program, capsys, *here, "--backend", "cudnn")
    assert "device" in refused(program, capsys, *here, "--device", "abacus")
    (out / "a file").write_text("")
    assert "cannot be made" in refused(program, capsys, "--out", str(out / "a file"))


def interrupt(name: str, given: list[str], out: Path, line: str) -> int:
    """Ctrl-C to the program in a process of its own, as soon as it prints something that begins with `line`; the step
    of its checkpoint."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *given, "--out", str(out), "--steps", "1000000"],
        env=environment, cwd=out, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith(line)
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    at = re.search(r"interrupted at step seqcuda (\d+) of 1000000; saved (.*); --resume", said)
    assert at, said
    saved = torch.load(out / at[2])["content"]["runs"]["seqcuda"]
    assert len(saved["losses"]) == int(at[1])
    return int(at[1])
