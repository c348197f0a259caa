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
  *"import pytest_timeout"*) exit "${NO_TIMEOUT:-0}" ;;
esac
[[ -n "${SLOW:-}" && "$*" == *"$SLOW"* ]] && sleep 100
[[ -n "${FAILS:-}" && "$*" == *"$FAILS"* ]] && exit 3
exit 0
"""


# Notes its arguments in the same way and runs nothing.
SANITIZER = """#!/usr/bin/env bash
echo "sanitizer $* arch=$TORCH_CUDA_ARCH_LIST" >>"$NOTES"
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
    assert [next(c for c in commands if w in c) for w in wanted] == [commands[i] for i in (0, 1, 2, 4, -1)]
    tests = [c for c in commands if "-m pytest" in c]
    engines = ("not group and not cluster", "group", "cluster and not group")
    assert [c.partition(" -k ")[2].partition(" arch=")[0] for c in tests] == list(engines)
    assert all("-v -m gpu" in c and "faulthandler_timeout=" in c and " -n " in c and " --timeout=" in c for c in tests)
    assert f"--out {tmp_path / 'out'}" in commands[-1]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "build.log", "info.log", "tests-stepwise.log", "tests-group.log", "tests-cluster.log", "benchmarks.log"
    }  # fmt: skip


@pytest.mark.parametrize(("missing", "option"), [("NO_XDIST", " -n "), ("NO_TIMEOUT", " --timeout=")])
def test_without_a_plugin(check, missing, option):
    status, _, commands = check(**{missing: "1"})
    assert status == 0 and not any(option in c for c in commands)


def test_sanitizers_come_last_and_have_a_share_of_the_time(check, tmp_path):
    def seconds_of(commands):
        (benchmarks,) = [c for c in commands if "-m benchmarks.cuda" in c]
        return int(benchmarks.partition("--seconds ")[2].partition(" ")[0])

    without = seconds_of(check("400")[2])
    (tmp_path / "notes").unlink()
    sanitizer = tmp_path / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.write_text(SANITIZER)
    sanitizer.chmod(0o755)
    status, output, commands = check("400", PATH=f"{sanitizer.parent}:{os.environ['PATH']}")
    assert status == 0, output
    assert abs(without - 400 // 6 - seconds_of(commands)) < 5
    tools = [c for c in commands if c.startswith("sanitizer --tool")]
    assert [c.split()[2] for c in tools] == ["memcheck", "racecheck"] and tools == commands[-2:]
    assert all("tests/test_cuda_device.py -k sanitizer_sample" in c for c in tools)


def test_a_step_that_hangs_is_ended_and_the_rest_runs(check):
    start = time.monotonic()
    status, output, commands = check("8", SLOW="-m pytest")
    assert time.monotonic() - start < 20
    assert status == 1 and "FAILED: tests-stepwise, exit status 124" in output
    assert "FAILED: tests-cluster, exit status 124" in output
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
