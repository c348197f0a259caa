"""A character-level language model, trained with torch.nn, with seqcuda, or with both and compared.

    python examples/char_lm.py                                  # seqcuda, on the text that comes with the examples
    python examples/char_lm.py --backend both                   # what `make demo` runs
    python examples/char_lm.py --text book.txt.gz --cell gru --hidden 256 --steps 2000
    python examples/char_lm.py --resume                         # go on after Ctrl-C, or sample again

Embedding, recurrent layers, linear layer; truncated backpropagation through time with carried state. The last tenth
of the text is for validation. Writes checkpoint.pt, metrics.json and loss.png into --out. Ctrl-C finishes the step,
saves a checkpoint and ends with exit status 130; a run that is resumed (on the same machine, with as many threads)
ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from common import agreement, checkpoint, cli, files, loop, report, text
from common.backends import layer_class
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from seqcuda.bench import machine

TEXT = Path(__file__).parent / "data" / "hallow_quay.txt"
VALIDATION = 0.1  # share of the text
VALIDATE_ON = 20_000  # characters of it, at most
CLIP = 5.0  # norm of the gradient


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="char_lm.py", description="Train a character-level language model and sample from it.")
    cli.add_common_arguments(parser, out="out/char_lm", backends=("seqcuda", "torch", "both"))
    parser.add_argument("--text", default=str(TEXT), metavar="FILE", help="UTF-8 text, .gz accepted")
    size = parser.add_argument_group("model")
    size.add_argument("--embedding", type=cli.positive_int, default=64, help="width of a character's vector")
    size.add_argument("--hidden", type=cli.positive_int, default=128, help="hidden units of a layer")
    size.add_argument("--layers", type=cli.positive_int, default=2, help="recurrent layers")
    size.add_argument("--dropout", type=cli.probability, default=0.0, help="between the recurrent layers")
    train = parser.add_argument_group("training")
    train.add_argument("--steps", type=cli.positive_int, default=600, help="training steps")
    train.add_argument("--epochs", type=cli.positive_int, help="passes over the text, instead of --steps")
    train.add_argument("--batch", type=cli.positive_int, default=32, help="places of the text read side by side")
    train.add_argument("--length", type=cli.positive_int, default=64, help="characters a gradient goes back")
    train.add_argument("--lr", type=cli.positive_float, default=3e-3, help="learning rate of Adam")
    train.add_argument("--every", type=cli.positive_int, default=50, help="steps between validations")
    train.add_argument("--twins", type=cli.non_negative_int, default=2, help="with both: trainings that set the bar")
    sample = parser.add_argument_group("sample")
    sample.add_argument("--prompt", default="The ", help="what the sample begins with")
    sample.add_argument("--sample", type=cli.non_negative_int, default=400, help="characters to write")
    sample.add_argument("--temperature", type=cli.positive_float, default=0.5, help="below 1 plainer, above 1 wilder")
    return parser.parse_args(given)


class CharModel(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], characters: int, args):
        super().__init__()
        self.embedding = torch.nn.Embedding(characters, args.embedding)
        dropout = args.dropout if args.layers > 1 else 0.0
        self.recurrent = layer(args.embedding, args.hidden, args.layers, dropout=dropout)
        self.output = torch.nn.Linear(args.hidden, characters)

    def forward(self, x: Tensor, state=None):
        """x: (T, B) int64 -> scores (T, B, characters), state."""
        y, state = self.recurrent(self.embedding(x), state)
        return self.output(y), state


def loss_of(model: CharModel, window: tuple[Tensor, Tensor], state=None):
    """Mean cross-entropy in nats per character, and the state after the window."""
    x, target = window
    scores, state = model(x, state)
    return cross_entropy(scores.flatten(0, 1), target.flatten()), state


class Data:
    """The text of a run, as numbers on the device."""

    def __init__(self, args, device: torch.device):
        content = text.read(args.text)
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.vocabulary = text.Vocabulary(content)
        codes = self.vocabulary.encode(content)
        cut = int(len(codes) * (1 - VALIDATION))
        held_out = codes[cut : cut + VALIDATE_ON]
        rows = min(args.batch, len(held_out) // (args.length + 1))
        if cut < args.batch * (args.length + 1) or not rows:
            least = max(args.batch, int(1 / VALIDATION)) * (args.length + 1) / (1 - VALIDATION)
            cli.fail(
                f"{args.text} is too short for --batch {args.batch} --length {args.length}: "
                f"{len(codes)} characters, at least {int(least) + 1} are needed"
            )
        self.train = text.Streams(codes[:cut], args.batch, args.length, device)
        self.validation = text.Streams(held_out, rows, args.length, device)


class Run:
    """One training: model, optimizer, the state it carries, and the losses so far."""

    def __init__(self, name: str, args, data: Data, device: torch.device):
        """`name`: "torch", "seqcuda", or "twin 1", ...: a torch.nn model with its hidden units in another order."""
        self.name, self.args, self.data, self.device = name, args, data, device
        torch.manual_seed(args.seed)
        layer = layer_class("seqcuda" if name == "seqcuda" else "torch", args.cell)
        self.model = CharModel(layer, len(data.vocabulary), args)
        if name.startswith("twin"):
            generator = torch.Generator().manual_seed(int(name.split()[1]))
            order = agreement.renumbered(self.model.recurrent, generator)
            self.model.output.weight.data = self.model.output.weight.data[:, order]
        self.model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr)
        self.state = None
        self.seconds = 0.0
        self.losses: list[float] = []  # of every step
        self.validations: list[dict] = []  # {"step", "seconds", "loss"}

    @property
    def step(self) -> int:
        return len(self.losses)

    def advance(self, until: int, interrupt: loop.Interrupt, bar: tqdm) -> None:
        """Train up to step `until`, then validate; stops before, after the step at hand, where Ctrl-C asks for it."""
        self.model.train()
        while self.step < until and not interrupt.asked:
            start = loop.clock(self.device)
            self._train_step()
            self.seconds += loop.clock(self.device) - start
            bar.update()
        if self.step == until:
            self.validations.append({"step": self.step, "seconds": self.seconds, "loss": self._validate()})

    def _train_step(self) -> None:
        if self.args.dropout:  # masks are a function of seed and step: the same for every run, and after a resume
            torch.manual_seed(self.args.seed * 1_000_003 + self.step)
        state = None if self.data.train.starts_round(self.step) else loop.detached(self.state)
        loss, self.state = loss_of(self.model, self.data.train.window(self.step), state)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def _validate(self) -> float:
        self.model.eval()
        state, total = None, 0.0
        for k in range(self.data.validation.windows):
            loss, state = loss_of(self.model, self.data.validation.window(k), state)
            total += loss.item()
        return total / self.data.validation.windows

    def content(self) -> dict:
        """For a checkpoint."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "state": loop.detached(self.state), "seconds": self.seconds, "losses": self.losses,
            "validations": self.validations,
        }  # fmt: skip

    def restore(self, content: dict, path: Path) -> None:
        checkpoint.load_state(self.model, content["model"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.state, self.seconds = content["state"], content["seconds"]
        self.losses, self.validations = content["losses"], content["validations"]


class Training:
    """All runs of the program, advanced in turn, so that what else the machine does meets all of them alike."""

    def __init__(self, args, data: Data, device: torch.device):
        self.args, self.data, self.device = args, data, device
        twins = [f"twin {k + 1}" for k in range(args.twins)]
        names = ["torch", "seqcuda", *twins] if args.backend == "both" else [args.backend]
        self.runs = {name: Run(name, args, data, device) for name in names}
        self.checks: list[dict] = []  # of one step, by the tolerance rule, at points along the training
        self.path = files.folder(args.out) / "checkpoint.pt"
        self.settings = {
            "text": data.digest, **{name: getattr(args, name) for name in (
                "backend", "cell", "embedding", "hidden", "layers", "dropout", "batch", "length", "lr", "every", "seed",
                "twins")},
        }  # fmt: skip

    def resume(self) -> None:
        content = checkpoint.load(self.path, self.settings, self.device)
        self.checks = content["checks"]
        for name, run in self.runs.items():
            run.restore(content["runs"][name], self.path)

    def save(self) -> None:
        runs = {name: run.content() for name, run in self.runs.items()}
        checkpoint.save(self.path, self.settings, {"runs": runs, "checks": self.checks})

    def train(self, steps: int) -> bool:
        """Advance all runs to `steps`, a checkpoint after every validation. False if Ctrl-C ended it before."""
        done = sum(run.step for run in self.runs.values())
        bar = loop.progress(len(self.runs) * steps, done, f"{self.args.backend} {self.args.cell}")
        with loop.Interrupt() as interrupt, bar:
            self._check(steps)
            while not interrupt.asked and (least := min(run.step for run in self.runs.values())) < steps:
                until = min((least // self.args.every + 1) * self.args.every, steps)
                behind = [run for run in self.runs.values() if run.step < until]
                if until // self.args.every % 2:
                    behind[:2] = behind[:2][::-1]  # torch first, seqcuda first, in turn
                for run in behind:
                    run.advance(until, interrupt, bar)
                if not interrupt.asked:
                    self._check(steps)
                    bar.write(self._progress_line(until))
                self.save()
        return not interrupt.asked

    def _check(self, steps: int) -> None:
        """One step of both from the weights torch.nn has now, against float64: at the start, half-way, at the end."""
        step, checked = next(iter(self.runs.values())).step, [check["step"] for check in self.checks]
        half_way = step >= steps / 2 and not any(checked)
        if len(self.runs) == 1 or step in checked or not (step in (0, steps) or half_way):
            return

        def loss(model: CharModel) -> Tensor:
            model.recurrent.dropout = 0.0
            return loss_of(model, self.data.train.window(step))[0]

        found = agreement.within_rule(self.runs["seqcuda"].model, self.runs["torch"].model, loss)
        self.checks.append({"step": step, **found})

    def _progress_line(self, step: int) -> str:
        shown = [run for name, run in self.runs.items() if not name.startswith("twin")]
        return f"step {step:5}  validation loss " + "  ".join(
            f"{run.name} {run.validations[-1]['loss']:.4f}" for run in shown
        )


@torch.no_grad()
def sample(model: CharModel, vocabulary: text.Vocabulary, args, device: torch.device) -> str:
    """Characters drawn one at a time, after the prompt."""
    model.eval()
    generator = torch.Generator().manual_seed(args.seed)
    x, state, drawn = vocabulary.encode(args.prompt)[:, None].to(device), None, []
    for _ in range(args.sample):
        scores, state = model(x, state)
        chances = torch.softmax(scores[-1, 0].double().cpu() / args.temperature, dim=0)
        drawn.append(torch.multinomial(chances, 1, generator=generator).item())
        x = torch.tensor([[drawn[-1]]], device=device)
    return args.prompt + vocabulary.decode(drawn)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    device = cli.device(args.device)
    data = Data(args, device)
    if not args.prompt or not set(args.prompt) <= set(data.vocabulary.characters):
        cli.fail(f"--prompt must be characters of the text, at least one, got {args.prompt!r}")
    steps = args.epochs * data.train.windows if args.epochs else args.steps
    training = Training(args, data, device)
    if args.resume:
        training.resume()
    if not training.train(steps):
        at = ", ".join(f"{run.name} {run.step}" for run in training.runs.values())
        print(f"interrupted at step {at} of {steps}; saved {training.path}; --resume goes on from there")
        return cli.INTERRUPTED
    runs = training.runs
    written = sample(runs.get("seqcuda", runs.get("torch")).model, data.vocabulary, args, device) if args.sample else ""
    comparison = report.compare(runs, training.checks) if args.backend == "both" else None
    report.write(
        training.path.parent, runs, comparison,
        {"settings": {**training.settings, "steps": steps, "text": args.text}, "machine": machine(), "sample": written},
    )  # fmt: skip
    report.show(runs, comparison, written, training.path.parent, args.batch * args.length)
    return 0 if comparison is None or comparison["equal"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(cli.INTERRUPTED)
