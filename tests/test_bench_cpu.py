"""The benchmark of the CPU engines: that every section measures, judges and is shown. No time is asserted."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import package
import pytest
import torch
from marks import needs_extension

from seqcuda import bench
from seqcuda.shapes import SHAPES

for needed in ("tqdm", "matplotlib"):
    pytest.importorskip(needed)
pytestmark = needs_extension

SECTIONS = (
    "speed", "short", "step", "reading", "large", "ragged", "memory", "busy", "growth", "half", "penalty", "samples",
    "compiled", "ensembles", "heads",
)  # fmt: skip


@pytest.fixture(scope="module")
def cpu():
    """A module of benchmarks.cpu by name; benchmarks/ is found from the root of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package.ROOT))
        yield lambda name: importlib.import_module(f"benchmarks.cpu.{name}")


@pytest.fixture(scope="module")
def written(cpu, tmp_path_factory):
    """What a quick run of every section writes: the result read back, the page and the folder."""
    out = tmp_path_factory.mktemp("results") / "cpu.json"
    given = ["--quick", "--threads", "1", "--seconds", "1e-4", "--out", str(out), "--sections", *SECTIONS]
    assert cpu("__main__").main(given) == 0
    return json.loads(out.read_text()), out.with_suffix(".md").read_text(), out.parent


def test_a_quick_run_writes_result_page_and_picture(written):
    result, page, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["cpu-growth.png", "cpu.json", "cpu.md"]
    assert (folder / "cpu-growth.png").read_bytes().startswith(b"\x89PNG") and "](cpu-growth.png)" in page
    assert result["quick"] and not result["interrupted"] and result["machine"]["cpu"]
    assert tuple(result["sections"]) == SECTIONS
    assert all(part["rows"] and part["missing"] is None for part in result["sections"].values())
    assert page.index("## Goals") < page.index("## speed")
    for name, part in result["sections"].items():
        shown = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert sum(line.startswith("|") for line in shown.splitlines()) == 2 + len(part["rows"]), name


def test_every_goal_is_judged_in_the_open(written):
    result, page, _ = written
    assert {goal["section"] for goal in result["goals"]} == set(SECTIONS)
    for goal in result["goals"]:
        assert goal["measured"] and goal["met"] in (True, False)
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {goal['section']} | {goal['goal']} |")]
        assert line.endswith("| yes |" if goal["met"] else "| **no** |")


def test_memory_goals_hold(written):
    """The one section that no clock has a part in."""
    goals = [goal for goal in written[0]["goals"] if goal["section"] == "memory"]
    assert len(goals) == 8 and all(goal["met"] for goal in goals)


def test_onnxruntime(cpu):
    for needed in cpu("rival").PACKAGES:
        pytest.importorskip(needed)
    case = bench.Case(SHAPES[0], "gru", "inference", 1)
    row = cpu("rival").measure(case, 1e-4)
    assert row["onnxruntime ms"] > 0 and row["ratio"]["pairs"] >= 3
    torch.testing.assert_close(torch.from_numpy(cpu("rival").session(case)()), bench.prepare(case, "seqcuda")())
    assert {goal.what for goal in cpu("rival").SECTION.goals([row])} == {
        "mean over shapes and cells", "the lowest of all shapes"
    }  # fmt: skip


