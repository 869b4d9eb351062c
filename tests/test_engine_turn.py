"""The turn models against particles of the model itself: prediction moments, and posteriors over whole flights."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ssrtrack.filters.bank import Bank, BankState
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.units import DEG_RAD
from tests.oracles import turn

DEFAULT = turn.Turn(0.0, 1.0 * DEG_RAD, 30.0, 2.0)  # that of ekf-ct and ukf-ct
STEPS_S = (4.0, 8.0, 12.0)
# Greatest gap of a mean (in σ) and of a covariance (in σᵢσⱼ), sampling noise of 0.01 in the latter included.
HELD = {"ekf-ct": (0.09, 0.02), "ukf-ct": (0.005, 0.02)}
CONTINUOUS = {4.0: (0.25, 0.22), 8.0: (0.65, 0.45), 12.0: (1.0, 0.55)}


def start(rate_dps: float) -> tuple[np.ndarray, np.ndarray]:
    """A track that has settled on a flight at 220 m/s, its errors in position, velocity and turn rate correlated."""
    mix = np.eye(5)
    mix[2, 0], mix[3, 1], mix[4, 2] = 0.04, 0.03, 2e-4
    P = mix @ np.diag([80.0, 120.0, 8.0, 8.0, 0.4 * DEG_RAD]) ** 2 @ mix.T
    return np.array([3e4, 6e4, 140.0, -170.0, rate_dps * DEG_RAD]), P


@cache
def sampled(rate_dps: float, dt_s: float, held: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of 200,000 particles dt_s later."""
    x = turn.drawn(*start(rate_dps), 200_000, np.random.default_rng(1))
    x = turn.moved(x, np.zeros(len(x), int), [DEFAULT], dt_s, np.random.default_rng(2), held)
    return x.mean(0), np.cov(x.T)


def predicted(bank: Bank, rate_dps: float, dt_s: float) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = start(rate_dps)
    one = np.zeros(1, np.int64)
    state = BankState(mean[None, None], covariance[None, None], np.zeros((1, 1)), one, one.astype(bool))
    ahead = bank.predict(state, np.array([dt_s]))
    return ahead.mean[0, 0], ahead.covariance[0, 0]


def gap(got: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    sigma = np.sqrt(np.diag(true[1]))
    far = np.abs(got[1] - true[1]) / np.outer(sigma, sigma)
    return float(np.abs((got[0] - true[0]) / sigma).max()), float(far.max())


def bank(name: str) -> Bank:
    estimator = make_estimator(name)
    assert isinstance(estimator, Bank)
    return estimator


@pytest.mark.parametrize("dt_s", STEPS_S)
@pytest.mark.parametrize("rate_dps", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("name", HELD)
def test_turn_prediction_is_right_within_its_linearisation(name: str, rate_dps: float, dt_s: float) -> None:
    """Against the turn the filters assume, whose rate changes at plots only."""
    mean, covariance = gap(predicted(bank(name), rate_dps, dt_s), sampled(rate_dps, dt_s, True))
    assert mean < HELD[name][0]
    assert covariance < HELD[name][1]


@pytest.mark.parametrize("dt_s", STEPS_S)
@pytest.mark.parametrize("rate_dps", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("name", HELD)
def test_turn_prediction_is_near_the_continuous_turn(name: str, rate_dps: float, dt_s: float) -> None:
    """A rate that wanders and decays within the step: what holding it costs grows with the step."""
    mean, covariance = gap(predicted(bank(name), rate_dps, dt_s), sampled(rate_dps, dt_s, False))
    assert mean < CONTINUOUS[dt_s][0]
    assert covariance < CONTINUOUS[dt_s][1]


TERMS = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3), (0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("row", "column"), TERMS)
def test_a_jacobian_without_one_of_its_terms_is_noticed(row: int, column: int) -> None:
    whole = bank("ekf-ct")
    motion = whole.motions[0]

    def broken(x: np.ndarray, dt: np.ndarray) -> np.ndarray:
        F = motion.jacobian(x, dt).copy()
        F[:, row, column] = 0.0
        return F

    mutant = replace(whole, motions=(replace(motion, jacobian=broken),))
    worst = max(gap(predicted(mutant, 3.0, dt_s), sampled(3.0, dt_s, True))[1] for dt_s in STEPS_S)
    assert worst > 2.0 * HELD["ekf-ct"][1]
