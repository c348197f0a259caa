"""`python -m seqcuda check`: every cell, dtype, engine and instruction set on this very machine.

Each form of a walk (padded, packed, with lengths, with resets, in reverse, lean, between the steps) is
computed on small odd sizes, for training and for inference. Outputs, states and gradients are compared with the float64
reference on the same inputs by `testing.assert_close_to_exact`. The reference itself is checked the same way at the
other dtypes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import _backend, autograd, testing
from .cells import CELLS
from .walk import Factors, Inputs, Walk, compute_dtype

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
T, B, I, H = 5, 7, 5, 18  # more than one vector of every instruction set; H even, as products of pairs need it
LENGTHS = (5, 2, 0, 4, 5, 1, 3)
BATCH_SIZES = (7, 5, 5, 2, 1)


@dataclass(frozen=True)
class Form:
    """One way to walk. Fields: as in `Walk` and `Inputs`."""

    name: str
    reverse: tuple[bool, ...] = (False,)
    lengths: bool = False
    packed: bool = False
    resets: bool = False
    bias: bool = True
    states: bool = True  # initial states are given
    save: str = "all"
    factors: bool = False


FORMS = (
    Form("padded"),
    Form("plain", bias=False, states=False),
    Form("reverse", reverse=(True,)),
    Form("lengths", lengths=True),
    Form("resets", resets=True),
    Form("packed", packed=True),
    Form("packed, both directions, resets", reverse=(False, True), packed=True, resets=True),
    Form("lean, both directions, lengths, resets", reverse=(False, True), lengths=True, resets=True, save="states"),
    Form("decay, dropout, zoneout, lengths, resets", lengths=True, resets=True, factors=True),
)


@dataclass(frozen=True)
class Runner:
    """Who computes, and where: a backend by name and, for a compiled engine of the CPU, an instruction set."""

    backend: str
    instruction_set: str = ""
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.backend} {self.instruction_set or self.device.removeprefix('cpu')}".strip()

    @contextlib.contextmanager
    def selected(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        before = _backend.compiled.instruction_set() if self.instruction_set else ""
        switch = torch.backends.cudnn.rnn
        precision, switch.fp32_precision = switch.fp32_precision, "ieee"
        try:
            if self.instruction_set:
                _backend.compiled.set_instruction_set(self.instruction_set)
            else:
                torch.set_num_threads(1)  # many small products: on a busy machine several threads are much slower
            with _backend.backend(self.backend):
                yield
        finally:
            switch.fp32_precision = precision
            torch.set_num_threads(threads)
            if self.instruction_set:
                _backend.compiled.set_instruction_set(before)


@dataclass(frozen=True)
class Result:
    """Of one cell by one runner at one dtype: the worst error in ulp, what went wrong by form, and why the runner does
    not compute this."""

    cell: str
    runner: str
    dtype: str
    ulp: float
    failures: tuple[str, ...]
    refusal: str = ""

    def __str__(self) -> str:
        return "FAILED" if self.failures else "-" if self.refusal else f"{self.ulp:.2g}"


def runners() -> list[Runner]:
    """All on this machine: the reference, every compiled engine under every instruction set, and those of a GPU."""
    sets = _backend.compiled.instruction_sets() if _backend.compiled else ()
    found = [Runner("reference"), *(Runner(engine, name) for engine in _backend.engines() for name in sets)]
    if torch.cuda.is_available():
        found += [Runner(engine, device="cuda") for engine in _backend.engines("cuda")]
    return found


def run() -> Iterator[Result]:
    """The results, one by one."""
    for cell in CELLS:
        for runner in runners():
            for dtype in DTYPES:
                yield check(cell, runner, dtype)


def check(cell: str, runner: Runner, dtype: torch.dtype) -> Result:
    worst, failures, name = 0.0, [], str(dtype).removeprefix("torch.")
    if reason := refusal(cell, runner, dtype):
        return Result(cell, str(runner), name, worst, (), reason)
    for form in FORMS:
        if form.factors and CELLS[cell].states > 2:  # states that are scaled by another cannot be mixed
            continue
        exact = _exact(cell, form, dtype)
        try:
            with runner.selected():
                actual = _compute(_walk(cell, form), _inputs(cell, form, dtype), dtype, runner.device)
            for what, value in actual.items():
                if value.numel():
                    unit = testing.ulp(exact[what], dtype) or torch.finfo(dtype).tiny
                    worst = max(worst, testing.error(value, exact[what]) / unit)
                testing.assert_close_to_exact(value, exact[what], dtype, name=what)
        except (AssertionError, RuntimeError, ValueError) as error:
            failures.append(f"{form.name}: {type(error).__name__}: {error}")
    return Result(cell, str(runner), name, worst, tuple(failures))


def refusal(cell: str, runner: Runner, dtype: torch.dtype) -> str:
    """Why an engine of a GPU does not take these sizes; the forms do not matter to it. Others take all."""
    if runner.device == "cpu":
        return ""
    inputs = _inputs(cell, FORMS[0], dtype)
    x, weights = (inputs.x.to(runner.device), [None if w is None else w.to(runner.device) for w in inputs.weights])
    try:
        _backend.compiled.explain(cell, x, weights, None, FORMS[0].reverse, runner.backend)
    except RuntimeError as error:
        return str(error)
    return ""


@cache
def _exact(cell: str, form: Form, dtype: torch.dtype) -> dict[str, Tensor]:
    """The float64 reference on the inputs that `dtype` can hold."""
    with Runner("reference").selected():
        return _compute(_walk(cell, form), _inputs(cell, form, dtype), torch.float64)


def _walk(cell: str, form: Form) -> Walk:
    return Walk(CELLS[cell], form.reverse, form.save, return_states=True)


@cache
def _inputs(cell: str, form: Form, dtype: torch.dtype) -> Inputs:
    """Random inputs rounded to `dtype`, the same in every run."""
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape: int, bound: float = 1.0) -> Tensor:
        values = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        return (values * bound).to(dtype)

    G, S, D = CELLS[cell].gates, CELLS[cell].states, len(form.reverse)
    bound = H**-0.5
    weights: list[Tensor | None] = []
    for _ in range(D):
        recurrent = CELLS[cell].recurrent
        weights += [uniform(G * H, I, bound=bound), uniform(G * H, H, bound=bound) if recurrent else None]
        for given in (form.bias, form.bias and recurrent):
            weights.append(uniform(G * H, bound=bound) if given else None)
        U = len(CELLS[cell].unit_names)
        weights += [None, uniform(U * H, bound=bound) if U else None]
    rows = (sum(BATCH_SIZES),) if form.packed else (T, B)
    x = uniform(*rows, I)
    h0, reset_h = uniform(D, B, H), uniform(D, B, H)
    c0, reset_c = (uniform(S - 1, D, B, H), uniform(S - 1, D, B, H)) if S > 1 else (None, None)
    for c in (c0, reset_c) if S > 2 else ():
        c[1:] += 2  # as the n of an sLSTM always is: 1 or more
    resets = torch.rand(rows, generator=generator) < 0.3
    of_h, of_c = [], []
    for _ in range(3):
        of_h.append(uniform(T, B, D, H).to(compute_dtype(dtype)))
        of_c.append(uniform(S - 1, T, B, D, H).to(compute_dtype(dtype)) if S > 1 else None)
    return Inputs(
        x,
        tuple(weights),
        h0 if form.states else None,
        c0 if form.states else None,
        torch.tensor(LENGTHS) if form.lengths else None,
        torch.tensor(BATCH_SIZES) if form.packed else None,
        resets if form.resets else None,
        reset_h if form.resets else None,
        reset_c if form.resets else None,
        Factors(of_h[0], of_c[0], of_h[1], of_h[2], of_c[2]) if form.factors else Factors(),
    )


def _compute(walk: Walk, inputs: Inputs, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Outputs, states and gradients by the selected backend, by name."""

    def leaf(t: Tensor | None) -> Tensor | None:
        if t is None or t is inputs.batch_sizes:
            return t
        factor = any(t is f for f in inputs.factors)
        if not t.is_floating_point():
            return t.to(device)
        return t.to(device, compute_dtype(dtype) if factor else dtype, copy=True).requires_grad_()

    inputs = Inputs.from_tensors(tuple(leaf(t) for t in inputs.tensors()))
    out = autograd.sequence(walk, inputs)
    c_all = out.c_all
    if inputs.lengths is not None:  # undefined past the ends
        alive = torch.arange(T, device=device)[:, None] < inputs.lengths
        c_all = torch.where(alive[:, :, None], c_all, 0)
    outputs = {"y": out.y, "h_n": out.h_n, "c_n": out.c_n, "c of all steps": c_all}
    loss = sum((value.double() * _cotangent(value.shape).to(device)).sum() for value in outputs.values())
    leaves = {name: t for name, t in _named(inputs).items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad(loss, leaves.values())
    gradients = {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    with torch.inference_mode():
        inference = autograd.sequence(walk._replace(save="nothing", return_states=False), inputs)
    again = {"y of inference": inference.y, "h_n of inference": inference.h_n, "c_n of inference": inference.c_n}
    return {k: v.detach().cpu() for k, v in (outputs | gradients | again).items()}


def _named(inputs: Inputs) -> dict[str, Tensor | None]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_unit")
    weights = {f"{kinds[i % len(kinds)]} {i // len(kinds)}": w for i, w in enumerate(inputs.weights)}
    decays = {name: getattr(inputs.factors, name) for name in ("decay_h", "decay_c")}
    return {name: getattr(inputs, name) for name in ("x", "h0", "c0", "reset_h", "reset_c")} | decays | weights


@cache
def _cotangent(shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1


def command() -> int:
    """Prints a table while it fills and what failed; the exit status."""
    names, total = [str(r) for r in runners()], len(CELLS) * len(runners()) * len(DTYPES)
    bar = sys.stderr.isatty()
    results: list[Result] = []
    for result in run():
        results.append(result)
        if bar:
            done = len(results) * 30 // total
            print(f"\r[{'#' * done}{'.' * (30 - done)}] {len(results)}/{total}", end="", file=sys.stderr, flush=True)
    if bar:
        print("\r" + " " * 50 + "\r", end="", file=sys.stderr)

    found = {(r.cell, r.runner, r.dtype): r for r in results}
    dtypes = [str(d).removeprefix("torch.") for d in DTYPES]
    print("largest error against the float64 reference, in ulp of the dtype")
    print(f"{'cell':17} {'by':21}" + "".join(f"{d:>10}" for d in dtypes))
    for cell in CELLS:
        for name in names:
            row = [found[cell, name, d] for d in dtypes]
            print(f"{cell:17} {name:21}" + "".join(f"{r!s:>10}" for r in row))
    failed, refused = [r for r in results if r.failures], {r.refusal for r in results if r.refusal}
    for r in failed:
        for failure in r.failures:
            print(f"FAILED {r.cell}, {r.runner}, {r.dtype}, {failure}")
    for reason in sorted(refused):
        print(f"-: {reason}")
    print(f"{len(results) - len(failed)} of {len(results)} checks passed, up to {len(FORMS)} forms of a walk in each")
    if _backend.compiled is None:
        print(f"NOT CHECKED: the compiled engines, {_backend.why_not_compiled}")
    return 0 if not failed and _backend.compiled is not None else 1
