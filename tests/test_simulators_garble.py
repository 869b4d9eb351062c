"""Synchronous garble happens to the pairs that physics says, and does to them what it should."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.simulators.replies_codes import altitude_code
from tests.replies_fixture import PERIOD_S, SURE, is_share, plots_with, same

LIGHT_MPS = 299_792_458.0
CROWDED = {"number": 150, "share": 0.3}
ALL = "probability = 1, drag = 0, loss_share = 0"
# Two aircraft abreast, 1.5 degrees apart at 30 NM, the second farther by about 800 m; both Mode A/C unless said.
ABREAST = """
[[aircraft]]
latitude_deg = 48.5
longitude_deg = 11.30
flight_level = 100
speed_kt = 240
track_deg = 0
mode3a = "1234"
mode_s = false
[[aircraft]]
latitude_deg = 48.507
longitude_deg = 11.32
flight_level = 110
speed_kt = 240
track_deg = 0
mode3a = "4321"
mode_s = false
"""


def pairs_of(plots: Plots, width_deg=2.4, window_us=20.3) -> list[tuple[int, int]]:
    """Pairs of Mode A/C plots within a beamwidth and a window, by comparing every two."""
    rows = np.flatnonzero(plots.plot_type == 2)
    angle = 2 * np.pi * plots.time_s[rows] / PERIOD_S  # of the beam: it turns evenly and points north at zero
    ahead = np.searchsorted(angle, angle + np.radians(width_deg))
    found = []
    for i, last in enumerate(ahead):
        for j in range(i + 1, last):
            a, b = rows[i], rows[j]
            if abs(plots.range_m[a] - plots.range_m[b]) < 0.5e-6 * window_us * LIGHT_MPS:
                found.append((int(a), int(b)))
    return found


def coincide(plots: Plots, a: int, b: int) -> bool:
    """Whether pulses of two replies fall within 0.45 µs of each other's places."""
    delay = 2e6 * abs(plots.range_m[a] - plots.range_m[b]) / LIGHT_MPS
    return min(delay % 1.45, 1.45 - delay % 1.45) < 0.45


@pytest.mark.parametrize(("width", "window"), [(2.4, 20.3), (3.5, 12.0)])
def test_exactly_the_pairs_inside_beam_and_window_are_garbled(width, window):
    clean = plots_with(**CROWDED)
    plots = plots_with(**CROWDED, garble=f"{ALL}, beamwidth_deg = {width}, window_us = {window}")
    pairs = pairs_of(clean, width, window)
    assert len(pairs) > 300
    hit = {r for a, b in pairs if coincide(clean, a, b) for r in (a, b)}
    assert {int(r) for r in np.flatnonzero(plots.flags & PlotFlag.MODE3A_GARBLED)} == hit
    assert {int(r) for r in np.flatnonzero(plots.flags & PlotFlag.ALTITUDE_GARBLED)} == hit
    untouched = np.setdiff1d(np.arange(len(clean)), sorted(hit))
    same(clean[untouched], plots[untouched])
    same(clean, plots, but=("mode3a", "pressure_altitude_m", "flags"))
    # Bits of a code are added, never lost; those added come from the others' trains.
    assert np.all(plots.mode3a & clean.mode3a == clean.mode3a)
    assert 0.5 < np.mean(plots.mode3a[sorted(hit)] != clean.mode3a[sorted(hit)]) <= 1
    read = np.array([r for r in sorted(hit) if np.isfinite(plots.pressure_altitude_m[r])])
    before, after = (altitude_code(p.pressure_altitude_m[read]) for p in (clean, plots))
    np.testing.assert_array_equal(after & before, before)


def test_mode_s_is_immune():
    same(plots_with(number=150), plots_with(number=150, garble=ALL))


