"""NEES, NIS, coverage, likelihood and whiteness against hand-made cases and matched Gaussians."""

from math import log, pi
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal

from ssrtrack.scoring.consistency import (
    LEVELS,
    chi2_quantile,
    cholesky,
    consistency_values,
    in_two_sided_bounds,
    innovations,
    inside,
    lag_one,
    log_determinant,
    mean_bounds,
    state_consistency,
)

RNG = np.random.default_rng(11)


def spd(*shape: int) -> Any:
    root = RNG.standard_normal((*shape, shape[-1]))
    return root @ np.swapaxes(root, -1, -2) + 0.1 * np.eye(shape[-1])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_cholesky_is_lapacks(size: int) -> None:
    matrix = spd(50, size)
    factor = cholesky(matrix)
    expected = np.linalg.cholesky(matrix)
    for i in range(size):
        for j in range(i + 1):
            np.testing.assert_allclose(factor[i][j], expected[:, i, j], rtol=1e-9)
    np.testing.assert_allclose(log_determinant(factor), np.linalg.slogdet(matrix)[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [np.diag([1.0, -1.0]), np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_cholesky_of_what_is_not_positive_definite_is_nan(bad: Any) -> None:
    assert np.isnan(cholesky(bad)[1][1])


def test_state_consistency_by_hand() -> None:
    mean = np.array([[[10.0, 20.0, 3.0, 4.0]]])
    covariance = np.diag([4.0, 9.0, 1.0, 0.25])[None, None]
    state = state_consistency(mean, cholesky(covariance), np.array([[[8.0, 23.0]]]), np.array([[[2.0, 4.5]]]))
    assert state.nees_position[0, 0] == pytest.approx(1.0 + 1.0)
    assert state.nees[0, 0] == pytest.approx(1.0 + 1.0 + 1.0 + 1.0)
    assert state.nll[0, 0] == pytest.approx(0.5 * (4.0 + log(9.0) + 4 * log(2 * pi)))


def test_state_likelihood_is_scipys_for_full_covariances() -> None:
    mean, covariance, truth = RNG.standard_normal((3, 2, 4)), spd(3, 2, 4), RNG.standard_normal((3, 2, 4))
    state = state_consistency(mean, cholesky(covariance), truth[..., :2], truth[..., 2:])
    for i, j in np.ndindex(3, 2):
        expected = -multivariate_normal(mean[i, j], covariance[i, j]).logpdf(truth[i, j])
        assert state.nll[i, j] == pytest.approx(expected)
        error = truth[i, j] - mean[i, j]
        assert state.nees[i, j] == pytest.approx(error @ np.linalg.solve(covariance[i, j], error))
        part = error[:2] @ np.linalg.solve(covariance[i, j, :2, :2], error[:2])
        assert state.nees_position[i, j] == pytest.approx(part)


def test_innovations_by_hand() -> None:
    predicted = np.array([[[1.0, 2.0, 99.0, 99.0]]])
    covariance = np.diag([3.0, 12.0, 1.0, 1.0])[None, None]
    plot = innovations(predicted, covariance, np.array([[[4.0, 6.0]]]), np.diag([6.0, 4.0])[None, None])
    assert plot.distance_m[0, 0] == pytest.approx(5.0)
    assert plot.nis[0, 0] == pytest.approx(9.0 / 9.0 + 16.0 / 16.0)
    assert [w[0, 0] for w in plot.whitened] == pytest.approx([1.0, 1.0])
    assert plot.nll[0, 0] == pytest.approx(0.5 * (2.0 + log(144.0) + 2 * log(2 * pi)))


def test_matched_gaussian_is_calibrated() -> None:
    count = 40_000
    covariance = spd(4)
    error = RNG.standard_normal((1, count, 4)) @ np.linalg.cholesky(covariance).T
    truth = np.zeros((1, count, 2))
    spread = np.broadcast_to(covariance, (1, count, 4, 4))
    state = state_consistency(error, cholesky(spread), truth, truth)
    predicted = np.zeros((1, count, 4))
    noise = spd(2)
    total = covariance[:2, :2] + noise
    plots = RNG.standard_normal((1, count, 2)) @ np.linalg.cholesky(total).T
    plot = innovations(predicted, spread, plots, np.broadcast_to(noise, (1, count, 2, 2)))
    scored = np.ones((1, count), bool)
    means = {name: float(np.nanmean(v)) for name, v in consistency_values(state, plot, scored).items()}
    low, high = mean_bounds(np.array(count), 4)
    slack = 1.5  # three sigma instead of two: this must not fail by chance
    assert abs(means["anees"] - 1.0) < slack * (high - low) / 2
    assert abs(means["anees_position"] - 1.0) < slack * np.ptp(mean_bounds(np.array(count), 2)) / 2
    assert abs(means["anis"] - 1.0) < slack * np.ptp(mean_bounds(np.array(count), 2)) / 2
    for name in ("nees_in_bounds", "nis_in_bounds"):
        assert means[name] == pytest.approx(0.95, abs=0.004)
    for level in LEVELS:
        assert means[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.01)
    assert np.median(plot.nis) / chi2.ppf(0.5, 2) == pytest.approx(1.0, abs=0.02)
    above, below = lag_one(plot.whitened, scored)
    assert np.nansum(above) / np.nansum(below) == pytest.approx(0.0, abs=3 / np.sqrt(2 * count))


def test_overconfidence_shows() -> None:
    error = RNG.standard_normal((1, 5000, 4))
    zero = np.zeros((1, 5000, 2))
    state = state_consistency(error, cholesky(np.broadcast_to(0.25 * np.eye(4), (1, 5000, 4, 4))), zero, zero)
    assert np.mean(state.nees) / 4 == pytest.approx(4.0, rel=0.05)
    assert np.mean(inside(state.nees_position, 0.95, 2)) < 0.6


@pytest.mark.parametrize(
    ("pattern", "expected"), [((1.0, 1.0, 1.0, 1.0), 1.0), ((1.0, -1.0, 1.0, -1.0), -1.0), ((1.0, 0.0, 1.0, 0.0), 0.0)]
)
def test_lag_one_by_hand(pattern: tuple[float, ...], expected: float) -> None:
    w = np.array([pattern])
    above, below = lag_one((w, 2 * w), np.ones(w.shape, bool))
    assert np.nansum(above) / np.nansum(below) == pytest.approx(expected)


def test_lag_one_never_pairs_across_flights_or_gaps() -> None:
    w = np.array([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, np.nan, np.nan]])
    scored = np.array([[True, True, False, True], [True, True, False, False]])
    above, below = lag_one((w, np.zeros_like(w)), scored)
    assert np.isfinite(above).sum() == np.isfinite(below).sum() == 2
    assert np.nansum(above) == pytest.approx(2.0)


def test_chi_square_bounds_are_the_published_ones() -> None:
    # Bar-Shalom, Li, Kirubarajan 2001, section 5.4: n = 4 and n = 2, mean over 1, 100 and 1000.
    low, high = mean_bounds(np.array([1, 100, 1000]), 4)
    np.testing.assert_allclose(4 * low, [0.484, 3.47, 3.83], atol=0.01)
    np.testing.assert_allclose(4 * high, [11.14, 4.57, 4.18], atol=0.01)
    low, high = mean_bounds(np.array([1, 100, 1000]), 2)
    np.testing.assert_allclose(2 * low, [0.051, 1.63, 1.88], atol=0.01)
    np.testing.assert_allclose(2 * high, [7.38, 2.41, 2.13], atol=0.01)


def test_bounds_and_coverage_of_unknown_are_unknown() -> None:
    values = np.array([0.01, 1.0, 8.0, np.nan])
    np.testing.assert_array_equal(in_two_sided_bounds(values, 2), [0.0, 1.0, 0.0, np.nan])
    np.testing.assert_array_equal(inside(values, 0.95, 2), [1.0, 1.0, 0.0, np.nan])


@pytest.mark.parametrize("probability", [0.025, 0.5, 0.95, 0.99])
def test_quantiles_are_those_of_the_chi_square_distribution(probability: float) -> None:
    freedom = np.array([1.0, 2.0, 4.0, 600.0, 1e6])
    np.testing.assert_allclose(chi2.cdf(chi2_quantile(probability, freedom), freedom), probability, rtol=1e-9)
    assert chi2_quantile(probability, 2) == pytest.approx(-2.0 * np.log1p(-probability), rel=1e-14)
