"""The one table of cases that every backend of the filters must agree on, and how a backend is run in a test.

To put a backend under all engine tests, add its name to BACKENDS.
"""

import os
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import ESTIMATORS, make_estimator, untuned_parameters
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements, make_measurements, tracking_frame
from ssrtrack.filters.run import run
from ssrtrack.filters.smoother import smooth
from ssrtrack.units import DEG_RAD

Array = NDArray[Any]

# Fast backends under every test of the engine, beside "filterpy". torch and triton compile or run the same formulas:
# the comparison over the table (test_engine_filterpy) holds them, where it also says what of it they run.
BACKENDS: tuple[str, ...] = ("numba",)
EVERY = ("filterpy", *BACKENDS)

# imm-gated is imm with other numbers.
BANKS = tuple(n for n in ESTIMATORS if n != "imm-gated" and isinstance(make_estimator(n), Bank))
PLAIN: dict[str, Any] = {"gate": None, "tail_weight": 0.0, "tail_scale": 10.0}  # also for names that are tuned
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "gate": PLAIN | {"gate": 0.9999},
    "tail": PLAIN | {"tail_weight": 0.05, "tail_scale": 6.0, "speed_sigma_mps": 120.0},
    "gate+tail": PLAIN | {"gate": 0.999, "reopen_after": 1, "tail_weight": 0.02, "tail_scale": 3.0},
}


def untuned(name: str, **changes: Any) -> Any:
    """An estimator with the round numbers of its code, on which the tests' limits were measured."""
    return make_estimator(name, **(untuned_parameters(name) | changes))


CASES = [(name, option) for name in BANKS for option in OPTIONS]
HAS_BACKENDS = "backend" in signature(run).parameters
HAS_LAG = "lag" in signature(smooth).parameters


def needs(backend: str) -> None:
    """Skip the calling test, saying why, where `backend` cannot run."""
    module = {"torch": "torch", "numba": "numba", "triton": "triton"}.get(backend)
    if module and find_spec(module) is None:
        pytest.skip(f"backend {backend!r} needs {module}, which is not installed")
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") != "1":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("triton needs a CUDA device, or TRITON_INTERPRET=1 set before the start (slow, on the CPU)")


def run_with(backend: str, estimator: Any, z: Measurements, dtype: str = "float64") -> TrackHistory:
    """`run` on one backend; before `run` knew of backends it was the filterpy one."""
    needs(backend)
    chosen: dict[str, Any] = {"backend": backend} if HAS_BACKENDS else {}
    if dtype != "float64":
        chosen["dtype"] = dtype
    return run(estimator, z, **chosen)


def smooth_with(backend: str, estimator: Any, z: Measurements, lag: int | None = None) -> tuple[Array, Array]:
    """`smooth` on one backend, whole flights or with a fixed lag of so many columns."""
    needs(backend)
    if lag is not None and not HAS_LAG:
        pytest.skip("smooth has no fixed lag yet")
    knows = "backend" in signature(smooth).parameters
    if backend != "filterpy" and not knows:
        pytest.skip("smooth has one backend only")
    chosen: dict[str, Any] = {"backend": backend} if knows else {}
    if lag is not None:
        chosen["lag"] = lag
    return smooth(estimator, z, **chosen)


RADARS = Radar(
    name=np.array([b"A", b"B", b"C"]),
    latitude_deg=np.array([41.3, 42.1, 41.0]),
    longitude_deg=np.array([2.1, 3.4, 0.6]),
    height_m=np.array([30.0, 700.0, 250.0]),
)
FRAME = tracking_frame(RADARS)
EARTH_M = 6.371e6


@dataclass(frozen=True)
class Flight:
    """One flight of the table; columns are counted from 0, angles in degrees clockwise from north."""

    name: str
    plots: int
    start_m: tuple[float, float]
    heading_deg: float
    speed_mps: float = 220.0
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)  # °/s, from s, for s
    height_m: float = 9000.0
    radars: tuple[int, ...] = (0,)
    together: tuple[int, ...] = ()  # columns at the very time of the one before
    gap: tuple[int, float] = (0, 0.0)  # so many seconds more before that column
    misses: tuple[int, ...] = ()
    outliers: tuple[int, ...] = ()  # by 50 standard deviations, all to one side
    sigma_spread: float = 0.0  # how much the plots' noise varies: standard deviation of log σ


