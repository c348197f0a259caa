"""The package in another process: as it is, without its extension, or as a copy that is changed first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy(to: Path, extension: bool) -> Path:
    """A copy of the package under `to`, with or without what was compiled; the folder to import it from."""
    ignore = shutil.ignore_patterns("__pycache__", *(() if extension else ("_C*",)))
    shutil.copytree(ROOT / "seqcuda", to / "seqcuda", ignore=ignore)
    return to


def python(*arguments: str, where: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python with the package in `where`."""
    base = {k: v for k, v in os.environ.items() if not k.startswith("SEQCUDA_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=base | {"PYTHONPATH": str(where), "OMP_WAIT_POLICY": "passive"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
