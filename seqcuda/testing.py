"""The tolerance rule, which every comparison of numbers in the tests and benchmarks goes through.

The error of a result against a float64 reference is at most twice the error that torch.nn makes at the same dtype on
the same inputs, plus a few ulp. An error is the largest over the elements; an ulp is the dtype's eps times the largest
magnitude of the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_ULP = 8
GROWTH = 8  # of rounding errors over the steps of a short walk, where there is no rival to measure it by


def ulp(exact: Tensor, dtype: torch.dtype) -> float:
    """eps of `dtype` times the largest magnitude of `exact`."""
    return torch.finfo(dtype).eps * _largest(exact)


def error(actual: Tensor, exact: Tensor) -> float:
    """The largest difference between two tensors of one shape; infinite where one of them is not finite."""
    difference = (actual.detach().double() - exact.detach().double()).abs()
    return _largest(difference.nan_to_num(nan=float("inf")))


def is_within_rule(actual: Tensor, rival: Tensor, exact: Tensor) -> bool:
    """Whether the tolerance rule holds, for tensors of one shape."""
    return error(actual, exact) <= 2 * error(rival, exact) + FEW_ULP * ulp(exact, actual.dtype)


def assert_within_rule(actual: Tensor, rival: Tensor, exact: Tensor, *, name: str = "") -> None:
    """The tolerance rule.

    Args:
        actual: our result.
        rival: torch.nn's result at the same dtype on the same inputs.
        exact: the result in float64.
        name: of the result, for the message.
    """
    assert actual.dtype == rival.dtype, f"{name}: dtype {actual.dtype}, torch.nn gives {rival.dtype}"
    assert actual.shape == rival.shape, f"{name}: shape {tuple(actual.shape)}, torch.nn gives {tuple(rival.shape)}"
    assert is_within_rule(actual, rival, exact), (
        f"{name}: error {error(actual, exact):.3g} against float64, torch.nn's is {error(rival, exact):.3g}, "
        f"an ulp is {ulp(exact, actual.dtype):.3g}"
    )


def assert_close_to_exact(actual: Tensor, exact: Tensor, dtype: torch.dtype | None = None, *, name: str = "") -> None:
    """For a result without a rival: a few ulp times a growth factor.

    Args:
        actual: our result.
        exact: the result in float64.
        dtype: in which it was computed, where that is not actual's own.
        name: of the result, for the message.
    """
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    ours, unit = error(actual, exact), ulp(exact, dtype or actual.dtype)
    assert ours <= GROWTH * FEW_ULP * unit, f"{name}: error {ours:.3g} against float64, an ulp is {unit:.3g}"


def _largest(t: Tensor) -> float:
    return t.detach().abs().max().item() if t.numel() else 0.0
