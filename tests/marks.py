"""Why a test may be left out."""

from __future__ import annotations

import pytest
import torch

import seqcuda
from seqcuda import _backend

# A build that failed is no such reason: then the tests fail.
deliberately_not_built = "SEQCUDA_NO_EXTENSION=1" in _backend.why_not_compiled
needs_extension = pytest.mark.skipif(deliberately_not_built, reason="the extension is deliberately not built")

# scripts/gpu_check.sh runs what is marked so.
has_gpu = torch.cuda.is_available() and bool(seqcuda.engines("cuda"))
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not has_gpu, reason="no GPU, or an extension without CUDA")
