"""Derivatives for filtering, from the past alone: what a KOSS layer takes in place of the spectral unit online.

A sequence's samples have times of their own and may be missing; what counts as the past of a sample are the last
samples before it that are there, in this call or in the calls before (`Seen`).
"""

from dataclasses import dataclass

import torch

Tensor = torch.Tensor
# Below this distance in nominal samples a difference is noise; it fades out in place of being divided by nearly 0.
LEAST_SPAN = 0.1
LEAST_LINE = 0.5 * LEAST_SPAN**2  # Σ(t − mean)² of two samples that far apart
TINY = 1e-30
TAPS = {"difference": 2, "causal": 5}  # samples that a derivative is made of, its own one included


@dataclass(frozen=True, eq=False)
class Seen:
    """The last K samples of B sequences that were there, newest first.

    value (K, B, D); age (K, B) in nominal samples at the sequence's last row; known (K, B): False before the first.
    """

    value: Tensor
    age: Tensor
    known: Tensor


@dataclass(frozen=True, eq=False)
class Past:
    """Every sample with the K samples before it that were there, newest first, and what the next call has to know.

    value: K + 1 tensors (T, B, D), the sample itself first. ago (K + 1, T, B): how long before it, nominal samples,
    float64. known (K + 1, T, B): False where there is none.
    """

    value: list[Tensor]
    ago: Tensor
    known: Tensor
    after: Seen


def nothing_seen(like: Tensor, batch: int, count: int) -> Seen:
    """Before the first sample of B sequences of `like`'s width (…, D), precision and device."""
    known = torch.zeros(count, batch, dtype=torch.bool, device=like.device)
    return Seen(like.new_zeros(count, batch, like.shape[-1]), like.new_zeros(known.shape, dtype=torch.float64), known)


def past_of(x: Tensor, gap: Tensor, valid: Tensor | None, before: Seen, begins: Tensor | None = None) -> Past:
    """The past of every sample of x (T, B, D), as many samples back as `before` holds.

    Args:
        gap: time since the row before in nominal samples (T, B).
        valid: where False, x is not there (T, B).
        begins: row (T, B) that each row's own sequence begins with, where several lie one after another.
    """
    depth, steps = before.value.shape[0], x.shape[0]
    line = torch.cat([before.value.flip(0), x])
    clock = gap.detach().double().cumsum(0)
    time = torch.cat([-before.age.flip(0), clock])
    here = torch.ones_like(gap, dtype=torch.bool) if valid is None else valid
    there = torch.cat([before.known.flip(0), here])
    row = torch.arange(depth, depth + steps, device=x.device)[:, None]
    end = clock[-1] if steps else torch.zeros_like(time[0])
    if valid is None and begins is None:
        index = torch.stack([(row - k).expand(steps, x.shape[1]) for k in range(depth + 1)])
        known = torch.stack([there[depth - k : depth - k + steps] for k in range(depth + 1)])
        value = [line[depth - k : depth - k + steps] for k in range(depth + 1)]
        kept = slice(steps, None)
        after = Seen(line[kept].flip(0), (end - time[kept]).flip(0), there[kept].flip(0))
    else:
        order = torch.argsort((~there).byte(), dim=0, stable=True)
        rank = there.cumsum(0)[depth:] - 1
        index = torch.stack([order.gather(0, (rank - k).clamp(min=0)) for k in range(depth + 1)])
        known = torch.stack([here & (rank >= k) for k in range(depth + 1)])
        if begins is not None:
            known = known & (index >= begins + depth)
        value = [x, *(_rows(line, where) for where in index[1:])]
        last = there.sum(0) - 1 - torch.arange(depth, device=x.device)[:, None]
        kept_rows = order.gather(0, last.clamp(min=0))
        after = Seen(_rows(line, kept_rows), end - time.gather(0, kept_rows), last >= 0)
    ago = torch.stack([time[depth:] - time.gather(0, where) for where in index])
    return Past(value, ago, known & here, after)


def slope_of(past: Past, taps: int) -> Tensor:
    """ẋ (T, B, D) per nominal sample from the last `taps` samples: 0 at misses and where nothing came before.

    Two: (x_t − x_last)/(t − t_last), over the true gap. More: the derivative at t of the parabola fitted to them by
    least squares, a line's where there are but two (koss's "causal LS-quadratic": white noise leaves 5 taps with a
    deviation of 1.12, two with 1.41). Exact on ramps, from three taps on parabolas too, whatever the gaps, unless noise
    would grow by more than LEAST_SPAN allows: then it is too small.
    """
    known = past.known[:taps]
    weights = _slope_weights(-past.ago[:taps], known.double(), curved=taps > 2)
    out = torch.zeros_like(past.value[0])
    for weight, value, there in zip(weights, past.value, known, strict=False):
        out = out + torch.where(there[..., None], weight.to(value.dtype)[..., None] * value, 0.0)
    return out


def change_of(past: Past) -> Tensor:
    """x_t − x_last (T, B, D), from 0 where nothing came before: a sequence rises from nothing. 0 at misses."""
    before = torch.where(past.known[1][..., None], past.value[1], 0.0)
    return torch.where(past.known[0][..., None], past.value[0] - before, 0.0)


def _slope_weights(at: Tensor, known: Tensor, *, curved: bool) -> Tensor:
    """Weights (K, T, B) of the derivative at 0 of the polynomial fitted to samples at times `at` ≤ 0.

    By polynomials orthogonal on the samples, q₁ = t − m and q₂ = q₁² − a q₁ − b:
    ẋ = Σ_k x_k (q₁/|q₁|² + q₂ q₂'(0)/|q₂|²). |q|² is at least LEAST_LINE q'(0)², so that neither term passes on more
    noise than the difference of two samples LEAST_SPAN apart does: of three samples two may lie nearly at one time.
    """
    count = known.sum(0).clamp(min=1.0)
    mean = (known * at).sum(0) / count
    q1 = known * (at - mean)
    line = (q1 * q1).sum(0)
    weights = q1 / line.clamp(min=LEAST_LINE)
    if curved:
        square = q1 * q1
        a, b = (q1 * square).sum(0) / line.clamp(min=LEAST_LINE), square.sum(0) / count
        q2 = known * (square - a * q1 - b)
        rise = -2.0 * mean - a
        weights = weights + q2 * rise / (q2 * q2).sum(0).maximum(LEAST_LINE * rise * rise).clamp(min=TINY)
    return weights


def _rows(line: Tensor, index: Tensor) -> Tensor:
    """Rows (K, B, D) of line (R, B, D) at index (K, B)."""
    return line.gather(0, index[..., None].expand(*index.shape, line.shape[-1]))
