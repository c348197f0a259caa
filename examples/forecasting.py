"""Forecasts of a multivariate series: recurrent networks against a naive and a linear forecast.

    python examples/forecasting.py                                 # on a generated series
    python examples/forecasting.py --data ETTh1.csv                # .gz accepted
    python examples/forecasting.py --data ETTh1.csv --cell gru --window 168 --horizon 48

The data are a CSV file with a header, the time in the first column and one variable in each other. The first 60 % are
trained on, the next 20 % validate, the last 20 % are the test; all is normalised by mean and deviation of the first
part. From a window of hours a network forecasts the next hours of all variables, as differences from the window's last
hour: a recurrent part, and beside it a linear one that is the same for all variables (as in LSTNet). The others: the
last hour goes on, the last day repeats, and the linear part alone, by least squares.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from common import batches, cli, generated, report, text, training
from common.backends import layer_class
from common.plots import COLOURS_OF_CELLS, picture
from rich.table import Table
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}  # of the hours, in order
HOURS = 3000  # where they are generated
DAY = 24
DRAWN = 3  # forecasts in the picture


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="forecasting.py", description="Train networks that forecast, and compare them.")
    cli.add_common_arguments(parser, out="out/forecasting", cells=("all", *cli.CELLS))
    parser.add_argument("--data", metavar="FILE", help="CSV with header, first column the time; without it: generated")
    size = parser.add_argument_group("model")
    size.add_argument("--window", type=cli.positive_int, default=96, help="hours that are known")
    size.add_argument("--horizon", type=cli.positive_int, default=24, help="hours to forecast")
    size.add_argument("--hidden", type=cli.positive_int, default=64, help="hidden units of a layer")
    size.add_argument("--layers", type=cli.positive_int, default=1, help="recurrent layers")
    size.add_argument("--dropout", type=cli.probability, default=0.3, help="of the last state")
    cli.add_training_arguments(parser, epochs=6, batch=64, lr=1e-3, clip=1.0, patience=1)
    args = parser.parse_args(given)
    if args.window < DAY:
        cli.fail(f"--window must be at least {DAY}, a day, which one of the naive forecasts repeats; got {args.window}")
    return args


def read(path: str) -> tuple[list[str], Tensor]:
    """Names of the variables, values (hours, variables) float64."""
    header, *rows = csv.reader(text.read(path).strip("\n").split("\n"))
    if len(header) < 2:
        cli.fail(f"{path} has {len(header)} column, at least 2 are needed: the time and a variable")
    values = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            cli.fail(f"line {number} of {path} has {len(row)} columns, the header has {len(header)}")
        try:
            values.append([float(value) for value in row[1:]])
        except ValueError as error:
            cli.fail(f"line {number} of {path} holds what is no number: {error}")
    values = torch.tensor(values, dtype=torch.float64).reshape(-1, len(header) - 1)
    if not values.isfinite().all():
        cli.fail(f"{path} holds values that are not finite")
    return header[1:], values


class Forecaster(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], variables: int, args):
        super().__init__()
        self.horizon = args.horizon
        self.recurrent = layer(variables, args.hidden, args.layers)
        self.dropout = torch.nn.Dropout(args.dropout)
        self.output = torch.nn.Linear(args.hidden, args.horizon * variables)
        self.linear = torch.nn.Linear(args.window, args.horizon)

    def forward(self, x: Tensor) -> Tensor:
        """x (window, B, variables) -> (horizon, B, variables)."""
        known = x - x[-1]
        y, _ = self.recurrent(known)
        recurrent = self.output(self.dropout(y[-1])).unflatten(1, (self.horizon, -1)).transpose(0, 1)
        return x[-1] + recurrent + self.linear(known.movedim(0, 2)).movedim(2, 0)


class Series:
    """The normalised hours, and windows of them."""

    def __init__(self, args, device: torch.device):
        self.args = args
        self.names, values = read(args.data) if args.data else generated.series(HOURS, args.seed)
        self.digest = text.digest(values.tolist())
        self.ends = {part: [int(share * len(values)) for share in shares] for part, shares in SHARES.items()}
        self.needed = args.window + args.horizon
        shortest = min(end - start for start, end in self.ends.values())
        if shortest < self.needed:
            cli.fail(
                f"{args.data} has {len(values)} hours, of which the shortest part holds {shortest}; "
                f"--window {args.window} and --horizon {args.horizon} need {self.needed}"
            )
        train = values[: self.ends["train"][1]]
        self.mean, self.deviation = train.mean(0), train.std(0)
        if (constant := self.deviation == 0).any():
            cli.fail(f"{args.data} has a variable that never changes: {self.names[int(constant.int().argmax())]}")
        self.values = ((values - self.mean) / self.deviation).float().to(device)

    def count(self, part: str) -> int:
        start, end = self.ends[part]
        return end - start - self.needed + 1

    def windows(self, part: str, places) -> tuple[Tensor, Tensor]:
        """Known hours (window, B, variables) and the hours to forecast (horizon, B, variables), at these places."""
        first = self.ends[part][0] + torch.tensor(list(places))
        hours = self.values[first + torch.arange(self.needed)[:, None]]
        return hours[: self.args.window], hours[self.args.window :]


class Forecasting(training.Task):
    def __init__(self, cell: str, series: Series, args):
        self.cell, self.series, self.args = cell, series, args
        self.digest = series.digest
        self.batches = batches.ByLength([series.needed] * series.count("train"), args.batch, args.seed)
        self.steps_per_epoch = self.batches.per_epoch

    def model(self, backend):
        return Forecaster(layer_class(backend, self.cell), len(self.series.names), self.args)

    def loss(self, model, step, state=None):
        known, wanted = (t.to(model.output.weight.dtype) for t in self.series.windows("train", self.batches.rows(step)))
        return mse_loss(model(known), wanted), None

    def validate(self, model):
        mse, mae = errors(self.series, "validation", model)
        return {"loss": mse, "MAE": mae}


@torch.no_grad()
def errors(series: Series, part: str, forecast) -> tuple[float, float]:
    """Mean squared and mean absolute error of `forecast`, a function of the known hours, on all windows of a part."""
    squared = absolute = 0.0
    for places in batches.in_order(series.count(part), 512):
        known, wanted = series.windows(part, places)
        found = forecast(known)
        squared += mse_loss(found, wanted).item() * len(places)
        absolute += l1_loss(found, wanted).item() * len(places)
    return squared / series.count(part), absolute / series.count(part)


def baselines(series: Series) -> dict:
    """Functions from known hours to a forecast."""
    horizon = series.args.horizon
    known, wanted = series.windows("train", range(series.count("train")))
    rows, targets = ((t - known[-1]).flatten(1).t().double() for t in (known[:-1], wanted))
    weights = torch.linalg.lstsq(rows.t() @ rows, rows.t() @ targets).solution.to(known)  # (window - 1, horizon)

    def linear(x: Tensor) -> Tensor:
        return x[-1] + torch.einsum("wbv,wh->hbv", x[:-1] - x[-1], weights)

    return {
        "last hour": lambda x: x[-1:].expand(horizon, -1, -1),
        "last day": lambda x: x[-DAY:].repeat(-(-horizon // DAY), 1, 1)[:horizon],
        "linear": linear,
    }


@torch.no_grad()
def draw(series: Series, forecasts: dict, path: Path) -> None:
    """Forecasts of the last variable, from windows of the test part."""
    window, horizon = series.args.window, series.args.horizon
    places = torch.linspace(0, series.count("test") - 1, DRAWN + 2).long()[1:-1].tolist()
    known, wanted = series.windows("test", places)
    found = {name: forecast(known) for name, forecast in forecasts.items() if name != "last hour"}
    past, future = range(-window + 1, 1), range(1, horizon + 1)

    def shown(values: Tensor, k: int) -> list[float]:
        return (values[:, k, -1].cpu().double() * series.deviation[-1] + series.mean[-1]).tolist()

    with picture(path, columns=DRAWN) as axes:
        for k, panel in enumerate(axes):
            panel.plot(past, shown(known, k), color="#868e96", lw=1)
            panel.plot(future, shown(wanted, k), color="black", label="what came", lw=1.5)
            for name, values in found.items():
                style = {"color": COLOURS_OF_CELLS[name]} if name in COLOURS_OF_CELLS else {"ls": ":"}
                panel.plot(future, shown(values, k), label=name, lw=1.3, **style)
            panel.axvline(0.5, color="#868e96", lw=0.8)
            panel.set(xlabel="hour", ylabel=series.names[-1])
        axes[0].legend(frameon=False, fontsize="small")


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    device = cli.device(args.device)
    series = Series(args, device)
    cells = cli.CELLS if args.cell == "all" else (args.cell,)
    trainings = training.prepared({cell: Forecasting(cell, series, args) for cell in cells}, args, device)
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    forecasts = {**baselines(series), **{t.name: t.run.model for t in trainings}}
    tested = {name: errors(series, "test", forecast) for name, forecast in forecasts.items()}
    table = Table("forecast", "MSE", "MAE", title="test part, normalised", title_justify="left")
    for name, (mse, mae) in tested.items():
        table.add_row(name, f"{mse:.4f}", f"{mae:.4f}")
    report.console.print(table)
    draw(series, forecasts, trainings[0].out / "forecasts.png")
    return report.finish(
        "forecasting", args, trainings,
        data=f"{Path(args.data).name if args.data else 'generated'}: {len(series.values):,} hours, "
        f"{len(series.names)} variables",
        figure=f"test MSE, {args.horizon} hours ahead: "
        + ", ".join(f"{name} {mse:.3f}" for name, (mse, _) in tested.items()),
        test={name: {"MSE": mse, "MAE": mae} for name, (mse, mae) in tested.items()},
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
