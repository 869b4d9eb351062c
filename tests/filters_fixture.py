"""Simulated measurements whose statistics are exactly those a filter assumes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Radar
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.chain import Chain
from ssrtrack.filters.measurement import Measurements, TrackingFrame, tracking_frame
from ssrtrack.filters.motion import Motion

Array = NDArray[Any]
PRIOR_SPEED_MPS = 170.0
UP_M = 8000.0


def frame() -> TrackingFrame:
    return tracking_frame(
        Radar(
            name=np.array([b"A"]),
            latitude_deg=np.array([41.3]),
            longitude_deg=np.array([2.1]),
            height_m=np.array([30.0]),
        )
    )


def cartesian(time_s: Array, position_m: Array, covariance_m2: Array, valid: Array | None = None) -> Measurements:
    """Measurements (N, T) of positions given directly, with polar columns that agree (radar at the origin)."""
    shape = time_s.shape
    covariance = np.broadcast_to(covariance_m2, (*shape, 2, 2))
    ground = np.hypot(position_m[..., 0], position_m[..., 1])
    slant = np.hypot(ground, UP_M)
    azimuth = np.arctan2(position_m[..., 0], position_m[..., 1]) % (2 * np.pi)
    return Measurements(
        time_s=time_s,
        radar_id=np.zeros(shape, np.int64),
        range_m=slant,
        azimuth_rad=azimuth,
        sigma_range_m=np.sqrt(covariance[..., 0, 0]),
        sigma_azimuth_rad=np.sqrt(covariance[..., 1, 1]) / slant,
        position_m=position_m,
        covariance_m2=covariance,
        up_m=np.full(shape, UP_M),
        valid=np.ones(shape, bool) if valid is None else valid,
        sigma_height_m=np.zeros(shape),
        frame=frame(),
    )


def polar(time_s: Array, position_m: Array, sigma_range_m: float, sigma_azimuth_rad: float, rng: Any) -> Measurements:
    """Measurements (N, T) whose slant range and azimuth have Gaussian noise, converted by the exact inverse."""
    slant = np.hypot(np.hypot(position_m[..., 0], position_m[..., 1]), UP_M)
    azimuth = np.arctan2(position_m[..., 0], position_m[..., 1])
    slant = slant + sigma_range_m * rng.standard_normal(slant.shape)
    azimuth = azimuth + sigma_azimuth_rad * rng.standard_normal(slant.shape)
    ground = np.sqrt(slant**2 - UP_M**2)
    sin, cos = np.sin(azimuth), np.cos(azimuth)
    rows = np.stack(
        [np.stack([slant / ground * sin, ground * cos], -1), np.stack([slant / ground * cos, -ground * sin], -1)], -2
    )
    scaled = rows * np.array([sigma_range_m, sigma_azimuth_rad])
    z = cartesian(time_s, np.stack([ground * sin, ground * cos], -1), scaled @ np.swapaxes(scaled, -1, -2))
    columns = {name: getattr(z, name) for name in z.__dataclass_fields__}
    columns |= {
        "sigma_range_m": np.full(slant.shape, sigma_range_m),
        "sigma_azimuth_rad": np.full(slant.shape, sigma_azimuth_rad),
    }
    return Measurements(**columns)


def times(rng: Any, flights: int, plots: int, mean_s: float = 4.0) -> Array:
    """Irregular plot times (N, T), each flight starting at its own."""
    steps = mean_s * rng.uniform(0.6, 1.4, (flights, plots))
    out: Array = np.cumsum(steps, 1) + rng.uniform(0, 100, (flights, 1))
    return out


def flights(rng: Any, motions: tuple[Motion, ...], chain: Chain, time_s: Array, start_m: Array) -> tuple[Array, Array]:
    """True x, y, vx, vy (N, T, 4) and modes (N, T), drawn from the very model a bank assumes."""
    count, plots = time_s.shape
    mode = np.array([rng.choice(len(motions), p=np.exp(chain.log_start())) for _ in range(count)])
    x = np.zeros((count, 6))
    x[:, :2] = start_m
    x[:, 2:4] = PRIOR_SPEED_MPS * rng.standard_normal((count, 2))
    x = _entered(rng, motions, x, mode, np.ones(count, bool))
    truth, modes = [x[:, :4].copy()], [mode]
    for k in range(1, plots):
        dt = time_s[:, k] - time_s[:, k - 1]
        cumulative = chain.matrix(dt)[np.arange(count), mode].cumsum(1)
        following = np.minimum((rng.uniform(size=(count, 1)) > cumulative).sum(1), len(motions) - 1)
        x = _entered(rng, motions, x, following, following != mode)
        mode = following
        for j, motion in enumerate(motions):
            rows = np.flatnonzero(mode == j)
            n = motion.size
            Q = motion.matrices(dt[rows])[1]
            root = np.linalg.cholesky(Q + 1e-18 * np.eye(n))
            noise = (root @ rng.standard_normal((rows.size, n, 1)))[..., 0]
            x[rows, :n] = motion.move(x[rows, :n], dt[rows]) + noise
        truth.append(x[:, :4].copy())
        modes.append(mode)
    return np.stack(truth, 1), np.stack(modes, 1)


def _entered(rng: Any, motions: tuple[Motion, ...], x: Array, mode: Array, new: Array) -> Array:
    x = x.copy()
    for j, motion in enumerate(motions):
        rows = np.flatnonzero((mode == j) & new)
        x[rows, 4:] = 0.0
        extra = motion.size - 4
        noise = rng.standard_normal((rows.size, extra)) * np.sqrt(motion.entry_variance)
        x[rows, 4 : motion.size] = motion.entry_mean + noise
    return x


def bank_flights(rng: Any, bank: Bank, time_s: Array, start_m: Array) -> tuple[Array, Array]:
    """`flights` of a bank's own motions and chain."""
    return flights(rng, bank.motions, bank.chain, time_s, start_m)


def noisy(rng: Any, time_s: Array, truth: Array, covariance_m2: Array) -> Measurements:
    """Cartesian measurements of true states with the given covariance (2, 2)."""
    root = np.linalg.cholesky(covariance_m2)
    return cartesian(time_s, truth[..., :2] + rng.standard_normal((*time_s.shape, 2)) @ root.T, covariance_m2)


def nees(error: Array, covariance: Array) -> Array:
    """eᵀ P⁻¹ e over the last axes."""
    out: Array = (error * np.linalg.solve(covariance, error[..., None])[..., 0]).sum(-1)
    return out
