"""One training loop for all programs: the same task with torch.nn, with seqcuda, or with both and compared.

A program says what is learned, in a `Task`. `Training` does the rest: the optimizer, clipping, validation, the best
weights, the progress bar, checkpoints, resume and Ctrl-C; with ``--backend both`` all models advance in turn, so that
what else the machine does meets them alike, and are compared (common/agreement.py, common/report.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from . import agreement, checkpoint, cli, files, loop


class Task:
    """What is learned: data, model, loss and figures.

    Batches and all that is random are functions of the seed and the step, so that both libraries meet the same, and so
    does a run that is resumed.
    """

    best = ("loss", min)  # the figure of `validate` that decides which weights are kept, and whether less is better
    steps_per_epoch = 1
    digest = ""  # of the data; a checkpoint must agree with it
    sides = ("torch", "seqcuda")  # what ``--backend both`` compares: the rival, ours
    interrupt = loop.Interrupt

    def model(self, backend: str) -> torch.nn.Module:
        """A new model of a side, "torch" or "seqcuda": with its layers; weights from torch's random numbers."""
        raise NotImplementedError

    def loss(self, model: torch.nn.Module, step: int, state=None) -> tuple[Tensor, object]:
        """The loss of training step `step` (from 0), and the state that the next step gets, None where there is none;
        a tensor or a tuple of tensors."""
        raise NotImplementedError

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        """Figures on data that are not trained on, "loss" among them. Called without gradients, in eval mode."""
        raise NotImplementedError

    def checked_loss(self, model: torch.nn.Module, step: int) -> Tensor:
        """What the tolerance rule is applied to; dropout is off."""
        return self.loss(model, step)[0]

    def remark(self, model: torch.nn.Module) -> str:
        """To stand behind the figures in the line that is printed after a validation."""
        return ""


