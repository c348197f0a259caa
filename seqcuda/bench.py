"""Paired timing of seqcuda and torch.nn: ``python -m seqcuda bench``, benchmarks/run.py.

Both are timed in turn in one process, A B B A A B ..., so that whatever else the machine does meets both alike. What
is reported is the median of the pairwise ratios time(torch.nn) / time(seqcuda), above 1 where seqcuda is faster, with
its quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import seqcuda

from . import _backend
from .shapes import CELLS, MODES, QUICK, SHAPES, Case, cases
from .timing import FEWEST, in_turn, pair, ratio, synchronise_with

__all__ = [
    "add_arguments", "cases", "command", "each", "in_turn", "layer_and_input", "machine", "pair", "prepare", "ratio",
    "run", "table", "time_case", "training",
]  # fmt: skip

FORMAT = 1
LIBRARIES = {"torch": torch.nn, "seqcuda": seqcuda}


def machine(device: str = "cpu") -> dict:
    """What the figures depend on."""
    compiled = _backend.compiled
    facts = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instruction set": compiled.instruction_set() if compiled else None,
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seqcuda": seqcuda.__version__,
        "extension": "built" if compiled else f"absent: {_backend.why_not_compiled}",
    }
    if torch.device(device).type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return facts


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def layer_and_input(
    case: Case, library: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[torch.nn.Module, torch.Tensor]:
    """The layer of "torch" or "seqcuda", the same weights and the same input in both."""
    shape = case.shape
    torch.manual_seed(0)
    layer = getattr(LIBRARIES[library], case.cell.upper())(
        shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2
    )
    x = torch.randn(shape.T, shape.B, shape.I)
    return layer.train(case.mode == "training").to(device, dtype), x.to(device, dtype)


def prepare(case: Case, library: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A call of one case."""
    layer, x = layer_and_input(case, library, device, dtype)
    if case.mode == "inference":
        return inference(lambda: layer(x)[0])
    return training(lambda: layer(x)[0], [x.requires_grad_(), *layer.parameters()])


def inference(forward: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """`forward` in inference mode."""

    def call():
        with torch.inference_mode():
            return forward()

    return call


def training(forward: Callable[[], torch.Tensor], wanted: list[torch.Tensor]) -> Callable[[], object]:
    """`forward`, and the gradients of all of `wanted` from a random one of its result."""
    grad = torch.randn_like(forward().detach())
    return lambda: torch.autograd.grad(forward(), wanted, grad)


def engine(case: Case, device: str = "cpu") -> str:
    """Which engine of seqcuda runs this case; of several layers, each that differs."""
    shape = case.shape
    layer = getattr(seqcuda, case.cell.upper())(
        shape.I, shape.H, shape.layers, bidirectional=shape.directions == 2, device=device
    )
    plans = seqcuda.explain(layer, torch.empty(shape.T, shape.B, shape.I, device=device))
    return ", ".join(dict.fromkeys(plan.engine for plan in plans))


def each(cases: Iterable, measure: Callable[[object], object], progress: bool = True) -> tuple[list, bool]:
    """What `measure` gives for every case, with its number of threads set, and a progress bar.

    Ctrl-C ends it early: what was measured is kept, and the second result is true.

    Args:
        cases: each with a `name` and the number of `threads`.
    """
    from tqdm import tqdm

    found = []
    before = torch.get_num_threads()
    with tqdm(cases, unit="case", dynamic_ncols=True, disable=not progress) as bar:
        try:
            for case in bar:
                bar.set_description(case.name)
                torch.set_num_threads(case.threads)
                found.append(measure(case))
        except KeyboardInterrupt:
            return found, True
        finally:
            torch.set_num_threads(before)
    return found, False


def run(
    cases: list[Case],
    threads: tuple[int, ...],
    seconds_per_case: float,
    progress: bool = True,
    device: str = "cpu",
) -> dict:
    """Time every case with every number of threads. The result can be written as JSON.

    Ctrl-C ends it early: the result then holds the cases that were finished, and "interrupted" is true.
    """
    todo = [case.with_threads(n) for n in threads for case in cases]
    found, interrupted = each(todo, lambda case: time_case(case, seconds_per_case, device), progress)
    return head(seconds_per_case, interrupted, device) | {"results": found}


def head(seconds_per_case: float, interrupted: bool, device: str = "cpu") -> dict:
    """What every file of results begins with."""
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "device": device,
        "seconds per case": seconds_per_case,
        "interrupted": interrupted,
    }


