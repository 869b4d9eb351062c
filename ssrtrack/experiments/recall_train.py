"""Training one recalling network on all lengths at once: on a GPU every length's step is a CUDA graph of its own.

A step is a batch of one length with all numbers of pairs that go with it, and lengths take turns from step to step: one
training gives the whole surface of accuracy over lengths and pairs. The first steps are on the shortest length alone,
where there is most to learn from in the least time. Every batch has about as many tokens. Nothing in a step asks the
host anything, so several trainings share a GPU, each on its own stream.
"""

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import pi
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.recall import Drawn, RecallTask, cells_of, sample
from ssrtrack.experiments.train import CLIP, PRECISIONS, groups

Tensor = torch.Tensor
POOL = 20  # batches drawn at once
ROUND = 20  # steps queued in one go
AHEAD = 2  # such rounds queued before the host waits
EAGER = 2  # steps of a length before its graph is captured: kernels compile, the optimiser's state is made


@dataclass(frozen=True)
class RecallRecipe:
    """How a network is trained: `steps` of AdamW at a warmed-up cosine of `lr`.

    tokens: of a batch, about. first: the share of the steps that the shortest length has to itself. precision: float32,
    or bfloat16 for matrix products under autocast; memories and logits stay in float32.
    """

    tasks: tuple[RecallTask, ...]
    lr: float
    seed: int
    steps: int
    tokens: int = 8192
    first: float = 0.2
    warm_up: int = 100
    decay: float = 0.01
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if not self.tasks or self.steps < 1 or self.tokens < 1:
            raise TrainingError(
                f"{len(self.tasks)} tasks, {self.steps} steps and {self.tokens} tokens must be 1 or more each"
            )

    def each(self, task: RecallTask) -> int:
        """Sequences of each number of pairs in a batch of the task."""
        return max(1, self.tokens // (task.steps * len(task.pairs)))

    def turn(self, step: int) -> int:
        """Which task's turn a step is."""
        return 0 if step < self.first * self.steps else step % len(self.tasks)


@dataclass
class Lane:
    """One task's batches, where a graph reads them, and the graph."""

    task: RecallTask
    each: int
    drawn: Drawn | None = None
    left: int = 0  # batches of the pool that are not used yet
    eager: int = 0
    graph: Any = None
    slot: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))


