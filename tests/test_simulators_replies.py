"""Each effect on codes, altitudes and addresses alone shows its share and touches nothing else."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.simulators.replies_codes import altitude_code
from ssrtrack.simulators.replies_transponder import EMERGENCIES, ORDINARY
from ssrtrack.units import FT_M, NM_M
from tests.replies_fixture import PERIOD_S, SURE, is_share, plots_with, same

HALF = {"number": 100, "share": 0.5}
MANY = {"number": 1500, "duration_s": 200}  # for what happens once in a flight


def by_flight(plots: Plots) -> list[np.ndarray]:
    """Rows of each flight in order of time."""
    return [np.flatnonzero(plots.truth_id == i) for i in np.unique(plots.truth_id)]


@pytest.mark.parametrize(
    ("key", "hit"),
    [
        ("primary_share", lambda p: np.isin(p.plot_type, (3, 7))),
        ("mode3a_absent_share", lambda p: p.mode3a == -1),
        ("altitude_absent_share", lambda p: np.isnan(p.pressure_altitude_m)),
        ("mode3a_not_validated_share", lambda p: (p.flags & PlotFlag.MODE3A_NOT_VALIDATED) > 0),
        ("altitude_not_validated_share", lambda p: (p.flags & PlotFlag.ALTITUDE_NOT_VALIDATED) > 0),
    ],
)
def test_a_share_of_plots_has_it_and_nothing_else_changes(key, hit):
    clean, plots = plots_with(**HALF), plots_with(**HALF, replies=f"{key} = 0.03")
    assert not hit(clean).any()
    assert is_share(hit(plots).sum(), len(plots), 0.03)
    for kind in (2, 5):  # in Mode A/C and in Mode S
        assert is_share(hit(plots)[clean.plot_type == kind].sum(), (clean.plot_type == kind).sum(), 0.03)
    changed = {"primary_share": "plot_type", "mode3a_absent_share": "mode3a"}
    changed["altitude_absent_share"] = "pressure_altitude_m"
    same(clean, plots, but=(changed.get(key, "flags"),))
    others = np.flatnonzero(~hit(plots))
    same(clean[others], plots[others])
    if key == "primary_share":
        np.testing.assert_array_equal(plots.plot_type[hit(plots)] - clean.plot_type[hit(plots)] > 0, True)
        assert set(plots.plot_type) == {2, 3, 5, 7}


def test_what_is_absent_has_no_quality():
    bad = "mode3a_not_validated_share = 0.5, altitude_not_validated_share = 0.5, unnoticed_share = 0"
    bad += ", mode3a_error_share = 0.5"
    some = plots_with(**HALF, replies=f"{bad}, mode3a_absent_share = 0.3, altitude_absent_share = 0.3")
    code = (some.flags & (PlotFlag.MODE3A_NOT_VALIDATED | PlotFlag.MODE3A_GARBLED)) > 0
    altitude = (some.flags & PlotFlag.ALTITUDE_NOT_VALIDATED) > 0
    for marked, gone in ((code, some.mode3a < 0), (altitude, np.isnan(some.pressure_altitude_m))):
        assert is_share(gone.sum(), len(some), 0.3)
        assert not marked[gone].any() and marked[~gone].mean() > 0.45


def test_all_call_plots_have_the_address_alone():
    clean = plots_with(**HALF, registers="bds50 = true, bds60 = true")
    plots = plots_with(**HALF, registers="bds50 = true, bds60 = true", replies="all_call_share = 0.05")
    only = plots.plot_type == 4
    assert is_share(only.sum(), (clean.plot_type == 5).sum(), 0.05)
    assert np.all(clean.plot_type[only] == 5)
    kept = ("time_s", "radar_id", "range_m", "azimuth_rad", "address", "truth_id", "sigma_range_m", "sigma_azimuth_rad")
    for name in kept:
        np.testing.assert_array_equal(getattr(plots, name)[only], getattr(clean, name)[only])
    assert np.all(plots.mode3a[only] == -1)
    assert np.all(plots.callsign[only] == b"")
    for name in ("pressure_altitude_m", "roll_rad", "mach"):
        assert np.isnan(getattr(plots, name)[only]).all()
    same(clean[~only], plots[~only])


def test_wrong_codes_have_one_wrong_pulse_each_pulse_as_often_and_most_are_marked():
    clean = plots_with(**HALF)
    plots = plots_with(**HALF, replies="mode3a_error_share = 0.1, unnoticed_share = 0.2")
    mode_ac = clean.plot_type == 2
    off = plots.mode3a ^ clean.mode3a
    assert np.all(off[~mode_ac] == 0)
    assert is_share((off > 0).sum(), mode_ac.sum(), 0.1)
    assert np.all(np.bitwise_count(off[off > 0]) == 1)
    pulse = np.bincount(np.log2(off[off > 0]).astype(int), minlength=12)
    assert stats.chisquare(pulse).pvalue > SURE
    marked = (plots.flags & PlotFlag.MODE3A_GARBLED) > 0
    assert not np.any(marked & (off == 0))
    assert is_share(marked.sum(), (off > 0).sum(), 0.8)
    same(clean, plots, but=("mode3a", "flags"))


def test_wrong_altitudes_have_one_wrong_pulse_or_are_unreadable():
    clean = plots_with(**HALF)
    plots = plots_with(**HALF, replies="altitude_error_share = 0.1, unnoticed_share = 0")
    marked = (plots.flags & PlotFlag.ALTITUDE_GARBLED) > 0
    assert is_share(marked.sum(), (clean.plot_type == 2).sum(), 0.1)
    assert np.all(clean.plot_type[marked] == 2)
    read = marked & np.isfinite(plots.pressure_altitude_m)
    off = altitude_code(plots.pressure_altitude_m[read]) ^ altitude_code(clean.pressure_altitude_m[read])
    assert np.all(np.bitwise_count(off) == 1)
    # D1 is never part of an altitude, and of five of the eight C trains some neighbours are none either.
    assert 0.05 < np.mean(np.isnan(plots.pressure_altitude_m[marked])) < 0.6
    same(clean[~marked], plots[~marked])
    same(clean, plots, but=("pressure_altitude_m", "flags"))


def test_altitudes_come_in_25_ft_from_mode_s_and_100_ft_from_mode_c_with_or_without_primary():
    plots = plots_with(**HALF, replies="primary_share = 0.5", quantisation="range = false, azimuth = false")
    feet = plots.pressure_altitude_m / FT_M
    for kinds, lsb in (((5, 7), 25), ((2, 3), 100)):
        some = np.isin(plots.plot_type, kinds)
        np.testing.assert_allclose(feet[some], np.round(feet[some] / lsb) * lsb, atol=0.02)
    fine = np.round(feet[np.isin(plots.plot_type, (5, 7))] / 25) % 4
    assert np.mean(fine != 0) > 0.02  # climbing aircraft show all four


@pytest.mark.parametrize(
    ("key", "codes"), [("squawk_change_share", ORDINARY), ("emergency_share", EMERGENCIES)], ids=["change", "emergency"]
)
def test_codes_change_once_in_a_share_of_flights_at_any_time(key, codes):
    clean, plots = (plots_with(**MANY, world=w) for w in ("", f"identity = {{ {key} = 0.3 }}"))
    same(clean, plots, but=("mode3a",))
    changed, when, new = 0, [], set()
    for rows in by_flight(plots):
        code, own = plots.mode3a[rows], clean.mode3a[rows][0]
        steps = np.flatnonzero(np.diff(code) != 0)
        assert len(steps) <= 1
        if code[-1] != own:
            changed += 1
            new.add(int(code[-1]))
            when.append((rows[0], np.mean(code == own)))
    assert new <= set(codes.tolist())
    assert len(new) == 3 if key == "emergency_share" else len(new) > 20
    # A flight whose change falls after the scenario's end shows none: every flight here ends with it at the latest.
    assert is_share(changed, len(by_flight(plots)), 0.3)
    assert stats.kstest([w for _, w in when], "uniform").pvalue > SURE


def test_an_ident_lasts_its_time_and_marks_nothing_else():
    clean, plots = plots_with(**MANY), plots_with(**MANY, world="identity = { ident_share = 0.5 }")
    same(clean, plots, but=("flags",))
    spi = (plots.flags & PlotFlag.SPI) > 0
    shown = [r for rows in by_flight(plots) if len(r := np.flatnonzero(spi[rows]))]
    assert is_share(len(shown), len(by_flight(plots)), 0.5)
    for r in shown:
        assert np.all(np.diff(r) == 1)
        assert len(r) <= np.ceil(18.0 / PERIOD_S) + 1
    assert np.median([len(r) for r in shown]) in (4, 5)


def test_some_mode_ac_flights_send_no_altitude_at_all():
    plots = plots_with(**MANY, share=0.3, world="identity = { no_altitude_share = 0.4 }")
    silent = [np.isnan(plots.pressure_altitude_m[rows]) for rows in by_flight(plots)]
    mode_ac = [plots.plot_type[rows[0]] == 2 for rows in by_flight(plots)]
    assert all(s.all() or not s.any() for s in silent)
    assert not any(s[0] for s, ac in zip(silent, mode_ac, strict=True) if not ac)
    assert is_share(sum(s[0] for s in silent), sum(mode_ac), 0.4)


def test_a_share_of_mode_s_flights_has_the_address_of_another_in_the_air_with_it():
    clean = plots_with(**MANY, share=0.8)
    plots = plots_with(**MANY, share=0.8, world="identity = { duplicate_address_share = 0.2 }")
    same(clean, plots, but=("address",))
    flights = by_flight(clean)
    own = np.array([clean.address[rows[0]] for rows in flights])
    now = np.array([plots.address[rows[0]] for rows in flights])
    for rows in flights:
        assert len(np.unique(plots.address[rows])) == 1
    assert is_share((own != now).sum(), (own >= 0).sum(), 0.2)
    assert np.all(now[own < 0] == -1)
    span = {a: (clean.time_s[rows[0]], clean.time_s[rows[-1]]) for a, rows in zip(own, flights, strict=True)}
    for a, rows in zip(now[own != now], np.array(flights, object)[own != now], strict=True):
        assert a in span
        assert span[a][0] < clean.time_s[rows[-1]] + 60
        assert span[a][1] > clean.time_s[rows[0]] - 60


def test_effects_of_replies_do_not_move_one_another():
    alone = plots_with(**HALF, replies="mode3a_error_share = 0.05")
    both = plots_with(**HALF, replies="mode3a_error_share = 0.05, altitude_error_share = 0.2, primary_share = 0.5")
    np.testing.assert_array_equal(alone.mode3a, both.mode3a)
    assert np.ptp(alone.range_m) > NM_M
