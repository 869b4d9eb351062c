"""The beam and the target meet exactly, once for each turn of the one past the other, at north as anywhere else."""

import numpy as np
import pytest

from ssrtrack.data import Plots, Truth
from ssrtrack.geodesy import geodetic_to_enu
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.timing import beam_azimuth, beam_time, north_times
from ssrtrack.simulators.traffic import ROTATION, stream

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


def run(planes: str, duration=1500, jitter=0.0, seed=1) -> tuple[Plots, Truth]:
    scenario = parse_scenario(HEAD.format(duration=duration, jitter=jitter) + planes, "x", "x")
    parts = list(simulate(scenario, seed))
    return Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])


def target_azimuth(truth: Truth) -> np.ndarray:
    """Unwrapped azimuth of the only aircraft at its truth rows."""
    site = (np.radians(50.0), np.radians(10.0), 0.0)
    enu = geodetic_to_enu(np.radians(truth.latitude_deg), np.radians(truth.longitude_deg), truth.height_m, site)
    return np.unwrap(np.arctan2(enu[:, 0], enu[:, 1]))


def norths(jitter: float, seed: int) -> np.ndarray:
    numbers = np.arange(-2, 500)
    return north_times(PERIOD_S, NORTH_S, jitter, lambda p: stream(seed, ROTATION, 0, p + 2), numbers)


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


@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_the_beam_points_at_the_target_at_the_time_of_the_plot(jitter):
    flow = "[[traffic]]\nnumber = 40\nradius_nm = 60\nmanoeuvres_per_hour = 40\n"
    plots, _ = run(flow, duration=700, jitter=jitter, seed=8)
    assert len(plots) > 6500
    off = beam_azimuth(plots.time_s, norths(jitter, 8)) - plots.azimuth_rad
    assert np.abs((off + np.pi) % (2 * np.pi) - np.pi).max() < 1e-9


def test_jitter_has_its_sigma_does_not_build_up_and_does_not_depend_on_what_is_asked():
    def page(p):
        return stream(3, ROTATION, 0, p + 2)

    numbers = np.arange(-1, 5000)
    times = north_times(4.0, 0.5, 0.003, page, numbers)
    error = (times - 0.5 - 4.0 * numbers) / 4.0
    assert error.std() == pytest.approx(0.003, rel=5 / np.sqrt(2 * len(numbers)))
    assert np.abs(error).max() <= 4 * 0.003
    assert np.all(np.diff(times) > 0)
    some = numbers[1000:1100]
    np.testing.assert_array_equal(north_times(4.0, 0.5, 0.003, page, some), times[1000:1100])
    np.testing.assert_array_equal(north_times(4.0, 0.5, 0.0, page, some), 0.5 + 4.0 * some)


def test_beam_time_inverts_beam_azimuth():
    north = np.array([0.0, 4.1, 8.0])
    scan, azimuth = np.array([0, 0, 1, 1]), np.array([0.0, 3.0, 1.0, 6.2])
    np.testing.assert_allclose(beam_azimuth(beam_time(azimuth, scan, north), north), azimuth, atol=1e-12)


def test_a_target_overhead_costs_at_most_its_own_plots():
    # Straight over the radar: the azimuth jumps by half a turn; all other scans are there.
    over = PLANE.format(lat=49.5, lon=10.0, speed=400, track=0, turn=0)
    plots, _ = run(over, duration=600)
    assert 147 <= len(plots) <= 151
    assert np.all(np.diff(plots.time_s) > 1.9)
