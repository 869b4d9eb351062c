"""Selective copying with distractors: three tasks, their samplers, and programs that solve them by their rules.

A strip of steps is blank but for M tokens and what lies there to mislead; M markers follow, and at the k-th of them the
k-th token is to be named. Every step is one number: 0 is blank, 1 … A − 2 are the symbols, A − 1 is the marker, so that
an alphabet of A has A − 2 symbols and chance is 1 / (A − 2). Three rules say what misleads (`CopyTask.rule`):

follow   After each token, in the step after it, stands token · ρ · (1 + 0.1 u), u uniform in [0, 1]: a weaker echo.
         Intensity ρ = 0 leaves that step blank: the clean task of Mamba (arXiv 2312.00752, section 4.1.1).
mode     Of 2M tokens half count. A flag says whether the tokens after it do, until the next flag; between a flag and
         the first token after it lie 7 steps, more than two convolutions of 4 taps see back.
repeat   A token that repeats the last one stored does not count; events lie 7 or more steps apart.

`mode` and `repeat` cannot be solved by a rule that decides on each token by the current input alone; `blind_answers`
are the best that such a rule can say, and their score is the line to beat. It is no bound on a network whose gains see
inputs alone: one that keeps everything may sort it out when it answers, and a second block is told by the first.
"""

from dataclasses import dataclass
from functools import cache
from math import comb

import torch

from ssrtrack.errors import TrainingError

Tensor = torch.Tensor
RULES = ("follow", "mode", "repeat")
APART = 7  # steps from a flag to its first token, and between events of `repeat`
FLAGGED = 12  # steps from a flag to the next: the flag, APART blanks, then places for two tokens
BUMPS = 4  # Gaussian bumps for each unit of the input
SPREAD = 0.125  # their standard deviation, half their distance


@dataclass(frozen=True)
class CopyTask:
    """One task: M `tokens` of an `alphabet` of A in a `strip` of so many steps; `rho` is ρ of the rule `follow`.

    A TrainingError says what does not fit together.
    """

    name: str
    rule: str
    tokens: int
    alphabet: int
    strip: int
    rho: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise TrainingError(f"rule {self.rule!r} is not one of {', '.join(RULES)}")
        if self.rule == "mode" and self.strip != self.tokens * FLAGGED:
            raise TrainingError(f"rule 'mode' with {self.tokens} tokens takes a strip of {self.tokens * FLAGGED} steps")
        if self.rule == "mode" and self.tokens % 2:
            raise TrainingError(f"rule 'mode' takes an even number of tokens, got {self.tokens}")
        if self.strip < self.least_strip:
            raise TrainingError(
                f"a strip of {self.strip} steps is too short: this task takes {self.least_strip} or more"
            )

    @property
    def symbols(self) -> int:
        """Values that a token may have; the classes of the answer."""
        return self.alphabet - 2

    @property
    def marker(self) -> int:
        """The number that asks for an answer."""
        return self.alphabet - 1

    @property
    def values(self) -> int:
        """Whole numbers that may occur; the two flags come after the marker."""
        return self.alphabet + 2 * (self.rule == "mode")

    @property
    def chance(self) -> float:
        """Share of tokens that guessing among the symbols gets right."""
        return 1.0 / self.symbols

    @property
    def least_strip(self) -> int:
        """Steps without which the tokens have no room."""
        return (2 * self.tokens - 1) * APART + 1 if self.rule == "repeat" else 2 * self.tokens


# 24 blanks beside 8 tokens and their echoes; half of 16 tokens under 8 flags; 16 tokens in 4,096 steps.
TASKS = {
    task.name: task
    for task in (
        CopyTask("short", "follow", tokens=8, alphabet=8, strip=40, rho=0.5),
        CopyTask("mode", "mode", tokens=8, alphabet=8, strip=8 * FLAGGED),
        CopyTask("repeat", "repeat", tokens=8, alphabet=8, strip=128),
        CopyTask("long", "follow", tokens=16, alphabet=16, strip=4096, rho=0.5),
    )
}


