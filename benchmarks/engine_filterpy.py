"""The filterpy peers of the batched engine: plain loops over tracks and plots, with steps that differ.

Every function takes (N, T) measurements and returns posterior means of x, y, vx, vy, (N, T − 1, 4), for the plots
after the first.
"""

from collections.abc import Callable
from math import cos, exp, expm1, sin
from typing import Any

import numpy as np
from filterpy.kalman import (
    ExtendedKalmanFilter,
    IMMEstimator,
    KalmanFilter,
    MerweScaledSigmaPoints,
    UnscentedKalmanFilter,
)
from filterpy_steps import RawPolar, circular_mean

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.options import Options
from ssrtrack.units import DEG_RAD

Array = Any
SPEED_SIGMA_MPS = Options().speed_sigma_mps
H = np.eye(2, 4)
# The turns of the estimator "imm", written out again rather than read from it.
TURN_RADPS, TURN_SIGMA_RADPS, TURN_TAU_S, TURN_Q_M2S3 = 1.8 * DEG_RAD, 0.9 * DEG_RAD, 60.0, 1.0
Q_STRAIGHT_M2S3, Q_HIGH_M2S3 = 0.1, 20.0


def straight(h: float, q: float, size: int = 4) -> tuple[Array, Array]:
    """F and Q of constant velocity; components after the fourth stay as they are."""
    F, Q = np.eye(size), np.zeros((size, size))
    F[0, 2] = F[1, 3] = h
    Q[0, 0] = Q[1, 1] = q * h**3 / 3.0
    Q[0, 2] = Q[2, 0] = Q[1, 3] = Q[3, 1] = q * h**2 / 2.0
    Q[2, 2] = Q[3, 3] = q * h
    return F, Q


def start(z: Measurements, n: int, size: int = 4) -> tuple[Array, Array]:
    x, P = np.zeros(size), np.zeros((size, size))
    x[:2], P[:2, :2] = z.position_m[n, 0], z.covariance_m2[n, 0]
    P[2, 2] = P[3, 3] = SPEED_SIGMA_MPS**2
    return x, P


def kf(z: Measurements, q_m2s3: float) -> Array:
    return _kf(z, q_m2s3)[0]


def smoother(z: Measurements, q_m2s3: float) -> Array:
    """KalmanFilter, then its rts_smoother; returns smoothed means (N, T, 4)."""
    return _kf(z, q_m2s3, smooth=True)[1]


def _kf(z: Measurements, q: float, smooth: bool = False) -> tuple[Array, Array]:
    count, plots = z.time_s.shape
    out, smoothed = np.empty((count, plots - 1, 4)), np.empty((count, plots, 4))
    for n in range(count):
        f = KalmanFilter(4, 2)
        f.H = H
        f.x, f.P = start(z, n)
        Fs, Qs, Ps = [np.eye(4)], [np.zeros((4, 4))], [f.P]
        first = f.x
        for k in range(1, plots):
            F, Q = straight(z.time_s[n, k] - z.time_s[n, k - 1], q)
            f.predict(F=F, Q=Q)
            f.update(z.position_m[n, k], R=z.covariance_m2[n, k])
            out[n, k - 1] = f.x
            if smooth:
                Fs.append(F)
                Qs.append(Q)
                Ps.append(f.P)
        if smooth:
            smoothed[n] = f.rts_smoother(np.vstack([first, out[n]]), np.array(Ps), Fs, Qs)[0]
    return out, smoothed


def ekf(z: Measurements, q_m2s3: float) -> Array:
    """ExtendedKalmanFilter on range and azimuth."""
    count, plots = z.time_s.shape
    out = np.empty((count, plots - 1, 4))
    for n in range(count):
        f = ExtendedKalmanFilter(4, 2)
        f.x, f.P = start(z, n)
        for k in range(1, plots):
            f.F, f.Q = straight(z.time_s[n, k] - z.time_s[n, k - 1], q_m2s3)
            f.predict()
            see = RawPolar(z.up_m[n, k])
            plot = np.array([z.range_m[n, k], z.azimuth_rad[n, k]])
            f.update(plot, see.jacobian, see.expect, R=see.noise(z, n, k, f.x), residual=see.residual)
            out[n, k - 1] = f.x
    return out


def ukf(z: Measurements, q_m2s3: float) -> Array:
    """UnscentedKalmanFilter on range and azimuth."""
    count, plots = z.time_s.shape
    out = np.empty((count, plots - 1, 4))
    points = MerweScaledSigmaPoints(4, alpha=1.0, beta=0.0, kappa=1.0)
    for n in range(count):
        see = RawPolar(0.0)
        f = UnscentedKalmanFilter(
            4, 2, 1.0, see.expect, lambda x, dt: straight(dt, 1.0)[0] @ x, points,
            residual_z=see.residual, z_mean_fn=circular_mean,
        )  # fmt: skip
        f.x, f.P = start(z, n)
        for k in range(1, plots):
            h = z.time_s[n, k] - z.time_s[n, k - 1]
            F, f.Q = straight(h, q_m2s3)
            f.predict(dt=h, fx=lambda x, dt, F=F: F @ x)
            see.up_m = z.up_m[n, k]
            plot = np.array([z.range_m[n, k], z.azimuth_rad[n, k]])
            f.update(plot, R=see.noise(z, n, k, f.x))
            out[n, k - 1] = f.x
    return out


