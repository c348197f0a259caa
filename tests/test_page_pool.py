"""Memory that stays mapped between calls: csrc/ops/page_pool.h."""

import multiprocessing
import resource
import threading

import pytest
import torch

import seqcuda

from .marks import needs_compiled

pytestmark = needs_compiled

STEPS, ROWS, HIDDEN = 32, 16, 256  # results and gradients of several hundred KB to some MB


def step(layer, x):
    return torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
