"""What a cell is: the names and counts that the walks need, and one readable step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

# recurrent(operand, first, last): operand @ W_hh[first*H : last*H].T + b_hh[first*H : last*H]
Recurrent = Callable[..., Tensor]


def gate(x: Tensor, slope: float) -> Tensor:
    """The sigmoid or, where slope > 0, the straight line ``max(0, min(1, slope x + 1/2))``: Keras's hard_sigmoid."""
    return (slope * x + 0.5).clamp(0, 1) if slope > 0 else x.sigmoid()


def normalised(x: Tensor) -> Tensor:
    """Layer normalisation without gain and bias: mean 0 and variance 1 over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


@dataclass(frozen=True)
class Cell:
    """One recurrent cell.

    ``step(gx, recurrent, states) -> (new_states, gates)`` is the cell's mathematics for one time step of a
    whole batch: ``gx`` is ``x W_ih^T + b_ih`` of shape ``(B, G*H)``, ``recurrent`` the product with ``W_hh``,
    ``states`` a tuple whose first member is h. It is the fallback, the oracle of the tests and the
    documentation of the compiled cell of the same name (``csrc/cells``), whose counts it repeats. A cell with unit
    weights or options is called with them as well: ``step(gx, recurrent, states, unit, options)``.

    Attributes:
        name: the name that the compiled ops know the cell by.
        gate_names: the gates, in the order in which the rows of the weights hold them.
        state_names: the states; the first is the output h.
        saved: how many H-wide values of a step fast training keeps; the activated gates come first. 0 where
            the backward needs the states only. Of a cell that normalises its G products with h are among them.
        step: see above.
        unit_names: weights of H numbers each that multiply states unit by unit; `step` gets them as a tuple.
        options: numbers, each of which is off where it is 0.
        recurrent: h reaches the gates through a matrix W_hh; without one `recurrent` is not called.
        norms: the first and last gates, [first, last), of each group whose products are normalised together: `gx` is
            ``norm(x W_ih^T) a_x + b_ih``, what `recurrent` gives ``norm(h W_hh^T) a_h + b_hh``, both of all gates. The
            gains a_x and a_h are the first unit weights, one for each gate.
        layouts: the kinds of weights that a direction may have, by how many they are.
    """

    name: str
    gate_names: tuple[str, ...]
    state_names: tuple[str, ...]
    saved: int
    step: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    unit_names: tuple[str, ...] = ()
    options: tuple[float, ...] = ()
    recurrent: bool = True
    norms: tuple[tuple[int, int], ...] = ()
    layouts: dict[int, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        widths = (2, 1) if self.recurrent and not self.norms else (2,)  # as it is, and projected
        shapes = [self.weight_shapes(1, 2, width, bias) for bias in (False, True) for width in widths]
        kinds = [tuple(kind for kind, shape in each.items() if shape is not None) for each in shapes]
        object.__setattr__(self, "layouts", {len(each): each for each in kinds})

    @property
    def gates(self) -> int:
        return len(self.gate_names)

    @property
    def states(self) -> int:
        return len(self.state_names)

    def weight_shapes(
        self, input_size: int, hidden: int, width: int, bias: bool, heads: int = 1
    ) -> dict[str, tuple[int, ...] | None]:
        """The weights of one direction by name, in the order of seqcuda/walk.py; None: there is no such weight.

        With heads, weight_hh holds the blocks of a block-diagonal matrix, one below the other.
        """
        rows = self.gates * hidden
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, width // heads) if self.recurrent else None,
            "bias_ih": (rows,) if bias else None,
            "bias_hh": (rows,) if bias and self.recurrent else None,
            "weight_hr": (width, hidden) if width != hidden else None,
            "weight_unit": (len(self.unit_names) * hidden,) if self.unit_names else None,
        }
