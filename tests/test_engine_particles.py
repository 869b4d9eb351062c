"""Every backend on turning flights against a bootstrap particle filter of the continuous turn and its chain."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from ssrtrack.filters.measurement import Measurements
from ssrtrack.units import DEG_RAD
from tests import engine_cases as cases
from tests.engine_cases import EVERY
from tests.filters_fixture import UP_M, cartesian, polar
from tests.oracles import turn
from tests.oracles.linear import generator

PLOTS, SEEDS, PARTICLES = 11, (0, 1, 2), 60_000
SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD = 50.0, 0.06 * DEG_RAD
ROOT = np.array([[60.0, 0.0], [30.0, 90.0]])

ALONE = ([turn.Turn(0.0, 1.0 * DEG_RAD, 30.0, 2.0)], np.zeros((1, 1)))
STRAIGHT = turn.Turn(0.0, 0.0, 1.0, 0.1)
SIDES = [turn.Turn(side * 1.8 * DEG_RAD, 0.9 * DEG_RAD, 60.0, 1.0) for side in (1.0, -1.0)]
THREE = np.array([[0.0, 0.5, 0.5], [0.9, 0.0, 0.1], [0.9, 0.1, 0.0]])
FOUR = np.array([[0.0, 0.4, 0.3, 0.3], [0.6, 0.0, 0.2, 0.2], [0.6, 0.3, 0.0, 0.1], [0.6, 0.3, 0.1, 0.0]])
# The round numbers of these estimators (before any tuning), written down a second time.
MODELS: dict[str, tuple[list[turn.Turn], np.ndarray]] = {
    "ekf-ct": ALONE,
    "ukf-ct": ALONE,
    "imm3": ([STRAIGHT, *SIDES], generator(np.array([120.0, 40.0, 40.0]), THREE)),
    "imm": ([STRAIGHT, turn.Turn(0.0, 0.0, 1.0, 20.0), *SIDES], generator(np.array([120.0, 20.0, 40.0, 40.0]), FOUR)),
}
# Root mean square of the greatest error of a mean (in σ) at each plot, median of that of a covariance (in σᵢσⱼ), and
# greatest error of a model's probability. The linearised filters are lost for a plot or two while velocity is unknown.
NEAR = {"ekf-ct": (0.9, 0.25, 0.0), "ukf-ct": (0.65, 0.25, 0.0), "imm3": (0.45, 0.25, 0.33), "imm": (0.42, 0.25, 0.25)}


@cache
def flight(seed: int, sees_polar: bool) -> Measurements:
    """A flight at 220 m/s in a turn of 1.5 °/s, plots irregularly every 4 s."""
    rng = np.random.default_rng(seed)
    time_s = np.cumsum(4.0 * rng.uniform(0.6, 1.4, PLOTS))[None]
    rate, radius = 1.5 * DEG_RAD, 220.0 / (1.5 * DEG_RAD)
    angle = 1.0 - rate * (time_s - time_s[0, 0])
    path = np.array([40e3, 60e3]) + radius * np.stack([np.sin(1.0) - np.sin(angle), np.cos(angle) - np.cos(1.0)], -1)
    if sees_polar:
        return polar(time_s, path, SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD, rng)
    return cartesian(time_s, path + rng.standard_normal(path.shape) @ ROOT.T, ROOT @ ROOT.T)


def log_likelihood(z: Measurements, sees_polar: bool) -> Any:
    """Of plot k, for particles at positions (K, 2); the radar stands at the origin."""

    def of_polar(k: int, p: np.ndarray) -> np.ndarray:
        slant, azimuth = np.sqrt((p**2).sum(-1) + UP_M**2), np.arctan2(p[:, 0], p[:, 1])
        turned = (azimuth - z.azimuth_rad[0, k] + np.pi) % (2.0 * np.pi) - np.pi
        return -0.5 * ((slant - z.range_m[0, k]) / SIGMA_RANGE_M) ** 2 - 0.5 * (turned / SIGMA_AZIMUTH_RAD) ** 2

    def of_position(k: int, p: np.ndarray) -> np.ndarray:
        white = np.linalg.solve(ROOT, (p - z.position_m[0, k]).T)
        return -0.5 * (white**2).sum(0)

    return of_polar if sees_polar else of_position


@cache
def believed(name: str, seed: int) -> turn.Belief:
    models, rates = MODELS[name]
    sees_polar = name.endswith("-ct")
    z, rng = flight(seed, sees_polar), np.random.default_rng(5)
    first = z.position_m[0, 0], z.covariance_m2[0, 0]
    return turn.posterior(models, rates, z.time_s[0], first, log_likelihood(z, sees_polar), PARTICLES, rng)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", MODELS)
def test_turning_flights_stay_near_the_particle_posterior(backend: str, name: str) -> None:
    means, covariances, modes = [], [], [0.0]
    for seed in SEEDS:
        true = believed(name, seed)
        history = cases.run_with(backend, cases.untuned(name), flight(seed, name.endswith("-ct")))
        for k in range(1, PLOTS):
            for mean, covariance in (("mean", "covariance"), ("predicted_mean", "predicted_covariance")):
                spread = getattr(true, covariance)[k]
                sigma = np.sqrt(np.diag(spread))
                means.append(np.abs((getattr(history, mean)[0, k] - getattr(true, mean)[k]) / sigma).max())
                far = np.abs(getattr(history, covariance)[0, k] - spread) / np.outer(sigma, sigma)
                covariances.append(far.max())
            if history.mode_probability is not None:
                modes.append(np.abs(history.mode_probability[0, k] - true.mode_probability[k]).max())
    found = float(np.sqrt(np.mean(np.square(means)))), float(np.median(covariances)), float(max(modes))
    assert all(value <= limit for value, limit in zip(found, NEAR[name], strict=True)), found


@pytest.mark.parametrize("name", ["imm3", "imm"])
def test_turns_to_the_other_side_are_far_from_the_particle_posterior(name: str) -> None:
    """The comparison sees a bank whose left and right are exchanged."""
    true = believed(name, 0)
    history = cases.run_with("filterpy", cases.untuned(name, turn_rate_dps=-1.8), flight(0, False))
    assert history.mode_probability is not None
    assert np.abs(history.mode_probability[0] - true.mode_probability).max() > 2.0 * NEAR[name][2]
