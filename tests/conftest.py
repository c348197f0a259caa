from __future__ import annotations

import cuda_emulation
import pytest
import torch

import seqcuda
from seqcuda import _backend
from seqcuda._backend import compiled

torch.set_num_threads(1)  # the problems are tiny; tests of threading ask for more themselves
torch.backends.cudnn.allow_tf32 = False  # float32 is held against float32, on a GPU and in its emulation


@pytest.fixture(params=["reference", *seqcuda.engines(), "auto"])
def backend_name(request):
    """Every backend in turn, selected while the test runs."""
    with seqcuda.backend(request.param):
        yield request.param


@pytest.fixture(params=compiled.instruction_sets() if compiled else [])
def instruction_set(request):
    """Every build of the CPU kernels that this machine can run, in use while the test runs."""
    before = compiled.instruction_set()
    compiled.set_instruction_set(request.param)
    yield request.param
    compiled.set_instruction_set(before)


@pytest.fixture(scope="session")
def emulated():
    """The CUDA op pair in the emulation."""
    return cuda_emulation.load()


@pytest.fixture
def ops(emulated):
    """The same, with NaN in memory that nobody has written."""
    usual = emulated.chunk_bytes()
    torch.use_deterministic_algorithms(True)
    yield emulated
    torch.use_deterministic_algorithms(False)
    emulated.set_chunk_bytes(usual)
    emulated.set_stream(0)


@pytest.fixture
def cuda_is_emulated(ops, monkeypatch):
    """Layers on the CPU go the way of those on CUDA."""
    monkeypatch.setattr(torch.ops, "seqcuda", ops)
    monkeypatch.setattr(_backend, "quick_call", lambda *_, **__: None)
    monkeypatch.setattr(_backend, "has_stacks", lambda _: True)
    monkeypatch.setattr(_backend, "has_tangents", lambda _: False)
    return ops
