"""The parts of torch around a layer: activation checkpointing, autocast, torch.nn.utils. More of the last stands in
tests/test_modules_behaviour.py: parametrizations, pruning of one weight, functional_call."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import CELLS, LAYERS, flat
from torch.nn import utils
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import seqcuda
from seqcuda.testing import assert_close_to_exact

ALL = pytest.mark.parametrize("kind", LAYERS + CELLS)


def options(kind):
    return {"num_layers": 2, "bidirectional": True} if kind in LAYERS else {}


def module_and_args(kind):
    torch.manual_seed(0)
    x, h = ((5, 2, 3), (4, 2, 4)) if kind in LAYERS else ((2, 3), (2, 4))
    hx = (torch.randn(h), torch.randn(h)) if "LSTM" in kind else torch.randn(h)
    return getattr(seqcuda, kind)(3, 4, **options(kind)), (torch.randn(x), hx)


def gradients(result, module):
    return torch.autograd.grad(sum(t.float().square().sum() for t in flat(result).values()), list(module.parameters()))


def same(a, b) -> bool:
    return all(map(torch.equal, flat(a).values(), flat(b).values()))


@ALL
@pytest.mark.parametrize("amp", [False, True])
def test_activation_checkpointing(kind, amp):
    """The forward that the backward runs again gives the same bits, dropout and autocast included."""
    module, args = module_and_args(kind)
    if kind in LAYERS:
        module.dropout = 0.5
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        torch.manual_seed(1)
        plain = module(*args)
        torch.manual_seed(1)
        checkpointed = checkpoint(module, *args, use_reentrant=False)
    assert same(checkpointed, plain)
    assert same(gradients(checkpointed, module), gradients(plain, module))


def test_checkpoint_sequential():
    class Layer(seqcuda.GRU):
        def forward(self, x):
            return super().forward(x)[0]

    torch.manual_seed(0)
    model, x = torch.nn.Sequential(*(Layer(4, 4) for _ in range(4))), torch.randn(5, 2, 4)
    result = checkpoint_sequential(model, 2, x, use_reentrant=False)
    assert same(gradients(result, model), gradients(model(x), model))


@ALL
def test_autocast_with_gradient_scaling(kind):
    """A step in float16 with a scaled loss; the weights and their gradients stay float32."""
    module, args = module_and_args(kind)
    optimizer, scaler = torch.optim.SGD(module.parameters(), 1.0), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = copy.deepcopy(module)
    with torch.autocast("cpu", torch.float16):
        result = module(*args)
    assert all(t.dtype == torch.float16 for t in flat(result).values())
    scaler.scale(sum(t.float().square().sum() for t in flat(result).values())).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    for p, old in zip(module.parameters(), before.parameters(), strict=True):
        assert p.grad.dtype == torch.float32 and torch.equal(p, old - p.grad)


@ALL
def test_clip_grad_norm(kind):
    module, args = module_and_args(kind)
    sum(t.square().sum() for t in flat(module(*args)).values()).backward()
    grads = [p.grad.clone() for p in module.parameters()]
    norm = utils.clip_grad_norm_(module.parameters(), 0.5)
    assert_close_to_exact(norm, torch.cat([g.flatten() for g in grads]).double().norm())
    for p, g in zip(module.parameters(), grads, strict=True):
        assert_close_to_exact(p.grad, g.double() * 0.5 / norm)


@ALL
def test_skip_init(kind):
    module = utils.skip_init(getattr(seqcuda, kind), 3, 4, **options(kind))
    assert type(module) is getattr(seqcuda, kind)
    exact, args = module_and_args(kind)
    module.load_state_dict(exact.state_dict())
    assert same(module(*args), exact(*args))


@ALL
def test_parameters_as_a_vector(kind):
    module, args = module_and_args(kind)
    vector = utils.parameters_to_vector(module.parameters())
    utils.vector_to_parameters(vector.flip(0), module.parameters())
    exact = copy.deepcopy(module)
    exact.load_state_dict(module.state_dict())
    assert torch.equal(utils.parameters_to_vector(module.parameters()), vector.flip(0))
    assert same(module(*args), exact(*args))


@ALL
def test_orthogonal_weights_stay_orthogonal(kind):
    module, args = module_and_args(kind)
    name = "weight_hh_l0" if kind in LAYERS else "weight_hh"
    parametrizations.orthogonal(module, name)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    sum(t.square().sum() for t in flat(module(*args)).values()).backward()
    before = getattr(module, name).detach().clone()
    optimizer.step()
    weight = getattr(module, name)
    assert not torch.equal(weight, before)
    assert_close_to_exact(weight.T @ weight, torch.eye(weight.size(1)).double())


@ALL
def test_global_pruning(kind):
    """Half of all weights of a module, and training goes on with the rest."""
    module, args = module_and_args(kind)
    names = [name for name, p in module.named_parameters() if p.dim() == 2]
    prune.global_unstructured([(module, name) for name in names], prune.L1Unstructured, amount=0.5)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(t.square().sum() for t in flat(module(*args)).values()).backward()
        optimizer.step()
    module(*args)
    zeros = sum((getattr(module, name) == 0).sum().item() for name in names)
    assert zeros == round(sum(getattr(module, name).numel() for name in names) / 2)
