"""The posterior Cramér–Rao bound of position and velocity along a known flight.

P. Tichavsky, C. Muravchik, A. Nehorai, "Posterior Cramér–Rao bounds for discrete-time nonlinear filtering", IEEE T-SP
46(5), 1998, eq. 21 for additive Gaussian noise: J_{k+1} = (Q_k + F_k J_k^-1 F_k')^-1 + H' R^-1 H. Here it is
conditional on the true manoeuvres: F_k turns with the true rate of turn, H is the polar Jacobian at the truth, Q holds
the turbulence alone. A tracker must find out about manoeuvres by itself, so no honest one reaches it while turning.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.measurement import Measurements, TrackingFrame
from ssrtrack.filters.motion import white_acceleration
from ssrtrack.geodesy import polar_jacobian, wrapped_angle
from ssrtrack.tracking.truth import TrueStates

Array = NDArray[Any]


def bound_variances(
    z: Measurements, truth: TrueStates, *, speed_sigma_mps: float, turbulence_psd_m2ps3: float = 0.0
) -> tuple[Array, Array]:
    """Lowest possible mean squared error of position (m²) and velocity (m²/s²) after each plot, both (N, T).

    Propagating the inverse P = J^-1 is the same recursion and needs no matrix inversion: range and azimuth errors are
    independent, so each is one scalar update. Where the truth is not known the plot's own position takes its place.

    Args:
        z: (N, T) measurements; cells that are not valid update nothing.
        truth: (N, T) true states.
        speed_sigma_mps: prior standard deviation of each velocity component, as the estimators start.
        turbulence_psd_m2ps3: power spectral density of the truth's random acceleration.
    """
    count, steps = z.time_s.shape
    rows, variances = _observation(z, truth), (z.sigma_range_m**2, z.sigma_azimuth_rad**2)
    turn = _turn_angle(truth)
    position, velocity = np.full((count, steps), np.nan), np.full((count, steps), np.nan)
    P = _first(rows[:, 0], variances[0][:, 0], variances[1][:, 0], speed_sigma_mps)
    for k in range(steps):
        alive = np.flatnonzero(np.isfinite(z.time_s[:, k]))
        if not alive.size:
            break
        part = P[alive]
        if k:
            dt = z.time_s[alive, k] - z.time_s[alive, k - 1]
            F = _transition(dt, turn[alive, k])
            part = F @ part @ np.swapaxes(F, 1, 2) + white_acceleration(turbulence_psd_m2ps3, dt)
            for i in range(2):
                part = _updated(part, rows[alive, k, i], variances[i][alive, k], z.valid[alive, k])
        P[alive] = part
        position[alive, k] = part[:, 0, 0] + part[:, 1, 1]
        velocity[alive, k] = part[:, 2, 2] + part[:, 3, 3]
    return position, velocity


def _observation(z: Measurements, truth: TrueStates) -> Array:
    """∂(range, azimuth) / ∂(x, y) at the true place, (N, T, 2, 2)."""
    known = np.isfinite(truth.position_m[..., 0])
    place = np.where(known[..., None], truth.position_m, z.position_m)
    point = np.concatenate([place, np.where(known, truth.up_m, z.up_m)[..., None]], -1)
    return polar_rows(point, z.radar_id, z.frame)


def polar_rows(point_m: Array, radar_id: Array, frame: TrackingFrame) -> Array:
    """∂(slant range, azimuth) / ∂(x, y) (..., 2, 2) at points (..., 3) of the frame, seen by radars (...)."""
    radar = np.maximum(radar_id, 0)
    rotation = frame.rotation[radar]
    local = np.einsum("...ij,...j->...i", rotation, point_m - frame.position_m[radar])
    with np.errstate(divide="ignore", invalid="ignore"):
        rows: Array = polar_jacobian(local) @ rotation[..., :2]
    return rows


def _first(rows: Array, range_variance: Array, azimuth_variance: Array, speed_sigma_mps: float) -> Array:
    """Covariance (N, 4, 4) after the first plot: A^-1 diag(variances) A^-T for the 2x2 rows A, and the speed prior."""
    determinant = rows[:, 0, 0] * rows[:, 1, 1] - rows[:, 0, 1] * rows[:, 1, 0]
    inverse = np.stack([rows[:, 1, 1], -rows[:, 0, 1], -rows[:, 1, 0], rows[:, 0, 0]], -1).reshape(-1, 2, 2)
    inverse = inverse / determinant[:, None, None]
    P = np.zeros((rows.shape[0], 4, 4))
    noise = np.stack([range_variance, azimuth_variance], -1)
    P[:, :2, :2] = (inverse * noise[:, None, :]) @ np.swapaxes(inverse, 1, 2)
    P[:, 2, 2] = P[:, 3, 3] = speed_sigma_mps**2
    return P


def _turn_angle(truth: TrueStates) -> Array:
    """Angle (counter-clockwise, rad) by which the true velocity turned since the plot before; 0 where not known."""
    heading = np.arctan2(truth.velocity_mps[..., 1], truth.velocity_mps[..., 0])
    angle = np.zeros(heading.shape)
    change = np.diff(heading, axis=1)
    angle[:, 1:] = np.nan_to_num(wrapped_angle(change))
    return angle


def _transition(dt: Array, angle: Array) -> Array:
    """Coordinated turn by `angle` in `dt`, (N, 4, 4); the straight line for angle 0."""
    half = 0.5 * angle
    # sin(a)/w and (1 - cos a)/w with w = a/dt, in the form that is exact at a = 0.
    chord = dt * np.sinc(half / np.pi)
    along, across = chord * np.cos(half), chord * np.sin(half)
    cos, sin = np.cos(angle), np.sin(angle)
    F = np.zeros((dt.size, 4, 4))
    F[:, 0, 0] = F[:, 1, 1] = 1.0
    F[:, 0, 2], F[:, 0, 3], F[:, 1, 2], F[:, 1, 3] = along, -across, across, along
    F[:, 2, 2], F[:, 2, 3], F[:, 3, 2], F[:, 3, 3] = cos, -sin, sin, cos
    return F


def _updated(P: Array, row: Array, variance: Array, valid: Array) -> Array:
    """P after one scalar measurement with gradient `row` (N, 2) over x, y."""
    Ph = P[:, :, :2] @ row[:, :, None]
    s = (row[:, None, :] @ Ph[:, :2])[:, 0, 0] + variance
    after = P - Ph @ np.swapaxes(Ph, 1, 2) / s[:, None, None]
    return np.where((valid & np.isfinite(s))[:, None, None], after, P)
