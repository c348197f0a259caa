"""What RNN, LSTM and GRU share: torch.nn's base class without its second list of the weights."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import _backend, _dynamo, checks, layers
from ..cells import Cell
from ..layers import Stack
from ..stream import Stream, check_one_direction, decay_of_one_step
from .signature import ConstructorSignature
from .weights import set_norms, weights_of


class SequenceLayer(torch.nn.RNNBase):
    """Base of the sequence layers. A subclass says its `cell` and derives from torch.nn's class where there is one."""

    __signature__ = ConstructorSignature()

    save: str | int = "all"
    recurrent_dropout = weight_dropout = 0.0
    zoneout: float | tuple[float, float] = 0.0
    heads = 1

    def __init__(
        self,
        *args,
        save: str | int = "all",
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        weight_dropout: float = 0.0,
        heads: int = 1,
        device=None,
        dtype=None,
        **kwargs,
    ):
        # torch.nn.utils.skip_init takes modules whose signature names `device`; torch.nn's own does not.
        factory = {"device": device, "dtype": dtype}
        super().__init__(*args, **kwargs, **{k: v for k, v in factory.items() if v is not None})
        if isinstance(self.num_layers, Integral):  # such as numpy's, which torch.compile would take for a tensor
            self.num_layers = int(self.num_layers)
        self.save = layers.check_save(type(self).__name__, save)
        self.recurrent_dropout, self.zoneout, self.weight_dropout = recurrent_dropout, zoneout, weight_dropout
        self.heads = heads
        self._stack(False)  # which checks the options
        self._give_own_parameters(factory)

    @property
    def cell(self) -> Cell:
        raise NotImplementedError

    def _give_own_parameters(self, factory: dict) -> None:
        """Parameters in the place of torch.nn's, where the cell or the heads ask for others."""
        name, H = type(self).__name__, self.hidden_size
        if self.proj_size and not isinstance(self, torch.nn.LSTM):
            raise ValueError(f"{name}: proj_size is for the LSTM alone, got {self.proj_size}")
        if self.heads > 1 and (H % self.heads or self.proj_size):
            raise ValueError(
                f"{name}: heads must divide hidden_size, without proj_size, got heads={self.heads}, hidden_size={H}, "
                f"proj_size={self.proj_size}"
            )
        if self.proj_size and self.cell.norms:
            raise ValueError(f"{name}: layer_norm goes without proj_size, got proj_size={self.proj_size}")
        shapes, D = [], 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            width = self.proj_size or H
            columns = width * D if layer else self.input_size
            of_layer = self.cell.weight_shapes(columns, H, width, self.bias, self.heads)
            for suffix in ("", "_reverse")[:D]:
                shapes.append({f"{k}_l{layer}{suffix}": shape for k, shape in of_layer.items() if shape is not None})
        wanted = {name: shape for each in shapes for name, shape in each.items()}
        if wanted == {name: tuple(p.shape) for name, p in self.named_parameters()}:
            return
        for name in self._flat_weights_names:
            delattr(self, name)
        for name, shape in wanted.items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, **factory)))
        self._flat_weights_names, self._all_weights = list(wanted), [list(each) for each in shapes]
        self.reset_parameters()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | list[int] | None = None,
        resets: Tensor | PackedSequence | None = None,
        reset_state: Tensor | tuple[Tensor, Tensor] | None = None,
        return_states: bool | str = False,
        decay: Tensor | PackedSequence | tuple[Tensor | PackedSequence | None, ...] | None = None,
        detach_every: int = 0,
    ):
        """Output and final state as torch.nn gives them, and with `return_states` a third result.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with batch_first, unbatched ``(T, I)``, a PackedSequence, or a
                NestedTensor ``(B, j, I)`` of layout torch.jagged, which gives such an output.
            hx: ``(L*D, B, P)``; for an LSTM a tuple of it and c ``(L*D, B, H)``; zeros by default.
            lengths: ``(B,)`` integers, a tensor on any device or a list, in any order, 0 allowed: row b ends after
                ``lengths[b]`` steps. The output is 0 past the end, h_n is the state at the end, and the reverse
                direction starts there. Never waits for a device. Not together with a PackedSequence or NestedTensor.
            resets: bool ``(T, B)``, ``(B, T)`` with batch_first, ``(T,)`` unbatched; for packed input ``(T, B)``
                in the original order of the batch, or packed as the input is; for nested input nested by the same
                offsets. Where true at t, the state that enters step t is `reset_state`, in every direction; in the
                reverse direction what enters step t comes from t + 1. Ignored past the end of a row.
            reset_state: as hx, or broadcastable to it; zeros by default. It can be learned.
            return_states: True for `seqcuda.RNNStates` of all steps as a third result; "gates" with the gates.
            decay: multiplies the state that enters step t, `reset_state` included; differentiable. Broadcastable to
                ``(T, B, H)``, ``(B, T, H)`` with batch_first, ``(T, H)`` unbatched; for packed input in the original
                order of the batch, or packed as the input is; for nested input also nested by the same offsets. For an
                LSTM one for h and c, or a pair, of which one may be None. The same in every layer and direction; in
                the reverse direction what enters step t comes from t + 1.
            detach_every: k cuts the gradient of the state between steps k - 1 and k, 2k - 1 and 2k and so on, in every
                direction; the forward is what it is without.
        """
        additions = (lengths, resets, reset_state, decay)
        return self._run(self.batch_first, input, hx, additions, return_states, detach_every)

    def step(
        self,
        input: Tensor,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        reset_state: Tensor | tuple[Tensor, Tensor] | None = None,
        decay: Tensor | tuple[Tensor | None, ...] | None = None,
    ):
        """One step of all layers: the output and the new state, which is the hx of the next step. Differentiable.

        Args:
            input: ``(B, I)``, or ``(I,)``.
            hx: ``(L, B, P)``; for an LSTM a tuple of it and c ``(L, B, H)``; without B for input ``(I,)``; zeros by
                default.
            resets: bool ``(B,)``, or a scalar for input ``(I,)``: rows that begin anew, from `reset_state`.
            reset_state: as hx, or broadcastable to it; zeros by default.
            decay: as in `forward`, broadcastable to ``(B, H)``, or to ``(H,)`` for input ``(I,)``.

        Raises:
            ValueError: the layer is bidirectional.
        """
        name = f"{type(self).__name__}.step"
        check_one_direction(name, self.bidirectional)
        checks.check_cell_input(name, input, self.weight_ih_l0)
        if resets is not None:
            resets = checks.as_resets(name, resets, tuple(input.shape[:-1]), input.device).unsqueeze(0)
        if decay is not None:
            decay = decay_of_one_step(name, decay, self.cell.states)
        y, hx = self._run(False, input.unsqueeze(0), hx, (None, resets, reset_state, decay))
        return y.squeeze(0), hx

    def stream(self, batch_size: int = 1) -> Stream:
        """The layer with a state of its own, called once for each step, for inference: see `seqcuda.Stream`.

        Raises:
            ValueError: the layer is bidirectional.
        """
        return Stream(self._stack(False), weights_of(self, self._flat_weights_names), batch_size)

    def _run(self, batch_first: bool, input, hx, additions: tuple, return_states=False, detach_every: int = 0):
        weights = weights_of(self, self._flat_weights_names)
        lengths, resets, reset_state, decay = additions
        masks = self.zoneout or (self.training and (self.recurrent_dropout or self.weight_dropout))
        dropout = self.dropout and self.training and self.num_layers > 1
        plain = lengths is None and resets is None and reset_state is None and decay is None
        if plain and not (self.proj_size or dropout or masks or return_states or detach_every):
            directions = 2 if self.bidirectional else 1
            result = _backend.quick_call(
                self.cell.name, input, hx, weights, self.num_layers, directions, batch_first, self.save
            )
            if result is not None:
                return result
        return layers.run(self._stack(batch_first, return_states, detach_every), input, hx, weights, *additions)

    def _stack(self, batch_first: bool, return_states: bool | str = False, detach_every: int = 0) -> Stack:
        return Stack(
            self.cell, type(self).__name__, self.num_layers, self.bidirectional, self.dropout,
            self.training, batch_first, return_states, self.save, self.recurrent_dropout, self.zoneout,
            self.weight_dropout, detach_every, self.heads,
        )  # fmt: skip

    def extra_repr(self) -> str:
        options = ("save", "recurrent_dropout", "zoneout", "weight_dropout", "heads")
        given = (name for name in options if getattr(self, name) != getattr(SequenceLayer, name))
        return super().extra_repr() + "".join(f", {name}={getattr(self, name)!r}" for name in given)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if not self.cell.norms:
            return
        for name, parameter in self.named_parameters():
            if name.startswith("weight_unit"):
                set_norms(parameter, self.cell)

    def flatten_parameters(self) -> None:
        """Nothing: the weights are used where they are."""

    # torch.nn.RNNBase keeps a list of the weights beside the module's own and repairs it where the two part. Here
    # there is no such list, so that parametrizations, pruning, tying and functional_call need no repair.

    @property
    def _flat_weights(self) -> list[Tensor]:
        return weights_of(self, self._flat_weights_names)

    @_flat_weights.setter
    def _flat_weights(self, value) -> None:
        pass

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    # torch.nn.DataParallel: a replica gets its weights as any other module's.
    _replicate_for_data_parallel = torch.nn.Module._replicate_for_data_parallel

    __setattr__ = torch.nn.Module.__setattr__
    __getstate__ = torch.nn.Module.__getstate__
    __setstate__ = torch.nn.Module.__setstate__


_dynamo.allow(SequenceLayer)
