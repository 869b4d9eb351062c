"""Patterned traffic against its own promises: thresholds, fixes and crossing points met, speeds and heights kept."""

import numpy as np
import pytest

from ssrtrack.data import Phase
from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import ecef_to_enu, ecef_to_geodetic, geodetic_to_ecef, wrapped_angle
from ssrtrack.simulators.patterns import expected_aircraft
from ssrtrack.simulators.scenario import list_scenarios, load_scenario, parse_scenario
from ssrtrack.simulators.traffic import Traffic
from ssrtrack.units import DEG_RAD, FL_M, FT_M, G_MPS2, KT_MPS, NM_M

HEAD = """
epoch = 2025-01-01T00:00:00Z
duration_s = 5400
[[radar]]
name = "R"
latitude_deg = 48
longitude_deg = 11
rotation_period_s = 4
"""
THRESHOLD = (48.35 * DEG_RAD, 11.79 * DEG_RAD, 450.0)
APPROACH = """
[[approach]]
latitude_deg = 48.35
longitude_deg = 11.79
height_m = 450
runway_deg = 82
"""
HOLD = "entry_deg = 300\nhold = { inbound_deg = 120, flight_level = [70, 110] }\ninterval_s = [320, 340]\n"
DEPARTURE = """
[[departure]]
latitude_deg = 48.35
longitude_deg = 11.79
height_m = 450
runway_deg = 262
exit_deg = [300, 400]
"""
CROSSING = """
[[crossing]]
latitude_deg = 48.35
longitude_deg = 11.79
"""
LOW = """
[[low_level]]
latitude_deg = 48.35
longitude_deg = 11.79
number = 6
ground_m = 400
"""


def fleet_of(text, until_s=5400.0, seed=1, head=HEAD):
    return Traffic(parse_scenario(head + text, "x", "x"), seed).until(until_s)


def along(paths, flight, step_s=0.5, since_s=-np.inf, last_s=np.inf):
    """Times, ECEF positions and the state of one flight."""
    begin, end = max(paths.start_s[flight], since_s), min(paths.end_s[flight], last_s)
    times = np.append(np.arange(begin, end, step_s), end)
    piece = paths.locate(np.full(len(times), flight), times)
    return times, paths.motion(piece, times)[0].T, paths.state(piece, times), paths.phase[piece]


def flat(position, place):
    """Metres east and north (n, 2) of a place on the ground, as if flown over at height 0."""
    lat, lon, height = ecef_to_geodetic(position)
    return ecef_to_enu(geodetic_to_ecef(lat, lon, np.zeros_like(lat)), (*place[:2], 0.0))[:, :2], height


def indicated_kt(state):
    return state["speed_mps"] * (1 - 0.0065 * state["height_m"] / 288.15) ** (0.5 * 4.25588) / KT_MPS


def landed(paths, duration_s=5400.0):
    return [k for k in range(len(paths.start_s)) if paths.end_s[k] < duration_s]


@pytest.mark.parametrize(
    "way",
    [
        'entry_deg = 300\njoin = "base"\n',
        'entry_deg = 210\njoin = "base"\nside = "right"\n',
        'entry_deg = 20\njoin = "downwind"\n',
        'entry_deg = 150\nentry_nm = 60\njoin = "downwind"\nside = "right"\n',
        'entry_deg = 275\njoin = "straight"\n',
        "entry_deg = 300\nglide_deg = 3.5\nintercept_ft = 4500\n",
        HOLD,
    ],
)
def test_arrivals_cross_the_threshold_at_fifty_feet_down_the_glide_path(way):
    paths, _ = fleet_of(APPROACH + way)
    slope = np.tan((3.5 if "3.5" in way else 3.0) * DEG_RAD)
    arrivals = landed(paths)
    assert len(arrivals) > 8
    for k in arrivals[:6]:
        times, position, state, phase = along(paths, k)
        place, height = flat(position, THRESHOLD)
        assert np.hypot(*place[-1]) < 20.0
        assert height[-1] - 450.0 == pytest.approx(50 * FT_M, abs=0.5)
        assert abs(wrapped_angle(state["track_rad"][-1] - 82 * DEG_RAD)) < 0.02 * DEG_RAD
        assert indicated_kt(state)[-1] == pytest.approx(136.5, abs=8.6)
        # Distance still to fly, along the path: the glide path is a slope over the ground.
        left = np.cumsum((np.diff(times) * 0.5 * (state["speed_mps"][1:] + state["speed_mps"][:-1]))[::-1])[::-1]
        glide = left < 7 * NM_M
        ideal = 450.0 + 50 * FT_M + slope * left[glide]
        assert np.abs(height[:-1][glide] - ideal).max() < 1.0
        assert np.all(phase[:-1][glide] & Phase.CLIMB)
        final = left < 8 * NM_M
        off = place[:-1][final] @ np.array([np.cos(82 * DEG_RAD), -np.sin(82 * DEG_RAD)])
        assert np.abs(off).max() < 20.0
        # Level before the glide path, which is met from below.
        before = (left > 9.6 * NM_M) & (left < 10.4 * NM_M) if "3.5" not in way else np.zeros_like(final)
        assert not before.any() or np.ptp(height[:-1][before]) < 1e-3


