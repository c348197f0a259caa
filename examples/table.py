"""Write examples/README.md, the table of the programs, from examples/results.

    python examples/table.py                      # the table, from what lies in examples/results
    python examples/table.py out/*                # first takes metrics and pictures from these output folders

What a program shows is the first sentence of its docstring; data, figure and times are those of the run whose metrics
lie in examples/results.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

from common import cli

EXAMPLES = Path(__file__).parent
RESULTS = EXAMPLES / "results"
LEFT_OUT = ("trainings", "sample", "flows", "confusion", "shapes")  # of the metrics: long, and not in the table
PICTURES = {  # of each program, the one that is shown; the others lie beside it
    "hello": "loss.png", "by_hand": "parameters.png", "sentiment": "loss.png", "translation": "attention.png",
    "language_model": "loss.png", "tagging": "confusion.png", "delayed_outputs": "delays.png",
    "forecasting": "forecasts.png", "gradient_flow": "gradient_flow.png", "memory_resets": "success.png",
    "two_processes": "loss.png",
}  # fmt: skip


def collect(folder: Path) -> None:
    """Take metrics and pictures of a run into examples/results."""
    metrics = read(folder / "metrics.json")
    name = metrics.get("program")
    if name not in PICTURES:
        cli.fail(f"{folder / 'metrics.json'} is not of one of the programs: {name!r}")
    to = RESULTS / name
    to.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in metrics.items() if key not in LEFT_OUT}
    places = ("data", "out", "resume")  # on the machine of the run
    kept["settings"] = {name: value for name, value in metrics.get("settings", {}).items() if name not in places}
    (to / "metrics.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    for picture in folder.glob("*.png"):
        shutil.copy(picture, to)


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        cli.fail(f"{path} cannot be read: {error.strerror}")
    except ValueError as error:
        cli.fail(f"{path} is not JSON ({error})")


def shows(name: str) -> str:
    """The first sentence of a program's docstring."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text()))
    return docstring.split("\n\n")[0].replace("\n", " ")


def seconds(metrics: dict, side: int) -> str:
    times = list(metrics.get("seconds", {}).values())
    return f"{times[side]:,.{0 if times[side] >= 10 else 2}f} s" if len(times) == 2 else ""


def row(name: str) -> str:
    path = RESULTS / name / "metrics.json"
    metrics = read(path) if path.exists() else {}
    picture = f"![](results/{name}/{PICTURES[name]})" if metrics else ""
    columns = [f"[{name}.py]({name}.py)", shows(name), metrics.get("data", ""), metrics.get("figure", "not run yet"),
               seconds(metrics, 0), seconds(metrics, 1), picture]  # fmt: skip
    return "| " + " | ".join(column.replace("|", r"\|") for column in columns) + " |"


PAGE = """# Examples

Each program runs without arguments, on a small data set that is embedded or generated; `--data` takes real data in
their public format, `--help` says the rest. All take `--cell`, `--backend seqcuda|torch|both`, `--device`, `--seed` and
`--out`; those that train show a bar, save after every validation, go on with `--resume`, and end Ctrl-C with a
checkpoint and status 130. They write metrics.json and pictures. With `--backend both` torch.nn and seqcuda train in
turn from the same weights, and are compared: one step by the tolerance rule, the whole training by how far rounding
alone drives two trainings apart (common/agreement.py). What they share stands in common/.

    pip install -r requirements-dev.txt
    python examples/sentiment.py --backend both

| program | what it shows | data | figure reached | time with torch.nn | time with seqcuda | picture |
|---|---|---|---|--:|--:|---|
{rows}

Times are those of the training steps of a run with `--backend both`, in turn in one process; for two_processes of one
process and of two. {machine}Written by `python examples/table.py` from results/, which `sh examples/run_all.sh` fills.
"""


def page() -> str:
    found = [read(path)["machine"] for path in sorted(RESULTS.glob("*/metrics.json"))]
    machines = sorted({f"{m.get('gpu') or m['cpu']}, {m['cores']} cores, torch {m['torch']}" for m in found})
    machine = f"Machine: {'; '.join(machines)}. " if machines else ""
    return PAGE.format(rows="\n".join(row(name) for name in PICTURES), machine=machine)


def main(given: list[str] | None = None) -> int:
    parser = cli.Parser(prog="table.py", description="Write examples/README.md from examples/results.")
    parser.add_argument("folders", nargs="*", type=Path, help="output folders to take metrics and pictures from")
    args = parser.parse_args(given)
    for folder in args.folders:
        collect(folder)
    (EXAMPLES / "README.md").write_text(page())
    print(f"written: {EXAMPLES / 'README.md'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
