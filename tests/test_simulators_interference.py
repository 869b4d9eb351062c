"""Plots beside the aircraft's own: each kind alone has its rate and its geometry, and none counts as the aircraft."""

import numpy as np
import pytest
from scipy import stats

from ssrtrack.data import FALSE_PLOT, PlotFlag, Plots
from ssrtrack.simulators.interference_counts import poisson
from ssrtrack.simulators.interference_images import mirrored
from ssrtrack.simulators.replies_codes import altitude_code
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.schema_replies import Reflector
from ssrtrack.units import NM_M
from tests.replies_fixture import PERIOD_S, SURE, is_poisson, is_share, plots_with, same

WALL = "bearing_deg = 80, distance_m = 1500, facing_deg = 270, width_m = 400, top_m = 400, probability = 1"
STEADY = """
[[aircraft]]
callsign = "MIRROR"
latitude_deg = 48.05
longitude_deg = 10.6
flight_level = 30
speed_kt = 150
track_deg = 20
mode3a = "1234"
"""


def parted(plots: Plots) -> tuple[Plots, Plots]:
    """The aircraft's own plots, and the others."""
    return plots[plots.truth_id != FALSE_PLOT], plots[plots.truth_id == FALSE_PLOT]


def angle(x):
    return (x + np.pi) % (2 * np.pi) - np.pi


def own_at(own: Plots, address: np.ndarray, time_s: np.ndarray, name: str) -> np.ndarray:
    """A column of the aircraft's own plots, interpolated to other times."""
    out = np.full(len(time_s), np.nan)
    for a in np.unique(address):
        mine, wanted = own.address == a, address == a
        out[wanted] = np.interp(time_s[wanted], own.time_s[mine], getattr(own, name)[mine], np.nan, np.nan)
    return out


@pytest.mark.parametrize(
    "blocks",
    [
        {"false_plots": "per_scan = 3"},
        {"fruit": "per_aircraft = 0.1"},
        {"split": "probability = 0.05"},
        {"ring_around": "per_plot = 1, max_range_nm = 20"},
        {"reflector": f"[{{ {WALL} }}]"},
    ],
    ids=lambda b: next(iter(b)),
)
def test_the_aircrafts_own_plots_stay_as_they_are(blocks):
    kept = {"detection": "probability = 0.9", "noise": "sigma_range_m = 30, sigma_azimuth_deg = 0.05"}
    clean, plots = plots_with(share=0.5, **kept), plots_with(share=0.5, **kept, **blocks)
    own, extra = parted(plots)
    same(clean, own)
    assert len(extra) > 20
    assert np.all(np.diff(plots.time_s) >= 0)
    assert np.all(extra.sigma_range_m == 30)


@pytest.mark.parametrize(("share", "altitudes"), [(0.0, 0.0), (1.0, 0.3)])
def test_fruit_has_its_rate_in_the_beam_at_any_range_and_reads_altitudes_as_codes(share, altitudes):
    where = "min_range_nm = 20, max_range_nm = 100, max_elevation_deg = 90, horizon = false"
    plots = plots_with(
        coverage=where,
        fruit=f"per_aircraft = 0.2, mode_c_share = {altitudes}, side_lobe_share = {share}, beamwidth_deg = 3",
    )
    own, fruit = parted(plots)
    assert is_poisson(len(fruit), 0.2 * len(own))
    assert stats.kstest((fruit.range_m / NM_M - 20) / 80, "uniform").pvalue > SURE
    assert np.all(fruit.plot_type == 2)
    assert np.all(fruit.address == -1)
    assert np.all(fruit.flags == PlotFlag.MODE3A_NOT_VALIDATED)
    assert np.isnan(fruit.pressure_altitude_m).all()
    codes = np.unique(own.mode3a)
    levels = np.setdiff1d(altitude_code(own.pressure_altitude_m), codes)
    as_code, as_level = np.isin(fruit.mode3a, codes), np.isin(fruit.mode3a, levels)
    assert np.all(as_code | as_level)
    # Some levels have the code of an aircraft: these are not counted as levels.
    plain = np.mean(np.isin(altitude_code(own.pressure_altitude_m), levels))
    assert plain > 0.8
    assert is_share(as_level.sum(), len(fruit), altitudes * plain)
    np.testing.assert_allclose(fruit.time_s % PERIOD_S / PERIOD_S * 2 * np.pi, fruit.azimuth_rad, atol=1e-9)
    if share:
        assert stats.kstest(fruit.azimuth_rad / (2 * np.pi), "uniform").pvalue > SURE
        return
    # In the beam: within 1.5 degrees of the aircraft that sends this code, evenly.
    offs = []
    for row in range(len(fruit)):
        same_code = (own.mode3a == fruit.mode3a[row]) & (np.abs(own.time_s - fruit.time_s[row]) < 0.5 * PERIOD_S)
        off = np.degrees(angle(own.azimuth_rad[same_code] - fruit.azimuth_rad[row]))
        offs += [off[np.argmin(np.abs(off))]] if len(off) else []
    assert len(offs) > 0.95 * len(fruit)
    assert stats.kstest((np.array(offs) + 1.5) / 3, "uniform").pvalue > SURE


