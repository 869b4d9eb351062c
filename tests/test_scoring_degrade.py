"""Plots made worse: each axis does what it says, to the rate and size it says, nested and repeatable."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2, multivariate_normal

from ssrtrack.data import Plots
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.scoring import degrade
from ssrtrack.scoring.degrade import AXES, Flown
from ssrtrack.scoring.degrade_draws import _mixed, hashes, normal, uniform

SPARED, LENGTH = 8, 120
PAGE = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text("utf-8")
REMOVING = ("pd", "pd-runs", "gap", "period")


def flown(flights: int = 200, *, length: int = LENGTH, radars: int = 1, turn: bool = True, longest: int = 12) -> Flown:
    """Flights of equal length with one turn from scan 60 to 70 each."""
    rng = np.random.default_rng(5)
    count = flights * length
    flight, column = np.divmod(np.arange(count), length)
    plots = Plots(
        time_s=4.0 * column + rng.uniform(0.0, 3.9, flights)[flight],
        radar_id=column % radars,
        range_m=rng.uniform(20e3, 200e3, count),
        azimuth_rad=rng.uniform(0.0, 2 * np.pi, count),
        truth_id=flight,
        address=flight + 0x400000,
    )
    told = rng.uniform(20.0, 80.0, count), rng.uniform(5e-4, 2e-3, count)
    turning = (column >= 60) & (column < 70) & turn
    return Flown(plots, np.arange(0, count + 1, length), *told, turning, SPARED, longest)


@pytest.fixture(scope="module")
def many() -> Flown:
    return flown()


def in_interval(values: Any, expected: float) -> None:
    """The mean of independent values is within 4 standard errors of what is expected, and these tell 20 % apart."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * error, (np.mean(values), expected, error)
    assert 4 * error < 0.2 * abs(expected)


def test_hash_is_splitmix64() -> None:
    """First outputs of the published generator for the seeds 0 and 1234567."""
    assert [int(v) for v in _mixed(np.array([0, 1234567], np.uint64))] == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_draws_are_uniform_normal_and_unrelated(many: Flown) -> None:
    u, v = uniform(many.plots, 1, "one"), uniform(many.plots, 1, "two")
    n = u.size
    counts = np.histogram(u, 50, (0.0, 1.0))[0]
    assert binom.ppf(1e-5, n, 0.02) <= counts.min() and counts.max() <= binom.ppf(1 - 1e-5, n, 0.02)
    x = normal(many.plots, 1, "one")
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert chi2.ppf(1e-4, n - 1) < (n - 1) * x.var(ddof=1) < chi2.ppf(1 - 1e-4, n - 1)
    other_seed, neighbour = uniform(many.plots, 2, "one"), np.roll(u, 1)
    for other in (v, other_seed, neighbour):
        assert abs(np.corrcoef(u, other)[0, 1]) < 4 / np.sqrt(n)
    assert np.unique(hashes(many.plots, 1, "one")).size == n


@pytest.mark.parametrize("name", AXES)
def test_undegraded_level_changes_nothing(many: Flown, name: str) -> None:
    made = AXES[name].apply(many, AXES[name].none, 1)
    assert made.received.all()
    for column, values in made.plots.columns().items():
        # Told sigmas are those that trackers had been given anyway.
        if name != "sigma-told" or not column.startswith("sigma"):
            np.testing.assert_array_equal(values, getattr(many.plots, column))
    assert (made.counted is not None) == (name == "gap")


@pytest.mark.parametrize("name", AXES)
def test_same_seed_same_plots_whatever_else_is_there(many: Flown, name: str) -> None:
    axis = AXES[name]
    made, again, other = (axis.apply(many, axis.levels[2], seed) for seed in (1, 1, 2))
    part = many.starts[50]
    few = Flown(
        many.plots[:part], many.starts[:51], many.sigma_range_m[:part], many.sigma_azimuth_rad[:part],
        many.turning[:part], SPARED, many.largest_gap,
    )  # fmt: skip
    alone = axis.apply(few, axis.levels[2], 1)
    for column, values in made.plots.columns().items():
        np.testing.assert_array_equal(values, getattr(again.plots, column))
        np.testing.assert_array_equal(values[:part], getattr(alone.plots, column))
    np.testing.assert_array_equal(made.received, again.received)
    np.testing.assert_array_equal(made.received[:part], alone.received)
    random = name not in ("bias", "bias-range", "period", "gap")
    same = all(
        np.array_equal(v, getattr(other.plots, c), equal_nan=v.dtype.kind == "f")
        for c, v in made.plots.columns().items()
    )
    assert (same and np.array_equal(made.received, other.received)) != random


