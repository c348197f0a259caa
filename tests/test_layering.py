"""Dependencies point one way: docs/design.md. C++ includes and Python imports are read, nothing is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a folder of csrc may include.
INCLUDES = {
    "cells": {"cells"},
    "engine": {"cells", "engine"},
    "cpu": {"cells", "engine", "cpu"},
    "cuda": {"cells", "engine", "cuda"},
    "ops": {"cells", "engine", "cpu", "cuda", "ops"},
}
TORCH = re.compile(r"^(ATen|c10|caffe2|torch|pybind11|Python\.h)")

# Every module of the package, lowest first; it imports from lines above its own, or from its own folder.
LAYERS = (
    ("cells", "testing", "timing"),
    ("walk",),
    ("_fake", "_dynamo", "heads", "transforms"),
    ("_backend", "reference"),
    ("members",),
    ("derivatives", "masks"),
    ("autograd",),
    ("stacks",),
    ("checks",),
    ("forms",),
    ("factors",),
    ("layers",),
    ("functional", "stream"),
    ("modules",),
    ("samples",),
    ("convert", "explain", "keras", "onnx", "opacus"),
    ("tune",),
    ("__init__",),
    ("shapes",),
    ("bench", "selftest"),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

SOURCES = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
MODULES = sorted((ROOT / "seqcuda").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_includes(path):
    folder = path.relative_to(ROOT / "csrc").parts[0]
    assert folder in INCLUDES, f"csrc/{folder} has no place among the layers"
    for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^">]+)', path.read_text(), re.MULTILINE):
        if kind == '"':
            assert (ROOT / "csrc" / name).exists(), f'#include "{name}" is not a path from csrc'
            assert name.split("/")[0] in INCLUDES[folder], f"csrc/{folder} must not know {name}"
        elif TORCH.match(name):
            assert folder == "ops", f"csrc/{folder} must not know torch: <{name}>"


def top(path: Path) -> str:
    """The module or folder of the package that a file belongs to."""
    first = path.relative_to(ROOT / "seqcuda").parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules or folders of the package that a file imports; "__init__" for the package itself."""
    package = ["seqcuda", *path.relative_to(ROOT / "seqcuda").parts[:-1]]
    dotted = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            dotted += [f"{base}.{alias.name}" for alias in node.names] if base == "seqcuda" else [base]
    names = [name.split(".") + ["__init__"] for name in dotted if name.split(".")[0] == "seqcuda"]
    return {parts[1] if parts[1] in RANK else "__init__" for parts in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    name = top(path)
    assert name in RANK, f"seqcuda/{name} has no place among the layers; give it one above"
    for other in imported(path) - {name}:
        assert RANK[other] < RANK[name], f"seqcuda/{name} must not import {other}"


def test_the_reader_sees_imports():
    assert imported(ROOT / "seqcuda/autograd.py") >= {"_backend", "reference", "walk"}
    assert "functional" in imported(ROOT / "seqcuda/modules/cells.py")
    assert "cells" in imported(ROOT / "seqcuda/_fake.py")
