"""What plots tell particles: the first one, the weights and Kalman updates of the others, and resampling.

A converted plot z is position plus the flight's range error b along the radius, plus noise independent along the radius
and across it, a mixture of K pairs of normal distributions (`Errors`). Given a particle the mixture's posterior is
known exactly; it is replaced by its mean and covariance, of which the next plot sees nearly nothing else.
"""

from dataclasses import dataclass, fields, replace
from math import log, pi
from typing import Any, Self

import torch

from ssrtrack.experiments.near_optimum_motion import BANK, BIAS, SIZE, Particles
from ssrtrack.experiments.near_optimum_prior import Errors, Habits

Tensor = torch.Tensor
OLD_SHARE = 0.2  # of particles that suppose a flight to have begun long before its first plot
OLD_S = 60.0
FAVOUR, YOUNG_S, SETTLED_S = 5.0, 60.0, 20.0
MOST_BANK_RAD = 1.3


@dataclass(frozen=True, eq=False)
class Seen:
    """Plots of B flights at one time: position_m (B, 2), radius (B, 2) unit vector, variances and factors (B,).

    range_m2, azimuth_m2: stated variance along the radius by range alone, and across it; rest_m2: along the radius by
    height; valid (B,) bool: there is a plot.
    """

    position_m: Tensor
    radius: Tensor
    range_m2: Tensor
    rest_m2: Tensor
    azimuth_m2: Tensor
    ground_m: Tensor
    valid: Tensor

    def rows(self, key: Any) -> Self:
        """Some of the flights."""
        return type(self)(*(getattr(self, f.name)[key] for f in fields(self)))


def seen_of(position_m: Tensor, covariance_m2: Tensor, sigma_range_m: Tensor, valid: Tensor) -> Seen:
    """Converted plots (B, ...) as the particles take them; the radar stands at the frame's origin."""
    ground = torch.linalg.vector_norm(position_m, dim=-1).clamp(min=1.0)
    radius = position_m / ground[..., None]
    across = torch.stack([radius[..., 1], -radius[..., 0]], -1)
    along_m2, across_m2 = (torch.einsum("...i,...ij,...j->...", u, covariance_m2, u) for u in (radius, across))
    # Near the radar the slant leaves more of the range's error than one for one; what height adds is in the rest.
    range_m2 = torch.minimum(sigma_range_m**2, along_m2)
    return Seen(position_m, radius, range_m2, along_m2 - range_m2, across_m2, ground, valid)


def noise_of(seen: Seen, errors: Errors) -> tuple[Tensor, Tensor]:
    """Variances along the radius and across it, (B, K) each, of the mixture's components."""
    along = seen.range_m2[:, None] * errors.range_scale2 + errors.range_m2
    along = along + (seen.rest_m2[:, None] + errors.jitter_m2)
    across = seen.azimuth_m2[:, None] * errors.azimuth_scale2 + seen.ground_m[:, None] ** 2 * errors.azimuth_rad2
    return along, across


def started(seen: Seen, habits: Habits, errors: Errors, count: int, rng: torch.Generator) -> Particles:
    """`count` particles of each flight after its first plot: about the plot, in every direction, at every speed."""
    shape, device = (len(seen.ground_m), count), rng.device

    def uniform() -> Tensor:
        return torch.rand(shape, generator=rng, device=device, dtype=torch.float64)

    # Aircraft begin evenly in their flow's circle: nearness makes a flow of a small circle likelier.
    inside = (seen.ground_m[:, None] < habits.radius_m).double() + 1e-3
    weight = habits.weight / habits.radius_m**2 * inside
    flow = torch.multinomial(weight, count, replacement=True, generator=rng)
    low, high = habits.speed_mps[0][flow], habits.speed_mps[1][flow]
    track = 2.0 * pi * (torch.arange(count, device=device) + uniform()) / count
    speed = low + (high - low) * uniform()
    # Particles stand in the ring of velocities as far apart as their own width.
    own = (pi * (high**2 - low**2).clamp(min=1.0) / count).sqrt()
    along, across = noise_of(seen, errors)
    kind = torch.multinomial(errors.log_weight.exp().expand(shape[0], -1), count, replacement=True, generator=rng)
    r = seen.radius[:, None].expand(*shape, 2)
    n = torch.stack([r[..., 1], -r[..., 0]], -1)
    covariance = torch.zeros((*shape, SIZE, SIZE), dtype=torch.float64, device=device)
    bias2 = errors.bias_m**2
    spread = along.gather(1, kind) + bias2, across.gather(1, kind)
    covariance[..., :2, :2] = sum(
        s[..., None, None] * u[..., None] * u[..., None, :] for s, u in zip(spread, (r, n), strict=True)
    )
    covariance[..., 2, 2] = covariance[..., 3, 3] = own**2
    covariance[..., BIAS, BIAS] = bias2
    covariance[..., :2, BIAS] = covariance[..., BIAS, :2] = -bias2 * r
    velocity = speed[..., None] * torch.stack([track.sin(), track.cos()], -1)
    place = seen.position_m[:, None].expand(*shape, 2)
    zero = torch.zeros(shape, dtype=torch.float64, device=device)
    elapsed = torch.where(uniform() < OLD_SHARE, OLD_S, 0.0)
    return Particles(
        mean=torch.cat([place, velocity, covariance.new_zeros((*shape, SIZE - BIAS))], -1), covariance=covariance,
        log_weight=zero - log(count), flow=flow, straight=torch.ones(shape, dtype=torch.bool, device=device),
        elapsed_s=elapsed, side=zero, out_s=zero, turned_rad=zero, least_rad=zero, most_rad=zero,
        gain_s=zero, climb_s=zero, age_s=elapsed,
    )  # fmt: skip


