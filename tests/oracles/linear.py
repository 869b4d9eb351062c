"""Linear motions as stochastic differential equations dx = A x dt + dW, discretised by matrix exponentials.

Nothing here is shared with ssrtrack.filters: F and Q come from Van Loan's block exponential (1978, IEEE T-AC 23(3)),
the chain's matrix from the exponential of its generator, its start from that generator's null space.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, null_space

Array = NDArray[Any]
SIZE = 6  # x, y, vx, vy, ax, ay; a model without acceleration keeps zeros there


@dataclass(frozen=True, eq=False)
class Linear:
    """Drift A (6, 6) and noise density (6, 6); `entry` is the variance a model's own acceleration begins with."""

    drift: Array
    density: Array
    entry: float

    def step(self, dt_s: float, comes_anew: bool) -> tuple[Array, Array]:
        """F, Q (6, 6) over dt_s; a flight that comes anew to the model draws its acceleration from the entry prior."""
        return _discretised(self, float(dt_s), comes_anew)


@cache
def _discretised(model: Linear, dt_s: float, comes_anew: bool) -> tuple[Array, Array]:
    block = np.zeros((2 * SIZE, 2 * SIZE))
    block[:SIZE, :SIZE], block[:SIZE, SIZE:], block[SIZE:, SIZE:] = -model.drift, model.density, model.drift.T
    power = expm(block * dt_s)
    F = power[SIZE:, SIZE:].T
    Q = F @ power[:SIZE, SIZE:]
    if comes_anew:
        own = F[:, 4:].copy()
        F = F.copy()
        F[:, 4:] = 0.0
        Q = Q + model.entry * own @ own.T
    return F, 0.5 * (Q + Q.T)


def constant_velocity(q: float) -> Linear:
    """White acceleration of density q (m²/s³); what is carried in the acceleration's place is forgotten."""
    drift = _drift()
    drift[[2, 3], [4, 5]] = 0.0
    return Linear(drift, np.diag([0.0, 0.0, q, q, 0.0, 0.0]), 0.0)


def constant_acceleration(q: float, entry_sigma: float) -> Linear:
    """White jerk of density q (m²/s⁵)."""
    return Linear(_drift(), np.diag([0.0, 0.0, 0.0, 0.0, q, q]), entry_sigma**2)


def singer(sigma: float, tau: float) -> Linear:
    """Acceleration of deviation σ (m/s²) and time constant τ (s)."""
    drift, density = _drift(), 2.0 * sigma**2 / tau
    drift[[4, 5], [4, 5]] = -1.0 / tau
    return Linear(drift, np.diag([0.0, 0.0, 0.0, 0.0, density, density]), sigma**2)


def _drift() -> Array:
    drift = np.zeros((SIZE, SIZE))
    drift[[0, 1, 2, 3], [2, 3, 4, 5]] = 1.0
    return drift


def generator(sojourn_s: Array, jump: Array) -> Array:
    """Λ (M, M) of the chain."""
    out: Array = (np.asarray(jump) - np.eye(len(sojourn_s))) / np.asarray(sojourn_s)[:, None]
    return out


def transition(rates: Array, dt_s: float) -> Array:
    """exp(Λ T)."""
    out: Array = expm(rates * dt_s)
    return out


def stationary(rates: Array) -> Array:
    """The distribution (M,) that the chain keeps."""
    kept = null_space(rates.T)[:, 0]
    out: Array = kept / kept.sum()
    return out