FLIGHTS = (
    Flight("one plot", 1, (30e3, 40e3), 90.0),
    Flight("two plots", 2, (-50e3, 20e3), 200.0),
    Flight("no plot", 0, (0.0, 0.0), 0.0),
    Flight("seven plots", 7, (80e3, -60e3), 320.0),
    Flight("long turn, three radars", 60, (-40e3, 60e3), 110.0, turn=(1.8, 40.0, 90.0), radars=(0, 1, 2)),
    Flight("one outlier", 23, (60e3, 45e3), 250.0, outliers=(11,)),
    Flight("outliers reopen the gate", 23, (55e3, 70e3), 180.0, outliers=(9, 10, 11, 12)),
    Flight("misses", 23, (-70e3, -30e3), 45.0, turn=(-3.0, 30.0, 30.0), misses=(1, 6, 7, 8, 15, 21, 22)),
    Flight("late plot", 17, (20e3, -90e3), 15.0, gap=(8, 150.0)),
    Flight("plots at one time", 23, (35e3, 52e3), 75.0, radars=(0, 1), together=(1, 5, 6, 14), misses=(14,)),
    Flight("through north", 23, (-6e3, 60e3), 95.0),
    Flight("through south", 23, (7e3, -45e3), 265.0, turn=(-0.8, 20.0, 40.0)),
    Flight("near overhead", 23, (-11e3, 4e3), 90.0, height_m=11000.0),
    Flight("noise varies", 23, (-45e3, -65e3), 10.0, radars=(0, 2), sigma_spread=1.0),
)


def path_of(flight: Flight, time_s: Array) -> Array:
    """True x, y (T, 2) of a flight in the tracking frame."""
    fine = np.arange(0.0, time_s[-1] + 0.5, 0.25)
    rate, begin, during = flight.turn
    heading = DEG_RAD * (flight.heading_deg + rate * np.clip(fine - begin, 0.0, during))
    velocity = flight.speed_mps * np.stack([np.sin(heading), np.cos(heading)], -1)
    path = np.array(flight.start_m) + 0.25 * np.cumsum(velocity, 0)
    return np.stack([np.interp(time_s, fine, path[:, axis]) for axis in (0, 1)], -1)


def _columns(flight: Flight, seed: int) -> dict[str, Array]:
    """Plots of one flight: noisy slant range and azimuth at each plot's own radar."""
    rng = np.random.default_rng(seed)
    step = 4.0 * rng.uniform(0.6, 1.4, flight.plots)
    step[0], step[list(flight.together)] = 0.0, 0.0
    step[flight.gap[0]] += flight.gap[1]
    time_s = np.cumsum(step)
    ground = path_of(flight, time_s)
    up = flight.height_m - (ground**2).sum(-1) / (2.0 * EARTH_M)
    radar = np.array(flight.radars)[np.arange(flight.plots) % len(flight.radars)]
    offset = np.concatenate([ground, up[:, None]], 1) - FRAME.position_m[radar]
    local = np.einsum("tij,tj->ti", FRAME.rotation[radar], offset)
    scale = np.exp(flight.sigma_spread * rng.standard_normal((2, flight.plots)))
    sigma_r, sigma_a = 50.0 * scale[0], 0.06 * DEG_RAD * scale[1]
    noise = rng.standard_normal((2, flight.plots))
    noise[:, list(flight.outliers)] += 50.0
    return {
        "time_s": time_s + 10.0 * seed,
        "radar_id": radar,
        "range_m": np.sqrt((local**2).sum(-1)) + sigma_r * noise[0],
        "azimuth_rad": (np.arctan2(local[:, 0], local[:, 1]) + sigma_a * noise[1]) % (2.0 * np.pi),
        "pressure_altitude_m": np.full(flight.plots, flight.height_m, "f4"),
        "sigma_range_m": sigma_r.astype("f4"),
        "sigma_azimuth_rad": sigma_a.astype("f4"),
    }


