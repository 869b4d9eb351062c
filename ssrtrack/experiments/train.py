"""Training one small network on endless samples: on a GPU each step is one CUDA graph, else plain torch.

A step is sample, forward, backward, AdamW with a warmed-up cosine, and the cap on the gains' weights. Nothing in it
asks the host anything, so hundreds of steps are queued at once and several trainings share a GPU, each on its stream.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.models.koss import InnovationGain

Tensor = torch.Tensor
Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
POOL = 50  # batches drawn at once, and steps queued at once
AHEAD = 2  # pools of steps queued before the host waits
EAGER = 3  # steps before a graph is captured: kernels compile, workspaces and the optimiser's state are made
CLIP = 1.0  # of the gradient's norm
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Stage:
    """So many steps on what `sample` draws: (count, generator) to inputs (count, T) and targets (count, …)."""

    sample: Sampler
    steps: int


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: stages one after another under one schedule of the learning rate.

    fall: the last part of the steps, over which the learning rate goes to zero along a cosine; before, it rests.
    precision: float32, or bfloat16 for matrix products under autocast, states staying in float32.
    """

    stages: tuple[Stage, ...]
    lr: float
    seed: int
    batch: int = 64
    warm_up: int = 100
    fall: float = 1.0
    decay: float = 0.01
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if not self.stages or min(stage.steps for stage in self.stages) < 1:
            raise TrainingError("a recipe takes at least one stage, each of at least one step")

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Goal:
    """What is minimised, and a number to watch: (output, target) to scalars, mean over the batch."""

    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]


class Training:
    """One training under way. `advance` until it says that all is done, then read `history` and use `net`."""

    def __init__(self, net: nn.Module, goal: Goal, recipe: Recipe, device: str) -> None:
        self.net, self.goal, self.recipe, self.device = net, goal, recipe, torch.device(device)
        cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]
        self.done, self.stage, self.left, self.eager = 0, -1, 0, 0
        self.graph: Any = None
        self.captured = cuda
        self.why_not = "" if cuda else "no CUDA device"
        self._queued: deque[Any] = deque()
        with self._here():
            net.to(self.device)
            self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
            self.lr = torch.zeros((), device=self.device)
            self.step, self.slot = (torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(2))
            self.losses, self.scores = (torch.zeros(recipe.steps, device=self.device) for _ in range(2))
            self.gains = [m for m in net.modules() if isinstance(m, InnovationGain)]
            self.optimiser = torch.optim.AdamW(groups(net, recipe.decay), lr=self.lr, fused=cuda, capturable=cuda)
            for group in self.optimiser.param_groups:
                group["lr"] = self.lr  # this very tensor, which every step fills
        self.x, self.target = self.lr, self.lr  # until the first pool is drawn

    def advance(self) -> bool:
        """Queue up to POOL steps; True once all steps of the recipe are queued."""
        with self._here():
            if self.left == 0:
                self._next_stage()
            count = min(POOL, self.left)
            self._draw()
            for _ in range(count):
                self._one()
            self.left -= count
            self.done += count
            self._wait()
        return self.done == self.recipe.steps

    def history(self) -> tuple[list[float], list[float]]:
        """Loss and score of every step done, in order; waits for them."""
        with self._here():
            return self.losses[: self.done].tolist(), self.scores[: self.done].tolist()

    def evaluate(self, sample: Sampler, seed: int, count: int, batch: int) -> dict[str, float]:
        """Mean `loss` and `score` over `count` sequences that the seed alone decides, on any device the same."""
        generator, totals = torch.Generator().manual_seed(seed), {"loss": 0.0, "score": 0.0}
        with self._here(), torch.no_grad():
            drawn = sample(count, generator)
            for x, target in zip(*(torch.split(v, batch) for v in drawn), strict=True):
                with self.autocast():
                    out = self.net(x.to(self.device)).float()
                wanted, share = target.to(self.device), x.shape[0] / count
                totals["loss"] += share * float(self.goal.loss(out, wanted))
                totals["score"] += share * float(self.goal.score(out, wanted))
        return totals

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision; weights are cast anew each time, which a graph needs."""
        on = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def _here(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def _next_stage(self) -> None:
        self.stage += 1
        self.left = self.recipe.stages[self.stage].steps
        self.graph, self.eager = None, 0  # other shapes, another graph

    def _draw(self) -> None:
        """Fill the pool; a graph reads it where it lies."""
        drawn = self.recipe.stages[self.stage].sample(POOL * self.recipe.batch, self.generator)
        pool = [v.reshape(POOL, self.recipe.batch, *v.shape[1:]) for v in drawn]
        if self.graph is None:
            self.x, self.target = pool
        else:
            self.x.copy_(pool[0])
            self.target.copy_(pool[1])
        self.slot.zero_()

    def _one(self) -> None:
        """One step: the first of a stage by torch, the others by a graph where one can be captured."""
        if self.graph is None and self.captured and self.eager == EAGER:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.optimiser.zero_grad(set_to_none=True)
            self._step()
            self.eager += 1

    def _capture(self) -> None:
        # Gradients are made anew inside, so that the graph owns them.
        self.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._step()
            self.graph = graph
        except RuntimeError as error:
            self.captured, self.why_not = False, str(error).splitlines()[0]

    def _step(self) -> None:
        """What a graph records: nothing here asks the host for a number."""
        x, target = (v.index_select(0, self.slot)[0] for v in (self.x, self.target))
        self.lr.copy_(self._scheduled())
        with self.autocast():
            out = self.net(x).float()
        loss = self.goal.loss(out, target)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimiser.step()
        with torch.no_grad():
            for gain in self.gains:
                gain.cap()
            self.losses.index_copy_(0, self.step, loss.detach()[None])
            self.scores.index_copy_(0, self.step, self.goal.score(out.detach(), target).float()[None])
            self.step += 1
            self.slot += 1

    def _scheduled(self) -> Tensor:
        """The step's learning rate: linear over the warm-up, at the end a cosine to zero."""
        now = self.step[0].float()
        rise = ((now + 1.0) / self.recipe.warm_up).clamp(max=1.0)
        fallen = (1.0 - (1.0 - now / self.recipe.steps) / self.recipe.fall).clamp(min=0.0)
        return self.recipe.lr * rise * 0.5 * (1.0 + torch.cos(pi * fallen))

    def _wait(self) -> None:
        """Keep the host no more than AHEAD pools before the device."""
        if self.stream is None:
            return
        self._queued.append(self.stream.record_event())
        if len(self._queued) > AHEAD:
            self._queued.popleft().synchronize()


def groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: the weights of linear layers decay, rates, biases and gains do not."""
    linear = {id(m.weight) for m in net.modules() if isinstance(m, nn.Linear)}
    parts: list[list[nn.Parameter]] = [[], []]
    for parameter in net.parameters():
        if parameter.requires_grad:
            parts[id(parameter) not in linear].append(parameter)
    return [{"params": part, "weight_decay": rate} for part, rate in zip(parts, (decay, 0.0), strict=True)]
