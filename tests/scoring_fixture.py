"""Small logs with known truth: aircraft in the plane of the radar's frame, plots every four seconds."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import pi, radians
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase, Plots, Radar, Truth
from ssrtrack.geodesy import enu_rotation, enu_to_geodetic, enu_to_polar
from ssrtrack.io.hdf5 import LogWriter, Provenance

Array = NDArray[Any]
SITE_DEG = (47.0, 8.0, 400.0)
SITE = (radians(47.0), radians(8.0), 400.0)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PERIOD_S = 4.0
SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD = 50.0, 1e-3


def radar(**changes: Any) -> Radar:
    columns: dict[str, Any] = {
        "name": [b"TEST"], "latitude_deg": [SITE_DEG[0]], "longitude_deg": [SITE_DEG[1]],
        "height_m": [SITE_DEG[2]], "rotation_period_s": [PERIOD_S],
    }  # fmt: skip
    return Radar(**{name: np.array(value) for name, value in (columns | changes).items()})


def paths(
    flights: int, plots: int, rng: np.random.Generator, *, psd_m2ps3: float = 0.0, turn: bool = False
) -> tuple[Array, Array]:
    """Position and velocity (flights, 2 * plots, 2) on a grid of half a period; a turn at 2 deg/s in the middle."""
    step, count = PERIOD_S / 2, 2 * plots
    position, velocity = np.empty((flights, count, 2)), np.empty((flights, count, 2))
    bearing = rng.uniform(0, 2 * pi, flights)
    x = rng.uniform(40e3, 90e3, flights)[:, None] * np.stack([np.sin(bearing), np.cos(bearing)], -1)
    course = rng.uniform(0, 2 * pi, flights)
    v = 200.0 * np.stack([np.sin(course), np.cos(course)], -1)
    root = np.linalg.cholesky(np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]]) * max(psd_m2ps3, 1e-30))
    for k in range(count):
        position[:, k], velocity[:, k] = x, v
        if turn and count // 3 <= k < count // 2:
            x, v = _arc(x, v, step)
        else:
            x = x + step * v
        if psd_m2ps3:
            push = rng.standard_normal((flights, 2, 2)) @ root.T  # axis, then position and velocity
            x, v = x + push[:, :, 0], v + push[:, :, 1]
    return position, velocity


TURN_RADPS = radians(2.0)


def _arc(x: Array, v: Array, step: float) -> tuple[Array, Array]:
    w = TURN_RADPS
    s, c = np.sin(w * step), np.cos(w * step)
    right = np.stack([v[:, 1], -v[:, 0]], -1)
    return x + v * s / w + right * (1 - c) / w, v * c + right * s


def truth_table(position: Array, velocity: Array, *, up_m: float = 3000.0, turn: bool = False) -> Truth:
    """Truth rows, time-ordered, of paths in the frame's horizontal plane at a constant up coordinate."""
    flights, count = position.shape[:2]
    enu = np.concatenate([position, np.full((flights, count, 1), up_m)], -1)
    lat, lon, height = enu_to_geodetic(enu, SITE)
    frame_velocity = np.concatenate([velocity, np.zeros((flights, count, 1))], -1)
    local = np.einsum("...ij,kj,...k->...i", enu_rotation(lat, lon), enu_rotation(SITE[0], SITE[1]), frame_velocity)
    step = np.arange(count)
    phase = np.where(turn & (step >= count // 3) & (step < count // 2), int(Phase.TURN), 0)
    table = Truth(
        time_s=np.broadcast_to(step * PERIOD_S / 2, (flights, count)).ravel(),
        truth_id=np.repeat(np.arange(flights), count),
        latitude_deg=np.degrees(lat).ravel(),
        longitude_deg=np.degrees(lon).ravel(),
        height_m=height.ravel(),
        v_east_mps=local[..., 0].ravel(),
        v_north_mps=local[..., 1].ravel(),
        v_up_mps=local[..., 2].ravel(),
        phase=np.broadcast_to(phase, (flights, count)).ravel(),
    )
    return table[np.argsort(table.time_s, kind="stable")]


def plots_table(
    position: Array, rng: np.random.Generator, *, up_m: float = 3000.0, stated: bool = True, noise: float = 1.0
) -> Plots:
    """One plot per period from every second grid point, time-ordered, with the altitude that is true there."""
    place = position[:, ::2]
    flights, count = place.shape[:2]
    enu = np.concatenate([place, np.full((flights, count, 1), up_m)], -1)
    slant, azimuth, _ = enu_to_polar(enu)
    height = enu_to_geodetic(enu, SITE)[2]
    slant = slant + noise * SIGMA_RANGE_M * rng.standard_normal(slant.shape)
    azimuth = (azimuth + noise * SIGMA_AZIMUTH_RAD * rng.standard_normal(slant.shape)) % (2 * pi)
    table = Plots(
        time_s=np.broadcast_to(np.arange(count) * PERIOD_S, (flights, count)).ravel(),
        radar_id=np.zeros(flights * count, int),
        range_m=slant.ravel(),
        azimuth_rad=azimuth.ravel(),
        pressure_altitude_m=height.ravel().astype("f4"),
        address=np.repeat(np.arange(flights) + 0x4B0000, count),
        truth_id=np.repeat(np.arange(flights), count),
        sigma_range_m=np.full(flights * count, SIGMA_RANGE_M if stated else np.nan, "f4"),
        sigma_azimuth_rad=np.full(flights * count, SIGMA_AZIMUTH_RAD if stated else np.nan, "f4"),
    )
    return table[np.argsort(table.time_s, kind="stable")]


def write_log(
    path: Path,
    plots: Plots,
    truth: Truth | None = None,
    radars: Radar | None = None,
    epoch: datetime = EPOCH,
    extra: dict[str, float | str] | None = None,
) -> Path:
    provenance = Provenance("test", epoch, "0", "2026-01-01T00:00:00Z", extra=extra)
    with LogWriter(path, provenance, radars or radar()) as log:
        log.append_plots(plots)
        if truth is not None:
            log.append_truth(truth)
    return path


def simple_log(
    path: Path, *, flights: int = 12, plots: int = 40, seed: int = 3, turn: bool = True, truth: bool = True, **more: Any
) -> Path:
    """A log of some flights, all with one turn."""
    rng = np.random.default_rng(seed)
    position, velocity = paths(flights, plots, rng, turn=turn)
    table = truth_table(position, velocity, turn=turn) if truth else None
    made = plots_table(position, rng, stated=more.pop("stated", True))
    if not truth:
        made = made.replace(truth_id=np.full(len(made), -2))
    return write_log(path, made, table, **more)


def chunked(table: Plots, sizes: Sequence[int]) -> list[Plots]:
    """The table in pieces of the given sizes, over and over."""
    pieces, at, i = [], 0, 0
    while at < len(table):
        pieces.append(table[at : at + sizes[i % len(sizes)]])
        at += sizes[i % len(sizes)]
        i += 1
    return pieces
