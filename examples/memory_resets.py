"""Reinforcement learning on a memory task: an actor-critic trained in one call with `resets=`, or a call per step.

    python examples/memory_resets.py                     # seqcuda, one call for a window; times of both ways at the end
    python examples/memory_resets.py --backend both      # against torch.nn, which must be called for every step
    python examples/memory_resets.py --way per-step --cell gru

At an episode's first step a cue is shown, then comes noise of random length, then a question: the cue must be named for
a reward of 1, another answer gives -1. Episodes end inside the windows that are trained on, and the state must not leak
from one into the next. In one call: `resets=` says where episodes begin. Per step, as is usual: at every step the
states of rows that begin anew are set to zero, and the layer is called for one step. The agent acts one step at a time,
with the weights it has before each training step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from common import cli, loop, report, training
from common.backends import layer_class
from common.plots import COLOURS, picture
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from seqcuda import bench

ONE_CALL, PER_STEP = "one-call", "per-step"
LEAST, MOST = 2, 9  # steps of noise between cue and question
NOISE = 2  # channels
TEST_STEPS, TEST_ROWS = 64, 64
TIMED = 20  # pairs of training passes


def arguments(given: list[str] | None):
    parser = cli.Parser(prog="memory_resets.py", description="A recurrent actor-critic on a memory task.")
    cli.add_common_arguments(parser, out="out/memory_resets")
    parser.add_argument("--way", choices=(ONE_CALL, PER_STEP), default=ONE_CALL, help="in which seqcuda trains")
    parser.add_argument("--cues", type=cli.positive_int, default=3, help="number of different cues")
    size = parser.add_argument_group("model")
    size.add_argument("--hidden", type=cli.positive_int, default=48, help="hidden units")
    train = cli.add_training_arguments(parser, steps=400, every=20, batch=32, lr=3e-3, clip=1.0)
    train.add_argument("--length", type=cli.positive_int, default=32, help="steps of a window")
    train.add_argument("--discount", type=cli.probability, default=0.9, help="of later rewards")
    train.add_argument("--entropy", type=cli.non_negative_float, default=0.02, help="weight of the entropy bonus")
    args = parser.parse_args(given)
    if args.cues < 2:
        cli.fail(f"--cues must be at least 2, got {args.cues}")
    return args


class Window(NamedTuple):
    """What the agent met and did: seen (T, B, I), begins, ends (T, B) bool, actions, cues (T, B), rewards (T, B)."""

    seen: Tensor
    begins: Tensor
    ends: Tensor
    actions: Tensor
    cues: Tensor
    rewards: Tensor


class Agent(torch.nn.Module):
    def __init__(self, layer: type[torch.nn.RNNBase], way: str, args):
        super().__init__()
        self.way = way
        self.recurrent = layer(args.cues + 1 + NOISE, args.hidden)
        self.policy = torch.nn.Linear(args.hidden, args.cues)
        self.value = torch.nn.Linear(args.hidden, 1)

    def step(self, seen: Tensor, state, begins: Tensor):
        """One step: seen (B, I), begins (B,) bool -> scores of the actions (B, cues), state (1, B, H), or (h, c)."""
        y, state = self.recurrent(seen[None].to(self.value.weight.dtype), zeroed(state, begins))
        return self.policy(y[0]), state

    def forward(self, seen: Tensor, state, begins: Tensor) -> tuple[Tensor, Tensor]:
        """A window: seen (T, B, I), begins (T, B) bool -> scores (T, B, cues), values (T, B)."""
        seen = seen.to(self.value.weight.dtype)
        if self.way == ONE_CALL:
            y, _ = self.recurrent(seen, state, resets=begins)
        else:
            steps = []
            for seen_t, begins_t in zip(seen, begins, strict=True):
                y, state = self.recurrent(seen_t[None], zeroed(state, begins_t))
                steps.append(y)
            y = torch.cat(steps)
        return self.policy(y), self.value(y)[..., 0]


def zeroed(state, rows: Tensor):
    """The state with zeros in some rows; None stays None."""
    if isinstance(state, tuple):
        return tuple(zeroed(s, rows) for s in state)
    return None if state is None else state * ~rows[:, None]


class Recall(training.Task):
    def __init__(self, args, device: torch.device):
        self.args, self.device = args, device

    def model(self, backend):
        way = self.args.way if backend == "seqcuda" else PER_STEP  # torch.nn's layers take no resets
        return Agent(layer_class(backend, self.args.cell), way, self.args)

    def loss(self, model, step, state=None):
        """`state`: of the world, cues and steps left (B,), and of the network, h[, c]."""
        world, memory = (None, None), None
        if state is not None:
            world, memory = tuple(part.cpu() for part in state[:2]), packed(state[2:])
        window, world, after = self.played(model, world, memory, self.args.length, self.args.batch)
        return self.loss_of(model, window, memory), (*world, *after)

    def checked_loss(self, model, step):
        window = self.played(None, (None, None), None, self.args.length, self.args.batch)[0]
        return self.loss_of(model, window, None)

    def loss_of(self, model: Agent, window: Window, memory) -> Tensor:
        """Of the actor, the critic, and less for more entropy."""
        scores, values = model(window.seen, memory, window.begins)
        chances = torch.distributions.Categorical(logits=scores)
        returns, later = [], values[-1].detach()
        for reward, end in zip(window.rewards.flip(0), window.ends.flip(0), strict=True):
            later = reward + self.args.discount * later * ~end if returns else torch.where(end, reward, later)
            returns.append(later)
        returns = torch.stack(returns[::-1])
        actor = -(chances.log_prob(window.actions) * (returns - values.detach())).mean()
        return actor + 0.5 * mse_loss(values, returns) - self.args.entropy * chances.entropy().mean()

    @torch.no_grad()
    def played(self, model: Agent | None, world, memory, length: int, rows: int):
        """A window, and the states of world and network after it. Without a model the actions are random.

        All draws are made before: they do not depend on what the agent does.
        """
        noise = torch.randn(length, rows, NOISE)
        fresh_cues = torch.randint(self.args.cues, (length, rows))
        fresh_left = torch.randint(LEAST + 1, MOST + 2, (length, rows))
        luck = torch.rand(length, rows)
        (cues, left), steps = world, []
        if cues is None:
            cues, left = torch.zeros(rows, dtype=torch.long), torch.full((rows,), -1)
        for t in range(length):
            begins = left < 0
            cues, left = torch.where(begins, fresh_cues[t], cues), torch.where(begins, fresh_left[t], left)
            ends = left == 0
            shown = one_hot(cues, self.args.cues) * begins[:, None]
            seen = torch.cat([shown, ends[:, None], noise[t]], dim=1).to(self.device)
            if model is None:
                chances = torch.full((rows, self.args.cues), 1 / self.args.cues)
            else:
                scores, memory = model.step(seen, memory, begins.to(self.device))
                chances = scores.softmax(1).cpu()
            actions = (chances.cumsum(1) < luck[t][:, None]).sum(1).clamp(max=self.args.cues - 1)
            rewards = ends * (2.0 * (actions == cues) - 1)
            steps.append(Window(seen, begins, ends, actions, cues, rewards))
            left = left - 1
        window = Window(*(torch.stack(part).to(self.device) for part in zip(*steps, strict=True)))
        return window, (cues, left), memory if isinstance(memory, tuple) else (memory,)

    def validate(self, model):
        training.seed_of_step(self.args.seed, -1)
        window = self.played(None, (None, None), None, TEST_STEPS, TEST_ROWS)[0]
        scores, _ = model(window.seen, None, window.begins)
        asked = window.ends
        right = scores.softmax(2).gather(2, window.cues[..., None])[..., 0]
        return {
            "loss": 1 - right[asked].mean().item(),  # the chance of a wrong answer
            "success": (scores.argmax(2) == window.cues)[asked].double().mean().item(),
        }


def packed(state: tuple[Tensor, ...]):
    """The state of a network as its layer takes it."""
    return state if len(state) > 1 else state[0]


def times(task: Recall, model: Agent) -> dict:
    """One training pass over the same windows, in one call and per step, in turn: seconds and their ratio."""
    seconds = {ONE_CALL: [], PER_STEP: []}
    for k in range(TIMED + 1):
        window = task.played(None, (None, None), None, task.args.length, task.args.batch)[0]
        for model.way in list(seconds)[:: 1 if k % 2 else -1]:
            start = loop.clock(task.device)
            task.loss_of(model, window, None).backward()
            if k:  # the first pair warms up
                seconds[model.way].append(loop.clock(task.device) - start)
    return {"seconds": seconds, "ratio": bench.ratio(seconds[PER_STEP], seconds[ONE_CALL])}


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    task = Recall(args, cli.device(args.device))
    trainings = training.prepared({args.cell: task}, args, task.device)
    if not training.train_all(trainings):
        return cli.INTERRUPTED
    run, runs = trainings[0].run, trainings[0].runs
    with picture(trainings[0].out / "success.png") as (axes,):
        for side, shown in report.shown(trainings[0]).items():
            points = [v["seconds"] for v in shown.validations], [v["success"] for v in shown.validations]
            colour = COLOURS[side == "seqcuda"]
            axes.plot(*points, "o-", ms=3, color=colour, label=f"{report.label(side)}, {shown.model.way}")
        axes.set(xlabel="seconds of playing and training", ylabel="right answers", ylim=(0, 1.02))
        axes.legend(frameon=False)
    more = {}
    if "seqcuda" in runs:
        more["training pass"] = times(task, run.model)
        ratio = more["training pass"]["ratio"]
        report.console.print(
            f"one training pass of seqcuda, time per step / time in one call: {ratio['median']:.1f} "
            f"(quartiles {ratio['low']:.1f} to {ratio['high']:.1f})"
        )
    return report.finish(
        "memory_resets", args, trainings,
        data=f"{args.cues} cues, {LEAST} to {MOST} steps of noise; windows of {args.length} steps, {args.batch} rows",
        figure=f"{run.at_best['success']:.1%} right answers", **more,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
