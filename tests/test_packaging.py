"""What an installed package and a source distribution hold, and what is said where they do not fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile

import package
import pytest
import torch

import seqcuda


def setup_py(*arguments: str, where=package.ROOT, **environment: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if not k.startswith("SEQCUDA_")}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=where,
        env=base | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def tree(tmp_path):
    """A copy of what the build reads."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(package.ROOT / name, tmp_path)
    shutil.copytree(package.ROOT / "csrc", tmp_path / "csrc")
    package.copy(tmp_path, extension=False)
    return tmp_path


def test_version():
    assert setup_py("--version").stdout.split()[-1] == seqcuda.__version__


def test_sdist_holds_every_source(tree):
    (tree / "seqcuda/_C.so").touch()
    (tree / "seqcuda/_C_build.json").touch()
    done = setup_py("sdist", where=tree)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next((tree / "dist").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    expected = {str(p.relative_to(tree)) for top in ("csrc", "seqcuda") for p in (tree / top).rglob("*") if p.is_file()}
    built = {"seqcuda/_C.so", "seqcuda/_C_build.json"}
    assert expected - built - held == set()
    assert not built & held
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= held


def test_an_extension_for_another_torch_is_refused_in_one_sentence(tmp_path):
    where = package.copy(tmp_path, extension=False)
    (where / "seqcuda/_C_build.json").write_text(json.dumps({"torch": "2.1.0"}))
    program = "import seqcuda, torch; print(seqcuda.GRU(2, 3)(torch.zeros(1, 1, 2))[0].shape)"
    done = package.python("-c", program, where=where)
    assert done.returncode == 0, done.stderr
    sentence = f"the extension was built for torch 2.1.0, this is torch {torch.__version__}; build it with"
    assert done.stderr.count(sentence) == 1
    assert "torch.Size([1, 1, 3])" in done.stdout


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SEQCUDA_CUDA": "yes"}, "SEQCUDA_CUDA must be auto, 0 or 1, got 'yes'."),
        ({"SEQCUDA_CUDA": "1", "CUDA_HOME": "/nowhere"}, "SEQCUDA_CUDA=1 asks for CUDA, but there is no nvcc"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler (no-such-compiler)"),
    ],
)
def test_what_is_missing_is_one_sentence(tree, environment, sentence):
    done = setup_py("build_ext", "--inplace", where=tree, **environment)
    assert done.returncode == 1
    assert f"seqcuda: {sentence}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["2.10.1", "2.16.0", "3.0.0"])
def test_torch_out_of_range(tree, version):
    (tree / "torch.py").write_text(f"__version__ = '{version}'\n")
    done = setup_py("build_ext", "--inplace", where=tree, PYTHONPATH=str(tree))
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"seqcuda: torch>=2.11,<2.16 is needed to build, this is torch {version}.")


def test_torch_that_does_not_import(tree):
    (tree / "torch.py").write_text("raise ImportError('no such thing')\n")
    done = setup_py("build_ext", "--inplace", where=tree, PYTHONPATH=str(tree))
    assert done.returncode == 1
    assert "seqcuda: torch is needed to build and does not import (no such thing)" in done.stderr
    assert "Traceback" not in done.stderr


def test_compiler_errors_end_in_one_sentence(tree):
    for source in [*(tree / "csrc/ops").glob("*.cpp"), *(tree / "csrc/cpu").glob("*.cpp")]:
        source.unlink()
    (tree / "csrc/ops/broken.cpp").write_text("this is not C++\n")
    done = setup_py("build_ext", "--inplace", where=tree, SEQCUDA_CUDA="0")
    assert done.returncode == 1
    assert "the messages above say why" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_part_alone(tree):
    done = setup_py("build", where=tree, SEQCUDA_NO_EXTENSION="1")
    assert done.returncode == 0, done.stderr
    assert (tree / "build/lib/seqcuda/py.typed").exists()
    assert not list((tree / "build").rglob("_C*"))


@pytest.mark.skipif(not (package.ROOT / "seqcuda/_C_build.json").exists(), reason="the extension is not built in place")
def test_what_the_build_leaves_beside_the_extension():
    built = json.loads((package.ROOT / "seqcuda/_C_build.json").read_text())
    assert set(built) == {"torch", "cuda", "compiler"}
    assert built["torch"] == torch.__version__