class RecallTraining:
    """One training under way. `advance` until it says that all is done, then read `history` and use `net`."""

    def __init__(self, net: nn.Module, recipe: RecallRecipe, device: str) -> None:
        self.net, self.recipe, self.device = net, recipe, torch.device(device)
        cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if cuda else None  # type: ignore[no-untyped-call]
        self.captured, self.why_not = cuda, "" if cuda else "no CUDA device"
        self.memory = torch.cuda.graph_pool_handle() if cuda else None  # graphs run one after another
        self.done = 0
        self._queued: deque[Any] = deque()
        with self._here():
            net.to(self.device)
            self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
            self.lr = torch.zeros((), device=self.device)
            self.step = torch.zeros(1, dtype=torch.int64, device=self.device)
            self.losses, self.scores = (torch.zeros(recipe.steps, device=self.device) for _ in range(2))
            self.optimiser = torch.optim.AdamW(groups(net, recipe.decay), lr=self.lr, fused=cuda, capturable=cuda)
            for group in self.optimiser.param_groups:
                group["lr"] = self.lr  # this very tensor, which every step fills
            self.lanes = [Lane(task, recipe.each(task)) for task in recipe.tasks]
            for lane in self.lanes:
                lane.slot = lane.slot.to(self.device)

    def advance(self) -> bool:
        """Queue up to ROUND steps; True once all steps of the recipe are queued."""
        with self._here():
            for _ in range(min(ROUND, self.recipe.steps - self.done)):
                self._one(self.lanes[self.recipe.turn(self.done)])
                self.done += 1
            self._wait()
        return self.done == self.recipe.steps

    def history(self) -> tuple[list[float], list[float]]:
        """Loss and share of right answers of every step done, in order; waits for them."""
        with self._here():
            return self.losses[: self.done].tolist(), self.scores[: self.done].tolist()

    def evaluate(self, seed: int, each: int, at_once: int) -> dict[str, float]:
        """Share of right answers of every cell, "T/N", over `each` sequences that the seed alone decides.

        at_once: tokens in one pass. Sequences are drawn on the CPU, so that every device has the same.
        """
        generator, found = torch.Generator().manual_seed(seed), {}
        with self._here(), torch.no_grad():
            for task in self.recipe.tasks:
                some = min(each, max(1, at_once // (task.steps * len(task.pairs))))
                drawn = sample(task, -(-each // some), some, generator)
                right = [
                    self._answered(*(part.to(self.device) for part in batch)) for batch in zip(*drawn, strict=True)
                ]
                for n, share in cells_of(task, some, torch.stack(right)).items():
                    found[f"{task.steps}/{n}"] = float(share.reshape(-1, n)[:each].mean())
        return found

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision; weights are cast anew each time, which a graph needs."""
        on = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def _answered(self, tokens: Tensor, at: Tensor, answers: Tensor) -> Tensor:
        with self.autocast():
            named: Tensor = self.net(tokens, at).argmax(-1)
        return (named == answers).float()

    def _here(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def _one(self, lane: Lane) -> None:
        """One step: a lane's first by torch, the others by its graph where one can be captured."""
        if lane.left == 0:
            self._draw(lane)
        if lane.graph is None and self.captured and lane.eager == EAGER:
            self._capture(lane)
        if lane.graph is not None:
            lane.graph.replay()
        else:
            self.optimiser.zero_grad(set_to_none=True)
            self._step(lane)
            lane.eager += 1
        lane.left -= 1

    def _draw(self, lane: Lane) -> None:
        """Fill the lane's pool, where its graph reads it."""
        drawn = sample(lane.task, POOL, lane.each, self.generator)
        if lane.drawn is None:
            lane.drawn = drawn
        else:
            for old, new in zip(lane.drawn, drawn, strict=True):
                old.copy_(new)
        lane.slot.zero_()
        lane.left = POOL

    def _capture(self, lane: Lane) -> None:
        # Gradients are made anew inside, so that the graph owns them.
        self.optimiser.zero_grad(set_to_none=True)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local"):
                self._step(lane)
            lane.graph = graph
        except RuntimeError as error:
            self.captured, self.why_not = False, str(error).splitlines()[0]

    def _step(self, lane: Lane) -> None:
        """What a graph records: nothing here asks the host for a number."""
        assert lane.drawn is not None  # `_draw` came before
        tokens, at, answers = (part.index_select(0, lane.slot)[0] for part in lane.drawn)
        self.lr.copy_(self._scheduled())
        with self.autocast():
            logits = self.net(tokens, at)
        loss = functional.cross_entropy(logits, answers)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimiser.step()
        with torch.no_grad():
            self.losses.index_copy_(0, self.step, loss.detach()[None])
            self.scores.index_copy_(0, self.step, (logits.argmax(-1) == answers).float().mean()[None])
            self.step += 1
            lane.slot += 1

    def _scheduled(self) -> Tensor:
        """The step's learning rate: linear over the warm-up, and a cosine to zero."""
        now = self.step[0].float()
        rise = ((now + 1.0) / self.recipe.warm_up).clamp(max=1.0)
        return self.recipe.lr * rise * 0.5 * (1.0 + torch.cos(pi * now / self.recipe.steps))

    def _wait(self) -> None:
        """Keep the host no more than AHEAD rounds before the device."""
        if self.stream is None:
            return
        self._queued.append(self.stream.record_event())
        if len(self._queued) > AHEAD:
            self._queued.popleft().synchronize()