@pytest.mark.parametrize("name", REMOVING)
def test_removed_plots_are_nested_and_never_of_the_warm_up(many: Flown, name: str) -> None:
    levels = (2.0, 4.0, 8.0) if name == "period" else AXES[name].levels
    before = np.ones(len(many.plots), bool)
    for level in levels:
        received = AXES[name].apply(many, level, 1).received
        assert not (received & ~before).any() and received.sum() < before.sum()
        assert received[many.column() < SPARED].all()
        before = received


@given(st.integers(0, 2**63 - 1), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_detection_is_nested_for_any_seed_and_levels(seed: int, a: float, b: float) -> None:
    few = flown(3)
    for function in (degrade.detection, degrade.detection_in_runs):
        worse, better = (function(few, level, seed).received for level in sorted((a, b)))
        assert not (worse & ~better).any()


@pytest.mark.parametrize("level", [0.95, 0.7, 0.5])
def test_detection_probability(many: Flown, level: float) -> None:
    free = many.column() >= SPARED
    kept = degrade.detection(many, level, 3).received[free]
    assert binom.ppf(1e-4, kept.size, level) <= kept.sum() <= binom.ppf(1 - 1e-4, kept.size, level)
    missed = ~kept.reshape(200, -1)
    in_interval((missed[:, 1:] & missed[:, :-1]).mean(1), (1 - level) ** 2) if level < 0.9 else None


@pytest.mark.parametrize("level", [0.9, 0.7, 0.5])
def test_detection_in_runs_has_the_rate_and_the_runs(level: float) -> None:
    """Misses after misses as often as the bivariate normal law says; flights are independent samples."""
    flights = flown(1500)
    missed = ~degrade.detection_in_runs(flights, level, 3).received.reshape(1500, LENGTH)[:, SPARED:]
    in_interval(missed.mean(1), 1 - level)
    quantile = -float(np.sqrt(2) * _erfinv(2 * level - 1))
    both = multivariate_normal(cov=[[1, degrade.RUN_CORRELATION], [degrade.RUN_CORRELATION, 1]]).cdf([quantile] * 2)
    in_interval((missed[:, 1:] & missed[:, :-1]).mean(1), float(both))


def _erfinv(x: float) -> float:
    from scipy.special import erfinv

    return float(erfinv(x))


@pytest.mark.parametrize("function", [degrade.noise, degrade.noise_told])
def test_added_noise_has_its_sigma_and_the_same_draws_at_every_level(
    many: Flown, function: Callable[..., degrade.Degraded]
) -> None:
    errors = {}
    for level in (1.5, 3.0):
        plots, n = function(many, level, 1).plots, len(many.plots)
        size = np.sqrt(level**2 - 1)
        errors[level] = [
            (plots.range_m - many.plots.range_m) / (size * many.sigma_range_m),
            wrapped_angle(plots.azimuth_rad - many.plots.azimuth_rad) / (size * many.sigma_azimuth_rad),
        ]
        for error in errors[level]:
            assert chi2.ppf(1e-4, n) < float(error @ error) < chi2.ppf(1 - 1e-4, n)
        assert plots.azimuth_rad.min() >= 0.0 and plots.azimuth_rad.max() < 2 * np.pi
        told = plots.sigma_range_m, plots.sigma_azimuth_rad
        if function is degrade.noise_told:
            np.testing.assert_allclose(told[0], level * many.sigma_range_m, rtol=1e-6)
            np.testing.assert_allclose(told[1], level * many.sigma_azimuth_rad, rtol=1e-6)
        else:
            assert np.isnan(told).all()
    np.testing.assert_allclose(errors[1.5], errors[3.0], atol=1e-6)


def test_jitter_has_its_sigma_and_keeps_the_order(many: Flown) -> None:
    n = len(many.plots)
    error = degrade.jitter(many, 0.3, 1).plots.time_s - many.plots.time_s
    assert chi2.ppf(1e-4, n) < float(error @ error) / 0.3**2 < chi2.ppf(1 - 1e-4, n)
    inside = np.diff(many.flight()) == 0
    for level in (0.3, 3.0, 50.0):
        step = np.diff(degrade.jitter(many, level, 1).plots.time_s)[inside]
        assert step.min() > 0.99 * degrade.MIN_STEP_S
    # At 3 s one stamp in some must move; those that need not keep their draw.
    free = 3.0 * normal(many.plots, 1, "time")
    moved = degrade.jitter(many, 3.0, 1).plots.time_s - many.plots.time_s - free
    assert (moved > -1e-9).all() and 0.02 < (moved > 1e-9).mean() < 0.5


def test_biases_are_exact(many: Flown) -> None:
    turned = wrapped_angle(degrade.azimuth_bias(many, 0.3, 1).plots.azimuth_rad - many.plots.azimuth_rad)
    np.testing.assert_allclose(turned, np.radians(0.3), atol=1e-12)
    np.testing.assert_allclose(degrade.range_bias(many, 55.0, 1).plots.range_m - many.plots.range_m, 55.0, atol=1e-9)


def test_outliers_have_their_share_and_size(many: Flown) -> None:
    n, found = len(many.plots), {}
    for level in (0.05, 0.2):
        plots = degrade.outliers(many, level, 1).plots
        moved = (plots.range_m - many.plots.range_m) / many.sigma_range_m
        far = moved != 0.0
        assert binom.ppf(1e-4, n, level) <= far.sum() <= binom.ppf(1 - 1e-4, n, level)
        power = float(moved @ moved) / degrade.OUTLIER_SIGMAS**2
        assert chi2.ppf(1e-4, far.sum()) < power < chi2.ppf(1 - 1e-4, far.sum())
        found[level] = moved
    few = found[0.05] != 0.0
    np.testing.assert_array_equal(found[0.05][few], found[0.2][few])


def test_gap_ends_at_one_scan_three_into_a_turn(many: Flown) -> None:
    for level in (1.0, 5.0, 12.0):
        made = degrade.gap(many, level, 1)
        assert made.counted is not None
        missing, counted = ~made.received.reshape(200, -1), made.counted.reshape(200, -1)
        expected = np.zeros(LENGTH, bool)
        expected[63 - int(level) : 63] = True  # the turn begins at scan 60
        assert (missing == expected).all()
        assert (counted == np.isin(np.arange(LENGTH), np.arange(63, 68))).all()


def test_gap_without_a_turn_is_anywhere_there_is_room() -> None:
    flights = flown(300, turn=False)
    made = degrade.gap(flights, 12.0, 1)
    assert made.counted is not None
    counted = made.counted.reshape(300, -1)
    first = counted.argmax(1)
    assert (counted.sum(1) == degrade.RECOVERY_SCANS).all() and ((~made.received).reshape(300, -1).sum(1) == 12).all()
    assert first.min() >= SPARED + 12 and first.max() <= LENGTH - degrade.RECOVERY_SCANS
    # Uniform over the places: the mean of 300 of them.
    low, high = SPARED + 12, LENGTH - degrade.RECOVERY_SCANS
    assert abs(first.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 300)


def test_flight_too_short_for_the_gap_counts_nothing() -> None:
    made = degrade.gap(flown(4, length=SPARED + 12 + 4), 12.0, 1)
    assert made.received.all() and made.counted is not None and not made.counted.any()
    made = degrade.gap(flown(4, length=SPARED + 12 + 5), 12.0, 1)
    assert made.counted is not None and made.counted.sum() == 20


def test_period_keeps_every_kth_plot_of_each_radar() -> None:
    flights = flown(3, radars=2)
    received = degrade.period(flights, 3.0, 1).received.reshape(3, LENGTH)
    column = np.arange(LENGTH)
    assert (received == ((column // 2 % 3 == 0) | (column < SPARED))).all()


def test_documented_axes_are_the_codes() -> None:
    lines = PAGE[PAGE.index("| axis | unit |") :].splitlines()[2 : 2 + len(AXES)]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == list(AXES)
    for name, unit, none, levels, _ in rows:
        axis = AXES[name]
        assert (unit, float(none)) == (axis.unit, axis.none)
        assert tuple(float(level) for level in levels.split(",")) == axis.levels
        assert axis.low <= axis.none <= axis.high and list(axis.levels) == sorted(
            axis.levels, key=lambda level: abs(level - axis.none)
        )
    assert f"correlation {degrade.RUN_CORRELATION:g} from scan to scan" in PAGE
    assert degrade.MIN_STEP_S == 1 / 128 and "1/128 s" in PAGE
    assert (degrade.RECOVERY_SCANS, degrade.GAP_INTO_TURN) == (5, 3) and re.search(r"three scans after one", PAGE)
    assert degrade.OUTLIER_SIGMAS == 10.0 and "10 stated σ" in PAGE
