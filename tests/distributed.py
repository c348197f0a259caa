"""What two processes do together: `torchrun --nproc-per-node 2 tests/distributed.py ddp|fsdp FOLDER`.

A script and not a test, since torchrun starts it; tests/test_ecosystem_distributed.py does that and reads its status.
"""

from __future__ import annotations

import contextlib
import copy
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import seqcuda
from seqcuda.testing import assert_close_to_exact


class Model(torch.nn.Module):
    """All three layers and a cell, with dimensions that two processes cannot share evenly."""

    def __init__(self):
        super().__init__()
        self.rnn = seqcuda.RNN(3, 5, bidirectional=True)
        self.lstm = seqcuda.LSTM(10, 7, num_layers=2, proj_size=3)
        self.gru = seqcuda.GRU(3, 5)
        self.cell = seqcuda.GRUCell(5, 3)

    def forward(self, x, lengths):
        for layer in (self.rnn, self.lstm, self.gru):
            x, _ = layer(x, lengths=lengths)
        return self.cell(x.sum(0))


def prepared() -> tuple[Model, torch.Tensor, torch.Tensor]:
    """The same model and data in every process: four micro-batches of two rows, (4, T, 2, I), and their lengths."""
    torch.manual_seed(0)
    return Model().double(), torch.randn(4, 6, 2, 3).double(), torch.tensor([[6, 2], [0, 5], [1, 6], [4, 4]])


def ddp(folder: str) -> None:
    """Gradients accumulated over two micro-batches in each of two processes are those of all four in one process."""
    model, x, lengths = prepared()
    alone = copy.deepcopy(model)
    sum(alone(*batch).square().mean() for batch in zip(x, lengths, strict=True)).div(4).backward()

    parallel = DistributedDataParallel(model)
    mine = range(dist.get_rank(), 4, 2)
    for i in mine:
        with parallel.no_sync() if i != mine[-1] else contextlib.nullcontext():
            parallel(x[i], lengths[i]).square().mean().div(2).backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert_close_to_exact(p.grad, q.grad, name=name)


def fsdp(folder: str) -> None:
    """A sharded model takes the same steps as a whole one, and again after it was saved and loaded by another."""
    whole, x, lengths = prepared()
    mesh = init_device_mesh("cpu", (2,))

    def sharded() -> tuple[Model, torch.optim.Optimizer]:
        model = copy.deepcopy(whole)
        for layer in model.children():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, torch.optim.Adam(model.parameters())

    def step(model, optimizer) -> None:
        optimizer.zero_grad()
        model(x[0], lengths[0]).square().mean().backward()
        optimizer.step()

    def assert_same(model, exact) -> None:
        for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
            assert_close_to_exact(p.full_tensor(), q, name=name)

    first, second = sharded(), sharded()
    exact = whole, torch.optim.Adam(whole.parameters())
    assert isinstance(first[0].lstm, seqcuda.LSTM) and first[0].lstm.weight_hh_l0.to_local().size(0) < 4 * 7
    step(*first), step(*exact)
    assert_same(first[0], whole)
    checkpoint.save(dict(zip(("model", "optimizer"), get_state_dict(*first), strict=True)), checkpoint_id=folder)
    state = dict(zip(("model", "optimizer"), get_state_dict(*second), strict=True))
    checkpoint.load(state, checkpoint_id=folder)
    set_state_dict(*second, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    step(*second), step(*exact)
    assert_same(second[0], whole)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    {"ddp": ddp, "fsdp": fsdp}[sys.argv[1]](sys.argv[2])
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
