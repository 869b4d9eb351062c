"""A scenario's radars over recorded flights: when it begins, how long it lasts, and where its radars stand."""

import dataclasses
import datetime as dt

import numpy as np

from ssrtrack.data import Trajectories
from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import ecef_to_geodetic, geodetic_to_ecef, wrapped_angle
from ssrtrack.simulators.replay import RecordedTraffic
from ssrtrack.simulators.replay_smooth import Floats
from ssrtrack.simulators.schema import Scenario
from ssrtrack.units import DEG_RAD, NM_M

Site = tuple[float, float, float | None]  # latitude and longitude in degrees, height in m (None: as it was)


def with_truth(
    scenario: Scenario, trajectories: Trajectories, *, start: dt.datetime | None = None, site: Site | None = None
) -> tuple[Scenario, RecordedTraffic]:
    """The scenario at the time and place of recorded flights, and these flights as its traffic.

    The epoch becomes the recording's (or `start`), the duration the shorter one of the two; random and scripted
    aircraft do not fly. `site` moves the first radar there, and the others along with it.

    Raises:
        ScenarioError: `start` is not in UTC or whole seconds, or not inside the recording; or no recorded position is
            within the range of any radar.
    """
    begin_s = _begin(trajectories, start)
    left_s = float(trajectories.time_s.max()) - begin_s
    moved = scenario if site is None else _moved(scenario, site)
    duration_s = min(scenario.duration_s, max(float(np.floor(left_s)), 1.0))
    epoch = trajectories.epoch + dt.timedelta(seconds=begin_s)
    place = ", ".join(f"{r.name} at {r.latitude_deg:.5f}, {r.longitude_deg:.5f}" for r in moved.radar)
    # The text alone no longer repeats the simulation, and says so.
    text = f"# Recorded flights from {epoch:%Y-%m-%dT%H:%M:%SZ} on in place of this traffic; {place}\n{scenario.text}"
    placed = dataclasses.replace(moved, epoch=epoch, duration_s=duration_s, text=text)
    _refuse_unseen(placed, trajectories, begin_s)
    return placed, RecordedTraffic(trajectories, start_s=begin_s, duration_s=duration_s)


def centre(trajectories: Trajectories) -> tuple[float, float]:
    """Latitude and longitude, in degrees, in the middle of all positions."""
    lat, lon = trajectories.latitude_deg * DEG_RAD, trajectories.longitude_deg * DEG_RAD
    middle = np.asarray(geodetic_to_ecef(lat, lon, np.zeros_like(lat))).mean(0)
    lat0, lon0, _ = ecef_to_geodetic(middle)
    return float(lat0) / DEG_RAD, float(lon0) / DEG_RAD


def _begin(trajectories: Trajectories, start: dt.datetime | None) -> float:
    if start is None:
        return 0.0
    if start.tzinfo is None or start.microsecond or start.utcoffset() != dt.timedelta(0):
        raise ScenarioError(f"start of the truth: found {start}, expected a UTC time in whole seconds")
    begin_s = (start - trajectories.epoch).total_seconds()
    last_s = float(trajectories.time_s.max())
    if not 0.0 <= begin_s <= last_s - 1.0:
        end = trajectories.epoch + dt.timedelta(seconds=int(last_s))
        raise ScenarioError(
            f"start of the truth: found {start:%Y-%m-%dT%H:%M:%SZ}, expected a time inside the recording, "
            f"{trajectories.epoch:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ}"
        )
    return begin_s


def _moved(scenario: Scenario, site: Site) -> Scenario:
    latitude, longitude, height = site
    first = scenario.radar[0]
    north, east = latitude - first.latitude_deg, longitude - first.longitude_deg
    up = 0.0 if height is None else height - first.height_m
    radars = tuple(
        dataclasses.replace(
            radar,
            latitude_deg=radar.latitude_deg + north,
            longitude_deg=float(wrapped_angle((radar.longitude_deg + east) * DEG_RAD)) / DEG_RAD,
            height_m=radar.height_m + up,
        )
        for radar in scenario.radar
    )
    worst = max(radars, key=lambda radar: abs(radar.latitude_deg))
    if abs(worst.latitude_deg) > 85.0:
        raise ScenarioError(f"radar {worst.name}: moved to latitude {worst.latitude_deg:g}, expected -85 to 85 deg")
    return dataclasses.replace(scenario, radar=radars)


def _refuse_unseen(scenario: Scenario, trajectories: Trajectories, begin_s: float) -> None:
    """Before an hour of work that makes no plot."""
    inside = (trajectories.time_s >= begin_s) & (trajectories.time_s <= begin_s + scenario.duration_s)
    lat, lon = trajectories.latitude_deg[inside] * DEG_RAD, trajectories.longitude_deg[inside] * DEG_RAD
    place = np.asarray(geodetic_to_ecef(lat, lon, np.zeros_like(lat)))
    nearest = np.inf
    for radar in scenario.radar:
        distance_m = _nearest(place, radar.latitude_deg, radar.longitude_deg)
        if distance_m <= radar.coverage.max_range_nm * NM_M:
            return
        nearest = min(nearest, distance_m)
    lat0, lon0 = centre(trajectories)
    how_far = f"the nearest is {nearest / NM_M:.0f} NM off" if np.isfinite(nearest) else "there are none at that time"
    raise ScenarioError(
        f"no recorded position is within the range of a radar of {scenario.name!r}: {how_far}; move the radar with "
        f"--site centre, or to a place such as --site {lat0:.2f},{lon0:.2f},{scenario.radar[0].height_m:.0f}"
    )


def _nearest(place_m: Floats, latitude_deg: float, longitude_deg: float) -> float:
    site = np.asarray(geodetic_to_ecef(latitude_deg * DEG_RAD, longitude_deg * DEG_RAD, 0.0))
    return float(np.sqrt(np.min(np.sum((place_m - site) ** 2, -1), initial=np.inf)))
