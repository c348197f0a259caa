"""Compiles csrc/cuda/*.cu for several GPUs, prints what every kernel needs and fails where one spills registers.

    python scripts/cuda_resources.py [--all] [ARCHITECTURE ...]

An architecture is written as in "80" or "90a"; by default 75, 80, 90a and the newest that nvcc knows, with --all every
one that it knows from 75 on. What was compiled is kept in build/cuda and done again only when a source has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/cuda"
FLAGS = ["-O3", "-std=c++20", "-cubin", "-Xptxas=-v", f"-I{ROOT / 'csrc'}"]
# An architecture with features of its own, of which the kernels make use.
SPECIFIC = {"90": "90a"}
ENTRY, ENTRY_NAME = "Compiling entry function", re.compile(r" '(\w+)' for 'sm_\w+'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def nvcc() -> str:
    found = shutil.which("nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin") or shutil.which("nvcc")
    if found is None:
        sys.exit("no nvcc in CUDA_HOME/bin, /usr/local/cuda/bin or on PATH")
    return found


def known_architectures() -> list[str]:
    listed = subprocess.check_output([nvcc(), "--list-gpu-arch"], text=True)
    numbers = sorted({int(n) for n in re.findall(r"compute_(\d+)", listed)})
    return [SPECIFIC.get(str(n), str(n)) for n in numbers if n >= 75]


def sources_key() -> str:
    """Changes when a source, a flag or the compiler does."""
    digest = hashlib.sha256(subprocess.check_output([nvcc(), "--version"]) + " ".join(FLAGS).encode())
    for folder in ("cells", "engine", "cuda"):
        for path in sorted((ROOT / "csrc" / folder).iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def compile_one(source: Path, architecture: str, key: str) -> str:
    """What ptxas says of one source for one architecture."""
    log = BUILD / architecture / f"{source.stem}.log"
    if log.exists() and log.read_text().startswith(key):
        return log.read_text()
    log.parent.mkdir(parents=True, exist_ok=True)
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    command = [nvcc(), *FLAGS, f"-gencode={target}", str(source), "-o", str(log.with_suffix(".cubin"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{source.name} for sm_{architecture} does not compile:\n{ran.stdout}{ran.stderr}")
    log.write_text(f"{key}\n{ran.stdout}{ran.stderr}")
    return log.read_text()


def resources(log: str) -> dict[str, tuple[int, int, int]]:
    """kernel<cell, type, phase> -> registers, bytes of static shared memory, bytes of spills."""
    parts = log.split(ENTRY)[1:]
    mangled = [ENTRY_NAME.match(part)[1] for part in parts]
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True)
    found = {}
    for part, name in zip(parts, plain.stdout.splitlines(), strict=True):
        name = re.search(r"(\w+<.*>)\(", name.replace("(anonymous namespace)::", ""))[1]
        shared, spills = SHARED.search(part), SPILLS.search(part)
        needs = (int(REGISTERS.search(part)[1]), int(shared[1]) if shared else 0, int(spills[1]) + int(spills[2]))
        found[re.sub(r"(\w+::)+|__nv_|__|\(int\)", "", name)] = needs
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE")
    parser.add_argument("--all", action="store_true", help="every architecture that nvcc knows")
    args = parser.parse_args()
    known = known_architectures()
    architectures = args.architectures or (known if args.all else ["75", "80", "90a", known[-1]])
    sources, key = sorted((ROOT / "csrc/cuda").glob("*.cu")), sources_key()
    jobs = [(source, architecture) for architecture in architectures for source in sources]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        logs = list(pool.map(lambda job: compile_one(*job, key), jobs))

    table: dict[str, dict[str, tuple[int, int, int]]] = {}
    for (_, architecture), log in zip(jobs, logs, strict=True):
        for name, needs in resources(log).items():
            table.setdefault(name, {})[architecture] = needs
    print("registers per thread + bytes of static shared memory, by architecture")
    print(f"{'kernel':50}" + "".join(f"{'sm_' + a:>12}" for a in architectures))
    for name in sorted(table):
        cells = (table[name].get(a) for a in architectures)
        print(f"{name:50}" + "".join(f"{f'{c[0]} + {c[1]}' if c else '-':>12}" for c in cells))
    spilled = [(n, a, c[2]) for n, by in table.items() for a, c in by.items() if c[2]]
    for name, architecture, size in spilled:
        print(f"SPILLS: {name} on sm_{architecture}, {size} bytes")
    print(f"{len(table)} kernels, {len(architectures)} architectures, {len(spilled)} spill")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())
