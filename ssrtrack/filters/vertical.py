"""Altitude and rate of climb from quantised pressure altitudes: a two-state Kalman filter over many flights at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.units import FT_M

Array = NDArray[Any]

LSB_COARSE_M = 100.0 * FT_M  # Mode C
LSB_FINE_M = 25.0 * FT_M  # Mode S with the Q bit


def smooth_altitude(
    time_s: Array,
    pressure_altitude_m: Array,
    valid: Array,
    *,
    q_m2s3: float = 0.1,
    rate_sigma_mps: float = 10.0,
    noise_sigma_m: float = 2.0,
) -> tuple[Array, Array]:
    """Height (m) and rate of climb (m/s), each (N, T), from times and pressure altitudes (N, T).

    Causal: a value uses only altitudes up to its own time. State height and rate with white acceleration q (m²/s³); a
    flight's first valid altitude starts it with rate 0 ± rate_sigma_mps. The altitude's variance is LSB²/12 (uniform
    quantisation error, Widrow 1956) plus noise_sigma_m², with a flight's LSB 100 ft if all its altitudes are whole
    hundreds of feet, else 25 ft. Where `valid` is False or the altitude NaN, the state is predicted. NaN before the
    first altitude and where the time is NaN (padding).

    Raises:
        EstimatorError: the three arrays differ in shape or are not 2-D, or times run backwards.
    """
    time_s, altitude = np.asarray(time_s, np.float64), np.asarray(pressure_altitude_m, np.float64)
    valid = np.asarray(valid, bool)
    if time_s.ndim != 2 or not (time_s.shape == altitude.shape == valid.shape):
        raise EstimatorError(
            f"time, altitude and valid must share one shape (N, T), got {time_s.shape}, {altitude.shape}, {valid.shape}"
        )
    known = valid & np.isfinite(altitude) & np.isfinite(time_s)
    R = _lsb(altitude, known) ** 2 / 12.0 + noise_sigma_m**2
    height, rate = np.full(time_s.shape, np.nan), np.full(time_s.shape, np.nan)
    count = time_s.shape[0]
    h, v, last = np.full(count, np.nan), np.zeros(count), np.full(count, np.nan)
    P = np.zeros((3, count))  # variances of height, covariance, variance of rate
    for k in range(time_s.shape[1]):
        now = np.isfinite(time_s[:, k])
        dt = np.where(now & np.isfinite(last), time_s[:, k] - last, 0.0)
        if (dt < 0.0).any():
            raise EstimatorError(f"a flight's times run backwards at column {k}; sort its plots by time")
        last = np.where(now, time_s[:, k], last)
        h, P = h + dt * v, _predicted(P, dt, q_m2s3)
        first = known[:, k] & np.isnan(h)
        h, v = np.where(first, altitude[:, k], h), np.where(first, 0.0, v)
        P = np.where(first, np.stack([R, np.zeros(count), np.full(count, rate_sigma_mps**2)]), P)
        later = known[:, k] & ~first
        gain_h, gain_v = P[0] / (P[0] + R), P[1] / (P[0] + R)
        y = np.where(later, altitude[:, k] - h, 0.0)
        h, v = h + gain_h * y, v + gain_v * y
        posterior = np.stack([R * gain_h, R * gain_v, P[2] - gain_v * P[1]])
        P = np.where(later, posterior, P)
        height[now, k] = h[now]
        rate[now, k] = np.where(np.isnan(h), np.nan, v)[now]
    return height, rate


def _predicted(P: Array, dt: Array, q: float) -> Array:
    hh, hv, vv = P
    moved = hh + 2.0 * dt * hv + dt**2 * vv + q * dt**3 / 3.0, hv + dt * vv + q * dt**2 / 2.0, vv + q * dt
    return np.stack(moved)


def _lsb(altitude: Array, known: Array) -> Array:
    """A flight's quantisation step (N,); the tolerance covers altitudes stored as 32-bit floats."""
    steps = np.where(known, altitude, 0.0) / LSB_COARSE_M
    coarse = (np.abs(steps - np.round(steps)) < 1e-3).all(1)
    return np.where(coarse, LSB_COARSE_M, LSB_FINE_M)
