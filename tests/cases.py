"""Random configurations of layers and cells, and what is compared of their results."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")


@dataclass(frozen=True)
class Case:
    """One call of one module: everything but the numbers, which follow from `seed`."""

    seed: int
    kind: str
    input_size: int
    hidden_size: int
    steps: int = 1
    batch: int | None = 1  # None: unbatched
    arguments: dict = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None  # packed by these
    with_hx: bool = True
    strided: bool = False
    training: bool = True

    @property
    def is_cell(self) -> bool:
        return self.kind in CELLS

    @property
    def has_c(self) -> bool:
        return self.kind.startswith("LSTM")

    @staticmethod
    def draw(seed: int) -> Case:
        rng = random.Random(seed)
        kind = rng.choice(LAYERS * 3 + CELLS)
        input_size, hidden_size = rng.choice((1, 2, 5, 8)), rng.choice((2, 3, 4, 7, 16))
        arguments = {"bias": rng.random() < 0.7}
        if kind in ("RNN", "RNNCell"):
            arguments["nonlinearity"] = rng.choice(("tanh", "relu"))
        batch = rng.choice((None, 0, 1, 2, 3, 5))
        common = {"with_hx": rng.random() < 0.6, "strided": rng.random() < 0.3, "training": rng.random() < 0.7}
        if kind in CELLS:
            return Case(seed, kind, input_size, hidden_size, 1, batch, arguments, None, **common)
        arguments |= {
            "num_layers": rng.choice((1, 1, 2, 3)),
            "batch_first": rng.random() < 0.4,
            "bidirectional": rng.random() < 0.4,
        }
        if arguments["num_layers"] > 1:
            arguments["dropout"] = rng.choice((0.0, 0.4, 1.0))
        if kind == "LSTM" and rng.random() < 0.3:
            arguments["proj_size"] = rng.randrange(1, hidden_size)
        steps, lengths = rng.choice((1, 2, 4, 7)), None
        if batch and rng.random() < 0.35:
            lengths = tuple(rng.randint(1, steps) for _ in range(batch))
        return Case(seed, kind, input_size, hidden_size, steps, batch, arguments, lengths, **common)

    def module(self, namespace, dtype: torch.dtype) -> torch.nn.Module:
        """The module in `namespace`, torch.nn or seqcuda; its weights depend on the seed alone."""
        torch.manual_seed(self.seed)
        module = getattr(namespace, self.kind)(self.input_size, self.hidden_size, **self.arguments)
        return module.train(self.training).to(dtype)

    def input(self, dtype: torch.dtype):
        """A leaf tensor and the module's input made of it."""
        feature = (self.input_size,)
        if self.is_cell:
            shape = feature if self.batch is None else (self.batch, *feature)
        elif self.batch is None:
            shape = (self.steps, *feature)
        elif self.arguments["batch_first"]:
            shape = (self.batch, self.steps, *feature)
        else:
            shape = (self.steps, self.batch, *feature)
        leaf, x = self._tensor(shape, dtype, 1)
        if self.lengths is not None:
            x = pack_padded_sequence(x, self.lengths, self.arguments["batch_first"], enforce_sorted=False)
        return leaf, x

    def hx(self, dtype: torch.dtype):
        """Leaf tensors and the hx made of them, or nothing and None."""
        if not self.with_hx:
            return (), None
        layers = self.arguments.get("num_layers", 1) * (2 if self.arguments.get("bidirectional") else 1)
        lead = () if self.is_cell else (layers,)
        lead += () if self.batch is None else (self.batch,)
        widths = [self.arguments.get("proj_size", 0) or self.hidden_size]
        widths += [self.hidden_size] if self.has_c else []
        pairs = [self._tensor((*lead, width), dtype, 2 + i) for i, width in enumerate(widths)]
        leaves, states = zip(*pairs, strict=True)
        return leaves, states if self.has_c else states[0]

    def _tensor(self, shape, dtype, salt):
        """A leaf and a view of it of this shape; drawn in float32, so that all dtypes see the same numbers.

        Moderate numbers: where tanh saturates, the gradient is all in the rounding error of 1 - h^2.
        """
        generator = torch.Generator().manual_seed(self.seed * 7 + salt)
        step = 2 if self.strided else 1
        leaf = torch.randn((*shape[:-1], shape[-1] * step), generator=generator) / 2
        leaf = leaf.to(dtype).requires_grad_()
        return leaf, leaf[..., ::step] if self.strided else leaf

    def run(self, namespace, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Outputs, final states and all gradients by name."""
        module = self.module(namespace, dtype)
        leaf, x = self.input(dtype)
        leaves, hx = self.hx(dtype)
        torch.manual_seed(self.seed + 1)
        results = flat(module(x, hx))
        generator = torch.Generator().manual_seed(self.seed + 2)
        loss = sum((r * torch.randn(r.shape, generator=generator).to(dtype)).sum() for r in results.values())
        inputs = {"input": leaf, **{f"hx{i}": t for i, t in enumerate(leaves)}, **dict(module.named_parameters())}
        grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return results | {f"grad {name}": g for name, g in zip(inputs, grads, strict=True)}


def flat(result, name: str = "result") -> dict[str, torch.Tensor]:
    """All tensors of a result by name."""
    if result is None:
        return {}
    if isinstance(result, torch.Tensor):
        return {name: result}
    if isinstance(result, PackedSequence):
        return {f"{name}.data": result.data}
    return {k: v for i, part in enumerate(result) for k, v in flat(part, f"{name}[{i}]").items()}


def twin(module: torch.nn.Module, namespace, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """The layer or cell of the same name in `namespace`, with a copy of the weights and settings."""
    keys = ("bias", "nonlinearity", "num_layers", "batch_first", "dropout", "bidirectional", "proj_size")
    arguments = {k: getattr(module, k) for k in keys if hasattr(module, k)}
    if not arguments.get("proj_size"):
        arguments.pop("proj_size", None)
    other = getattr(namespace, type(module).__name__)(module.input_size, module.hidden_size, **arguments)
    other = other.to(next(module.parameters()).dtype)
    other.load_state_dict(copy.deepcopy(module.state_dict()))
    return other.train(module.training).to(dtype or next(module.parameters()).dtype)
