"""The paired timing: what is computed from the times, the table, the JSON, the picture. No time is asserted."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES, QUICK, SHAPES, Case, Shape

ROOT = Path(__file__).resolve().parents[1]
TINY = Shape("tiny", T=3, B=2, I=4, H=5)
positive = st.floats(1e-6, 1e3)


@pytest.fixture
def plot(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import plot

    return plot


@pytest.fixture
def markdown(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import run

    return run.markdown


@pytest.fixture(scope="module")
def result():
    pytest.importorskip("tqdm")
    cases = [Case(TINY, cell, mode) for cell in CELLS for mode in MODES]
    return bench.run(cases, (1, 2), 1e-3, progress=False)


class Clock:
    """A clock that moves when a call says so."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def call(self, name: str, seconds: float):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


def test_ratio_of_known_pairs():
    assert bench.ratio([2.0, 6.0, 4.0, 8.0, 10.0], [2.0] * 5) == {"median": 3.0, "low": 2.0, "high": 4.0, "pairs": 5}
    assert bench.ratio([3.0], [2.0]) == {"median": 1.5, "low": 1.5, "high": 1.5, "pairs": 1}


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=40))
def test_ratio_is_ordered_and_turns_over(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    ab, ba = bench.ratio(a, b), bench.ratio(b, a)
    assert ab["low"] <= ab["median"] <= ab["high"]
    assert ab["pairs"] == len(pairs)
    if len(pairs) % 2:
        assert ab["median"] == pytest.approx(1 / ba["median"])


def test_pairs_alternate_and_slow_drift_cancels():
    clock = Clock()
    a, b = bench.pair(clock.call("a", 0.02), clock.call("b", 0.01), 0.3, clock=lambda: clock.now)
    assert len(a) == len(b) == 10
    assert clock.calls[:6] == ["a"] * 3 + ["b"] * 3  # warm-up
    assert clock.calls[6:14] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert bench.ratio(a, b)["median"] == pytest.approx(2)


def test_short_calls_are_repeated_and_long_ones_have_a_fewest():
    clock = Clock()
    short, _ = bench.pair(clock.call("a", 1e-5), clock.call("b", 1e-5), 0.1, clock=lambda: clock.now)
    assert short[0] == pytest.approx(1e-5) and clock.calls.count("a") > 10 * len(short)
    slow, _ = bench.pair(clock.call("a", 9.0), clock.call("b", 9.0), 0.1, clock=lambda: clock.now)
    assert len(slow) == bench.FEWEST


def test_cases_are_all_shapes_cells_and_modes():
    assert len(bench.cases()) == len(SHAPES) * len(CELLS) * len(MODES)
    assert len({case.name for case in bench.cases()}) == len(bench.cases())
    assert set(QUICK) <= {shape.name for shape in SHAPES}
    chosen = bench.cases(("words",), ("gru",), ("training",))
    assert [case.name for case in chosen] == ["words, gru, training"]
    with pytest.raises(ValueError, match="'verbs' is none of single step"):
        bench.cases(("verbs",))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [TINY, Shape("deep", T=3, B=2, I=4, H=5, layers=2, directions=2)])
@pytest.mark.parametrize("cell", CELLS)
def test_both_libraries_get_the_same_problem(cell, shape, mode):
    case = Case(shape, cell, mode)
    theirs, ours = bench.prepare(case, "torch")(), bench.prepare(case, "seqcuda")()
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b)


def test_the_result_is_json_with_the_machine(result, tmp_path):
    threads = torch.get_num_threads()
    bench.write(result, tmp_path / "new" / "result.json")
    read = json.loads((tmp_path / "new" / "result.json").read_text())
    assert read == result
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["result.json"]
    assert read["format"] == bench.FORMAT
    assert {"cpu", "cores", "instruction set", "os", "python", "torch", "seqcuda", "extension"} <= read[
        "machine"
    ].keys()
    assert [(r["threads"], r["cell"], r["mode"]) for r in read["results"]] == [
        (n, cell, mode) for n in (1, 2) for cell in CELLS for mode in MODES
    ]
    for r in read["results"]:
        assert r["shape"] == "tiny" and r["sizes"] == "T=3 B=2 I=4 H=5" and r["engine"]
        assert r["torch ms"] > 0 and r["seqcuda ms"] > 0 and r["ratio"]["pairs"] >= bench.FEWEST
    assert torch.get_num_threads() == threads


def test_tables_have_a_row_for_each_case(result, markdown):
    rich = pytest.importorskip("rich.console")
    of = bench.table(result)
    assert of.row_count == 12
    console = rich.Console(width=110, record=True, file=open("/dev/null", "w"))
    console.print(of)
    shown = console.export_text()
    page = markdown(result)
    for r in result["results"]:
        assert f"{r['ratio']['median']:.2f}" in shown and f"{r['ratio']['median']:.2f}" in page
    assert sum(line.startswith("| tiny |") for line in page.splitlines()) == 12


def test_the_picture_shows_losses_too(result, plot, tmp_path):
    loss = {**result["results"][0], "ratio": {"median": 0.4, "low": 0.3, "high": 0.5, "pairs": 9}}
    plot.draw([result, {**result, "results": [loss, *result["results"][1:]]}], tmp_path / "docs" / "speed.png")
    assert (tmp_path / "docs" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path, capsys):
    for needed in ("tqdm", "rich"):
        pytest.importorskip(needed)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    out = tmp_path / "r.json"
    given = ["--shapes", "single step", "--cells", "gru", "--threads", "1", "--seconds", "0.001", "--out", str(out)]
    assert bench.command(parser.parse_args(given)) == 0
    assert "single step" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["results"]) == 2
    for wrong in (["--shapes", "verbs"], ["--threads", "0"]):
        assert bench.command(parser.parse_args(wrong)) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_benchmarks_are_collected_in_pairs():
    pytest.importorskip("pytest_benchmark")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True
    ).stdout  # fmt: skip
    assert found.count("-torch]") == found.count("-seqcuda]") == len(bench.cases())


def test_an_interrupted_run_keeps_what_was_timed(monkeypatch):
    timed = []

    def one_then_interrupt(case, seconds, device):
        if timed:
            raise KeyboardInterrupt
        timed.append(case.name)
        return {"shape": case.shape.name}

    monkeypatch.setattr(bench, "time_case", one_then_interrupt)
    result = bench.run(bench.cases(("narrow",)), (1,), 0.01, progress=False)
    assert result["interrupted"] and result["results"] == [{"shape": "narrow"}]
