"""The beam and the target meet exactly, once for each turn of the one past the other, at north as anywhere else."""

from itertools import pairwise

import numpy as np
import pytest

from ssrtrack.data import Plots, Truth
from ssrtrack.geodesy import geodetic_to_enu
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.schema_effects import Wobble
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.timing import beam_azimuth, beam_time, north_times, phase, rotations

PERIOD_S, NORTH_S = 4.0, 1.25
HEAD = """
epoch = 2025-01-01T00:00:00Z
duration_s = {duration}
[[radar]]
name = "R"
latitude_deg = 50
longitude_deg = 10
rotation_period_s = 4
north_time_s = 1.25
rotation_jitter = {jitter}
wobble = {{ amplitude = {wobble}, azimuth_deg = 250 }}
noise = {{ sigma_range_m = 0, sigma_azimuth_deg = 0 }}
detection = {{ probability = 1 }}
coverage = {{ min_range_nm = 0, max_range_nm = 250, max_elevation_deg = 90, horizon = false }}
quantisation = {{ range = false, azimuth = false, time = false, altitude = false }}
"""
PLANE = """
[[aircraft]]
latitude_deg = {lat}
longitude_deg = {lon}
flight_level = 20
speed_kt = {speed}
track_deg = {track}
legs = [{{ turn_deg = {turn}, bank_deg = 15 }}]
"""


def run(planes: str, duration=1500, jitter=0.0, wobble=0.0, seed=1) -> tuple[Plots, Truth]:
    scenario = parse_scenario(HEAD.format(duration=duration, jitter=jitter, wobble=wobble) + planes, "x", "x")
    parts = list(simulate(scenario, seed))
    return Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])


def target_azimuth(truth: Truth) -> np.ndarray:
    """Unwrapped azimuth of the only aircraft at its truth rows."""
    site = (np.radians(50.0), np.radians(10.0), 0.0)
    enu = geodetic_to_enu(np.radians(truth.latitude_deg), np.radians(truth.longitude_deg), truth.height_m, site)
    return np.unwrap(np.arctan2(enu[:, 0], enu[:, 1]))


def radar(jitter: float, period=PERIOD_S, north=NORTH_S) -> RadarSpec:
    return RadarSpec(
        name="R", latitude_deg=50.0, longitude_deg=10.0, rotation_period_s=period, north_time_s=north,
        rotation_jitter=jitter,
    )  # fmt: skip


def norths(jitter: float, seed: int) -> np.ndarray:
    return north_times(radar(jitter), seed, 0, np.arange(-2, 500))


RADIAL_OUT = PLANE.format(lat=50.2, lon=10, speed=300, track=0, turn=0)
RADIAL_IN = PLANE.format(lat=53.5, lon=10, speed=300, track=180, turn=0)
CASES = {
    "radial at north, outbound": RADIAL_OUT,
    "radial at north, inbound": RADIAL_IN,
    "crossing north with the beam": PLANE.format(lat=50.5, lon=9.0, speed=250, track=90, turn=0),
    "crossing north against the beam": PLANE.format(lat=50.5, lon=11.0, speed=250, track=270, turn=0),
    "along a parallel of the beam's start": PLANE.format(lat=50.05, lon=9.9, speed=140, track=90, turn=0),
    "circling with the beam": PLANE.format(lat=50.0, lon=9.943, speed=200, track=0, turn=3600),
    "circling against the beam": PLANE.format(lat=50.0, lon=10.057, speed=200, track=0, turn=-3600),
    "holding across north": PLANE.format(lat=50.3, lon=9.97, speed=220, track=0, turn=3600),
}


@pytest.mark.parametrize("jitter", [0.0, 0.005])
@pytest.mark.parametrize("name", CASES)
def test_every_pass_of_the_beam_is_one_plot(name, jitter):
    plots, truth = run(CASES[name], jitter=jitter, seed=5)
    north = norths(jitter, 5)
    azimuth, beam = target_azimuth(truth), np.interp(truth.time_s, north, 2 * np.pi * np.arange(len(north)))
    turns = (beam - azimuth) / (2 * np.pi)
    passes = np.floor(turns[-1] + 1e-12) - np.floor(turns[0] - 1e-12)
    # A target exactly on a north radial is met at north itself, so the ends may count either way.
    assert len(plots) == pytest.approx(passes, abs=1 if name.startswith("radial") else 0)
    assert np.all(np.diff(plots.time_s) > 0)
    # The k-th pass happens when beam minus target has grown by k turns: evenly spaced on that scale.
    at_plots = np.interp(plots.time_s, truth.time_s, turns)
    assert np.abs(np.diff(at_plots) - 1.0).max() < 0.02


