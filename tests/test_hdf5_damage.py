"""A file that is not a whole, undamaged log of a known version is refused, saying what it is and what to do."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import Origin, Plots, Radar, Table, Tracks, Truth
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.hdf5_schema import put_attributes

MADE = Provenance("ssrtrack test", datetime(2023, 5, 2, tzinfo=UTC), "0.1.0", "2024-02-29T12:00:00Z")
ROWS = 300


def write_log(path: Path) -> Path:
    rng = np.random.default_rng(1)
    ones, time_s = np.ones(ROWS), np.sort(rng.uniform(0.0, 900.0, ROWS))
    plots = Plots(
        time_s=time_s + rng.uniform(0.0, 2.0, ROWS),
        radar_id=rng.integers(0, 2, ROWS).astype(np.int16),
        range_m=rng.uniform(1e3, 2e5, ROWS),
        azimuth_rad=rng.uniform(0.0, 6.0, ROWS),
        address=rng.integers(0, 2**24, ROWS).astype(np.int32),
        callsign=rng.choice([b"", b"BAW12"], ROWS).astype("S8"),
    )
    truth = Truth(
        time_s=time_s, truth_id=np.zeros(ROWS), latitude_deg=ones, longitude_deg=ones, height_m=ones,
        v_east_mps=ones, v_north_mps=ones, v_up_mps=rng.normal(size=ROWS),
    )  # fmt: skip
    tracks = Tracks(
        time_s=time_s, track_id=np.zeros(ROWS), x_m=ones, y_m=ones, vx_mps=ones, vy_mps=ones,
        covariance=rng.uniform(1.0, 2.0, (ROWS, 10)), origin=Origin(41.0, 2.0, 3.0),
    )  # fmt: skip
    with LogWriter(path, MADE, Radar(name=np.array([b"north", b"south"]))) as log:
        log.append_plots(plots)
        log.append_truth(truth)
        log.append_tracks("imm", tracks)
    return path


@dataclass
class Contents:
    """All that a log gives."""

    provenance: Provenance
    tables: list[Table]
    origin: Origin

    def same_as(self, other: "Contents") -> bool:
        pairs = zip(self.tables, other.tables, strict=True)
        return (self.provenance, self.origin) == (other.provenance, other.origin) and all(
            np.array_equal(x, b.columns()[name], equal_nan=x.dtype.kind == "f")
            for a, b in pairs
            for name, x in a.columns().items()
        )


def read_all(path: Path) -> Contents:
    with LogReader(path) as log:
        tables = [log.radars, log.read_plots(), log.read_truth(), log.read_tracks("imm")]
        tables += [Plots.concat(list(log.plots(rows=100))), *log.truth(), *log.tracks("imm")]
        return Contents(log.provenance, tables, log.read_tracks("imm").origin)


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("damage") / "log.h5")


@pytest.fixture(scope="module")
def log_bytes(whole_log: Path) -> bytes:
    return whole_log.read_bytes()


def put(key: str, **attributes: Any) -> Callable[[Any], None]:
    return lambda file: put_attributes(file[key], attributes)


def drop(key: str) -> Callable[[Any], None]:
    return lambda file: file.__delitem__(key)


def drop_attribute(key: str, name: str) -> Callable[[Any], None]:
    return lambda file: file[key].attrs.__delitem__(name)


def swap(key: str, data: Any, like: str | None = None, **options: Any) -> Callable[[Any], None]:
    """Replaces a dataset, keeping its attributes."""

    def change(file: Any) -> None:
        units = file[like or key].attrs["units"]
        del file[key]
        file.create_dataset(key, data=data, **({"chunks": True} | options)).attrs["units"] = units

    return change


def cut(key: str) -> Callable[[Any], None]:
    return lambda file: file[key].resize(ROWS - 1, axis=0)


def set_values(key: str, at: int, value: Any) -> Callable[[Any], None]:
    return lambda file: file[key].__setitem__(at, value)


# What was done to the log, and what the message has to say about it.
TAMPERED: list[tuple[Callable[[Any], None], str]] = [
    (drop_attribute("/", "format"), r"format is None, not 'ssrtrack-log'; expected a log written by ssrtrack"),
    (put("/", format="other"), r"format is 'other', not 'ssrtrack-log'"),
    (put("/", format_version=np.int32(2)), r"format version 2, this ssrtrack reads up to 1; upgrade ssrtrack"),
    (put("/", format_version=np.int32(0)), r"format version 0, expected 1 to 1"),
    (put("/", format_version="1"), r"'format_version' is .*expected a whole number"),
    (put("/", format_version=np.array([1, 1])), r"'format_version' is \[1, 1\], expected a whole number"),
    (put("/", complete=np.int32(0)), r"is an unfinished log: its writer was interrupted"),
    (drop_attribute("/", "complete"), r"'complete' is nan, expected a whole number"),
    (drop_attribute("/", "scenario"), r"root attributes \['scenario'\] are missing or no text"),
    (put("/", epoch="yesterday"), r"provenance cannot be understood .*yesterday"),
    (put("/", seed="x"), r"provenance cannot be understood"),
    (put("/", extra="{"), r"provenance cannot be understood"),
    (put("/", extra="[1]"), r"provenance cannot be understood"),
    (put("/", sources="1"), r"provenance cannot be understood"),
    (put("/", epoch="2023-05-03T00:00:00+00:00"), r"/time_s has units 'seconds since 2023-05-02 00:00:00', expected"),
    (drop("plots"), r"has no group /plots"),
    (drop("radars"), r"has no group /radars"),
    (swap("plots", np.zeros(3), like="plots/time_s"), r"has no group /plots"),
    (drop("plots/range_m"), r"column /plots/range_m is missing"),
    (drop("plots/mach"), r"column /plots/mach is missing"),
    (drop("truth/height_m"), r"column /truth/height_m is missing"),
    (drop("tracks/imm/covariance"), r"column /tracks/imm/covariance is missing"),
    (drop("radars/name"), r"column /radars/name is missing"),
    (put("plots/range_m", units="NM"), r"column /plots/range_m has units 'NM', expected 'm'"),
    (put("radars/height_m", units="ft"), r"column /radars/height_m has units 'ft', expected 'm'"),
    (drop_attribute("truth/v_up_mps", "units"), r"/truth/v_up_mps has units None, expected 'm s-1'"),
    (put("tracks/imm/time_s", units=np.int32(3)), r"/tracks/imm/time_s has units None, expected 'seconds since"),
    (swap("plots/range_m", np.zeros(ROWS, "f4")), r"/plots/range_m has type float32, expected float64"),
    (swap("plots/time_s", np.zeros(ROWS, ">f8")), r"/plots/time_s has type >f8, expected float64"),
    (swap("plots/range_m", np.zeros((ROWS, 2))), r"/plots/range_m has shape \(300, 2\), expected \(rows,\)"),
    (swap("tracks/imm/covariance", np.zeros((ROWS, 9), "f4")), r"has shape \(300, 9\), expected \(rows, 10\)"),
    (swap("plots/range_m", np.zeros(ROWS), chunks=None), r"/plots/range_m is stored in one piece, expected chunks"),
    (swap("plots/mode3a", np.zeros(ROWS, "i2"), fillvalue=7), r"/plots/mode3a has fill value .*7.*, expected -1"),
    (cut("plots/mach"), r"columns of /plots have unequal lengths .*'mach': 299"),
    (swap("plots/range_m", None, shape=(ROWS,), dtype="f8"), r"/plots/range_m has 0 of its 1 chunks"),
    (drop_attribute("plots", "max_disorder_s"), r"time_start_s, time_end_s, max_disorder_s of /plots are .*None"),
    (put("plots", max_disorder_s=601.0), r"max_disorder_s of /plots are .*601"),
    (put("plots", time_end_s=-1.0), r"of /plots are .*two ordered times"),
    (set_values("plots/radar_id", 7, 2), r"plots name radars beyond the 2 in /radars"),
    (set_values("plots/range_m", 7, np.inf), r"column 'range_m', row \d+ is inf"),
    (set_values("truth/latitude_deg", 7, 91.0), r"column 'latitude_deg', row 7 is 91"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED, ids=[message[:50] for _, message in TAMPERED])
def test_what_is_wrong_is_said(tmp_path: Path, log_bytes: bytes, change: Callable[[Any], None], message: str) -> None:
    path = tmp_path / "log.h5"
    path.write_bytes(log_bytes)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(LogError, match=message) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert ";" in str(caught.value), "no remedy"


@pytest.mark.parametrize("read", [LogReader.read_plots, lambda log: list(log.plots())])
def test_disorder_beyond_what_is_stated_is_refused(
    tmp_path: Path, log_bytes: bytes, read: Callable[[LogReader], Any]
) -> None:
    path = tmp_path / "log.h5"
    path.write_bytes(log_bytes)
    with h5py.File(path, "r+") as file:
        file["plots"].attrs["max_disorder_s"] = 0.0
    with LogReader(path) as log, pytest.raises(LogError, match="less ordered than max_disorder_s"):
        read(log)


def test_columns_and_attributes_added_by_others_are_no_error(tmp_path: Path, log_bytes: bytes) -> None:
    path, added = tmp_path / "log.h5", tmp_path / "added.h5"
    path.write_bytes(log_bytes)
    added.write_bytes(log_bytes)
    with h5py.File(added, "r+") as file:
        file["plots/my_column"] = np.zeros(3)
        file["mine/data"] = np.zeros(3)
        file["plots/range_m"].attrs["comment"] = "checked"
    assert read_all(added).same_as(read_all(path))


NO_LOGS: list[tuple[bytes | None, str]] = [
    (None, "no such file; give the path of a log"),
    (b"", "is not an HDF5 file; expected a log written by ssrtrack"),
    (b"\x30\x00\x30\xfd\xf7\x02" * 100, "is not an HDF5 file; .* `ssrtrack ingest`"),
    (b"\x89HDF\r\n\x1a\n", "truncated|cannot be opened|is not an HDF5 file"),
    (b"\x89HDF\r\n\x1a\n" + bytes(2000), "cannot be opened as HDF5"),
]


@pytest.mark.parametrize(("content", "message"), NO_LOGS)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "log.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LogError, match=message) as caught:
        LogReader(path)
    assert str(path) in str(caught.value)


def test_a_folder_and_an_unreadable_file_are_refused(tmp_path: Path, log_bytes: bytes) -> None:
    with pytest.raises(LogError, match="is a folder; give the path of a log"):
        LogReader(tmp_path)
    path = tmp_path / "log.h5"
    path.write_bytes(log_bytes)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(LogError, match="may not be read"):
        LogReader(path)


@settings(max_examples=60)
@given(part=st.floats(0.0, 1.0, exclude_max=True))
def test_a_truncated_log_is_refused(whole_log: Path, part: float) -> None:
    path, content = whole_log.with_name("cut.h5"), whole_log.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(LogError, match=r"is truncated|is not an HDF5 file|cannot be opened as HDF5"):
        LogReader(path)


def test_damaged_bytes_give_an_error_or_the_right_values(tmp_path: Path, log_bytes: bytes) -> None:
    """Every structure and chunk is checksummed, so that no flipped byte passes for data."""
    path = tmp_path / "log.h5"
    path.write_bytes(log_bytes)
    whole, rng, refused = read_all(path), np.random.default_rng(2), 0
    tries = 300
    for _ in range(tries):
        damaged = bytearray(log_bytes)
        for at in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[at] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            found = read_all(path)
        except LogError:
            refused += 1
        else:
            assert found.same_as(whole)
    # Some bytes hold nothing that is read (free space, dimension lists), most do.
    assert refused > tries // 2


def test_a_log_with_bytes_after_its_end_still_reads(tmp_path: Path, log_bytes: bytes) -> None:
    path, longer = tmp_path / "log.h5", tmp_path / "longer.h5"
    path.write_bytes(log_bytes)
    longer.write_bytes(log_bytes + b"\0" * 1000)
    assert read_all(longer).same_as(read_all(path))
