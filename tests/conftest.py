from __future__ import annotations

import pytest
import torch

import seqcuda

torch.set_num_threads(1)  # the problems are tiny; tests of threading ask for more themselves


@pytest.fixture(params=["reference", *seqcuda.engines(), "auto"])
def backend_name(request):
    """Every backend in turn, selected while the test runs."""
    with seqcuda.backend(request.param):
        yield request.param
