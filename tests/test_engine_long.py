"""Ten thousand steps: covariances stay positive definite in float32, and means stay with those of float64."""

from functools import cache

import numpy as np
import pytest

from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements
from ssrtrack.units import DEG_RAD
from tests import engine_cases as cases
from tests.engine_cases import BACKENDS
from tests.filters_fixture import polar

STEPS = 10_000
EPOCH_S = 86_400.0  # float32 knows the time of day to 1/128 s at best: steps must be taken before rounding
# Left out: triton, whose interpreter takes minutes for this.
FAST = tuple(backend for backend in BACKENDS if backend in ("numba", "torch"))
OPTIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "tail": {"tail_weight": 0.02, "tail_scale": 5.0},
    "gate": {"gate": 0.9999},
}
# How far float32 may lie from float64: means in standard deviations, in 999 plots of 1000 and in all; and a model's
# probability in 999 of 1000. About twice what numba shows. At 100 km positions are rounded to 8 mm, which alone is
# 0.0002; a plot 60 σ off, taken in or weighed by a tail, magnifies it.
LIMIT = {
    ("kf", "plain"): (0.0005, 0.001, 0.0),
    ("kf", "tail"): (0.01, 0.05, 0.0),
    ("kf", "gate"): (0.0005, 0.001, 0.0),
    ("imm", "plain"): (0.05, 0.4, 0.002),
    ("imm", "tail"): (0.002, 0.02, 0.001),
    ("imm", "gate"): (0.001, 0.002, 0.001),
    ("ukf", "plain"): (0.0005, 0.002, 0.0),
    ("ukf", "tail"): (0.012, 0.06, 0.0),
    ("ukf", "gate"): (0.0005, 0.001, 0.0),
}


@cache
def hold() -> Measurements:
    """Two flights that hold for eleven hours some 100 km from the radar, in turns of 1.5 °/s and short straight legs.

    Irregular steps; the second misses a plot in ten, once for ten minutes, and one plot in a hundred is far off.
    """
    rng = np.random.default_rng(3)
    time_s = np.cumsum(4.0 * rng.uniform(0.5, 1.5, (2, STEPS)), 1)
    legs = np.arange(0.0, time_s.max() + 1.0, 0.5)
    # 120 s of turn through half a circle, then 30 s straight, and again: the pattern closes.
    phase = legs % 150.0
    heading = 1.5 * DEG_RAD * (120.0 * (legs // 150.0) + np.minimum(phase, 120.0))
    path = 0.5 * np.cumsum(220.0 * np.stack([np.sin(heading), np.cos(heading)], -1), 0)
    at = np.stack([np.interp(time_s, legs, path[:, axis]) for axis in (0, 1)], -1)
    z = polar(time_s + EPOCH_S, at + np.array([60e3, 80e3]), 50.0, 0.06 * DEG_RAD, rng)
    valid = np.ones((2, STEPS), bool)
    valid[1] = rng.uniform(size=STEPS) > 0.1
    valid[1, 5000:5150] = False
    valid[:, 0] = True
    far = np.zeros((2, STEPS, 2))
    far[1] = 3e3 * (rng.uniform(size=(STEPS, 1)) < 0.01)
    return cases.changed(z, valid=valid, position_m=z.position_m + far, range_m=z.range_m + far[..., 0])


def worst_eigenvalue(history: TrackHistory) -> float:
    """Smallest eigenvalue of any correlation matrix, filtered or predicted; asks that all are finite and symmetric."""
    found = []
    for part in (history.covariance, history.predicted_covariance[:, 1:]):
        matrix = np.asarray(part, np.float64)
        assert np.isfinite(matrix).all()
        np.testing.assert_array_equal(matrix, np.swapaxes(matrix, -1, -2))
        variance = np.diagonal(matrix, axis1=-2, axis2=-1)
        assert (variance > 0.0).all()
        sigma = np.sqrt(variance)
        scaled = matrix / (sigma[..., :, None] * sigma[..., None, :])
        np.linalg.cholesky(scaled)
        found.append(float(np.linalg.eigvalsh(scaled).min()))
    return min(found)


def off(history: TrackHistory, exact: TrackHistory) -> np.ndarray:
    """Distance (N, T) of the means from the exact ones in standard deviations of the exact filter."""
    sigma = np.sqrt(np.diagonal(exact.covariance, axis1=-2, axis2=-1))
    out: np.ndarray = np.abs((history.mean - exact.mean) / sigma).max(-1)
    return out


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("name", "option"), LIMIT)
def test_float32_holds_for_ten_thousand_steps(backend: str, name: str, option: str) -> None:
    usual, top, mode = LIMIT[name, option]
    estimator, z = cases.untuned(name, **OPTIONS[option]), hold()
    exact = cases.run_with(backend, estimator, z)
    history = cases.run_with(backend, estimator, z, "float32")
    assert worst_eigenvalue(history) > 0.0
    # A plot on the very edge of the gate may fall either way; a flight is compared until one does.
    same = (history.used == exact.used).cumprod(1).astype(bool)
    assert same.all(1).any()
    distance = off(history, exact)
    assert np.quantile(distance[same], 0.999) < usual
    assert distance[same].max() < top
    # Nothing builds up: the last thousand steps are as good as the first.
    whole = distance[same.all(1)]
    assert whole[:, -1000:].mean() < 3.0 * whole[:, 1:1001].mean()
    if exact.mode_probability is not None and history.mode_probability is not None:
        gap = np.abs(history.mode_probability - exact.mode_probability)[same]
        assert np.quantile(gap, 0.999) < mode


@pytest.mark.parametrize("name", ["kf"])
def test_the_reference_holds_for_ten_thousand_steps(name: str) -> None:
    assert worst_eigenvalue(cases.run_with("filterpy", make_estimator(name), hold())) > 0.0


def test_an_indefinite_covariance_is_noticed() -> None:
    z = hold().select((slice(None), slice(0, 50)))
    history = cases.run_with("filterpy", make_estimator("kf"), z)
    history.covariance[1, 40, 0, 2] = history.covariance[1, 40, 2, 0] = 1.01 * np.sqrt(
        history.covariance[1, 40, 0, 0] * history.covariance[1, 40, 2, 2]
    )
    with pytest.raises(np.linalg.LinAlgError):
        worst_eigenvalue(history)
