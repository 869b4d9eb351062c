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
    # Written out, since a rotation matrix for each state costs four times as much.
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
    up = cos_lat * cos_lon, cos_lat * sin_lon, sin_lat  # ECEF
    tilt = [up[0] * axis[0] + up[1] * axis[1] + up[2] * axis[2] for axis in base]  # the same in tracking-frame axes
    vx, vy = velocity_mps[..., 0], velocity_mps[..., 1]
    vz = (height_rate_mps - tilt[0] * vx - tilt[1] * vy) / tilt[2]
    ecef = [base[0, i] * vx + base[1, i] * vy + base[2, i] * vz for i in range(3)]
    outward = cos_lon * ecef[0] + sin_lon * ecef[1]
    return cos_lon * ecef[1] - sin_lon * ecef[0], cos_lat * ecef[2] - sin_lat * outward


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
    state = mean[use]
    east, north = local_velocity(state[:, :2], up_m[use], state[:, 2:], height_rate_mps[use], frame)
    speed[use] = np.hypot(east, north) - ground_speed_mps[use]
    if np.isfinite(frame.origin.latitude_deg):
        angle[use] = circular_difference_deg(np.arctan2(east, north), track_angle_rad[use])
    return speed, angle