@cache
def table() -> Measurements:
    """The table's flights as measurements (N, T), padded. Every second miss holds NaN: nothing is known of it."""
    parts = [_columns(flight, seed) for seed, flight in enumerate(FLIGHTS) if flight.plots]
    index = np.full((len(FLIGHTS), max(f.plots for f in FLIGHTS)), -1)
    first = 0
    for row, flight in enumerate(FLIGHTS):
        index[row, : flight.plots] = first + np.arange(flight.plots)
        first += flight.plots
    plots = Plots(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    z = make_measurements(plots, index, FRAME, sigma_range_m=None, sigma_azimuth_rad=None, sigma_height_m=60.0)
    for row, flight in enumerate(FLIGHTS):
        z.valid[row, list(flight.misses)] = False
        for column in flight.misses[::2]:
            for name in ("range_m", "azimuth_rad", "position_m", "covariance_m2", "up_m", "sigma_height_m"):
                getattr(z, name)[row, column] = np.nan
            z.radar_id[row, column] = -1
    return z


@cache
def reference(name: str, option: str) -> TrackHistory:
    """What filterpy makes of the table."""
    return run_with("filterpy", make_estimator(name, **OPTIONS[option]), table())


@cache
def reference_smoothed(name: str, option: str) -> tuple[Array, Array]:
    """What the smoother of the filterpy path makes of the table."""
    return smooth_with("filterpy", make_estimator(name, **OPTIONS[option]), table())


def changed(z: Measurements, **columns: Any) -> Measurements:
    """The same measurements with some columns replaced."""
    return replace(z, **columns)


def taken(history: TrackHistory, key: Any) -> TrackHistory:
    """A history's rows, or rows and columns."""
    arrays = {f.name: getattr(history, f.name) for f in fields(history) if f.name != "seconds"}
    return TrackHistory(**{n: None if a is None else a[key] for n, a in arrays.items()}, seconds=history.seconds)


def changed_modes(history: TrackHistory, mode_probability: Array | None) -> TrackHistory:
    """The same history with other model probabilities."""
    return replace(history, mode_probability=mode_probability)


def assert_same_moments(got: tuple[Array, Array], expected: tuple[Array, Array], tolerance: float, what: str) -> None:
    """Means within `tolerance` standard deviations, covariances within that part of σᵢσⱼ, NaN in the same places.

    Means are also granted 8 units in the last place, or a mean of 100 km could not be compared to 1e-12.
    """
    (mean, covariance), (other, spread) = got, expected
    assert mean.shape == other.shape, what
    assert (np.isnan(mean) == np.isnan(other)).all(), f"{what}: NaN in other places"
    assert (np.isnan(covariance) == np.isnan(spread)).all(), f"{what}: NaN in other places of the covariance"
    sigma = np.sqrt(np.diagonal(spread, axis1=-2, axis2=-1))
    excess = np.abs(mean - other) - 8.0 * np.spacing(np.abs(other))
    off = np.nan_to_num(excess / sigma).max(-1)
    far = np.nan_to_num(np.abs(covariance - spread) / (sigma[..., :, None] * sigma[..., None, :])).max((-1, -2))
    for part, gap in (("mean", off), ("covariance", far)):
        worst = np.unravel_index(gap.argmax(), gap.shape)
        assert gap[worst] <= tolerance, f"{what}: {part} off by {gap[worst]:.2g} at {tuple(map(int, worst))}"


def assert_same(got: TrackHistory, expected: TrackHistory, tolerance: float) -> None:
    """Every column of two histories; see `assert_same_moments`. Probabilities within `tolerance`, relative."""
    assert (got.used == expected.used).all(), f"other plots used at {np.argwhere(got.used != expected.used).tolist()}"
    for mean, covariance in (("predicted_mean", "predicted_covariance"), ("mean", "covariance")):
        mine = getattr(got, mean), getattr(got, covariance)
        theirs = getattr(expected, mean), getattr(expected, covariance)
        assert_same_moments(mine, theirs, tolerance, mean)
    assert (got.mode_probability is None) == (expected.mode_probability is None)
    if expected.mode_probability is not None:
        np.testing.assert_allclose(
            got.mode_probability, expected.mode_probability, rtol=tolerance, atol=1e-3 * tolerance, err_msg="modes"
        )
