"""Are two implementations of one model equal within rounding?

`within_rule` compares one step: loss and all gradients from the same weights on the same batch, by the tolerance
rule (error against float64 at most twice torch.nn's, plus a few ulp).

Whole trainings cannot be compared that way. A rounding error in the first step is amplified by every later one, so
two correct float32 trainings from the same weights part, exponentially at first. How far they may part is measured:
trainings by torch.nn whose weights are rounded once more, at random, before every step (`jitter`) are its twins, and
give the spread that rounding alone makes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from seqcuda import testing

# How much further than the twins from each other a correct implementation may be from torch.nn: the size of a
# difference grown from rounding is chance, and the twins are few. A single step can make it a hundred times as large:
# Adam's first steps of a weight that had no gradient before, as of a character not seen until then, are as long as for
# any other, in the direction of a gradient that may be all rounding.
CHANCE = 100
ROUNDINGS = 8


def within_rule(ours: torch.nn.Module, rival: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> dict:
    """Loss and gradients of `ours` with the weights of `rival`, against float64, without dropout.

    The error of a side is the largest over ROUNDINGS weights that differ by rounding: where terms cancel, as in the
    gradients of a softmax, a single error is a matter of luck.

    Returns the largest error of each side, in units of the largest magnitude, and what breaks the rule.
    """
    ours, rival = _without_dropout(ours), _without_dropout(rival)
    errors = {"ours": {}, "rival": {}}
    for seed in range(ROUNDINGS):
        if seed:
            jitter(rival, seed)
        ours.load_state_dict(rival.state_dict())
        exact = _loss_and_gradients(copy.deepcopy(rival).double(), loss)
        for side, model in (("ours", ours), ("rival", rival)):
            for name, found in _loss_and_gradients(model, loss).items():
                error = testing.error(found, exact[name])
                errors[side][name] = max(error, errors[side].get(name, 0.0))
    report = {"ours": 0.0, "rival": 0.0, "broken": []}
    for name, actual in errors["ours"].items():
        theirs, unit = errors["rival"][name], testing.ulp(exact[name], torch.float32)
        for side, error in (("ours", actual), ("rival", theirs)):
            report[side] = max(report[side], error / (exact[name].abs().max().item() or 1.0))
        if actual > 2 * theirs + testing.FEW_ULP * unit:  # the tolerance rule
            report["broken"].append(f"{name} (error {actual:.1e}, the rival's {theirs:.1e}, an ulp {unit:.1e})")
    return report


def _without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.RNNBase):
            module.dropout = 0.0
        elif isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def _loss_and_gradients(model: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    value = loss(model)
    value.backward()
    return {"loss": value.detach(), **{name: p.grad for name, p in model.named_parameters()}}


@torch.no_grad()
def jitter(model: torch.nn.Module, seed: int) -> None:
    """Round every weight once more, at random: move it by up to one unit in its last place."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.rand(p.shape, generator=generator, dtype=p.dtype).sub_(0.5).mul_(2 * torch.finfo(p.dtype).eps)
        p.addcmul_(p, noise.to(p.device))


def apart(a: list[float], b: list[float]) -> list[float]:
    """Largest difference of two curves so far, at every point."""
    return torch.tensor([a, b], dtype=torch.float64).diff(dim=0).abs()[0].cummax(0).values.tolist()


def bar(twins: list[list[float]]) -> list[float]:
    """What two curves may differ by at every point: `CHANCE` times the largest spread so far among the twins' curves,
    plus a few ulp of a float32 of that size."""
    curves = torch.tensor(twins, dtype=torch.float64)
    spread = (curves.amax(0) - curves.amin(0)).cummax(0).values
    few_ulp = testing.FEW_ULP * torch.finfo(torch.float32).eps * curves.abs().amax(0).cummax(0).values
    return (CHANCE * spread + few_ulp).tolist()
