"""Flown paths against independent mathematics: an ECEF oracle, Clairaut's law, circles, and their own derivatives."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.interpolate import CubicHermiteSpline

from ssrtrack.data import Phase
from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import A_M, E2, ecef_to_enu, ecef_to_geodetic, enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.legs import Legs, Limits, Schedules, Start, schedules
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.trajectory import Paths, fly
from ssrtrack.units import FPM_MPS, G_MPS2, KT_MPS

LIMITS = Limits(np.radians(5.0), 0.5)
NAN = np.nan
# duration_s, turn_deg, bank_deg, height_m, climb_mps, speed_mps, acceleration_mps2
STRAIGHT = (300.0, 0, 25, NAN, 0, NAN, 0)
BUSY_HOUR = [
    STRAIGHT,
    (0, 90, 25, NAN, 0, NAN, 0),
    (120, -200, 20, 11_000, 10, NAN, 0),
    (60, 30, 15, 6_000, 12, 130, 0.5),
    (60, -400, 30, NAN, 0, 240, 0.4),
    STRAIGHT,
    (0, 3, 25, NAN, 0, NAN, 0),
    (200, 0, 25, 9_000, 15, 180, 0.3),
    (0, -170, 25, 9_030, 15, 250, 0.8),
    (900, 0, 25, NAN, 0, NAN, 0),
]


def legs_of(*flights):
    table = np.array(flights, float)
    table[..., 1:3] = np.radians(table[..., 1:3])
    return Legs(*np.moveaxis(table, 2, 0))


def start_of(n=1, end_s=3600.0, lat=47.0, height=8000.0, speed=220.0, track=70.0):
    def column(x):
        return np.full(n, float(x))

    return Start(
        column(0), column(end_s), column(np.radians(lat)), column(np.radians(11.0)), column(height), column(speed),
        column(np.radians(track)),
    )  # fmt: skip


def flown(legs, limits=LIMITS, **start) -> Paths:
    return fly(legs_of(legs), start_of(**start), limits, [])


def at(paths: Paths, time_s):
    piece = paths.locate(np.zeros(len(time_s), int), np.asarray(time_s, float))
    position, velocity = paths.motion(piece, np.asarray(time_s, float))
    return position.T, velocity.T, paths.state(piece, np.asarray(time_s, float))


def outward(p):
    lat, lon, _ = ecef_to_geodetic(p)
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def oracle(plan: Schedules, p, v, times):
    """The same flight in ECEF, knowing only the vertical's direction: no latitude, track or radius of curvature."""
    channels = [(t[0], y[0]) for t, y in (plan.bank, plan.speed, plan.climb)]

    def rate(t, x, d_speed, d_climb):
        p, v = x[:3], x[3:]
        bank, speed, climb = (np.interp(t, *c) for c in channels)
        up, up_rate = outward(p), outward(p + 0.5 * v) - outward(p - 0.5 * v)
        along = v - (v @ up) * up
        along /= np.linalg.norm(along)
        right = np.cross(along, up)
        turning = G_MPS2 * np.tan(bank) * right - speed * (along @ up_rate) * up
        a = d_speed * along + turning + d_climb * up + climb * up_rate
        return np.concatenate([speed * along + climb * up, a])

    knots = np.unique(np.concatenate([c[0] for c in channels] + [[times[0], times[-1]]]))
    knots = knots[(knots >= times[0]) & (knots <= times[-1])]
    x, found = np.concatenate([p, v]), {}
    for low, high in pairwise(knots):
        if high - low < 1e-9:
            continue
        inside = times[(times > low) & (times <= high)]
        slopes = tuple((np.interp(high, *c) - np.interp(low, *c)) / (high - low) for c in channels[1:])
        wanted = np.union1d(inside, high)
        run = solve_ivp(rate, (low, high), x, "DOP853", wanted, args=slopes, rtol=1e-12, atol=1e-6)
        x = run.y[:, -1]
        found |= dict(zip(inside, run.y.T[: len(inside)], strict=True))
    return np.array([found[t] for t in times[1:]])


