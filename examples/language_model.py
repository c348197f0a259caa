"""A language model of characters or of words, trained with torch.nn, with seqcuda, or with both and compared.

    python examples/language_model.py                             # seqcuda, on the text that comes with the examples
    python examples/language_model.py --backend both              # what `make demo` runs
    python examples/language_model.py --data book.txt.gz --unit word --cell gru --hidden 256 --epochs 10
    python examples/language_model.py --data examples/data/poems.json --resume --prompt 明月 --acrostic 春夏秋冬

Embedding, recurrent layers, linear layer; truncated backpropagation through time with carried state. The last tenth
is for validation. --data is a text, or poems: a JSON list of objects whose "paragraphs" are a poem's lines, or a folder
of such files. --resume goes on after Ctrl-C, or samples again.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from common import batches, cli, report, text, training
from common.backends import layer_class
from torch import Tensor
from torch.nn.functional import cross_entropy

TEXT = Path(__file__).parent / "data" / "hallow_quay.txt"
SHORTEST = 1000  # characters; below it there is nothing to learn
VALIDATION = 0.1  # share of the text
VALIDATE_ON = 20_000  # tokens of it, at most
LINE_END, POEM_END = "\n", "\n\n"
LONGEST_LINE = 40  # characters of a line in an acrostic


def arguments(given: list[str] | None):
    parser = cli.Parser(description="Train a language model and sample from it.")
    cli.add_common_arguments(parser, out="out/language_model")
    parser.add_argument(
        "--data", "--text", default=str(TEXT), metavar="PATH", help="UTF-8 text or poems as JSON, .gz accepted"
    )
    parser.add_argument("--unit", choices=("char", "word"), default="char", help="what the text is a sequence of")
    add_model_arguments(parser)
    train = cli.add_training_arguments(parser, steps=600, every=50, batch=32, lr=3e-3, clip=5.0, twins=2)
    train.add_argument("--length", type=cli.positive_int, default=64, help="tokens a gradient goes back")
    sample = parser.add_argument_group("sample")
    sample.add_argument("--prompt", default="", help="what the sample begins with, of poems the first line")
    sample.add_argument("--acrostic", default="", help="of poems: the characters that the lines begin with")
    sample.add_argument("--sample", type=cli.non_negative_int, default=400, help="tokens to write, at most")
    sample.add_argument("--temperature", type=cli.positive_float, default=0.5, help="below 1 plainer, above 1 wilder")
    sample.add_argument("--top-k", type=cli.positive_int, help="draw from the likeliest k tokens only")
    return parser.parse_args(given)


def add_model_arguments(parser, layers: int = 2) -> None:
    size = parser.add_argument_group("model")
    size.add_argument("--embedding", type=cli.positive_int, default=64, help="width of a token's vector")
    size.add_argument("--hidden", type=cli.positive_int, default=128, help="hidden units of a layer")
    size.add_argument("--layers", type=cli.positive_int, default=layers, help="recurrent layers")
    size.add_argument("--dropout", type=cli.probability, default=0.0, help="between the recurrent layers")


class LanguageModel(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], tokens: int, args):
        super().__init__()
        self.embedding = torch.nn.Embedding(tokens, args.embedding)
        dropout = args.dropout if args.layers > 1 else 0.0
        self.recurrent = layer(args.embedding, args.hidden, args.layers, dropout=dropout)
        self.output = torch.nn.Linear(args.hidden, tokens)

    def forward(self, x: Tensor, state=None):
        """x: (T, B) int64 -> scores (T, B, tokens), state."""
        y, state = self.recurrent(self.embedding(x), state)
        return self.output(y), state


class Language(training.Task):
    """To predict the next token of a text."""

    def __init__(self, args, device: torch.device):
        self.args, self.device = args, device
        poems = read_poems(args.data)
        content = "".join(poems) if poems else text.read(args.data)
        if len(content) < SHORTEST:
            cli.fail(f"{args.data} is too short: {len(content)} characters, at least {SHORTEST} are needed")
        self.poems = bool(poems)
        tokens = self.tokens(content)
        self.digest = text.digest(content)
        if args.unit == "word":
            self.vocabulary = text.Vocabulary(tokens, special=(text.UNKNOWN,), at_least=2)
        else:
            self.vocabulary = text.Vocabulary(tokens)
        codes = self.vocabulary.encode(tokens)
        cut = int(len(codes) * (1 - VALIDATION))
        held_out = codes[cut : cut + VALIDATE_ON]
        rows = min(args.batch, len(held_out) // (args.length + 1))
        if cut < args.batch * (args.length + 1) or not rows:
            least = max(args.batch, int(1 / VALIDATION)) * (args.length + 1) / (1 - VALIDATION)
            cli.fail(
                f"{args.data} is too short for --batch {args.batch} --length {args.length}: "
                f"{len(codes)} tokens, at least {int(least) + 1} are needed"
            )
        self.train = batches.Streams(codes[:cut], args.batch, args.length, device)
        self.validation = batches.Streams(held_out, rows, args.length, device)
        self.steps_per_epoch = self.train.windows
        self.description = f"{len(codes):,} {args.unit}s, {len(self.vocabulary):,} different"

    def tokens(self, content: str) -> list[str]:
        if self.args.unit == "char":
            return list(content)
        return [token for line in content.split("\n") for token in (*text.words(line), LINE_END)]

    def written(self, tokens: list[str]) -> str:
        """The inverse of `tokens`, for people."""
        if self.args.unit == "char":
            return "".join(tokens)
        return re.sub(r" ([,.;:!?'\n)]) ?", lambda m: m[1] if m[1] == "\n" else m[1] + " ", " ".join(tokens))

    def model(self, backend):
        return LanguageModel(layer_class(backend, self.args.cell), len(self.vocabulary), self.args)

    def loss(self, model, step, state=None):
        """Mean cross-entropy in nats per token, and the state after the window."""
        return self._loss(model, self.train.window(step), None if self.train.starts_round(step) else state)

    @staticmethod
    def _loss(model, window: tuple[Tensor, Tensor], state):
        x, target = window
        scores, state = model(x, state)
        return cross_entropy(scores.flatten(0, 1), target.flatten()), state

    def validate(self, model):
        state, total = None, 0.0
        for k in range(self.validation.windows):
            loss, state = self._loss(model, self.validation.window(k), state)
            total += loss.item()
        loss = total / self.validation.windows
        return {"loss": loss, "perplexity": math.exp(loss)}


def read_poems(path: str) -> list[str]:
    """Poems, each ending with an empty line, from a file or all files of a folder; none if they are not JSON."""
    folder = Path(path)
    names = sorted(folder.glob("*.json*")) if folder.is_dir() else [folder]
    if not names:
        cli.fail(f"the folder {path} has no .json or .json.gz file")
    poems = []
    for name in names:
        content = text.read(name)
        if not name.name.removesuffix(".gz").endswith(".json"):
            return []
        try:
            poems += [LINE_END.join(poem["paragraphs"]) + POEM_END for poem in json.loads(content)]
        except ValueError as error:
            cli.fail(f"{name} is not valid JSON ({error})")
        except (TypeError, KeyError):
            cli.fail(f'{name} is not a JSON list of objects with "paragraphs", the lines of a poem')
    return poems


class Sampler:
    """Tokens drawn one at a time from a trained model."""

    def __init__(self, model: LanguageModel, vocabulary: text.Vocabulary, args, device: torch.device):
        self.model, self.vocabulary, self.args, self.device = model.eval(), vocabulary, args, device
        self.generator = torch.Generator().manual_seed(args.seed)

    @torch.no_grad()
    def after(self, tokens: list[str], count: int, until: str = "") -> list[str]:
        """`count` more tokens, fewer if they end with `until`."""
        x, state, drawn = self.vocabulary.encode(tokens)[:, None].to(self.device), None, []
        while len(drawn) < count and not (until and "".join(drawn).endswith(until)):
            scores, state = self.model(x, state)
            k = self._draw(scores[-1, 0].double().cpu())
            drawn.append(self.vocabulary.tokens[k])
            x = torch.tensor([[k]], device=self.device)
        return drawn

    def _draw(self, scores: Tensor) -> int:
        if text.UNKNOWN in self.vocabulary:
            scores[self.vocabulary[text.UNKNOWN]] = -math.inf
        if self.args.top_k:
            least = scores.topk(min(self.args.top_k, len(scores))).values[-1]
            scores[scores < least] = -math.inf
        chances = torch.softmax(scores / self.args.temperature, dim=0)
        return int(torch.multinomial(chances, 1, generator=self.generator))


def sample(task: Language, model: LanguageModel, args) -> str:
    """What the prompt and the acrostic ask for."""
    sampler = Sampler(model, task.vocabulary, args, task.device)
    if not task.poems:
        tokens = task.tokens(args.prompt)[: len(task.tokens(args.prompt)) - (args.unit == "word")]
        return task.written(tokens + sampler.after(tokens or [LINE_END], args.sample))
    if not args.acrostic:
        tokens = list(POEM_END + args.prompt)
        return "".join(tokens + sampler.after(tokens, args.sample, until=POEM_END)).strip()
    tokens = list(POEM_END)
    for head in args.acrostic:
        tokens.append(head)
        tokens += sampler.after(tokens, LONGEST_LINE, until=LINE_END)
    return "".join(tokens).strip()


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    task = Language(args, cli.device(args.device))
    if args.acrostic and not task.poems:
        cli.fail("--acrostic is for poems, and --data is a text")
    for name in ("prompt", "acrostic"):
        wanted = task.tokens(getattr(args, name)) if getattr(args, name) else []
        if args.unit == "char" and (unknown := [token for token in wanted if token not in task.vocabulary]):
            cli.fail(f"--{name} must be characters of the text, {unknown[0]!r} is none")
    trainings = training.prepared(
        {args.cell: task}, args, task.device, "prompt", "acrostic", "sample", "temperature", "top_k"
    )
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    run = trainings[0].run
    written = sample(task, run.model, args) if args.sample else ""
    if written:
        report.console.rule("sample")
        report.console.print(written, markup=False)
        report.console.rule()
    return report.finish(
        "language_model", args, trainings, data=f"{Path(args.data).name}: {task.description}",
        figure=f"perplexity {run.at_best['perplexity']:.2f} per {args.unit}", sample=written,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
