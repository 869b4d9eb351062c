"""Recordings to logs and back: several files, several radars, dates, sites, and what does not fit."""

import os
import struct
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.data import Plots, Radar
from ssrtrack.errors import AsterixError, ScenarioError
from ssrtrack.io.asterix_export import encode, rotation_messages
from ssrtrack.io.export import export
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.ingest import IngestReport, format_report, ingest

DAY = date(2024, 2, 29)
PROVENANCE: dict[str, Any] = {"command": "test", "software_version": "0", "created": "2024-02-29T00:00:00Z"}


def some_plots(times: np.ndarray, radar_id: int = 0, seed: int = 0) -> Plots:
    rng = np.random.default_rng(seed)
    n = len(times)
    return Plots(
        time_s=np.round(times * 128) / 128,
        radar_id=np.full(n, radar_id),
        range_m=np.round(rng.uniform(1e4, 1e5, n) / 1852 * 256) * 1852 / 256,
        azimuth_rad=rng.integers(0, 65536, n) * 2 * np.pi / 65536,
        address=rng.integers(1, 1 << 24, n),
        plot_type=np.full(n, 5),
    )


def radar(sic: int) -> Radar:
    return Radar(name=[f"R{sic}".encode()], sac=[25], sic=[sic])


def recording(path: Path, plots: Plots, radars: Radar, midnight_offset_s: float = 0.0) -> Path:
    path.write_bytes(b"".join(encode(plots, radars, epoch_time_of_day_s=midnight_offset_s)))
    return path


def read(path: Path) -> tuple[Plots, Radar, Any]:
    with LogReader(path) as log:
        return log.read_plots(), log.radars, log.provenance


def run(files: list[Path], output: Path, **options: Any) -> IngestReport:
    return ingest(files, output, **PROVENANCE, **options)


def test_two_radars_from_two_files_are_merged_in_time(tmp_path: Path) -> None:
    one = some_plots(np.arange(1000.0, 3000.0, 1.0), seed=1)
    two = some_plots(np.arange(1500.5, 3500.0, 1.0), seed=2)
    files = [recording(tmp_path / "a.ast", one, radar(1)), recording(tmp_path / "b.ast", two, radar(2))]
    report = run(files, tmp_path / "log.h5", on_date=DAY)
    plots, radars, provenance = read(tmp_path / "log.h5")
    assert report.plots == len(plots) == len(one) + len(two)
    assert (np.diff(plots.time_s) >= 0).all()
    assert radars.sic.tolist() == [1, 2]
    for k, source in enumerate((one, two)):
        mine = plots[plots.radar_id == k]
        np.testing.assert_allclose(mine.time_s, source.time_s)
        np.testing.assert_array_equal(mine.address, source.address)
    assert provenance.epoch.date() == DAY
    assert provenance.sources == (str(files[0]), str(files[1]))
    assert "2024-02-29 00:16:40" in format_report(report, tmp_path / "log.h5")


def test_consecutive_files_in_any_order_give_the_same_log(tmp_path: Path) -> None:
    early = recording(tmp_path / "a.ast", some_plots(np.arange(0.0, 900.0, 0.5), seed=3), radar(1))
    late = recording(tmp_path / "b.ast", some_plots(np.arange(3600.0, 4500.0, 0.5), seed=4), radar(1))
    run([early, late], tmp_path / "ab.h5", on_date=DAY)
    run([late, early], tmp_path / "ba.h5", on_date=DAY)
    ab, ba = read(tmp_path / "ab.h5")[0], read(tmp_path / "ba.h5")[0]
    for name, column in ab.columns().items():
        np.testing.assert_array_equal(column, getattr(ba, name), err_msg=name)


def test_a_recording_over_midnight_goes_on(tmp_path: Path) -> None:
    plots = some_plots(np.arange(0.0, 600.0, 0.5), seed=5)
    path = recording(tmp_path / "night.ast", plots, radar(1), midnight_offset_s=86400.0 - 300.0)
    run([path], tmp_path / "log.h5", on_date=DAY)
    got = read(tmp_path / "log.h5")[0].time_s
    np.testing.assert_allclose(got, plots.time_s + 86100.0)