def test_an_hour_of_manoeuvres_agrees_with_an_independent_oracle_to_a_decimetre():
    plan = schedules(legs_of(BUSY_HOUR), start_of(), LIMITS)
    paths = flown(BUSY_HOUR)
    times = np.linspace(0.0, 3599.0, 60)
    position, velocity, _ = at(paths, times)
    expected = oracle(plan, position[0], velocity[0], times)
    assert np.linalg.norm(position[1:] - expected[:, :3], axis=1).max() < 0.1
    assert np.linalg.norm(velocity[1:] - expected[:, 3:], axis=1).max() < 1e-3


@pytest.mark.parametrize("track", [0.0, 1.0, 90.0, 200.0, 359.0])
def test_a_straight_leg_is_a_geodesic(track):
    # Clairaut: (N + h) cos φ sin χ is constant along a geodesic of the surface at height h.
    position, velocity, _ = at(flown([STRAIGHT], track=track, lat=-60.0), np.linspace(0, 3600, 200))
    lat, lon, height = ecef_to_geodetic(position)
    v = np.einsum("nij,nj->ni", enu_rotation(lat, lon), velocity)
    constant = (A_M / np.sqrt(1 - E2 * np.sin(lat) ** 2) + height) * np.cos(lat) * v[:, 0]
    # A relative 1e-8: the velocity to 1e-6 m/s, and a millimetre after an hour.
    assert np.ptp(constant) < 1e-8 * 220.0 * A_M
    assert np.abs(height - 8000.0).max() < 1e-3
    assert np.abs(np.linalg.norm(v, axis=1) - 220.0).max() < 1e-5


@pytest.mark.parametrize(("speed", "bank", "turn"), [(220, 25, 360), (80, 30, -300), (250, 10, 200)])
def test_a_steady_turn_is_a_circle_of_radius_v2_over_g_tan_bank(speed, bank, turn):
    paths = flown([(0, turn, bank, NAN, 0, NAN, 0)], speed=speed)
    rate = G_MPS2 * np.tan(np.radians(bank)) / speed
    length = np.radians(abs(turn)) / rate
    times = np.linspace(bank / 5.0 + 1, 0.8 * length, 200)
    position, _, state = at(paths, times)
    lat, lon, _ = ecef_to_geodetic(position[100])
    enu = ecef_to_enu(position, (lat, lon, 8000.0))[:, :2]
    a = np.column_stack([2 * enu, np.ones(len(enu))])
    x, y, c = np.linalg.lstsq(a, (enu**2).sum(1), rcond=None)[0]
    assert np.sqrt(c + x * x + y * y) == pytest.approx(speed**2 / (G_MPS2 * np.tan(np.radians(bank))), rel=2e-5)
    assert np.degrees(state["bank_rad"]) == pytest.approx(np.sign(turn) * bank)
    swept = np.unwrap(np.arctan2(enu[:, 1] - y, enu[:, 0] - x))
    assert (swept[0] - swept[-1]) / (times[-1] - times[0]) == pytest.approx(np.sign(turn) * rate, rel=1e-4)


@settings(max_examples=60)
@given(
    turn=st.floats(-720, 720), bank=st.floats(5, 45), speed=st.floats(60, 280), target=st.floats(60, 280),
    acceleration=st.floats(0.1, 3),
)  # fmt: skip
def test_a_turn_turns_by_what_was_asked_whatever_the_speed_does(turn, bank, speed, target, acceleration):
    plan = schedules(legs_of([(0, turn, bank, NAN, 0, target, acceleration)]), start_of(speed=speed), LIMITS)
    (t, b), (s, v) = ((x[0], y[0]) for x, y in (plan.bank, plan.speed))

    def rate(x):
        return G_MPS2 * np.tan(np.interp(x, t, b)) / np.interp(x, s, v)

    knots = np.unique(np.concatenate([t, s]))
    turned = sum(quad(rate, low, high, epsabs=1e-12)[0] for low, high in pairwise(knots) if high <= t[-1] + 1e-9)
    assert np.degrees(turned) == pytest.approx(turn, abs=1e-6)
    assert np.abs(np.degrees(b)).max() <= bank + 1e-9
    assert np.all(np.diff(t) >= 0)


