"""The compiled cells and the Python ones are the same cells."""

from __future__ import annotations

import pytest
import torch
from marks import needs_extension

from seqcuda import _backend
from seqcuda.cells import CELLS


@needs_extension
def test_the_extension_is_there():
    assert _backend.compiled is not None, _backend.why_not_compiled


@needs_extension
def test_the_same_names():
    assert list(_backend.compiled.cells()) == list(CELLS)


@needs_extension
@pytest.mark.parametrize("name", CELLS)
def test_the_same_counts(name):
    counts, cell = _backend.compiled.cells()[name], CELLS[name]
    assert (counts["gates"], counts["states"], counts["saved"]) == (cell.gates, cell.states, cell.saved)
    assert (counts["unit"], counts["options"]) == (len(cell.unit_names), len(cell.options))
    assert (counts["recurrent"], counts["norms"]) == (cell.recurrent, len(cell.norms))
    assert counts["phases"] >= 1


@needs_extension
def test_instruction_sets():
    sets = _backend.compiled.instruction_sets()
    assert sets[0] == "baseline"
    before = _backend.compiled.instruction_set()
    try:
        for name in sets:
            _backend.compiled.set_instruction_set(name)
            assert _backend.compiled.instruction_set() == name
        with pytest.raises(ValueError, match="instruction set 'mmx'"):
            _backend.compiled.set_instruction_set("mmx")
    finally:
        _backend.compiled.set_instruction_set(before)


def test_engines_of_a_device():
    assert _backend.engines() == _backend.engines("cpu") == _backend.engines(torch.device("cpu", 0))
    assert _backend.engines("meta") == ()
    with pytest.raises(RuntimeError, match="device type at start of device string: gpu"):
        _backend.engines("gpu")


@pytest.mark.parametrize("name", CELLS)
def test_step_keeps_to_its_counts(name):
    cell, (B, H) = CELLS[name], (3, 5)
    assert cell.name == name

    def recurrent(operand, first=0, last=cell.gates):
        assert operand.shape == (B, H)
        return torch.zeros(B, (last - first) * H)

    unit = (torch.randn(H),) * len(cell.unit_names)
    parameters = (unit, cell.options) if unit or cell.options else ()
    states = (torch.randn(B, H),) * cell.states
    states, gates = cell.step(torch.randn(B, cell.gates * H), recurrent, states, *parameters)
    assert len(states) == cell.states
    assert len(gates) == cell.gates
    assert {t.shape for t in (*states, *gates)} == {(B, H)}