def test_split_plots_have_their_rate_and_distance():
    rules = "probability = 0.04, azimuth_deg = [1.0, 2.0], range_nm = 0.2"
    clean, plots = plots_with(share=0.5), plots_with(share=0.5, split=rules)
    own, second = parted(plots)
    assert is_share(len(second), len(own), 0.04)
    key = {(m, h): i for i, (m, h) in enumerate(zip(clean.mode3a, clean.pressure_altitude_m, strict=True))}
    assert len(key) > 100
    # The plot it was split from is the nearest in time with the same code.
    azimuth, deep = [], []
    for i in range(len(second)):
        mine = np.flatnonzero((clean.mode3a == second.mode3a[i]) & (np.abs(clean.time_s - second.time_s[i]) < 0.5))
        row = mine[np.argmin(np.abs(clean.time_s[mine] - second.time_s[i]))]
        azimuth.append(np.degrees(angle(second.azimuth_rad[i] - clean.azimuth_rad[row])))
        deep.append((second.range_m[i] - clean.range_m[row]) / NM_M)
        for name in ("address", "callsign", "pressure_altitude_m", "plot_type"):
            assert getattr(second, name)[i] == getattr(clean, name)[row]
        later = (second.time_s[i] - clean.time_s[row]) / PERIOD_S * 360
        assert later == pytest.approx(azimuth[-1], abs=1e-6)
    assert stats.kstest(np.abs(azimuth) - 1.0, "uniform").pvalue > SURE
    assert is_share(np.sum(np.array(azimuth) > 0), len(azimuth), 0.5)
    assert stats.kstest((np.array(deep) / 0.2 + 1) / 2, "uniform").pvalue > SURE


def test_ring_around_has_its_rate_near_the_radar_at_the_aircrafts_range_and_any_azimuth():
    rules = "per_plot = 1.5, max_range_nm = 12"
    own, around = parted(plots_with(number=100, ring_around=rules))
    near = own.range_m <= 12 * NM_M
    assert is_poisson(len(around), 1.5 * near.sum())
    assert stats.kstest(around.azimuth_rad / (2 * np.pi), "uniform").pvalue > SURE
    np.testing.assert_allclose(around.time_s % PERIOD_S / PERIOD_S * 2 * np.pi, around.azimuth_rad, atol=1e-9)
    expected = own_at(own, around.address, around.time_s, "range_m")
    inside = np.isfinite(expected)
    assert inside.mean() > 0.9
    # Straight between two scans: a turning aircraft is within tens of metres of it.
    off = np.abs(around.range_m - expected)[inside]
    assert np.quantile(off, 0.9) < 15
    assert off.max() < 150
    assert around.range_m.max() < 12 * NM_M + 1000


