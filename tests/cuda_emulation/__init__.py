"""csrc/cuda compiled for the host: `load` builds and loads the op pair of CUDA for tensors on the CPU."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / f"emulation.{sys.implementation.cache_tag}"
KERNELS = [*(p for p in sorted((ROOT / "csrc/cuda").iterdir()) if p.suffix in (".cu", ".cpp")), HERE / "self_test.cpp"]
MACHINE = [HERE / "emulator.cpp", HERE / "fiber.cpp"]
OPS = [
    *(ROOT / "csrc/ops" / name for name in ("devices.cpp", "gradients.cpp", "layer.cpp", "page_pool.cpp", "tuned.cpp")),
    *(p for p in sorted((ROOT / "csrc/ops/cuda").glob("*.cpp")) if p.name not in ("device.cpp", "registration.cpp")),
    HERE / "ops.cpp",
]
# The same templates as for bfloat16, with numbers of the same size, which stands for them under the sanitizers.
TWINS = "_float16"
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


def _ninja() -> str:
    """Both libraries share TWINS, and the objects that know torch: slow to compile, and not what is sanitized."""
    folders = [HERE / "include", HERE, ROOT / "csrc"]
    flags = ["-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    flags += [f"-I{folder}" for folder in folders]
    torch_flags = [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    torch_flags.append(f"-DBUILT_FOR_TORCH={torch.__version__}")  # another torch rebuilds
    libraries = Path(torch.__file__).parent / "lib"
    lines = [
        f"compile = {shlex.join([*_compiler(), *flags])}",
        "rule compile\n  command = $compile $more -MMD -MF $out.d -x c++ -c $in -o $out\n  depfile = $out.d",
        f"rule link\n  command = {shlex.join(_compiler())} -shared $in -o $out $more -L{libraries} -ltorch_cpu -lc10",
    ]

    def objects(folder: str, sources: list[Path], more: list[str]) -> list[str]:
        names = []
        for source in sources:
            names.append(f"{folder}/{source.parent.name}_{source.name}.o")
            lines.append(f"build {names[-1]}: compile {source}\n  more = {shlex.join(more)}")
        return names

    # One unit: reading torch's headers is most of the time.
    unit = BUILD / "ops.cpp"
    _write(unit, "".join(f'#include "{path}"\n' for path in OPS))
    ops = objects("ops", [unit], torch_flags)
    twins = [path for path in KERNELS if path.stem.endswith(TWINS)]
    others = [path for path in [*KERNELS, *MACHINE] if path not in twins]
    of_twins = objects("plain", twins, [])
    for variant, more in (("plain", []), ("sanitized", SANITIZED)):
        all_objects = " ".join(ops + objects(variant, others, more) + of_twins)
        lines.append(f"build {variant}.so: link {all_objects}\n  more = {shlex.join(more)}")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """Only a change is written: what is newer is compiled again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def build(variant: str = "plain") -> Path:
    """The library, compiled where a source has changed; "plain" or "sanitized"."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of pytest-xdist
        _write(BUILD / "build.ninja", _ninja())
        ran = subprocess.run(
            ["ninja", "-C", str(BUILD), f"{variant}.so"],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return BUILD / f"{variant}.so"


def _environment() -> dict[str, str]:
    """ninja may be installed beside a Python whose environment is not active."""
    return {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))}


@cache
def load():
    """The namespace of ops, `sequence` and `sequence_backward` among them. SEQCUDA_EMULATION=sanitized: that build."""
    torch.ops.load_library(build(os.environ.get("SEQCUDA_EMULATION", "plain")))
    return torch.ops.seqcuda_emulated


@contextmanager
def knob(setter, value, usual):
    """A setting, inside a ``with`` block."""
    setter(value)
    try:
        yield
    finally:
        setter(usual)


def fault(emulated, name: str):
    """A deliberate fault of the emulation, inside a ``with`` block."""
    return knob(emulated.set_fault, name, "none")


def sanitizer_runtime() -> str:
    """LD_PRELOAD for the sanitized build: the sanitizer, and libstdc++, whose exceptions it wraps."""
    names = ("libasan.so", "libstdc++.so.6")
    paths = [subprocess.check_output([*_compiler(), f"-print-file-name={name}"], text=True).strip() for name in names]
    assert all(os.path.isabs(path) for path in paths), f"{_compiler()[0]} has no AddressSanitizer to load: {paths}"
    return ":".join(paths)
