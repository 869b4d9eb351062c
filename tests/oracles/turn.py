"""Turning flights as particles: the continuous model itself, sampled, and its posterior by a bootstrap filter.

dx = v dt, dv = ω J v dt + √q dW, dω = −(ω − ω₀)/τ dt + √(2σ²/τ) dW', with J a quarter turn to the left. In each short
substep ω moves by its exact law, v turns by the mean of ω before and after, and white acceleration is added exactly.
Source: Gordon, Salmond and Smith 1993, IEE Proceedings F 140(2), for the bootstrap filter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from tests.oracles.linear import stationary

Array = NDArray[Any]


SUBSTEP_S = 1.0


@dataclass(frozen=True)
class Turn:
    """One model: mean turn rate, its deviation (rad/s) and time constant (s), acceleration density (m²/s³).

    A deviation of 0 with a rate of 0 is straight flight.
    """

    rate: float
    sigma: float
    tau_s: float
    q: float


def moved(x: Array, mode: Array, models: Sequence[Turn], dt_s: float, rng: Any, held: bool = False) -> Array:
    """Particles (K, 5) = x, y, vx, vy, ω after dt_s, each under its own model (K,).

    held: ω keeps its value through the step and changes at its end, as the filters assume; else the continuous model.
    """
    rate, sigma, tau, q = (np.array([getattr(m, n) for m in models])[mode] for n in ("rate", "sigma", "tau_s", "q"))
    steps = 1 if held else max(1, int(np.ceil(dt_s / SUBSTEP_S)))
    h = dt_s / steps
    px, py, vx, vy, omega = x.T.copy()
    for _ in range(steps):
        decay = np.exp(-h / tau)
        later = rate + decay * (omega - rate) + sigma * np.sqrt(-np.expm1(-2.0 * h / tau)) * _normal(rng, omega.size)
        half = 0.25 * h * (omega + (omega if held else later))  # half the angle turned
        # The chord of an arc: length v h sin(θ/2)/(θ/2), along the velocity turned by θ/2.
        chord = h * np.sinc(half / np.pi)
        c, s = np.cos(half), np.sin(half)
        px, py = px + chord * (c * vx - s * vy), py + chord * (s * vx + c * vy)
        c, s = np.cos(2.0 * half), np.sin(2.0 * half)
        vx, vy = c * vx - s * vy, s * vx + c * vy
        pushes = []
        for _axis in range(2):
            a, b = _normal(rng, omega.size), _normal(rng, omega.size)
            # ∫W and W over h: covariance q [h³/3, h²/2; h²/2, h].
            pushes.append((np.sqrt(q * h**3) * (0.5 * a + b / np.sqrt(12.0)), np.sqrt(q * h) * a))
        px, py, vx, vy = px + pushes[0][0], py + pushes[1][0], vx + pushes[0][1], vy + pushes[1][1]
        omega = later
    return np.stack([px, py, vx, vy, omega], -1)


def _normal(rng: Any, count: int) -> Array:
    """Normal numbers in pairs of opposite sign: a particle and its mirror half the table away."""
    half = rng.standard_normal((count + 1) // 2)
    out: Array = np.concatenate([half, -half])[:count]
    return out


def drawn(mean: Array, covariance: Array, count: int, rng: Any) -> Array:
    """Particles (count, n) of a Gaussian, in antithetic pairs."""
    half = rng.standard_normal((count // 2, mean.size)) @ np.linalg.cholesky(covariance).T
    out: Array = mean + np.concatenate([half, -half])
    return out


@dataclass(frozen=True, eq=False)
class Belief:
    """At each plot T: mean (T, 4), covariance (T, 4, 4) and model probabilities (T, M), and the same predicted."""

    mean: Array
    covariance: Array
    mode_probability: Array
    predicted_mean: Array
    predicted_covariance: Array


def posterior(
    models: Sequence[Turn],
    rates: Array,
    time_s: Array,
    first: tuple[Array, Array],
    log_likelihood: Any,
    count: int,
    rng: Any,
    held: bool = False,
    speed_sigma: float = 170.0,
) -> Belief:
    """Bootstrap filter over the plots at time_s (T,), of which `first` (position (2,), covariance (2, 2)) starts it.

    log_likelihood(k, positions (K, 2)) is that of plot k. Models switch at the start of a step by exp(rates · T), and a
    particle that enters a model draws its turn rate anew, as the interacting filter has it.
    """
    start = stationary(rates) if len(models) > 1 else np.ones(1)
    mode = rng.choice(len(models), p=start, size=count)
    x = np.zeros((count, 5))
    x[:, :2] = drawn(first[0], first[1], count, rng)
    x[:, 2:4] = drawn(np.zeros(2), speed_sigma**2 * np.eye(2), count, rng)
    x[:, 4] = _entry(models, mode, rng)
    none = np.full(4, np.nan), np.full((4, 4), np.nan)
    even = np.full(count, 1.0 / count)
    rows = [(*_moments(x, even), np.bincount(mode, minlength=len(models)) / count, *none)]
    for k in range(1, time_s.size):
        dt = float(time_s[k] - time_s[k - 1])
        if len(models) > 1:
            table = expm(rates * dt).cumsum(1)[mode]
            new = np.minimum((rng.uniform(size=(count, 1)) > table).sum(1), len(models) - 1)
            x[:, 4] = np.where(new == mode, x[:, 4], _entry(models, new, rng))
            mode = new
        x = moved(x, mode, models, dt, rng, held)
        ahead = _moments(x, even)
        log_weight = log_likelihood(k, x[:, :2])
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        probability = np.bincount(mode, weight, minlength=len(models))
        rows.append((*_moments(x, weight), probability, *ahead))
        chosen = np.searchsorted(weight.cumsum(), (np.arange(count) + rng.uniform()) / count).clip(max=count - 1)
        # Shuffled, so that mirrored noise falls on unrelated particles.
        chosen = rng.permutation(chosen)
        x, mode = x[chosen], mode[chosen]
    return Belief(*(np.stack(column) for column in zip(*rows, strict=True)))


def _entry(models: Sequence[Turn], mode: Array, rng: Any) -> Array:
    rate, sigma = np.array([m.rate for m in models])[mode], np.array([m.sigma for m in models])[mode]
    out: Array = rate + sigma * rng.standard_normal(mode.size)
    return out


def _moments(x: Array, weight: Array) -> tuple[Array, Array]:
    mean = weight @ x[:, :4]
    offset = x[:, :4] - mean
    return mean, (weight[:, None] * offset).T @ offset
