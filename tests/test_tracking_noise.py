"""A radar's noise measured from its own plots, against plots of known noise."""

import numpy as np
import pytest

from ssrtrack.data import Plots
from ssrtrack.tracking.flights import Cutting, flights
from ssrtrack.tracking.noise import MIN_WINDOWS, measure_noise, robust_sigma
from tests.scoring_fixture import PERIOD_S, SIGMA_AZIMUTH_RAD, SIGMA_RANGE_M, paths, plots_table

RULE = Cutting(per_radar=True)


def made(seed: int = 6, count: int = 60, **more: float) -> Plots:
    rng = np.random.default_rng(seed)
    return plots_table(paths(count, 80, rng, turn=False)[0], rng, **more)


def test_sigma_of_gaussian_noise_is_found() -> None:
    noise = measure_noise(flights([made()], identity="address", cutting=RULE), 1)[0]
    # About 60 x 72 correlated residuals: 3 % is three standard deviations.
    assert noise.sigma_range_m == pytest.approx(SIGMA_RANGE_M, rel=0.04)
    assert noise.sigma_azimuth_rad == pytest.approx(SIGMA_AZIMUTH_RAD, rel=0.04)
    assert noise.range_p99_m == pytest.approx(2.576 * SIGMA_RANGE_M, rel=0.1)
    assert noise.azimuth_p99_rad == pytest.approx(2.576 * SIGMA_AZIMUTH_RAD, rel=0.1)
    assert noise.period_s == pytest.approx(PERIOD_S)
    assert noise.stated_range_m == pytest.approx(SIGMA_RANGE_M)
    assert noise.tail_share < 0.001
    assert noise.plots == 60 * 80 and noise.windows == 60 * 72


def test_the_motion_itself_leaves_no_residual() -> None:
    noise = measure_noise(flights([made(noise=0.0)], identity="address", cutting=RULE), 1)[0]
    assert noise.sigma_range_m is not None and noise.sigma_range_m < 0.05
    assert noise.sigma_azimuth_rad is not None and noise.sigma_azimuth_rad < 1e-6


def test_north_crossings_are_no_noise() -> None:
    plots = made()
    turned = plots.replace(azimuth_rad=(plots.azimuth_rad - np.median(plots.azimuth_rad)) % (2 * np.pi))
    a, b = (measure_noise(flights([p], identity="address", cutting=RULE), 1)[0] for p in (plots, turned))
    assert a.sigma_azimuth_rad == pytest.approx(b.sigma_azimuth_rad)


def test_outliers_make_a_tail_and_leave_sigma() -> None:
    plots = made()
    rng = np.random.default_rng(8)
    wrong = rng.random(len(plots)) < 0.02
    azimuth = plots.azimuth_rad + wrong * 20.0 * SIGMA_AZIMUTH_RAD * rng.standard_normal(len(plots))
    noisy = plots.replace(azimuth_rad=azimuth % (2 * np.pi))
    noise = measure_noise(flights([noisy], identity="address", cutting=RULE), 1)[0]
    assert noise.sigma_azimuth_rad == pytest.approx(SIGMA_AZIMUTH_RAD, rel=0.15)
    assert 0.01 < noise.tail_share < 0.06
    assert 8.0 < noise.tail_scale < 30.0


def test_near_plots_and_windows_with_gaps_are_left_out() -> None:
    plots = made(count=3)
    with_gap = plots[(plots.time_s < 100.0) | (plots.time_s > 120.0)]
    full, cut = (measure_noise(flights([p], identity="address", cutting=RULE), 1)[0] for p in (plots, with_gap))
    rows = len(plots) - len(with_gap)
    assert cut.windows == full.windows - rows - 3 * 8
    near = plots.replace(range_m=np.minimum(plots.range_m, 9000.0))
    assert measure_noise(flights([near], identity="address", cutting=RULE), 1)[0].sigma_range_m is None


def test_each_radar_by_itself_and_none_without_enough_plots() -> None:
    plots = made()
    second = plots[plots.truth_id < 30].replace(
        radar_id=np.ones(30 * 80, int),
        sigma_range_m=np.full(30 * 80, np.nan),
        range_m=plots[plots.truth_id < 30].range_m + 100.0 * np.random.default_rng(1).standard_normal(30 * 80),
    )
    both = Plots.concat([plots, second])
    both = both[np.argsort(both.time_s, kind="stable")]
    first, other, absent = measure_noise(flights([both], identity="address", cutting=RULE), 3)
    assert first.sigma_range_m == pytest.approx(SIGMA_RANGE_M, rel=0.04)
    assert other.sigma_range_m == pytest.approx(np.hypot(100.0, SIGMA_RANGE_M), rel=0.06)
    assert other.stated_range_m is None
    assert absent.plots == 0 and absent.sigma_range_m is None and absent.period_s is None
    few = plots[plots.truth_id == 0][: 8 + MIN_WINDOWS - 1]
    assert measure_noise(flights([few], identity="address", cutting=RULE), 1)[0].sigma_range_m is None


def test_robust_sigma_is_that_of_the_core() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([3.0 * rng.standard_normal(50_000), np.full(500, 1e6)]) + 7.0
    assert robust_sigma(values) == pytest.approx(3.0, rel=0.03)
