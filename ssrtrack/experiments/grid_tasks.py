"""What each row of the grid trains on and is tested on: the copying tasks and the level with jumps, as one table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional

from ssrtrack.experiments import level_jumps
from ssrtrack.experiments.grid_models import Network, network
from ssrtrack.experiments.level_jumps import Levels
from ssrtrack.experiments.selective_copy import TASKS, CopyTask, sample
from ssrtrack.experiments.train import Goal, Recipe, Sampler, Stage

Tensor = torch.Tensor
VALIDATION_SEED, TEST_SEED = 1_000_003, 2_000_003  # far from every training's seed
STRIPS = (64, 256, 1024)  # of the long task's curriculum, before the whole strip; for all models alike


@dataclass(frozen=True)
class Trial:
    """A network's task: where training samples come from, stage by stage, and the samples of every test.

    shares: part of the training's steps in each stage. fall: as `Recipe` has it. tests: name to sampler; the first
    one's score counts. count: sequences of a test. least: whether a low score is good. guess_ms: how long a step
    takes, tests included, while nothing is known.
    """

    goal: Goal
    samplers: tuple[Sampler, ...]
    shares: tuple[float, ...]
    tests: Mapping[str, Sampler]
    outputs: int
    values: int
    last: int
    count: int
    at_once: int
    least: bool = False
    depth: int = 2
    conv: bool = True
    precision: str = "float32"
    fall: float = 1.0
    guess_ms: float = 10.0

    def network(self, model: str, seed: int) -> Network:
        """The model's network for this task."""
        return network(model, seed, self.outputs, values=self.values, last=self.last, depth=self.depth, conv=self.conv)

    def recipe(self, lr: float, seed: int, steps: int, *, stages: int | None = None) -> Recipe:
        """Steps shared out among the stages, or among the first ones alone."""
        kept = tuple(zip(self.samplers, self.shares, strict=True))[:stages]
        whole = sum(share for _, share in kept)
        cut = tuple(Stage(draw, max(1, round(steps * share / whole))) for draw, share in kept)
        return Recipe(cut, lr, seed, warm_up=min(100, max(1, steps // 10)), fall=self.fall, precision=self.precision)


def right(out: Tensor, target: Tensor) -> Tensor:
    """Share of tokens named rightly: logits (B, M, classes), classes (B, M)."""
    return (out.argmax(-1) == target).float().mean()


def cross_entropy(out: Tensor, target: Tensor) -> Tensor:
    """Nats a token."""
    return functional.cross_entropy(out.flatten(0, 1), target.flatten())


def _squared(out: Tensor, level: Tensor) -> Tensor:
    return level_jumps.squared_error(out[..., 0], level)


COPYING = Goal(cross_entropy, right)
FILTERING = Goal(_squared, _squared)


def copying(task: CopyTask, *, train_rho: float | None = None, count: int = 10_240, depth: int = 2) -> Trial:
    """A copying task; train_rho: another intensity in training than in the test, which then has a name of its own."""
    trained = task if train_rho is None else replace(task, rho=train_rho)
    tests = {"test": partial(sample, trained)}
    if train_rho is not None:
        tests["polluted"] = partial(sample, task)
    strips = [s for s in STRIPS if s < task.strip] if task.strip > STRIPS[-1] else []
    staged = [replace(trained, strip=s) for s in strips] + [trained]
    long = bool(strips)
    return Trial(
        COPYING,
        tuple(partial(sample, t) for t in staged),
        (0.5, 0.2, 0.15, 0.15) if long else (1.0,),
        tests,
        outputs=task.symbols,
        values=task.values,
        last=task.tokens,
        count=1_024 if long else count,
        at_once=64 if long else 1_024,
        depth=depth,
        precision="bfloat16" if long else "float32",
        # The whole strip comes last: it must not meet a learning rate that is already spent.
        fall=0.3 if long else 1.0,
        guess_ms=12.0 if long else 10.0,
    )


def filtering(levels: Levels, *, conv: bool) -> Trial:
    """The level with jumps, through one block."""
    draw = partial(level_jumps.sample, levels)
    return Trial(
        FILTERING,
        (draw,),
        (1.0,),
        {"test": draw},
        outputs=1,
        values=0,
        last=levels.steps,
        count=8_192,
        at_once=1_024,
        least=True,
        depth=1,
        conv=conv,
    )


TRIALS: dict[str, Trial] = {
    "short": copying(TASKS["short"]),
    "short-clean": copying(TASKS["short"], train_rho=0.0),
    "mode": copying(TASKS["mode"]),
    "mode-one-block": copying(TASKS["mode"], depth=1),
    "repeat": copying(TASKS["repeat"]),
    "repeat-one-block": copying(TASKS["repeat"], depth=1),
    "long": copying(TASKS["long"]),
    "long-clean": copying(TASKS["long"], train_rho=0.0),
    "levels": filtering(Levels(), conv=False),
    "levels-conv": filtering(Levels(), conv=True),
}
