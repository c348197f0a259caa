"""How far back does a gradient reach? Norms of dL/dh_t through 200 steps, and the gates of an LSTM on a sentence.

    python examples/gradient_flow.py                              # RNN, GRU, LSTM; scaled recurrent weights; clipping
    python examples/gradient_flow.py --data book.txt --sentence "It was a dark and stormy night."

The loss looks at the last step alone. `return_states` gives the state after every step, each a valid initial state of
the rest of the sequence; the rests are one batch of rows of different length, and one backward through it gives dL/dh_t
for every t. Then a character-level LSTM is trained for a moment, and its gates on the sentence are drawn.
"""

from __future__ import annotations

import torch
from common import cli, report, training
from common.backends import layer_class
from common.plots import COLOURS_OF_CELLS, picture
from language_model import TEXT, Language, add_model_arguments
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import seqcuda

INPUTS, HIDDEN, SEQUENCES = 8, 32, 4
SCALES = (0.7, 1.0, 1.4)  # of an orthogonal W_hh
CLIP = 1.0  # largest norm of dL/dh_t where it is clipped at every step
UNITS = 24  # of an LSTM, as many are drawn


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="gradient_flow.py", description="How far back gradients reach, and what gates do.")
    cli.add_common_arguments(parser, out="out/gradient_flow", cells=("all", *cli.CELLS))
    parser.add_argument("--data", default=str(TEXT), metavar="FILE", help="UTF-8 text for the LSTM, .gz accepted")
    parser.add_argument("--reach", type=cli.positive_int, default=200, help="steps the gradient is followed through")
    parser.add_argument("--sentence", default="The lamp was lit, and the sea was dark.", help="to draw the gates on")
    add_model_arguments(parser, layers=1)
    train = cli.add_training_arguments(parser, steps=300, every=50, batch=32, lr=3e-3, clip=5.0)
    train.add_argument("--length", type=cli.positive_int, default=64, help="characters a gradient goes back")
    parser.set_defaults(unit="char")
    args = parser.parse_args(given)
    if args.reach < 2:
        cli.fail(f"--reach must be at least 2, got {args.reach}")
    return args


def states_of(layer: torch.nn.RNNBase, x: Tensor) -> tuple[Tensor, ...]:
    """h, and for an LSTM c, after every step: (T, B, H) each."""
    if isinstance(layer, seqcuda.RNN | seqcuda.GRU | seqcuda.LSTM):
        states = layer(x, return_states=True)[2]
        return tuple(s[:, 0] for s in (states.h, states.c) if s is not None)
    state, steps = None, []
    for x_t in x:
        _, state = layer(x_t[None], state)
        steps.append(state if isinstance(state, tuple) else (state,))
    return tuple(torch.cat(s) for s in zip(*steps, strict=True))


def gradient_norms(layer: torch.nn.RNNBase, x: Tensor, direction: Tensor) -> dict[str, list[float]]:
    """Norms of dL/dh_t, and dL/dc_t of an LSTM, at t = 0 ... T-2, for L = direction . h_{T-1}; means over the rows.

    Row (t, b) of the batch is the rest x[t+1:] of sequence b, which starts from the state after step t.
    """
    T, B, _ = x.shape
    lengths = torch.arange(T - 1, 0, -1)
    places = (torch.arange(1, T)[None] + torch.arange(T - 1)[:, None]).clamp(max=T - 1)  # (step of the rest, t)
    rests = x[places].flatten(1, 2)  # (T-1, (T-1) B, I)
    start = [s[:-1].flatten(0, 1)[None].detach().requires_grad_() for s in states_of(layer, x)]
    hx = tuple(start) if len(start) == 2 else start[0]
    packed = pack_padded_sequence(rests, lengths.repeat_interleave(B), enforce_sorted=False)
    _, last = layer(packed, hx)
    last_h = last[0] if isinstance(last, tuple) else last
    (last_h[0].unflatten(0, (T - 1, B)) * direction).sum().backward()
    norms = [s.grad[0].norm(dim=1).unflatten(0, (T - 1, B)).mean(1).tolist() for s in start]
    return dict(zip(("h", "c"), norms, strict=False))


def clipped_norms(layer: torch.nn.RNNBase, x: Tensor, direction: Tensor) -> list[float]:
    """The same for dL/dh_t of the first row, going back step by step, its norm cut to CLIP at each."""
    h_of = states_of(layer, x[:, :1])[0].detach()
    gradient, norms = direction[None, None], []
    for t in range(len(x) - 2, -1, -1):
        h = h_of[t][None].requires_grad_()
        y, _ = layer(x[t + 1 : t + 2, :1], h)
        (gradient,) = torch.autograd.grad(y, h, gradient)
        gradient = gradient * min(1.0, CLIP / gradient.norm().item())
        norms.append(gradient.norm().item())
    return norms[::-1]


