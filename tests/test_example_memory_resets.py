"""examples/memory_resets.py."""

from __future__ import annotations

import programs
import pytest
import torch

from seqcuda import testing

SMALL = ["--device", "cpu", "--hidden", "16", "--batch", "8", "--length", "12"]


@pytest.fixture
def memory_resets(monkeypatch):
    """The program, with little to measure."""
    program = programs.load(monkeypatch, "memory_resets")
    monkeypatch.setattr(program, "TIMED", 2)
    return program


@pytest.fixture
def recall(memory_resets):
    """Makes a task and an agent."""

    def make(cell: str = "lstm"):
        task = memory_resets.Recall(memory_resets.arguments([*SMALL, "--cell", cell]), torch.device("cpu"))
        torch.manual_seed(5)
        return task, task.model("seqcuda").double()

    return make


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_one_call_of_seqcuda_and_torch_per_step_learn_alike(memory_resets, tmp_path, cell):
    given = [*SMALL, "--cell", cell, "--steps", "6", "--every", "3"]
    found = programs.check_both_libraries_train_alike(memory_resets, given, tmp_path)
    assert found["training pass"]["ratio"]["pairs"] == 2
    programs.check_pictures(tmp_path, "success.png")


def test_it_learns_to_remember(memory_resets, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_resets, "MOST", 3)
    given = [
        "--device",
        "cpu",
        "--cell",
        "gru",
        "--cues",
        "2",
        "--steps",
        "120",
        "--lr",
        "0.01",
        "--out",
        str(tmp_path),
    ]
    assert memory_resets.main(given) == 0
    assert max(v["success"] for v in programs.trainings(tmp_path)["gru"]["runs"]["seqcuda"]["validations"]) > 0.9


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_both_ways_have_the_same_loss_and_gradients(memory_resets, recall, cell):
    task, agent = recall(cell)
    window, world, memory = task.played(agent, (None, None), None, 12, 8)
    assert window.begins[1:].any() and window.ends.any()  # episodes end inside the window
    window, _, _ = task.played(agent, world, memory_resets.packed(memory), 12, 8)
    found = {}
    for agent.way in (memory_resets.ONE_CALL, memory_resets.PER_STEP):
        agent.zero_grad()
        loss = task.loss_of(agent, window, memory_resets.packed(memory))
        loss.backward()
        found[agent.way] = [loss.detach(), *(p.grad.clone() for p in agent.parameters())]
    for one_call, per_step in zip(*found.values(), strict=True):
        testing.assert_close_to_exact(one_call, per_step)


def test_nothing_leaks_from_one_episode_into_the_next(memory_resets, recall):
    task, agent = recall()
    window = task.played(agent, (None, None), None, 12, 8)[0]
    row = int(window.begins[1:].any(0).int().argmax())
    start = int(window.begins[1:, row].int().argmax()) + 1
    seen = window.seen.clone().double().requires_grad_()
    scores, _ = agent(seen, None, window.begins)
    scores[start:, row].sum().backward()
    assert (seen.grad[:start, row] == 0).all() and (seen.grad[start, row] != 0).any()


def test_ctrl_c_and_resume(memory_resets, tmp_path):
    programs.check_ctrl_c(memory_resets, [*SMALL, "--every", "4"], tmp_path, 8)


def test_bad_arguments(memory_resets, tmp_path, capsys):
    programs.check_common_refusals(memory_resets, capsys, tmp_path)
    here = ["--device", "cpu", "--out", str(tmp_path)]
    assert "--cues" in programs.refused(memory_resets, capsys, *here, "--cues", "1")
    assert "--way" in programs.refused(memory_resets, capsys, *here, "--way", "sideways")
