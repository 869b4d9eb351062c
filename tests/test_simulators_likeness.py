"""What plots alone tell of a radar is measured right, and the simulated hour of `barcelona` is like the real one."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ssrtrack.simulators
from ssrtrack.data import Plots
from ssrtrack.simulators.likeness import (
    LONGEST_RUN,
    PROBABILITIES,
    WINDOW,
    airborne,
    cubic_middle,
    distance,
    distributions,
    likeness,
    quantiles,
)
from ssrtrack.simulators.scenario import load_scenario, parse_scenario, simulate
from ssrtrack.units import NM_M
from tests.replies_fixture import SURE, is_share, plots_with

HOUR = json.loads((Path(ssrtrack.simulators.__file__).parent / "profiles" / "barcelona_hour.json").read_text("utf-8"))


def test_a_cubic_leaves_nothing_and_white_noise_keeps_its_sigma():
    rng = np.random.default_rng(1)
    time_s = 4.0 * (np.arange(WINDOW) - WINDOW // 2) + rng.uniform(-1, 1, (40_000, WINDOW))
    time_s[:, WINDOW // 2] = 0.0
    c = rng.standard_normal((4, len(time_s), 1)) * np.array([1e4, 100, 2, 0.05])[:, None, None]
    curve = c[0] + time_s * (c[1] + time_s * (c[2] + time_s * c[3]))
    residual, second, third = cubic_middle(time_s, curve)
    assert np.abs(residual).max() < 1e-8
    np.testing.assert_allclose(second, 2 * c[2][:, 0], atol=1e-6)
    np.testing.assert_allclose(third, 6 * c[3][:, 0], atol=1e-6)
    noisy = cubic_middle(time_s, curve + 7.0 * rng.standard_normal(time_s.shape))[0]
    low, high = np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], len(noisy)) / len(noisy))
    assert low < np.sqrt(np.mean(noisy**2)) / 7.0 < high


@pytest.mark.parametrize("step", [0.0, 0.3])
def test_the_distance_is_that_of_kolmogorov_and_smirnov_also_of_rounded_values(step):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal(20_000), 1.2 * rng.standard_normal(30_000) + 0.1
    if step:
        a, b = np.round(a / step) * step, np.round(b / step) * step
    assert distance(a, quantiles(b)) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=0.006)
    assert distance(b, quantiles(b)) < 0.006
    assert len(PROBABILITIES) == 199


def test_misses_and_noise_of_a_simulated_radar_are_measured():
    plots = plots_with(
        number=150,
        duration_s=2400,
        detection="probability = 0.97",
        noise="sigma_range_m = 30, sigma_azimuth_deg = 0.05",
    )
    found = likeness(airborne(plots), 4.0)
    misses = int(found.runs @ np.arange(1, LONGEST_RUN + 1))
    assert is_share(misses, found.opportunities, 0.03)
    # A miss after a miss is as likely as any: runs are geometric.
    assert is_share(found.runs[0], found.runs.sum(), 0.97)
    # Neighbouring windows share plots, so their number counts for a ninth of itself.
    n = found.straight.sum() / WINDOW
    low, high = np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], n) / n)
    assert low < found.range_residual_m[found.straight].std() / 30 < high
    assert low < found.azimuth_residual_deg[found.straight].std() / 0.05 < high


def test_only_airborne_plots_beyond_the_least_range_count():
    plots = Plots(
        time_s=np.arange(6.0), radar_id=np.zeros(6), azimuth_rad=np.ones(6),
        range_m=NM_M * np.array([9, 9, 9, 9, 4, 9]),
        address=np.array([1, -1, 1, 1, 1, 1]), plot_type=np.array([5, 5, 0, 5, 5, 5]),
        pressure_altitude_m=np.array([900, 900, 900, np.nan, 900, 100]),
    )  # fmt: skip
    np.testing.assert_array_equal(airborne(plots).time_s, [0.0])


def test_whole_rotations_are_stamped_late_with_their_share_and_spread():
    blocks = {"number": 120, "duration_s": 4800}
    clean = plots_with(**blocks)
    plots = plots_with(**blocks, north_stamp="spread_s = 0.01, late_share = 0.1, late_s = 0.05")
    order = np.lexsort((plots.time_s, plots.truth_id)), np.lexsort((clean.time_s, clean.truth_id))
    exact = clean.time_s[order[1]]
    late = plots.time_s[order[0]][: len(exact)] - exact
    np.testing.assert_array_equal(plots.azimuth_rad[order[0]][: len(exact)], clean.azimuth_rad[order[1]])
    rotation = np.floor(exact / 4.0).astype(int)
    first = np.unique(rotation, return_index=True)[1]
    np.testing.assert_allclose(late, late[first][np.searchsorted(rotation[first], rotation)], atol=1e-9)
    late = late[first]
    assert is_share((late > 0.03).sum(), len(late), 0.1)
    assert stats.kstest((late - 0.05 * (late > 0.03)) / 0.01, "uniform").pvalue > SURE


@pytest.fixture(scope="module")
def hour() -> Plots:
    return Plots.concat([p for p, _ in simulate(load_scenario("barcelona"), 1)])


def test_the_simulated_hour_of_barcelona_is_like_the_real_one(hour):
    found = likeness(airborne(hour), HOUR["period_s"])
    # What is the radar's own is within 3 %; what depends on who flies how is within 6 % and 10 %.
    most = {
        "range residual, straight [m]": 0.03,
        "azimuth residual, straight [deg]": 0.03,
        "range residual [m]": 0.03,
        "azimuth residual [deg]": 0.06,
        "time between scans [s]": 0.06,
        "slant range [NM]": 0.10,
    }
    far = {n: distance(v, np.array(HOUR["quantiles"][n])) for n, v in distributions(found).items()}
    assert far.keys() == most.keys()
    assert {n: d for n, d in far.items() if d > most[n]} == {}
    assert 0.8 < found.per_minute.mean() / np.mean(HOUR["plots per minute"]) < 1.2
    # Misses come in runs: their number varies as that of gaps, not of misses.
    gaps, real = found.runs.sum(), sum(HOUR["miss runs"])
    assert abs(gaps - real * found.opportunities / HOUR["opportunities"]) < 4.4 * np.sqrt(gaps + real)


def test_a_radar_unlike_the_real_one_is_told_from_it():
    """The thresholds above can fail: a radar of typical accuracy is far beyond them."""
    text = load_scenario("barcelona").text.replace(
        'profile = "barcelona"', 'profile = "modes-typical"\nrotation_period_s = 4'
    )
    scenario = parse_scenario(text.replace("duration_s = 3600.0", "duration_s = 900.0"), "x", "x")
    found = likeness(airborne(Plots.concat([p for p, _ in simulate(scenario, 1)])), 4.0)
    far = {n: distance(v, np.array(HOUR["quantiles"][n])) for n, v in distributions(found).items()}
    assert far["range residual, straight [m]"] > 0.3
    assert far["azimuth residual, straight [deg]"] > 0.3


def test_only_aggregates_of_the_hour_are_kept():
    assert set(HOUR["quantiles"]) == set(HOUR["samples"])
    assert all(len(q) == len(PROBABILITIES) for q in HOUR["quantiles"].values())
    assert len(HOUR["plots per minute"]) in (59, 60)