class Turn(KalmanFilter):  # type: ignore[misc]
    """A coordinated turn whose rate is the fifth component, linearised at every prediction."""

    def __init__(self, rate_radps: float) -> None:
        super().__init__(5, 2)
        self.rate_radps, self.step_s = rate_radps, 0.0

    def predict(self, u: Any = None) -> None:
        moved, self.F = turned(self.x, self.step_s, self.rate_radps)
        super().predict()
        self.x = moved
        self.x_prior = moved.copy()


def turned(x: Array, h: float, rate_radps: float) -> tuple[Array, Array]:
    """Where a turn leads, and the Jacobian; Bar-Shalom, Li and Kirubarajan 2001, section 11.7, with ω returning to
    `rate_radps`."""
    vx, vy, w = float(x[2]), float(x[3]), float(x[4])
    s, c = sin(w * h), cos(w * h)
    if abs(w * h) < 1e-3:
        a, b, da, db = h * (1.0 - (w * h) ** 2 / 6.0), w * h * h / 2.0, -w * h**3 / 3.0, h * h / 2.0
    else:
        a, b = s / w, (1.0 - c) / w
        da, db = (h * c - a) / w, (h * s - b) / w
    keep = exp(-h / TURN_TAU_S)
    moved = np.array(
        [x[0] + a * vx - b * vy, x[1] + b * vx + a * vy, c * vx - s * vy, s * vx + c * vy, w * keep]
    )  # fmt: skip
    moved[4] += rate_radps * (1.0 - keep)
    F = np.array([
        [1.0, 0.0, a, -b, da * vx - db * vy],
        [0.0, 1.0, b, a, db * vx + da * vy],
        [0.0, 0.0, c, -s, -h * (s * vx + c * vy)],
        [0.0, 0.0, s, c, h * (c * vx - s * vy)],
        [0.0, 0.0, 0.0, 0.0, keep],
    ])  # fmt: skip
    return moved, F


def imm_cv(z: Measurements, bank: Bank, q_m2s3: tuple[float, ...]) -> Array:
    """IMMEstimator of CV models."""
    models: list[Callable[[], Any]] = [lambda: KalmanFilter(4, 2)] * len(q_m2s3)

    def step(filters: list[Any], h: float) -> None:
        for f, q in zip(filters, q_m2s3, strict=True):
            f.F, f.Q = straight(h, q)

    return _imm(z, bank, models, 4, step)


def imm_turns(z: Measurements, bank: Bank) -> Array:
    """IMMEstimator of CV, CV-high and two turns, all of five components as filterpy demands.

    The work of "imm", not quite its estimate: filterpy mixes the turn rate of all models, while in "imm" a flight
    that enters a turn draws the rate from that turn's prior.
    """
    left, right = (lambda: Turn(TURN_RADPS)), (lambda: Turn(-TURN_RADPS))
    models: list[Callable[[], Any]] = [lambda: KalmanFilter(5, 2), lambda: KalmanFilter(5, 2), left, right]

    def step(filters: list[Any], h: float) -> None:
        for f, q in zip(filters, (Q_STRAIGHT_M2S3, Q_HIGH_M2S3, TURN_Q_M2S3, TURN_Q_M2S3), strict=True):
            F, f.Q = straight(h, q, 5)
            if isinstance(f, Turn):
                f.step_s, f.Q[4, 4] = h, -(TURN_SIGMA_RADPS**2) * expm1(-2.0 * h / TURN_TAU_S)
            else:
                # A flight that flies straight has no turn rate: forget it.
                F[4, 4], f.Q[4, 4] = 0.0, TURN_SIGMA_RADPS**2
                f.F = F

    return _imm(z, bank, models, 5, step)


def _imm(
    z: Measurements, bank: Bank, models: list[Callable[[], Any]], size: int, step: Callable[[list[Any], float], None]
) -> Array:
    count, plots = z.time_s.shape
    out = np.empty((count, plots - 1, 4))
    transitions = bank.chain.matrix(np.diff(z.time_s).ravel()).reshape(count, plots - 1, len(models), len(models))
    for n in range(count):
        filters = [_first(model(), z, n, size) for model in models]
        imm = IMMEstimator(filters, np.exp(bank.chain.log_start()), transitions[n, 0])
        for k in range(1, plots):
            step(filters, z.time_s[n, k] - z.time_s[n, k - 1])
            for f in filters:
                f.R = z.covariance_m2[n, k]
            imm.predict()
            # update() already mixes for the next step, so it needs that step's matrix.
            imm.M = transitions[n, min(k, plots - 2)]
            imm.update(z.position_m[n, k])
            out[n, k - 1] = imm.x[:4]
    return out


def _first(f: Any, z: Measurements, n: int, size: int) -> Any:
    f.H = np.eye(2, size)
    f.x, f.P = start(z, n, size)
    if size == 5:
        f.x[4], f.P[4, 4] = getattr(f, "rate_radps", 0.0), TURN_SIGMA_RADPS**2
    return f
