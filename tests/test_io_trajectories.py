"""Trajectory files: every kind and name read alike, every fault found, counted and explained, nothing else touched."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import Trajectories
from ssrtrack.errors import DataError
from ssrtrack.io.trajectories import read_trajectories
from ssrtrack.io.trajectories_clean import Cleaning, clean
from ssrtrack.io.trajectories_columns import to_columns

EPOCH_S = 1_626_098_400  # 2021-07-12 14:00:00 UTC
ROWS, STEP_S = 60, 10.0


def flown(icao24="3c4591", callsign="BOX413", north_deg=0.0, rows=ROWS, seed=0) -> pd.DataFrame:
    """Ten minutes eastward at 400 kt in steps of 10 s, with a few metres of noise, in the columns of `traffic`."""
    rng = np.random.default_rng(seed)
    t = STEP_S * np.arange(rows)
    speed_degps = 400 * 1852 / 3600 / (6371e3 * np.cos(np.radians(50 + north_deg))) * 180 / np.pi
    noise = 3e-5 * rng.standard_normal((2, rows))
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime(EPOCH_S + t, unit="s", utc=True),
            "icao24": icao24,
            "callsign": callsign,
            "latitude": 50.0 + north_deg + noise[0],
            "longitude": 8.0 + speed_degps * t + noise[1],
            "altitude": 30_000.0 + 25.0 * np.round(rng.standard_normal(rows)),
            "groundspeed": 400.0 + rng.standard_normal(rows),
            "track": 90.0 + 0.1 * rng.standard_normal(rows),
            "vertical_rate": 64.0 * np.round(rng.standard_normal(rows)),
            "squawk": "1174",
        }
    )


def state_vectors(frame: pd.DataFrame) -> pd.DataFrame:
    """The same flight as OpenSky state vectors: other names, other units."""
    return pd.DataFrame(
        {
            "time": (frame.timestamp - pd.Timestamp(0, tz="UTC")).dt.total_seconds().astype(int),
            "icao24": frame.icao24,
            "lat": frame.latitude,
            "lon": frame.longitude,
            "velocity": frame.groundspeed * 1852 / 3600,
            "heading": frame.track,
            "vertrate": frame.vertical_rate * 0.3048 / 60,
            "callsign": frame.callsign + "  ",
            "onground": False,
            "squawk": 1174.0,
            "baroaltitude": frame.altitude * 0.3048,
            "geoaltitude": frame.altitude * 0.3048 + 150,
        }
    )


def read(frame: pd.DataFrame, tmp_path: Path, **options):
    path = tmp_path / "flights.csv"
    frame.to_csv(path, index=False)
    return read_trajectories(path, **options)


def assert_same(a: Trajectories, b: Trajectories) -> None:
    assert a.epoch == b.epoch
    for name, column in a.columns().items():
        other = getattr(b, name)
        if column.dtype.kind == "f":
            np.testing.assert_allclose(other, column, rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            assert np.array_equal(other, column), name


def iso(frame):
    return frame.assign(timestamp=frame.timestamp.dt.strftime("%Y-%m-%dT%H:%M:%S"))


def milliseconds(frame):
    return frame.assign(timestamp=(frame.timestamp - pd.Timestamp(0, tz="UTC")) // pd.Timedelta("1ms"))


WRITERS = {
    "flights.csv": lambda f, p: f.to_csv(p, index=False),
    "flights.csv.gz": lambda f, p: iso(f).to_csv(p, index=False),
    "day.one.csv": lambda f, p: milliseconds(f).to_csv(p, index=False),
    "flights.json": lambda f, p: milliseconds(f).to_json(p, orient="records"),
    "flights.json.gz": lambda f, p: iso(f).to_json(p, orient="records"),
    "columns.json": lambda f, p: milliseconds(f).to_json(p),
    "flights.jsonl": lambda f, p: milliseconds(f).to_json(p, orient="records", lines=True),
    "flights.parquet": lambda f, p: f.to_parquet(p),
    "naive.parquet": lambda f, p: f.assign(timestamp=f.timestamp.dt.tz_localize(None)).to_parquet(p),
    "indexed.parquet": lambda f, p: f.set_index("timestamp").to_parquet(p),
    "unknown.parquet": lambda f, p: f.assign(onground=pd.array([False, None] * (len(f) // 2), "boolean")).to_parquet(p),
    "states.csv": lambda f, p: state_vectors(f).to_csv(p, index=False),
    "states.parquet": lambda f, p: state_vectors(f).to_parquet(p),
    "shuffled.csv": lambda f, p: f.sample(frac=1.0, random_state=1).to_csv(p, index=False),
    "more_columns.csv": lambda f, p: f.assign(alert=False, nucp=7).to_csv(p, index=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_reads_alike(name, tmp_path):
    frame = pd.concat(
        [flown(), flown("3e1234", "ABC1", 0.5, seed=1), flown("400123", "", -0.5, seed=2)], ignore_index=True
    )
    WRITERS[name](frame, tmp_path / name)
    table, summary = read_trajectories(tmp_path / name)
    assert table.epoch == datetime(2021, 7, 12, 14, tzinfo=UTC)
    assert np.array_equal(table.time_s, np.tile(STEP_S * np.arange(ROWS), 3))
    # Addresses that look like numbers stay what they are.
    assert np.array_equal(np.unique(table.address), [0x3C4591, 0x3E1234, 0x400123])
    assert set(table.callsign) == {b"BOX413", b"ABC1", b""}
    assert set(table.mode3a) == {0o1174}
    first = table[table.address == 0x3C4591]
    np.testing.assert_allclose(first.latitude_deg, frame.latitude[:ROWS], atol=1e-9)
    np.testing.assert_allclose(first.altitude_m, frame.altitude[:ROWS] * 0.3048)
    np.testing.assert_allclose(first.ground_speed_mps, frame.groundspeed[:ROWS] * 0.514444, rtol=1e-5)
    np.testing.assert_allclose(first.vertical_rate_mps, frame.vertical_rate[:ROWS] * 0.00508, atol=1e-5)
    np.testing.assert_allclose(first.track_angle_rad, np.radians(frame.track[:ROWS]), rtol=1e-6)
    assert (summary.rows, summary.kept, summary.flights, summary.aircraft) == (3 * ROWS, 3 * ROWS, 3, 3)
    assert not any(summary.dropped.values())


def moved(frame, row, **by):
    frame = frame.copy()
    for name, value in by.items():
        frame.loc[row, name] += value
    return frame


def set_(frame, rows, **to):
    frame = frame.copy()
    for name, value in to.items():
        frame.loc[rows, name] = value
    return frame


def stale(frame, rows):
    frame = frame.copy()
    for row in rows:
        frame.loc[row, ["latitude", "longitude"]] = frame.loc[row - 1, ["latitude", "longitude"]]
    return frame


def interpolated(frame, first, last):
    frame = frame.copy()
    share = np.linspace(0, 1, last - first + 1)[1:-1]
    for name in ("latitude", "longitude"):
        a, b = frame.loc[first, name], frame.loc[last, name]
        frame.loc[first + 1 : last - 1, name] = a + share * (b - a)
    return frame


def with_ground(frame):
    return frame.assign(onground=frame.index < 7)


def twice(frame):
    again = frame.iloc[10:13].assign(latitude=frame.latitude[10:13] + 1e-4)
    return pd.concat([frame, again])


def soon(frame):
    """Seven more rows, 0.1 to 0.7 s after the tenth: those at 0.2, 0.4 and 0.6 s may stay."""
    rng = np.random.default_rng(9)
    later = [
        moved(frame.iloc[[10]], 10, timestamp=pd.Timedelta(seconds=0.1 * k), longitude=3e-4 * k + 2e-5 * rng.random())
        for k in range(1, 8)
    ]
    return pd.concat([frame, *later])


# What goes wrong with a flight of 60 rows -> the reason that must be counted, how many rows, and what stays.
FAULTS = {
    "no latitude": (lambda f: set_(f, [3, 9], latitude=np.nan), "without time, position or address", 2),
    "no time": (lambda f: set_(f, [5], timestamp=pd.NaT), "without time, position or address", 1),
    "no address": (lambda f: set_(f, [5], icao24="zz"), "without time, position or address", 1),
    "off the earth": (lambda f: set_(f, [5], latitude=95.0), "with an impossible latitude or longitude", 1),
    "null island": (lambda f: set_(f, [5], latitude=0.0, longitude=0.0), "with an impossible latitude or longitude", 1),
    "on the ground": (with_ground, "on the ground", 7),
    "stale": (lambda f: stale(f, [20, 21, 40]), "stale: the position of an earlier row again", 3),
    "twice": (twice, "second rows of one aircraft at one time", 3),
    "too soon": (soon, "within 0.2 s of the row before", 4),
    "interpolated": (
        lambda f: interpolated(f, 20, 25),
        "interpolated by others: exactly on the line between their neighbours",
        4,
    ),
    "one outlier": (lambda f: moved(f, 30, latitude=0.05), "outliers off their neighbours", 1),
    "two outliers": (
        lambda f: moved(moved(f, 30, latitude=0.05), 33, longitude=0.1),
        "outliers off their neighbours",
        2,
    ),
    "two adjoining outliers": (
        lambda f: moved(moved(f, 30, latitude=0.06), 31, latitude=-0.05),
        "outliers off their neighbours",
        2,
    ),
    "a short piece": (lambda f: f.drop(index=range(5, 20)), "in pieces too short to use", 5),
    "no altitude": (lambda f: f.assign(altitude=np.nan), "of flights with fewer than two altitudes", ROWS),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_counted_and_nothing_else_is_lost(name, tmp_path):
    fault, reason, count = FAULTS[name]
    good, bad = flown("aaaaaa", "GOOD", 2.0, seed=3), fault(flown())
    table, summary = read(pd.concat([good, bad]), tmp_path)
    assert {k: v for k, v in summary.dropped.items() if v} == {reason: count}
    assert summary.rows == ROWS + len(bad) == summary.kept + sum(summary.dropped.values())
    assert f"{count:,} {reason}" in str(summary)
    alone, _ = read(good, tmp_path)
    mine = table[table.address == 0xAAAAAA]
    assert np.array_equal(mine.latitude_deg, alone.latitude_deg)


SPLITS = {
    "gap": (lambda f: f.drop(index=range(25, 35)), "at a gap of over 60 s"),
    "callsign": (lambda f: set_(f, range(30, ROWS), callsign="NEXT1"), "at a change of callsign"),
    "jump": (lambda f: f.assign(latitude=f.latitude + 1.0 * (f.index >= 30)), "at a jump faster than 500 m/s"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_flight_is_split_where_it_cannot_be_one(name, tmp_path):
    change, reason = SPLITS[name]
    table, summary = read(change(flown()), tmp_path)
    assert {k: v for k, v in summary.splits.items() if v} == {reason: 1}
    assert set(table.flight_id) == {0, 1}
    assert (np.diff(table.flight_id) >= 0).all()
    assert f"1 {reason}" in str(summary)


def test_a_callsign_that_comes_and_goes_is_one_flight(tmp_path):
    table, summary = read(set_(flown(), [0, 1, 20, 21, 22, ROWS - 1], callsign=""), tmp_path)
    assert summary.flights == 1
    assert set(table.callsign) == {b"BOX413"}


def test_a_position_has_the_time_of_its_update(tmp_path):
    frame = state_vectors(flown())
    frame["lastposupdate"] = frame.time - 0.3
    # For half a minute nothing comes in, and the old position is repeated under new times.
    for row in (31, 32, 33):
        frame.loc[row, ["lat", "lon", "lastposupdate"]] = frame.loc[30, ["lat", "lon", "lastposupdate"]]
    frame.loc[50, "lastposupdate"] = frame.loc[50, "time"] + 1000.0  # from a broken clock: not believed
    table, summary = read(frame, tmp_path)
    assert summary.dropped["stale: the position of an earlier row again"] == 3
    assert summary.kept == ROWS - 3
    times = table.time_s + (table.epoch - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    offset = times - (EPOCH_S + STEP_S * np.delete(np.arange(ROWS), [31, 32, 33]))
    np.testing.assert_allclose(np.delete(offset, 47), -0.3, atol=1e-6)
    assert offset[47] == 0.0
    assert "last position update" in str(summary)


def test_single_values_are_set_aside_and_their_rows_kept(tmp_path):
    frame = set_(flown(), [10], altitude=45_000.0)
    frame = set_(frame, [20], altitude=900_000.0)
    frame.loc[40:42, ["groundspeed", "track"]] = frame.loc[39, ["groundspeed", "track"]].to_numpy()
    frame.loc[50, "groundspeed"], frame.loc[51, "track"], frame.loc[52, "vertical_rate"] = -1.0, np.inf, 1e300
    table, summary = read(frame, tmp_path)
    assert summary.kept == ROWS
    assert np.array_equal(np.flatnonzero(np.isnan(table.altitude_m)), [10, 20])
    assert np.array_equal(np.flatnonzero(np.isnan(table.ground_speed_mps)), [40, 41, 42, 50])
    assert np.array_equal(np.flatnonzero(np.isnan(table.track_angle_rad)), [40, 41, 42, 51])
    assert np.array_equal(np.flatnonzero(np.isnan(table.vertical_rate_mps)), [52])
    assert list(summary.unset.values()) == [1, 3, 3, 1]


def test_a_hard_turn_is_no_outlier():
    """A circle at 60° of bank (17 m/s²) in steps of 10 s stays whole."""
    t = np.arange(0.0, 300.0, 10.0)
    speed, acceleration = 200.0, 17.0
    angle = acceleration / speed * t
    east, north = speed**2 / acceleration * np.sin(angle), speed**2 / acceleration * (1 - np.cos(angle))
    columns = {
        "time_s": t,
        "latitude_deg": 50 + np.degrees(north / 6.37e6),
        "longitude_deg": 8 + np.degrees(east / 6.37e6 / np.cos(np.radians(50))),
        "altitude_m": np.full(len(t), 1000.0),
        "address": np.full(len(t), 7),
        "callsign": np.full(len(t), b"", "S8"),
        "mode3a": np.full(len(t), -1),
    }
    assert len(clean(columns, Cleaning()).rows["time_s"]) == len(t)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_every_row_is_kept_or_counted(seed, faults):
    rng = np.random.default_rng(seed)
    frame = pd.concat([flown(f"{i + 1:06x}", f"F{i}", i, rows=30, seed=i) for i in range(3)], ignore_index=True)
    for row, name in zip(rng.integers(0, len(frame), faults), rng.choice(
        ["latitude", "longitude", "altitude", "icao24", "timestamp"], faults), strict=True):  # fmt: skip
        if name == "icao24":
            frame.loc[row, name] = "nonsense"
        elif name == "timestamp":
            frame.loc[row, name] += pd.Timedelta(seconds=int(rng.integers(-200, 200)))
        else:
            frame.loc[row, name] += rng.choice([np.nan, 0.3, -200.0])
    cleaned = clean(to_columns(frame, "x")[0], Cleaning())
    assert len(cleaned.rows["time_s"]) + sum(cleaned.dropped.values()) == len(frame)
    flight, time = cleaned.rows["flight_id"], cleaned.rows["time_s"]
    assert ((np.diff(flight) > 0) | ((np.diff(flight) == 0) & (np.diff(time) > 0))).all()


def test_geometric_altitude_stands_in_and_says_so(tmp_path):
    frame = state_vectors(flown()).drop(columns="baroaltitude")
    table, summary = read(frame, tmp_path)
    np.testing.assert_allclose(table.altitude_m, frame.geoaltitude)
    assert "geometric altitude stands for it" in str(summary)
    feet = flown().drop(columns="altitude").assign(geoaltitude=10_000.0)
    np.testing.assert_allclose(read(feet, tmp_path)[0].altitude_m, 3048.0)


WRONG = {
    "no longitude": (lambda f: f.drop(columns="longitude"), "no column 'longitude'"),
    "no address": (lambda f: f.drop(columns="icao24"), "no column 'icao24'"),
    "no altitude": (lambda f: f.drop(columns="altitude"), "'baroaltitude'"),
    "words for numbers": (lambda f: f.assign(latitude="north"), "column 'latitude': expected numbers"),
    "words for times": (lambda f: f.assign(timestamp="noon"), "expected times as ISO 8601"),
    "words for truth": (lambda f: f.assign(onground="perhaps"), "found 'perhaps', expected true or false"),
    "no rows": (lambda f: f.iloc[:0], "holds no rows"),
    "nothing usable": (lambda f: f.iloc[:3], "none of its 3 rows can be used: 3 in pieces too short"),
    "no address is one": (lambda f: f.assign(icao24="none"), "60 without time, position or address"),
    "nowhere": (lambda f: f.assign(latitude=99.0), "60 with an impossible latitude"),
    "all on the ground": (lambda f: f.assign(onground=True), "60 on the ground"),
    "beyond the calendar": (lambda f: f.assign(timestamp=1e25 + 1e19 * f.index), "60 without time"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_refused_with_the_reason(name, tmp_path):
    change, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        read(change(flown()), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flights.csv", None, "no such file"),
        ("flights.xlsx", b"PK", "unknown kind of file"),
        ("flights.json.gz", b"not gzip at all", "cannot be read as JSON"),
        ("flights.json", b'[{"timestamp": 1', "cannot be read as JSON"),
        ("flights.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("flights.csv", b"", "cannot be read as CSV"),
        ("flights.csv", b"a,b\n1,2\n", "holds no column that is known, expected 'timestamp'"),
        ("flights.csv", b"timestamp;icao24\n1;2\n", "with commas between"),
        ("flights.csv", b"timestamp,icao24\n", "holds no rows"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_trajectories(tmp_path / name)


@pytest.mark.parametrize(("missing", "suffix"), [("pandas", "csv"), ("pyarrow.parquet", "parquet")])
def test_what_is_not_installed_is_named_with_its_remedy(missing, suffix, tmp_path, monkeypatch):
    path = tmp_path / f"flights.{suffix}"
    flown().to_csv(path, index=False) if suffix == "csv" else flown().to_parquet(path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=r"pip install 'ssrtrack\[truth\]'"):
        read_trajectories(path)


@pytest.mark.parametrize(
    ("name", "rows", "least_kept", "flights"),
    [("switzerland.json.gz", 139_098, 0.98, (842, 1400)), ("opensky_uk_20min.csv", 6_052, 0.87, (75, 100))],
)
def test_real_files(name, rows, least_kept, flights):
    if not (root := os.environ.get("SSRTRACK_DATA")):
        pytest.skip("SSRTRACK_DATA is not set: no real trajectories to read")
    _, summary = read_trajectories(Path(root) / "trajectories" / name)
    assert summary.rows == rows == summary.kept + sum(summary.dropped.values())
    assert summary.kept >= least_kept * rows
    assert flights[0] <= summary.flights <= flights[1]
