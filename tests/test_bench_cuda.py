"""The benchmark of the CUDA engines, on the CPU: its grid, budget, page, model and choices. No time is asserted."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json

import package
import pytest
import torch
from marks import needs_extension

import seqcuda
from seqcuda import bench


@pytest.fixture(scope="module")
def cuda():
    """A module of benchmarks.cuda by name; benchmarks/ is found from the root of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package.ROOT))
        yield lambda name: importlib.import_module(f"benchmarks.cuda.{name}")


class Cpu:
    """In the place of a Gpu: a clock that counts calls, and no memory."""

    name = "cpu"

    def __init__(self):
        self.facts = bench.machine() | {"gpu": "none", "compute capability": "9.0"}

    def timed(self, call, times):
        call()
        return 1e-3

    def peak(self, call):
        call()
        return 2_000_000

    def kept(self, forward):
        forward()
        return 1_000_000

    def check(self):
        pass

    free = check


def small(point, **changes):
    return dataclasses.replace(point, H=5, B=3, T=4, **changes)


def test_the_grid_holds_what_is_asked_for(cuda):
    grid = cuda("grid")
    points = grid.points()
    assert len(set(points)) == len(points)
    assert set(points[:4]) == {
        grid.Point(dtype, "lstm", 768, 16, 1024, mode) for dtype in ("bfloat16", "float16") for mode in grid.MODES
    }
    axes = (
        ("bfloat16", "tf32", "float16", "float32"), ("lstm", "gru", "rnn"),
        (64, 128, 160, 192, 256, 512, 768, 1024, 2048), (1, 8, 32, 64, 128, 256), (1, 16, 128, 1024),
        ("inference", "training"),
    )  # fmt: skip
    assert {grid.Point(*sizes) for sizes in itertools.product(*axes)} <= set(points)
    for form in ("stacked", "bidirectional", "packed"):
        some = [p for p in points if p.form == form]
        assert {(p.dtype, p.cell, p.mode) for p in some} == set(itertools.product(axes[0], axes[1], axes[5]))


