"""KOSS's Spectral Differentiation Unit: the derivative of a whole sequence, low-passed, at regular or irregular times.

The derivative is i 2πf H(f) in frequency (arXiv 2512.16723, the unit's definition), H = 1 up to f_c and a cosine to 0
at 2 f_c. A sequence is no period of anything: the straight line between its ends is taken off, the rest reflected
through both end points, and the line's slope added afterwards, so that a ramp is exact up to its last sample; of a sine
of f = .03 the last derivative is within 6 % of the largest, for its curvature is lost there. The unit sees the whole
sequence, the future too: for smoothing and forecasting. `ssrtrack.models.koss_causal` is for filtering.
"""

import math

import torch
from torch import nn

from ssrtrack.errors import EstimatorError

Tensor = torch.Tensor
LEAST_CUTOFF, NYQUIST = 0.01, 0.5  # cycles a sample
OVERSAMPLING = 2  # grid points a nominal sample, where stamps are irregular
REFINEMENTS = 2  # of the grid's values against the samples; each divides the error by 10 or more below f = .1
LARGEST_GRID = 64  # grid points a sample; beyond, memory goes to gaps in which nothing was seen
CUBIC = 4  # points of the interpolation
LEAST_STEP = 0.1  # nominal samples between two that are used: of closer ones only noise would be differentiated


