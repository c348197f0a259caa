"""scripts/gpu_check.sh with a Python that plays its part: what it runs, and that it ends in time."""

from __future__ import annotations

import os
import subprocess
import time

import package
import pytest

# Notes its arguments; what $SLOW or $FAILS stand in takes for ever, or fails.
PYTHON = """#!/usr/bin/env bash
echo "$* arch=$TORCH_CUDA_ARCH_LIST" >>"$NOTES"
case "$*" in
  *get_device_capability*) echo "${CAPABILITY-9.0a}" ;;
  *"import xdist"*) exit "${NO_XDIST:-0}" ;;
esac
[[ -n "${SLOW:-}" && "$*" == *"$SLOW"* ]] && sleep 100
[[ -n "${FAILS:-}" && "$*" == *"$FAILS"* ]] && exit 3
exit 0
"""


@pytest.fixture
def check(tmp_path):
    """Runs the script: exit status, output, and the commands that Python got."""
    python, notes, out = tmp_path / "python", tmp_path / "notes", tmp_path / "out"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(seconds: str = "40", **environment: str) -> tuple[int, str, list[str]]:
        ran = subprocess.run(
            ["bash", package.ROOT / "scripts/gpu_check.sh", out, seconds],
            env={"PATH": os.environ["PATH"], "PYTHON": str(python), "NOTES": str(notes), "CUDA_HOME": "/none"}
            | environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        commands = notes.read_text().splitlines() if notes.exists() else []
        return ran.returncode, ran.stdout + ran.stderr, [c for c in commands if " arch=9.0a" in c]

    return run


def test_everything_in_order(check, tmp_path):
    status, output, commands = check()
    assert status == 0, output
    wanted = ("setup.py build_ext", "-m seqcuda info", "import xdist", "-m pytest", "-m benchmarks.cuda")
    assert [w for w in wanted if any(w in c for c in commands)] == list(wanted)
    (tests,) = [c for c in commands if "-m pytest" in c]
    assert "-m gpu" in tests and " -n " in tests
    assert f"--out {tmp_path / 'out'}" in commands[-1]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "build.log", "info.log", "tests.log", "benchmarks.log"
    }  # fmt: skip


def test_without_xdist(check):
    status, _, commands = check(NO_XDIST="1")
    assert status == 0 and not any(" -n " in c for c in commands)


def test_a_step_that_hangs_is_ended_and_the_rest_runs(check):
    start = time.monotonic()
    status, output, commands = check("8", SLOW="-m pytest")
    assert time.monotonic() - start < 20
    assert status == 1 and "FAILED: tests, exit status 124" in output
    assert "-m benchmarks.cuda" in commands[-1]


def test_what_fails_is_said(check):
    status, output, _ = check(FAILS="benchmarks.cuda")
    assert status == 1 and "FAILED: benchmarks, exit status 3" in output
    status, output, _ = check(FAILS="setup.py")
    assert status == 2 and "error: the extension could not be built" in output


@pytest.mark.parametrize(
    "given, says",
    [
        ({"CAPABILITY": "RuntimeError: no CUDA GPUs are available"}, "finds no GPU: RuntimeError: no CUDA GPUs"),
        ({"PYTHON": "/none/python"}, "finds no GPU: "),
        ({"seconds": "soon"}, "SECONDS must be a number above 0, got soon"),
    ],
    ids=["GPU", "Python", "seconds"],
)
def test_what_cannot_run_is_exit_status_2(check, given, says):
    status, output, commands = check(**given)
    assert status == 2 and says in output and commands == []
