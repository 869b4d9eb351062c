"""Filtering a level that jumps: where a filter's own innovation should steer its gain.

A level y is N(0, 9) and, at each later step with probability 0.05, drawn anew; what is seen is x = y + N(0, 1). Errors
are mean squares over all steps from the fifth on. Two lines to read them against: the best filter of one fixed gain,
and the exact posterior mean, below which nothing can come (Adams and MacKay 2007, arXiv 0710.3742: a mixture over how
long ago the last jump was, each part a Gaussian).
"""

from dataclasses import dataclass
from math import log

import torch

Tensor = torch.Tensor
WARM_UP = 4  # steps whose errors do not count


@dataclass(frozen=True)
class Levels:
    """The process: jump probability, standard deviations of level and noise, steps of a sequence."""

    jump: float = 0.05
    level: float = 3.0
    noise: float = 1.0
    steps: int = 128


def sample(levels: Levels, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What is seen and the level, both (count, steps) float32 on the generator's device."""
    shape, device = (count, levels.steps), generator.device
    drawn = torch.randn(shape, generator=generator, device=device) * levels.level
    jumped = torch.rand(shape, generator=generator, device=device) < levels.jump
    steps = torch.arange(levels.steps, device=device).expand(shape)
    # The step of the last jump, whose draw is the level.
    since = torch.where(jumped, steps, 0).cummax(1).values
    level = drawn.gather(1, since)
    return level + levels.noise * torch.randn(shape, generator=generator, device=device), level


def squared_error(estimate: Tensor, level: Tensor) -> Tensor:
    """Mean square of the error over sequences and steps after the warm-up."""
    return ((estimate - level)[:, WARM_UP:] ** 2).mean()


def fixed_gain(x: Tensor, gain: float) -> Tensor:
    """ŷ = ŷ + K (x − ŷ) along (B, T) from ŷ = x at the first step."""
    out = [x[:, 0]]
    for t in range(1, x.shape[1]):
        out.append(out[-1] + gain * (x[:, t] - out[-1]))
    return torch.stack(out, 1)


def fixed_gain_error(levels: Levels, gain: float) -> float:
    """The stationary error of a fixed gain K, exactly.

    With the level's covariance σ² r^|τ|, r = 1 − jump, and q = 1 − K:
    σ² (1 − 2 K / (1 − q r) + K / (2 − K) · (1 + q r) / (1 − q r)) + noise² K / (2 − K).
    """
    r, q = 1.0 - levels.jump, 1.0 - gain
    through = gain / (2.0 - gain)
    tracked = 1.0 - 2.0 * gain / (1.0 - q * r) + through * (1.0 + q * r) / (1.0 - q * r)
    return levels.level**2 * tracked + levels.noise**2 * through


def best_fixed_gain(levels: Levels, parts: int = 10_000) -> tuple[float, float]:
    """The gain with the least stationary error among so many, and that error."""
    return min(((k / parts, fixed_gain_error(levels, k / parts)) for k in range(1, parts)), key=lambda pair: pair[1])


def exact_filter(levels: Levels, x: Tensor) -> Tensor:
    """E[y_t | x_1 … x_t] (B, T), float64: no filter has a smaller mean square error.

    Part r of the mixture says that the level was drawn r steps ago: given that, it is Gaussian with precision
    1/σ² + (r + 1)/noise², and its next observation is N(mean, variance + noise²). All parts are kept.
    """
    x = x.double()
    prior, seen = levels.level**-2.0, levels.noise**-2.0
    counts = torch.arange(levels.steps + 1, dtype=torch.float64, device=x.device)
    precision = prior + counts * seen  # of the part that has seen so many
    sums, weight = x.new_zeros((x.shape[0], 0)), x.new_zeros((x.shape[0], 0))
    out = []
    for t in range(x.shape[1]):
        # One more part begins here; at the first step it is all there is.
        stay = weight + log(1.0 - levels.jump)
        begin = x.new_full((x.shape[0], 1), 0.0 if t == 0 else log(levels.jump))
        weight, sums = torch.cat([begin, stay], 1), torch.cat([torch.zeros_like(begin), sums], 1)
        before = precision[: t + 1]
        variance = 1.0 / before + levels.noise**2
        off = x[:, t, None] - seen * sums / before
        weight = weight - 0.5 * (off**2 / variance + variance.log())
        weight = weight - weight.logsumexp(1, keepdim=True)
        sums = sums + x[:, t, None]
        out.append((weight.exp() * (seen * sums / precision[1 : t + 2])).sum(1))
    return torch.stack(out, 1)
