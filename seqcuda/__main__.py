"""``python -m seqcuda info | check | bench``."""

from __future__ import annotations

import argparse
import json
import platform
import sys

import torch

import seqcuda
from seqcuda import _backend
from seqcuda.cells import CELLS


def info() -> dict:
    """What is installed and what it can do here."""
    compiled = _backend.compiled
    built = json.loads(_backend.BUILD_INFO.read_text()) if _backend.BUILD_INFO.exists() else {}
    return {
        "seqcuda": seqcuda.__version__,
        "package": str(_backend.BUILD_INFO.parent),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "extension": "built" if compiled else f"absent: {_backend.why_not_compiled}",
        "built for torch": built.get("torch"),
        "built with CUDA": built.get("cuda"),
        "built by": built.get("compiler"),
        "instruction set": compiled.instruction_set() if compiled else None,
        "instruction sets": list(compiled.instruction_sets()) if compiled else [],
        "engines": list(_backend.engines()),
        "CUDA engines": list(_backend.engines("cuda")),
        "devices": list(compiled.devices()) if compiled else [],
        "cells": {name: bool(compiled) and name in compiled.cells() for name in CELLS},
        "threads": torch.get_num_threads(),
        "backend": _backend.selected(),
    }


def print_info(as_json: bool) -> int:
    facts = info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    facts["cells"] = [
        name if is_compiled else f"{name} (reference only)" for name, is_compiled in facts["cells"].items()
    ]
    for name, value in facts.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{name:17} {text if text not in (None, '') else '-'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seqcuda", description=seqcuda.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info | check | bench")
    p = commands.add_parser("info", help="versions, what is compiled, instruction set, engines, devices")
    p.add_argument("--json", action="store_true", help="for programs")
    p.set_defaults(run=lambda args: print_info(args.json))
    p = commands.add_parser(
        "check",
        help="self-test of every cell, dtype, engine and instruction set on this machine",
        description="Compares every cell, dtype, engine and instruction set of this machine with the float64 reference."
        " Exit status: 0 if all is right; 1 if anything failed or the compiled engines could not be checked.",
    )
    p.set_defaults(run=lambda args: run_check())
    p = commands.add_parser("bench", help="paired timing against torch.nn on this machine")
    if (sys.argv[1:] if arguments is None else arguments)[:1] == ["bench"]:
        from seqcuda import bench

        bench.add_arguments(p)
        p.set_defaults(run=bench.command)
    args = parser.parse_args(arguments)
    return args.run(args) or 0


def run_check() -> int:
    from seqcuda import selftest

    return selftest.command()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
