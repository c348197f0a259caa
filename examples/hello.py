"""The smallest recurrent network: it reads "hello" and learns to answer "ohlol", once with a cell, once with a layer.

    python examples/hello.py                     # prints the answer after every epoch
    python examples/hello.py --cell gru --backend both

The cell is called once per character in a loop, and the losses of the five steps are summed; the layer takes the whole
word in one call. Both have the same weights, so both learn the same.
"""

from __future__ import annotations

import torch
from common import cli, report, training
from common.backends import cell_class, layer_class
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

LETTERS = "ehlo"
X = one_hot(torch.tensor([LETTERS.index(c) for c in "hello"]), len(LETTERS)).float()[:, None]  # (T=5, B=1, I=4)
TARGET = torch.tensor([LETTERS.index(c) for c in "ohlol"])  # (5,)


class WithCell(torch.nn.Module):
    def __init__(self, cell: type[torch.nn.RNNCellBase], hidden: int):
        super().__init__()
        self.cell = cell(len(LETTERS), hidden)
        self.output = torch.nn.Linear(hidden, len(LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, I) -> scores (T, B, letters)."""
        state, scores = None, []
        for x_t in x:
            state = self.cell(x_t, state)
            h = state[0] if isinstance(state, tuple) else state  # an LSTM's state is (h, c)
            scores.append(self.output(h))
        return torch.stack(scores)


class WithLayer(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], hidden: int):
        super().__init__()
        self.layer = layer(len(LETTERS), hidden)
        self.output = torch.nn.Linear(hidden, len(LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, I) -> scores (T, B, letters)."""
        return self.output(self.layer(x)[0])


class Hello(training.Task):
    def __init__(self, form: str, args, device: torch.device):
        self.form, self.args, self.device = form, args, device

    def model(self, backend: str) -> torch.nn.Module:
        if self.form == "cell":
            return WithCell(cell_class(backend, self.args.cell), self.args.hidden)
        return WithLayer(layer_class(backend, self.args.cell), self.args.hidden)

    def loss(self, model, step, state=None):
        scores = model(X.to(self.device, model.output.weight.dtype))[:, 0]
        return sum(cross_entropy(s, t) for s, t in zip(scores, TARGET.to(self.device), strict=True)), None

    def validate(self, model) -> dict[str, float]:
        return {"loss": self.loss(model, 0)[0].item()}  # there is nothing but this word

    def remark(self, model) -> str:
        return answer(model, self.device)


@torch.no_grad()
def answer(model: torch.nn.Module, device: torch.device) -> str:
    return "".join(LETTERS[k] for k in model(X.to(device)).argmax(-1)[:, 0])


def main(given: list[str] | None = None) -> int:
    parser = cli.Parser(prog="hello.py", description='From "hello" to "ohlol", with a cell and with a layer.')
    cli.add_common_arguments(parser, out="out/hello", cells=cli.CELLS)
    cli.add_training_arguments(parser, epochs=15, batch=1, lr=0.1)
    parser.add_argument("--hidden", type=cli.positive_int, default=4, help="hidden units")
    args = parser.parse_args(given)
    device = cli.device(args.device)
    tasks = {form: Hello(form, args, device) for form in ("cell", "layer")}
    trainings = training.prepared(tasks, args, device)
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    answers = {t.name: answer(t.run.model, device) for t in trainings}
    said = ", ".join(f"the {name} answers {text!r}" for name, text in answers.items())
    return report.finish(
        "hello", args, trainings, data="the word hello", figure=said, answers=answers
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
