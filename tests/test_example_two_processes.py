"""examples/two_processes.py, in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import programs
import pytest

PROGRAM = programs.EXAMPLES / "two_processes.py"
SMALL = ["--device", "cpu", "--embedding", "16", "--hidden", "24"]


@pytest.fixture
def two_processes(monkeypatch):
    return programs.load(monkeypatch, "two_processes")


def started(given: list[str], out: Path) -> subprocess.Popen:
    """In a process group of its own, which a terminal would send Ctrl-C to."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *SMALL, *given, "--out", str(out)],
        env={**environment, "PYTHONPATH": str(programs.ROOT), "PYTHONUNBUFFERED": "1"}, cwd=out, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_two_processes_ctrl_c_and_resume(tmp_path):
    process = started(["--steps", "1000000", "--every", "2"], tmp_path)
    try:
        assert process.stdout.readline().startswith("lstm  step     2")
        os.killpg(process.pid, signal.SIGINT)
        said, complaint = process.communicate(timeout=300)
        assert process.returncode == 130, complaint
        assert "interrupted at step one process " in said
        again = started(["--steps", "12", "--every", "2", "--resume"], tmp_path)
        said, complaint = again.communicate(timeout=300)
    finally:
        process.kill()
    assert again.returncode == 0, complaint
    found = programs.metrics(tmp_path)
    assert found["figure"] == "2 processes and one: equal within the tolerance rule"
    assert found["seconds"].keys() == {"one process", "processes"}
    assert (tmp_path / "process-1" / "checkpoint.pt").exists()
    programs.check_pictures(tmp_path)


def test_bad_input(two_processes, tmp_path, capsys):
    programs.check_common_refusals(two_processes, capsys, tmp_path)
    here = [*SMALL, "--out", str(tmp_path)]
    assert "--dropout must be 0" in programs.refused(two_processes, capsys, *here, "--dropout", "0.5")
    assert "--processes" in programs.refused(two_processes, capsys, *here, "--processes", "0")
    assert "no checkpoint" in programs.refused(two_processes, capsys, *here, "--resume")
    assert "no folder" in programs.refused(two_processes, capsys, *here, "--data", str(tmp_path / "none"))