def test_arrivals_slow_down_on_the_way_in():
    paths, _ = fleet_of(APPROACH + "entry_deg = 300\n")
    k = landed(paths)[0]
    times, _, state, _ = along(paths, k)
    speed = indicated_kt(state)
    left = np.append(np.cumsum((np.diff(times) * state["speed_mps"][1:])[::-1])[::-1], 0.0)
    assert speed[0] == pytest.approx(250, abs=0.5)
    for distance, expected in ((4.0, 160), (8.9, 170)):
        assert speed[np.argmin(abs(left - distance * NM_M))] == pytest.approx(expected, abs=3)
    assert np.all(np.diff(state["speed_mps"]) <= 1e-9)


def test_who_goes_around_climbs_away_from_the_threshold():
    paths, _ = fleet_of(APPROACH + "entry_deg = 300\ngo_around_share = 0.5\n")
    ends = [along(paths, k)[2]["height_m"] for k in landed(paths)]
    away = [h for h in ends if h[-1] > 1000]
    assert 0.2 < len(away) / len(ends) < 0.8
    for height in away:
        assert 450 + 35 * FT_M < height.min() < 450 + 45 * FT_M
        assert height[-1] == pytest.approx(450 + 50 * FT_M + 3000 * FT_M, abs=1.0)


def crossings_of(place, times):
    """Times at which an aircraft passes nearest to the origin within 500 m, and those distances."""
    d = np.hypot(place[:, 0], place[:, 1])
    low = np.flatnonzero((d[1:-1] < d[:-2]) & (d[1:-1] <= d[2:]) & (d[1:-1] < 500.0)) + 1
    found = []
    for i in low:
        v = (place[i + 1] - place[i - 1]) / (times[i + 1] - times[i - 1])
        found.append((times[i] - place[i] @ v / (v @ v), abs(place[i, 0] * v[1] - place[i, 1] * v[0]) / np.hypot(*v)))
    return np.array(found)


@pytest.mark.parametrize("turns", ["right", "left"])
def test_a_hold_meets_its_fix_every_circuit_and_steps_down_a_thousand_feet(turns):
    text = HOLD.replace("[70, 110]", f'[120, 160], turns = "{turns}", circuits = 2')
    paths, _ = fleet_of(APPROACH + text.replace("[320, 340]", "[780, 800]"))
    bearing = 300 * DEG_RAD
    east, north = 40 * NM_M * np.sin(bearing), 40 * NM_M * np.cos(bearing)
    lat, lon, _ = ecef_to_geodetic(
        geodetic_to_ecef(*THRESHOLD[:2], 0.0) + np.array(enu(THRESHOLD, east, north)) - enu(THRESHOLD, 0, 0)
    )
    full = [k for k in landed(paths) if paths.start_s[k] > -1500]
    for k in full[:3]:
        times, position, state, phase = along(paths, k, 0.25)
        place, height = flat(position, (lat, lon))
        passed = crossings_of(place, times)
        assert len(passed) == 11
        assert passed[:, 1].max() < 10.0
        levels = np.interp(passed[:, 0], times, height) / FL_M
        assert levels == pytest.approx([170, 160, 160, 150, 150, 140, 140, 130, 130, 120, 120], abs=0.1)
        # Circuits that keep their level: 180 degrees twice, and twice the outbound time, 1.5 minutes above FL140.
        for n, minutes in ((2, 1.5), (4, 1.5), (6, 1.0), (8, 1.0)):
            inside = (times > passed[n - 1, 0]) & (times < passed[n, 0])
            turning = np.count_nonzero(inside & (phase & Phase.TURN > 0)) * 0.25
            assert passed[n, 0] - passed[n - 1, 0] - turning == pytest.approx(120 * minutes, rel=0.04)
        bank = state["bank_rad"][(times > passed[0, 0]) & (times < passed[-1, 0])] / DEG_RAD
        assert np.abs(bank).max() == pytest.approx(25.0, abs=1e-6)
        assert (bank.max() > 24) == (turns == "right")
        assert (bank.min() < -24) == (turns == "left")


