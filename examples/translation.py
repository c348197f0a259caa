"""Translation: a bidirectional encoder, a decoder, additive attention between them, greedy and beam search.

    python examples/translation.py                                # English to German, generated sentences
    python examples/translation.py --data FOLDER                  # train.en train.de val.en ... test*.de, .gz accepted
    python examples/translation.py --data FOLDER --resume --translate "A dog runs on the beach."
    python examples/translation.py --attention none

Sentences are cut into subwords of one vocabulary for both languages (sentencepiece, byte pair encoding). The encoder
reads packed sentences; its last states in both directions become the decoder's first ones. The decoder is taught with
the right words before it (in one call of the layer), or in a share of the steps with its own (`--teacher`). The weights
with the best BLEU on the validation part are kept; at the end the test part is translated with beam search.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import sacrebleu
import sentencepiece
import torch
from common import batches, cli, generated, report, text, training
from common.backends import layer_class
from common.plots import picture
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PAD, UNKNOWN, BEGIN, END = range(4)  # of the subwords
PAIRS, HELD_OUT = 3000, 200  # where they are generated: all, and those for validation and for the test
LONGEST = 100  # subwords; longer sentences are not trained on, and no translation is longer


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="translation.py", description="Train a translator and let it translate.")
    cli.add_common_arguments(parser, out="out/translation")
    parser.add_argument("--data", metavar="FOLDER", help="pairs of files of parallel lines; without it: generated")
    parser.add_argument("--source", default="en", help="ending of the files to translate from")
    parser.add_argument("--target", default="de", help="ending of the files to translate to")
    size = parser.add_argument_group("model")
    size.add_argument("--pieces", type=cli.positive_int, default=4000, help="subwords, at most")
    size.add_argument("--embedding", type=cli.positive_int, default=256, help="width of a subword's vector")
    size.add_argument("--hidden", type=cli.positive_int, default=256, help="hidden units of a layer and direction")
    size.add_argument("--layers", type=cli.positive_int, default=1, help="recurrent layers of encoder and decoder")
    size.add_argument(
        "--dropout", type=cli.probability, default=0.3, help="of vectors, between layers, before the output"
    )
    size.add_argument("--attention", choices=("additive", "none"), default="additive", help="of decoder to encoder")
    train = cli.add_training_arguments(parser, epochs=10, batch=64, lr=1.5e-3, clip=1.0, patience=1, twins=0)
    train.add_argument("--teacher", type=cli.share, default=1.0, help="share of the steps with the right words before")
    train.add_argument("--smoothing", type=cli.share, default=0.1, help="of the labels")
    use = parser.add_argument_group("translating")
    use.add_argument("--beam", type=cli.positive_int, default=5, help="width of the search, 1: greedy")
    use.add_argument("--translate", nargs="+", default=[], metavar="SENTENCE", help="translate these; draws the last")
    return parser.parse_args(given)


class Source(NamedTuple):
    """An encoded batch: outputs (S, B, 2H), their keys for the attention (S, B, H), alive (S, B) bool."""

    outputs: Tensor
    keys: Tensor
    alive: Tensor

    def rows(self, rows: Tensor) -> Source:
        return Source(*(part.index_select(1, rows) for part in self))


class AdditiveAttention(torch.nn.Module):
    """Bahdanau's: the weight of place s at step t is softmax over s of v . tanh(W h_t + U e_s)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.query = torch.nn.Linear(hidden, hidden)
        self.key = torch.nn.Linear(2 * hidden, hidden, bias=False)
        self.value = torch.nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """h (T, B, H) -> contexts (T, B, 2H), weights (T, B, S)."""
        scores = self.value(torch.tanh(self.query(h)[:, None] + source.keys)).squeeze(3)  # (T, S, B)
        scores = scores.masked_fill(~source.alive, float("-inf"))
        weights = scores.softmax(1).permute(0, 2, 1)
        return torch.einsum("tbs,sbe->tbe", weights, source.outputs), weights


