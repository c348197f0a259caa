"""Which engine is the fastest here, measured: `seqcuda.tune`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map_only

from . import _backend, testing, timing
from .cells import CELLS
from .explain import explain, layers_of
from .heads import for_engines


@dataclass(frozen=True)
class Candidate:
    """An engine that was measured, or why it was not.

    Attributes:
        engine: its name.
        ratio: the time of the engine that ran before over its own, above 1 where it is faster, 1 for that engine
            itself; None: not timed.
        why: what refused it, or what it computed wrong; empty: nothing.
    """

    engine: str
    ratio: float | None
    why: str = ""

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.engine}: {self.why}"
        return f"{self.engine}: ran before" if self.ratio == 1 else f"{self.engine}: {self.ratio:.2f} times as fast"


@dataclass(frozen=True)
class Tuning:
    """What `tune` gives: a line per engine when printed.

    Attributes:
        subject: what was measured, and how.
        engine: the one that runs from now on.
        candidates: all engines of the device.
    """

    subject: str
    engine: str
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.subject}: {self.engine}", *(f"  {candidate}" for candidate in self.candidates)])


def tune(
    module: torch.nn.Module, input: Tensor | PackedSequence, hx=None, *, seconds: float = 0.5, **options
) -> Tuning:
    """Measure which engine is the fastest for `module` on this machine; from then on "auto" chooses it.

    Every engine of the device that can run `module` is held against the float64 reference by the tolerance rule of
    `seqcuda.testing`, with the engine that ran before in the place of the rival, and timed in turn with that engine:
    forward and backward where `module` is in training mode and gradients are enabled, else forward. An engine that is
    wrong is not chosen. What is found holds in this process, for layers of the same device, cell, dtype, H, heads,
    number of directions and rows of the batch, with more than one step, or with one where `input` has one. Parameters,
    their gradients and torch's generators of random numbers stay as they are.

    Args:
        module: a layer or cell of seqcuda; convert a torch.nn one first.
        input: as for the module's forward. Of the sizes that will be used; the reference is slow for many steps.
        hx: initial states, as for the forward.
        seconds: of timing, for each engine, about.
        options: other arguments of the forward, such as `lengths`.

    Raises:
        TypeError: not a module of seqcuda.
        ValueError: another backend than "auto" is selected, or `seconds` is not above 0.
        RuntimeError: no compiled engine can run it; the message says why.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    layers = layers_of(module, input, "tune")
    if _backend.selected() != "auto":
        raise ValueError(f"tune measures what 'auto' shall choose, but the backend {_backend.selected()!r} is selected")
    plan = next(iter(explain(module, input)))
    if plan.engine == "reference":
        raise RuntimeError(f"there is no engine to choose: {plan.why}")
    wanted = torch.is_grad_enabled() and module.training
    device = layers[0][1].device
    call = _Call(module, input, hx, options, [p for p in module.parameters() if p.requires_grad] if wanted else [])
    with _choosing(layers) as choose, torch.random.fork_rng([device] if device.type == "cuda" else []):
        candidates = tuple(_measured(call, plan.engine, _backend.engines(device), choose, device, seconds))
        fastest = max((c for c in candidates if c.ratio is not None), key=lambda c: c.ratio).engine
        choose(fastest)
    how = "forward and backward" if call.wanted else "forward"
    return Tuning(f"{module} on {device.type}, {layers[0][1].dtype}, {how}", fastest, candidates)


@dataclass
class _Call:
    """A forward of `module` and, of what is `wanted`, a backward."""

    module: torch.nn.Module
    input: Tensor | PackedSequence
    hx: object
    options: dict
    wanted: list[Tensor]

    def __call__(self) -> list[Tensor]:
        """The outputs and the gradients of their sum."""
        return _with_gradients(self.module(self.input, self.hx, **self.options), self.wanted)

    def exact(self) -> list[Tensor]:
        """The same by the reference in float64."""
        names = {p: name for name, p in self.module.named_parameters()}
        weights = {name: p.detach().double() for p, name in names.items()}
        wanted = [weights[names[p]].requires_grad_() for p in self.wanted]
        hx, options = tree_map_only(
            Tensor, lambda t: t.double() if t.is_floating_point() else t, (self.hx, self.options)
        )
        with _backend.backend("reference"), torch.autocast(next(iter(weights.values())).device.type, enabled=False):
            given = (self.input.to(torch.float64), hx)
            return _with_gradients(torch.func.functional_call(self.module, weights, given, options), wanted)

    @contextlib.contextmanager
    def without_dropout(self) -> Iterator[None]:
        """Inside, the results depend on no random numbers."""
        training = self.module.training
        self.module.eval()
        try:
            yield
        finally:
            self.module.train(training)


def _with_gradients(results, wanted: list[Tensor]) -> list[Tensor]:
    leaves = tree_leaves(results, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
    outputs = [leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in leaves]
    outputs = [t.values() if t.is_nested else t for t in outputs if isinstance(t, Tensor)]
    if not wanted:
        return outputs
    differentiable = [t for t in outputs if t.requires_grad]
    ones = [torch.ones_like(t) for t in differentiable]
    return outputs + [g for g in torch.autograd.grad(differentiable, wanted, ones, allow_unused=True) if g is not None]


@contextlib.contextmanager
def _choosing(layers: list[tuple]) -> Iterator[Callable[[str], None]]:
    """`choose(engine)` makes "auto" that engine for these layers. After an error it is what it was."""

    def remember(engines: list[str]) -> list[str]:
        return [
            _backend.compiled.remember_engine(name, x, for_engines(CELLS[name], weights), sizes, reverse, engine)
            for (name, x, sizes, weights, reverse), engine in zip(layers, engines, strict=True)
        ]

    before = remember([""] * len(layers))
    try:
        yield lambda engine: remember([engine] * len(layers))
    except BaseException:  # Ctrl-C among them
        remember(before)
        raise


def _measured(
    call: _Call,
    before: str,
    engines: tuple[str, ...],
    choose: Callable[[str], None],
    device: torch.device,
    seconds: float,
) -> Iterator[Candidate]:
    """Every engine, held against the reference and against the one that ran before."""

    def timed(engine: str, times: int) -> float:
        choose(engine)
        return timing.per_call(call, times, timing.synchronise_with(device))

    def results(engine: str) -> list[Tensor]:
        choose(engine)
        with call.without_dropout():
            return call()

    with call.without_dropout():
        exact = call.exact()
    rival = results(before)
    for engine in engines:
        if engine == before:
            yield Candidate(engine, 1.0)
        elif refusal := _refusal(call, engine):
            yield Candidate(engine, None, refusal)
        elif not all(map(testing.is_within_rule, results(engine), rival, exact)):
            yield Candidate(engine, None, "computes something wrong here; please report it")
        else:
            times = timing.in_turn(before, engine, seconds, timed)
            yield Candidate(engine, timing.ratio(*times)["median"])


def _refusal(call: _Call, engine: str) -> str:
    """Why an engine cannot run it; empty: it can."""
    try:
        with _backend.backend(engine):
            explain(call.module, call.input)
    except RuntimeError as why:
        return str(why).splitlines()[0]
    return ""