def facts(case: Case) -> dict:
    """What a row of a table says of its case."""
    return {
        "shape": case.shape.name,
        "sizes": case.shape.describe(),
        "cell": case.cell,
        "mode": case.mode,
        "threads": case.threads,
    }


def time_case(case: Case, seconds: float, device: str = "cpu", fewest: int = FEWEST) -> dict:
    """torch.nn against seqcuda."""
    calls = prepare(case, "torch", device), prepare(case, "seqcuda", device)
    theirs, ours = pair(*calls, seconds, synchronise_with(torch.device(device)), fewest=fewest)
    return {
        **facts(case),
        "engine": engine(case, device),
        "torch ms": statistics.median(theirs) * 1e3,
        "seqcuda ms": statistics.median(ours) * 1e3,
        "ratio": ratio(theirs, ours),
    }


def table(result: dict):
    """The result as a rich table."""
    from rich import box
    from rich.table import Table

    m = result["machine"]
    of = Table(
        title=f"{m.get('gpu') or m['cpu']}, {m['cores']} cores, torch {m['torch']}, seqcuda {m['seqcuda']}",
        caption="ratio: time of torch.nn / time of seqcuda, above 1 where seqcuda is faster; median (quartiles)",
        box=box.SIMPLE_HEAD,
    )
    for name in ("shape", "cell", "mode", "threads", "torch.nn ms", "seqcuda ms", "ratio", "engine"):
        right = name in ("threads", "torch.nn ms", "seqcuda ms")
        of.add_column(name, justify="right" if right else "left", no_wrap=True)
    last = None
    for r in result["results"]:
        if last not in (None, (r["shape"], r["threads"])):
            of.add_section()
        last = r["shape"], r["threads"]
        q = r["ratio"]
        colour = "green" if q["low"] > 1 else "red" if q["high"] < 1 else "yellow"
        of.add_row(
            r["shape"], r["cell"], r["mode"], str(r["threads"]), milliseconds(r["torch ms"]),
            milliseconds(r["seqcuda ms"]), f"[{colour}]{q['median']:.2f}[/] ({q['low']:.2f} to {q['high']:.2f})",
            r["engine"],
        )  # fmt: skip
    return of


def milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def write(result: dict, path: Path) -> None:
    """As JSON; the file is the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    names = ", ".join(shape.name for shape in SHAPES)
    parser.add_argument("--shapes", nargs="+", metavar="NAME", help=f"of: {names} (quoted); default all")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: 1, and as many as torch uses")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case, about (default: 1)")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--quick", action="store_true", help="a few shapes, 0.3 seconds each, all threads")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")


def measure(args: argparse.Namespace) -> dict:
    """The result the arguments ask for.

    Raises:
        ValueError: they ask for what does not exist.
    """
    threads = chosen_threads(args)
    shapes = args.shapes or (QUICK if args.quick else None)
    chosen = cases(tuple(shapes) if shapes else None, tuple(args.cells), tuple(args.modes))
    seconds = min(args.seconds, 0.3) if args.quick else args.seconds
    return run(chosen, threads, seconds, sys.stderr.isatty(), args.device)


def chosen_threads(args: argparse.Namespace) -> tuple[int, ...]:
    """Those of --threads; else 1 and as many as torch uses, with --quick the latter alone."""
    every = torch.get_num_threads()
    threads = args.threads or ([every] if args.quick else sorted({1, every}))
    if min(threads) < 1:
        raise ValueError(f"--threads must be at least 1, got {min(threads)}")
    return tuple(threads)


def execute(args: argparse.Namespace) -> tuple[int, dict | None]:
    """Measure, print the table, write the JSON where asked: exit status (2 for what cannot be done, 130 after
    Ctrl-C) and result."""
    try:
        from rich.console import Console

        result = measure(args)
    except ModuleNotFoundError as error:
        print(f"error: bench needs {error.name}; pip install 'seqcuda[bench]' brings it", file=sys.stderr)
        return 2, None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2, None
    Console(width=None if sys.stdout.isatty() else 110).print(table(result))
    if args.out:
        write(result, args.out)
        print(f"written: {args.out}")
    return 130 if result["interrupted"] else 0, result


def command(args: argparse.Namespace) -> int:
    """`python -m seqcuda bench`."""
    return execute(args)[0]
