"""The classifier of reviews, trained by two processes with DistributedDataParallel, against one process.

    python examples/two_processes.py                                     # starts torchrun with two processes
    torchrun --standalone --nproc-per-node 2 examples/two_processes.py   # the same

Each process takes its share of the rows of every batch, and the gradients are averaged (gloo, on the CPU). Each also
trains the same model alone, on all rows, and the two trainings are compared by the tolerance rule. Ctrl-C ends all
processes after the same step; each keeps a checkpoint of its own. Data, model and arguments are those of sentiment.py,
without dropout, whose masks would fall elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import torch
import torch.distributed as dist
from common import cli, loop, report, training
from common.backends import layer_class
from sentiment import Classifier, Sentiment, add_arguments
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="two_processes.py", description="Train the classifier of reviews in two processes.")
    cli.add_common_arguments(parser, out="out/two_processes", backends=("seqcuda", "torch"))
    parser.add_argument("--processes", type=cli.positive_int, default=2, help="how many to start, without torchrun")
    add_arguments(parser, dropout=0.0, steps=100, every=20)
    args = parser.parse_args(given)
    if args.dropout:
        cli.fail(
            f"--dropout must be 0 here, as the masks of several processes are not those of one; got {args.dropout}"
        )
    if args.form == "lengths" and args.backend != "seqcuda":
        cli.fail("--form lengths needs --backend seqcuda: torch.nn's layers do not take lengths")
    if cli.device(args.device).type != "cpu" and args.device != "auto":
        cli.fail(f"--device must be cpu here, as gloo averages on the CPU; got {args.device}")
    return args


class AgreedInterrupt(loop.Interrupt):
    """Ctrl-C to one process is Ctrl-C to all: every look at `asked` asks all. torchrun hands the signal on to processes
    that may have got it already, so that a second one must not stop them at once."""

    @property
    def asked(self) -> bool:
        flag = torch.tensor(int(self._asked))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    @asked.setter
    def asked(self, value: bool) -> None:
        self._asked = value

    def _handle(self, *_) -> None:
        self._asked = True


class OneProcess(torch.nn.Module):
    """A model whose parameters have the names they have inside DistributedDataParallel."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        return self.module(*inputs)


class SharedSentiment(Sentiment):
    """The task of sentiment.py, where each process takes a share of the rows."""

    sides = ("one process", "processes")
    interrupt = AgreedInterrupt

    def model(self, side):
        model = Classifier(layer_class(self.args.backend, self.args.cell), len(self.vocabulary), self.args)
        return DistributedDataParallel(model) if side == self.sides[1] else OneProcess(model)

    def loss(self, model, step, state=None):
        if isinstance(model, OneProcess):
            return super().loss(model, step)
        rows, rank, world = self.batches.rows(step), dist.get_rank(), dist.get_world_size()
        mine = rows[rank::world]
        x, lengths, targets = self.batch("train", mine or rows[:1])  # a process without rows must take part as well
        logits = model(x, lengths)
        total = binary_cross_entropy_with_logits(logits, targets, pos_weight=self.class_weight, reduction="sum")
        share = total * (world / len(rows) if mine else 0.0)  # the mean of all shares is the mean over all rows
        mean = share.detach().clone()
        dist.all_reduce(mean)
        return share + (mean / world - share).detach(), None  # the value of all rows, the gradient of this share


def launch(processes: int, given: list[str]) -> int:
    """torchrun with this program; its exit status."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with loop.Interrupt() as interrupt:
        status = subprocess.run([*torchrun, __file__, *given], env=environment, check=False).returncode
    return cli.INTERRUPTED if interrupt.asked else status


def prepared(args) -> list[training.Training]:
    """What this process trains, with files in a folder of its own."""
    rank = dist.get_rank()
    task = SharedSentiment(args, torch.device("cpu"))
    out = args.out if rank == 0 else f"{args.out}/process-{rank}"
    as_both = cli.copied(args, backend="both", out=out)
    return training.prepared({args.cell: task}, as_both, task.device, "form", "processes")


def check(args) -> None:
    """Bad input is one sentence, before anything is started."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        prepared(args)
    finally:
        dist.destroy_process_group()


def train(args) -> int:
    """What each process does; the first one reports."""
    trainings = prepared(args)
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    if dist.get_rank():
        return 0
    task, equal = trainings[0].task, report.compare(trainings[0])["equal"]
    return report.finish(
        "two_processes", trainings[0].args, trainings,
        data=f"{'movie reviews' if args.data else 'generated reviews'}, {len(task.rows['train']):,} sentences",
        figure=f"{dist.get_world_size()} processes and one: "
        + ("equal within the tolerance rule" if equal else "NOT equal"),
    )  # fmt: skip


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    if "RANK" not in os.environ:
        check(args)
        return launch(args.processes, sys.argv[1:] if given is None else given)
    dist.init_process_group("gloo")
    quiet = contextlib.nullcontext(sys.stdout) if dist.get_rank() == 0 else open(os.devnull, "w")
    try:
        with quiet as stdout, contextlib.redirect_stdout(stdout):
            return train(args)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
