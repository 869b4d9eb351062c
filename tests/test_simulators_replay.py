"""Recorded flights as truth: flights of the simulator, recorded badly, cleaned and smoothed, are themselves again."""

import dataclasses
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssrtrack.data import Phase, Plots, Trajectories, Truth
from ssrtrack.errors import DataError, ScenarioError
from ssrtrack.geodesy import ecef_to_geodetic, geodetic_to_enu
from ssrtrack.io.trajectories import read_trajectories
from ssrtrack.simulators.replay import RECORDED, RecordedTraffic
from ssrtrack.simulators.replay_noise import measured_noise
from ssrtrack.simulators.replay_paths import hysteresis
from ssrtrack.simulators.replay_scenario import centre, with_truth
from ssrtrack.simulators.replay_smooth import Noise, rows_of, smooth
from ssrtrack.simulators.scenario import parse_scenario, simulate
from ssrtrack.simulators.traffic import SPECIAL_CODES, Traffic
from ssrtrack.units import FPM_MPS, FT_M, KT_MPS, NM_M

EPOCH = datetime(2025, 3, 1, 8, tzinfo=UTC)
SCENARIO = """
epoch = 2025-03-01T08:00:00Z
duration_s = 1500
[[radar]]
name = "R"
latitude_deg = 47
longitude_deg = 8
height_m = 500
rotation_period_s = 4
coverage = { max_range_nm = 120 }
[[traffic]]
number = 40
radius_nm = 50
speed_kt = [200, 450]
flight_level = [80, 380]
manoeuvres_per_hour = 20
flight_time_s = [1400, 1500]
"""


@pytest.fixture(scope="module")
def flown():
    """Forty flights of 25 minutes and what they are."""
    paths, fleet = Traffic(parse_scenario(SCENARIO, "x", "x"), 5).until(1.0)
    return paths, fleet


def recorded(flown, *, sigma_m=8.0, late_s=0.0, step_s=10.0, velocity=True, seed=1) -> pd.DataFrame:
    """State vectors every `step_s`, each position late by |N(0, late_s)| and off by `sigma_m` along each axis."""
    paths, fleet = flown
    rng = np.random.default_rng(seed)
    frames = []
    for i, (begin, end) in enumerate(zip(paths.start_s, paths.end_s, strict=True)):
        t = np.arange(begin + rng.uniform(0.0, 1.0), end, step_s)
        flight = np.full(len(t), i)
        at = np.maximum(t - np.abs(late_s * rng.standard_normal(len(t))), begin)
        position = paths.motion(paths.locate(flight, at), at)[0] + sigma_m * rng.standard_normal((3, len(t)))
        lat, lon, _ = ecef_to_geodetic(position.T)
        state = paths.state(paths.locate(flight, t), t)
        frame = pd.DataFrame(
            {
                "timestamp": pd.to_datetime(EPOCH.timestamp() + t, unit="s", utc=True),
                "icao24": f"{fleet.address[i]:06x}",
                "callsign": fleet.callsign[i].decode(),
                "latitude": np.degrees(lat),
                "longitude": np.degrees(lon),
                "altitude": 25.0 * np.round(state["height_m"] / (25.0 * FT_M)),
            }
        )
        if velocity:
            frame["groundspeed"] = state["speed_mps"] / KT_MPS + rng.normal(0.0, 1.0, len(t))
            frame["track"] = np.degrees(state["track_rad"]) % 360 + rng.normal(0.0, 0.2, len(t))
            frame["vertical_rate"] = 64.0 * np.round(state["climb_mps"] / (64.0 * FPM_MPS))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def table_of(frame: pd.DataFrame, tmp_path: Path) -> Trajectories:
    path = tmp_path / "flights.parquet"
    frame.to_parquet(path)
    return read_trajectories(path)[0]


