"""Gusts against spectra, scales and intensities of MIL-F-8785C, and what an aircraft that is steered makes of them."""

import numpy as np
import pytest

from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import ecef_to_enu, ecef_to_geodetic, enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.legs import Legs, Limits, Start
from ssrtrack.simulators.scenario import parse_scenario
from ssrtrack.simulators.traffic import Traffic
from ssrtrack.simulators.trajectory import fly
from ssrtrack.simulators.turbulence import dryden, gust_scales
from ssrtrack.units import FT_M, KT_MPS

FLIGHTS, STEPS = 400, 60


def straight(n, seconds, height_m, gusts, speed=130.0, step_s=2.0):
    """Straight flights of n aircraft: (paths, times, positions (n, t, 3), velocities)."""
    nan = np.full((n, 1), np.nan)
    zero = np.zeros((n, 1))
    legs = Legs(zero, zero, zero, nan, zero, nan, zero)
    start = Start(*(np.full(n, x) for x in (0.0, seconds, 0.8, 0.2, height_m, speed, 1.0)))
    rngs = [np.random.default_rng((7, k)) for k in range(n)]
    paths = fly(legs, start, Limits(0.1, 0.5, 0.0, step_s, gusts), rngs)
    times = np.arange(0.0, seconds, step_s)
    flight = np.repeat(np.arange(n), len(times))
    when = np.tile(times, n)
    position, velocity = paths.motion(paths.locate(flight, when), when)
    return times, position.T.reshape(n, -1, 3), velocity.T.reshape(n, -1, 3)


@pytest.mark.parametrize("step", [0.1, 0.5, 2.0])
def test_samples_have_the_dryden_correlations(step):
    rng = np.random.default_rng(3)
    out = dryden(np.full((STEPS, FLIGHTS), step), rng.standard_normal((STEPS + 1, 3, FLIGHTS)))
    for lag in (0, 1, 4):
        tau = lag * step
        wanted = np.exp(-tau), np.exp(-tau) * (1.0 - 0.5 * tau)
        for axis, value in enumerate(wanted):
            each = np.mean(out[lag:, axis] * out[: len(out) - lag, axis], 0)
            # Flights are independent: the standard error of their mean is that of 400 numbers.
            error = each.std() / np.sqrt(FLIGHTS)
            assert abs(each.mean() - value) < 4.0 * error
            assert error < 0.08
    assert abs(np.mean(out[:, 0] * out[:, 1])) < 4.0 / np.sqrt(FLIGHTS)


def test_uneven_steps_leave_the_process_stationary():
    rng = np.random.default_rng(4)
    way = rng.exponential(0.5, (STEPS, FLIGHTS)) * (rng.random((STEPS, FLIGHTS)) < 0.8)
    out = dryden(way, rng.standard_normal((STEPS + 1, 3, FLIGHTS)))
    spread = out.var(2)
    assert np.abs(spread.mean(0) - 1.0).max() < 0.1
    # One step of no length changes nothing.
    still = way == 0.0
    assert np.abs(np.diff(out, axis=0)[:, 0][still]).max() == 0.0


def test_intensity_and_length_are_those_of_the_standard():
    height = FT_M * np.array([10.0, 500.0, 1000.0, 1500.0, 2000.0, 7500.0, 20_000.0, 35_000.0])
    sigma, length = gust_scales("moderate", height)
    low = 3.0 * KT_MPS / (0.177 + 0.000823 * 500.0) ** 0.4
    assert sigma[1] == pytest.approx(low)
    assert length[1] == pytest.approx(500 * FT_M / (0.177 + 0.000823 * 500.0) ** 1.2)
    assert length[2:5] == pytest.approx([1000 * FT_M, 1375 * FT_M, 1750 * FT_M], rel=1e-3)
    assert length[5:] == pytest.approx(1750 * FT_M)
    assert sigma[5:] / FT_M == pytest.approx([10.1, 7.3, 5.0])
    # From the low to the high model without a jump.
    around = np.array([1000.0 - 1e-6, 1000.0 + 1e-6, 2000.0 - 1e-6, 2000.0 + 1e-6]) * FT_M
    for gusts in ("light", "moderate", "severe"):
        values = np.array(gust_scales(gusts, around))
        assert np.abs(np.diff(values)[:, [0, 2]]).max() < 1e-4
    assert np.all(np.diff([gust_scales(g, height)[0] for g in ("light", "moderate", "severe")], axis=0) > 0)


