"""The cases of seqcuda/shapes.py by pytest-benchmark: torch.nn and seqcuda side by side, one group for each case.

    python -m pytest benchmarks -k "words and lstm" --benchmark-max-time=0.5

For figures to quote use `benchmarks.run`, which times the two in turn.
"""

from __future__ import annotations

import pytest

from seqcuda import bench


@pytest.mark.parametrize("library", ["torch", "seqcuda"])
@pytest.mark.parametrize("case", bench.cases(), ids=lambda case: case.name.replace(", ", "-"))
def test_layer(benchmark, case, library):
    benchmark.group = case.name
    call = bench.prepare(case, library)
    call()
    benchmark(call)
