"""Where a layer may be called: it gives what it gives elsewhere, and it never hangs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
import os
import torch
import seqcuda

torch.manual_seed(0)
layers = [getattr(seqcuda, kind)(64, 300) for kind in ("RNN", "GRU", "LSTM")]
x = torch.randn(20, 2, 64)

def run():
    results = []
    for layer in layers:
        y = layer(x)[0]
        results += [y.detach(), *torch.autograd.grad(y.sum(), list(layer.parameters()))]
    return results

def check(results):
    for ours, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, wanted)
"""
BEFORE = "expected = run()\n"  # the threads of this process are at work before what follows
THREADS = "torch.set_num_threads(2)\n"

SEVERAL = """
import threading

found = []
several = [threading.Thread(target=lambda: found.append(run())) for _ in range(3)]
for thread in several: thread.start()
for thread in several: thread.join()
for results in found: check(results)
maps = open("/proc/self/maps").read().split()
libraries = {os.path.realpath(m) for m in maps if "libgomp" in m or "libomp" in m or "libiomp" in m}
assert len(found) == 3 and len(libraries) <= 1, libraries  # one OpenMP runtime, torch's
"""

WORKER = """
class Data(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): return run()

for results in torch.utils.data.DataLoader(Data(), batch_size=None, num_workers=2):
    check(results)
"""

# An alarm ends a child that waits for threads it does not have.
FORK = """
import signal

child = os.fork()
if child == 0:
    signal.alarm(60)
    check(run())
    assert torch.get_num_threads() == 1
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
check(run())
"""

NESTED = """
import ctypes, glob

library = glob.glob(os.path.join(os.path.dirname(torch.__file__), "lib", "libgomp*")) + ["libgomp.so.1"]
gomp = ctypes.CDLL(library[0])
found = []

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def body(_):
    found.append((gomp.omp_in_parallel(), run()))

gomp.GOMP_parallel(body, None, 2, 0)
assert len(found) == 2 and all(inside for inside, _ in found)
for _, results in found:
    check(results)
"""

ALONE = """
assert torch.get_num_threads() == 1
check(run())
"""

# Each in a process of its own: MKL's allocator can spin forever in a child forked after several threads.
SURROUNDINGS = {
    "several threads": THREADS + BEFORE + SEVERAL,
    "worker of a DataLoader": THREADS + BEFORE + WORKER,
    "forked child": THREADS + BEFORE + FORK,
    "nested parallel region": THREADS + BEFORE + NESTED,
    "OMP_NUM_THREADS=1": BEFORE + ALONE,
}


@pytest.mark.parametrize("where", SURROUNDINGS)
def test_works_and_does_not_hang(where):
    threads = "1" if "OMP_NUM_THREADS=1" in where else "2"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + SURROUNDINGS[where]],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