def test_ring_around_is_measured_with_noise_of_its_own():
    rules = {"ring_around": "per_plot = 3, max_range_nm = 12"}
    exact = parted(plots_with(number=100, **rules))[1]
    noisy = parted(plots_with(number=100, **rules, noise="sigma_range_m = 40, sigma_azimuth_deg = 0.1"))[1]
    error = noisy.range_m - exact.range_m
    low, high = np.sqrt(stats.chi2.ppf([SURE / 2, 1 - SURE / 2], len(error)) / len(error))
    assert low < np.sqrt(np.mean(error**2)) / 40 < high
    flight = np.argsort(exact.address, kind="stable")
    lag = np.corrcoef(error[flight][1:], error[flight][:-1])[0, 1]
    assert abs(lag) * np.sqrt(len(error)) < stats.norm.isf(SURE / 2)


def image_of(east, north, wall: Reflector):
    """Mirror image by the textbook: the reflection matrix of a line through the wall's foot."""
    bearing, facing = np.radians(wall.bearing_deg), np.radians(wall.facing_deg)
    foot = wall.distance_m * np.array([np.sin(bearing), np.cos(bearing)])
    line = facing + np.pi / 2
    c, s = np.cos(2 * line), np.sin(2 * line)  # azimuths run from north
    e, n = east - foot[0], north - foot[1]
    return foot[0] - c * e + s * n, foot[1] + s * e + c * n


def test_reflections_lie_at_the_mirror_image_and_their_range_is_the_broken_way():
    wall = Reflector(bearing_deg=80, distance_m=1500, facing_deg=270, width_m=1600, top_m=400, probability=1)
    own, ghost = parted(plots_with(traffic=STEADY, reflector=f"[{{ {WALL.replace('400', '1600', 1)} }}]"))
    ghost = ghost[(ghost.time_s > own.time_s[0]) & (ghost.time_s < own.time_s[-1])]
    assert len(ghost) > 20
    time_s = ghost.time_s
    east, north = (own.range_m * f(own.azimuth_rad) for f in (np.sin, np.cos))
    # In the horizontal plane; the height shortens both ranges alike.
    e, n, r = (np.interp(time_s, own.time_s, v) for v in (east, north, own.range_m))
    up = height_above(own, time_s)
    ground = np.sqrt(r**2 - up**2)
    scale = ground / np.hypot(e, n)
    e, n = e * scale, n * scale
    ie, i_n = image_of(e, n, wall)
    np.testing.assert_allclose(angle(ghost.azimuth_rad - np.arctan2(ie, i_n)), 0, atol=2e-6)
    np.testing.assert_allclose(ghost.range_m, np.sqrt(ie**2 + i_n**2 + up**2), atol=0.6)
    # The broken way, leg by leg, by way of the point where the beam meets the wall.
    bearing = np.radians(wall.bearing_deg)
    foot_east = wall.distance_m * np.sin(bearing)  # a wall that faces west: a line of constant east
    point = np.stack([np.full(len(e), foot_east), foot_east / np.tan(ghost.azimuth_rad)])
    legs = np.hypot(*point) + np.hypot(e - point[0], n - point[1])
    np.testing.assert_allclose(np.sqrt(ghost.range_m**2 - up**2), legs, atol=0.6)
    assert np.all(np.abs(point[1] - wall.distance_m * np.cos(bearing)) <= wall.width_m / 2 + 0.1)
    assert np.all(ghost.range_m > r)
    np.testing.assert_allclose(time_s % PERIOD_S / PERIOD_S * 2 * np.pi, ghost.azimuth_rad, atol=1e-6)
    assert set(ghost.address) == set(own.address)
    assert set(ghost.mode3a) == {0o1234}
    # In every scan for as long as the geometry holds.
    assert np.allclose(np.diff(time_s), PERIOD_S, atol=0.2)


def height_above(own: Plots, time_s):
    """Height over the radar's horizon plane from altitude and range, 4-figure accuracy at 20 NM."""
    up = own.pressure_altitude_m - 100.0 - own.range_m**2 / (2 * 6_378_000)
    return np.interp(time_s, own.time_s, up)


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_reflections_come_with_their_probability(probability):
    every = parted(plots_with(number=1000, reflector=f"[{{ {WALL} }}]"))[1]
    some = parted(plots_with(number=1000, reflector=f"[{{ {WALL[:-1]}{probability} }}]"))[1]
    assert len(every) > 1000
    assert is_share(len(some), len(every), probability)


