"""The clock and the memory of a GPU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import torch

from seqcuda import bench


class Gpu:
    """The current CUDA device."""

    name = "cuda"

    def __init__(self):
        properties = torch.cuda.get_device_properties(self.name)
        self.facts = bench.machine(self.name) | {
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "L2 MB": properties.L2_cache_size / 2**20,
            "memory GB": round(properties.total_memory / 2**30),
            "driver": driver(),
        }
        self._flushed = torch.empty(2 * properties.L2_cache_size, dtype=torch.uint8, device=self.name)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed(self, call: Callable[[], object], times: int) -> float:
        """Seconds per call by events, nothing of what it reads in L2."""
        self._flushed.zero_()
        self._start.record()
        for _ in range(times):
            call()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3 / times

    def peak(self, call: Callable[[], object]) -> int:
        """Bytes that a call takes at most beside what there was."""
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    def kept(self, forward: Callable[[], object]) -> int:
        """Bytes that a forward's result holds: the output, and what its backward needs."""
        before = torch.cuda.memory_allocated()
        result = forward()
        kept = torch.cuda.memory_allocated() - before
        del result
        return kept

    def check(self) -> None:
        """Raises RuntimeError where an earlier kernel has left the device unusable."""
        torch.cuda.synchronize()

    def free(self) -> None:
        torch.cuda.empty_cache()


def driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown (no nvidia-smi)"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
