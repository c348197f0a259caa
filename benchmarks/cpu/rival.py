"""onnxruntime against seqcuda, inference."""

from __future__ import annotations

import functools
import importlib.util
import io
import logging
import statistics
import time
import warnings

import seqcuda.onnx
from seqcuda import bench

from ..run import RATIO
from ..tables import Column, columns
from .section import FEWEST, THREADS, Case, Section, Unavailable, at_least, facts
from .speed import shapes

MOST = 6  # GFLOP
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
REST = 5e-3  # seconds in which the threads of OpenMP stop to spin


def cases(threads: tuple[int, ...], quick: bool) -> list[Case]:
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not installed; pip install {' '.join(missing)}")
    # The threads innermost: a model is exported once.
    return [
        Case(case.name, n, functools.partial(measure, case.with_threads(n)))
        for case in shapes(quick, MOST)
        if case.mode == "inference"
        for n in threads
    ]


@functools.lru_cache(maxsize=1)
def model(case: bench.Case) -> bytes:
    """The ONNX model of a case."""
    layer, x = bench.layer_and_input(case, "seqcuda")
    file, log = io.BytesIO(), logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            seqcuda.onnx.export(layer, (x,), verbose=False).save(file)
    finally:
        log.setLevel(level)
    return file.getvalue()


def session(case: bench.Case):
    """A call that gives y."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run; within it they spin
    found = onnxruntime.InferenceSession(model(case.with_threads(0)), options, providers=["CPUExecutionProvider"])
    x = bench.layer_and_input(case, "seqcuda")[1].numpy()
    y, given = [found.get_outputs()[0].name], {found.get_inputs()[0].name: x}
    return lambda: found.run(y, given)[0]


def measure(case: bench.Case, seconds: float) -> dict:
    rival, ours = session(case), bench.prepare(case, "seqcuda")
    theirs, mine = bench.pair(rival, ours, seconds, fewest=FEWEST, rest=lambda: time.sleep(REST))
    return {
        **facts(case),
        "onnxruntime ms": statistics.median(theirs) * 1e3,
        "seqcuda ms": statistics.median(mine) * 1e3,
        "ratio": bench.ratio(theirs, mine),
    }


def goals(rows: list[dict]):
    yield at_least("mean over shapes and cells", 1, [r for r in rows if r["steps"] > 1], "ratio", mean=True)
    yield at_least("the lowest of all shapes", 0.9, rows, "ratio")


SECTION = Section(
    "onnxruntime",
    f"""The time of onnxruntime (CPU provider, the same number of threads, models by seqcuda.onnx.export) over the time
of seqcuda, inference. Its threads stop to spin after a run, and before every sample both rest for {REST * 1e3:.0f} ms,
so that no thread of the other one is in the way. The mean is the geometric one over the shapes of more than one step.
Shapes with more than {MOST} GFLOP in an LSTM's forward are timed with fewer steps.""",
    cases,
    goals,
    (
        *columns("shape", "sizes", "cell"),
        THREADS,
        Column("onnxruntime ms", lambda r: bench.milliseconds(r["onnxruntime ms"]), right=True),
        *RATIO[1:],
    ),
)
