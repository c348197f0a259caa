"""The named shapes that every timing uses: `python -m seqcuda bench`, benchmarks/ and its pytest-benchmark cases."""

from __future__ import annotations

from dataclasses import dataclass, replace

CELLS = ("rnn", "gru", "lstm")
MODES = ("inference", "training")


@dataclass(frozen=True)
class Shape:
    """T steps, B rows of the batch, I input features, H hidden units."""

    name: str
    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    directions: int = 1

    def describe(self) -> str:
        stack = f" L={self.layers}" * (self.layers > 1) + " bidirectional" * (self.directions == 2)
        return f"T={self.T} B={self.B} I={self.I} H={self.H}{stack}"


SHAPES = (
    Shape("single step", T=1, B=1, I=256, H=256),  # an agent or a voice, one frame at a time
    Shape("narrow", T=1000, B=1, I=64, H=64),  # one long series
    Shape("agents", T=128, B=16, I=128, H=128),  # reinforcement learning
    Shape("characters", T=64, B=32, I=64, H=128, layers=2),  # examples/language_model.py
    Shape("words", T=64, B=32, I=256, H=256),  # a language model
    Shape("many rows", T=64, B=256, I=128, H=128),
    Shape("translation", T=30, B=48, I=1024, H=1024),
    Shape("speech", T=400, B=16, I=512, H=512, layers=2, directions=2),
)
QUICK = ("single step", "agents", "characters", "words")  # of them, those that a first look takes


@dataclass(frozen=True)
class Case:
    """A shape, the cell that runs it, and what is timed: "inference" (forward alone) or "training" (with backward)."""

    shape: Shape
    cell: str
    mode: str
    threads: int = 0  # 0: as torch is set

    @property
    def name(self) -> str:
        return f"{self.shape.name}, {self.cell}, {self.mode}" + (f", {self.threads} threads" if self.threads else "")

    def with_threads(self, threads: int) -> Case:
        return replace(self, threads=threads)


def cases(
    shapes: tuple[str, ...] | None = None, cells: tuple[str, ...] = CELLS, modes: tuple[str, ...] = MODES
) -> list[Case]:
    """Every shape (all, or those named) with every cell and mode.

    Raises:
        ValueError: unknown name.
    """
    known = {shape.name: shape for shape in SHAPES}
    for given, names in ((shapes or (), known), (cells, CELLS), (modes, MODES)):
        for name in given:
            if name not in names:
                raise ValueError(f"{name!r} is none of {', '.join(names)}")
    chosen = [known[name] for name in shapes] if shapes else SHAPES
    return [Case(shape, cell, mode) for shape in chosen for cell in cells for mode in modes]
