"""The summary of a log, against logs whose contents are known exactly."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.data import PlotFlag, Plots, Radar, Tracks, Truth
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.info import LogSummary, format_summary, summarise

EPOCH = datetime(2023, 5, 2, 8, 0, 0, tzinfo=UTC)
MADE = Provenance("ssrtrack simulate x.toml", EPOCH, "0.1.0", "2024-02-29T12:00:00Z", seed=3, sources=("x.toml",))
RADARS = Radar(
    name=np.array([b"north", b"south", b"silent"]),
    sac=np.array([20, 20, 1]),
    sic=np.array([129, 130, 2]),
    latitude_deg=np.array([41.3, np.nan, np.nan]),
    longitude_deg=np.array([2.1, np.nan, np.nan]),
    height_m=np.array([27.0, np.nan, np.nan]),
    rotation_period_s=np.array([5.0, np.nan, 8.0]),
)
NM = 1852.0


def rotate(radar: int, period_s: float, span_s: float, aircraft: int, detected: float = 1.0, seed: int = 0) -> Plots:
    """Plots of aircraft that move in azimuth, detected when the beam meets them."""
    rng = np.random.default_rng(seed)
    tables = []
    for i in range(aircraft):
        rate = rng.uniform(-0.004, 0.004)  # rad/s
        start = rng.uniform(0.0, 2.0 * np.pi)
        scan = np.arange(int(span_s / period_s) - 1)
        # The beam turns at 2π/T: it meets the aircraft when 2π t/T = start + rate t + 2π scan.
        time_s = (start + 2.0 * np.pi * scan) / (2.0 * np.pi / period_s - rate)
        time_s = time_s[rng.random(len(scan)) < detected]
        tables.append(
            Plots(
                time_s=time_s,
                radar_id=np.full(len(time_s), radar),
                range_m=np.full(len(time_s), 10.0 * NM * (i + 1)),
                azimuth_rad=(start + rate * time_s) % (2.0 * np.pi),
                address=np.full(len(time_s), 1000 + i),
                plot_type=np.full(len(time_s), 5),
            )
        )
    plots = Plots.concat(tables)
    return plots[np.argsort(plots.time_s, kind="stable")]


def write(path: Path, *tables: Plots) -> Path:
    merged = Plots.concat(tables)
    with LogWriter(path, MADE, RADARS) as log:
        log.append_plots(merged[np.argsort(merged.time_s, kind="stable")])
    return path


@pytest.mark.parametrize(
    ("period_s", "detected"), [(4.0, 1.0), (4.016, 0.97), (1.0, 0.9), (12.0, 0.9), (4.8, 0.6), (7.3, 0.4)]
)
def test_the_rotation_period_is_measured_from_revisits(tmp_path: Path, period_s: float, detected: float) -> None:
    plots = rotate(0, period_s, 200.0 * period_s, 12, detected)
    found = summarise(write(tmp_path / "log.h5", plots)).radars[0]
    assert found.rotation_period_s == pytest.approx(period_s, rel=1e-4)
    assert found.stated_rotation_period_s == 5.0
    assert found.plots_per_scan == pytest.approx(12 * detected, rel=0.05)


def test_codes_serve_where_there_is_no_address(tmp_path: Path) -> None:
    plots = rotate(1, 5.0, 600.0, 6)
    coded = plots.replace(mode3a=plots.address % 4096, address=np.full(len(plots), -1))
    found = summarise(write(tmp_path / "log.h5", coded))
    assert (found.aircraft, found.codes_without_address) == (0, 6)
    assert found.radars[1].rotation_period_s == pytest.approx(5.0, rel=1e-4)


def test_two_radars_are_told_apart(tmp_path: Path) -> None:
    north, south = rotate(0, 4.0, 900.0, 10), rotate(1, 6.0, 900.0, 4, seed=5)
    found = summarise(write(tmp_path / "log.h5", north, south))
    assert [r.plots for r in found.radars] == [len(north), len(south), 0]
    assert [r.rotation_period_s for r in found.radars] == pytest.approx([4.0, 6.0, 8.0], rel=1e-4)
    assert [r.largest_range_m for r in found.radars[:2]] == [100.0 * NM, 40.0 * NM]
    assert np.isnan(found.radars[2].largest_range_m)
    assert found.aircraft == 10  # the second radar sees four of the same
    assert [(r.name, r.sac, r.sic) for r in found.radars] == [("north", 20, 129), ("south", 20, 130), ("silent", 1, 2)]
    assert found.plots_per_s == pytest.approx(found.plots / (found.end_s - found.start_s))


def test_gaps_are_silences_of_more_than_three_rotations(tmp_path: Path) -> None:
    plots = rotate(0, 4.0, 1200.0, 20)
    cut = ((plots.time_s > 200.0) & (plots.time_s < 210.5)) | ((plots.time_s > 500.0) & (plots.time_s < 560.0))
    kept = plots[~cut]
    found = summarise(write(tmp_path / "log.h5", kept, rotate(1, 4.0, 1200.0, 3))).radars
    silence_s = np.diff(kept.time_s)
    at = int(silence_s.argmax())
    assert found[0].gap_count == 1  # the first silence lasts less than 12 s
    assert 10.5 < silence_s[kept.time_s[:-1] < 300.0].max() < 12.0
    assert found[0].gaps[0].start_s == kept.time_s[at]
    assert found[0].gaps[0].length_s == found[0].gap_total_s == pytest.approx(silence_s[at])
    assert found[0].gaps[0].start_utc.startswith("2023-05-02 08:08:")
    assert found[1].gap_count == found[2].gap_count == 0


def test_only_the_first_gaps_are_listed(tmp_path: Path) -> None:
    plots = rotate(0, 1.0, 1000.0, 8)
    sparse = plots[np.floor(plots.time_s / 10.0) % 2 == 0]
    found = summarise(write(tmp_path / "log.h5", sparse)).radars[0]
    assert found.gap_count == 49
    assert len(found.gaps) == 20
    assert found.gap_total_s == pytest.approx(490.0, rel=0.05)


def shares(tmp_path: Path) -> LogSummary:
    n = 200
    k = np.arange(n)
    plots = Plots(
        time_s=k.astype(float),
        radar_id=np.zeros(n),
        range_m=np.full(n, 9000.0),
        azimuth_rad=np.zeros(n),
        plot_type=np.where(k < 50, 2, 5),
        mode3a=np.where(k < 150, 0, -1),
        address=np.where(k < 20, 7, -1),
        pressure_altitude_m=np.where(k < 100, 3048.0 + 30.48 * k, np.nan),
        callsign=np.where(k < 10, b"BAW12", b""),
        flags=np.where(k < 40, PlotFlag.MODE3A_GARBLED | PlotFlag.SPI, np.where(k < 60, PlotFlag.SPI, 0)),
        truth_id=np.where(k < 30, -1, 4),
        roll_rad=np.where(k < 80, 0.1, np.nan),
        mach=np.where((k >= 70) & (k < 100), 0.8, np.nan),
    )
    with LogWriter(tmp_path / "log.h5", MADE, RADARS) as log:
        log.append_plots(plots)
        zeros = np.zeros(12)
        log.append_truth(
            Truth(
                time_s=k[:12].astype(float), truth_id=k[:12] % 3, latitude_deg=zeros, longitude_deg=zeros,
                height_m=zeros, v_east_mps=zeros, v_north_mps=zeros, v_up_mps=zeros,
            )
        )  # fmt: skip
        log.append_tracks(
            "imm",
            Tracks(
                time_s=k[:12].astype(float), track_id=k[:12] % 5, x_m=zeros, y_m=zeros, vx_mps=zeros, vy_mps=zeros,
                covariance=np.zeros((12, 10)),
            ),
        )  # fmt: skip
    return summarise(tmp_path / "log.h5")


def test_shares_are_fractions_of_all_plots(tmp_path: Path) -> None:
    found = shares(tmp_path)
    assert found.plot_types == {"SSR": 0.25, "Mode S roll-call": 0.75}
    assert found.with_field == {
        "Mode 3/A": 0.75, "altitude": 0.5, "address": 0.1, "callsign": 0.05,
        "BDS": 0.5, "BDS 4,0": 0.0, "BDS 5,0": 0.4, "BDS 6,0": 0.15,
    }  # fmt: skip
    marked = {name: share for name, share in found.flags.items() if share}
    assert marked == {"mode3a_garbled": 0.2, "spi": 0.3}
    assert set(found.flags) == {str(flag.name).lower() for flag in PlotFlag}
    assert found.false_plots == 0.15
    assert (found.lowest_altitude_m, found.highest_altitude_m) == pytest.approx((3048.0, 3048.0 + 30.48 * 99))
    assert (found.truth_states, found.truth_aircraft) == (12, 3)
    assert [(t.name, t.states, t.tracks) for t in found.tracks] == [("imm", 12, 5)]
    assert (found.aircraft, found.codes_without_address) == (1, 1)


def test_the_dictionary_is_strict_json(tmp_path: Path) -> None:
    found = shares(tmp_path).to_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert again["radars"][1]["latitude_deg"] is None
    assert again["epoch"] == "2023-05-02T08:00:00+00:00"
    assert (again["start_utc"], again["end_utc"]) == ("2023-05-02 08:00:00.000Z", "2023-05-02 08:03:19.000Z")
    assert (again["command"], again["seed"], again["sources"]) == (MADE.command, 3, ["x.toml"])


def test_the_text_speaks_in_aviation_units(tmp_path: Path) -> None:
    text = format_summary(shares(tmp_path))
    for part in (
        "2023-05-02 08:00:00.000Z to 2023-05-02 08:03:19.000Z", "0 h 03 min 19.0 s", "FL 100 to FL 199",
        "200 (1.0 per s)", "1 addresses, 1 Mode 3/A codes without address", "12 states of 3 aircraft",
        "Tracks imm", "SAC 20 SIC 129", "41.300000°, 2.100000°, 27.0 m", "(stated 5.000 s)", "4.9 NM",
        "Mode S roll-call          75.00%", "mode3a garbled            20.00%", "false (simulated)         15.00%",
    ):  # fmt: skip
        assert part in text, f"{part!r} is not in\n{text}"
    assert "nan" not in text


def test_an_empty_log_is_summarised(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log.h5", MADE):
        pass
    found = summarise(tmp_path / "log.h5")
    assert (found.plots, found.radars, found.start_utc) == (0, (), "")
    assert np.isnan(found.plots_per_s)
    assert "nan" not in format_summary(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_single_plot_without_rotation_is_summarised(tmp_path: Path) -> None:
    one = Plots(time_s=[5.0], radar_id=[1], range_m=[100.0], azimuth_rad=[0.0])
    found = summarise(write(tmp_path / "log.h5", one))
    assert np.isnan(found.radars[1].rotation_period_s)
    assert "not looked for: rotation unknown" in format_summary(found)


def test_the_summary_does_not_depend_on_how_the_log_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots = rotate(0, 4.0, 8000.0, 40, 0.9)
    path = write(tmp_path / "log.h5", plots[(plots.time_s < 3000.0) | (plots.time_s > 3100.0)])
    done: list[float] = []
    whole = summarise(path, done.append)
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
    read = LogReader.plots
    monkeypatch.setattr(LogReader, "plots", lambda log, rows=0, columns=None: read(log, 777, columns))
    assert format_summary(summarise(path)) == format_summary(whole)
    assert whole.radars[0].gap_count == 1


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.h5").write_bytes(b"x" * 100)
    with pytest.raises(LogError, match="not an HDF5 file"):
        summarise(tmp_path / "log.h5")


def test_thousands_of_radars_do_not_fill_the_memory() -> None:
    """Noise read as ASTERIX can name every SAC/SIC."""
    code = """
import resource, numpy as np
from ssrtrack.data import Plots
from ssrtrack.io.info_tally import Tally
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tally = Tally(32768)
for start in (0.0, 4.0):
    tally.add(Plots(time_s=start + np.arange(9) / 9, radar_id=np.arange(9), range_m=np.ones(9), azimuth_rad=np.zeros(9),
                    address=np.arange(9)))
assert tally.revisits.sum() == 9
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown_kib = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert grown_kib < 200_000
