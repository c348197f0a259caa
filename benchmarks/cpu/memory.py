"""What training keeps between forward and backward, and that what keeps less has fast training's gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

import seqcuda
from seqcuda import bench
from seqcuda.shapes import CELLS, Shape
from seqcuda.testing import FEW_ULP, error, ulp

from ..goals import Goal
from ..tables import columns
from .section import Case, Section, number

SHAPE = Shape("memory", T=200, B=8, I=64, H=128)
SAVE = {"fast": "all", "lean": "states", "every 16": 16}
KINDS = ("torch.nn", *SAVE)
GOALS = {("lean", "rnn"): 1.2, ("lean", "gru"): 1.2, ("lean", "lstm"): 2.2, ("every 16", "lstm"): 1.2}


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    """What is kept does not depend on the number of threads."""
    return [
        Case(f"{cell}, {kind}", max(threads), functools.partial(measure, cell, kind))
        for cell in CELLS
        for kind in KINDS
    ]


def forward(cell: str, kind: str, dtype: torch.dtype = torch.float32):
    """The forward, and what gradients are wanted of: the input and the weights."""
    case = bench.Case(SHAPE, cell, "training")
    layer, x = bench.layer_and_input(case, "torch" if kind == "torch.nn" else "seqcuda", dtype=dtype)
    wanted = [x.requires_grad_(), *layer.parameters()]
    if kind == "torch.nn":
        return lambda: layer(x)[0], wanted
    return lambda: getattr(seqcuda.functional, cell)(x, None, wanted[1:], save=SAVE[kind])[0], wanted


def kept(forward: Callable[[], torch.Tensor], wanted: list[torch.Tensor]) -> int:
    """Bytes of the storages that autograd keeps, apart from those of `wanted`."""
    storages = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = forward()  # which must live until the storages are counted, so that none is used twice
    for t in wanted:
        storages.pop(t.untyped_storage().data_ptr(), None)
    del result
    return sum(storages.values())


def gradients(cell: str, kind: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    call, wanted = forward(cell, kind, dtype)
    torch.manual_seed(1)
    weights = torch.randn(SHAPE.T, SHAPE.B, SHAPE.H).to(dtype)
    return torch.autograd.grad(call(), wanted, weights)


def worst_error(cell: str, kind: str) -> float:
    """The largest error against float64 of any gradient, in what the tolerance rule allows beside fast training."""
    exact = gradients(cell, "fast", torch.float64)
    return max(
        error(ours, e) / (2 * error(fast, e) + FEW_ULP * ulp(e, ours.dtype))
        for ours, fast, e in zip(gradients(cell, kind), gradients(cell, "fast"), exact, strict=True)
    )


def measure(cell: str, kind: str, _: float) -> dict:
    size = kept(*forward(cell, kind))
    return {
        "case": f"{cell}, {kind}",
        "cell": cell,
        "training": kind,
        "threads": torch.get_num_threads(),
        "kB": size / 1e3,
        "H-floats per step and row": size / (4 * SHAPE.T * SHAPE.B * SHAPE.H),
        "error of the gradients": worst_error(cell, kind),
    }


def goals(rows: list[dict]):
    measured = {(row["training"], row["cell"]): row for row in rows}
    for what, key, wanted in (
        ("H-floats kept per step and row", "H-floats per step and row", GOALS),
        (
            "error of the gradients, 1 being what the rule allows beside fast",
            "error of the gradients",
            dict.fromkeys(GOALS, 1),
        ),
    ):
        for (kind, cell), most in wanted.items():
            found = {"": (measured[kind, cell][key], "")} if (kind, cell) in measured else {}
            yield Goal(f"{kind}, {cell.upper()}, {what}", "at most", most, found)


SECTION = Section(
    "memory",
    f"""What training keeps for the backward, {SHAPE.describe()}: the storages of the tensors that autograd saves,
each counted once, without the input and the weights, with the output; in H floats for each step and row. Fast training
keeps the gates, lean training (save="states") computes them again, and with save=16 the states between every 16 steps
as well. The error of the gradients against float64 is in what the tolerance rule of seqcuda/testing.py allows beside
fast training.""",
    cases,
    goals,
    (*columns("cell", "training"), number("kB"), number("H-floats per step and row"), number("error of the gradients")),
)