def test_without_onnxruntime_the_rest_is_measured(cpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "r.json"
    given = ["--quick", "--threads", "1", "--seconds", "1e-4", "--out", str(out), "--sections", "onnxruntime", "memory"]
    assert cpu("__main__").main(given) == 2
    assert "error: onnxruntime was not measured: onnxruntime, onnx, onnxscript not installed" in capsys.readouterr().err
    result = json.loads(out.read_text())
    assert result["sections"]["memory"]["rows"] and not result["sections"]["onnxruntime"]["rows"]
    assert [goal["met"] for goal in result["goals"] if goal["section"] == "onnxruntime"] == [None, None]
    assert "Not measured: onnxruntime, onnx" in out.with_suffix(".md").read_text()


def test_an_interrupted_run_keeps_what_was_measured(cpu, monkeypatch, tmp_path):
    step, rows = cpu("step"), []

    def two_then_interrupt(self, threads, seconds):
        if len(rows) == 2:
            raise KeyboardInterrupt
        ratio = bench.ratio([2.0], [1.0])
        rows.append(self.row() | {"threads": threads, "torch ms": 2.0, "seqcuda ms": 1.0, "ratio": ratio})
        return rows[-1]

    monkeypatch.setattr(step.Step, "against_torch", two_then_interrupt)
    out = tmp_path / "r.json"
    assert cpu("__main__").main(["--quick", "--threads", "1", "--sections", "step", "memory", "--out", str(out)]) == 130
    result = json.loads(out.read_text())
    assert result["interrupted"] and result["sections"]["step"]["rows"] == rows
    assert "Interrupted" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    "given, says",
    [
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--seconds", "0"], "--seconds must be above 0, got 0"),
        (["--out", "result.txt"], "--out must be a file *.json, got result.txt"),
        (["--out", "/dev/null/r.json"], "/dev/null"),
    ],
    ids=["threads", "seconds", "suffix", "folder"],
)
def test_what_cannot_be_done_is_an_error(cpu, given, says, tmp_path, capsys):
    default = ["--out", str(tmp_path / "r.json")]
    assert cpu("__main__").main([*default, "--quick", "--sections", "memory", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error


def test_an_unknown_section_is_an_error(cpu, capsys):
    with pytest.raises(SystemExit) as stopped:
        cpu("__main__").main(["--sections", "verbs"])
    assert stopped.value.code == 2 and "'verbs'" in capsys.readouterr().err


def test_goals_judge_what_is_shown(cpu):
    at_least, at_most = cpu("section").at_least, cpu("section").at_most
    rows = [
        {"case": "a", "threads": 1, "ratio": {"median": 4.0}, "over": 1.004},
        {"case": "b", "threads": 1, "ratio": {"median": 1.0}, "over": 0.5},
        {"case": "c", "threads": 2, "ratio": {"median": 3.0}, "over": 1.006},
    ]
    mean = at_least("mean", 2, rows, "ratio", mean=True)
    assert mean.measured == {"1 thread": (pytest.approx(2.0), ""), "2 threads": (pytest.approx(3.0), "")} and mean.met
    lowest = at_least("lowest", 1.01, rows, "ratio")
    assert lowest.measured == {"1 thread": (1.0, "b"), "2 threads": (3.0, "c")} and not lowest.met
    assert at_most("highest", 1, rows[:2], "over").met  # 1.004 is shown as 1.00
    assert not at_most("highest", 1, rows, "over").met
    assert at_least("nothing", 1, [], "ratio").met is None


def test_long_shapes_are_cut(cpu):
    cut, work = cpu("section").cut, cpu("section").work
    for shape in SHAPES:
        for most in (1e-9, 2, 1e9):
            short = cut(shape, most)
            assert 1 <= short.T <= shape.T and (work(short, 4) <= most or short.T == 1)
        assert cut(shape, 1e9) == shape


def test_growth_of_known_curves(cpu):
    growth = cpu("growth")
    assert growth.unevenness([(10, 1.1), (100, 1.0), (1000, 1.05)]) == pytest.approx(1.1)
    assert growth.exponent([(1, 5.0), (8, 1.0), (16, 2.0), (32, 4.0)], past=8) == pytest.approx(1)
    assert growth.exponent([(1, 1.0), (2, 4.0)], past=8) == pytest.approx(2)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_kept_bytes_are_counted_once_and_without_what_was_given(cpu, cell):
    memory = cpu("memory")
    x, w = torch.randn(2, 3, 4, requires_grad=True)
    assert memory.kept(lambda: (x * w).sum(), [x, w]) == 0
    assert memory.kept(lambda: (x * w).exp().exp(), [x, w]) == 2 * 4 * 12  # both results of exp
    lean, fast = (memory.kept(*memory.forward(cell, kind)) for kind in ("lean", "fast"))
    assert lean <= fast


def test_large_shapes_are_large(cpu):
    assert all(rows * hidden >= 16_000 for rows, hidden in cpu("large").SIZES)


def state(pid: int) -> str | None:
    """The letter of /proc: R running, T stopped; None for no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return None


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 5 seconds")


def test_spinners_end_with_their_parent(cpu):
    """However it ends, and while they are stopped as well."""
    program = (
        "import os, signal; from benchmarks.cpu.busy import Spinners; "
        "print(*Spinners().pids, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=package.ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package.ROOT), *sys.path])},
    )  # fmt: skip
    pids = [int(pid) for pid in ran.stdout.split()]
    assert ran.returncode == -signal.SIGKILL and pids
    wait_until(lambda: all(state(pid) in (None, "Z") for pid in pids))


def test_spinners_spin_pause_and_are_gone(cpu):
    with pytest.raises(KeyboardInterrupt), cpu("busy").spinners() as others:
        pids = others.pids
        assert len(pids) == len(os.sched_getaffinity(0))
        wait_until(lambda: all(state(pid) == "T" for pid in pids))
        others.go()
        wait_until(lambda: all(state(pid) == "R" for pid in pids))
        others.pause()
        wait_until(lambda: all(state(pid) == "T" for pid in pids))
        raise KeyboardInterrupt
    assert all(state(pid) is None for pid in pids)