@pytest.mark.parametrize(("rise", "rate"), [(3000.0, 10.0), (-2500.0, 7.5), (20.0, 10.0), (0.0, 10.0)])
def test_a_climb_reaches_its_level_at_its_rate(rise, rate):
    paths = flown([(0, 0, 25, 8000.0 + rise, rate, NAN, 0), STRAIGHT])
    time_needed = abs(rise) / rate + rate / 0.5
    middle, _, state = at(paths, [0.5 * time_needed, time_needed + 1.0])
    _, _, height = ecef_to_geodetic(middle)
    assert height[1] == pytest.approx(8000.0 + rise, abs=1e-3)
    if abs(rise) > rate**2 / 0.5:
        assert state["climb_mps"][0] == pytest.approx(np.sign(rise) * rate)
    _, v, _ = at(paths, np.arange(0, 900, 0.05))
    assert np.abs(np.diff(np.linalg.norm(v, axis=1)) / 0.05).max() < 0.1  # no jump of speed in a climb


def test_a_speed_change_takes_its_acceleration():
    _, _, state = at(flown([(0, 0, 25, NAN, 0, 150.0, 0.5)]), [0.0, 70.0, 140.0, 500.0])
    assert state["speed_mps"] == pytest.approx([220.0, 185.0, 150.0, 150.0])


def test_velocity_is_the_derivative_of_position_and_pieces_join_smoothly():
    paths = flown(BUSY_HOUR)
    times = np.sort(np.concatenate([np.linspace(0.1, 3599, 20_000), paths.time_s[1:], paths.time_s[1:] - 1e-9]))
    step = 0.001  # an acceleration that begins inside it costs a quarter of step times acceleration
    before, after, (_, v, _) = at(paths, times - step)[0], at(paths, times + step)[0], at(paths, times)
    assert np.linalg.norm((after - before) / (2 * step) - v, axis=1).max() < 1e-3
    # Bank, speed and climb that the registers report are those of the path.
    position, v, state = at(paths, times)
    lat, lon, height = ecef_to_geodetic(position)
    enu = np.einsum("nij,nj->ni", enu_rotation(lat, lon), v)
    assert np.abs(height - state["height_m"]).max() < 2e-3
    assert np.abs(np.hypot(enu[:, 0], enu[:, 1]) - state["speed_mps"]).max() < 2e-3
    # A third of the resolution of BDS 5,0.
    track = np.arctan2(enu[:, 0], enu[:, 1])
    assert np.abs((track - state["track_rad"] + np.pi) % (2 * np.pi) - np.pi).max() < 1e-3


def test_phase_bits_say_what_the_aircraft_does():
    legs = [STRAIGHT, (0, 90, 25, NAN, 0, NAN, 0), (0, 0, 25, 9000, 10, NAN, 0), (0, 0, 25, NAN, 0, 150, 0.5), STRAIGHT]
    plan, paths = schedules(legs_of(legs), start_of(), LIMITS), flown(legs)
    busy = {
        Phase.TURN: plan.bank[0][0][[1, 4]],
        Phase.CLIMB: plan.climb[0][0][[1, 4]],
        Phase.SPEED_CHANGE: plan.speed[0][0][[1, 2]],
    }
    middle = paths.time_s + 0.5 * paths.length_s
    for bit, (low, high) in busy.items():
        assert high > low + 10
        np.testing.assert_array_equal((paths.phase & bit) != 0, (middle > low) & (middle < high))


