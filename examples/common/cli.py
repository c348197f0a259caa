"""Command lines. Bad input ends in one sentence on stderr and exit status 2; Ctrl-C ends in exit status 130."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

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


def add_common_arguments(parser: argparse.ArgumentParser, *, out: str, backends: tuple[str, ...]) -> None:
    """--cell, --backend, --device, --seed, --out, --resume. `backends`: the choices, the default first."""
    parser.add_argument("--cell", choices=CELLS, default="lstm", help="recurrent cell")
    parser.add_argument("--backend", choices=backends, default=backends[0], help="whose layers compute")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one), cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=non_negative_int, default=1, help="of the weights and of all that is drawn")
    parser.add_argument("--out", default=out, metavar="DIR", help="folder for checkpoint, metrics and pictures")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")


def device(name: str) -> torch.device:
    """The device of that name, tried out."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        fail(f"device {name!r} cannot be used here: {reason}")


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


def probability(text: str) -> float:
    """For `type=`: a number from 0 up to, not including, 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 up to 1, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
