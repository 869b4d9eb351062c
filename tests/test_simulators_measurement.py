"""Each error of range and azimuth alone shows the parameter it was given, and leaves everything else alone."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.simulators.effects_measurement import delays, measured
from ssrtrack.simulators.legs import Floats
from ssrtrack.units import DEG_RAD, NM_M
from tests.look_fixture import SURE, look_with, meetings_of

NOISE = {"sigma_range_m": 50.0, "sigma_azimuth_deg": 0.1}


def errors(look, met) -> tuple[Floats, Floats]:
    """Error of range in m and of azimuth in deg."""
    got = measured(look, met)
    off = got["azimuth_rad"] - met.azimuth_rad
    return got["range_m"] - met.range_m, np.degrees((off + np.pi) % (2 * np.pi) - np.pi)


def is_mean(x: Floats, mean: float) -> bool:
    return bool(abs(x.mean() - mean) < stats.norm.isf(SURE / 2) * x.std() / np.sqrt(len(x)))


@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"outliers": {"fraction": 0.0, "scale": 100.0}},
        {"jumps": {"fraction": 0.0}},
        {"bias": {"eccentricity_phase_deg": 50.0, "second_harmonic_phase_deg": 10.0}},
        {"transponder": {"sigma_m": 0.0, "mode_s_limit_m": 1.0}},
        {"tails": {"unit_variance": True}},
    ],
)
def test_an_effect_that_is_off_changes_nothing(blocks):
    look = look_with(20, 20, noise=NOISE, **blocks)
    met, usual = meetings_of(look), look_with(20, 20, noise=NOISE)
    for name, column in measured(usual, met).items():
        np.testing.assert_array_equal(measured(look, met)[name], column, err_msg=name)
    exact = measured(look_with(20, 20, **blocks), met)
    np.testing.assert_array_equal(exact["range_m"], met.range_m)
    np.testing.assert_array_equal(exact["azimuth_rad"], met.azimuth_rad)


@pytest.mark.parametrize(("dof", "unit"), [(2.5, False), (3.0, True), (6.0, False), (6.0, True)])
@pytest.mark.parametrize("axis", [0, 1])
def test_tails_are_students_in_the_axis_that_asks_for_them(axis, dof, unit):
    name = ("range_dof", "azimuth_dof")[axis]
    look = look_with(400, 400, noise=NOISE, tails={name: dof, "unit_variance": unit})
    met = meetings_of(look)
    heavy, light = errors(look, met), errors(look_with(400, 400, noise=NOISE), met)
    np.testing.assert_array_equal(heavy[1 - axis], light[1 - axis])
    scale = (50.0, 0.1)[axis] * (np.sqrt((dof - 2) / dof) if unit else 1.0)
    t = heavy[axis] / scale
    assert stats.kstest(t, stats.t(dof).cdf).pvalue > SURE
    for share in (0.01, 0.002):
        far = int(np.sum(np.abs(t) > stats.t(dof).isf(share / 2)))
        assert stats.binomtest(far, len(t), share).pvalue > SURE
        wrong = 2 * stats.t(1.3 * dof).sf(stats.t(dof).isf(share / 2))
        assert share > 0.002 or stats.binomtest(far, len(t), wrong).pvalue < SURE
    # Tails in both axes come independently of each other.
    both = errors(look_with(400, 400, noise=NOISE, tails={"range_dof": dof, "azimuth_dof": dof}), met)
    ranks = stats.spearmanr(np.abs(both[0]), np.abs(both[1])).statistic
    assert abs(ranks) * np.sqrt(len(t)) < stats.norm.isf(SURE / 2)


@pytest.mark.parametrize(("fraction", "share"), [(0.0005, 0.5), (0.02, 0.5), (0.02, 0.0), (0.02, 0.2), (0.02, 1.0)])
def test_jumps_have_their_share_and_size_in_one_axis_at_a_time(fraction, share):
    sizes = {"range_m": [700, 1500], "azimuth_deg": [1, 4]}
    look = look_with(500, 400, jumps={"fraction": fraction, "range_share": share} | sizes)
    in_range, in_azimuth = errors(look, meetings_of(look, azimuth_rad=2.0))
    far, aside = np.abs(in_range) > 1e-6, np.abs(in_azimuth) > 1e-9
    n = len(far)
    assert not np.any(far & aside)
    for hit, size, low, high, part in ((far, in_range, 700, 1500, share), (aside, in_azimuth, 1, 4, 1.0 - share)):
        assert stats.binomtest(int(hit.sum()), n, fraction * part).pvalue > SURE
        if part == 0.0:
            continue
        assert stats.kstest((np.abs(size[hit]) - low) / (high - low), "uniform").pvalue > SURE
        assert stats.binomtest(int(np.sum(size[hit] > 0)), int(hit.sum())).pvalue > SURE


def test_bias_gain_and_harmonics_are_added_exactly():
    bias = {
        "range_m": -60.0, "gain_m_per_nm": 0.8, "azimuth_deg": 0.07, "eccentricity_deg": 0.02,
        "eccentricity_phase_deg": 70.0, "second_harmonic_deg": 0.01, "second_harmonic_phase_deg": -40.0,
    }  # fmt: skip
    look = look_with(20, 100, bias=bias)
    met = meetings_of(look)
    in_range, in_azimuth = errors(look, met)
    np.testing.assert_allclose(in_range, -60.0 + 0.8 * met.range_m / NM_M, atol=1e-9)
    az = met.azimuth_rad
    expected = 0.07 + 0.02 * np.sin(az + np.radians(70)) + 0.01 * np.sin(2 * az - np.radians(40))
    np.testing.assert_allclose(in_azimuth, expected, atol=1e-12)


def test_bias_and_eccentricity_are_found_again_in_noise():
    bias = {"range_m": 80.0, "gain_m_per_nm": -0.9, "azimuth_deg": -0.05, "eccentricity_deg": 0.04}
    look = look_with(noise=NOISE, bias=bias | {"eccentricity_phase_deg": 25.0})
    met = meetings_of(look)
    in_range, in_azimuth = errors(look, met)
    fits = [
        (np.stack([np.ones(len(met)), met.range_m / NM_M], 1), in_range, 50.0, [80.0, -0.9]),
        (
            np.stack([np.ones(len(met)), np.sin(met.azimuth_rad), np.cos(met.azimuth_rad)], 1), in_azimuth, 0.1,
            [-0.05, 0.04 * np.cos(np.radians(25)), 0.04 * np.sin(np.radians(25))],
        ),
    ]  # fmt: skip
    for design, error, sigma, expected in fits:
        found = np.linalg.lstsq(design, error)[0]
        spread = sigma * np.sqrt(np.diag(np.linalg.pinv(design.T @ design)))
        assert np.all(np.abs(found - expected) < stats.norm.isf(SURE / 2) * spread)
        assert np.all(spread < 0.1 * np.abs(expected))  # so that 20 % more would be seen


@pytest.mark.parametrize("sigma", [20.0, 40.0, 200.0])
def test_transponders_have_constant_offsets_within_their_tolerance(sigma):
    mode_s = np.arange(4000) % 2 == 0
    look = look_with(4000, 5, mode_s=mode_s, transponder={"sigma_m": sigma})
    met = meetings_of(look)
    offset = errors(look, met)[0].reshape(4000, 5)
    assert np.ptp(offset, axis=1).max() < 1e-9
    for limit, these in ((37.5, mode_s), (75.0, ~mode_s)):
        law = stats.truncnorm(-limit / sigma, limit / sigma, scale=sigma)
        assert stats.kstest(offset[these, 0], law.cdf).pvalue > SURE
        assert np.abs(offset[these]).max() <= limit
    # Another radar and later rotations see the same transponder; another seed flies others.
    other = look_with(4000, 5, radar_id=3, first=77, mode_s=mode_s, transponder={"sigma_m": sigma})
    np.testing.assert_array_equal(delays(other), delays(look))
    another = look_with(4000, 5, seed=2, mode_s=mode_s, transponder={"sigma_m": sigma})
    assert abs(np.corrcoef(delays(another), delays(look))[0, 1]) * np.sqrt(4000) < stats.norm.isf(SURE / 2)


def test_reply_jitter_is_white_with_the_sigma_of_its_mode():
    mode_s = np.arange(200) % 2 == 0
    look = look_with(mode_s=mode_s, transponder={"mode_s_jitter_m": 12.0, "mode_ac_jitter_m": 15.0})
    error = errors(look, meetings_of(look))[0].reshape(200, 200)
    for sigma, these in ((12.0, mode_s), (15.0, ~mode_s)):
        x = error[these] / sigma
        low, high = np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], x.size) / x.size)
        assert low < np.sqrt(np.mean(x**2)) < high
        assert abs(np.mean(x[:, 1:] * x[:, :-1])) * np.sqrt(x[:, 1:].size) < stats.norm.isf(SURE / 2)


def test_effects_add_up_and_stated_sigmas_stay_nominal():
    everything = {
        "tails": {"range_dof": 4.0}, "outliers": {"fraction": 0.1}, "jumps": {"fraction": 0.01},
        "bias": {"range_m": 100.0, "azimuth_deg": 0.1}, "transponder": {"sigma_m": 30.0, "mode_s_jitter_m": 12.0},
    }  # fmt: skip
    look = look_with(noise=NOISE, **everything)
    met = meetings_of(look)
    got = measured(look, met)
    assert np.all(got["sigma_range_m"] == 50.0)
    assert np.all(got["sigma_azimuth_rad"] == 0.1 * DEG_RAD)
    assert np.all(got["range_m"] >= 0.0)
    assert np.all((got["azimuth_rad"] >= 0.0) & (got["azimuth_rad"] < 2 * np.pi))
    parts = [errors(look_with(**{name: everything[name]}), met) for name in ("jumps", "bias", "transponder")]
    tails = errors(look_with(noise=NOISE, tails={"range_dof": 4.0}, outliers={"fraction": 0.1}), met)
    total = errors(look, met)
    inside = met.range_m > 5000.0  # ranges are cut at zero
    for axis, tolerance in ((0, 1e-6), (1, 1e-9)):
        np.testing.assert_allclose(total[axis][inside], sum(p[axis] for p in [*parts, tails])[inside], atol=tolerance)