def test_a_wall_mirrors_only_what_is_before_it_and_within_its_edges():
    wall = Reflector(bearing_deg=0, distance_m=1000, facing_deg=180, width_m=100, top_m=50, bottom_m=-20)
    cases = {
        (0.0, -20_000.0, 0.0): True,  # opposite
        (0.0, 20_000.0, 0.0): False,  # behind
        # The beam meets the wall at 1/22 of the way to the image at 22 km: 100 m wide there is 2.2 km wide here.
        (1_090.0, -20_000.0, 0.0): True,
        (1_110.0, -20_000.0, 0.0): False,
        (0.0, -20_000.0, 1_090.0): True,  # 50 m high there is 1,100 m here
        (0.0, -20_000.0, 1_110.0): False,
        (0.0, -20_000.0, -450.0): False,
    }
    image, hit = mirrored(wall, np.array(list(cases)).T)
    assert hit.tolist() == list(cases.values())
    np.testing.assert_allclose(image[:, 0], [0, 22_000, 0], atol=1e-9)
    turned = Reflector(bearing_deg=0, distance_m=1000, facing_deg=0)
    assert not mirrored(turned, np.array([[0.0], [20_000.0], [0.0]]))[1].any()  # its back is to the radar


@pytest.mark.parametrize("mean", [0.01, 0.7, 5.0, 40.0])
def test_counts_are_poisson(mean):
    u = (np.arange(100_000) + 0.5) / 100_000
    np.testing.assert_array_equal(poisson(mean, u), stats.poisson.ppf(u, mean))


def test_everything_extra_at_once_is_valid_and_within_coverage():
    plots = plots_with(
        share=0.5, fruit="per_aircraft = 0.1", split="probability = 0.05", ring_around="per_plot = 1",
        reflector=f"[{{ {WALL} }}]", false_plots="per_scan = 2", replies="primary_share = 0.5",
        garble="probability = 0.5", coverage="max_range_nm = 70", quantisation="time = true",
    )  # fmt: skip
    extra = parted(plots)[1]
    assert extra.range_m.max() <= 70.5 * NM_M
    assert set(plots.plot_type) == {2, 3, 5, 7}


def test_chunks_and_further_radars_change_no_bit_of_it():
    def run(chunk_s: float, others: str) -> Plots:
        text = f"""
        epoch = 2025-01-01T00:00:00Z
        duration_s = 1500
        identity = {{ squawk_change_share = 0.3, ident_share = 0.3, duplicate_address_share = 0.1 }}
        [[radar]]
        name = "A"
        latitude_deg = 48
        longitude_deg = 11
        rotation_period_s = 4.7
        replies = {{ primary_share = 0.3, mode3a_error_share = 0.05, altitude_error_share = 0.05 }}
        garble = {{ probability = 0.5 }}
        north_stamp = {{ spread_s = 0.01, late_share = 0.1 }}
        fruit = {{ per_aircraft = 0.1 }}
        split = {{ probability = 0.05 }}
        ring_around = {{ per_plot = 1, max_range_nm = 20 }}
        false_plots = {{ per_scan = 2 }}
        reflector = [{{ {WALL} }}]
        {others}
        [[traffic]]
        number = 40
        radius_nm = 50
        mode_s_share = 0.5
        """
        return Plots.concat([p for p, _ in simulate(parse_scenario(text, "x", "x"), 5, chunk_s=chunk_s)])

    whole = run(1500.0, "")
    assert len(parted(whole)[1]) > 1000
    same(whole, run(77.0, ""))
    other = '[[radar]]\nname = "B"\nlatitude_deg = 48.5\nlongitude_deg = 12\nrotation_period_s = 6'
    both = run(1500.0, other)
    same(whole, both[both.radar_id == 0])
    # Codes and addresses are the aircraft's own: both radars read the same.
    second = both[(both.radar_id == 1) & (both.truth_id != FALSE_PLOT)]
    for a in np.unique(second.truth_id):
        assert len(np.unique(both.address[both.truth_id == a])) == 1
