"""What a cell is: the names and counts that the walks need, and one readable step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# recurrent(operand, first, last): operand @ W_hh[first*H : last*H].T + b_hh[first*H : last*H]
Recurrent = Callable[..., Tensor]


@dataclass(frozen=True)
class Cell:
    """One recurrent cell.

    ``step(gx, recurrent, states) -> (new_states, gates)`` is the cell's mathematics for one time step of a
    whole batch: ``gx`` is ``x W_ih^T + b_ih`` of shape ``(B, G*H)``, ``recurrent`` the product with ``W_hh``,
    ``states`` a tuple whose first member is h. It is the fallback, the oracle of the tests and the
    documentation of the compiled cell of the same name (``csrc/cells``), whose counts it repeats.

    Attributes:
        name: the name that the compiled ops know the cell by.
        gate_names: the gates, in the order in which the rows of the weights hold them.
        state_names: the states; the first is the output h.
        saved: how many H-wide values of a step fast training keeps; the activated gates come first. 0 where
            the backward needs the states only.
        step: see above.
    """

    name: str
    gate_names: tuple[str, ...]
    state_names: tuple[str, ...]
    saved: int
    step: Callable[[Tensor, Recurrent, tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]

    @property
    def gates(self) -> int:
        return len(self.gate_names)

    @property
    def states(self) -> int:
        return len(self.state_names)