def test_turbulence_has_its_spectral_density():
    psd, n, seconds = 0.4, 3000, 100.0
    rngs = [np.random.default_rng(i) for i in range(n)]
    legs = Legs(*[np.repeat(c, n, 0) for c in vars(legs_of([STRAIGHT])).values()])
    paths = fly(legs, start_of(n, seconds), Limits(0.1, 0.5, psd, 2.0), rngs)
    calm = flown([STRAIGHT], end_s=seconds)
    end = np.full(n, seconds)
    piece = paths.locate(np.arange(n), end)
    position, velocity = paths.motion(piece, end)
    p0, v0, _ = at(calm, [seconds])
    dv, dp = velocity.T - v0, position.T - p0
    lat, lon, _ = ecef_to_geodetic(p0[0])
    axes = enu_rotation(lat, lon)
    dv, dp = dv @ axes.T, dp @ axes.T
    # White acceleration: var v = q t, var x = q t³/3 on each axis; the sample variance is within 5 sigma.
    room = 5 * np.sqrt(2 / n)
    assert (dv[:, :2].var(0) / (psd * seconds)).tolist() == pytest.approx([1, 1], abs=room)
    assert (dp[:, :2].var(0) / (psd * seconds**3 / 3)).tolist() == pytest.approx([1, 1], abs=room)
    assert np.abs(np.corrcoef(dv[:, 0], dv[:, 1])[0, 1]) < 5 / np.sqrt(n)


TWO_PLANES = """
epoch = 2025-01-01T00:00:00Z
duration_s = 1300
turbulence_m2ps3 = {turbulence}
[[radar]]
name = "R"
latitude_deg = 60
longitude_deg = 20
rotation_period_s = 5
noise = {{ sigma_range_m = 0, sigma_azimuth_deg = 0 }}
detection = {{ probability = 1 }}
coverage = {{ max_range_nm = 250, max_elevation_deg = 90, horizon = false }}
quantisation = {{ range = false, azimuth = false, time = false, altitude = false }}
[[traffic]]
number = 12
radius_nm = 50
speed_kt = [120, 480]
manoeuvres_per_hour = 60
bank_deg = [10, 35]
climb_fpm = [1000, 4000]
"""


@pytest.mark.parametrize("turbulence", [0.0, 0.5])
def test_cubic_interpolation_of_truth_rows_gives_plots_and_their_inverse_to_a_centimetre(turbulence):
    scenario = parse_scenario(TWO_PLANES.format(turbulence=turbulence), "two", "two")
    plots, truth = next(simulate(scenario, 3, chunk_s=1e9))
    site = (np.radians(60.0), np.radians(20.0), 0.0)
    assert len(plots) > 2500
    for i in np.unique(plots.truth_id):
        p, t = plots[plots.truth_id == i], truth[truth.truth_id == i]
        lat, lon = np.radians(t.latitude_deg), np.radians(t.longitude_deg)
        v = np.einsum("nij,ni->nj", enu_rotation(lat, lon), np.stack([t.v_east_mps, t.v_north_mps, t.v_up_mps], 1))
        path = CubicHermiteSpline(t.time_s, geodetic_to_ecef(lat, lon, t.height_m), v)
        enu = ecef_to_enu(path(p.time_s), site)
        flat = np.hypot(enu[:, 0], enu[:, 1])
        assert np.abs(np.hypot(flat, enu[:, 2]) - p.range_m).max() < 0.01
        cross = enu[:, 0] * np.cos(p.azimuth_rad) - enu[:, 1] * np.sin(p.azimuth_rad)
        assert np.abs(cross).max() < 0.01
        assert np.abs(ecef_to_geodetic(path(p.time_s))[2] - p.pressure_altitude_m).max() < 0.01


def test_truth_is_on_its_grid_with_a_row_at_every_change_of_law():
    scenario = parse_scenario(TWO_PLANES.format(turbulence=0.0), "two", "two")
    _, truth = next(simulate(scenario, 3, chunk_s=1e9))
    truth.validate()
    first = truth[truth.truth_id == 0]
    missing = set(np.arange(0, first.time_s[-1], 2.0)) - set(first.time_s)
    assert not missing
    extra = first[first.time_s % 2.0 != 0]
    assert 10 < len(extra) < 0.5 * len(first)
    assert np.all(np.diff(first.time_s) > 1e-6)


def test_the_poles_are_refused():
    with pytest.raises(ScenarioError, match=r"88 deg of the equator"):
        flown([STRAIGHT], lat=87.9, track=0.0)


def test_units_of_the_table_of_legs():
    assert pytest.approx(7.62) == 1500 * FPM_MPS
    assert pytest.approx(185.2) == 360 * KT_MPS
