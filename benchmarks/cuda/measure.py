"""One point: torch.nn and every engine that can run it, in turn."""

from __future__ import annotations

import contextlib
import copy
import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import seqcuda
from seqcuda import bench, testing

from . import model
from .grid import Point

FEWEST, MOST = 3, 100  # pairs
STEPS_CHECKED = 16  # of the comparison with float64
REST = 0  # no call is repeated within a sample: what it reads would lie in L2


@dataclass(frozen=True)
class Layers:
    """The same layer of torch.nn and of seqcuda, and its input."""

    theirs: torch.nn.Module
    ours: torch.nn.Module
    x: Tensor | PackedSequence

    @staticmethod
    def of(point: Point, device: str, dtype: torch.dtype | None = None) -> Layers:
        torch.manual_seed(0)
        shape, made_in = point.case.shape, torch_dtype(point)
        arguments = {
            "num_layers": shape.layers, "bidirectional": shape.directions == 2, "device": device, "dtype": made_in,
        }  # fmt: skip
        name = point.cell.upper()
        theirs = getattr(torch.nn, name)(shape.I, shape.H, **arguments)
        ours = getattr(seqcuda, name)(shape.I, shape.H, **arguments)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(shape.T, shape.B, shape.I, device=device, dtype=made_in)
        x = x.to(dtype or made_in)
        if point.form == "packed":
            x = pack_padded_sequence(x, lengths(point), enforce_sorted=False)
        (x.data if point.form == "packed" else x).requires_grad_()
        if dtype is not None:
            theirs, ours = theirs.to(dtype), ours.to(dtype)
        return Layers(theirs, ours, x)

    def call(self, mode: str, layer: torch.nn.Module) -> Callable[[], object]:
        if mode == "inference":
            return bench.inference(lambda: self.output(layer))
        return bench.training(lambda: self.output(layer), self.wanted(layer))

    def output(self, layer: torch.nn.Module) -> Tensor:
        y = layer(self.x)[0]
        return y.data if isinstance(y, PackedSequence) else y

    def wanted(self, layer: torch.nn.Module) -> list[Tensor]:
        return [self.x.data if isinstance(self.x, PackedSequence) else self.x, *layer.parameters()]

    def results(self, layer: torch.nn.Module, weighting: Tensor) -> Tensor:
        """The output and all gradients, in one row."""
        y = self.output(layer)
        gradients = torch.autograd.grad(y, self.wanted(layer), weighting.to(y))
        return torch.cat([t.detach().flatten() for t in (y, *gradients)])


def torch_dtype(point: Point) -> torch.dtype:
    return torch.float32 if point.dtype == "tf32" else getattr(torch, point.dtype)


def lengths(point: Point) -> Tensor:
    """Of packed rows: uniform, one of them all steps."""
    found = torch.randint(1, point.T + 1, (point.B,), generator=torch.Generator().manual_seed(0))
    found[0] = point.T
    return found


@contextlib.contextmanager
def precision(point: Point) -> Iterator[None]:
    """float32 products as the point has them, in torch.nn and in seqcuda."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if point.dtype == "tf32" else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def engines(layers: Layers, device: str) -> list[str]:
    """Those that can run every layer."""
    found = []
    for name in seqcuda.engines(device):
        with contextlib.suppress(RuntimeError), seqcuda.backend(name):
            seqcuda.explain(layers.ours, layers.x)
            found.append(name)
    return found


@functools.lru_cache(maxsize=1)
def _exact(point: Point, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """What the results are weighed by for the gradients, the results in float64, and torch.nn's."""
    layers = Layers.of(point, device, torch.float64)
    with seqcuda.backend("reference"):
        weighting = torch.randn_like(layers.output(layers.ours).detach())
        exact = layers.results(layers.ours, weighting)
    layers = Layers.of(point, device)
    return weighting, exact, layers.results(layers.theirs, weighting)


@functools.lru_cache(maxsize=1024)
def wrong(point: Point, engine: str, device: str) -> str:
    """What is wrong with the results of a few steps by the tolerance rule; empty: nothing."""
    weighting, exact, rival = _exact(point, device)
    layers = Layers.of(point, device)
    with seqcuda.backend(engine):
        actual = layers.results(layers.ours, weighting)
    try:
        testing.assert_within_rule(actual, rival, exact, name=engine)
    except AssertionError as error:
        return str(error)
    return ""


def measure(point: Point, device, seconds: float) -> list[dict]:
    """A row for each engine.

    Args:
        device: a `Gpu`, or what has the same methods.
        seconds: of timing for each engine, about.
    """
    with precision(point):
        layers = Layers.of(point, device.name)
        chosen = {plan.engine for plan in seqcuda.explain(layers.ours, layers.x)}
        names = engines(layers, device.name)
        return [_row(point, name, chosen == {name}, layers, device, seconds) for name in names]


def _row(point: Point, engine: str, chosen: bool, layers: Layers, device, seconds: float) -> dict:
    checked = replace(point, T=min(point.T, STEPS_CHECKED), mode="training")
    with seqcuda.backend(engine):
        theirs, ours = (layers.call(point.mode, layer) for layer in (layers.theirs, layers.ours))
        rival, mine = bench.in_turn(theirs, ours, seconds, device.timed, REST, FEWEST, MOST)
        memory = {"torch peak MB": device.peak(theirs) / 1e6, "seqcuda peak MB": device.peak(ours) / 1e6}
        if point.mode == "training":
            memory |= _kept(layers, device)
    us = {"torch us": statistics.median(rival) * 1e6 / point.T, "seqcuda us": statistics.median(mine) * 1e6 / point.T}
    estimate = model.step(point)
    return {
        "case": point.name, **vars(point), "engine": engine, "chosen": chosen, **us,
        "ratio": bench.ratio(rival, mine),
        "model us": estimate,
        "share of the model": None if estimate is None else estimate / us["seqcuda us"],
        **memory,
        "wrong": wrong(checked, engine, device.name),
    }  # fmt: skip


def _kept(layers: Layers, device) -> dict:
    """What training holds between forward and backward."""
    lean = copy.copy(layers.ours)
    lean.save = "states"
    kinds = {"torch": layers.theirs, "seqcuda": layers.ours, "lean": lean}
    return {f"{name} kept MB": device.kept(functools.partial(layers.output, of)) / 1e6 for name, of in kinds.items()}