def flows(args, device: torch.device) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The norms, by panel, by curve, by state; in float64, as some are far below what float32 can hold."""
    torch.manual_seed(args.seed)
    backend = "seqcuda" if args.backend == "both" else args.backend
    x = torch.randn(args.reach, SEQUENCES, INPUTS).to(device, torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(HIDDEN), dim=0).to(device, torch.float64)
    cells = cli.CELLS if args.cell == "all" else (args.cell,)
    panels = {"as initialised": {}, "RNN, scaled W_hh": {}}
    for cell in cells:
        layer = layer_class(backend, cell)(INPUTS, HIDDEN).to(device, torch.float64)
        panels["as initialised"][cell.upper()] = gradient_norms(layer, x, direction)
    if "lstm" in cells:
        layer.bias_hh_l0.data[HIDDEN : 2 * HIDDEN] = 4.0  # gate order i f g o
        panels["as initialised"]["LSTM, forget gate open"] = gradient_norms(layer, x, direction)
    layer = layer_class(backend, "rnn")(INPUTS, HIDDEN, bias=False).to(device, torch.float64)
    torch.nn.init.normal_(layer.weight_ih_l0, std=0.01)  # near 0, where the derivative of tanh is near 1
    orthogonal = torch.nn.init.orthogonal_(torch.empty_like(layer.weight_hh_l0))
    for scale in SCALES:
        layer.weight_hh_l0.data = scale * orthogonal
        panels["RNN, scaled W_hh"][f"{scale} x orthogonal"] = gradient_norms(layer, x, direction)
    panels["RNN, scaled W_hh"][f"{scale} x, clipped at every step"] = {"h": clipped_norms(layer, x, direction)}
    return panels


def draw_flows(panels: dict, path) -> None:
    with picture(path, columns=len(panels)) as axes:
        for panel, (title, curves) in zip(axes, panels.items(), strict=True):
            for k, (name, norms) in enumerate(curves.items()):
                for state, style in (("h", "-"), ("c", "--")):
                    if state in norms:
                        label = f"{name}, dL/d{state}" if len(norms) > 1 else name
                        colour = COLOURS_OF_CELLS.get(name.lower(), f"C{k + 4}")
                        panel.semilogy(range(len(norms[state])), norms[state], style, color=colour, label=label, lw=1.3)
            panel.axhline(1, color="#868e96", lw=0.8)
            panel.set(xlabel="step t", ylabel="norm of dL/dh_t", title=title)
            panel.legend(frameon=False, fontsize="x-small")


@torch.no_grad()
def gates(task: Language, model, sentence: str) -> dict[str, Tensor]:
    """The gates and the cell of an LSTM at every character of the sentence: (T, H) each."""
    x = task.vocabulary.encode(sentence)[:, None].to(task.device)
    layer = seqcuda.convert(model.recurrent)
    _, _, states = layer(model.embedding(x), return_states="gates")
    named = dict(zip("ifgo", states.gates[:, -1, 0].unbind(1), strict=True))
    return {**named, "c": states.c[:, -1, 0]}


def draw_gates(found: dict[str, Tensor], sentence: str, path) -> None:
    titles = {"i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o", "c": "cell c"}
    with picture(path, columns=len(found), width=max(3.0, 0.1 * len(sentence)), height=3.5) as axes:
        for panel, (name, values) in zip(axes, found.items(), strict=True):
            low = 0 if name in "ifo" else -1
            colours = "viridis" if name in "ifo" else "RdBu_r"
            image = panel.imshow(values[:, :UNITS].t().cpu().numpy(), aspect="auto", cmap=colours, vmin=low, vmax=1)
            panel.figure.colorbar(image, ax=panel, shrink=0.7)
            panel.set_xticks(range(len(sentence)), sentence, fontsize=7)
            panel.set(title=titles[name], ylabel="unit")
            panel.grid(visible=False)


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    device = cli.device(args.device)
    text_args = cli.copied(args, cell="lstm")
    task = Language(text_args, device)
    if unknown := [c for c in args.sentence if c not in task.vocabulary] or (not args.sentence and ["nothing"]):
        cli.fail(f"--sentence must be characters of the text, at least one; {unknown[0]!r} is none")
    panels = flows(args, device)
    table = Table(
        "network", "state", "norm at T - 2", "20 steps before", "at 0", title="gradients", title_justify="left"
    )
    for curves in panels.values():
        for name, norms in curves.items():
            for state, values in norms.items():
                back = values[max(0, len(values) - 21)]
                table.add_row(name, state, f"{values[-1]:.1e}", f"{back:.1e}", f"{values[0]:.1e}")
    report.console.print(table)
    trainings = training.prepared({"lstm": task}, text_args, device, "reach", "sentence")
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    out = trainings[0].out
    draw_flows(panels, out / "gradient_flow.png")
    draw_gates(gates(task, trainings[0].run.model, args.sentence), args.sentence, out / "gates.png")
    reached = ", ".join(f"{name} {norms['h'][0]:.0e}" for name, norms in panels["as initialised"].items())
    return report.finish(
        "gradient_flow", args, trainings, data=f"random numbers; {task.description}",
        figure=f"dL/dh after {args.reach} steps: {reached}", flows=panels,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
