"""Without the compiled module everything works in pure PyTorch, and one warning says how to build it."""

from __future__ import annotations

import package
import pytest

PROGRAM = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import seqcuda
ours = [str(w.message) for w in caught if "seqcuda" in str(w.message) and w.filename == "<string>"]
assert len(ours) == 1, ours
print(ours[0])

import torch
from seqcuda import _backend
assert _backend.compiled is None and seqcuda.engines() == () and seqcuda.__file__.startswith(FOLDER)

warnings.simplefilter("error")
torch.manual_seed(0)
for name in ("RNN", "LSTM", "GRU"):
    ours, theirs = (getattr(n, name)(3, 4, num_layers=2, bidirectional=True).double() for n in (seqcuda, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)[0]
        y.square().sum().backward()
        results.append((y, leaf.grad, layer.weight_hh_l0.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
    ours(x, lengths=[5, 2], resets=torch.zeros(5, 2, dtype=torch.bool), return_states=True)
for name in ("RNNCell", "LSTMCell", "GRUCell"):
    ours, theirs = getattr(seqcuda, name)(3, 4), getattr(torch.nn, name)(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3)
    torch.testing.assert_close(ours(x), theirs(x))
try:
    with seqcuda.backend("panel"):
        pass
except ValueError as error:
    print(error)
"""


def check(done):
    assert done.returncode == 0, done.stderr
    warning, error = done.stdout.splitlines()
    assert "pure PyTorch" in warning
    assert "must be one of auto, reference, got 'panel'" in error
    return warning


def test_by_the_environment():
    program = f"FOLDER = {str(package.ROOT)!r}\n" + PROGRAM
    assert "SEQCUDA_NO_EXTENSION=1" in check(package.python("-c", program, SEQCUDA_NO_EXTENSION="1"))


def test_not_built(tmp_path):
    where = package.copy(tmp_path, extension=False)
    warning = check(package.python("-c", f"FOLDER = {str(where)!r}\n" + PROGRAM, where=where))
    assert "build it with `pip install --no-build-isolation .` in the seqcuda checkout" in warning
    (where / "setup.py").touch()
    done = package.python("-c", "import seqcuda", where=where)
    assert "`pip install --no-build-isolation -e .` builds it in this checkout" in done.stderr


@pytest.mark.parametrize("name", ["panel", "nonsense"])
def test_a_backend_that_is_not_there_is_an_error_and_never_replaced(name):
    program = "import seqcuda, torch; seqcuda.LSTM(2, 3)(torch.zeros(1, 1, 2))"
    done = package.python("-c", program, SEQCUDA_NO_EXTENSION="1", SEQCUDA_BACKEND=name)
    assert done.returncode == 1
    assert f"SEQCUDA_BACKEND must be one of auto, reference, got '{name}'" in done.stderr