def test_circling_changes_the_rate_of_plots_by_the_rate_of_the_circle():
    counts = {name: len(run(CASES[name])[0]) for name in CASES if name.startswith("circling")}
    # 1500 s are 375 turns of the beam; 200 kt at 15 deg of bank takes 246 s for a circle: six of them.
    assert counts == {"circling with the beam": 369, "circling against the beam": 381}


@pytest.mark.parametrize(("jitter", "wobble"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.003), (0.005, 0.1)])
def test_the_beam_points_at_the_target_at_the_time_of_the_plot(jitter, wobble):
    flow = "[[traffic]]\nnumber = 40\nradius_nm = 60\nmanoeuvres_per_hour = 40\n"
    plots, _ = run(flow, duration=700, jitter=jitter, wobble=wobble, seed=8)
    assert len(plots) > 6500
    off = beam_azimuth(plots.time_s, norths(jitter, 8), Wobble(amplitude=wobble, azimuth_deg=250.0)) - plots.azimuth_rad
    assert np.abs((off + np.pi) % (2 * np.pi) - np.pi).max() < 1e-9


def test_jitter_has_its_sigma_does_not_build_up_and_does_not_depend_on_what_is_asked():
    numbers, spec = np.arange(-1, 5000), radar(0.003, 4.0, 0.5)
    times = north_times(spec, 3, 0, numbers)
    error = (times - 0.5 - 4.0 * numbers) / 4.0
    assert error.std() == pytest.approx(0.003, rel=5 / np.sqrt(2 * len(numbers)))
    assert np.abs(error).max() <= 4 * 0.003
    assert np.all(np.diff(times) > 0)
    some = numbers[1000:1100]
    np.testing.assert_array_equal(north_times(spec, 3, 0, some), times[1000:1100])
    np.testing.assert_array_equal(north_times(radar(0.0, 4.0, 0.5), 3, 0, some), 0.5 + 4.0 * some)


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_each_rotation_belongs_to_one_span_of_time_however_time_is_cut(jitter):
    spec = radar(jitter, 4.0, 1.0)
    first, whole = rotations(spec, 3, 0, -4.4, 1000.0)
    edges = [-4.4, 1.0, 1.0, 5.0, 5.5, 6.0, 93.0, 600.0, 1000.0]  # norths, within a rotation, and nothing at all
    begun = []
    for low, high in pairwise(edges):
        number, north_s = rotations(spec, 3, 0, low, high)
        if len(north_s):
            assert number == first + len(begun)
            np.testing.assert_array_equal(north_s, whole[len(begun) : len(begun) + len(north_s)])
            begun += north_s[:-1].tolist()
    assert begun == whole[:-1].tolist()


def test_the_beam_turns_fastest_where_the_wind_says_and_is_at_north_in_time():
    wobble = Wobble(amplitude=0.003, azimuth_deg=60.0)
    azimuth = np.linspace(0.0, 2 * np.pi, 3601)
    rate = np.gradient(azimuth, phase(wobble, azimuth))
    assert rate.max() == pytest.approx(1.003, abs=2e-5)
    assert rate.min() == pytest.approx(0.997, abs=2e-5)
    assert np.degrees(azimuth[rate.argmax()]) == pytest.approx(60.0, abs=1.0)
    assert phase(wobble, azimuth[[0, -1]]).tolist() == pytest.approx([0.0, 2 * np.pi], abs=1e-15)
    assert phase(Wobble(), azimuth) is azimuth


@pytest.mark.parametrize("wobble", [Wobble(), Wobble(amplitude=0.1, azimuth_deg=200.0)])
def test_beam_time_inverts_beam_azimuth(wobble):
    north = np.array([0.0, 4.1, 8.0])
    scan, azimuth = np.array([0, 0, 1, 1]), np.array([0.0, 3.0, 1.0, 6.2])
    times = beam_time(azimuth, scan, north, wobble)
    np.testing.assert_allclose(beam_azimuth(times, north, wobble), azimuth, atol=1e-11)


def test_a_target_overhead_costs_at_most_its_own_plots():
    # Straight over the radar: the azimuth jumps by half a turn; all other scans are there.
    over = PLANE.format(lat=49.5, lon=10.0, speed=400, track=0, turn=0)
    plots, _ = run(over, duration=600)
    assert 147 <= len(plots) <= 151
    assert np.all(np.diff(plots.time_s) > 1.9)