class Translator(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], pieces: int, args):
        super().__init__()
        dropout = args.dropout if args.layers > 1 else 0.0
        self.embedding = torch.nn.Embedding(pieces, args.embedding, padding_idx=PAD)
        torch.nn.init.normal_(self.embedding.weight, std=args.embedding**-0.5)
        self.encoder = layer(args.embedding, args.hidden, args.layers, dropout=dropout, bidirectional=True)
        self.bridges = torch.nn.ModuleList(
            torch.nn.Linear(2 * args.hidden, args.hidden) for _ in range(2 if args.cell == "lstm" else 1)
        )
        self.decoder = layer(args.embedding, args.hidden, args.layers, dropout=dropout)
        self.attention = AdditiveAttention(args.hidden) if args.attention == "additive" else None
        self.combine = torch.nn.Linear((3 if self.attention else 1) * args.hidden, args.embedding)
        self.dropout = torch.nn.Dropout(args.dropout)
        self.output = torch.nn.Linear(args.embedding, pieces)
        self.output.weight = self.embedding.weight

    def encode(self, x: Tensor, lengths: Tensor):
        """x (S, B) int64, lengths (B,) -> Source, the decoder's first state."""
        packed = pack_padded_sequence(self.dropout(self.embedding(x)), lengths, enforce_sorted=False)
        y, state = self.encoder(packed)
        outputs = pad_packed_sequence(y, total_length=len(x))[0]
        keys = self.attention.key(outputs) if self.attention else outputs
        state = tuple(
            torch.tanh(bridge(s.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)))  # (L 2, B, H) -> (L, B, H)
            for bridge, s in zip(self.bridges, state if isinstance(state, tuple) else (state,), strict=True)
        )
        alive = torch.arange(len(x))[:, None] < lengths
        return Source(outputs, keys, alive.to(x.device)), state if len(state) > 1 else state[0]

    def decode(self, y: Tensor, state, source: Source):
        """y (T, B) int64, one or many steps -> scores of the next (T, B, pieces), state, weights (T, B, S) or None."""
        h, state = self.decoder(self.dropout(self.embedding(y)), state)
        weights = None
        if self.attention:
            context, weights = self.attention(h, source)
            h = torch.cat([h, context], dim=2)
        return self.output(self.dropout(torch.tanh(self.combine(h)))), state, weights