class Run:
    """One model in training: its optimizer, the state it carries, the figures so far, its best weights."""

    def __init__(self, name: str, task: Task, args: argparse.Namespace, device: torch.device):
        """`name`: a side of the task, or "twin 1", ...: the rival's side, rounded once more before every step."""
        self.name, self.task, self.args, self.device = name, task, args, device
        torch.manual_seed(args.seed)
        self.model = task.model(name if name in task.sides else task.sides[0]).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
        patience = float("inf") if args.patience is None else args.patience
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, mode=task.best[1].__name__, factor=0.5, patience=patience
        )
        self.state = None
        self.seconds = 0.0
        self.losses: list[float] = []  # of every step
        self.validations: list[dict] = []  # {"step", "seconds", "loss", ...}
        self.best: dict | None = None  # {"step", "weights"}

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def at_best(self) -> dict:
        """The validation of the best weights."""
        return next(v for v in self.validations if v["step"] == self.best["step"])

    def advance(self, until: int, interrupt: loop.Interrupt, bar: tqdm) -> None:
        """Train up to step `until`, then validate; stops before, after the step at hand, where Ctrl-C asks for it."""
        self.model.train()
        while self.step < until and not interrupt.asked:
            start = loop.clock(self.device)
            self._train_step()
            self.seconds += loop.clock(self.device) - start
            bar.update()
        if self.step == until:
            self._validate()

    def _train_step(self) -> None:
        if self.name.startswith("twin"):
            agreement.jitter(self.model, seed=self.step * 1000 + int(self.name.split()[1]))
        seed_of_step(self.args.seed, self.step)
        loss, self.state = self.task.loss(self.model, self.step, loop.detached(self.state))
        self.optimizer.zero_grad()
        loss.backward()
        if self.args.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip)
        self.optimizer.step()
        self.losses.append(loss.item())

    @torch.no_grad()
    def _validate(self) -> None:
        self.model.eval()
        figures = self.task.validate(self.model)
        name, better = self.task.best
        if self.best is None or better(figures[name], self.at_best[name]) != self.at_best[name]:
            weights = {name: t.clone() for name, t in self.model.state_dict().items()}
            self.best = {"step": self.step, "weights": weights}
        self.validations.append({"step": self.step, "seconds": self.seconds, **figures})
        self.plateau.step(figures[name])

    def content(self) -> dict:
        """For a checkpoint."""
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(), "state": loop.detached(self.state), "seconds": self.seconds,
            "losses": self.losses, "validations": self.validations, "best": self.best,
        }  # fmt: skip

    def restore(self, content: dict, path: Path) -> None:
        checkpoint.load_state(self.model, content["model"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        self.plateau.load_state_dict(content["plateau"])
        self.state, self.seconds = content["state"], content["seconds"]
        self.losses, self.validations, self.best = content["losses"], content["validations"], content["best"]


class Training:
    """All runs of one task: one, or with ``--backend both`` those of both sides and the twins that set the bar."""

    def __init__(self, name: str, task: Task, args: argparse.Namespace, device: torch.device, settings: dict):
        """`name`: of the task, among those of the program. `settings`: what a checkpoint must agree with."""
        self.task, self.args, self.device, self.name = task, args, device, name
        twins = [f"twin {k + 1}" for k in range(args.twins)]
        names = [*task.sides, *twins] if args.backend == "both" else [args.backend]
        self.runs = {name: Run(name, task, args, device) for name in names}
        self.checks: list[dict] = []  # of one step, by the tolerance rule, at points along the training
        self.steps = args.until.count * (task.steps_per_epoch if args.until.unit == "epochs" else 1)
        self.every = args.every or task.steps_per_epoch
        self.out = files.folder(args.out)
        self.path = self.out / "checkpoint.pt"
        self.settings = {**settings, "task": name, "data": task.digest}

    @property
    def run(self) -> Run:
        """The run whose model the program goes on with."""
        return self.runs.get(self.task.sides[1]) or self.runs[self.task.sides[0]]

    def resume(self) -> None:
        content = checkpoint.load(self.path, self.settings, self.device)
        self.checks = content["checks"]
        for name, run in self.runs.items():
            run.restore(content["runs"][name], self.path)

    def save(self) -> None:
        runs = {name: run.content() for name, run in self.runs.items()}
        checkpoint.save(self.path, self.settings, {"runs": runs, "checks": self.checks})

    def train(self) -> bool:
        """Advance all runs to the end, a checkpoint after every validation; leaves them with their best weights.
        False, with a line that says so, if Ctrl-C ended it before."""
        done = sum(run.step for run in self.runs.values())
        bar = loop.progress(len(self.runs) * self.steps, done, f"{self.args.backend} {self.name}")
        with self.task.interrupt() as interrupt, bar:
            self._check()
            while not interrupt.asked and (least := min(run.step for run in self.runs.values())) < self.steps:
                until = min((least // self.every + 1) * self.every, self.steps)
                behind = [run for run in self.runs.values() if run.step < until]
                if until // self.every % 2:
                    behind[:2] = behind[:2][::-1]  # the rival first, ours first, in turn
                for run in behind:
                    run.advance(until, interrupt, bar)
                if not interrupt.asked:
                    self._check()
                    bar.write(self._progress_line(until))
                self.save()
        if interrupt.asked:
            at = ", ".join(f"{run.name} {run.step}" for run in self.runs.values())
            print(f"interrupted at step {at} of {self.steps}; saved {self.path}; --resume goes on from there")
        for run in self.runs.values():
            if run.best:
                run.model.load_state_dict(run.best["weights"])
            run.model.eval()
        return not interrupt.asked

    def _check(self) -> None:
        """One step of both from the weights the rival has now, against float64: at the start, half-way, at the end."""
        step, checked = next(iter(self.runs.values())).step, [check["step"] for check in self.checks]
        half_way = step >= self.steps / 2 and not any(checked)
        if len(self.runs) == 1 or step in checked or not (step in (0, self.steps) or half_way):
            return

        def loss(model: torch.nn.Module) -> Tensor:
            seed_of_step(self.args.seed, step)
            return self.task.checked_loss(model, step)

        rival, ours = (self.runs[side].model for side in self.task.sides)
        self.checks.append({"step": step, **agreement.within_rule(ours, rival, loss)})

    def _progress_line(self, step: int) -> str:
        shown = [run for name, run in self.runs.items() if not name.startswith("twin")]
        figures = [f"{name} " + "  ".join(f"{run.name} {run.validations[-1][name]:.4f}" for run in shown)
                   for name in self.run.validations[-1] if name not in ("step", "seconds")]  # fmt: skip
        return f"{self.name}  step {step:5}  " + "  ".join([*figures, self.task.remark(self.run.model)]).rstrip()


def seed_of_step(seed: int, step: int) -> None:
    """Dropout masks and other draws are a function of seed and step: the same for all runs, and after a resume."""
    torch.manual_seed(seed * 1_000_003 + step)


def prepared(tasks: dict[str, Task], args: argparse.Namespace, device: torch.device, *later: str) -> list[Training]:
    """A `Training` for each task, taken up from its checkpoint where --resume says so.

    `later`: names of arguments that a checkpoint need not agree with, as they concern what follows the training.
    """
    settings = cli.settings(args, *later)
    trainings = [Training(name, task, args, device, settings) for name, task in tasks.items()]
    for k, training in enumerate(trainings):
        if len(trainings) > 1:
            training.path = training.out / f"checkpoint-{training.name.replace(' ', '-')}.pt"
        if args.resume and (k == 0 or training.path.exists()):
            training.resume()
    return trainings


def train_all(trainings: list[Training]) -> bool:
    """One after the other; False where Ctrl-C ended one."""
    return all(training.train() for training in trainings)