def enu(site, east, north):
    """ECEF of a place east and north on the ground of a site."""
    s, c, sl, cl = np.sin(site[0]), np.cos(site[0]), np.sin(site[1]), np.cos(site[1])
    up = -(east**2 + north**2) / (2 * 6378137.0)
    axes = np.array([[-sl, cl, 0], [-s * cl, -s * sl, c], [c * cl, c * sl, s]])
    return geodetic_to_ecef(*site[:2], 0.0) + np.array([east, north, up]) @ axes


def test_nobody_in_a_stack_comes_nearer_than_a_thousand_feet():
    paths, _ = fleet_of(APPROACH + HOLD)
    rows = []
    for k in range(len(paths.start_s)):
        times, _, state, _ = along(paths, k, 1.0, 0.0, 5000.0)
        whole = np.interp(np.arange(5000.0), times, state["height_m"], np.nan, np.nan)
        rows.append(np.where(whole > 70.5 * FL_M, whole, np.nan))
    stack = np.sort(np.array(rows), 0)
    gaps = np.diff(stack, axis=0)
    assert np.nanmin(gaps) > 990 * FT_M
    assert 4 <= np.nanmedian(np.sum(np.isfinite(stack), 0)) < 9


@pytest.mark.parametrize("miss", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("angle", [8, 90, 180])
def test_crossing_pairs_come_as_close_as_asked_at_their_point(angle, miss):
    extra = f"angle_deg = [{angle}, {angle}]\nmiss_nm = [{miss}, {miss}]\nlevel_step_ft = [1000, 1000]\n"
    paths, fleet = fleet_of(CROSSING + extra)
    who = {tuple(w[1:]): k for k, w in enumerate(fleet.who.tolist())}
    pairs = [(k, who[2, n]) for (slot, n), k in who.items() if slot == 1 and (2, n) in who]
    assert len(pairs) > 20
    checked = 0
    for first, second in pairs:
        begin, end = max(paths.start_s[[first, second]]), min(paths.end_s[[first, second]])
        if begin < 0 or end > 5399:
            continue
        _, a, state, _ = along(paths, first, 0.1, begin, end)
        _, b, other, _ = along(paths, second, 0.1, begin, end)
        level = state["height_m"][0]
        assert other["height_m"][0] - level == pytest.approx(1000 * FT_M, abs=1e-3)
        on_level = [geodetic_to_ecef(*ecef_to_geodetic(x)[:2], level) for x in (a, b)]
        d = np.linalg.norm(on_level[0] - on_level[1], axis=1)
        # Between two samples a distance of 0 passes by at half a step of the relative speed.
        assert d.min() == pytest.approx(miss * NM_M, abs=26.0 if miss == 0 else 6.0)
        place, _ = flat(a, THRESHOLD)
        assert np.hypot(*place[np.argmin(d)]) < 0.1 * 260 + (100 if angle == 8 else 3)
        checked += 1
    assert checked > 10


def test_parallel_pairs_are_side_by_side_at_their_spacing():
    text = APPROACH + "entry_deg = 320\nparallel_m = 1035\ninterval_s = [100, 120]\n"
    paths, fleet = fleet_of(text)
    who = {tuple(w[1:]): k for k, w in enumerate(fleet.who.tolist())}
    pairs = [(k, who[2, n]) for (slot, n), k in who.items() if slot == 1 and paths.end_s[k] < 5300]
    ahead = np.array([np.sin(82 * DEG_RAD), np.cos(82 * DEG_RAD)])
    right = np.array([ahead[1], -ahead[0]])
    for a, b in pairs[:8]:
        end = paths.end_s[a]
        assert paths.end_s[b] == pytest.approx(end, abs=1e-6)
        _, first, low, _ = along(paths, a, 1.0, end - 190, end)
        _, second, high, _ = along(paths, b, 1.0, end - 190, end)
        gap = flat(second, THRESHOLD)[0] - flat(first, THRESHOLD)[0]
        near = flat(first, THRESHOLD)[0] @ ahead > -8 * NM_M
        assert near.sum() > 100
        assert np.abs(gap[near] @ right - 1035).max() < 10
        # The right one meets the glide path higher, where the same indicated speed is 1.5 % faster.
        assert np.abs(gap[near] @ ahead).max() < 100
        assert np.abs(gap[-60:] @ ahead).max() < 1
        _, _, low, _ = along(paths, a, 1.0, end - 260, end - 235)
        _, _, high, _ = along(paths, b, 1.0, end - 260, end - 235)
        assert (high["height_m"] - low["height_m"]).min() > 600 * FT_M


def test_departures_turn_at_their_height_and_keep_250_kt_below_ten_thousand_feet():
    paths, _ = fleet_of(DEPARTURE)
    for k in landed(paths)[:20]:
        times, position, state, phase = along(paths, k)
        place, height = flat(position, THRESHOLD)
        if paths.start_s[k] < 0:
            continue
        assert np.hypot(*place[0]) < 1.0
        first = np.flatnonzero(phase & Phase.TURN)[0]
        assert 995 < (height[first] - 450) / FT_M < 3030
        off = place[:first] @ np.array([np.cos(262 * DEG_RAD), -np.sin(262 * DEG_RAD)])
        assert np.abs(off).max() < 3.0
        speed = indicated_kt(state)
        assert speed[height < 99.9 * FL_M].max() < 252
        flown = np.sum(np.diff(times) * 0.5 * (state["speed_mps"][1:] + state["speed_mps"][:-1]))
        assert flown == pytest.approx(60 * NM_M, rel=1e-4)
        assert np.all(np.diff(height) > -1e-6)
        rate = np.abs(state["track_rate_radps"]) / DEG_RAD
        assert rate.max() < 3.05


def test_low_flying_stays_in_its_band_and_turns_hard():
    paths, fleet = fleet_of(LOW)
    banks = []
    for k in range(len(paths.start_s)):
        _, _, state, _ = along(paths, k)
        above = (state["height_m"] - 400.0) / FT_M
        assert above.min() > 499.9 and above.max() < 2000.1
        bank, speed = state["bank_rad"], state["speed_mps"]
        steady = np.abs(bank) > 0.999 * np.abs(bank).max()
        turn = state["track_rate_radps"] - G_MPS2 * np.tan(bank) / speed
        assert np.abs(turn[steady]).max() < 1e-4
        banks.append(np.abs(bank).max() / DEG_RAD)
        assert speed.min() / KT_MPS > 419 and speed.max() / KT_MPS < 481
    assert min(banks) > 44.9 and max(banks) <= 60.01
    assert not fleet.mode_s.any()


@pytest.mark.parametrize(
    "text",
    [
        APPROACH + HOLD,
        APPROACH + "entry_deg = 20\njoin = 'downwind'\ngo_around_share = 1.0\n",
        DEPARTURE,
        CROSSING,
        LOW,
    ],
)
def test_pieces_join_without_a_jump(text):
    paths, _ = fleet_of(text, 2000.0)
    later = np.ones(len(paths.time_s), bool)
    later[paths.first[:-1]] = False
    second = np.flatnonzero(later)
    c, d, t = paths.ecef[:, :, second - 1], paths.ecef[:, :, second], paths.length_s[second - 1]
    powers = t ** np.arange(6)[:, None]
    position = np.einsum("kcn,kn->cn", c, powers)
    slope = np.arange(1, 6)[:, None]
    velocity = np.einsum("kcn,kn->cn", c[1:], slope * powers[:-1])
    bend = slope[1:] * slope[:-1]
    acceleration = np.einsum("kcn,kn->cn", c[2:], bend * powers[:-2])
    assert np.abs(position - d[0]).max() < 1e-6
    assert np.abs(velocity - d[1]).max() < 1e-6
    # Bank rolls in; only the throttle (0.4 m/s² or what a short leg needs) and the stick (½ or, low, ¼ g) may step.
    # From pulling up to pushing down both count.
    most = np.hypot(2 * 2.5, 2.0) if text == LOW else 2 * 2.0 if "around" in text else np.hypot(2 * 0.5, 0.5)
    assert np.linalg.norm(acceleration - 2 * d[2], axis=0).max() < most + 0.01


@pytest.mark.parametrize("name", ["tma", "crossing", "parallel-approach", "holding-stack", "low-level"])
def test_streams_are_as_full_at_the_start_as_later(name):
    scenario = load_scenario(name)
    paths, _ = Traffic(scenario, 3).until(scenario.duration_s)
    count = [np.count_nonzero((paths.start_s <= t) & (paths.end_s > t)) for t in (5.0, 900.0, 1800.0, 2700.0, 3500.0)]
    assert min(count) > 0.7 * max(count)
    assert expected_aircraft(scenario) == pytest.approx(np.mean(count), rel=0.3)


def test_mixes_are_there():
    assert {"crossing", "demo", "enroute", "holding-stack", "low-level", "parallel-approach", "tma"} <= set(
        list_scenarios()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (APPROACH + HOLD.replace("[320, 340]", "[200, 400]"), r"begins at 200, but an aircraft stays 31\d s"),
        (APPROACH + HOLD.replace("inbound_deg = 120", "inbound_deg = 290"), r"hold\.inbound_deg: found 290"),
        (APPROACH + "entry_deg = 262\nentry_nm = 10\njoin = 'straight'\n", r"leg \d is \d+\.\d NM long, but"),
        (APPROACH + "entry_deg = 275\nentry_nm = 20\nflight_level = [250, 250]\njoin = 'straight'\n", r"than 6000"),
    ],
)  # fmt: skip
def test_a_pattern_without_room_is_refused(text, message):
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(HEAD + text, "x", "x")


