"""Multi-query associative recall (Zoology, Arora and others 2023, arXiv 2312.04927): the task and its sampler.

A sequence of T tokens begins with N pairs, a key and the value after it; all keys differ, and so do all values. Each
key comes once more later, alone, and at this step its value is to be named. Every second place after the pairs may be
asked at, and the nearer ones are the likelier: P(place j) ∝ j^(a − 1) with a = 0.01, without replacement. All other
steps hold token 0, blank. Of a vocabulary of V, tokens 1 … V/2 − 1 are keys and V/2 … V − 1 values: chance is 2/V, and
1/N for one who knows the sequence's values but not whose they are.

V = 8192 as there: with few symbols a network may give each key a direction of its own, and keys that are alike never
have to be told apart. Between the questions lie blanks, not random tokens, so that a memory has N pairs to hold
whatever T is.

One batch holds as many sequences of each N of a task: how many answers there are never changes, so that a step of
training can be a CUDA graph, and none is spent on what is no answer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ssrtrack.errors import TrainingError

Tensor = torch.Tensor
VOCABULARY = 8192
POWER = 0.01  # a of the places' power law
LENGTHS = (64, 128, 256, 512, 1024)
PAIRS = (4, 8, 16, 32, 64, 128, 256)
BLANK = 0


@dataclass(frozen=True)
class RecallTask:
    """Sequences of T `steps` with N in `pairs`, as many of each; a TrainingError says what does not fit together."""

    steps: int
    pairs: tuple[int, ...]
    vocabulary: int = VOCABULARY

    def __post_init__(self) -> None:
        if not self.pairs or min(self.pairs) < 1:
            raise TrainingError(f"pairs are {self.pairs}, expected at least one number, each 1 or more")
        if 4 * max(self.pairs) > self.steps:
            raise TrainingError(
                f"{max(self.pairs)} pairs and as many questions, every second step, take {4 * max(self.pairs)} steps, "
                f"got {self.steps}"
            )
        if self.vocabulary % 2 or self.vocabulary // 2 <= max(self.pairs):
            raise TrainingError(
                f"a vocabulary of {self.vocabulary} must be even and have more than {max(self.pairs)} keys"
            )

    @property
    def chance(self) -> float:
        """Share of answers that guessing among the values gets right."""
        return 2.0 / self.vocabulary


class Drawn(NamedTuple):
    """Batches of sequences: tokens (count, B, T), and where questions stand and what is right, (count, answers).

    B is `each` sequences of each number of pairs, in order. `at` counts a batch's steps on, sequence · T + step. All
    are int64.
    """

    tokens: Tensor
    at: Tensor
    answers: Tensor


def tasks(vocabulary: int = VOCABULARY, lengths: tuple[int, ...] = LENGTHS, most: int = PAIRS[-1]) -> list[RecallTask]:
    """A task for each length, with all numbers of pairs in PAIRS that it has room for, up to `most`."""
    return [RecallTask(T, tuple(n for n in PAIRS if n <= min(most, T // 4)), vocabulary) for T in lengths]


def sample(task: RecallTask, count: int, each: int, generator: torch.Generator) -> Drawn:
    """`count` batches of `each` sequences of each number of pairs, on the generator's device, without a loop over them.

    The seed alone decides what is drawn (on one kind of device).
    """
    parts = [_sequences(task, n, count * each, generator) for n in task.pairs]
    tokens = torch.cat([part[0].view(count, each, task.steps) for part in parts], 1)
    at, answers = [], []
    for i, (_, where, values) in enumerate(parts):
        rows = torch.arange(i * each, (i + 1) * each, device=where.device)[:, None]
        at.append((rows * task.steps + where.view(count, each, -1)).flatten(1))
        answers.append(values.view(count, -1))
    return Drawn(tokens, torch.cat(at, 1), torch.cat(answers, 1))


def cells_of(task: RecallTask, each: int, right: Tensor) -> dict[int, Tensor]:
    """What `right` (…, answers) says of each number of pairs, (…, each · N): answers lie in the order of `pairs`."""
    return dict(zip(task.pairs, torch.split(right, [each * n for n in task.pairs], -1), strict=True))


def rule_answers(tokens: Tensor, at: Tensor) -> Tensor:
    """The answers (answers,) to the questions at `at`, read off one batch of tokens (B, T) alone."""
    steps = tokens.shape[1]
    row, step = at // steps, at % steps
    asked = tokens.flatten()[at]
    # Where the key stood before, the first time: the pairs' part is the sequence's beginning.
    same = (tokens[row] == asked[:, None]) & (torch.arange(steps, device=at.device) < step[:, None])
    first = same.int().argmax(1)
    found = tokens[row, (first + 1).clamp(max=steps - 1)]
    return torch.where(same.any(1), found, -1)


def places_log_weight(slots: int, device: torch.device | str = "cpu") -> Tensor:
    """log P of each place for a question, (slots,), the nearest first: (a − 1) log j and a constant."""
    j = torch.arange(1, slots + 1, device=device, dtype=torch.float32)
    return torch.log_softmax((POWER - 1.0) * torch.log(j), 0)


def _sequences(task: RecallTask, n: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (count, T), steps of the questions (count, n) and their answers (count, n)."""
    half, device = task.vocabulary // 2, generator.device
    keys = _distinct(count, half - 1, n, generator) + 1
    values = _distinct(count, half, n, generator) + half
    slots = (task.steps - 2 * n) // 2
    # The n greatest of log P + Gumbel noise are n draws by P without replacement, in the order they were drawn.
    noise = -torch.empty(count, slots, device=device).exponential_(generator=generator).log()
    where = 2 * n + 2 * (places_log_weight(slots, device) + noise).topk(n, 1).indices
    tokens = torch.full((count, task.steps), BLANK, device=device, dtype=torch.int64)
    tokens[:, : 2 * n] = torch.stack([keys, values], -1).flatten(1)
    return tokens.scatter_(1, where, keys), where, values


def _distinct(count: int, of: int, n: int, generator: torch.Generator) -> Tensor:
    """n distinct numbers below `of` in random order, (count, n)."""
    return torch.rand(count, of, generator=generator, device=generator.device).topk(n, 1).indices