class Translation(training.Task):
    best = ("BLEU", max)

    def __init__(self, args, device: torch.device):
        self.args, self.device = args, device
        self.lines = self.read()
        self.digest = text.digest(self.lines)
        self.pieces = pieces_of(self.lines["train"], args.pieces)
        rows = zip(*(self.pieces.encode(lines) for lines in self.lines["train"]), strict=True)
        self.rows = [
            tuple(torch.tensor([BEGIN, *row, END]) for row in pair) for pair in rows if max(map(len, pair)) < LONGEST
        ]
        self.batches = batches.ByLength([len(source) for source, _ in self.rows], args.batch, args.seed)
        self.steps_per_epoch = self.batches.per_epoch
        self.description = ", ".join(f"{len(lines):,} {part}" for part, (lines, _) in self.lines.items()) + " pairs"

    def read(self) -> dict[str, tuple[list[str], list[str]]]:
        """Lines to translate and their translations, of the parts "train", "val", "test"."""
        args = self.args
        if not args.data:
            source, target = generated.pairs(PAIRS, args.seed)
            ends = {
                "train": slice(0, -2 * HELD_OUT),
                "val": slice(-2 * HELD_OUT, -HELD_OUT),
                "test": slice(-HELD_OUT, None),
            }
            return {part: (source[end], target[end]) for part, end in ends.items()}
        lines = {}
        for part in ("train", "val", "test"):
            files = [text.find(args.data, f"{part}*.{language}") for language in (args.source, args.target)]
            lines[part] = tuple(text.read(file).strip("\n").split("\n") for file in files)
            counts = [len(side) for side in lines[part]]
            if counts[0] != counts[1]:
                cli.fail(f"{files[0]} has {counts[0]} lines and {files[1]} has {counts[1]}; they must be parallel")
        return lines

    def model(self, backend):
        return Translator(layer_class(backend, self.args.cell), len(self.pieces), self.args)

    def loss(self, model, step, state=None):
        x, lengths, y = self.batch(self.batches.rows(step))
        source, state = model.encode(x, lengths)
        if self.args.teacher == 1 or torch.rand(()).item() < self.args.teacher:
            scores = model.decode(y[:-1], state, source)[0]
        else:
            scores = self.untaught(model, y, state, source)
        return cross_entropy(
            scores.flatten(0, 1), y[1:].flatten(), ignore_index=PAD, label_smoothing=self.args.smoothing
        ), None

    @staticmethod
    def untaught(model: Translator, y: Tensor, state, source: Source) -> Tensor:
        """The scores where the decoder hears its own words."""
        word, all_scores = y[:1], []
        for _ in range(len(y) - 1):
            scores, state, _ = model.decode(word, state, source)
            word = scores.argmax(2)
            all_scores.append(scores)
        return torch.cat(all_scores)

    def checked_loss(self, model, step):
        x, lengths, y = self.batch(self.batches.rows(step))
        source, state = model.encode(x, lengths)
        return cross_entropy(model.decode(y[:-1], state, source)[0].flatten(0, 1), y[1:].flatten(), ignore_index=PAD)

    def batch(self, rows) -> tuple[Tensor, Tensor, Tensor]:
        """Source (S, B), its lengths (B,), target (T, B)."""
        x, lengths = batches.padded([self.rows[row][0] for row in rows], PAD)
        y, _ = batches.padded([self.rows[row][1] for row in rows], PAD)
        return x.to(self.device), lengths, y.to(self.device)

    def validate(self, model):
        losses = []
        for rows in batches.in_order(len(self.lines["val"][0]), 200):
            x, lengths = self.encoded([self.lines["val"][0][row] for row in rows])
            y = self.encoded([self.lines["val"][1][row] for row in rows])[0]
            source, state = model.encode(x, lengths)
            scores = model.decode(y[:-1], state, source)[0]
            losses.append(cross_entropy(scores.flatten(0, 1), y[1:].flatten(), ignore_index=PAD).item())
        return {"loss": sum(losses) / len(losses), "BLEU": self.bleu("val", self.greedy(model, self.lines["val"][0]))}

    def bleu(self, part: str, translated: list[str]) -> float:
        return sacrebleu.corpus_bleu(translated, [self.lines[part][1]]).score

    def encoded(self, lines: list[str]) -> tuple[Tensor, Tensor]:
        """Subwords (S, B), lengths (B,)."""
        rows = [torch.tensor([BEGIN, *self.pieces.encode(line)[: LONGEST - 2], END]) for line in lines]
        x, lengths = batches.padded(rows, PAD)
        return x.to(self.device), lengths

    @torch.no_grad()
    def greedy(self, model: Translator, lines: list[str]) -> list[str]:
        """The likeliest subword at every step, for many sentences at once."""
        translated = []
        for rows in batches.in_order(len(lines), 200):
            x, lengths = self.encoded([lines[row] for row in rows])
            source, state = model.encode(x, lengths)
            word, words = torch.full_like(x[:1], BEGIN), []
            ended = torch.zeros_like(word, dtype=torch.bool)
            while len(words) < LONGEST and not ended.all():
                scores, state, _ = model.decode(word, state, source)
                word = scores.argmax(2).masked_fill(ended, END)
                ended |= word == END
                words.append(word)
            translated += [self.pieces.decode(up_to_end(row)) for row in torch.cat(words).t().tolist()]
        return translated

    @torch.no_grad()
    def beam(self, model: Translator, line: str) -> list[int]:
        """The subwords of the likeliest translation among `--beam` that are followed, per subword."""
        x, lengths = self.encoded([line])
        source, state = model.encode(x, lengths)
        alive = [[BEGIN]]
        total, found = torch.zeros(1, device=self.device), []
        while alive and len(alive[0]) <= LONGEST:
            words = torch.tensor([[row[-1] for row in alive]], device=self.device)
            scores, state, _ = model.decode(words, state, source)
            total, places = (total[:, None] + scores[0].log_softmax(1)).flatten().topk(self.args.beam)
            rows, words = places // len(self.pieces), places % len(self.pieces)
            longer = [[*alive[row], word] for row, word in zip(rows.tolist(), words.tolist(), strict=True)]
            found += [(t / len(row), row) for t, row in zip(total.tolist(), longer, strict=True) if row[-1] == END]
            going = [k for k, row in enumerate(longer) if row[-1] != END]
            if len(found) >= self.args.beam:
                break
            alive, kept = [longer[k] for k in going], torch.tensor(going, dtype=torch.long, device=self.device)
            total, rows = total[kept], rows[kept]
            source = source.rows(rows)
            state = tuple(s[:, rows] for s in state) if isinstance(state, tuple) else state[:, rows]
        return up_to_end(max(found)[1][1:]) if found else alive[0][1:]

    def translate(self, model: Translator, line: str) -> str:
        return self.pieces.decode(self.beam(model, line))

    @torch.no_grad()
    def weights(self, model: Translator, line: str, translated: list[int]) -> Tensor:
        """Of the attention: (T, S)."""
        x, lengths = self.encoded([line])
        source, state = model.encode(x, lengths)
        y = torch.tensor([BEGIN, *translated], device=self.device)[:, None]
        return model.decode(y, state, source)[2][:, 0]