EVERYONE = (
    "TURBULENCE\n"
    + HEAD
    + APPROACH
    + HOLD
    + DEPARTURE
    + CROSSING
    + LOW
    + """
[[traffic]]
number = 9
radius_nm = 40
manoeuvres_per_hour = 40
flight_time_s = [200, 900]
"""
)


def flights_of(text, steps):
    """The pieces of each flight by (flow, slot, number), as it was given."""
    traffic = Traffic(parse_scenario(text, "x", "x"), 5)
    out = {}
    for until in steps:
        if (given := traffic.until(until)) is None:
            continue
        paths, fleet = given
        for k, who in enumerate(fleet.who.tolist()):
            one = paths.take(np.array([k]))
            out[tuple(who)] = [one.start_s, one.end_s, one.time_s, one.length_s, one.ecef, one.scalars, one.row]
    return out


@pytest.mark.parametrize("turbulence", ["", "turbulence_m2ps3 = 0.1", 'gusts = "moderate"'])
def test_a_flight_is_the_same_to_the_last_bit_whoever_else_flies_and_however_time_is_cut(turbulence):
    text = EVERYONE.replace("TURBULENCE", turbulence)
    whole = flights_of(text, [3600.0])
    cut = flights_of(text, [300.0, 1200.0, 1250.0, 3600.0])
    fewer = flights_of(text.replace("number = 9", "number = 4").replace(DEPARTURE, ""), [3600.0])
    assert len(fewer) < len(whole) <= len(cut)
    for some in (cut, fewer):
        shared = [who for who in some if who in whole]
        assert len(shared) > 40
        for who in shared:
            for a, b in zip(some[who], whole[who], strict=True):
                np.testing.assert_array_equal(a, b)