def test_the_most_important_come_first(cuda):
    grid = cuda("grid")
    first = grid.points()[4]
    assert first == grid.Point("bfloat16", "lstm", 512, 32, 128, "inference")
    early = grid.points()[: len(grid.points()) // 4]
    assert {p.dtype for p in early} == set(grid.DTYPES) and {p.form for p in early} == set(grid.FORMS)
    assert {(p.H, p.mode) for p in early} >= set(itertools.product((256, 512, 768, 1024), grid.MODES))


def test_the_model(cuda):
    model, Point = cuda("model"), cuda("grid").Point
    lstm = Point("bfloat16", "lstm", 512, 64, 128, "inference")
    assert model.step(lstm) == pytest.approx(1.25)
    assert 1.25 < model.step(dataclasses.replace(lstm, B=90)) < 1.35
    assert 0.58 < model.step(dataclasses.replace(lstm, H=160, B=1)) < 0.63
    assert model.step(dataclasses.replace(lstm, H=2048, B=256)) == pytest.approx(20)
    assert model.step(dataclasses.replace(lstm, form="stacked")) == pytest.approx(3 * 1.25)
    assert model.step(dataclasses.replace(lstm, dtype="float32")) is None
    assert model.step(dataclasses.replace(lstm, cell="rnn")) is None
    for point in cuda("grid").points():
        assert (model.step(point) is None) == (point.dtype == "float32" or point.cell == "rnn")


@pytest.fixture(scope="module")
def result(cuda):
    """Every cell and every form on the CPU."""
    Point, grid, written = cuda("grid").Point, cuda("grid"), []
    kinds = [(cell, "plain") for cell in grid.CELLS] + [("gru", form) for form in grid.FORMS if form != "plain"]
    points = [Point("bfloat16", cell, 5, 3, 4, mode, form) for cell, form in kinds for mode in grid.MODES]
    found = cuda("__main__").run(points, Cpu(), 1e9, written.append, 1e-3)
    assert written[-1] is found
    return json.loads(json.dumps(found))


@needs_extension
def test_every_engine_is_measured(result):
    engines, rows = seqcuda.engines("cpu"), result["results"]
    assert result["stopped"] is None and result["not measured"] == [] and not result["interrupted"]
    assert len(rows) == len(engines) * 6 * 2
    by_case = itertools.groupby(rows, key=lambda row: row["case"])
    for _, group in by_case:
        group = list(group)
        assert {row["engine"] for row in group} == set(engines)
        assert sum(row["chosen"] for row in group) <= 1
    for row in rows:
        assert "error" not in row and row["wrong"] == ""
        assert row["torch us"] == row["seqcuda us"] == pytest.approx(250) and row["ratio"]["median"] == 1
        assert row["torch peak MB"] == 2 and ("lean kept MB" in row) == (row["mode"] == "training")


@needs_extension
def test_the_page(cuda, result):
    page = cuda("page").markdown(result)
    for title in ("## Goals", "## Engines", "## Layers"):
        assert title in page
    assert "## Failures" not in page and "## Not measured" not in page
    layers = [line for line in page.split("## Layers")[1].splitlines() if line.startswith("|")]
    assert len(layers) == 2 + len(result["results"])
    assert {len(line.split(" | ")) for line in layers[:1] + layers[2:]} == {len(cuda("page").COLUMNS)}
    goals = {goal["goal"]: goal for goal in result["goals"]}
    assert goals["the lowest of all layers"]["met"]
    assert not goals["kept by lean training over torch.nn, the highest"]["met"]
    assert goals["packed, the lowest"]["met"] is None  # none has 1000 steps here


def test_the_run_ends_when_the_time_is_used_up(cuda, monkeypatch):
    main, points = cuda("__main__"), cuda("grid").points()
    now = iter(range(10**6))
    monkeypatch.setattr(main, "measure", lambda point, device, seconds: [])
    result = main.run(points, Cpu(), 50, lambda result: None, clock=lambda: next(now))
    assert 0 < len(result["not measured"]) < len(points)
    assert result["not measured"] == [point.name for point in points[-len(result["not measured"]) :]]
    page = cuda("page").markdown(result)
    assert f"{len(result['not measured'])} layers did not fit into the time" in page


def test_a_failure_is_a_row_and_the_rest_is_measured(cuda, monkeypatch):
    main, points = cuda("__main__"), cuda("grid").points()[:3]

    def fail_once(point, device, seconds):
        if point is points[1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return []

    monkeypatch.setattr(main, "measure", fail_once)
    result = main.run(points, Cpu(), 1e9, lambda result: None)
    (row,) = result["results"]
    assert row["case"] == points[1].name and row["error"].startswith("OutOfMemoryError: CUDA out of memory")
    assert result["not measured"] == [] and result["stopped"] is None
    assert f"- {points[1].name}: OutOfMemoryError" in cuda("page").markdown(result)


def test_a_lost_device_ends_the_run(cuda, monkeypatch):
    main, points = cuda("__main__"), cuda("grid").points()[:3]

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    device = Cpu()
    device.check = fail
    monkeypatch.setattr(main, "measure", fail)
    result = main.run(points, device, 1e9, lambda result: None)
    assert "illegal memory access" in result["stopped"] and len(result["not measured"]) == 3
    assert "Stopped early: the device failed" in cuda("page").markdown(result)


@needs_extension
def test_wrong_results_are_noticed(cuda, monkeypatch):
    measure, point = cuda("measure"), cuda("grid").Point("bfloat16", "gru", 5, 3, 2, "training")
    results = measure.Layers.results

    def spoiled(self, layer, weighting):
        return results(self, layer, weighting) + (seqcuda._backend.selected() == "stepwise")

    monkeypatch.setattr(measure.Layers, "results", spoiled)
    assert measure.wrong(point, "panel", "cpu") == ""
    assert "error" in measure.wrong(point, "stepwise", "cpu")


def test_wrong_usage_is_exit_code_2(cuda, tmp_path, capsys):
    if seqcuda.engines("cuda") and torch.cuda.is_available():
        assert cuda("__main__").main(["--seconds", "0", "--out", str(tmp_path)]) == 2
    else:
        assert cuda("__main__").main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def row(H, B, T, mode, engine, us, wrong=""):
    return {
        "case": f"{H} {B} {T} {mode}", "dtype": "bfloat16", "cell": "rnn", "form": "plain", "mode": mode,
        "H": H, "B": B, "T": T, "engine": engine, "seqcuda us": us, "wrong": wrong,
    }  # fmt: skip


def test_choices_are_what_was_right_and_fastest(cuda):
    choices, rows = cuda("choices"), []
    for H, B, T, mode in itertools.product((64, 256, 1024), (1, 32), (16, 128), ("inference", "training")):
        rows += [row(H, B, T, mode, "stepwise", 5.0), row(H, B, T, mode, "cluster", 1.0 if H < 1024 else 9.0)]
    results = [{"machine": {"compute capability": "9.0"}, "results": rows}]
    table = choices.table(results)
    assert 'std::array<std::string_view, 2> kSeenOnGpu{"cluster", "stepwise"}' in table
    for cell in ("rnn_tanh", "rnn_relu"):
        assert f'    {{90, "bfloat16", "{cell}", {{64, 256}}, {{1, 32}}, {{16, 128}}, "cluster"}},\n' in table
    assert table.count('"cluster"},') == 2

    rows[1]["wrong"] = "error 1 against float64"  # H = 64, B = 1, T = 16, inference
    table = choices.table(results)
    assert "{64, 256}, {1, 32}, {16, 128}" not in table and "{64, 64}, {1, 1}, {128, 128}" in table
    assert 'kSeenOnGpu{"stepwise"}' in table


def test_the_table_in_the_tree_is_that_of_the_results_in_the_tree(cuda):
    choices = cuda("choices")
    results = [json.loads(path.read_text()) for path in choices.committed()]
    assert choices.TABLE.read_text() == choices.table(results)
