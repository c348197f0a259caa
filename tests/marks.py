"""Why a test may be left out."""

from __future__ import annotations

import pytest

from seqcuda import _backend

# A build that failed is no such reason: then the tests fail.
deliberately_not_built = "SEQCUDA_NO_EXTENSION=1" in _backend.why_not_compiled
needs_extension = pytest.mark.skipif(deliberately_not_built, reason="the extension is deliberately not built")