class SpectralDifferentiation(nn.Module):
    """ẋ of x (T, B, D) per nominal sample: x̂(f) · i 2πf · H(f), f in cycles per nominal sample.

    H(f) = 1 for f ≤ f_c, ½ + ½ cos(π (f − f_c)/f_c) to 2 f_c, 0 beyond. Below f_c the response is 2πf. Noise: unit
    white noise leaves with a deviation of 1.07 at f_c = .25. Look-ahead falls below 1 % of the effect within 6 samples
    and reaches all of the sequence.

    Args:
        cutoff: f_c, cycles per nominal sample, from 0.01 to 0.5.
        learnable: f_c = 0.01 + 0.49 σ(θ) with a parameter θ that starts at `cutoff`.

    Raises:
        EstimatorError: a cutoff outside its range.
    """

    def __init__(self, cutoff: float = 0.25, *, learnable: bool = False) -> None:
        super().__init__()
        if not LEAST_CUTOFF <= cutoff <= NYQUIST or (learnable and cutoff in (LEAST_CUTOFF, NYQUIST)):
            ends = ", ends excluded where it is learned"
            raise EstimatorError(
                f"the cut-off is {cutoff!r}, expected {LEAST_CUTOFF} to {NYQUIST} cycles a sample{ends}"
            )
        self.fixed = cutoff
        share = (cutoff - LEAST_CUTOFF) / (NYQUIST - LEAST_CUTOFF)
        self.theta = nn.Parameter(torch.tensor(math.log(share / (1.0 - share)))) if learnable else None

    def cutoff(self) -> float | Tensor:
        """f_c in cycles per nominal sample: a number, or a tensor of no dimension where it is learned."""
        if self.theta is None:
            return self.fixed
        return LEAST_CUTOFF + (NYQUIST - LEAST_CUTOFF) * torch.sigmoid(self.theta)

    def low_pass(self, frequency: Tensor) -> Tensor:
        """H(f) of frequencies in cycles per nominal sample, any shape."""
        cutoff = self.cutoff()
        beyond = ((frequency - cutoff) / cutoff).clamp(0.0, 1.0)
        return 0.5 + 0.5 * torch.cos(math.pi * beyond)

    def forward(self, x: Tensor, time: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """ẋ (T, B, D) per nominal sample, float32 or x's float64.

        Irregular samples are interpolated to a uniform grid (local cubics), differentiated there, and the derivative
        interpolated back to their times; the grid is first mended twice by what it misses of the samples. A sine at
        f = .1 with stamps jittered by ±.3 samples comes out within 2e-4 of its derivative's size, at f = .2 within
        2e-3; with one sample in five missing as well within 2e-2 at f = .1 (the gaps, not the method, set that).
        Such a call asks the device for the grid's size, so no CUDA graph can hold it.

        Args:
            x: samples (T, B, D).
            time: their times in nominal samples, rising (T, B), at misses too; None: one apart. float64 where they are
                large. Samples closer than 0.1 to the one before are left out: their difference is noise (at Poisson
                times it would come out 20 times as large).
            valid: where False, x is not there (T, B); the derivative is made there all the same.

        Raises:
            EstimatorError: shapes that do not fit, times that fall or are not finite, or sequences so sparse that the
                grid has over 64 points a sample.
        """
        x = x if x.dtype == torch.float64 else x.float()
        for name, v in (("time", time), ("valid", valid)):
            if v is not None and v.shape != x.shape[:2]:
                raise EstimatorError(f"{name} is {tuple(v.shape)}, expected {tuple(x.shape[:2])}, as x's first two")
        if valid is not None and valid.dtype != torch.bool:
            raise EstimatorError(f"valid is {valid.dtype}, expected torch.bool: True where x is there")
        if x.shape[0] < 2:
            return torch.zeros_like(x)
        with torch.autocast(x.device.type, enabled=False):
            if time is None and valid is None:
                return self._on_grid(x, x.new_ones(1), derivative=True)
            return self._irregular(x, time, valid)

    def _on_grid(self, u: Tensor, step: Tensor, *, derivative: bool) -> Tensor:
        """u (M, B, D) on a grid of `step` (B) or (1) nominal samples, low-passed, or the derivative of that."""
        last = u.shape[0] - 1
        rise = (u[-1] - u[0]) / last
        line = u[0] + rise * torch.arange(last + 1, dtype=u.dtype, device=u.device)[:, None, None]
        off = u - line
        period = torch.cat([off, -off[1:-1].flip(0)])
        turns = torch.arange(last + 1, dtype=u.dtype, device=u.device)[:, None] / (2 * last)
        frequency = turns / step.to(u.dtype)
        gain = self.low_pass(frequency).to(u.dtype)
        spectrum = torch.fft.rfft(period, dim=0) * gain[..., None]
        if not derivative:
            smooth: Tensor = torch.fft.irfft(spectrum, 2 * last, dim=0)[: last + 1] + line
            return smooth
        # At the Nyquist frequency the product is imaginary there and is dropped by the inverse, as it has to be.
        spectrum = spectrum * (2j * math.pi * frequency[..., None])
        slope: Tensor = torch.fft.irfft(spectrum, 2 * last, dim=0)[: last + 1] + rise / step.to(u.dtype)[:, None]
        return slope

    def _irregular(self, x: Tensor, time: Tensor | None, valid: Tensor | None) -> Tensor:
        steps, batch, _ = x.shape
        if time is None:
            time = torch.arange(steps, device=x.device)[:, None].expand(steps, batch)
        time = time.detach().double()
        if not bool((time.diff(dim=0) >= 0.0).all() & time.isfinite().all()):
            raise EstimatorError(
                "time has to rise from row to row and be finite, also where x is missing; sort the rows"
            )
        nodes, values, count = _nodes(x, time, valid)
        first = nodes[1]
        span = nodes.gather(0, count[None].clamp(min=1))[0] - first
        points = max(2, math.ceil(float(span.max()) * OVERSAMPLING) + 1)
        if points > LARGEST_GRID * steps:
            raise EstimatorError(
                f"{steps} samples span up to {float(span.max()):.0f} nominal samples; cut sequences at their long "
                "gaps, or give time in units of their typical distance"
            )
        known = count > 1
        step = torch.where(known, span / (points - 1), 1.0)
        grid = first + step * torch.arange(points, device=x.device)[:, None]
        to_grid = _cubic(nodes, grid, count)
        held = _reflected_times(grid)
        full = count.new_full((batch,), points)
        to_nodes = _cubic(held, nodes.clamp(first, first + step * (points - 1)), full)
        u = _interpolated(values, to_grid)
        inside = torch.arange(nodes.shape[0], device=x.device)[:, None] - 1
        real = ((inside >= 0) & (inside < count))[..., None]
        for _ in range(REFINEMENTS):
            u = self._on_grid(u, step, derivative=False)
            missed = torch.where(real, values - _interpolated(_reflected(u), to_nodes), 0.0)
            u = u + _interpolated(_with_ghosts(missed, count), to_grid)
        slope = _reflected(self._on_grid(u, step, derivative=True))
        own = _cubic(held, time.clamp(min=first).minimum(first + step * (points - 1)), full)
        return torch.where(known[:, None], _interpolated(slope, own), 0.0)


def _nodes(x: Tensor, time: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Times (T + 2, B) and values (T + 2, B, D) of what is there, in front, from row 1; count (B) of them.

    Row 0 and row count + 1 are the points beside the ends, reflected through them; times go on rising after that.
    """
    seen = torch.ones_like(time, dtype=torch.bool) if valid is None else valid
    seen = seen & torch.cat([seen[:1], _since_seen(time, seen)[1:] >= LEAST_STEP])
    order = torch.argsort((~seen).byte(), dim=0, stable=True)
    count = seen.sum(0)
    row = torch.arange(x.shape[0], device=x.device)[:, None]
    there = row < count
    times = time.gather(0, order)
    end = times.gather(0, (count[None] - 1).clamp(min=0))
    times = torch.where(there, times, end + (row - count + 1))
    values = torch.where(there[..., None], x.gather(0, order[..., None].expand_as(x)), 0.0)
    values = torch.cat([values[:1] * 0.0, values, values[:1] * 0.0])
    before = 2.0 * times[:1] - times[1:2]
    times = torch.cat([before, times, times[-1:] + 1.0])
    # The right ghost stands as far behind the last node as the node before it stands in front.
    ghost = 2.0 * end - times.gather(0, (count[None] - 1).clamp(min=0))
    later = torch.arange(times.shape[0], device=x.device)[:, None] - count - 1
    times = torch.where(later >= 0, ghost + later, times)
    return times, _with_ghosts(values, count), count


def _since_seen(time: Tensor, seen: Tensor) -> Tensor:
    """Time since the last row before that is there (T, B); infinite where there is none."""
    latest = torch.where(seen, time, -math.inf).cummax(0).values
    return time - torch.cat([torch.full_like(latest[:1], -math.inf), latest[:-1]])


def _with_ghosts(values: Tensor, count: Tensor) -> Tensor:
    """Values (T + 2, B, D) with the rows 0 and count + 1 set to reflections through the first and the last one."""

    def at(row: Tensor) -> Tensor:
        return values.gather(0, row.clamp(min=1)[None, :, None].expand(1, *values.shape[1:]))

    front = 2.0 * values[1:2] - at(count.clamp(max=2))
    back = 2.0 * at(count) - at(count - 1)
    row = torch.arange(values.shape[0], device=values.device)[:, None, None]
    return torch.where(row == 0, front, torch.where(row == (count + 1)[:, None], back, values))


def _reflected(u: Tensor) -> Tensor:
    """u (M, B, D) with one point more at both ends, reflected through the end."""
    return torch.cat([2.0 * u[:1] - u[1:2], u, 2.0 * u[-1:] - u[-2:-1]])


def _reflected_times(grid: Tensor) -> Tensor:
    return torch.cat([2.0 * grid[:1] - grid[1:2], grid, 2.0 * grid[-1:] - grid[-2:-1]])


def _cubic(nodes: Tensor, at: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (4, M, B) and Lagrange weights of the four nodes around times `at` (M, B); nodes (K, B) with ghosts."""
    place = torch.searchsorted(nodes.T.contiguous(), at.T.contiguous(), right=True).T - 1
    place = place.clamp(min=1).minimum((count - 1).clamp(min=1))
    rows = torch.stack([place + k - 1 for k in range(CUBIC)])
    near = torch.stack([nodes.gather(0, r) for r in rows])
    weights = []
    for a in range(CUBIC):
        weight = torch.ones_like(at)
        for b in range(CUBIC):
            if a != b:
                weight = weight * (at - near[b]) / (near[a] - near[b])
        weights.append(weight)
    return rows, torch.stack(weights)


def _interpolated(values: Tensor, cubic: tuple[Tensor, Tensor]) -> Tensor:
    """Σ_k w_k values[row_k] (M, B, D)."""
    rows, weights = cubic
    taken: list[Tensor] = [
        weight.to(values.dtype)[..., None] * values.gather(0, row[..., None].expand(*row.shape, values.shape[-1]))
        for row, weight in zip(rows, weights, strict=True)
    ]
    return taken[0] + taken[1] + taken[2] + taken[3]