@pytest.mark.parametrize(("gusts", "height_m"), [("light", 3000.0), ("moderate", 3000.0), ("moderate", 100.0)])
def test_an_aircraft_feels_the_gusts_and_is_steered_back(gusts, height_m):
    _, calm, steady = straight(1, 400.0, height_m, "none")
    times, position, velocity = straight(300, 400.0, height_m, gusts)
    lat, lon, _ = ecef_to_geodetic(calm[0, 100])
    axes = enu_rotation(lat, lon)
    ahead = axes @ steady[0, 100]
    ahead /= np.hypot(*ahead[:2])
    turn = np.array([[ahead[0], ahead[1]], [ahead[1], -ahead[0]]])
    dv = (velocity - steady) @ axes.T[:, :2] @ turn.T
    dp = (position - calm) @ axes.T[:, :2] @ turn.T
    sigma, length = (float(x[0]) for x in gust_scales(gusts, np.array([height_m])))
    late = times > 100.0
    # Steering takes away the slow part of the gusts: the linear system sampled every 2 s says how much.
    expected = steered_spread(130.0 * 2.0 / length, 2.0)
    assert dv[:, late].std((0, 1)) / sigma == pytest.approx(expected[:, 1], rel=0.06)
    assert dp[:, late].std((0, 1)) / sigma == pytest.approx(expected[:, 0], rel=0.10)
    assert np.abs(dp[:, late, 1]).max() < 90.0 * sigma
    # No drift: the spread after 400 s is that after 150 s.
    spread = dp.std(0)
    assert spread[-20:].mean() == pytest.approx(spread[75:95].mean(), rel=0.2)


def steered_spread(way, step):
    """Standard deviation (2, 2) of place and speed along and across for gusts of 1 m/s, by the Lyapunov equation."""
    spring, damper = (2 * np.pi / 60.0) ** 2, 1.4 * 2 * np.pi / 60.0
    root, e = np.sqrt(3.0), np.exp(-way)
    p = np.array([[0.5, 0.25], [0.25, 0.25]])
    out = []
    for phi, cov, c in (
        (np.array([[e]]), np.array([[1.0]]), np.array([1.0])),
        (e * np.array([[1.0, 0.0], [way, 1.0]]), p, np.array([root, 1.0 - root])),
    ):
        q, n = cov - phi @ cov @ phi.T, len(c)
        # State: the gust's, then place and speed; the speed changes by c (x' − x) and by steering.
        jump = c @ (phi - np.eye(n))
        a = np.zeros((n + 2, n + 2))
        a[:n, :n] = phi
        a[n + 1] = [*jump, -step * spring, 1.0 - step * damper]
        a[n] = 0.5 * step * a[n + 1]
        a[n, n] += 1.0
        a[n, n + 1] += 0.5 * step
        g = np.vstack([np.eye(n), 0.5 * step * c, c])
        s = np.zeros_like(a)
        for _ in range(2000):
            s = a @ s @ a.T + g @ q @ g.T
        out.append(np.sqrt(np.diag(s))[n:])
    return np.array(out)


SCENARIO = """
epoch = 2025-01-01T00:00:00Z
duration_s = 3600
gusts = "light"
[[radar]]
name = "R"
latitude_deg = 48
longitude_deg = 11
rotation_period_s = 4
[[approach]]
latitude_deg = 48.35
longitude_deg = 11.79
height_m = 450
runway_deg = 82
entry_deg = 20
join = "downwind"
"""


def test_arrivals_in_gusts_still_come_near_their_threshold():
    paths, _ = Traffic(parse_scenario(SCENARIO, "x", "x"), 1).until(3600.0)
    landed = np.flatnonzero(paths.end_s < 3600.0)
    end = paths.end_s[landed]
    position = paths.motion(paths.locate(landed, end), end)[0].T
    place = ecef_to_enu(position, (np.radians(48.35), np.radians(11.79), 450.0))
    off = np.hypot(place[:, 0], place[:, 1])
    assert len(off) > 20
    assert np.median(off) < 60.0
    assert off.max() < 250.0
    assert place[:, 2] == pytest.approx(50 * FT_M, abs=1.0)
    rough = SCENARIO.replace("light", "none").replace("gusts", "turbulence_m2ps3 = 0.1\ngusts")
    paths, _ = Traffic(parse_scenario(rough, "x", "x"), 1).until(3600.0)
    landed = np.flatnonzero(paths.end_s < 3600.0)
    position = paths.motion(paths.locate(landed, paths.end_s[landed]), paths.end_s[landed])[0].T
    threshold = geodetic_to_ecef(np.radians(48.35), np.radians(11.79), 450.0)
    assert np.median(np.linalg.norm(position - threshold, axis=1)) > 1000.0


def test_gusts_and_white_turbulence_exclude_each_other_and_are_known_by_name():
    with pytest.raises(ScenarioError, match="one of the two"):
        parse_scenario("turbulence_m2ps3 = 0.1\n" + SCENARIO, "x", "x")
    with pytest.raises(ScenarioError, match=r"gusts: found 'strong' \(str\), expected none, light, moderate, severe"):
        parse_scenario(SCENARIO.replace("light", "strong"), "x", "x")
