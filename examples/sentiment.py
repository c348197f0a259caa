"""Is a review favourable? A two-layer bidirectional LSTM over the words, its last states, one probability.

    python examples/sentiment.py                                   # on generated sentences
    python examples/sentiment.py --data FOLDER                     # rt-polarity.pos and .neg, .gz accepted
    python examples/sentiment.py --data FOLDER --resume --say "a warm , funny film" "not my cup of tea"

The data are one sentence a line, a file for each class (Pang and Lee's movie reviews); a tenth of each class is for
validation, and the weights that do best there are kept. ``--form`` chooses how sentences of different lengths reach
the layer: packed, by seqcuda's ``lengths=``, or padded with each direction on its own; the numbers are the same.
"""

from __future__ import annotations

import random
import sys

import torch
from common import batches, cli, generated, ragged, report, text, training
from common.backends import layer_class
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

VALIDATION = 0.1  # share of the sentences of each class
ENCODINGS = ("utf-8-sig", "cp1252")  # the public files are in the second
SENTENCES = 1000  # of each class, where they are generated


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="sentiment.py", description="Train a classifier of reviews and ask it.")
    cli.add_common_arguments(parser, out="out/sentiment")
    add_arguments(parser, dropout=0.6, epochs=10)
    parser.add_argument("--say", nargs="+", default=[], metavar="SENTENCE", help="ask about these; -: lines of stdin")
    args = parser.parse_args(given)
    ragged.check_argument(args)
    return args


def add_arguments(parser, dropout: float, **training_defaults) -> None:
    """Those of the data, the model and the training."""
    parser.add_argument("--data", metavar="FOLDER", help="rt-polarity.pos and rt-polarity.neg; without it: generated")
    size = parser.add_argument_group("model")
    size.add_argument("--embedding", type=cli.positive_int, default=128, help="width of a word's vector")
    size.add_argument("--hidden", type=cli.positive_int, default=128, help="hidden units of a layer and direction")
    size.add_argument("--layers", type=cli.positive_int, default=2, help="recurrent layers")
    size.add_argument(
        "--dropout", type=cli.probability, default=dropout, help="of words' vectors, between layers, before the output"
    )
    size.add_argument("--at-least", type=cli.positive_int, default=2, help="how often a word must occur to be known")
    ragged.add_argument(size)
    cli.add_training_arguments(parser, batch=50, lr=2e-3, clip=1.0, weight_decay=1e-5, patience=1, **training_defaults)


class Classifier(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], words: int, args):
        super().__init__()
        self.form = args.form
        self.embedding = torch.nn.Embedding(words, args.embedding)
        self.dropout = torch.nn.Dropout(args.dropout)
        dropout = args.dropout if args.layers > 1 else 0.0
        self.recurrent = layer(args.embedding, args.hidden, args.layers, dropout=dropout, bidirectional=True)
        self.output = torch.nn.Linear(2 * args.hidden, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (T, B) int64, lengths (B,) -> logits (B,)."""
        _, h_n = ragged.run(self.recurrent, self.dropout(self.embedding(x)), lengths, self.form)
        last = torch.cat([h_n[-2], h_n[-1]], dim=1)  # of the last layer: forward, backward
        return self.output(self.dropout(last))[:, 0]


class Sentiment(training.Task):
    best = ("accuracy", max)

    def __init__(self, args, device: torch.device):
        self.args, self.device = args, device
        favourable, unfavourable = self.sentences()
        if min(len(favourable), len(unfavourable)) < (least := round(1 / VALIDATION)):
            cli.fail(f"{args.data} holds too few sentences: at least {least} of each class are needed")
        self.digest = text.digest([favourable, unfavourable])
        parts = {"train": [], "validation": []}
        for target, lines in enumerate((unfavourable, favourable)):
            rows = [(text.words(line), float(target)) for line in lines]
            random.Random(args.seed).shuffle(rows)
            cut = int(len(rows) * VALIDATION)
            parts["validation"] += rows[:cut]
            parts["train"] += rows[cut:]
        known = (word for words, _ in parts["train"] for word in words)
        self.vocabulary = text.Vocabulary(known, special=(text.PAD, text.UNKNOWN), at_least=args.at_least)
        self.rows = {
            part: [(self.vocabulary.encode(words), target) for words, target in rows] for part, rows in parts.items()
        }
        self.batches = batches.ByLength([len(words) for words, _ in self.rows["train"]], args.batch, args.seed)
        self.steps_per_epoch = self.batches.per_epoch
        targets = torch.tensor([target for _, target in self.rows["train"]])
        self.class_weight = ((1 - targets).sum() / targets.sum()).to(
            device
        )  # of the favourable ones, to balance the classes

    def sentences(self) -> tuple[list[str], list[str]]:
        """Favourable ones and others."""
        if not self.args.data:
            return generated.reviews(SENTENCES, self.args.seed)
        files = [text.find(self.args.data, f"*.{kind}") for kind in ("pos", "neg")]
        return tuple([line for line in text.read(f, ENCODINGS).split("\n") if text.words(line)] for f in files)

    def model(self, backend):
        return Classifier(layer_class(backend, self.args.cell), len(self.vocabulary), self.args)

    def batch(self, part: str, rows) -> tuple[Tensor, Tensor, Tensor]:
        """Words (T, B), lengths (B,), targets (B,)."""
        x, lengths = batches.padded([self.rows[part][row][0] for row in rows])
        return x.to(self.device), lengths, torch.tensor([self.rows[part][row][1] for row in rows], device=self.device)

    def loss(self, model, step, state=None):
        x, lengths, targets = self.batch("train", self.batches.rows(step))
        logits = model(x, lengths)
        return binary_cross_entropy_with_logits(logits, targets.to(logits), pos_weight=self.class_weight), None

    def validate(self, model):
        parts = [self.batch("validation", rows) for rows in batches.in_order(len(self.rows["validation"]), 200)]
        logits = torch.cat([model(x, lengths) for x, lengths, _ in parts])
        targets = torch.cat([targets for _, _, targets in parts])
        return {
            "loss": binary_cross_entropy_with_logits(logits, targets).item(),
            "accuracy": ((logits > 0) == (targets > 0)).double().mean().item(),
        }

    @torch.no_grad()
    def probability(self, model, sentence: str) -> float:
        x = self.vocabulary.encode(text.words(sentence))[:, None].to(self.device)
        return model(x, torch.tensor([len(x)])).sigmoid().item()


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    cli.check_sentences("--say", args.say, text.words)
    task = Sentiment(args, cli.device(args.device))
    trainings = training.prepared({args.cell: task}, args, task.device, "say", "form")
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    run = trainings[0].run
    said = sys.stdin.read().splitlines() if args.say == ["-"] else args.say
    answers = {sentence: task.probability(run.model, sentence) for sentence in said if text.words(sentence)}
    for sentence, probability in answers.items():
        print(f"{probability:6.1%} favourable: {sentence}")
    rows = {part: len(rows) for part, rows in task.rows.items()}
    return report.finish(
        "sentiment", args, trainings,
        data=f"{'movie reviews' if args.data else 'generated reviews'}, "
        f"{rows['train']:,} sentences and {rows['validation']:,} for validation",
        figure=f"validation accuracy {run.at_best['accuracy']:.1%}", answers=answers,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
