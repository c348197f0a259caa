"""A machine on which something else runs as well."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator

from seqcuda import bench
from seqcuda.shapes import CELLS, MODES, Shape

from ..tables import columns
from .section import Case, Section, at_least, at_most, number, timed

SHAPE = Shape("busy", T=64, B=16, I=128, H=128)
SAMPLE = 0.1  # seconds of a sample: many turns of the scheduler
FEWEST = 1
ROUNDS = 2  # alone, busy, alone, busy
# PR_SET_PDEATHSIG: it ends with its parent, however that came about.
SPIN = """
import ctypes, os, signal, sys
parent, core = map(int, sys.argv[1:])
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.sched_setaffinity(0, {core})
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


class Spinners:
    """A process on every core that this one may use, which spins between `go` and `pause`."""

    def __init__(self):
        self._processes: list[subprocess.Popen] = []
        try:
            for core in sorted(os.sched_getaffinity(0)):
                command = [sys.executable, "-S", "-c", SPIN, str(os.getpid()), str(core)]
                # A session of its own: Ctrl-C is for the benchmark, which then stops it.
                self._processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            for process in self._processes:
                process.stdout.readline()  # it runs
            self.pause()
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def go(self) -> None:
        self._send(signal.SIGCONT)

    def pause(self) -> None:
        self._send(signal.SIGSTOP)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()  # which a stopped process obeys as well
        for process in self._processes:
            process.wait()
            process.stdout.close()

    def _send(self, sent: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(sent)


@contextlib.contextmanager
def spinners() -> Iterator[Spinners]:
    found = Spinners()
    try:
        yield found
    finally:
        found.stop()


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    shape = Shape("busy", T=4, B=2, I=8, H=8) if quick else SHAPE
    todo = [bench.Case(shape, cell, mode) for cell in CELLS for mode in MODES]
    return timed(measure, todo, threads, 1e-3 if quick else SAMPLE)


def measure(case: bench.Case, sample: float, seconds: float) -> dict:
    calls = bench.prepare(case, "torch"), bench.prepare(case, "seqcuda")
    found = {"alone": ([], []), "busy": ([], [])}
    with spinners() as others:
        for state in ("alone", "busy") * ROUNDS:
            others.go() if state == "busy" else others.pause()
            for into, times in zip(
                found[state],
                bench.pair(*calls, seconds / (2 * ROUNDS), sample=sample, fewest=FEWEST),
                strict=True,
            ):
                into += times
    ms = {state: [statistics.median(times) * 1e3 for times in both] for state, both in found.items()}
    return {
        "case": f"{case.cell}, {case.mode}",
        "cell": case.cell,
        "mode": case.mode,
        "threads": case.threads,
        **{f"{library} {state} ms": ms[state][k] for k, library in enumerate(bench.LIBRARIES) for state in ms},
        **{f"{library} slower": ms["busy"][k] / ms["alone"][k] for k, library in enumerate(bench.LIBRARIES)},
        "ratio when busy": bench.ratio(*found["busy"]),
    }


def goals(rows: list[dict]):
    yield at_most("time when busy over time alone, the highest", 2.5, rows, "seqcuda slower")
    yield at_least("when busy, torch.nn's time over ours, the lowest", 1, rows, "ratio when busy")


SECTION = Section(
    "busy",
    f"""{SHAPE.describe()}, alone and with a process spinning on every core (a fair share of the cores is then half:
2 times slower). Samples last {SAMPLE * 1e3:.0f} ms or more, and the states take turns. What else a layer may meet is
asserted by tests/test_surroundings.py: a DataLoader worker, a forked child, a nested parallel region,
OMP_NUM_THREADS=1.""",
    cases,
    goals,
    (
        *columns("cell", "mode"),
        *columns("threads", right=True),
        *(number(f"{library} {state} ms") for library in bench.LIBRARIES for state in ("alone", "busy")),
        number("torch slower"),
        number("seqcuda slower"),
        number("ratio when busy"),
    ),
)
