"""Radar plots as measurements: the tracking frame, slant-range correction and the covariance of one plot.

The tracking frame is east-north-up on the WGS84 ellipsoid at the first radar. A plot gives slant range and azimuth at
its own radar; with the target's altitude they become a position (x east, y north) in that frame. The barometric
altitude is taken as height above the ellipsoid; what the two differ by is part of `sigma_height_m`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import radians
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Origin, PlotFlag, Plots, Radar
from ssrtrack.errors import EstimatorError
from ssrtrack.geodesy import ecef_to_enu, enu_rotation, geodetic_to_ecef, slant_jacobian, slant_to_enu
from ssrtrack.units import FT_M

Array = NDArray[Any]
Site = tuple[float, float, float]

NOMINAL_SITE: Site = (radians(45.0), 0.0, 0.0)  # stands in for one radar of unknown site; only the curvature matters
DEBIAS_LIMIT = 0.4  # r·σ_az²/σ_r above which the conversion's bias matters (Lerro and Bar-Shalom 1993)
CLIMB_SIGMA_MPS = 10.0  # how fast an altitude carried over from another plot loses its worth
# What is random in a reported altitude from plot to plot is its rounding: 100 ft / sqrt(12).
SIGMA_HEIGHT_M = 100.0 * FT_M / 12.0**0.5
BAD_ALTITUDE = PlotFlag.ALTITUDE_NOT_VALIDATED | PlotFlag.ALTITUDE_GARBLED


@dataclass(frozen=True, eq=False)
class TrackingFrame:
    """An east-north-up frame and where the log's K radars stand in it.

    rotation (K, 3, 3) turns vectors of the tracking frame into radar k's own ENU; position_m (K, 3) is radar k in the
    tracking frame, so a target p is at rotation[k] @ (p − position_m[k]) for radar k. site_rad holds latitude and
    longitude (rad) and height (m) of each radar. Radars that were not asked for and have no site are NaN.
    """

    origin: Origin
    rotation: Array
    position_m: Array
    site_rad: tuple[Site, ...]


@dataclass(frozen=True, eq=False)
class Measurements:
    """Plots of N flights as measurements; every array has the same leading shape, (N,) or (N, T).

    position_m (..., 2) is x east, y north in `frame`, with covariance_m2 (..., 2, 2); up_m is the target's third
    coordinate there. Where `valid` is False there is no plot (a miss, if time_s is finite; else padding after the
    flight's end). sigma_height_m is that of the altitude used, also for plots whose own altitude is missing.
    """

    time_s: Array
    radar_id: Array
    range_m: Array
    azimuth_rad: Array
    sigma_range_m: Array
    sigma_azimuth_rad: Array
    position_m: Array
    covariance_m2: Array
    up_m: Array
    valid: Array
    sigma_height_m: Array
    frame: TrackingFrame

    def select(self, key: Any) -> Self:
        """The same measurements with every array indexed by `key` (rows, a slice, or a tuple of both)."""
        arrays = {f.name: getattr(self, f.name)[key] for f in fields(self) if f.name != "frame"}
        return type(self)(**arrays, frame=self.frame)

    def at(self, k: int) -> Self:
        """Column k of (N, T) measurements, as (N,) measurements."""
        return self.select((slice(None), k))

    def __len__(self) -> int:
        return int(self.time_s.shape[0])


def tracking_frame(radars: Radar, radar_ids: Array | Sequence[int] | None = None) -> TrackingFrame:
    """The tracking frame of the given radars (default: all of the log): ENU at the first of them.

    One single radar without a site is tracked in its own frame, with a nominal site for the earth's curvature and an
    origin of NaN.

    Raises:
        EstimatorError: no radar, an id outside the table, or several radars of which one has no site.
    """
    ids = np.arange(len(radars)) if radar_ids is None else np.unique(np.asarray(radar_ids, np.int64))
    if ids.size == 0:
        raise EstimatorError("no radar to build a tracking frame from; the log's radars table is empty")
    if ids[0] < 0 or ids[-1] >= len(radars):
        raise EstimatorError(f"radar ids {ids[[0, -1]].tolist()} are outside the log's {len(radars)} radars")
    known = radars.has_site()
    if ids.size > 1 and not known[ids].all():
        missing = [radars.name[i].decode("ascii", "replace") for i in ids if not known[i]]
        raise EstimatorError(
            f"radars without a site: {missing}; several radars are tracked together only if every site is known "
            "(give latitude, longitude and height, or choose one radar)"
        )
    sites = [_site(radars, k) for k in range(len(radars))]
    first = int(ids[0])
    if not known[first]:
        sites[first] = NOMINAL_SITE
    origin = Origin(*(float(getattr(radars, n)[first]) for n in ("latitude_deg", "longitude_deg", "height_m")))
    base = enu_rotation(sites[first][0], sites[first][1])
    rotation = np.stack([enu_rotation(s[0], s[1]) @ base.T for s in sites])
    position = np.stack([ecef_to_enu(geodetic_to_ecef(*s), sites[first]) for s in sites])
    return TrackingFrame(origin if known[first] else Origin(), rotation, position, tuple(sites))


def _site(radars: Radar, k: int) -> Site:
    latitude, longitude = float(radars.latitude_deg[k]), float(radars.longitude_deg[k])
    return radians(latitude), radians(longitude), float(radars.height_m[k])


def make_measurements(
    plots: Plots,
    index: Array,
    frame: TrackingFrame,
    *,
    sigma_range_m: float | Array | None,
    sigma_azimuth_rad: float | Array | None,
    sigma_height_m: float,
) -> Measurements:
    """Measurements (N, T) of the plot rows `index` (N, T), −1 for padding (only after a flight's last plot).

    A plot's own standard deviations win; else those given here (one number, or one per radar) hold. A missing,
    unvalidated or garbled altitude is taken from the flight's last good one, else its next, else the radar's height;
    its standard deviation grows by CLIMB_SIGMA_MPS with the time between. Covariance by the polar Jacobian
    J = ∂(x, y)/∂(r, az, h): J diag(σ_r², σ_az², σ_h²) Jᵀ; where r·σ_az²/σ_r > 0.4 the position is made unbiased,
    (x, y)·exp(σ_az²/2), and r²σ_az⁴/2 is added along the radius (Longbin et al. 1998, "Unbiased converted
    measurements for tracking", IEEE T-AES 34(3)). SSR needs this only for coarse azimuths: 200 NM, 0.08° give 0.01.

    Raises:
        EstimatorError: index is not (N, T) rows of `plots`, or a plot has no standard deviation from either side.
    """
    index = np.asarray(index)
    if index.ndim != 2 or index.dtype.kind not in "iu" or (index.size and index.max() >= len(plots)):
        raise EstimatorError(
            f"index must be (N, T) whole numbers below {len(plots)} plots, got {index.dtype} {index.shape}"
        )
    valid = index >= 0
    rows = index[valid]
    radar = plots.radar_id[rows].astype(np.int64)
    if rows.size and radar.max() >= len(frame.site_rad):
        raise EstimatorError(f"a plot names radar {radar.max()}, the frame knows {len(frame.site_rad)} radars")
    time = _spread(plots.time_s[rows], valid)
    range_m, azimuth = plots.range_m[rows], plots.azimuth_rad[rows]
    sigma_r = _sigma("sigma_range_m", plots.sigma_range_m[rows], sigma_range_m, radar)
    sigma_a = _sigma("sigma_azimuth_rad", plots.sigma_azimuth_rad[rows], sigma_azimuth_rad, radar)
    height, sigma_h = _heights(plots, rows, valid, time, float(sigma_height_m))
    target, covariance = _convert(frame, radar, range_m, azimuth, height, np.stack([sigma_r, sigma_a, sigma_h], -1))
    return Measurements(
        time_s=time,
        radar_id=_spread(radar, valid, -1),
        range_m=_spread(range_m, valid),
        azimuth_rad=_spread(azimuth, valid),
        sigma_range_m=_spread(sigma_r, valid),
        sigma_azimuth_rad=_spread(sigma_a, valid),
        position_m=_spread(target[:, :2], valid),
        covariance_m2=_spread(covariance, valid),
        up_m=_spread(target[:, 2], valid),
        valid=valid,
        sigma_height_m=_spread(sigma_h, valid),
        frame=frame,
    )


def _spread(values: Array, valid: Array, fill: float = np.nan) -> Array:
    """Values of the valid cells laid out as (N, T, ...), `fill` elsewhere."""
    out = np.full(valid.shape + values.shape[1:], fill, np.int64 if values.dtype.kind == "i" else np.float64)
    out[valid] = values
    return out


def _sigma(name: str, own: Array, given: float | Array | None, radar: Array) -> Array:
    fallback = np.atleast_1d(np.asarray(np.nan if given is None else given, np.float64))
    if fallback.size > 1 and radar.size and radar.max() >= fallback.size:
        raise EstimatorError(f"{name} has {fallback.size} values, one for each radar is needed")
    # A stated zero, as of a simulation without noise, is no standard deviation that a filter can use.
    sigma = np.where(own > 0.0, own, fallback[radar] if fallback.size > 1 else fallback)
    if not (sigma > 0.0).all():
        raise EstimatorError(
            f"{int((~(sigma > 0.0)).sum())} of {sigma.size} plots have no positive {name}, neither their own nor their "
            f"radar's; pass {name}=..., or put it in the log's radars table"
        )
    return sigma


def _heights(plots: Plots, rows: Array, valid: Array, time: Array, sigma: float) -> tuple[Array, Array]:
    """Height of every valid plot (NaN: never known in the flight) and its standard deviation."""
    altitude = plots.pressure_altitude_m[rows].astype(np.float64)
    altitude = np.where(plots.flags[rows] & BAD_ALTITUDE, np.nan, altitude)
    table = _spread(altitude, valid)
    column = np.broadcast_to(np.arange(valid.shape[1]), valid.shape)
    known = np.isfinite(table)
    last = np.maximum.accumulate(np.where(known, column, -1), 1)
    following = np.minimum.accumulate(np.where(known, column, valid.shape[1])[:, ::-1], 1)[:, ::-1]
    source = np.where(last >= 0, last, np.where(following < valid.shape[1], following, column))
    height = np.take_along_axis(table, source, 1)
    gap = np.abs(time - np.take_along_axis(time, source, 1))
    return height[valid], np.hypot(sigma, CLIMB_SIGMA_MPS * gap)[valid]


def _convert(
    frame: TrackingFrame, radar: Array, range_m: Array, azimuth: Array, height: Array, sigmas: Array
) -> tuple[Array, Array]:
    """Target (P, 3) in the tracking frame and covariance (P, 2, 2) of its x, y."""
    target, covariance = np.empty((radar.size, 3)), np.empty((radar.size, 2, 2))
    for k in np.unique(radar):
        rows, site, turn = radar == k, frame.site_rad[k], frame.rotation[k]
        if not np.isfinite(turn).all():
            raise EstimatorError(f"radar {k} has plots but no site, so it has no place in the tracking frame")
        level = np.where(np.isfinite(height[rows]), height[rows], site[2])
        local = slant_to_enu(range_m[rows], azimuth[rows], level, site)
        jacobian = slant_jacobian(local, site) * sigmas[rows][:, None, :]
        spread = jacobian @ np.swapaxes(jacobian, -1, -2)
        local, spread = _debiased(local, spread, range_m[rows], sigmas[rows])
        # Up changes little over the plot's error, so only the horizontal block of the turn matters.
        target[rows] = local @ turn + frame.position_m[k]
        covariance[rows] = turn[:2, :2].T @ spread @ turn[:2, :2]
    return target, covariance


def _debiased(local: Array, spread: Array, range_m: Array, sigmas: Array) -> tuple[Array, Array]:
    variance = sigmas[:, 1] ** 2
    needed = range_m * variance / sigmas[:, 0] > DEBIAS_LIMIT
    if not needed.any():
        return local, spread
    out = local.copy()
    out[:, :2] *= np.where(needed, np.exp(variance / 2.0), 1.0)[:, None]
    added = np.where(needed, variance**2 / 2.0, 0.0)[:, None, None] * out[:, :2, None] * out[:, None, :2]
    return out, spread + added