def sample(task: CopyTask, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (count, strip + M) float32 and the answers' classes (count, M) int64, 0 for symbol 1.

    All on the generator's device, without a loop over sequences or steps.
    """
    strip, answers = {"follow": _follow, "mode": _mode, "repeat": _repeat}[task.rule](task, count, generator)
    markers = torch.full((count, task.tokens), float(task.marker), device=strip.device)
    return torch.cat([strip, markers], 1), answers - 1


def bumps(x: Tensor, values: int) -> Tensor:
    """Numbers (...) as exp(−(x − c)² / 2σ²) at centres c four to the unit, (..., 4 · values): the same for all models.

    Fixed, so that no model has to learn where a number lies; σ is half the distance of the centres.
    """
    centres = torch.arange(BUMPS * values, device=x.device, dtype=x.dtype) / BUMPS
    return torch.exp(-0.5 * ((x[..., None] - centres) / SPREAD) ** 2)


def rule_answers(task: CopyTask, x: Tensor) -> Tensor:
    """The answers (B, M) by the task's rule, read off the inputs (B, steps) alone: what there is to be learned."""
    strip = x[:, : task.strip]
    if task.rule == "follow":
        # An echo stands right after a token and a token never does.
        after = torch.cat([torch.zeros_like(strip[:, :1]), strip[:, :-1]], 1)
        told = torch.zeros_like(strip, dtype=torch.bool)
        for t in range(strip.shape[1]):
            told[:, t] = (strip[:, t] > 0) & ~((after[:, t] > 0) & told[:, t - 1])
        return _first(strip, told, task.tokens)
    tokens = (strip > 0) & (strip <= task.symbols)
    held = torch.zeros_like(strip[:, 0])
    kept = torch.zeros_like(tokens)
    for t in range(strip.shape[1]):
        now = strip[:, t]
        if task.rule == "mode":
            held = torch.where(now > task.marker, now, held)
            kept[:, t] = tokens[:, t] & (held == _flag(task, counts=True))
        else:
            kept[:, t] = tokens[:, t] & (now != held)
            held = torch.where(tokens[:, t], now, held)
    return _first(strip, kept, task.tokens)


def blind_answers(task: CopyTask, x: Tensor) -> Tensor:
    """The best answers (B, M) of a rule whose choice what to keep looks at the current input alone.

    follow: keeps what is a whole number; an echo is none unless u makes it one, so this is nearly always right.
    mode: sees every token and no flag, and names the symbol that is most probable under all orders of the flags: no
    program that ignores the flags is better. repeat: such a rule keeps repeats as well, and the k-th answer is the
    j-th token it kept, with the best j for each k. (A program that compared them afterwards would know all.)
    """
    strip = x[:, : task.strip]
    if task.rule == "follow":
        return _first(strip, (strip > 0) & (strip == strip.round()), task.tokens)
    seen = _first(strip, (strip > 0) & (strip <= task.symbols), 2 * task.tokens)
    if task.rule == "repeat":
        return seen[:, torch.tensor(repeat_table(task.tokens, task.symbols)).argmax(1)]
    weight = torch.tensor(mode_table(task.tokens), dtype=torch.float64)
    votes = torch.nn.functional.one_hot(seen, task.symbols).double()
    return torch.einsum("kj,bja->bka", weight, votes).argmax(-1)


@cache
def mode_table(tokens: int) -> list[list[float]]:
    """P(token j of 2M is the k-th that counts), (M, 2M), for flags of which half count, in any order alike."""
    table = [[0.0] * (2 * tokens) for _ in range(tokens)]
    half = tokens // 2
    for pair in range(tokens):  # flags, two tokens under each
        for before in range(half):  # of them that count, earlier
            ways = comb(pair, before) * comb(tokens - 1 - pair, half - 1 - before)
            for side in range(2):
                table[2 * before + side][2 * pair + side] = ways / comb(tokens, half)
    return table


@cache
def repeat_table(tokens: int, symbols: int) -> list[list[float]]:
    """P(the symbol of event j of 2M is that of the k-th new token), (M, 2M), new ones in any order alike."""
    same = [1.0]  # that symbols m new tokens apart are equal
    for _ in range(tokens):
        same.append((1.0 - same[-1]) / (symbols - 1))
    table = [[0.0] * (2 * tokens) for _ in range(tokens)]
    ways = comb(2 * tokens - 1, tokens - 1)
    for event in range(2 * tokens):
        for i in range(tokens):  # new tokens after the first, up to this event
            left = tokens - 1 - i
            if i <= event and left <= 2 * tokens - 1 - event:
                p = comb(event, i) * comb(2 * tokens - 1 - event, left) / ways
                for k in range(tokens):
                    table[k][event] += p * same[abs(i - k)]
    return table


def _follow(task: CopyTask, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    symbols = _symbols(task, count, task.tokens, generator)
    # Places among strip − M, each widened by one step for what follows its token.
    at = _places(count, task.strip - task.tokens, task.tokens, generator)
    at = at + torch.arange(task.tokens, device=at.device)
    u = torch.rand(symbols.shape, generator=generator, device=generator.device)
    strip = _blank(task, count, generator).scatter_(1, at, symbols.float())
    return strip.scatter_(1, at + 1, symbols * task.rho * (1.0 + 0.1 * u)), symbols


def _mode(task: CopyTask, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    symbols = _symbols(task, count, 2 * task.tokens, generator)
    device = symbols.device
    chosen = _places(count, task.tokens, task.tokens // 2, generator)
    counts = torch.zeros((count, task.tokens), dtype=torch.bool, device=device).scatter_(1, chosen, True)
    starts = torch.arange(task.tokens, device=device) * FLAGGED
    flags = torch.where(counts, float(_flag(task, counts=True)), float(_flag(task, counts=False)))
    strip = _blank(task, count, generator).scatter_(1, starts.expand(count, -1), flags)
    places = _places(count * task.tokens, FLAGGED - APART - 1, 2, generator).reshape(count, task.tokens, 2)
    at = (starts[:, None] + APART + 1 + places).reshape(count, -1)
    strip.scatter_(1, at, symbols.float())
    return strip, symbols[counts.repeat_interleave(2, 1)].reshape(count, task.tokens)


def _repeat(task: CopyTask, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    first = _symbols(task, count, 1, generator)
    moved = torch.randint(
        1, task.symbols, (count, task.tokens - 1), generator=generator, device=generator.device
    )  # never 0: a new token differs from the one before
    symbols = (torch.cat([first - 1, moved], 1).cumsum(1) % task.symbols) + 1
    events = 2 * task.tokens
    new = torch.zeros((count, events), dtype=torch.int64, device=symbols.device)
    new.scatter_(1, _places(count, events - 1, task.tokens - 1, generator) + 1, 1)
    at = _places(count, task.strip - (events - 1) * (APART - 1), events, generator)
    at = at + (APART - 1) * torch.arange(events, device=at.device)
    values = symbols.gather(1, new.cumsum(1))
    return _blank(task, count, generator).scatter_(1, at, values.float()), symbols


def _places(count: int, slots: int, chosen: int, generator: torch.Generator) -> Tensor:
    """`chosen` distinct of `slots` places in order, every set alike: (count, chosen)."""
    keys = torch.rand((count, slots), generator=generator, device=generator.device)
    return keys.topk(chosen, dim=1).indices.sort(dim=1).values


def _symbols(task: CopyTask, count: int, tokens: int, generator: torch.Generator) -> Tensor:
    return torch.randint(1, task.symbols + 1, (count, tokens), generator=generator, device=generator.device)


def _blank(task: CopyTask, count: int, generator: torch.Generator) -> Tensor:
    return torch.zeros((count, task.strip), device=generator.device)


def _flag(task: CopyTask, *, counts: bool) -> int:
    return task.marker + 1 + (not counts)


def _first(strip: Tensor, kept: Tensor, tokens: int) -> Tensor:
    """Classes of the first so many kept numbers of each row, in order; where there are fewer, class 0."""
    steps = torch.arange(strip.shape[1], device=strip.device).expand_as(strip)
    order = torch.where(kept, steps, strip.shape[1]).sort(dim=1).values[:, :tokens]
    padded = torch.cat([strip, torch.ones_like(strip[:, :1])], 1)
    return padded.gather(1, order).round().long() - 1
