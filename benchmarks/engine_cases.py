"""What the engine's benchmarks filter, and how they time it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssrtrack.data import Plots, Radar
from ssrtrack.filters.measurement import Measurements, make_measurements, tracking_frame
from ssrtrack.units import DEG_RAD

SCAN_S, SPEED_MPS, SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD, SIGMA_HEIGHT_M = 4.0, 220.0, 70.0, 0.08 * DEG_RAD, 50.0
Array = Any


def simulated(tracks: int, plots: int, seed: int = 1) -> Measurements:
    """Flights at 10 km, 120 to 250 km from the radar, of which half turn for a minute.

    Every step differs (60 to 140 % of a scan) and so does every plot's covariance (its standard deviations are 70 to
    140 % of 70 m and 0.08°).
    """
    rng = np.random.default_rng(seed)
    step_s = SCAN_S * rng.uniform(0.6, 1.4, (tracks, plots))
    time_s = np.cumsum(step_s, 1)
    rate = np.where(np.abs(np.arange(plots) - plots // 2) < 8, 1.0, 0.0) * rng.choice([-1, 0, 0, 1], (tracks, 1))
    heading = rng.uniform(0.0, 2 * np.pi, (tracks, 1)) + np.cumsum(1.8 * DEG_RAD * rate * step_s, 1)
    bearing, distance = rng.uniform(0.0, 2 * np.pi, tracks), rng.uniform(120e3, 250e3, tracks)
    x = (distance * np.sin(bearing))[:, None] + np.cumsum(SPEED_MPS * np.sin(heading) * step_s, 1)
    y = (distance * np.cos(bearing))[:, None] + np.cumsum(SPEED_MPS * np.cos(heading) * step_s, 1)
    # The earth's curvature lets a flight at 10 km sink in the radar's frame; what is left over is no one's concern.
    slant, azimuth = np.sqrt(x**2 + y**2 + 7000.0**2), np.arctan2(x, y)
    sigma_range = SIGMA_RANGE_M * rng.uniform(0.7, 1.4, x.shape)
    sigma_azimuth = SIGMA_AZIMUTH_RAD * rng.uniform(0.7, 1.4, x.shape)
    log = Plots(
        time_s=time_s.ravel(),
        radar_id=np.zeros(x.size, "i2"),
        range_m=(slant + sigma_range * rng.standard_normal(x.shape)).ravel(),
        azimuth_rad=((azimuth + sigma_azimuth * rng.standard_normal(x.shape)) % (2 * np.pi)).ravel(),
        sigma_range_m=sigma_range.ravel(),
        sigma_azimuth_rad=sigma_azimuth.ravel(),
        pressure_altitude_m=np.full(x.size, 10e3, "f4"),
    )
    site = {"latitude_deg": np.array([45.0]), "longitude_deg": np.array([0.0]), "height_m": np.array([0.0])}
    frame = tracking_frame(Radar(name=np.array([b"A"]), **site))
    index = np.arange(x.size).reshape(x.shape)
    return make_measurements(
        log, index, frame, sigma_range_m=None, sigma_azimuth_rad=None, sigma_height_m=SIGMA_HEIGHT_M
    )


def wall_rates(works: Sequence[tuple[Callable[[], object], int]], repeats: int) -> list[list[float]]:
    """Steps per second (p20, p50, p80) by the wall clock of every (work, its steps).

    Wall clock, since threads share the work. Repeats take turns, so that other load falls on all alike; a first
    round that compiles and warms up does not count.
    """
    for work, _ in works:
        work()
    rates = np.empty((repeats, len(works)))
    for repeat in range(repeats):
        for i, (work, steps) in enumerate(works):
            begin = time.perf_counter()
            work()
            rates[repeat, i] = steps / (time.perf_counter() - begin)
    return [[float(v) for v in np.percentile(column, [20, 50, 80])] for column in rates.T]
