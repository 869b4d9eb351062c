"""What is written is what is read: every column, any split into appends, any allowed disorder."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.data import Origin, Plots, Radar, Table, Tracks, Truth
from ssrtrack.errors import DataError, LogError
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.hdf5_schema import CHUNK_ROWS

EPOCH = datetime(2023, 5, 2, 8, 30, 0, 250_000, tzinfo=UTC)
MADE = Provenance("ssrtrack test", EPOCH, "0.1.0", "2024-02-29T12:00:00Z")
RADARS = Radar(name=np.array([b"north", b"south"]), latitude_deg=np.array([47.0, 46.0]))


def random_table(kind: type[Table], rows: int, seed: int = 0, optional: bool = True) -> Any:
    """A table whose every column holds random values in its range, and absent ones here and there."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name, spec in kind.specs().items():
        if spec.fill is not None and not optional:
            continue
        dtype, shape = np.dtype(spec.dtype), (rows, spec.width) if spec.width else (rows,)
        if dtype.kind == "S":
            columns[name] = rng.choice([b"", b"BAW12", b"EZY45JK"], rows).astype(dtype)
            continue
        low = spec.low if spec.low is not None else 0.0 if dtype.kind == "u" else -100.0
        high = spec.high if spec.high is not None else 100.0
        values = rng.uniform(low, high, shape).astype(dtype)
        if spec.fill is not None:
            values[rng.random(shape) < 0.2] = spec.fill
        columns[name] = values
    if "time_s" in columns:
        columns["time_s"] = np.sort(rng.uniform(0.0, 3600.0, rows))
    if "radar_id" in columns:
        columns["radar_id"] = rng.integers(0, len(RADARS), rows).astype(np.int16)
    return kind(**columns)


def assert_same(found: Table, expected: Table) -> None:
    assert type(found) is type(expected)
    for name, values in expected.columns().items():
        np.testing.assert_array_equal(found.columns()[name], values, err_msg=name)


