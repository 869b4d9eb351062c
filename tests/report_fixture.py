"""A realistic EvaluationResult: simulated flights, a polar radar, and Kalman filters of different agility.

The filters here are a dozen lines of NumPy over all flights at once. They share nothing with the library's estimators:
a report is tested on results that look like real ones, whatever the estimators do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from ssrtrack.scoring.result import (
    EvaluationResult,
    FlightExample,
    Histogram,
    RadarNoise,
    Scores,
    Series,
    TrackerResult,
)

SCAN_S, SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD, WARMUP = 4.0, 70.0, np.deg2rad(0.08), 8
EDGES = np.concatenate(([0.0], np.geomspace(0.1, 1e5, 2800), [np.inf]))
# name -> (white acceleration density m²/s³, factor on the covariance it claims)
TRACKERS = {"kf-smooth": (0.5, 1.0), "kf": (5.0, 1.0), "kf-agile": (40.0, 1.0), "optimist": (8.0, 0.4)}


@dataclass(frozen=True)
class Flights:
    """Truth and plots of N flights over T scans: positions and velocities (N, T, 2), noise covariances (N, T, 2, 2)."""

    position: Any
    velocity: Any
    turning: Any
    plots: Any
    noise: Any


@dataclass(frozen=True)
class Run:
    """One filter over all flights: updated states (N, T, 4), covariances, NIS (N, T), predicted positions."""

    state: Any
    covariance: Any
    nis: Any
    predicted: Any


def fly(flights: int, scans: int, rng: np.random.Generator, *, turns: bool = True) -> Flights:
    """Straight legs and standard-rate turns around a radar with range and azimuth noise."""
    speed = rng.uniform(110, 240, (flights, 1))
    chunk = -(-scans // 20)
    rate = np.deg2rad(3.0) * rng.choice([0.0] * 9 + [0.3, -0.3, 0.5, -0.5], (flights, chunk)) * turns
    rate = np.repeat(rate, 20, axis=1)[:, :scans]
    heading = rng.uniform(0, 2 * np.pi, (flights, 1)) + np.cumsum(rate * SCAN_S, axis=1)
    velocity = np.stack((speed * np.sin(heading), speed * np.cos(heading)), axis=-1)
    start = rng.uniform(-60e3, 60e3, (flights, 1, 2))
    position = start + np.cumsum(velocity * SCAN_S, axis=1)
    distance, azimuth = np.hypot(position[..., 0], position[..., 1]), np.arctan2(position[..., 0], position[..., 1])
    unit = np.stack((np.sin(azimuth), np.cos(azimuth)), axis=-1)
    across = np.stack((np.cos(azimuth), -np.sin(azimuth)), axis=-1)
    wide = distance * SIGMA_AZIMUTH_RAD
    noise = SIGMA_RANGE_M**2 * unit[..., :, None] * unit[..., None, :]
    noise = noise + wide[..., None, None] ** 2 * across[..., :, None] * across[..., None, :]
    draws = rng.standard_normal((2, flights, scans))
    plots = position + SIGMA_RANGE_M * draws[0, ..., None] * unit + (wide * draws[1])[..., None] * across
    return Flights(position, velocity, rate != 0, plots, noise)


def follow(flights: Flights, density: float, claim: float) -> Run:
    """A constant-velocity Kalman filter over all flights at once; `claim` scales the covariance it reports."""
    number, scans = flights.plots.shape[:2]
    move = np.eye(4) + SCAN_S * np.eye(4, k=2)
    blocks = np.array([[SCAN_S**3 / 3, SCAN_S**2 / 2], [SCAN_S**2 / 2, SCAN_S]])
    drift = density * np.kron(blocks, np.eye(2))
    x = np.concatenate((flights.plots[:, 0], np.zeros((number, 2))), axis=1)
    p = np.zeros((number, 4, 4))
    p[:, :2, :2], p[:, 2:, 2:] = flights.noise[:, 0], 150.0**2 * np.eye(2)
    state, covariance = np.empty((number, scans, 4)), np.empty((number, scans, 4, 4))
    nis, predicted = np.full((number, scans), np.nan), np.full((number, scans, 2), np.nan)
    state[:, 0], covariance[:, 0] = x, p * claim
    for k in range(1, scans):
        x, p = x @ move.T, move @ p @ move.T + drift
        spread = p[:, :2, :2] + flights.noise[:, k]
        gain = np.swapaxes(np.linalg.solve(spread, p[:, :2, :]), 1, 2)
        innovation = flights.plots[:, k] - x[:, :2]
        nis[:, k] = np.einsum("ni,ni->n", innovation, np.linalg.solve(spread, innovation[..., None])[..., 0]) / claim
        predicted[:, k] = x[:, :2]
        x = x + np.einsum("nij,nj->ni", gain, innovation)
        p = p - gain @ p[:, :2, :]
        p = (p + np.swapaxes(p, 1, 2)) / 2
        state[:, k], covariance[:, k] = x, p * claim
    return Run(state, covariance, nis, predicted)


def _squares(error: Any, covariance: Any) -> Any:
    return np.einsum("nti,nti->nt", error, np.linalg.solve(covariance, error[..., None])[..., 0])


def _rms(values: Any, where: Any = True) -> float | None:
    known = values[np.broadcast_to(where, values.shape)]
    return float(np.sqrt(np.mean(known**2))) if known.size else None


def _series(squares: Any, freedom: int) -> Series:
    number = len(squares)
    low, high = chi2.ppf([0.025, 0.975], freedom * number) / (freedom * number)
    mean = np.nanmean(squares[:, 1:], axis=0) / freedom
    time = SCAN_S * np.arange(1, squares.shape[1])
    return Series(time, mean, np.full(len(mean), low), np.full(len(mean), high))


def _tracker(name: str, run: Run, flights: Flights, truth: bool, first: Any, rng: np.random.Generator) -> TrackerResult:
    error = np.linalg.norm(run.state[..., :2] - flights.position, axis=-1)
    ahead = np.linalg.norm(run.predicted - (flights.position if truth else flights.plots), axis=-1)
    main = (error if truth else ahead)[:, WARMUP:]
    turn = flights.turning[:, WARMUP:]
    full = np.concatenate((flights.position, flights.velocity), axis=-1) - run.state
    nees, nis = _squares(full, run.covariance), run.nis
    inside = _squares(full[..., :2], run.covariance[..., :2, :2])[:, WARMUP:]
    speed = np.linalg.norm(full[..., 2:], axis=-1)[:, WARMUP:]
    each = np.sqrt(np.mean(main**2, axis=1))
    key = "position_rmse_m" if truth else "next_plot_rmse_m"
    draws = rng.integers(0, len(each), (400, len(each)))
    again = np.sqrt(np.mean(each[draws] ** 2, axis=1))
    intervals = {key: tuple(float(v) for v in np.quantile(again, [0.025, 0.975]))}
    base = again if first is None else np.sqrt(np.mean(first[draws] ** 2, axis=1))
    value, reference = float(np.sqrt(np.mean(main**2))), each if first is None else first
    ratio = (
        value / float(np.sqrt(np.mean(reference**2))),
        *(float(v) for v in np.quantile(again / base, [0.025, 0.975])),
    )
    common: dict[str, Any] = {
        "anis": float(np.mean(nis[:, WARMUP:]) / 2),
        "anis_median_ratio": float(np.median(nis[:, WARMUP:]) / chi2.ppf(0.5, 2)),
        "nis_in_bounds": float(np.mean((nis[:, WARMUP:] > 0.051) & (nis[:, WARMUP:] < 7.38))), "innovation_lag1": 0.04,
        "nll_next_plot": 11.3, "gated_share": 0.0021, "updates": int(main.size), "flights": len(main), "seconds": 0.21,
    }  # fmt: skip
    if truth:
        cover = {f"coverage_{p}": float(np.mean(inside < chi2.ppf(p / 100, 2))) for p in (50, 90, 95, 99)}
        common |= cover | {
            "position_rmse_m": value, "position_rmse_turn_m": _rms(main, turn),
            "position_rmse_straight_m": _rms(main, ~turn),
            "position_p50_m": float(np.median(main)), "position_p95_m": float(np.quantile(main, 0.95)),
            "position_p99_m": float(np.quantile(main, 0.99)), "predicted_position_rmse_m": _rms(ahead[:, WARMUP:]),
            "velocity_rmse_mps": _rms(speed), "velocity_rmse_turn_mps": _rms(speed, turn), "nll": 18.2,
            "velocity_rmse_straight_mps": _rms(speed, ~turn), "anees": float(np.mean(nees[:, WARMUP:]) / 4),
            "altitude_rate_rmse_mps": 1.31, "position_bound_rms_m": 41.2, "position_efficiency": 41.2 / value,
            "velocity_bound_rms_mps": 2.05, "velocity_efficiency": 0.31, "nees_in_bounds": 0.934,
        }  # fmt: skip
    else:
        common |= {
            "next_plot_rmse_m": value, "next_plot_p50_m": float(np.median(main)),
            "smoothed_difference_rmse_m": _rms(error),
            "next_plot_p95_m": float(np.quantile(main, 0.95)), "bds50_ground_speed_median_mps": -0.21,
            "bds50_ground_speed_rms_mps": 2.91, "bds50_track_angle_rms_deg": 1.74,
        }  # fmt: skip
    counts = np.histogram(main, EDGES)[0]
    series = _series(nees, 4) if truth else None
    return TrackerResult(
        name, Scores(**common), intervals, {key: ratio}, Histogram(EDGES, counts), series, _series(nis, 2), each
    )


def _example(i: int, flights: Flights, runs: dict[str, Run], truth: bool, label: str) -> FlightExample:
    scans = flights.plots.shape[1]
    tracks = {name: run.state[i, :, :2] for name, run in runs.items()}
    error = {name: np.linalg.norm(track - flights.position[i], axis=-1) for name, track in tracks.items()}
    sigma = {name: np.sqrt(np.trace(run.covariance[i, :, :2, :2], axis1=1, axis2=2)) for name, run in runs.items()}
    return FlightExample(
        label, SCAN_S * np.arange(scans), flights.plots[i], flights.position[i] if truth else None,
        flights.turning[i] if truth else None, tracks, error, sigma, None if truth else flights.position[i],
        np.full(scans, 9000.0),
    )  # fmt: skip


def make_result(
    *, truth: bool = True, trackers: dict[str, tuple[float, float]] | None = None, flights: int = 40, scans: int = 220,
    examples: int = 6, turns: bool = True, logs: tuple[str, ...] = ("terminal-area.h5",),
    label: str = "4CA8{i:02X} RYR{i:02d}QT", seed: int = 7,
) -> EvaluationResult:  # fmt: skip
    """A result as an evaluation would fill it."""
    rng = np.random.default_rng(seed)
    flown = fly(flights, scans, rng, turns=turns)
    runs = {name: follow(flown, *what) for name, what in (TRACKERS if trackers is None else trackers).items()}
    results: list[TrackerResult] = []
    for name, run in runs.items():
        first = results[0].per_flight_rmse_m if results else None
        results.append(_tracker(name, run, flown, truth, first, np.random.default_rng(seed)))
    order = np.argsort(-flown.turning.sum(axis=1), kind="stable")[:examples]
    radar = RadarNoise("LEBL/T1", flights * scans, 70.0, 0.08, 68.4, 0.079, 70.0, 0.08, 181.0, 0.21, SCAN_S)
    bare = RadarNoise("25/101", 1204, None, None, None, None, 30.0, 0.05, None, None, None)
    return EvaluationResult(
        logs=logs, has_truth=truth, identity="truth" if truth else "address", warmup_plots=WARMUP,
        plots=flights * scans + 312, plots_used=flights * scans,
        span_s=(36000.0, 36000.0 + SCAN_S * scans), epoch="2024-05-01T00:00:00+00:00",
        trackers=tuple(results), radars=(radar,) if truth else (radar, bare),
        examples=tuple(_example(int(i), flown, runs, truth, label.format(i=int(i))) for i in order),
        overview_tracks_m=tuple(flown.position[:150]),
        notes=("Heights of plots without Mode C were taken as 3,000 m.", "312 plots carried no 24-bit address."),
    )  # fmt: skip