def test_without_a_date_the_log_says_so(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.ast", some_plots(np.arange(10.0)), radar(1))
    report = run([path], tmp_path / "log.h5")
    assert any("--date" in warning for warning in report.warnings)
    assert read(tmp_path / "log.h5")[2].epoch.year == 1970


def test_site_and_radar_file_reach_the_radars_table(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.ast", some_plots(np.arange(10.0)), radar(7))
    site = {"latitude_deg": 41.0, "longitude_deg": 2.0, "height_m": 30.0}
    block = {"sac": 25, "sic": 7, "name": "Hill", "sigma_range_m": 30.0}
    report = run([path], tmp_path / "log.h5", on_date=DAY, site=site, radar_blocks=[block])
    assert report.warnings == []
    radars = read(tmp_path / "log.h5")[1]
    assert radars.has_site().all()
    assert radars.name.tolist() == [b"Hill"]
    assert radars.sigma_range_m.tolist() == [30.0]


def test_a_radar_without_a_site_is_a_warning(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.ast", some_plots(np.arange(10.0)), radar(7))
    assert any("own frame" in text for text in run([path], tmp_path / "log.h5", on_date=DAY).warnings)


def test_one_site_for_two_radars_is_refused_and_leaves_no_log(tmp_path: Path) -> None:
    both = Radar.concat([radar(1), radar(2)])
    plots = Plots.concat([some_plots(np.arange(10.0)), some_plots(np.arange(10.0), radar_id=1)])
    path = recording(tmp_path / "a.ast", plots[np.argsort(plots.time_s, kind="stable")], both)
    with pytest.raises(ScenarioError, match="2 radars"):
        run([path], tmp_path / "log.h5", on_date=DAY, site={"latitude_deg": 1.0, "longitude_deg": 1.0, "height_m": 0.0})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ast"]


def test_corrupt_blocks_are_skipped_and_told(tmp_path: Path) -> None:
    blocks = list(encode(some_plots(np.arange(0.0, 400.0)), radar(1), records_per_block=10))
    blocks[20] = blocks[20][:3] + b"\xff" * 6 + blocks[20][9:]  # names items that are not there
    path = tmp_path / "a.ast"
    path.write_bytes(b"".join(blocks) + b"\x30\x01\x00")
    report = run([path], tmp_path / "log.h5", on_date=DAY)
    assert 390 <= report.plots < 400
    text = format_report(report, tmp_path / "log.h5")
    offset = sum(map(len, blocks))
    assert "corrupt places skipped: 2" in text
    assert f"at byte {offset:,}" in text


NO_RECORDINGS = {
    "empty": (b"", "no CAT048 plots"),
    "another category": (b"\x3e\x00\x04\x00", "CAT062"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "a gzip file": (b"\x1f\x8b" + bytes(100), "unpack"),
    "text": (b"time,range,azimuth\n1,2,3\n", "no CAT048 plots"),
}


@pytest.mark.parametrize(("content", "message"), NO_RECORDINGS.values(), ids=NO_RECORDINGS.keys())
def test_files_without_plots_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.ast"
    path.write_bytes(content)
    with pytest.raises(AsterixError, match=message):
        run([path], tmp_path / "log.h5", on_date=DAY)
    assert not (tmp_path / "log.h5").exists()


def test_a_folder_or_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.ast"):
        with pytest.raises(AsterixError, match="cannot read"):
            run([path], tmp_path / "log.h5")


def test_a_recording_is_never_overwritten_nor_counted_twice(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.ast", some_plots(np.arange(10.0)), radar(7))
    octets = path.read_bytes()
    (tmp_path / "again.ast").symlink_to(path)
    with pytest.raises(AsterixError, match="both input and output"):
        run([path], tmp_path / "again.ast")
    with pytest.raises(AsterixError, match="given twice"):
        run([path, tmp_path / "again.ast"], tmp_path / "log.h5")
    run([path], tmp_path / "log.h5")
    with pytest.raises(AsterixError, match="both input and output"):
        export(tmp_path / "log.h5", tmp_path / "log.h5")
    assert path.read_bytes() == octets
    assert len(read(tmp_path / "log.h5")[0]) == 10


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AsterixError, match="no ordinary file"):
        run([tmp_path / "pipe"], tmp_path / "log.h5")


def test_one_corrupt_source_does_not_make_the_site_ambiguous(tmp_path: Path) -> None:
    blocks = list(encode(some_plots(np.arange(0.0, 400.0)), radar(7), records_per_block=1))
    blocks[50] = blocks[50].replace(bytes([25, 7]), bytes([25, 3]), 1)
    (tmp_path / "a.ast").write_bytes(b"".join(blocks))
    site = {"latitude_deg": 41.0, "longitude_deg": 2.0, "height_m": 30.0}
    report = run([tmp_path / "a.ast"], tmp_path / "log.h5", on_date=DAY, site=site)
    assert any("--site taken for SAC 25 SIC 7 with 399 plots" in text for text in report.warnings)
    radars = read(tmp_path / "log.h5")[1]
    assert dict(zip(radars.sic.tolist(), radars.has_site().tolist(), strict=True)) == {7: True, 3: False}


def test_a_capture_dated_otherwise_than_its_packets_is_a_warning(tmp_path: Path) -> None:
    (payload,) = encode(some_plots(np.arange(10.0)), radar(7))
    udp = struct.pack(">HHHH", 1, 1, 8 + len(payload), 0) + payload
    packet = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(udp), 0, 0, 1, 17, 0, 1, 2) + udp
    stamp = int(datetime(2024, 2, 28, tzinfo=UTC).timestamp())
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    (tmp_path / "a.pcap").write_bytes(head + struct.pack("<IIII", stamp, 0, len(packet), len(packet)) + packet)
    report = run([tmp_path / "a.pcap"], tmp_path / "log.h5", on_date=DAY)
    assert any("captured on 2024-02-28, but is dated 2024-02-29" in text for text in report.warnings)
    assert report.epoch.date() == DAY
    assert not any("captured" in text for text in run([tmp_path / "a.pcap"], tmp_path / "log.h5").warnings)


def test_more_radars_than_a_log_can_number_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssrtrack.io.ingest.MAX_RADARS", 3)
    monkeypatch.setattr("ssrtrack.io.asterix_stream.MAX_RADARS", 2)
    files = []
    for first in (0, 10):
        radars = Radar.concat([radar(first + i) for i in range(3)])
        plots = Plots.concat([some_plots(np.arange(10.0) + i / 4, i, i) for i in range(3)])
        files.append(recording(tmp_path / f"{first}.ast", plots[np.argsort(plots.time_s, kind="stable")], radars))
    report = run(files, tmp_path / "log.h5", on_date=DAY)
    assert report.plots == 30 and report.radars.sic.tolist() == [0, 1, 10]
    dropped = sum((summary.dropped_plots for _, summary in report.files), Counter())
    assert dropped == {"too many radars": 30}
    read(tmp_path / "log.h5")[0].validate()


def test_export_of_two_recordings_a_year_apart_is_short(tmp_path: Path) -> None:
    turn = np.arange(8) / 8
    times = np.concatenate([start + 4 * k + 4 * turn for start in (0.0, 365 * 86400.0) for k in range(5)])
    plots = Plots(
        time_s=times,
        radar_id=np.zeros(80, np.int16),
        range_m=np.full(80, 5e4),
        azimuth_rad=np.tile(turn * 2 * np.pi, 10),
        address=np.tile(np.arange(8), 10),
        plot_type=np.full(80, 5),
    )
    messages = rotation_messages(plots, radar(1))
    assert len(messages) == 10 * 33
    markers = messages.time_s[messages.message_type == 1]
    np.testing.assert_allclose(np.sort(markers), times[::8], atol=1e-6)


@pytest.mark.parametrize("day", [date(9999, 12, 31), date(23, 5, 2)])
def test_a_date_that_is_no_recordings_is_refused(tmp_path: Path, day: date) -> None:
    path = recording(tmp_path / "a.ast", some_plots(np.arange(10.0)), radar(7), midnight_offset_s=86395.0)
    with pytest.raises(AsterixError, match=f"--date is {day}"):
        run([path], tmp_path / "log.h5", on_date=day)


def test_export_cuts_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log exported in small pieces gives the same plots, and service messages without holes or repeats."""
    rng = np.random.default_rng(6)
    period, turns = 4.0, 200
    azimuth = np.sort(rng.uniform(0, 2 * np.pi, 12))
    time_s = (np.arange(turns)[:, None] * period + azimuth / (2 * np.pi) * period).ravel()
    plots = some_plots(time_s).replace(
        azimuth_rad=np.tile(azimuth, turns), address=np.tile(np.arange(1, 13, dtype=np.int32), turns)
    )
    source = recording(tmp_path / "a.ast", plots, radar(1))
    run([source], tmp_path / "log.h5", on_date=DAY)
    whole = export(tmp_path / "log.h5", tmp_path / "whole.ast")
    monkeypatch.setattr("ssrtrack.io.export.ROWS", 500)
    pieces = export(tmp_path / "log.h5", tmp_path / "pieces.ast")
    assert whole.plots == pieces.plots == len(plots)
    assert abs(whole.service_messages - pieces.service_messages) <= 1
    assert (tmp_path / "whole.ast").stat().st_size == whole.octets
    for name in ("whole", "pieces"):
        report = run([tmp_path / f"{name}.ast"], tmp_path / f"{name}.h5", on_date=DAY)
        assert report.plots == len(plots)
        assert report.radars.rotation_period_s[0] == pytest.approx(4.0, abs=0.01)


def test_export_of_nothing_is_refused_and_keeps_the_old_file(tmp_path: Path) -> None:
    from ssrtrack.io.hdf5 import LogWriter, Provenance

    with LogWriter(tmp_path / "log.h5", Provenance(epoch=datetime(2024, 1, 1, tzinfo=UTC), **PROVENANCE)) as log:
        log.set_radars(radar(1))
    (tmp_path / "old.ast").write_bytes(b"old")
    with pytest.raises(AsterixError, match="no plots"):
        export(tmp_path / "log.h5", tmp_path / "old.ast")
    assert (tmp_path / "old.ast").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.h5", "old.ast"]
