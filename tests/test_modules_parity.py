"""Outputs, states and gradients of random configurations, against torch.nn."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from cases import Case

import seqcuda
from seqcuda.testing import assert_close_to_exact, assert_within_rule

SEEDS = range(520)


def grouped(results: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients of the inputs as one tensor and those of each layer's weights as one: a gradient of one element
    may cancel to nothing but rounding error, and its own magnitude is then no measure of it."""
    groups = {}
    for name, tensor in results.items():
        if name.startswith("grad "):
            kind, _, layer = name.removeprefix("grad ").rpartition("_l")
            group = (
                "grad of inputs" if name[5:].startswith(("input", "hx")) else f"grad of weights {layer if kind else ''}"
            )
            groups.setdefault(group, []).append(tensor.flatten())
        else:
            groups[name] = [tensor]
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in groups.items()}


@cache
def exact_and_rival(seed: int):
    case = Case.draw(seed)
    return grouped(case.run(torch.nn, torch.float64)), grouped(case.run(torch.nn, torch.float32))


@pytest.mark.parametrize("seed", SEEDS)
def test_results_and_gradients(backend_name, seed):
    case = Case.draw(seed)
    exact, rival = exact_and_rival(seed)
    single, double = grouped(case.run(seqcuda, torch.float32)), grouped(case.run(seqcuda, torch.float64))
    assert single.keys() == double.keys() == exact.keys()
    for name in exact:
        assert_within_rule(single[name], rival[name], exact[name], name=f"{name} of {case}")
        assert_close_to_exact(double[name], exact[name], name=f"{name} of {case}")


@pytest.mark.parametrize("seed", SEEDS[:40])
def test_results_of_one_unit(backend_name, seed):
    """Without the gradients: with one unit they are single sums that may cancel to nothing but rounding error."""
    case = Case.draw(seed)
    arguments = {k: v for k, v in case.arguments.items() if k != "proj_size"}
    case = replace(case, hidden_size=1, arguments=arguments)
    actual, rival, exact = (
        case.run(namespace, dtype)
        for namespace, dtype in ((seqcuda, torch.float32), (torch.nn, torch.float32), (torch.nn, torch.float64))
    )
    for name in exact:
        if not name.startswith("grad"):
            assert_within_rule(actual[name], rival[name], exact[name], name=f"{name} of {case}")
