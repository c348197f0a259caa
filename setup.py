"""Builds the compiled module seqcuda._C; everything else about the package is in pyproject.toml.

Environment: SEQCUDA_CUDA = auto (default: CUDA where nvcc is found), 0 (never), 1 (must); TORCH_CUDA_ARCH_LIST as in
every torch extension; MAX_JOBS (default: the number of cores); SEQCUDA_NO_EXTENSION=1 installs the Python part alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

import setuptools
from setuptools.errors import BaseError as SetuptoolsError

TORCH_MIN, TORCH_END = (2, 11), (2, 16)  # as in pyproject.toml
ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0")  # those that nvcc knows, and PTX of the last
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
CXX_FLAGS += ["-fvisibility=hidden", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden", "-Xcompiler=-Wall"]


def stop(sentence: str) -> None:
    sys.exit(f"seqcuda: {sentence}.")


def output(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def compiler() -> str:
    return shlex.split(os.environ.get("CXX", "c++"))[0]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return shutil.which("nvcc", path=f"{home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuda_sources() -> list[str]:
    """What only a build with CUDA compiles; never decided by whether a GPU is visible: build machines have none."""
    choice, nvcc = os.environ.get("SEQCUDA_CUDA", "auto"), find_nvcc()
    sources = [f for kind in ("cuda/*.cu", "cuda/*.cpp", "ops/cuda/*.cpp") for f in sorted(glob(f"csrc/{kind}"))]
    if choice not in ("auto", "0", "1"):
        stop(f"SEQCUDA_CUDA must be auto, 0 or 1, got {choice!r}")
    if choice == "1" and nvcc is None:
        stop("SEQCUDA_CUDA=1 asks for CUDA, but there is no nvcc in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
    return sources if choice != "0" and nvcc else []


def checked_torch():
    try:
        import torch
    except ImportError as error:
        stop(f"torch is needed to build and does not import ({error}); install torch>=2.11,<2.16 first")
    if not TORCH_MIN <= tuple(int(n) for n in torch.__version__.split(".")[:2]) < TORCH_END:
        stop(f"torch>=2.11,<2.16 is needed to build, this is torch {torch.__version__}")
    return torch


def compiled_module() -> dict:
    """The arguments of setup() that build seqcuda._C."""
    if os.environ.get("SEQCUDA_NO_EXTENSION") == "1":
        return {}
    if not sys.platform.startswith("linux"):
        stop("the compiled module builds on Linux only; SEQCUDA_NO_EXTENSION=1 installs the pure-PyTorch part")
    torch = checked_torch()
    from torch.utils import cpp_extension

    os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")  # ninja of this Python
    os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    cuda = cuda_sources()
    # Compiled for OpenMP but not linked to it: at::parallel_for is inline, and its libgomp must be torch's own.
    openmp = ["-fopenmp"] if torch.backends.openmp.is_available() else []
    quiet = [f"-isystem{folder}" for folder in cpp_extension.include_paths()]  # no warnings from torch's own headers
    version = f"-DSEQCUDA_BUILT_FOR_TORCH={torch.__version__}"  # in the command, so that another torch rebuilds all
    extension = cpp_extension.CppExtension(
        "seqcuda._C",
        sorted(glob("csrc/cpu/*.cpp")) + sorted(glob("csrc/ops/*.cpp")) + cuda,
        include_dirs=[os.path.abspath("csrc")],
        extra_compile_args={"cxx": [*CXX_FLAGS, *openmp, *quiet, version], "nvcc": [*NVCC_FLAGS, version]},
    )
    if not extension.sources:
        stop("the C++ sources (csrc/) are missing")
    nvcc_release = add_cuda(extension, cpp_extension) if cuda else None

    class Build(cpp_extension.BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = f"build/objects.{sys.implementation.cache_tag}"  # kept, so that a rebuild is incremental

        def build_extensions(self) -> None:
            check_machine(self.build_temp)
            # No CUDA library of torch's is linked, so any nvcc will do, also with a torch built without CUDA.
            torch.version.cuda = nvcc_release or torch.version.cuda
            try:
                super().build_extensions()
            except (RuntimeError, SetuptoolsError) as error:
                stop(f"{error}; the messages above say why (the compiler must know C++20: GCC 11 or Clang 14)")

        def run(self) -> None:
            super().run()
            built = {"torch": torch.__version__, "cuda": nvcc_release, "compiler": output(compiler(), "--version")}
            built["compiler"] = built["compiler"].partition("\n")[0]
            for folder in [self.build_lib, "."] if self.inplace else [self.build_lib]:
                Path(folder, "seqcuda/_C_build.json").write_text(json.dumps(built, indent=2) + "\n")

    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


def add_cuda(extension, cpp_extension) -> str:
    """Prepares `extension` and BuildExtension for the .cu sources; the release of nvcc, such as "13.0"."""
    nvcc = find_nvcc()
    # nvcc itself knows where it lies (the one found may be a link or a wrapper) and where its headers are.
    profile = output(nvcc, "--dryrun", "-c", "-x", "cu", os.devnull)
    release = re.search(r"release (\d+\.\d+)", output(nvcc, "--version"))
    top, include, library = (re.search(p, profile) for p in (r"TOP=(\S+)", r'INCLUDES="-I([^"]+)"', r'"-L([^"]+)"'))
    if not (release and top and include and library):
        stop(f"{nvcc} does not say where its toolkit is; set CUDA_HOME to it, or SEQCUDA_CUDA=0")
    libraries = (library[1].replace("/stubs", ""), f"{top[1]}/lib64")
    extension.include_dirs.append(include[1])
    extension.library_dirs += [folder for folder in libraries if os.path.isdir(folder)]
    extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
    # Local, or the static runtime's calls would be bound to the shared one that a torch with CUDA has loaded.
    extension.extra_link_args = ["-Wl,--exclude-libs,ALL"]
    known = re.findall(r"compute_(\d+)", output(nvcc, "--list-gpu-arch"))
    usable = [a for a in ARCHITECTURES if re.sub(r"\D", "", a) in known]
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(usable) + "+PTX")
    cpp_extension.CUDA_HOME = os.path.realpath(top[1])
    return release[1]


def check_machine(folder: str) -> None:
    """What a build needs, said in one sentence where it is missing."""
    if shutil.which(compiler()) is None:
        stop(f"no C++ compiler ({compiler()}); install one with C++20 (GCC 11 or Clang 14) or point CXX to it")
    if shutil.which("ninja") is None:
        stop("ninja is needed to build: pip install ninja")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        stop(f"the headers of Python {sysconfig.get_python_version()} are missing (python3-dev or python3-devel)")
    Path(folder).mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 200e6:
        stop(f"less than 200 MB of disk space are left for the build in {Path(folder).resolve()}")


if sys.version_info < (3, 10):  # noqa: UP036
    stop(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
if int(setuptools.__version__.split(".")[0]) < 77:
    stop(f"setuptools 77 or newer is needed, this is {setuptools.__version__}: pip install -U setuptools wheel")
setuptools.setup(**compiled_module())