def errors(flown, table: Trajectories, noise: Noise | None = None) -> dict[str, np.ndarray]:
    """RMS errors of position and velocity by phase, each second but in the first and last minute of a flight."""
    paths, fleet = flown
    found, identities = RecordedTraffic(table, noise=noise).until(np.inf)
    offset = (table.epoch - EPOCH).total_seconds()
    of_address = {int(a): i for i, a in enumerate(fleet.address)}
    out: dict[str, list[np.ndarray]] = {"straight": [], "turn": []}
    for n, address in enumerate(identities.address):
        i = of_address[int(address)]
        t = np.arange(found.start_s[n] + 60.0, found.end_s[n] - 60.0)
        p, v = found.motion(found.locate(np.full(len(t), n), t), t)
        piece = paths.locate(np.full(len(t), i), t + offset)
        p0, v0 = paths.motion(piece, t + offset)
        both = np.stack([np.linalg.norm(p - p0, axis=0), np.linalg.norm(v - v0, axis=0)])
        turning = (paths.phase[piece] & Phase.TURN) > 0
        out["turn"].append(both[:, turning])
        out["straight"].append(both[:, paths.phase[piece] == 0])
    return {name: np.sqrt(np.mean(np.concatenate(parts, 1) ** 2, 1)) for name, parts in out.items()}


# Recording -> greatest RMS error of position (m) and velocity (m/s) in steady flight and in turns.
CASES = {
    "as received": ({}, (8.0, 0.7), (8.7, 1.1)),
    "without velocity": ({"velocity": False}, (10.5, 1.1), (15.5, 2.2)),
    "every 4 s": ({"step_s": 4.0}, (5.3, 0.5), (5.5, 0.65)),
}


@pytest.mark.parametrize("name", CASES)
def test_recorded_flights_are_what_was_flown(name, flown, tmp_path):
    how, straight, turn = CASES[name]
    table = table_of(recorded(flown, **how), tmp_path)
    found = errors(flown, table)
    assert (found["straight"] < straight).all(), found
    assert (found["turn"] < turn).all(), found


def test_stale_stray_and_ground_rows_do_no_harm(flown, tmp_path):
    frame = recorded(flown)
    rng = np.random.default_rng(2)
    n = len(frame)
    clean = errors(flown, table_of(frame, tmp_path))
    stale = np.flatnonzero(rng.random(n) < 0.05)
    stale = stale[(stale > 0) & (frame.icao24[stale].to_numpy() == frame.icao24[np.maximum(stale - 1, 0)].to_numpy())]
    for row in stale:
        frame.loc[row, ["latitude", "longitude"]] = frame.loc[row - 1, ["latitude", "longitude"]]
    far = rng.random(n) < 0.01
    frame.loc[far, "latitude"] += 0.1
    near = rng.random(n) < 0.02  # 300 m off: too near to be impossible, far too far to be true
    frame.loc[near, "longitude"] += 0.004
    found = errors(flown, table_of(frame, tmp_path))
    assert (found["straight"] < 1.6 * clean["straight"]).all(), (found, clean)
    assert (found["turn"] < 1.8 * clean["turn"]).all(), (found, clean)


