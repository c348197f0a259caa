"""The recurrences written out in plain PyTorch, each equal to the layer with the same weights.

    python examples/by_hand.py                 # all of them, and tables of parameters and of shapes
    python examples/by_hand.py --cell gru --backend torch

Elman RNN (input and state side by side, one weight), LSTM (one joined weight for its four gates), GRU (the reset gate
after the product, as in torch.nn, and before it), and a bidirectional RNN by flipping time. Equal means: as near to a
float64 computation as the lines written here are, by the tolerance rule.
"""

from __future__ import annotations

import torch
from common import cli, files, report
from common.backends import LIBRARIES
from common.plots import COLOURS_OF_CELLS, picture
from rich.table import Table
from torch import Tensor

from seqcuda import bench, testing

T, B, I, H = 12, 3, 5, 7


def weights_of(layer: torch.nn.RNNBase, suffix: str = "") -> list[Tensor]:
    """weight_ih (G*H, I), weight_hh (G*H, H), bias_ih (G*H,), bias_hh (G*H,) of the first layer."""
    return [getattr(layer, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def elman(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """h' = tanh(W [x, h] + b): input and state side by side, one weight. x (T, B, I) -> (T, B, H)."""
    w, b = torch.cat([w_ih, w_hh], dim=1), b_ih + b_hh
    h = x.new_zeros(x.shape[1], w_hh.shape[1])
    outputs = []
    for x_t in x:
        h = torch.tanh(torch.cat([x_t, h], dim=1) @ w.t() + b)
        outputs.append(h)
    return torch.stack(outputs)


def lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """All four gates from one joined weight; c' = f c + i g, h' = o tanh(c'). x (T, B, I) -> (T, B, H)."""
    w, b = torch.cat([w_ih, w_hh], dim=1), b_ih + b_hh
    h = c = x.new_zeros(x.shape[1], w_hh.shape[1])
    outputs = []
    for x_t in x:
        i, f, g, o = (torch.cat([x_t, h], dim=1) @ w.t() + b).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)


def gru(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, reset_after: bool = True) -> Tensor:
    """n = tanh(W x + b + r (U h + b')) with `reset_after`, else n = tanh(W x + b + U (r h) + b'); then
    h' = (1 - z) n + z h. x (T, B, I) -> (T, B, H)."""
    hidden = w_hh.shape[1]
    h = x.new_zeros(x.shape[1], hidden)
    u_rz, u_n = w_hh.split([2 * hidden, hidden])
    b_rz, b_n = b_hh.split([2 * hidden, hidden])
    outputs = []
    for x_t in x:
        from_x_rz, from_x_n = (x_t @ w_ih.t() + b_ih).split([2 * hidden, hidden], dim=1)
        r, z = torch.sigmoid(from_x_rz + h @ u_rz.t() + b_rz).chunk(2, dim=1)
        n = torch.tanh(from_x_n + (r * (h @ u_n.t() + b_n) if reset_after else (r * h) @ u_n.t() + b_n))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs)


def by_flipping(x: Tensor, forward: list[Tensor], backward: list[Tensor]) -> Tensor:
    """A bidirectional RNN: the second one reads the sequence from its end. x (T, B, I) -> (T, B, 2 H)."""
    return torch.cat([elman(x, *forward), elman(x.flip(0), *backward).flip(0)], dim=2)


def comparisons(backend: str, cells: tuple[str, ...]) -> dict:
    """For each recurrence the layer, and the lines written here with the layer's weights."""
    library = LIBRARIES[backend]
    found = {}
    if "rnn" in cells:
        found["Elman RNN"] = library.RNN(I, H), lambda layer, x: elman(x, *weights_of(layer))
        found["bidirectional RNN by flipping time"] = (
            library.RNN(I, H, bidirectional=True),
            lambda layer, x: by_flipping(x, weights_of(layer), weights_of(layer, "_reverse")),
        )
    if "lstm" in cells:
        found["LSTM, one joined weight"] = library.LSTM(I, H), lambda layer, x: lstm(x, *weights_of(layer))
    if "gru" in cells:
        found["GRU, reset after the product"] = library.GRU(I, H), lambda layer, x: gru(x, *weights_of(layer))
        if backend == "seqcuda":  # torch.nn has no such layer
            found["GRU, reset before the product"] = (
                library.GRU(I, H, reset_after=False),
                lambda layer, x: gru(x, *weights_of(layer), reset_after=False),
            )
    return found


@torch.no_grad()
def compare(layer: torch.nn.RNNBase, by_hand, x: Tensor) -> dict:
    """Errors of both against the same lines in float64, and whether the tolerance rule holds."""
    ours, rival = layer(x)[0], by_hand(layer, x)
    exact = by_hand(layer.double(), x.double())
    try:
        testing.assert_within_rule(ours, rival, exact)
        equal = True
    except AssertionError:
        equal = False
    return {"layer": testing.error(ours, exact), "by hand": testing.error(rival, exact), "equal": equal}


def parameters(backend: str, cells: tuple[str, ...], inputs: int, hidden: tuple[int, ...]) -> dict[str, list[int]]:
    """Of one layer: G gates with H (I + H + 2) numbers each; RNN 1, GRU 3, LSTM 4."""
    counted = {}
    for cell in cells:
        layers = [getattr(LIBRARIES[backend], cell.upper())(inputs, h) for h in hidden]
        counted[cell] = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    return counted


@torch.no_grad()
def shapes(backend: str, cells: tuple[str, ...], x: Tensor) -> dict[str, list[list[int]]]:
    """Of output, h_n and, for an LSTM, c_n."""
    found = {}
    for cell in cells:
        for layers in (1, 3):
            for bidirectional in (False, True):
                layer = getattr(LIBRARIES[backend], cell.upper())(I, H, layers, bidirectional=bidirectional)
                y, state = layer.to(x.device)(x)
                states = state if isinstance(state, tuple) else (state,)
                name = (
                    f"{cell.upper()}, {layers} layer{'s' * (layers > 1)}, {1 + bidirectional} direction"
                    + "s" * bidirectional
                )
                found[name] = [list(t.shape) for t in (y, *states)]
    return found


def main(given: list[str] | None = None) -> int:
    parser = cli.Parser(prog="by_hand.py", description="The recurrences in plain PyTorch, equal to the layers.")
    cli.add_common_arguments(
        parser, out="out/by_hand", cells=("all", *cli.CELLS), backends=("seqcuda", "torch"), trains=False
    )
    args = parser.parse_args(given)
    device = cli.device(args.device)
    out = files.folder(args.out)
    cells = cli.CELLS if args.cell == "all" else (args.cell,)
    torch.manual_seed(args.seed)
    x = torch.randn(T, B, I, device=device)

    errors = {
        name: compare(layer.to(device), by_hand, x)
        for name, (layer, by_hand) in comparisons(args.backend, cells).items()
    }
    table = Table(
        "recurrence", "error of the layer", "error by hand", "", title="against float64", title_justify="left"
    )
    for name, error in errors.items():
        verdict = "equal" if error["equal"] else "NOT EQUAL"
        table.add_row(name, f"{error['layer']:.1e}", f"{error['by hand']:.1e}", verdict)
    equal = sum(error["equal"] for error in errors.values())
    report.console.print(table)

    inputs, hidden = 128, (64, 128, 256, 512)
    counted = parameters(args.backend, cells, inputs, hidden)
    table = Table("cell", *(f"H = {h}" for h in hidden), title=f"parameters, I = {inputs}", title_justify="left")
    for cell, counts in counted.items():
        table.add_row(cell.upper(), *(f"{n:,}" for n in counts))
    if {"gru", "lstm"} <= counted.keys():
        ratios = (f"{a / b:.3f}" for a, b in zip(counted["lstm"], counted["gru"], strict=True))
        table.add_row("LSTM / GRU", *ratios)
    report.console.print(table)

    shown = shapes(args.backend, cells, x)
    table = Table(
        "layer", "output", "h_n", "c_n", title=f"shapes for input ({T}, {B}, {I}), H = {H}", title_justify="left"
    )
    for name, (y, h, *c) in shown.items():
        table.add_row(name, *(str(tuple(shape)) for shape in (y, h, *c)))
    report.console.print(table)

    with picture(out / "parameters.png") as (axes,):
        for cell, counts in counted.items():
            axes.loglog(hidden, counts, "o-", color=COLOURS_OF_CELLS[cell], label=cell.upper())
        axes.set_xticks(hidden, hidden)
        axes.minorticks_off()
        axes.set(xlabel="hidden units H", ylabel="parameters", title=f"one layer, {inputs} inputs")
        axes.legend(frameon=False)
    files.write_json(out / "metrics.json", {
        "program": "by_hand", "data": "random numbers", "figure": f"{equal} of {len(errors)} equal to the layers",
        "machine": bench.machine(device), "settings": vars(args), "errors": errors,
        "parameters": {"hidden": hidden, **counted}, "shapes": shown,
    })  # fmt: skip
    report.console.print(f"written: {out / 'metrics.json'}, {out / 'parameters.png'}")
    return 0 if equal == len(errors) else 1


if __name__ == "__main__":
    cli.run(main)
