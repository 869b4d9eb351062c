"""Recordings as plots: days, order, repeats, radars, captures; and what each column is made of."""

import struct
from datetime import UTC, date, datetime
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix_encode import encode_block, encode_record
from ssrtrack.io.asterix_plots import Service
from ssrtrack.io.asterix_stream import Chunk, PlotStream
from ssrtrack.io.asterix_time import DAY_TICKS, DayClock, StrayTimes
from tests.asterix_fixture import recordings

DAY = 86400.0
DESCRIPTOR = ("TYP", "SIM", "RDP", "SPI", "RAB", "TST", "ERR", "XPP", "ME", "MI", "FOEFRI")


def plot(tod_s: float, sic: int = 1, rho: int = 1000, **items: Any) -> bytes:
    """One CAT048 block."""
    raw = {
        "010": {"SAC": 10, "SIC": sic},
        "140": {"TOD": round(tod_s * 128)},
        "040": {"RHO": rho, "THETA": 16384},
    } | {name.removeprefix("I"): value for name, value in items.items()}
    return encode_block(48, [encode_record(48, {name: value for name, value in raw.items() if value is not None})])


def marker(tod_s: float, sic: int = 1, **items: Any) -> bytes:
    raw = {"010": {"SAC": 10, "SIC": sic}, "000": {"TYP": 1}, "030": {"TOD": round(tod_s * 128)}}
    return encode_block(34, [encode_record(34, raw | {name.removeprefix("I"): value for name, value in items.items()})])


def read(path: Path, data: bytes, **options: Any) -> tuple[Plots, Service, PlotStream, list[Chunk]]:
    path.write_bytes(data)
    stream = PlotStream(path, **options)
    chunks = list(stream)
    return Plots.concat([c.plots for c in chunks]), Service.concat([c.service for c in chunks]), stream, chunks


