"""DDP and FSDP2 with two processes on the CPU; what they do stands in tests/distributed.py."""

from __future__ import annotations

import package
import pytest


@pytest.mark.parametrize("what", ["ddp", "fsdp"])
def test_two_processes(what, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    local = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = package.python(*torchrun, "tests/distributed.py", what, str(tmp_path), **local)
    assert done.returncode == 0, done.stderr
