"""A label for every frame, from networks that answer k frames late, against bidirectional ones.

    python examples/delayed_outputs.py                             # on generated utterances
    python examples/delayed_outputs.py --data FOLDER               # *_TRAIN.ts and *_TEST.ts, .gz accepted
    python examples/delayed_outputs.py --cell gru --delays 0 2 4

A network that reads forwards knows nothing of what comes. If it may answer k frames late, it has seen k more frames; a
bidirectional one has seen all, and cannot run while the frames come in (Graves and Schmidhuber, 2005). Trains every
cell with every delay and in both directions; prints and draws the accuracies. The best one-directional network is then
run frame by frame with `step`, as it would be on a stream. A .ts file (UEA archive) has one class for a sequence, which
is taken as the label of each of its frames.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from common import batches, cli, generated, ragged, report, text, training
from common.backends import layer_class
from common.plots import COLOURS_OF_CELLS, picture
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100  # label of padding, and of what is said before the first answer is due
UTTERANCES = 400  # where they are generated
BIDIRECTIONAL = "bidirectional"

Utterance = tuple[Tensor, Tensor]  # frames (T, channels), labels (T,)


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="delayed_outputs.py", description="Networks that answer late against bidirectional ones.")
    cli.add_common_arguments(parser, out="out/delayed_outputs", cells=("all", *cli.CELLS))
    parser.add_argument("--data", metavar="FOLDER", help="*_TRAIN.ts and *_TEST.ts; without it: generated")
    parser.add_argument("--delays", nargs="+", type=cli.non_negative_int, default=list(range(6)), help="in frames")
    size = parser.add_argument_group("model")
    size.add_argument("--hidden", type=cli.positive_int, default=48, help="hidden units of a direction")
    size.add_argument("--dropout", type=cli.probability, default=0.3, help="of the layer's output")
    ragged.add_argument(size)
    cli.add_training_arguments(parser, epochs=15, batch=16, lr=5e-3, clip=1.0)
    args = parser.parse_args(given)
    ragged.check_argument(args)
    return args


def read(path: Path) -> tuple[list[Tensor], list[str]]:
    """Sequences (T, channels) and their classes of a UEA .ts file."""
    head, found, data = text.read(path).partition("@data\n")
    if not found:
        cli.fail(f"{path} is not a .ts file: it has no line @data")
    sequences, classes = [], []
    for number, line in enumerate(data.strip("\n").split("\n"), head.count("\n") + 2):
        *channels, name = line.split(":")
        try:
            values = [[float(value) for value in channel.split(",")] for channel in channels]
        except ValueError as error:
            cli.fail(f"line {number} of {path} holds what is no number: {error}")
        if (
            not values
            or len({len(channel) for channel in values}) > 1
            or sequences
            and len(values) != sequences[0].shape[1]
        ):
            cli.fail(
                f"line {number} of {path} has channels of unequal length, or another number of them than the first"
            )
        sequences.append(torch.tensor(values).t())
        classes.append(name)
    return sequences, classes


class Data:
    """Utterances to train on and to validate on, with normalised channels."""

    def __init__(self, args):
        self.args = args
        if args.data:
            files = [read(text.find(args.data, f"*_{part}.ts")) for part in ("TRAIN", "TEST")]
            self.names = sorted(set(files[0][1]) | set(files[1][1]))
            parts = [
                [(x, torch.full((len(x),), self.names.index(c))) for x, c in zip(*file, strict=True)] for file in files
            ]
        else:
            found = generated.utterances(UTTERANCES, args.seed)
            self.names = sorted({str(label) for _, labels in found for label in labels.tolist()})
            parts = [found[: UTTERANCES // 2], found[UTTERANCES // 2 :]]
        channels = {x.shape[1] for part in parts for x, _ in part}
        if len(channels) > 1:
            cli.fail(f"the two files of {args.data} differ in the number of channels: {sorted(channels)}")
        self.channels = channels.pop()
        frames = torch.cat([x for x, _ in parts[0]])
        mean, deviation = frames.mean(0), frames.std(0).clamp(min=1e-6)
        self.train, self.validation = ([((x - mean) / deviation, labels) for x, labels in part] for part in parts)
        self.digest = text.digest([x.tolist() for x, _ in self.train + self.validation])

    def describe(self) -> str:
        frames = sum(len(x) for x, _ in self.train + self.validation)
        return (
            f"{len(self.train)} utterances and {len(self.validation)} for validation, {frames:,} frames, "
            f"{self.channels} channels, {len(self.names)} classes"
        )


class FrameLabeller(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], channels: int, classes: int, bidirectional: bool, args):
        super().__init__()
        self.form = args.form
        self.recurrent = layer(channels, args.hidden, bidirectional=bidirectional)
        self.dropout = torch.nn.Dropout(args.dropout)
        self.output = torch.nn.Linear((1 + bidirectional) * args.hidden, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (T, B, channels), lengths (B,) -> scores (T, B, classes)."""
        y, _ = ragged.run(self.recurrent, x.to(self.output.weight.dtype), lengths, self.form)
        return self.output(self.dropout(y))

    def step(self, x: Tensor, state=None):
        """One frame: x (B, channels) -> scores (B, classes), state."""
        if hasattr(self.recurrent, "step"):
            y, state = self.recurrent.step(x, state)
        else:  # torch.nn
            y, state = self.recurrent(x[None], state)
            y = y[0]
        return self.output(y), state