def pieces_of(lines: tuple[list[str], list[str]], count: int) -> sentencepiece.SentencePieceProcessor:
    """Subwords of both languages, learned from the lines."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines[0] + lines[1]), model_writer=model, model_type="bpe", vocab_size=count,
            hard_vocab_limit=False, pad_id=PAD, unk_id=UNKNOWN, bos_id=BEGIN, eos_id=END, minloglevel=2, num_threads=1,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).split("] ")[-1]
        cli.fail(f"--pieces {count} do not fit these sentences: {reason}")
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def up_to_end(pieces: list[int]) -> list[int]:
    return pieces[: pieces.index(END)] if END in pieces else pieces


def draw_attention(weights: Tensor, source: list[str], target: list[str], path) -> None:
    with picture(path, width=2 + 0.3 * len(source), height=1.5 + 0.25 * len(target)) as (axes,):
        image = axes.imshow(weights.cpu().numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.figure.colorbar(image, ax=axes, shrink=0.8)
        axes.set_xticks(range(len(source)), source, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(len(target)), target, fontsize=8)
        axes.set(title="attention")
        axes.grid(visible=False)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    cli.check_sentences("--translate", args.translate)
    task = Translation(args, cli.device(args.device))
    trainings = training.prepared({args.attention: task}, args, task.device, "beam", "translate")
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    model, out = trainings[0].run.model, trainings[0].out
    lines = task.lines["test"][0]
    greedy = task.bleu("test", task.greedy(model, lines))
    beam = task.bleu("test", [task.translate(model, line) for line in lines])
    translated = {line: task.translate(model, line) for line in args.translate or lines[:3]}
    for line, translation in translated.items():
        print(f"{line}\n    {translation}")
    if args.attention == "additive":
        last = list(translated)[-1]
        found = task.beam(model, last)
        shown = [[task.pieces.id_to_piece(i) for i in row] for row in (task.pieces.encode(last), found)]
        weights = task.weights(model, last, found)
        draw_attention(weights, ["<s>", *shown[0], "</s>"], [*shown[1], "</s>"], out / "attention.png")
    return report.finish(
        "translation", args, trainings,
        data=f"{args.source} to {args.target}, {'' if args.data else 'generated, '}{task.description}",
        figure=f"BLEU on the test part {beam:.1f} (beam {args.beam}), {greedy:.1f} (greedy)",
        bleu={"beam": beam, "greedy": greedy}, translated=translated,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