def test_velocity_is_the_derivative_of_position_everywhere(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    paths, _ = RecordedTraffic(table).until(np.inf)
    # Inside pieces, by central differences; from piece to piece, by meeting.
    middle = paths.time_s + 0.5 * paths.length_s
    piece = np.arange(len(middle))
    step = 0.01
    after, before = (paths.motion(piece, middle + s)[0] for s in (step, -step))
    np.testing.assert_allclose((after - before) / (2 * step), paths.motion(piece, middle)[1], atol=2e-5)
    link = np.flatnonzero(np.diff(paths.pieces_of()) == 0)
    ends, begins = paths.motion(link, paths.time_s[link + 1]), paths.motion(link + 1, paths.time_s[link + 1])
    np.testing.assert_allclose(ends[0], begins[0], atol=1e-6)
    np.testing.assert_allclose(ends[1], begins[1], atol=1e-6)
    # The scalars that registers and altitude reports are made of say the same.
    state = paths.state(piece, middle)
    position, velocity = paths.motion(piece, middle)
    speed = np.sqrt(np.maximum(np.sum(velocity**2, 0) - state["climb_mps"] ** 2, 0.0))
    np.testing.assert_allclose(state["speed_mps"], speed, atol=0.3)
    np.testing.assert_allclose(state["height_m"], ecef_to_geodetic(position.T)[2], atol=0.5)


def test_labels_are_those_of_the_flight(flown, tmp_path):
    paths, fleet = flown
    table = table_of(recorded(flown), tmp_path)
    found, identities = RecordedTraffic(table).until(np.inf)
    offset = (table.epoch - EPOCH).total_seconds()
    same = {Phase.TURN: [0, 0, 0], Phase.CLIMB: [0, 0, 0]}
    for n, address in enumerate(identities.address):
        i = int(np.flatnonzero(fleet.address == address)[0])
        t = np.arange(found.start_s[n] + 30.0, found.end_s[n] - 30.0)
        mine = found.phase[found.locate(np.full(len(t), n), t)]
        flew = paths.phase[paths.locate(np.full(len(t), i), t + offset)]
        for bit, counts in same.items():
            a, b = (mine & bit) > 0, (flew & bit) > 0
            counts[0] += int((a & b).sum())
            counts[1] += int((a & ~b).sum())
            counts[2] += int((~a & b).sum())
    for bit, (hit, false, missed) in same.items():
        assert hit / (hit + missed) > 0.9, bit  # of what was flown is found
        assert hit / (hit + false) > 0.8, bit  # of what is found was flown


HYSTERESIS = [
    ([0, 1, 2, 1, 0, 1, 1, 0], [0] * 8, [0, 1, 1, 1, 0, 0, 0, 0]),  # only the run that reaches the upper bound
    ([1, 1, 1, 2], [0, 0, 1, 1], [0, 0, 1, 1]),  # a run ends with its flight
    ([2, 2], [0, 1], [1, 1]),
    ([0, 0], [0, 0], [0, 0]),
    ([2], [0], [1]),
]


@pytest.mark.parametrize(("values", "flight", "expected"), HYSTERESIS)
def test_hysteresis(values, flight, expected):
    found = hysteresis(np.array(values, float), (0.5, 1.5), np.array(flight))
    assert found.astype(int).tolist() == expected


@pytest.mark.parametrize("velocity", [True, False])
def test_noise_is_measured_along_and_across(flown, tmp_path, velocity):
    """8 m across; along, late by |N(0, 0.3 s)|: a spread of 0.18 s, 31 m at 170 m/s. Without velocities turns add."""
    most = 10.0 if velocity else 13.0
    rows = rows_of(table_of(recorded(flown, velocity=velocity), tmp_path))
    along, across, _ = measured_noise(rows).position_m
    assert 6.4 < across < most
    assert 6.4 < along < most
    late = rows_of(table_of(recorded(flown, late_s=0.3, velocity=velocity), tmp_path))
    along, across, _ = measured_noise(late).position_m
    assert 6.4 < across < most
    assert 22.0 < along < 45.0


def straight_row(offsets_m: np.ndarray, step_s=10.0, speed_mps=200.0) -> Trajectories:
    """A flight due east along the equator at 1,000 m, its positions off to the north by `offsets_m`."""
    t = step_s * np.arange(len(offsets_m))
    radius = 6_378_137.0 + 1000.0
    return Trajectories(
        time_s=t,
        flight_id=np.zeros(len(t), "i4"),
        latitude_deg=np.degrees(offsets_m / 6.336e6),
        longitude_deg=np.degrees(speed_mps * t / radius),
        altitude_m=np.full(len(t), 1000.0),
    )


def test_one_stray_row_does_not_bend_the_path():
    offsets = np.zeros(40)
    offsets[20] = 900.0
    table = straight_row(offsets)
    states = smooth(rows_of(table), Noise())
    true = smooth(rows_of(straight_row(np.zeros(40))), Noise())
    assert np.linalg.norm(states.position_m - true.position_m, axis=0).max() < 5.0
    assert states.weight[20, 1] < 0.05 < 0.5 < states.weight[10, 1]


def test_a_flawless_recording_is_followed_to_a_decimetre():
    table = straight_row(np.zeros(60))
    states = smooth(rows_of(table), Noise())
    assert np.linalg.norm(states.position_m - rows_of(table).place_m, axis=0).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(states.velocity_mps, axis=0), 200.0, atol=0.01)


