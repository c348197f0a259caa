"""Command lines. Bad input ends in one sentence on stderr and exit status 2; Ctrl-C ends in exit status 130."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import torch

INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended: the work is saved, and not done
CELLS = ("rnn", "gru", "lstm")


def fail(sentence: str) -> NoReturn:
    """Say what is wrong with the input and end the program with status 2."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence, and whose help shows the defaults."""

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; --help shows what there is")


def add_common_arguments(
    parser: argparse.ArgumentParser, *, out: str, cells: tuple[str, ...] = ("lstm", "gru", "rnn"),
    backends: tuple[str, ...] = ("seqcuda", "torch", "both"), trains: bool = True,
) -> None:  # fmt: skip
    """--cell, --backend, --device, --seed, --out, and where the program `trains` --resume. `cells`, `backends`: the
    choices, the default first."""
    parser.add_argument("--cell", choices=cells, default=cells[0], help="recurrent cell")
    parser.add_argument("--backend", choices=backends, default=backends[0], help="whose layers compute")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one), cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=non_negative_int, default=1, help="of the weights and of all that is drawn")
    parser.add_argument("--out", default=out, metavar="DIR", help="folder for checkpoints, metrics and pictures")
    if trains:
        parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")


class Until(NamedTuple):
    """How long to train."""

    count: int
    unit: str  # "epochs" or "steps"

    @classmethod
    def of(cls, text: str, unit: str) -> Until:
        return cls(positive_int(text), unit)

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


def add_training_arguments(
    parser: argparse.ArgumentParser, *, lr: float, batch: int, epochs: int | None = None, steps: int | None = None,
    every: int | None = None, clip: float = 0.0, weight_decay: float = 0.0, patience: int | None = None, twins: int = 1,
):  # fmt: skip
    """--steps, --epochs, --batch, --lr, ... with these defaults, `steps` or `epochs`; the group, to add others to."""
    until = Until(epochs, "epochs") if epochs else Until(steps, "steps")
    group = parser.add_argument_group("training")
    for unit, what in (("epochs", "passes over the data"), ("steps", "training steps")):
        group.add_argument(f"--{unit}", dest="until", type=functools.partial(Until.of, unit=unit), default=until,
                           metavar="N", help=f"until when to train, in {what}")  # fmt: skip
    group.add_argument("--every", type=positive_int, default=every, help="steps between validations, if not an epoch")
    group.add_argument("--batch", type=positive_int, default=batch, help="rows of a training step")
    group.add_argument("--lr", type=positive_float, default=lr, help="learning rate of Adam")
    group.add_argument("--weight-decay", type=non_negative_float, default=weight_decay, help="of Adam")
    group.add_argument("--clip", type=non_negative_float, default=clip, help="largest norm of the gradient, 0: any")
    group.add_argument("--patience", type=non_negative_int, default=patience,
                       help="validations without a better one after which the learning rate is halved")  # fmt: skip
    group.add_argument("--twins", type=non_negative_int, default=twins, help="with both: trainings that set the bar")
    return group


def settings(args: argparse.Namespace, *later: str) -> dict:
    """What a checkpoint must agree with: all arguments but the places, the length of the training, and `later`."""
    free = {"data", "out", "device", "resume", "until", *later}
    return {name: value for name, value in vars(args).items() if name not in free}


def copied(args: argparse.Namespace, **changed) -> argparse.Namespace:
    """The arguments with some of them changed."""
    return argparse.Namespace(**{**vars(args), **changed})


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the program with the exit status of `main`, or with that of Ctrl-C."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def device(name: str) -> torch.device:
    """The device of that name, tried out."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        fail(f"device {name!r} cannot be used here: {reason}")


def check_sentences(option: str, sentences: list[str], words: Callable[[str], list[str]] = str.split) -> None:
    """Each must have a word."""
    if not all(map(words, sentences)):
        fail(f"{option} must be sentences of at least one word, got an empty one")


def positive_int(text: str) -> int:
    """For `type=`: an integer from 1."""
    value = int(text) if text.lstrip("+-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def non_negative_int(text: str) -> int:
    """For `type=`: an integer from 0."""
    return 0 if text == "0" else positive_int(text)


def positive_float(text: str) -> float:
    """For `type=`: a number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """For `type=`: a number from 0."""
    return 0.0 if _number(text) == 0 else positive_float(text)


def probability(text: str) -> float:
    """For `type=`: a number from 0 up to, not including, 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 up to 1, got {text!r}")
    return value


def share(text: str) -> float:
    """For `type=`: a number from 0 to 1."""
    return 1.0 if _number(text) == 1 else probability(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