class DelayedOutputs(training.Task):
    best = ("accuracy", max)

    def __init__(self, cell: str, delay: int | str, data: Data, args, device: torch.device):
        self.cell, self.data, self.args, self.device = cell, data, args, device
        self.bidirectional = delay == BIDIRECTIONAL
        self.delay = 0 if self.bidirectional else delay
        self.digest = data.digest
        self.batches = batches.ByLength([len(x) for x, _ in data.train], args.batch, args.seed)
        self.steps_per_epoch = self.batches.per_epoch

    def model(self, backend):
        layer = layer_class(backend, self.cell)
        return FrameLabeller(layer, self.data.channels, len(self.data.names), self.bidirectional, self.args)

    def batch(self, utterances: list[Utterance]) -> tuple[Tensor, Tensor, Tensor]:
        """x (T + delay, B, channels), lengths (B,), labels (T + delay, B): the label of frame t stands at t + delay."""
        x, lengths = batches.padded([torch.cat([x, x.new_zeros(self.delay, x.shape[1])]) for x, _ in utterances])
        late = [torch.cat([labels.new_full((self.delay,), IGNORED), labels]) for _, labels in utterances]
        return x.to(self.device), lengths, batches.padded(late, IGNORED)[0].to(self.device)

    def loss(self, model, step, state=None):
        x, lengths, labels = self.batch([self.data.train[row] for row in self.batches.rows(step)])
        return cross_entropy(model(x, lengths).flatten(0, 1), labels.flatten(), ignore_index=IGNORED), None

    def validate(self, model):
        x, lengths, labels = self.batch(self.data.validation)
        scores, due = model(x, lengths), labels != IGNORED
        return {
            "loss": cross_entropy(scores[due], labels[due]).item(),
            "accuracy": (scores.argmax(2) == labels)[due].double().mean().item(),
        }

    @torch.no_grad()
    def streamed(self, model: FrameLabeller) -> dict:
        """The longest utterance frame by frame: how far its scores are from those of one call, and a frame's time."""
        x, lengths, _ = self.batch([max(self.data.validation, key=lambda u: len(u[0]))])
        at_once, state, scores, seconds = model(x, lengths), None, [], []
        for frame in x:
            start = time.perf_counter()
            score, state = model.step(frame, state)
            seconds.append(time.perf_counter() - start)
            scores.append(score)
        apart = (torch.stack(scores) - at_once).abs().max().item()
        return {"frames": len(x), "largest difference": apart, "median seconds": sorted(seconds)[len(x) // 2]}


def draw(accuracies: dict[str, dict], path: Path) -> None:
    with picture(path) as (axes,):
        for cell, found in accuracies.items():
            late = {delay: accuracy for delay, accuracy in found.items() if delay != BIDIRECTIONAL}
            axes.plot(late.keys(), late.values(), "o-", color=COLOURS_OF_CELLS[cell], label=cell.upper())
            axes.axhline(found[BIDIRECTIONAL], color=COLOURS_OF_CELLS[cell], ls="--", lw=1)
        axes.set_xticks(list(late))
        axes.set(xlabel="delay in frames", ylabel="accuracy of frames", title="dashed: bidirectional")
        axes.legend(frameon=False)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    device = cli.device(args.device)
    data = Data(args)
    cells = cli.CELLS if args.cell == "all" else (args.cell,)
    kinds = [*sorted(set(args.delays)), BIDIRECTIONAL]
    tasks = {
        f"{cell} {kind if kind == BIDIRECTIONAL else f'delay {kind}'}": DelayedOutputs(cell, kind, data, args, device)
        for cell in cells for kind in kinds
    }  # fmt: skip
    trainings = training.prepared(tasks, args, device, "form")
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    reached = iter(t.run.at_best["accuracy"] for t in trainings)
    accuracies = {cell: {kind: next(reached) for kind in kinds} for cell in cells}
    table = Table("accuracy", *(k if k == BIDIRECTIONAL else f"delay {k}" for k in kinds))
    for cell, found in accuracies.items():
        table.add_row(cell.upper(), *(f"{accuracy:.1%}" for accuracy in found.values()))
    draw(accuracies, trainings[0].out / "delays.png")
    best = max((t for t in trainings if not t.task.bidirectional), key=lambda t: t.run.at_best["accuracy"])
    streamed = best.task.streamed(best.run.model)
    status = report.finish(
        "delayed_outputs", args, trainings,
        data=f"{Path(args.data).name if args.data else 'generated'}: {data.describe()}",
        figure="accuracy of frames, " + "; ".join(
            f"{cell.upper()} {found[kinds[0]]:.1%} at delay {kinds[0]}, {found[kinds[-2]]:.1%} at {kinds[-2]}, "
            f"{found[BIDIRECTIONAL]:.1%} bidirectional" for cell, found in accuracies.items()
        ),
        accuracies=accuracies, streamed={"network": best.name, **streamed},
    )  # fmt: skip
    report.console.print(table)
    report.console.print(
        f"{best.name}, frame by frame: {streamed['frames']} frames, scores within "
        f"{streamed['largest difference']:.1e} of those of one call"
    )
    return status


if __name__ == "__main__":
    cli.run(main)
