"""Memory that stays mapped between calls: csrc/ops/page_pool.h."""

import resource

import pytest
import torch
from marks import needs_extension

import seqcuda

pytestmark = needs_extension

PAGE = resource.getpagesize()
# Results, gradients and what is kept between them: of some hundred KB each, in small pages, and of some MB, in large.
SIZES = {"small pages": (16, 8, 128), "large pages": (40, 16, 512)}


def calls_of(T: int, B: int, H: int):
    """A training step whose every large tensor is the layer's own, and one of inference."""
    torch.manual_seed(0)
    layer, x, grad = seqcuda.LSTM(H, H), torch.randn(T, B, H), torch.randn(T, B, H)
    wanted = [x.requires_grad_(), *layer.parameters()]

    def train():
        return torch.autograd.grad(layer(x)[0], wanted, grad)

    def infer():
        with torch.no_grad():
            return layer(x)[0]

    return train, infer


def faults_of(call, times: int) -> float:
    """Pages that the system maps for a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_no_call_maps_the_memory_of_its_results_anew(size, mode):
    train, infer = calls_of(*SIZES[size])
    call = train if mode == "training" else infer
    results = call()
    pages = sum(t.nbytes for t in (results if mode == "training" else [results])) / PAGE
    del results
    for _ in range(3):
        call()
    assert faults_of(call, 10) < pages / 4


@pytest.mark.parametrize("size", SIZES)
def test_what_is_held_is_not_given_to_the_next_call(size):
    train, infer = calls_of(*SIZES[size])
    held = [*train(), infer()]
    copies = [t.clone() for t in held]
    for _ in range(3):
        again = [*train(), infer()]
        places = {t.data_ptr() for t in held} | {t.data_ptr() for t in again}
        assert len(places) == len(held) + len(again)
        assert all(map(torch.equal, again, copies))
    assert all(map(torch.equal, held, copies))


def test_storage_grows_and_shrinks_as_any_other():
    train, _ = calls_of(*SIZES["small pages"])
    of_x, *_ = train()
    first = of_x[0].clone()
    of_x.resize_(64, *of_x.shape[1:])
    assert torch.equal(of_x[0], first)
    of_x.resize_(1, *of_x.shape[1:])
    assert torch.equal(of_x[0], first)
    of_x.untyped_storage().resize_(0)
    assert of_x.untyped_storage().nbytes() == 0