def test_an_unknown_altitude_lies_between_its_neighbours():
    table = straight_row(np.zeros(30))
    altitude = table.altitude_m + 5.0 * table.time_s
    holes = altitude.copy()
    holes[[0, 10, 11, 12, 29]] = np.nan
    full, holed = (smooth(rows_of(table.replace(altitude_m=a)), Noise()) for a in (altitude, holes))
    off = np.linalg.norm(full.position_m - holed.position_m, axis=0)
    assert off[5:25].max() < 1.0
    assert off.max() < 60.0  # beyond the first and last altitude there is only smoothness


def test_a_flight_without_altitudes_is_not_flown(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    altitude = table.altitude_m.copy()
    altitude[table.flight_id == 3] = np.nan
    _, fleet = RecordedTraffic(table.replace(altitude_m=altitude)).until(np.inf)
    assert 3 not in fleet.truth_id and {2, 4} <= set(fleet.truth_id)


def test_made_up_codes_are_no_emergencies(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    _, fleet = RecordedTraffic(table.replace(mode3a=np.full(len(table), -1))).until(np.inf)
    assert len(set(fleet.mode3a)) == len(fleet.mode3a)
    assert not set(fleet.mode3a.tolist()) & SPECIAL_CODES
    given = np.where(table.flight_id == 3, 0o4321, -1)
    _, fleet = RecordedTraffic(table.replace(mode3a=given)).until(np.inf)
    assert fleet.mode3a[fleet.truth_id == 3] == 0o4321


def test_flights_are_given_once_and_in_time(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    late = table.replace(time_s=table.time_s + 400.0 * (table.flight_id % 3))
    traffic = RecordedTraffic(late)
    whole = traffic.flights
    seen: list[int] = []
    for time_s in (100.0, 500.0, 500.0, 5000.0):
        part = traffic.until(time_s)
        if part:
            assert (part[0].start_s < time_s).all()
            seen += part[1].truth_id.tolist()
    assert sorted(seen) == list(range(whole)) and traffic.flights == 0
    assert traffic.summary.flights == whole
    assert set(part[1].who[:, 0]) == {RECORDED}


def test_a_scenario_of_recorded_flights(flown, tmp_path):
    frame = recorded(flown)
    table = table_of(frame, tmp_path)
    plan, traffic = with_truth(parse_scenario(SCENARIO, "x", "x"), table)
    assert plan.epoch == table.epoch
    assert plan.text.startswith("# Recorded flights from 2025-03-01T08:00:0")
    parts = list(simulate(plan, 3, traffic=traffic))
    plots, truth = Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])
    assert len(plots) > 5000
    assert set(plots.address) - {-1} <= {int(a, 16) for a in frame.icao24}
    assert set(plots.truth_id) <= set(truth.truth_id)
    one = truth[truth.truth_id == truth.truth_id[0]]
    assert (np.diff(one.time_s) <= 2.0 + 1e-9).all()
    # Plots lie where the truth says: 70 m (and delays of the transponder, if any) of slant range from the radar.
    mine = plots[plots.truth_id == one.truth_id[0]]
    enu = geodetic_to_enu(
        *(np.radians(np.interp(mine.time_s, one.time_s, getattr(one, n))) for n in ("latitude_deg", "longitude_deg")),
        np.interp(mine.time_s, one.time_s, one.height_m),
        (np.radians(47.0), np.radians(8.0), 500.0),
    )
    off = np.linalg.norm(enu, axis=-1) - mine.range_m
    assert 50.0 < np.sqrt(np.mean(off**2)) < 90.0
    again = list(simulate(plan, 3, traffic=with_truth(parse_scenario(SCENARIO, "x", "x"), table)[1]))
    assert np.array_equal(Plots.concat([p for p, _ in again]).range_m, plots.range_m)


def test_a_scenario_starts_inside_the_recording_with_flights_in_the_air(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    start = table.epoch + timedelta(seconds=600)
    plan, traffic = with_truth(parse_scenario(SCENARIO, "x", "x"), table, start=start)
    assert plan.epoch == start and plan.duration_s <= 900
    paths, fleet = traffic.until(1.0)
    assert len(fleet.truth_id) > 30
    assert paths.start_s.min() == 0.0 and paths.end_s.max() <= plan.duration_s
    # The same place at the same time, whether the scenario began then or before.
    early, other = RecordedTraffic(table).until(np.inf)
    t = np.full(len(fleet.truth_id), 300.0)
    a = paths.motion(paths.locate(np.arange(len(t)), t), t)[0]
    index = np.searchsorted(other.truth_id, fleet.truth_id)
    b = early.motion(early.locate(index, t + 600.0), t + 600.0)[0]
    assert np.linalg.norm(a - b, axis=0).max() < 3.0


def test_a_radar_moves_to_the_flights(flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    far = parse_scenario(SCENARIO.replace("latitude_deg = 47", "latitude_deg = -20"), "far", "far")
    far = dataclasses.replace(far, radar=(*far.radar, dataclasses.replace(far.radar[0], name="S", latitude_deg=-19.5)))
    with pytest.raises(ScenarioError, match=r"no recorded position is within the range .*--site centre"):
        with_truth(far, table)
    latitude, longitude = centre(table)
    assert abs(latitude - 47) < 0.3 and abs(longitude - 8) < 0.3
    plan, _ = with_truth(far, table, site=(latitude, longitude, None))
    assert plan.radar[0].latitude_deg == pytest.approx(latitude) and plan.radar[0].height_m == 500
    assert plan.radar[1].latitude_deg == pytest.approx(latitude + 0.5)
    assert with_truth(far, table, site=(47.0, 8.0, 90.0))[0].radar[0].height_m == 90.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t[:0],
        lambda t: t[::-1],
        lambda t: t.replace(time_s=np.round(t.time_s / 30.0) * 30.0),
    ],
)
def test_rows_out_of_order_are_refused(spoil):
    with pytest.raises(DataError, match="Trajectories: "):
        RecordedTraffic(spoil(straight_row(np.zeros(20))))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (EPOCH - timedelta(hours=1), "expected a time inside the recording, 2025-03-01T08:00:0"),
        (EPOCH + timedelta(hours=1), "inside the recording"),
        (EPOCH.replace(tzinfo=None), "expected a UTC time"),
    ],
)
def test_a_start_outside_the_recording_is_refused(start, message, flown, tmp_path):
    table = table_of(recorded(flown), tmp_path)
    with pytest.raises(ScenarioError, match=message):
        with_truth(parse_scenario(SCENARIO, "x", "x"), table, start=start)


@pytest.mark.parametrize(
    ("name", "speed_mps", "median_mps", "track_deg"),
    [("switzerland.json.gz", 2.0, 0.3, 1.5), ("opensky_uk_20min.csv", 2.0, 0.4, 2.5)],
)
def test_real_flights_agree_with_what_they_report(name, speed_mps, median_mps, track_deg):
    if not (root := os.environ.get("SSRTRACK_DATA")):
        pytest.skip("SSRTRACK_DATA is not set: no real trajectories to fly")
    table, _ = read_trajectories(Path(root) / "trajectories" / name)
    traffic = RecordedTraffic(table[table.flight_id < 300])
    paths, _ = traffic.until(np.inf)
    summary = traffic.summary
    assert summary.speed_rms_mps < speed_mps and summary.speed_median_mps < median_mps
    assert np.degrees(summary.track_rms_rad) < track_deg
    assert summary.impossible <= 3
    assert 5 * NM_M < np.median(paths.length_s * paths.scalars[3]) * 100 < 60 * NM_M