def write(path: Path, *plots: Plots, made: Provenance = MADE) -> Path:
    with LogWriter(path, made, RADARS) as log:
        for table in plots:
            log.append_plots(table)
    return path


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 1000, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 777])
def test_every_column_of_every_table_comes_back(tmp_path: Path, rows: int, optional: bool) -> None:
    plots, truth = random_table(Plots, rows, 1, optional), random_table(Truth, rows, 2, optional)
    tracks = random_table(Tracks, rows, 3, optional)
    with LogWriter(tmp_path / "log.h5", MADE) as log:
        log.append_truth(truth)
        log.append_tracks("imm", tracks)
        log.append_plots(plots)
        log.set_radars(RADARS)
    with LogReader(tmp_path / "log.h5") as log:
        assert (log.plot_count, log.truth_count, log.has_truth) == (rows, rows, rows > 0)
        assert_same(log.read_plots(), plots)
        assert_same(log.read_truth(), truth)
        assert_same(log.read_tracks("imm"), tracks)
        assert_same(log.radars, RADARS)
        assert_same(Plots.concat(list(log.plots(rows=1 + rows // 3))), plots)
        assert_same(Truth.concat(list(log.truth(rows=1 + rows // 3))), truth)
        assert_same(Tracks.concat(list(log.tracks("imm", rows=1 + rows // 3))), tracks)
        expected_span = (plots.time_s[0], plots.time_s[-1]) if rows else (np.nan, np.nan)
        np.testing.assert_array_equal(log.time_span_s, expected_span)


@settings(max_examples=12)
@given(st.lists(st.integers(0, 30_000), max_size=8), st.integers(2_000, 100_000))
def test_the_split_into_appends_and_reads_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows: int
) -> None:
    whole = random_table(Plots, sum(sizes), optional=False)
    cuts = np.cumsum([0, *sizes])
    path = write(
        tmp_path_factory.mktemp("split") / "log.h5",
        *(whole[a:b] for a, b in pairwise(cuts)),
    )
    with LogReader(path) as log:
        tables = list(log.plots(rows=rows))
        assert all(0 < len(table) <= rows for table in tables)
        assert_same(Plots.concat(tables), whole)


@settings(max_examples=12)
@given(st.floats(0.0, 600.0), st.integers(2_000, 200_000), st.integers(0, 2**32))
def test_disordered_rows_come_back_in_time_order(
    tmp_path_factory: pytest.TempPathFactory, delay_s: float, rows: int, seed: int
) -> None:
    rng, n = np.random.default_rng(seed), CHUNK_ROWS + 5000
    # Rows arrive up to `delay_s` late; times are whole seconds, so that many are equal.
    time_s = np.floor(rng.uniform(0.0, 6000.0, n))
    time_s = time_s[np.argsort(time_s + rng.uniform(0.0, delay_s, n), kind="stable")]
    marks = np.arange(n, dtype=np.int32)
    stored = Plots(time_s=time_s, radar_id=np.zeros(n), range_m=np.ones(n), azimuth_rad=np.zeros(n), truth_id=marks)
    path = write(tmp_path_factory.mktemp("disorder") / "log.h5", stored[:777], stored[777:])
    expected = stored[np.argsort(time_s, kind="stable")]
    with LogReader(path) as log:
        assert log.time_span_s == (time_s.min(), time_s.max())
        assert_same(log.read_plots(), expected)
        tables = list(log.plots(rows=rows))
        assert all(0 < len(table) <= rows for table in tables)
        assert_same(Plots.concat(tables), expected)


def test_a_table_reused_by_its_owner_after_append_is_not_affected(tmp_path: Path) -> None:
    ranges = np.full(10, 5000.0)
    with LogWriter(tmp_path / "log.h5", MADE, RADARS) as log:
        log.append_plots(Plots(time_s=np.zeros(10), radar_id=np.zeros(10), range_m=ranges, azimuth_rad=np.zeros(10)))
        ranges[:] = 1.0
    with LogReader(tmp_path / "log.h5") as log:
        assert (log.read_plots().range_m == 5000.0).all()


def test_absent_columns_take_no_room_in_file_or_memory(tmp_path: Path) -> None:
    plots = random_table(Plots, 3 * CHUNK_ROWS, optional=False)
    late = np.where(np.arange(len(plots)) < 2 * CHUNK_ROWS, np.nan, 1.0)  # absent in the first two chunks only
    write(tmp_path / "log.h5", plots.replace(roll_rad=late))
    import h5py

    with h5py.File(tmp_path / "log.h5") as file:
        chunks = {name: dataset.id.get_num_chunks() for name, dataset in file["plots"].items() if name != "plot"}
    optional = {name for name, spec in Plots.specs().items() if spec.fill is not None} - {"roll_rad"}
    assert all(chunks[name] == 0 for name in optional)
    assert chunks["roll_rad"] == 1
    assert chunks["time_s"] == 3
    with LogReader(tmp_path / "log.h5") as log:
        found = log.read_plots()
    assert found.mach.strides == (0,)  # one value, seen through a broadcast
    assert_same(found, plots.replace(roll_rad=late))


def test_chosen_columns_come_with_the_required_ones(tmp_path: Path) -> None:
    plots = random_table(Plots, 500)
    path = write(tmp_path / "log.h5", plots)
    with LogReader(path) as log:
        found = next(log.plots(columns=["mode3a"]))
        whole = log.read_plots(columns=["mode3a"])
        with pytest.raises(LogError, match=r"no columns \['heigth'\]; known: .*time_s"):
            log.plots(columns=["heigth"])
        with pytest.raises(LogError, match="rows per table is 0; give at least 1"):
            log.plots(rows=0)
    kept = ("time_s", "radar_id", "range_m", "azimuth_rad", "mode3a")
    expected = Plots(**{name: plots.columns()[name] for name in kept})
    assert_same(found, expected)
    assert_same(whole, expected)


PROVENANCES = [
    MADE,
    Provenance("", datetime(1970, 1, 1, tzinfo=UTC), "", "", "", 0, (), {"pd": 0.97, "site": "Zürich", "runs": 3}),
    Provenance("simulate «x»", EPOCH, "1.2", "now", '[radar]\nname = "ü"\n' * 20_000, 2**80, ("a b.ast", "ß.pcap")),
    Provenance("c", EPOCH.astimezone(timezone(timedelta(0))), "1", "2", seed=-1),
]


@pytest.mark.parametrize("made", PROVENANCES)
def test_provenance_comes_back(tmp_path: Path, made: Provenance) -> None:
    with LogReader(write(tmp_path / "log.h5", made=made)) as log:
        assert log.provenance == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": datetime(2023, 5, 2)}, "is not UTC"),
        ({"epoch": datetime(2023, 5, 2, tzinfo=timezone(timedelta(hours=2)))}, "is not UTC"),
        ({"extra": {"pd": float("nan")}}, "finite number or a text"),
        ({"extra": {"list": [1]}}, "finite number or a text"),
    ],
)
def test_bad_provenance_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        Provenance(**({"command": "", "epoch": EPOCH, "software_version": "", "created": ""} | change))


def test_tracks_keep_their_name_and_origin(tmp_path: Path) -> None:
    tracks = Tracks(**random_table(Tracks, 9).columns(), origin=Origin(41.3, 2.1, 27.0))
    bare = random_table(Tracks, 5, 7)
    with LogWriter(tmp_path / "log.h5", MADE) as log:
        log.append_tracks("imm", tracks[:4])
        log.append_tracks("imm", tracks[4:])
        log.append_tracks("ekf 2", bare)
        log.append_tracks("ekf 2", bare.replace(time_s=bare.time_s + 1.0)[:0])
        with pytest.raises(LogError, match="use two names"):
            log.append_tracks("imm", bare)
    with LogReader(tmp_path / "log.h5") as log:
        assert log.track_names == ("imm", "ekf 2")  # in the order of writing
        assert log.read_tracks("imm").origin == Origin(41.3, 2.1, 27.0)
        assert next(log.tracks("imm")).origin == Origin(41.3, 2.1, 27.0)
        assert np.isnan(log.read_tracks("ekf 2").origin.latitude_deg)
        assert_same(log.read_tracks("ekf 2"), bare)
        assert log.time_span_s == (tracks.time_s[0], tracks.time_s[-1])  # no plots, no truth: the first tracks
        with pytest.raises(LogError, match=r"has no tracks 'ukf'; it has \["):
            log.tracks("ukf")


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", " imm", "im\nm"])
def test_names_that_are_no_group_are_refused(tmp_path: Path, name: str) -> None:
    with LogWriter(tmp_path / "log.h5", MADE) as log, pytest.raises(LogError, match="cannot name tracks"):
        log.append_tracks(name, random_table(Tracks, 3))


def test_more_than_ten_minutes_of_disorder_is_refused(tmp_path: Path) -> None:
    plots = random_table(Plots, 3)
    with LogWriter(tmp_path / "log.h5", MADE, RADARS) as log:
        log.append_plots(plots.replace(time_s=np.array([0.0, 1000.0, 400.0])))
        with pytest.raises(LogError, match=r"row 1 .* 399\.000 after 1000\.000; at most 600 s .* sort by time first"):
            log.append_plots(plots.replace(time_s=np.array([1000.0, 399.0, 1001.0])))
    with LogReader(tmp_path / "log.h5") as log:  # the refused table left nothing behind
        assert log.read_plots().time_s.tolist() == [0.0, 400.0, 1000.0]


def test_every_appended_value_is_checked(tmp_path: Path) -> None:
    plots = random_table(Plots, 100)
    bad = plots.replace(range_m=np.where(np.arange(100) == 42, 2e6, plots.range_m))
    with LogWriter(tmp_path / "log.h5", MADE, RADARS) as log:
        with pytest.raises(DataError, match="column 'range_m', row 42 is 2000000"):
            log.append_plots(bad)
        with pytest.raises(DataError, match="latitude"):
            log.set_radars(RADARS.replace(latitude_deg=np.array([95.0, 0.0])))
        with pytest.raises(LogError, match="expected a Plots table, got Truth"):
            log.append_plots(random_table(Truth, 3))  # type: ignore[arg-type]


def test_plots_of_an_unlisted_radar_are_refused(tmp_path: Path) -> None:
    plots = random_table(Plots, 100).replace(radar_id=np.full(100, 2))
    with (
        pytest.raises(LogError, match="radar_id 2, but the radars table has 2 rows; call set_radars"),
        LogWriter(tmp_path / "log.h5", MADE, RADARS) as log,
    ):
        log.append_plots(plots)
    assert list(tmp_path.iterdir()) == []


def test_reading_and_writing_need_an_open_log(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log.h5", MADE, RADARS)
    with pytest.raises(LogError, match="is not open"):
        log.append_plots(random_table(Plots, 3))
    with LogReader(write(tmp_path / "log.h5", random_table(Plots, 3))) as reader:
        pass
    with pytest.raises(LogError, match="reading plots failed"):
        reader.read_plots()
