"""Turbulence, in two kinds. White acceleration is what trackers assume; it makes a path wander away. Gusts are what
aircraft meet: air that moves with the spectra of Dryden (MIL-F-8785C, 3.7.1), while a pilot steers back to the path.
"""

import numpy as np

from ssrtrack.simulators.legs import Floats, Ints, Limits, Pair
from ssrtrack.simulators.trajectory_pieces import Pieces
from ssrtrack.units import FT_M, KT_MPS

# Steering: a sampled autopilot that pulls the aircraft back like a damped spring of this period.
PERIOD_S, DAMPING = 60.0, 0.7
_ROOT3 = np.sqrt(3.0)
_LOW_M, _HIGH_M = 1000.0 * FT_M, 2000.0 * FT_M
_LENGTH_M = 1750.0 * FT_M
# Wind at 20 ft (MIL-F-8785C, 3.7.3.4), which sets the gusts below 1,000 ft.
_WIND_MPS = {"light": 15.0 * KT_MPS, "moderate": 30.0 * KT_MPS, "severe": 45.0 * KT_MPS}
# Standard deviation in ft/s by height in ft that is exceeded with probability 1e-2, 1e-3, 1e-5 (MIL-F-8785C, figure 7).
_HEIGHT_M = FT_M * np.array(
    [500, 1750, 3750, 7500, 15_000, 25_000, 35_000, 45_000, 55_000, 65_000, 75_000, 80_000], float
)
_SIGMA_MPS = {
    "light": FT_M * np.array([6.6, 6.9, 7.4, 6.7, 4.6, 2.7, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "moderate": FT_M * np.array([8.6, 9.6, 10.6, 10.1, 8.0, 6.6, 5.0, 4.2, 2.7, 0.0, 0.0, 0.0]),
    "severe": FT_M * np.array([15.6, 17.6, 23.0, 23.6, 22.1, 20.0, 16.0, 15.1, 12.1, 7.9, 6.2, 5.1]),
}


def white_push(limits: Limits, counts: Ints, p: Pieces, rngs: list[np.random.Generator]) -> Pair:
    """White acceleration: variance PSD / duration in each law; (I,) along and across."""
    laws = _laws(counts, p)
    normal = np.concatenate([rng.standard_normal((n, 2)) for rng, n in zip(rngs, laws, strict=True)])
    duration = np.bincount(p.law, p.length_s)
    push = (normal * np.sqrt(limits.turbulence_psd / duration)[:, None])[p.law]
    return push[:, 0], push[:, 1]


def gust_motion(
    limits: Limits, counts: Ints, p: Pieces, height_m: Floats, turned_rad: Floats, rngs: list[np.random.Generator]
) -> tuple[Floats, Floats]:
    """What gusts, and steering against them, add: to the speed at the ends of each step (2, I), to the turn rate (I,).

    At the ends of laws the velocity is the planned one and that of the gust and of steering, along and across; in
    between speed and track change linearly.

    Args:
        height_m: at the beginning of each step.
        turned_rad: angle that is planned to be turned in each step.
    """
    laws = _laws(counts, p)
    slot = np.arange(len(p.law[p.row])) - np.repeat(np.cumsum(laws) - laws, laws), p.flight[p.row]
    shape = (int(laws.max()) + 1, len(laws))

    def padded(values: Floats, last: Floats) -> Floats:
        out = np.zeros(shape)
        out[slot] = values
        out[laws, np.arange(len(laws))] = last
        return out

    duration = np.bincount(p.law, p.length_s).astype(float)
    final, none = np.cumsum(counts) - 1, np.zeros(len(laws))
    sigma, scale = gust_scales(limits.gusts, height_m[p.row])
    sigma = padded(sigma, gust_scales(limits.gusts, height_m[final])[0])
    way = padded(np.asarray(p.speed_mps[0][p.row] * duration / scale), none)[:-1]
    normal = np.zeros((shape[0], 3, shape[1]))
    for f, (rng, n) in enumerate(zip(rngs, laws, strict=True)):
        normal[: n + 1, :, f] = rng.standard_normal((n + 1, 3))
    planned_rad = np.bincount(p.law, turned_rad).astype(float)
    angle = padded(planned_rad, none)[:-1]
    moved = _steered(sigma[:, None] * dryden(way, normal), padded(duration, none)[:-1], angle)
    planned = padded(p.speed_mps[0][p.row], p.speed_mps[1][final])
    extra = np.hypot(planned + moved[:, 0], moved[:, 1]) - planned
    drift = np.diff(np.arctan2(moved[:, 1], planned + moved[:, 0]), axis=0)[slot] / duration
    ends = extra[slot], extra[slot[0] + 1, slot[1]]
    share = (p.time_s - p.time_s[p.row][p.law]) / duration[p.law]
    rise = (ends[1] - ends[0])[p.law]
    low = ends[0][p.law] + share * rise
    return np.stack([low, low + rise * p.length_s / duration[p.law]]), drift[p.law]


def _laws(counts: Ints, p: Pieces) -> Ints:
    """Number of laws of each flight."""
    return np.bincount(p.flight[p.row], minlength=len(counts))


def gust_scales(gusts: str, height_m: Floats) -> Pair:
    """Standard deviation (m/s) and length (m) of horizontal gusts at heights (MIL-F-8785C, 3.7.2.1 and 3.7.3.4).

    In between 1,000 and 2,000 ft both are interpolated. `gusts` is light, moderate or severe.
    """
    feet = np.clip(height_m, 10.0 * FT_M, _LOW_M) / FT_M
    factor = 0.177 + 0.000823 * feet
    share = np.clip((height_m - _LOW_M) / (_HIGH_M - _LOW_M), 0.0, 1.0)
    low, high = 0.1 * _WIND_MPS[gusts] / factor**0.4, np.interp(height_m, _HEIGHT_M, _SIGMA_MPS[gusts])
    length = feet * FT_M / factor**1.2
    return low + share * (high - low), length + share * (_LENGTH_M - length)


def dryden(way: Floats, normal: Floats) -> Floats:
    """Gusts of unit variance along and across the track, (K + 1, 2, F): exact samples of the Dryden processes.

    Args:
        way: (K, F), distance flown between the samples, in lengths L.
        normal: (K + 1, 3, F) standard normal numbers.

    Along the spectrum is that of u' = −u + √2 ξ in units of L/V; across, of (1 + √3 s)/(1 + s)², which is
    v = √3 a + (1 − √3) b with a' = −a + ξ, b' = −b + a.
    """
    decay = np.exp(-way)
    rest = -np.expm1(-2.0 * way)
    # Covariance of a and b gained over a step: P − Φ P Φᵀ with P = [[1/2, 1/4], [1/4, 1/4]], as a Cholesky factor.
    aa, ab = 0.5 * rest, 0.25 * rest - 0.5 * way * decay**2
    bb = 0.25 * rest - decay**2 * (0.5 * way**2 + 0.5 * way)
    l11 = np.sqrt(aa)
    l21 = ab / np.where(l11 > 0, l11, 1.0)
    l22 = np.sqrt(np.maximum(bb - l21**2, 0.0))
    along = np.sqrt(rest)
    u, a = normal[0, 0], np.sqrt(0.5) * normal[0, 1]
    b = 0.5 * a + np.sqrt(0.125) * normal[0, 2]
    out = np.empty((len(normal), 2, normal.shape[2]))
    out[0] = u, _ROOT3 * a + (1.0 - _ROOT3) * b
    for k in range(len(way)):
        n = normal[k + 1]
        u = decay[k] * u + along[k] * n[0]
        b = decay[k] * (b + way[k] * a) + l21[k] * n[1] + l22[k] * n[2]
        a = decay[k] * a + l11[k] * n[1]
        out[k + 1] = u, _ROOT3 * a + (1.0 - _ROOT3) * b
    return out


def _steered(gusts: Floats, duration: Floats, turned_rad: Floats) -> Floats:
    """Speed along and across (K + 1, 2, F) besides the planned one: of the gust, and of steering back to the path.

    Steering is an acceleration held over each law, by the place beside the path at its beginning; where the aircraft
    turns, what was along becomes across.
    """
    spring = (2.0 * np.pi / PERIOD_S) ** 2
    damper = 2.0 * DAMPING * 2.0 * np.pi / PERIOD_S
    out = np.zeros_like(gusts)
    place = np.zeros_like(gusts[0])
    gained = np.diff(gusts, axis=0)
    c, s = np.cos(turned_rad), np.sin(turned_rad)
    for k, step in enumerate(duration):
        out[k + 1] = out[k] + gained[k] - step * (damper * out[k] + spring * place)
        x, y = place + 0.5 * step * (out[k] + out[k + 1])
        place = np.stack([c[k] * x + s[k] * y, c[k] * y - s[k] * x])
    return out
