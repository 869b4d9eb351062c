"""Tracker velocity against the aircraft's own: BDS 5,0 ground speed and true track angle.

A register can be up to one scan older than the plot it came with (the transponder refreshes it every 1.3 s at most,
ICAO Doc 9871, and a radar may repeat its last extraction), so a turn at 3 deg/s alone makes some degrees; they are
compared as they are.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.measurement import TrackingFrame
from ssrtrack.geodesy import enu_rotation, enu_to_geodetic
from ssrtrack.scoring.accuracy import circular_difference_deg

Array = NDArray[Any]
SPEED_RANGE_MPS = (20.0, 400.0)


def local_velocity(
    position_m: Array, up_m: Array, velocity_mps: Array, height_rate_mps: Array, frame: TrackingFrame
) -> tuple[Array, Array]:
    """Velocity east and north in the horizon at the aircraft, each (...).

    A tracking frame's axes are those of its origin: away from it the vertical tilts and true north turns (meridian
    convergence, about longitude difference times the sine of latitude).

    Args:
        position_m, velocity_mps: (..., 2) in the tracking frame; up_m: (...) third coordinate there.
        height_rate_mps: (...) rate of climb at the aircraft, which fixes the third component of velocity.
    """
    site = next(s for s, p in zip(frame.site_rad, frame.position_m, strict=True) if np.all(p == 0.0))
    lat, lon, _ = enu_to_geodetic(np.concatenate([position_m, up_m[..., None]], -1), site)
    base = enu_rotation(site[0], site[1])
    axes = enu_rotation(lat, lon) @ base.T  # rows: the local east, north, up in tracking-frame axes
    east, north, up = axes[..., 0, :], axes[..., 1, :], axes[..., 2, :]
    vx, vy = velocity_mps[..., 0], velocity_mps[..., 1]
    vz = (height_rate_mps - up[..., 0] * vx - up[..., 1] * vy) / up[..., 2]
    return (
        east[..., 0] * vx + east[..., 1] * vy + east[..., 2] * vz,
        north[..., 0] * vx + north[..., 1] * vy + north[..., 2] * vz,
    )


def bds_differences(
    mean: Array,
    up_m: Array,
    height_rate_mps: Array,
    ground_speed_mps: Array,
    track_angle_rad: Array,
    frame: TrackingFrame,
    scored: Array,
) -> tuple[Array, Array]:
    """Tracker minus BDS 5,0: ground speed (m/s) and track angle (deg), both (N, T).

    NaN unless the update is scored and both values are there with a speed of 20 to 400 m/s. The track angle is NaN
    throughout when the radar's site is not known: true north at the aircraft is not known then either.
    """
    speed, angle = np.full(scored.shape, np.nan), np.full(scored.shape, np.nan)
    with np.errstate(invalid="ignore"):
        use = scored & (ground_speed_mps >= SPEED_RANGE_MPS[0]) & (ground_speed_mps <= SPEED_RANGE_MPS[1])
    use &= np.isfinite(track_angle_rad) & np.isfinite(height_rate_mps)
    if not use.any():
        return speed, angle
    east, north = local_velocity(mean[use][:, :2], up_m[use], mean[use][:, 2:], height_rate_mps[use], frame)
    speed[use] = np.hypot(east, north) - ground_speed_mps[use]
    if np.isfinite(frame.origin.latitude_deg):
        angle[use] = circular_difference_deg(np.arctan2(east, north), track_angle_rad[use])
    return speed, angle