def updated(p: Particles, seen: Seen, errors: Errors) -> Particles:
    """The particles after a plot; a flight without one (`valid` False) keeps its own.

    With component k's innovation covariance S_k, its posterior share w_k and y_k = S_k⁻¹ ν, the mixture's mean is
    x + P Hᵀ u, u = Σ w_k y_k, and its covariance P − P Hᵀ (Σ w_k (S_k⁻¹ − y_k y_kᵀ) + u uᵀ) H P.
    """
    h = torch.zeros((*seen.radius.shape[:1], 2, SIZE), dtype=torch.float64, device=p.mean.device)
    h[:, 0, :2] = seen.radius
    h[:, 0, BIAS] = 1.0
    h[:, 1, 0], h[:, 1, 1] = seen.radius[:, 1], -seen.radius[:, 0]
    gain = p.covariance @ h[:, None].transpose(-1, -2)
    s = h[:, None] @ gain
    apart = seen.position_m[:, None] - p.mean[..., :2]
    nu = torch.einsum("bij,bnj->bni", h[..., :2], apart)
    nu = torch.stack([nu[..., 0] - p.mean[..., BIAS], nu[..., 1]], -1)
    along, across = noise_of(seen, errors)
    a, d, c = s[..., 0, 0, None] + along[:, None], s[..., 1, 1, None] + across[:, None], s[..., 0, 1, None]
    det = a * d - c * c
    first, second = nu[..., 0, None], nu[..., 1, None]
    y0, y1 = (d * first - c * second) / det, (a * second - c * first) / det
    score = errors.log_weight - 0.5 * (first * y0 + second * y1 + det.log())
    likelihood = torch.logsumexp(score, -1)
    w = (score - likelihood[..., None]).exp()
    u0, u1 = (w * y0).sum(-1), (w * y1).sum(-1)
    m00 = (w * (d / det - y0 * y0)).sum(-1) + u0 * u0
    m11 = (w * (a / det - y1 * y1)).sum(-1) + u1 * u1
    m01 = (w * (-c / det - y0 * y1)).sum(-1) + u0 * u1
    m = torch.stack([m00, m01, m01, m11], -1).reshape(*m00.shape, 2, 2)
    mean = p.mean + (gain @ torch.stack([u0, u1], -1)[..., None])[..., 0]
    mean[..., BANK] = mean[..., BANK].clamp(0.0, MOST_BANK_RAD)
    covariance = p.covariance - gain @ m @ gain.transpose(-1, -2)
    weight = torch.where(seen.valid[:, None], p.log_weight + likelihood, p.log_weight)
    weight = torch.log_softmax(weight, 1)
    ok = seen.valid[:, None]
    return replace(
        p,
        mean=torch.where(ok[..., None], mean, p.mean),
        covariance=torch.where(ok[..., None, None], 0.5 * (covariance + covariance.transpose(-1, -2)), p.covariance),
        log_weight=weight,
    )


def favour(p: Particles) -> Tensor:
    """By how much more than its weight each particle (B, N) is worth keeping, as a logarithm.

    Particles that have flown straight for long differ little from one another; of those that began or ended a
    manoeuvre not long ago each is another guess, most of them wrong.
    """
    moving = ~p.straight & ((p.side != 0.0) | (p.gain_mps2 != 0.0))
    young = (moving & (p.elapsed_s < YOUNG_S)) | (p.straight & (p.elapsed_s < SETTLED_S))
    return young.double() * log(FAVOUR)


def resampled(p: Particles, rng: torch.Generator, share: float = 0.5) -> Particles:
    """Systematic resampling of flights of little effective size, by weight and favour; the weights make up for that.

    The effective size is 1 / Σ v² (Kong, Liu, Wong 1994) of the normalised products v of weight and favour; little is
    under `share` of the particles.
    """
    count = p.log_weight.shape[1]
    more = favour(p)
    wanted = torch.softmax(p.log_weight + more, 1)
    poor = 1.0 / (wanted * wanted).sum(1) < share * count
    if not bool(poor.any()):
        return p
    rows = torch.nonzero(poor)[:, 0]
    some = p.rows(rows)
    start = torch.rand((len(rows), 1), generator=rng, device=rng.device, dtype=torch.float64)
    points = (start + torch.arange(count, device=rng.device)) / count
    total = wanted[rows].cumsum(1)
    source = torch.searchsorted((total / total[:, -1:]).contiguous(), points).clamp(max=count - 1)
    taken = {f.name: _taken(getattr(some, f.name), source) for f in fields(Particles)}
    taken["log_weight"] = torch.log_softmax(-more[rows].gather(1, source), 1)
    return Particles(**{f.name: getattr(p, f.name).index_copy(0, rows, taken[f.name]) for f in fields(Particles)})


def _taken(values: Tensor, source: Tensor) -> Tensor:
    index = source.reshape(*source.shape, *[1] * (values.dim() - 2)).expand(*source.shape, *values.shape[2:])
    return values.gather(1, index)


def moments(p: Particles) -> tuple[Tensor, Tensor]:
    """Mean (B, 4) of x, y, vx, vy and its covariance (B, 4, 4) over the particles of each flight."""
    w, x = torch.softmax(p.log_weight, 1), p.mean[..., :4]
    mean = torch.einsum("bn,bni->bi", w, x)
    off = x - mean[:, None]
    inside = torch.einsum("bn,bnij->bij", w, p.covariance[..., :4, :4])
    return mean, inside + torch.einsum("bn,bni,bnj->bij", w, off, off)
