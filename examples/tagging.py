"""One label for each word: parts of speech by a bidirectional LSTM.

    python examples/tagging.py                                     # on generated sentences
    python examples/tagging.py --data FOLDER                       # *-train.conllu, *-dev.conllu, .gz accepted
    python examples/tagging.py --data FOLDER --resume --say "They fish near the harbour ."

The data are CoNLL-U (Universal Dependencies): a word in column 2, its universal tag in column 4. Trained on the
training part and validated on the development part; where there is no training part, on the development part and the
test part; a single file is cut. A word is its vector beside that of its last three letters, so that something is known
of unknown words. Draws the confusion matrix.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import batches, cli, generated, ragged, report, text, training
from common.backends import layer_class
from common.plots import picture
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_confusion_matrix

COLUMNS = 10  # of CoNLL-U
IGNORED = -100  # label of padding
SENTENCES = 1000  # where they are generated
VALIDATION = 0.1  # share of the sentences, where they are in one file
SUFFIX = 3  # letters

Sentence = tuple[list[str], list[str]]  # words, tags


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="tagging.py", description="Train a tagger of parts of speech and ask it.")
    cli.add_common_arguments(parser, out="out/tagging")
    parser.add_argument("--data", metavar="PATH", help="folder or file of CoNLL-U; without it: generated sentences")
    size = parser.add_argument_group("model")
    size.add_argument("--embedding", type=cli.positive_int, default=100, help="width of a word's vector")
    size.add_argument("--suffix", type=cli.positive_int, default=32, help="width of the vector of its last letters")
    size.add_argument("--hidden", type=cli.positive_int, default=128, help="hidden units of a direction")
    size.add_argument(
        "--dropout", type=cli.probability, default=0.5, help="of words' vectors and of the layer's output"
    )
    size.add_argument("--at-least", type=cli.positive_int, default=2, help="how often a word must occur to be known")
    ragged.add_argument(size)
    cli.add_training_arguments(parser, epochs=20, batch=32, lr=3e-3, clip=1.0)
    parser.add_argument("--say", nargs="+", default=[], metavar="SENTENCE", help="tag these, words apart by spaces")
    args = parser.parse_args(given)
    ragged.check_argument(args)
    return args


def read(path: Path) -> list[Sentence]:
    """The sentences of a CoNLL-U file."""
    sentences, words, tags = [], [], []
    for number, line in enumerate([*text.read(path).split("\n"), ""], 1):
        if line.startswith("#"):
            continue
        if line:
            columns = line.split("\t")
            if len(columns) != COLUMNS:
                cli.fail(f"{path} is not CoNLL-U: line {number} has {len(columns)} columns, {COLUMNS} are needed")
            if columns[0].isdigit():  # not a joined word like 1-2, nor one that is left out like 8.1
                words.append(columns[1])
                tags.append(columns[3])
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


def parts(path: str) -> tuple[list[Sentence], list[Sentence]]:
    """Sentences to train on, and to validate on."""
    if Path(path).is_dir():
        train, dev = (text.find(path, f"*-{part}.conllu", needed=False) for part in ("train", "dev"))
        test = text.find(path, "*-test.conllu", needed=train is None)
        first, second = (train, dev or test) if train else (dev or text.find(path, "*-dev.conllu"), test)
        if second is None:
            cli.fail(f"the folder {path} has neither a -dev.conllu nor a -test.conllu")
        return read(first), read(second)
    return cut(read(Path(path)), path)


def cut(sentences: list[Sentence], name: str | None) -> tuple[list[Sentence], list[Sentence]]:
    if len(sentences) < (least := round(1 / VALIDATION)):
        cli.fail(f"{name} holds {len(sentences)} sentences, at least {least} are needed")
    place = int(len(sentences) * (1 - VALIDATION))
    return sentences[:place], sentences[place:]


class Tagger(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], words: int, suffixes: int, tags: int, args):
        super().__init__()
        self.form = args.form
        self.word = torch.nn.Embedding(words, args.embedding)
        self.suffix = torch.nn.Embedding(suffixes, args.suffix)
        self.dropout = torch.nn.Dropout(args.dropout)
        self.recurrent = layer(args.embedding + args.suffix, args.hidden, bidirectional=True)
        self.output = torch.nn.Linear(2 * args.hidden, tags)

    def forward(self, words: Tensor, suffixes: Tensor, lengths: Tensor) -> Tensor:
        """words, suffixes: (T, B) int64, lengths (B,) -> scores (T, B, tags)."""
        x = torch.cat([self.word(words), self.suffix(suffixes)], dim=2)
        y, _ = ragged.run(self.recurrent, self.dropout(x), lengths, self.form)
        return self.output(self.dropout(y))


class Tagging(training.Task):
    best = ("accuracy", max)

    def __init__(self, args, device: torch.device):
        self.args, self.device = args, device
        if args.data:
            train, validation = parts(args.data)
        else:
            train, validation = cut(generated.tagged(SENTENCES, args.seed), None)
        if not train or not validation:
            cli.fail(f"{args.data} holds no sentences to train on or none to validate on")
        self.digest = text.digest([train, validation])
        special = (text.PAD, text.UNKNOWN)
        known = [word.lower() for words, _ in train for word in words]
        self.words = text.Vocabulary(known, special=special, at_least=args.at_least)
        self.suffixes = text.Vocabulary((word[-SUFFIX:] for words, _ in train for word in words), special=special)
        self.tags = text.Vocabulary(tag for _, tags in train + validation for tag in tags)
        self.rows = {"train": self.encoded(train), "validation": self.encoded(validation)}
        self.batches = batches.ByLength([len(words) for words, _ in train], args.batch, args.seed)
        self.steps_per_epoch = self.batches.per_epoch
        self.description = (
            f"{len(train):,} sentences and {len(validation):,} for validation, "
            f"{sum(len(words) for words, _ in train + validation):,} words, {len(self.tags)} tags"
        )

    def encoded(self, sentences: list[Sentence]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Words, suffixes and tags, (T,) each, of every sentence."""
        return [
            (
                self.words.encode(word.lower() for word in words),
                self.suffixes.encode(word[-SUFFIX:] for word in words),
                self.tags.encode(tags),
            )
            for words, tags in sentences
        ]

    def model(self, backend):
        layer = layer_class(backend, self.args.cell)
        return Tagger(layer, len(self.words), len(self.suffixes), len(self.tags), self.args)

    def batch(self, rows: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """words, suffixes, tags (T, B), lengths (B,)."""
        words, suffixes, tags = zip(*rows, strict=True)
        x, lengths = batches.padded(words)
        more = batches.padded(suffixes)[0], batches.padded(tags, IGNORED)[0]
        return (x.to(self.device), *(t.to(self.device) for t in more), lengths)

    def loss(self, model, step, state=None):
        words, suffixes, tags, lengths = self.batch([self.rows["train"][row] for row in self.batches.rows(step)])
        scores = model(words, suffixes, lengths)
        return cross_entropy(scores.flatten(0, 1), tags.flatten(), ignore_index=IGNORED), None

    def judged(self, model) -> tuple[Tensor, Tensor]:
        """Scores (N, tags) and tags (N,) of all words for validation."""
        scores, targets = [], []
        for places in batches.in_order(len(self.rows["validation"]), 200):
            words, suffixes, tags, lengths = self.batch([self.rows["validation"][row] for row in places])
            scores.append(model(words, suffixes, lengths)[tags != IGNORED])
            targets.append(tags[tags != IGNORED])
        return torch.cat(scores), torch.cat(targets)

    def validate(self, model):
        scores, targets = self.judged(model)
        accuracy = (scores.argmax(1) == targets).double().mean().item()
        return {"loss": cross_entropy(scores, targets).item(), "accuracy": accuracy}

    @torch.no_grad()
    def confusion(self, model) -> Tensor:
        """(tags, tags): how many words of the row's tag were given the column's."""
        scores, targets = self.judged(model)
        return multiclass_confusion_matrix(scores, targets, num_classes=len(self.tags))

    @torch.no_grad()
    def tagged(self, model, words: list[str]) -> list[str]:
        row, suffixes, _ = self.encoded([(words, [])])[0]
        scores = model(row[:, None].to(self.device), suffixes[:, None].to(self.device), torch.tensor([len(words)]))
        return self.tags.decode(scores[:, 0].argmax(1).tolist())


def draw_confusion(confusion: Tensor, tags: list[str], path: Path) -> None:
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    with picture(path, width=7.5, height=6.5) as (axes,):
        image = axes.imshow(shares.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.figure.colorbar(image, ax=axes, shrink=0.8, label="share of the words of a tag")
        axes.set_xticks(range(len(tags)), tags, rotation=90, fontsize=8)
        axes.set_yticks(range(len(tags)), tags, fontsize=8)
        axes.set(xlabel="given", ylabel="right")
        axes.grid(visible=False)
        for i, j in (shares >= 0.05).nonzero().tolist():
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    cli.check_sentences("--say", args.say)
    task = Tagging(args, cli.device(args.device))
    trainings = training.prepared({args.cell: task}, args, task.device, "say", "form")
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    run = trainings[0].run
    for sentence in args.say:
        words = sentence.split()
        print(" ".join(f"{word}/{tag}" for word, tag in zip(words, task.tagged(run.model, words), strict=True)))
    confusion = task.confusion(run.model)
    draw_confusion(confusion, task.tags.tokens, trainings[0].out / "confusion.png")
    return report.finish(
        "tagging", args, trainings, data=f"{Path(args.data).name if args.data else 'generated'}: {task.description}",
        figure=f"accuracy {run.at_best['accuracy']:.1%}",
        confusion={"tags": task.tags.tokens, "counts": confusion.tolist()},
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
