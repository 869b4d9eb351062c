"""Each reason for a miss alone takes the plots that its parameters say, and no others."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from ssrtrack.simulators.effects_detection import blanked, detected, lobe_db, shielded, signal_probability, working
from ssrtrack.simulators.schema_effects import Blanking, Lobing
from ssrtrack.units import NM_M
from tests.look_fixture import SURE, look_with, meetings_of, spec_with


def hits(look, met) -> np.ndarray:
    seen = np.zeros(len(met), bool)
    seen[detected(look, met)] = True
    return seen


def is_share(count: int, of: int, share: float) -> bool:
    return bool(stats.binomtest(int(count), int(of), share).pvalue > SURE)


@pytest.mark.parametrize(
    "blocks",
    [
        {"shielding": {"loss": 0.0, "angle_deg": -90.0}},
        {"fading": {"share": 0.0, "mean_scans": 9.0}},
        {"blanking": []},
        {"blanking": [{"from_deg": 10.0, "to_deg": 10.0}]},
        {"lobing": {"reflection": 0.0}},
        {"failures": {"mean_duration_s": 900.0}},
    ],
)
def test_an_effect_that_is_off_takes_nothing_and_moves_nothing(blocks):
    some = {"probability": 0.8}
    usual, look = look_with(50, 50, detection=some), look_with(50, 50, detection=some, **blocks)
    met = meetings_of(usual)
    np.testing.assert_array_equal(detected(look, met), detected(usual, met))
    assert len(detected(look_with(50, 50, **blocks), met)) == len(met)


@pytest.mark.parametrize(("half", "sigma"), [(120.0, 3.0), (60.0, 1.5)])
def test_detection_falls_off_with_range(half, sigma):
    look = look_with(400, 200, detection={"probability": 0.95, "half_range_nm": half, "fluctuation_db": sigma})
    met = meetings_of(look)
    seen, nm = hits(look, met), met.range_m / NM_M
    edges = np.linspace(1, 200, 9)
    for low, high in pairwise(edges):
        ring = (nm >= low) & (nm < high)
        expected = 0.95 * stats.norm.cdf(20 * np.log10(half / nm[ring]) / sigma)
        assert is_share(seen[ring].sum(), ring.sum(), expected.mean())
    at_half = signal_probability(look.spec, np.array([half * NM_M]), np.zeros(1))
    assert at_half[0] == pytest.approx(0.95 / 2)


def test_lobes_have_their_gain_gaps_and_spacing():
    lobing = Lobing(reflection=0.7, antenna_height_m=15.0)
    elevation = np.linspace(0.0, 0.1, 200_001)
    gain = lobe_db(lobing, elevation)
    assert gain.max() == pytest.approx(20 * np.log10(1.7), abs=1e-4)
    assert gain.min() == pytest.approx(20 * np.log10(0.3), abs=1e-4)
    gaps = elevation[1:-1][(gain[1:-1] < gain[:-2]) & (gain[1:-1] < gain[2:])]
    # Textbook: nulls where the ways differ by whole wavelengths of 1090 MHz, 0.275 m: sin(el) = n λ / 2h.
    np.testing.assert_allclose(np.sin(gaps), np.arange(1, len(gaps) + 1) * 0.27504 / 30.0, atol=2e-6)
    assert np.all(lobe_db(Lobing(), elevation) == 0.0)


def test_lobes_change_detection_as_their_gain_says():
    detection = {"probability": 1.0, "half_range_nm": 100.0, "fluctuation_db": 3.0}
    for elevation, gain in (
        (np.arcsin(0.27504 / 60.0), 20 * np.log10(1.6)),
        (np.arcsin(0.27504 / 30.0), 20 * np.log10(0.4)),
    ):
        look = look_with(200, 100, detection=detection, lobing={"reflection": 0.6, "antenna_height_m": 15.0})
        met = meetings_of(look, elevation_rad=elevation)
        margin = 20 * np.log10(100.0 * NM_M / met.range_m) + gain
        assert is_share(hits(look, met).sum(), len(met), stats.norm.cdf(margin / 3.0).mean())


@pytest.mark.parametrize(
    ("bank_deg", "azimuth_deg", "expected"),
    [
        (25, 90, False),  # flying north, east of the radar, banked right: the belly looks to the radar in the west
        (25, 270, True),  # west of it, banked right: the top looks there
        (-25, 90, True),
        (-25, 270, False),
        (25, 0, False),  # the radar is behind
        (3, 270, False),  # too shallow
        (0, 270, False),
    ],
)
def test_a_banked_aircraft_hides_its_antenna_from_the_radar_on_its_upper_side(bank_deg, azimuth_deg, expected):
    look = look_with(3, 4, bank=np.radians(bank_deg), shielding={"loss": 1.0, "angle_deg": 5.0})
    met = meetings_of(look, azimuth_rad=np.radians(azimuth_deg))
    assert np.all(shielded(look, met) == expected)
    assert len(detected(look, met)) == (0 if expected else len(met))


def test_shielding_takes_its_share_and_spares_a_second_antenna():
    mode_s = np.arange(4000) % 2 == 0
    shielding = {"loss": 0.4, "diversity_share": 0.7}
    look = look_with(4000, 10, mode_s=mode_s, bank=0.4, shielding=shielding)
    met = meetings_of(look, azimuth_rad=4.7)
    hidden, seen = shielded(look, met), hits(look, met)
    assert is_share(seen[hidden].sum(), hidden.sum(), 0.6)
    assert np.all(seen[~hidden])
    flights = hidden.reshape(4000, 10)
    assert np.all(flights == flights[:, :1])
    assert np.all(flights[~mode_s])
    assert is_share(flights[mode_s, 0].sum(), 2000, 0.3)


@pytest.mark.parametrize(("share", "mean_scans"), [(0.02, 3.0), (0.1, 1.2), (0.3, 8.0)])
def test_fades_have_their_share_and_length_and_come_one_by_one(share, mean_scans):
    look = look_with(300, 1000, fading={"share": share, "mean_scans": mean_scans})
    met = meetings_of(look)
    missed = ~hits(look, met).reshape(300, 1000)
    # The share's spread counts what the correlation leaves: n (1 − ρ) / (1 + ρ) independent scans.
    rho = 1 - 1 / mean_scans - share / mean_scans / (1 - share)
    spread = np.sqrt(share * (1 - share) / missed.size * (1 + rho) / (1 - rho))
    assert abs(missed.mean() - share) < stats.norm.isf(SURE / 2) * spread
    # Every step from a faded scan is one chance to leave, every other one to enter.
    before, after = missed[:, :-1], missed[:, 1:]
    assert is_share((before & ~after).sum(), before.sum(), 1 / mean_scans)
    assert is_share((~before & after).sum(), (~before).sum(), share / mean_scans / (1 - share))
    # Given the scan before, the one before that says nothing: the chain has no longer memory.
    faded = missed[:, 1:-1]
    table = [
        [np.sum(faded & missed[:, :-2] & x), np.sum(faded & ~missed[:, :-2] & x)] for x in (after[:, 1:], ~after[:, 1:])
    ]
    assert stats.chi2_contingency(np.array(table)).pvalue > SURE


def test_fades_do_not_depend_on_how_the_rotations_are_cut():
    fading = {"share": 0.3, "mean_scans": 8.0}
    whole = look_with(50, 300, fading=fading)
    seen = hits(whole, meetings_of(whole)).reshape(50, 300)
    for first, rotations in ((0, 100), (100, 1), (101, 199)):
        part = look_with(50, rotations, first=first, fading=fading)
        np.testing.assert_array_equal(
            hits(part, meetings_of(part)).reshape(50, rotations), seen[:, first : first + rotations]
        )  # fmt: skip


def test_sectors_hide_what_is_low_in_them_and_reach_over_north():
    azimuth = np.radians([349, 351, 0, 9.9, 10.1, 119, 121, 149, 151])
    sectors = (Blanking(from_deg=350, to_deg=10), Blanking(from_deg=120, to_deg=150, elevation_deg=2.0))
    low, high = np.full(9, np.radians(1.9)), np.full(9, np.radians(2.1))
    expected = np.array([0, 1, 1, 1, 0, 0, 1, 1, 0], bool)
    np.testing.assert_array_equal(blanked(sectors, azimuth, low), expected)
    np.testing.assert_array_equal(blanked(sectors, azimuth, high), expected & (np.arange(9) < 5))
    look = look_with(100, 100, blanking=[{"from_deg": 350.0, "to_deg": 10.0}])
    met = meetings_of(look)
    assert is_share((~hits(look, met)).sum(), len(met), 20 / 360)


def test_scheduled_outages_take_exactly_their_time():
    spec = spec_with(outage=[{"from_s": 100.0, "to_s": 160.0}, {"from_s": 150.0, "to_s": 200.0}])
    times = np.array([0.0, 99.999, 100.0, 155.0, 199.999, 200.0, 1e6])
    assert working(spec, 1, 0, times).tolist() == [True, True, False, False, False, True, True]


@pytest.mark.parametrize(("per_hour", "mean_s"), [(2.0, 60.0), (20.0, 100.0)])
def test_failures_have_their_rate_and_their_share_of_time(per_hour, mean_s):
    spec = spec_with(failures={"per_hour": per_hour, "mean_duration_s": mean_s})
    hours, step_s = 1000, 2.0
    up = np.concatenate([working(spec, 1, 0, 3600.0 * h + np.arange(0.0, 3600.0, step_s)) for h in range(hours)])
    load = per_hour * mean_s / 3600.0
    down = 1 - np.exp(-load)
    # Up-times are exponential with the rate, so the number of busy periods is nearly Poisson.
    starts = int(np.sum(up[:-1] & ~up[1:]))
    per_step = 1 - np.exp(-per_hour * step_s / 3600.0)
    mean = hours * 3600.0 / step_s * (1 - down) * per_step
    assert abs(starts - mean) < stats.norm.isf(SURE / 2) * np.sqrt(mean)
    # Var of the share of a window T that an M/M/∞ queue is busy, correlation time about the mean length.
    spread = np.sqrt(2 * mean_s * down * (1 - down) / (hours * 3600.0)) * 1.2
    assert abs((1 - up.mean()) - down) < stats.norm.isf(SURE / 2) * spread
    assert stats.norm.isf(SURE / 2) * spread < 0.3 * down
    # The hours asked for do not matter, nor does another radar's weather.
    some = 3600.0 * 777 + np.arange(0.0, 3600.0, step_s)
    np.testing.assert_array_equal(working(spec, 1, 0, some), up[777 * 1800 : 778 * 1800])
    other = np.concatenate([working(spec, 1, 1, 3600.0 * h + np.arange(0.0, 3600.0, step_s)) for h in range(100)])
    assert not np.array_equal(other, up[: len(other)])