# Times of day in file order, and the times since the epoch they mean.
DAYS = {
    "one day": ([10.0, 20.0, 30.0], [10.0, 20.0, 30.0]),
    "midnight": ([86399.0, 0.0, 1.0], [86399.0, DAY, DAY + 1]),
    "late over midnight": ([86399.0, 1.0, 86398.0, 2.0], [86399.0, DAY + 1, 86398.0, DAY + 2]),
    "two midnights": ([86e3, 3e4, 6e4, 86e3, 10.0], [86e3, DAY + 3e4, DAY + 6e4, DAY + 86e3, 2 * DAY + 10]),
    "a clock that runs past 86400": ([86399.5, 86400.0, 86405.0, 6.0], [86399.5, 86400.0, 86405.0, 86406.0]),
    "starts past 86400": ([86400.5, 86401.5, 2.0], [86400.5, 86401.5, 86402.0]),
    "late before the first": ([1.0, 86399.0, 2.0], [1.0, -1.0, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize("case", DAYS)
def test_days(case: str) -> None:
    given_s, expected_s = DAYS[case]
    ticks = DayClock().ticks(np.array(given_s) * 128, np.zeros(len(given_s), int))
    assert (ticks / 128).tolist() == expected_s


@pytest.mark.parametrize("case", DAYS)
def test_days_report_by_report(case: str) -> None:
    given_s, expected_s = DAYS[case]
    clock = DayClock()
    found = [clock.ticks(np.array([int(t * 128)]), np.array([7]))[0] / 128 for t in given_s]
    assert found == expected_s


def test_each_source_has_its_own_day_and_a_new_one_joins_the_others() -> None:
    tod = np.array([86399, 86398, 1, 86399, 2, 3, 0]) * 128
    source = np.array([1, 2, 1, 2, 3, 1, 2])
    expected = np.array([86399, 86398, DAY + 1, 86399, DAY + 2, DAY + 3, DAY])
    assert (DayClock().ticks(tod, source) / 128).tolist() == expected.tolist()


@settings(max_examples=200)
@given(st.data())
def test_days_are_right_whatever_the_jitter(data: st.DataObject) -> None:
    """Any reports less than half a day apart from their source's last one are put where they belong."""
    sources = data.draw(st.integers(1, 3))
    steps = data.draw(st.lists(st.tuples(st.integers(0, sources - 1), st.integers(-5_000_000, 5_000_000)), min_size=1))
    truth, source, now = [], [], data.draw(st.integers(0, DAY_TICKS - 1))
    last = {}
    for which, step in steps:
        last[which] = last.get(which, truth[-1] if truth else now - step) + step
        truth.append(last[which])
        source.append(which)
    days = truth[0] // DAY_TICKS * DAY_TICKS
    clock, cut = DayClock(), data.draw(st.integers(0, len(truth)))
    tod, keys = np.array(truth) % DAY_TICKS, np.array(source)
    found = [*clock.ticks(tod[:cut], keys[:cut]), *clock.ticks(tod[cut:], keys[cut:])]
    assert found == [t - days for t in truth]


STRAYS = {
    "one, half a day off": {50: 28850 + 43200.5},
    "one, just under half a day off": {50: 28850 + 43199},
    "two that add up to a day": {50: 70000, 51: 110000},
    "three that add up to a day": {50: 70000, 51: 110000, 52: 131000},
    "the first": {0: 80000},
    "the first at midnight": {0: 0},
    "the last": {99: 60000},
    "a few minutes": {20: 29300, 70: 28400},
    "a burst": {i: 40000 + 977 * (i % 7) for i in range(30, 46)},
}


@pytest.mark.parametrize("case", STRAYS)
def test_corrupt_times_of_day_move_no_other_report(tmp_path: Path, case: str) -> None:
    times = 28800.0 + np.arange(100)
    given_s = [STRAYS[case].get(i, t) for i, t in enumerate(times)]
    data = b"".join(plot(t, rho=i) for i, t in enumerate(given_s))
    plots, _, stream, _ = read(tmp_path / "s.ast", data, on_date=date(2024, 2, 28))
    good = [i for i in range(100) if i not in STRAYS[case]]
    assert plots.time_s.tolist() == times[good].tolist()
    assert stream.summary.dropped_plots == {"stray time": len(STRAYS[case])}


def test_a_corrupt_report_of_a_radar_that_is_not_there_is_stray() -> None:
    tod, source = np.append(np.arange(50), 30000) * 128, np.append(np.ones(50, int), 2)
    assert np.flatnonzero(StrayTimes().find(tod, source)).tolist() == [50]


BELIEVED = {
    "midnight": [*range(86350, 86400), *range(50)],
    "a clock past 86400": [*range(86350, 86450), *range(50, 100)],
    "a gap of hours": [*range(50), *range(20000, 20050)],
    "a quiet night": list(range(0, 36000, 900)),
    "a jump back for good": [*range(20000, 20050), *range(50)],
    "late by half a minute": [t - 30 * (t % 5 == 0) for t in range(100, 200)],
}


@pytest.mark.parametrize("case", BELIEVED)
@pytest.mark.parametrize("window", [7, 1000])
def test_gaps_and_late_reports_are_believed(case: str, window: int) -> None:
    tod, strays = np.array(BELIEVED[case]) * 128, StrayTimes()
    for i in range(0, tod.size, window):
        assert not strays.find(tod[i : i + window], np.zeros(tod[i : i + window].size, int)).any()


def test_a_recording_over_midnight_is_in_order_and_dated(tmp_path: Path) -> None:
    times = [86390 + i for i in range(10)] + list(range(10))
    plots, service, stream, _ = read(
        tmp_path / "m.ast",
        b"".join(plot(t, rho=i) + marker(t) for i, t in enumerate(times)),
        on_date=date(2024, 2, 28),
    )
    assert plots.time_s.tolist() == list(range(86390, 86410)) == service.time_s.tolist()
    assert stream.epoch == datetime(2024, 2, 28, tzinfo=UTC)
    assert np.array_equal(np.rint(plots.range_m / 1852 * 256), np.arange(20))


def test_a_raw_file_without_a_date_has_no_epoch(tmp_path: Path) -> None:
    assert read(tmp_path / "a.ast", plot(5.0))[2].epoch is None


@pytest.mark.parametrize("window_bytes", [1, 200, 1 << 22])
def test_out_of_order_reports_are_sorted_as_far_as_they_are_held(tmp_path: Path, window_bytes: int) -> None:
    rng = np.random.default_rng(3)
    true = np.arange(0, 400, 0.5)
    order = np.argsort(true + rng.uniform(0, 20, true.size), kind="stable")
    data = b"".join(plot(true[i], rho=int(i)) for i in order)
    plots, _, stream, chunks = read(tmp_path / "o.ast", data, reorder_s=25.0, window_bytes=window_bytes)
    assert plots.time_s.tolist() == true.tolist()
    assert stream.summary.late_plots == 0
    assert all((np.diff(c.plots.time_s) >= 0).all() for c in chunks)
    plots, _, stream, chunks = read(tmp_path / "o.ast", data, reorder_s=1.0, window_bytes=window_bytes)
    assert sorted(plots.time_s.tolist()) == true.tolist()
    assert all((np.diff(c.plots.time_s) >= 0).all() for c in chunks)
    assert (stream.summary.late_plots > 0) == (window_bytes < 1 << 22)


def test_plots_of_equal_time_stay_in_file_order(tmp_path: Path) -> None:
    plots, *_ = read(tmp_path / "e.ast", b"".join(plot(9.0, rho=r) for r in (5, 3, 9, 1)))
    assert np.rint(plots.range_m * 256 / 1852).tolist() == [5, 3, 9, 1]


def test_repeats_on_a_second_line_are_kept_once(tmp_path: Path) -> None:
    blocks = [plot(i / 4, rho=i) + marker(i / 4) for i in range(40)]
    lines = b"".join(a + b for a, b in zip(blocks, blocks[-1:] + blocks[:-1], strict=True))
    for window_bytes in (1, 1 << 22):
        plots, service, stream, _ = read(tmp_path / "r.ast", lines, window_bytes=window_bytes)
        assert len(plots) == 40 and len(service) == 40
        assert stream.summary.dropped_plots["repeated"] == 40


def test_two_aircraft_at_one_place_are_not_a_repeat(tmp_path: Path) -> None:
    plots, *_ = read(tmp_path / "t.ast", plot(1.0, I220={"ADDRESS": 5}) + plot(1.0, I220={"ADDRESS": 6}))
    assert plots.address.tolist() == [5, 6]


def test_columns_of_a_plot(tmp_path: Path) -> None:
    everything = {
        "020": dict.fromkeys(DESCRIPTOR, 1) | {"TYP": 7, "ERR": 0},
        "070": {"V": 1, "G": 1, "L": 1, "MODE3A": 0o7654},
        "090": {"V": 1, "G": 1, "FL": -3},
        "220": {"ADDRESS": 0x4CA123},
        "240": {"IDENT": int("010010 011001 010010 110001 110010 100000 100000 100000".replace(" ", ""), 2)},
        "250": [
            {"MBDATA": 0xC84E4270A80000, "BDS1": 4, "BDS2": 0},
            {"MBDATA": 0x801B97332004D6, "BDS1": 5, "BDS2": 0},
            {"MBDATA": 0xDF49E72F201401, "BDS1": 6, "BDS2": 0},
        ],
    }  # fmt: skip
    plots, *_ = read(tmp_path / "c.ast", plot(1.5, **{f"I{name}": value for name, value in everything.items()}))
    (row,) = plots.to_dataframe().to_dict("records")
    assert row["callsign"] == "RYR12"
    kt, deg, fpm = 1852 / 3600, pi / 180, 0.3048 / 60
    expected = {
        "time_s": 1.5, "radar_id": 0, "range_m": 1000 * 1852 / 256, "azimuth_rad": pi / 2, "mode3a": 0o7654,
        "pressure_altitude_m": -0.75 * 30.48, "address": 0x4CA123, "plot_type": 7,
        "flags": int(sum(PlotFlag)), "truth_id": -2, "mcp_altitude_m": 37008 * 0.3048, "fms_altitude_m": 37008 * 0.3048,
        "baro_setting_pa": 101320.0, "roll_rad": 0.0, "track_angle_rad": (360 - 99.31640625) * deg,
        "ground_speed_mps": 408 * kt, "track_angle_rate_radps": 0.0, "true_airspeed_mps": 428 * kt,
        "magnetic_heading_rad": (360 - 92.109375) * deg, "indicated_airspeed_mps": 243 * kt, "mach": 0.752,
        "baro_altitude_rate_mps": 64 * fpm, "inertial_vertical_velocity_mps": 32 * fpm,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_what_is_absent_is_absent(tmp_path: Path) -> None:
    plots, *_ = read(tmp_path / "n.ast", plot(1.0, I250=[{"MBDATA": 0, "BDS1": b, "BDS2": 0} for b in (4, 5, 6)]))
    absent = Plots(time_s=[1.0], radar_id=[0], range_m=[1000 * 1852 / 256], azimuth_rad=[pi / 2])
    for name in Plots.specs():
        assert np.array_equal(getattr(plots, name), getattr(absent, name), equal_nan=name not in ("callsign",)), name


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (plot(1.0, I010=None), "no source"),
        (plot(1.0, I140=None), "no time"),
        (plot(1.0, I040=None), "no position"),
        (
            plot(
                1.0,
                I020=dict.fromkeys(["TYP", "SIM", "RDP", "SPI", "RAB", "TST", "ERR", "XPP", "ME", "MI", "FOEFRI"], 1),
            ),
            "extended range",
        ),
    ],
)
def test_records_that_are_no_plots_are_counted(tmp_path: Path, block: bytes, reason: str) -> None:
    plots, _, stream, _ = read(tmp_path / "d.ast", plot(0.5) + block)
    assert len(plots) == 1 and stream.summary.dropped_plots == {reason: 1}


def test_impossible_altitudes_are_absent(tmp_path: Path) -> None:
    levels = [-8192, -400, 0, 8191]
    data = b"".join(plot(i, I090={"V": 0, "G": 0, "FL": raw}) for i, raw in enumerate(levels))
    plots, *_ = read(tmp_path / "f.ast", data)
    plots.validate()
    assert np.isnan(plots.pressure_altitude_m).tolist() == [True, False, False, False]


def test_radars_in_order_of_appearance_with_site_and_period(tmp_path: Path) -> None:
    site = {"HGT": -12, "LAT": round(47.5 * 2**23 / 180), "LON": round(-8.25 * 2**23 / 180)}
    data = plot(1, sic=9) + marker(2, sic=3, I120=site, I041={"PERIOD": 512}) + plot(3, sic=3)
    data += marker(6, sic=3, I041={"PERIOD": 514}) + marker(10, sic=3, I041={"PERIOD": 514})
    plots, service, stream, _ = read(tmp_path / "s.ast", data)
    radars = stream.radars().validate()
    assert radars.sic.tolist() == [9, 3] and radars.sac.tolist() == [10, 10]
    assert plots.radar_id.tolist() == [0, 1] and service.radar_id.tolist() == [1, 1, 1]
    assert radars.has_site().tolist() == [False, True]
    assert radars.latitude_deg[1] == pytest.approx(47.5, abs=1.1e-5)
    assert radars.longitude_deg[1] == pytest.approx(-8.25, abs=1.1e-5)
    assert radars.height_m[1] == -12.0
    assert np.isnan(radars.rotation_period_s[0]) and radars.rotation_period_s[1] == 514 / 128


def capture(payloads: list[tuple[float, bytes]]) -> bytes:
    """A pcap of raw IPv4."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for time_s, payload in payloads:
        udp = struct.pack(">HHHH", 8600, 8600, 8 + len(payload), 0) + payload
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 1, 17, 0, b"\n\0\0\1", b"\xe0\0\0\1") + udp
        data += struct.pack("<IIII", int(time_s), round(time_s % 1 * 1e6), len(packet), len(packet)) + packet
    return data


MIDNIGHT = datetime(2023, 5, 3, tzinfo=UTC).timestamp()


def test_the_capture_stamp_gives_the_date_even_when_it_is_the_next_day(tmp_path: Path) -> None:
    """Detected at 23:59:59.5, received at 00:00:00.2 of the day that becomes the epoch."""
    data = capture([(MIDNIGHT + 0.2, plot(86399.5)), (MIDNIGHT + 1.0, plot(0.25)), (MIDNIGHT + 2.0, plot(1.0))])
    plots, _, stream, _ = read(tmp_path / "night.dat", data)
    assert stream.epoch == datetime(2023, 5, 3, tzinfo=UTC)
    assert plots.time_s.tolist() == [-0.5, 0.25, 1.0]
    assert stream.summary.packets == {"packets": 3, "datagrams": 3}


def test_a_given_date_overrides_the_capture_stamp(tmp_path: Path) -> None:
    plots, _, stream, _ = read(tmp_path / "g", capture([(MIDNIGHT + 5, plot(100.0))]), on_date=date(2020, 1, 1))
    assert stream.epoch == datetime(2020, 1, 1, tzinfo=UTC) and plots.time_s.tolist() == [100.0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AsterixError, match=r"missing\.ast"):
        list(PlotStream(tmp_path / "missing.ast"))
    with pytest.raises(AsterixError):
        list(PlotStream(tmp_path))


def test_an_empty_file_has_no_plots(tmp_path: Path) -> None:
    plots, service, stream, _ = read(tmp_path / "empty", b"")
    assert len(plots) == len(service) == len(stream.radars()) == 0


def test_the_real_hour() -> None:
    stream = PlotStream(recordings() / "barcelona_cat048_1h.ast", date(2023, 5, 2))
    plots = Plots.concat([c.plots for c in stream]).validate()
    assert len(plots) == 44085 and len(np.unique(plots.address[plots.address >= 0])) == 177
    assert (np.diff(plots.time_s) >= 0).all()
    assert 28800 < plots.time_s[0] < 28802 and 32400 < plots.time_s[-1] < 32402
    assert plots.range_m.max() < 61 * 1852
    assert stream.summary.sources == {(20, 129): 44085} and stream.summary.error_count == 0
    speeds = plots.ground_speed_mps[np.isfinite(plots.ground_speed_mps)]
    assert speeds.size == 9778 and 50 < np.median(speeds) < 260


def test_the_multi_radar_capture() -> None:
    stream = PlotStream(recordings() / "cat_034_048.pcap")
    plots = Plots.concat([c.plots for c in stream]).validate()
    assert len(plots) == 63 and stream.summary.dropped_plots == {"repeated": 63, "no position": 2}
    assert len(stream.radars()) == 7
    assert stream.summary.records == {48: 128, 34: 34}
    assert stream.epoch == datetime(2016, 5, 5, tzinfo=UTC)
