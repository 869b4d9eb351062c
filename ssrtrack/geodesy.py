"""WGS84 geodetic, Earth-centred (ECEF), local east-north-up (ENU) and radar polar coordinates, with Jacobians.

Every function takes NumPy arrays or torch tensors of any (broadcastable) batch shape and answers in kind; vectors lie
along the last axis. Angles are radians, lengths metres. A site is `(latitude_rad, longitude_rad, height_m)`.
Source: NIMA TR8350.2 (ellipsoid), Bowring 1976 (inverse), ASTERIX Cat 048 (azimuth clockwise from true north).
"""

import sys
from typing import Any

import numpy as np

A_M = 6378137.0  # semi-major axis
F = 1.0 / 298.257223563  # flattening
B_M = A_M * (1.0 - F)
E2 = F * (2.0 - F)
EP2 = E2 / (1.0 - E2)
NO_TARGET_M = 300.0  # slant range that no aircraft has
UNKNOWN_M, UNKNOWN_ACROSS_M = 4000.0, 1e7  # what stands in the derivatives of such a plot


def _xp(x: Any) -> Any:
    """The array library of x, without importing torch for those who do not use it."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(x, torch.Tensor) else np


def _where(condition: Any, a: Any, b: float) -> Any:
    xp = _xp(a)
    return xp.where(condition, a, xp.full_like(a, b))


def wrapped_angle(angle_rad: Any) -> Any:
    """Angles (...) brought into [−π, π): what a difference of azimuths or headings means."""
    return (angle_rad + np.pi) % (2.0 * np.pi) - np.pi


def geodetic_to_ecef(latitude_rad: Any, longitude_rad: Any, height_m: Any) -> Any:
    """ECEF position (..., 3) of WGS84 coordinates (...)."""
    xp = _xp(latitude_rad)
    sin_lat, cos_lat = xp.sin(latitude_rad), xp.cos(latitude_rad)
    n = A_M / xp.sqrt(1.0 - E2 * sin_lat**2)
    x = (n + height_m) * cos_lat * xp.cos(longitude_rad)
    y = (n + height_m) * cos_lat * xp.sin(longitude_rad)
    z = (n * (1.0 - E2) + height_m) * sin_lat
    return xp.stack(xp.broadcast_tensors(x, y, z) if xp is not np else np.broadcast_arrays(x, y, z), -1)


def ecef_to_geodetic(ecef_m: Any) -> tuple[Any, Any, Any]:
    """Latitude, longitude, height (...) of ECEF positions (..., 3).

    Bowring's formula, iterated twice on the reduced latitude: below 1e-9 rad and 1e-6 m up to 100 km height.
    """
    xp = _xp(ecef_m)
    x, y, z = ecef_m[..., 0], ecef_m[..., 1], ecef_m[..., 2]
    p = xp.sqrt(x**2 + y**2)
    beta = xp.arctan2(z * A_M, p * B_M)
    for _ in range(2):
        lat = xp.arctan2(z + EP2 * B_M * xp.sin(beta) ** 3, p - E2 * A_M * xp.cos(beta) ** 3)
        beta = xp.arctan2((1.0 - F) * xp.sin(lat), xp.cos(lat))
    sin_lat, cos_lat = xp.sin(lat), xp.cos(lat)
    # This form of the height is exact and has no division that fails at the poles.
    height = p * cos_lat + z * sin_lat - A_M * xp.sqrt(1.0 - E2 * sin_lat**2)
    return lat, xp.arctan2(y, x), height


def enu_rotation(latitude_rad: Any, longitude_rad: Any) -> Any:
    """Rotation (..., 3, 3) whose rows are the east, north and up axes in ECEF."""
    xp = _xp(latitude_rad)
    if xp is np:
        latitude_rad, longitude_rad = np.asarray(latitude_rad), np.asarray(longitude_rad)
    s, c = xp.sin(latitude_rad), xp.cos(latitude_rad)
    sl, cl = xp.sin(longitude_rad), xp.cos(longitude_rad)
    east = xp.stack([-sl, cl, xp.zeros_like(sl)], -1)
    north = xp.stack([-s * cl, -s * sl, c], -1)
    up = xp.stack([c * cl, c * sl, s], -1)
    return xp.stack([east, north, up], -2)


def ecef_to_enu(ecef_m: Any, site: tuple[Any, Any, Any]) -> Any:
    """ENU position (..., 3) at `site` of ECEF positions (..., 3)."""
    rotation, origin = enu_rotation(site[0], site[1]), geodetic_to_ecef(*site)
    return _xp(ecef_m).einsum("...ij,...j->...i", rotation, ecef_m - origin)


def enu_to_ecef(enu_m: Any, site: tuple[Any, Any, Any]) -> Any:
    """ECEF position (..., 3) of ENU positions (..., 3) at `site`."""
    rotation, origin = enu_rotation(site[0], site[1]), geodetic_to_ecef(*site)
    return _xp(enu_m).einsum("...ji,...j->...i", rotation, enu_m) + origin


def geodetic_to_enu(latitude_rad: Any, longitude_rad: Any, height_m: Any, site: tuple[Any, Any, Any]) -> Any:
    """ENU position (..., 3) at `site` of WGS84 coordinates (...)."""
    return ecef_to_enu(geodetic_to_ecef(latitude_rad, longitude_rad, height_m), site)


def enu_to_geodetic(enu_m: Any, site: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """WGS84 latitude, longitude, height (...) of ENU positions (..., 3) at `site`."""
    return ecef_to_geodetic(enu_to_ecef(enu_m, site))


def enu_to_polar(enu_m: Any) -> tuple[Any, Any, Any]:
    """Slant range, azimuth in [0, 2π) and elevation (...) of ENU positions (..., 3)."""
    xp = _xp(enu_m)
    east, north, up = enu_m[..., 0], enu_m[..., 1], enu_m[..., 2]
    ground = xp.sqrt(east**2 + north**2)
    # A tiny negative angle plus 2π rounds to 2π itself, which is azimuth 0.
    azimuth = xp.arctan2(east, north) % (2.0 * np.pi)
    azimuth = _where(azimuth < 2.0 * np.pi, azimuth, 0.0)
    return xp.sqrt(ground**2 + up**2), azimuth, xp.arctan2(up, ground)


def polar_to_enu(range_m: Any, azimuth_rad: Any, elevation_rad: Any) -> Any:
    """ENU position (..., 3) of slant range, azimuth and elevation (...)."""
    xp = _xp(range_m)
    ground = range_m * xp.cos(elevation_rad)
    up = range_m * xp.sin(elevation_rad)
    return xp.stack([ground * xp.sin(azimuth_rad), ground * xp.cos(azimuth_rad), up], -1)


def slant_to_enu(range_m: Any, azimuth_rad: Any, height_m: Any, site: tuple[Any, Any, Any]) -> Any:
    """ENU position (..., 3) at `site` of a target at slant range and azimuth whose WGS84 height is known.

    This is slant-range correction on the ellipsoid: Newton steps on the up coordinate z, with ground range
    g = √(r² − z²), until the point's height is `height_m`; under 0.1 mm after three. A range too short to reach the
    height (r < |h − h_site|, range noise overhead) gives the point straight above or below the site.
    """
    xp = _xp(range_m)
    if xp is np:
        range_m, azimuth_rad, height_m = np.broadcast_arrays(*map(np.asarray, (range_m, azimuth_rad, height_m)))
    sin_az, cos_az = xp.sin(azimuth_rad), xp.cos(azimuth_rad)
    rise = height_m - site[2]
    # Start from the flat-earth drop r²/2R, which is within a few metres at radar ranges.
    z = _clamped(rise - (range_m**2 - rise**2) / (2.0 * (A_M + height_m)), range_m)
    for _ in range(3):
        ground = xp.sqrt(range_m**2 - z**2)
        enu = xp.stack([ground * sin_az, ground * cos_az, z], -1)
        up_e, up_n, up_u, height = _local_up(enu, site)
        slope = up_u - z / (ground + 1e-9) * (up_e * sin_az + up_n * cos_az)
        z = _clamped(z + (height_m - height) / slope, range_m)
    ground = xp.sqrt(range_m**2 - z**2)
    return xp.stack([ground * sin_az, ground * cos_az, z], -1)


def slant_jacobian(enu_m: Any, site: tuple[Any, Any, Any]) -> Any:
    """∂(east, north) / ∂(slant range, azimuth, height), shape (..., 2, 3), at points from `slant_to_enu`.

    With u the local vertical at the target and h held: u·dp = dh gives dz, and g = √(r² − z²) gives the rest. Near
    the zenith (ground range under 1 % of slant range) the ground range is held at that, so that the result is finite. A
    plot there is one that range noise has put overhead: for the width across it is held at 25 %, as with none the
    covariance would be singular, and with 1 % far too sure where the true, larger ground range makes metres of it.
    No aircraft is within NO_TARGET_M: such a range is wrong, and at 0 the azimuth is lost too. There the derivatives
    are those that make the plot uncertain by kilometres every way; with its own the covariance would be zero.
    """
    xp = _xp(enu_m)
    east, north, z = enu_m[..., 0], enu_m[..., 1], enu_m[..., 2]
    ground = xp.sqrt(east**2 + north**2)
    slant = xp.sqrt(ground**2 + z**2)
    known = slant > NO_TARGET_M
    slant, ground = _where(known, slant, UNKNOWN_M), _where(known, ground, 0.0)
    azimuth = xp.arctan2(east, north)
    sin_az, cos_az = xp.sin(azimuth), xp.cos(azimuth)
    held, width = xp.maximum(ground, 0.01 * slant + 1e-3), xp.maximum(ground, 0.25 * slant + 1e-3)
    width = _where(known, width, UNKNOWN_ACROSS_M)
    up_e, up_n, up_u, _ = _local_up(enu_m, site)
    radial_up = up_e * sin_az + up_n * cos_az
    slope = up_u - (z / held) * radial_up
    slope = _where(abs(slope) > 1e-2, slope, 1e-2)
    dz_dr = -(slant / held) * radial_up / slope
    dz_da = -held * (up_e * cos_az - up_n * sin_az) / slope
    dz_dh = 1.0 / slope
    dg_dr, dg_da, dg_dh = (slant - z * dz_dr) / held, -z * dz_da / held, -z * dz_dh / held
    d_east = xp.stack([dg_dr * sin_az, dg_da * sin_az + width * cos_az, dg_dh * sin_az], -1)
    d_north = xp.stack([dg_dr * cos_az, dg_da * cos_az - width * sin_az, dg_dh * cos_az], -1)
    return xp.stack([d_east, d_north], -2)


def polar_jacobian(enu_m: Any) -> Any:
    """∂(slant range, azimuth) / ∂(east, north, up), shape (..., 2, 3)."""
    xp = _xp(enu_m)
    east, north, up = enu_m[..., 0], enu_m[..., 1], enu_m[..., 2]
    ground2 = east**2 + north**2
    slant = xp.sqrt(ground2 + up**2)
    d_range = xp.stack([east / slant, north / slant, up / slant], -1)
    d_azimuth = xp.stack([north / ground2, -east / ground2, xp.zeros_like(up)], -1)
    return xp.stack([d_range, d_azimuth], -2)


def _local_up(enu_m: Any, site: tuple[Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """The ellipsoid's vertical at ENU points, as components in the site's ENU axes, and the points' height."""
    xp = _xp(enu_m)
    lat, lon, height = enu_to_geodetic(enu_m, site)
    up = xp.stack([xp.cos(lat) * xp.cos(lon), xp.cos(lat) * xp.sin(lon), xp.sin(lat)], -1)
    local = xp.einsum("...ij,...j->...i", enu_rotation(site[0], site[1]), up)
    return local[..., 0], local[..., 1], local[..., 2], height


def _clamped(z: Any, range_m: Any) -> Any:
    """z inside (−r, r), short of the ends by what keeps the Newton step finite."""
    xp = _xp(z)
    limit = range_m * (1.0 - 1e-12)
    return xp.minimum(xp.maximum(z, -limit), limit)