def test_the_probability_is_that_of_a_pair_in_a_scan():
    clean = plots_with(**CROWDED, seed=2, duration_s=2400)
    plots = plots_with(**CROWDED, seed=2, duration_s=2400, garble="probability = 0.4, drag = 0, loss_share = 0")
    pairs = [(a, b) for a, b in pairs_of(clean) if coincide(clean, a, b)]
    rows, times = np.unique(pairs, return_counts=True)
    lonely = set(rows[times == 1].tolist())
    single = [a for a, b in pairs if a in lonely and b in lonely]
    marked = (plots.flags & PlotFlag.MODE3A_GARBLED) > 0
    assert len(single) > 500
    assert is_share(marked[single].sum(), len(single), 0.4)


def test_azimuths_of_a_pair_approach_evenly_by_up_to_their_part_and_the_time_goes_with_them():
    clean, plots = plots_with(traffic=ABREAST), plots_with(
        traffic=ABREAST, garble="probability = 1, drag = 0.4, loss_share = 0"
    )  # fmt: skip
    before, after = ([p.azimuth_rad[p.truth_id == i] for i in (0, 1)] for p in (clean, plots))
    apart = before[1] - before[0]
    part = [(after[0] - before[0]) / apart, (before[1] - after[1]) / apart]
    np.testing.assert_allclose(part[0], part[1], atol=1e-9)
    assert stats.kstest(part[0] / 0.4, "uniform").pvalue > SURE
    for i in (0, 1):
        a, b = clean[clean.truth_id == i], plots[plots.truth_id == i]
        np.testing.assert_allclose((b.time_s - a.time_s) / PERIOD_S * 2 * np.pi, after[i] - before[i], atol=1e-9)


def test_lost_plots_are_the_farther_ones_and_the_other_lies_midway():
    clean, plots = plots_with(traffic=ABREAST, duration_s=2400), plots_with(
        traffic=ABREAST, duration_s=2400, garble="probability = 1, drag = 0, loss_share = 0.3"
    )  # fmt: skip
    scans = np.sum(clean.truth_id == 0)
    near, far = clean[clean.truth_id == 0], clean[clean.truth_id == 1]
    assert np.all(near.range_m < far.range_m)
    assert np.sum(plots.truth_id == 0) == scans
    gone = ~np.isin(np.round(far.time_s / PERIOD_S), np.round(plots.time_s[plots.truth_id == 1] / PERIOD_S))
    assert is_share(gone.sum(), scans, 0.3)
    middle = 0.5 * (near.azimuth_rad + far.azimuth_rad)
    left = plots.azimuth_rad[plots.truth_id == 0]
    np.testing.assert_allclose(left[gone], middle[gone], atol=1e-9)
    np.testing.assert_array_equal(left[~gone], near.azimuth_rad[~gone])


def test_a_missed_aircraft_still_garbles_but_loses_no_plot_of_the_other():
    unseen = "probability = 0.5"
    clean = plots_with(traffic=ABREAST, detection=unseen)
    plots = plots_with(traffic=ABREAST, detection=unseen, garble="probability = 1, drag = 0, loss_share = 1")
    pairs = len(pairs_of(clean))
    assert 0 < pairs < len(clean) / 2
    assert len(plots) == len(clean) - pairs
    assert ((plots.flags & PlotFlag.MODE3A_GARBLED) > 0).sum() > pairs


def test_swapped_pairs_exchange_code_and_altitude_without_a_mark():
    clean, plots = plots_with(traffic=ABREAST), plots_with(
        traffic=ABREAST, garble="probability = 1, drag = 0, loss_share = 0, swap_share = 1"
    )  # fmt: skip
    assert not plots.flags.any()
    for i in (0, 1):
        own, other = plots[plots.truth_id == i], clean[clean.truth_id == 1 - i]
        np.testing.assert_array_equal(own.mode3a, other.mode3a)
        np.testing.assert_array_equal(own.pressure_altitude_m, other.pressure_altitude_m)


def test_pairs_across_north_are_found():
    north = ABREAST.replace("11.30", "10.99").replace("11.32", "11.01")
    plots = plots_with(traffic=north, garble="probability = 1, drag = 0, loss_share = 1")
    assert np.sum(plots.truth_id == 0) > 250
    # The one plot that may stay is that of a pair cut by the scenario's begin or end.
    assert np.sum(plots.truth_id == 1) <= 3
