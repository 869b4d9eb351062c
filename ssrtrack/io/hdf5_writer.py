"""Writes a log in one streaming pass; the file appears under its name only when it is whole."""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from ssrtrack.data import Array, Column, Plots, Radar, Table, Tracks, Truth
from ssrtrack.errors import LogError
from ssrtrack.io.hdf5_schema import (
    CHUNK_ROWS,
    CONVENTIONS,
    COVARIANCE_CHUNK_ROWS,
    FILTERS,
    FORMAT,
    FORMAT_VERSION,
    INCOMPLETE_SUFFIX,
    KINDS,
    LIBVER,
    MAX_DISORDER_S,
    ORIGIN_ATTRIBUTES,
    RADAR_CHUNK_ROWS,
    TRACKS,
    Provenance,
    column_attributes,
    h5_errors,
    provenance_texts,
    put_attributes,
)

WRITE_REMEDY = "check free space and permissions of its folder, then write the log again"


class LogWriter:
    """Streams tables into a new log: `with LogWriter(path, provenance) as log: log.append_plots(plots)`.

    Rows go to `<path>.<process id>-<n>.incomplete` beside `path`, which a clean end of the `with` block syncs to disk
    and renames over `path` in one step. After an exception the partial file is removed; after a crash or kill it stays
    behind and LogReader refuses it. Either way an earlier file at `path` is untouched.

    Rows are stored in the order given. Up to 600 s of disorder per table is allowed and put right when reading.

    Raises (every method):
        DataError: a value is outside its column's range.
        LogError: the file cannot be written, rows are too disordered, or a plot's radar is not in the radars table.
    """

    def __init__(self, path: str | os.PathLike[str], provenance: Provenance, radars: Radar | None = None) -> None:
        self.path = Path(path)
        self.provenance = provenance
        self._radars = Radar.empty()
        self._groups: dict[str, _Stream] = {}
        self._top_radar_id = -1
        self._file: Any = None
        if radars is not None:
            self.set_radars(radars)

    def __enter__(self) -> Self:
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise LogError(f"{self.path}: cannot write a log here; give a file name inside an existing folder")
        self._part = _unused_part_name(self.path)
        try:
            with h5_errors(self.path, "creating the log", WRITE_REMEDY):
                self._create()
        except LogError:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = False
        try:
            if kind is None:
                with h5_errors(self.path, "finishing the log", WRITE_REMEDY):
                    self._finish()
                finished = True
        finally:
            if not finished:
                self._discard()

    def set_radars(self, radars: Radar) -> None:
        """The radars that plots refer to by row; may be set or replaced at any time before the end."""
        _expect(radars, Radar)
        self._radars = radars.validate()

    def append_plots(self, plots: Plots) -> None:
        """Adds plots after those already given."""
        _expect(plots, Plots)
        self._append("plots", plots)
        if len(plots):
            self._top_radar_id = max(self._top_radar_id, int(plots.radar_id.max()))

    def append_truth(self, truth: Truth) -> None:
        """Adds true states after those already given."""
        _expect(truth, Truth)
        self._append("truth", truth)

    def append_tracks(self, name: str, tracks: Tracks) -> None:
        """Adds states of the tracker called `name`; all tables of one name share one origin."""
        _expect(tracks, Tracks)
        if not name or name != name.strip() or not name.isprintable() or "/" in name or name.startswith("."):
            raise LogError(f"{self.path}: {name!r} cannot name tracks; use a word without '/' such as 'imm'")
        origin = tracks.origin
        values = (float(origin.latitude_deg), float(origin.longitude_deg), float(origin.height_m))
        key = f"{TRACKS}/{name}"
        known = tuple(self._groups[key].extra.values()) if key in self._groups else ()
        if known and not np.array_equal(known, values, equal_nan=True):
            raise LogError(f"{self.path}: tracks {name!r} have origin {known}, now {values}; use two names")
        self._append(key, tracks)
        self._groups[key].extra = dict(zip(ORIGIN_ATTRIBUTES, values, strict=True))

    def _create(self) -> None:
        # Only whole chunks are written: without a chunk cache a full disk shows in the write that meets it.
        self._file = h5py.File(self._part, "w-", libver=LIBVER, rdcc_nbytes=0)
        head = {"format": FORMAT, "format_version": np.int32(FORMAT_VERSION), "complete": np.int32(0)}
        put_attributes(self._file, head | {"Conventions": CONVENTIONS} | provenance_texts(self.provenance))
        self._stream("plots", Plots)
        self._file.flush()

    def _append(self, key: str, table: Table) -> None:
        if self._file is None:
            raise LogError(f"{self.path}: the log is not open; append inside `with LogWriter(...) as log:`")
        table.validate()
        with h5_errors(self.path, f"writing {key}", WRITE_REMEDY):
            self._stream(key, type(table)).append(table)

    def _stream(self, key: str, kind: type[Table]) -> "_Stream":
        if key not in self._groups:
            if key.startswith(f"{TRACKS}/") and TRACKS not in self._file:
                self._file.create_group(TRACKS, track_order=True)
            group = self._file.create_group(key, track_order=True)
            self._groups[key] = _Stream(self.path, group, key, kind, self.provenance)
        return self._groups[key]

    def _finish(self) -> None:
        if self._top_radar_id >= len(self._radars):
            raise LogError(
                f"{self.path}: plots name radar_id {self._top_radar_id}, but the radars table has "
                f"{len(self._radars)} rows; call set_radars with every radar before the end"
            )
        self._stream("radars", Radar).append(self._radars)
        for stream in self._groups.values():
            stream.finish()
        self._file.attrs["complete"] = np.int32(1)
        self._file.close()
        self._file = None
        _sync(self._part)
        self._part.replace(self.path)
        _sync(self.path.parent)

    def _discard(self) -> None:
        if self._file is not None:
            with suppress(OSError, RuntimeError):  # a full disk also fails the closing; the file goes anyway
                self._file.close()
            self._file = None
        self._part.unlink(missing_ok=True)


class _Stream:
    """One group being written: rows are copied and wait until they fill a chunk."""

    def __init__(self, path: Path, group: Any, key: str, kind: type[Table], provenance: Provenance) -> None:
        self.path, self.key, self.group, self.kind = path, key, group, kind
        self.extra: dict[str, float] = {}
        self.has_time = "time_s" in kind.specs()
        self.rows = RADAR_CHUNK_ROWS if kind is Radar else CHUNK_ROWS
        self.waiting = {
            name: np.empty((self.rows, spec.width) if spec.width else self.rows, spec.dtype)
            for name, spec in kind.specs().items()
        }
        self.filled = self.written = 0
        self.first_s, self.newest_s, self.disorder_s = np.inf, -np.inf, 0.0
        self.datasets = {name: _create_column(group, name, spec, self.rows) for name, spec in kind.specs().items()}
        for name, dataset in self.datasets.items():
            attributes = column_attributes(name, kind.specs()[name], provenance.epoch, self.has_time)
            put_attributes(dataset, attributes)

    def append(self, table: Table) -> None:
        if not len(table):
            return
        if self.has_time:
            self._follow_time(table.columns()["time_s"])
        done = 0
        while done < len(table):
            take = min(self.rows - self.filled, len(table) - done)
            for name, values in table.columns().items():
                self.waiting[name][self.filled : self.filled + take] = values[done : done + take]
            done, self.filled = done + take, self.filled + take
            if self.filled == self.rows:
                self._write()

    def finish(self) -> None:
        if self.filled:
            self._write()
        _attach_dimensions(self.group, self.kind, self.written, self.rows)
        if self.has_time and self.written:
            times = {"time_start_s": self.first_s, "time_end_s": self.newest_s, "max_disorder_s": self.disorder_s}
            put_attributes(self.group, times)
        put_attributes(self.group, self.extra)

    def _follow_time(self, time_s: Array) -> None:
        newest = np.maximum(np.maximum.accumulate(time_s), self.newest_s)
        back = newest - time_s
        worst = int(back.argmax())
        if back[worst] > MAX_DISORDER_S:
            raise LogError(
                f"{self.path}: {self.key}: row {worst} of the table has time_s {time_s[worst]:.3f} after "
                f"{newest[worst]:.3f}; at most {MAX_DISORDER_S:.0f} s of disorder is stored, sort by time first"
            )
        self.disorder_s = max(self.disorder_s, float(back[worst]))
        self.first_s, self.newest_s = min(self.first_s, float(time_s.min())), float(newest[-1])

    def _write(self) -> None:
        start, stop = self.written, self.written + self.filled
        for name, spec in self.kind.specs().items():
            dataset, values = self.datasets[name], self.waiting[name][: self.filled]
            dataset.resize(stop, axis=0)
            # A chunk never written takes no room and reads as the fill value.
            if not _all_fill(values, spec):
                dataset[start:stop] = values
        self.written, self.filled = stop, 0
        self.group.file.flush()


def _create_column(group: Any, name: str, spec: Column, rows: int) -> Any:
    wide = (spec.width,) if spec.width else ()
    chunk_rows = COVARIANCE_CHUNK_ROWS if spec.width else rows
    return group.create_dataset(
        name,
        shape=(0, *wide),
        maxshape=(None, *wide),
        chunks=(chunk_rows, *wide),
        dtype=np.dtype(spec.dtype),
        fillvalue=None if spec.fill is None else np.asarray(spec.fill, spec.dtype)[()],
        **FILTERS,
    )


def _all_fill(piece: Array, spec: Column) -> bool:
    """Whether every value is the fill value."""
    if spec.fill is None:
        return False
    if spec.fill != spec.fill:
        return bool(np.isnan(piece.flat[0]) and np.isnan(piece).all())
    return bool(piece.flat[0] == spec.fill and (piece == spec.fill).all())


def _attach_dimensions(group: Any, kind: type[Table], rows: int, chunk_rows: int) -> None:
    """netCDF-4 dimensions: a scale without data per dimension, attached to every column."""
    rows_name = next(dimension for table, dimension in KINDS.values() if table is kind)
    scales = {0: _create_dimension(group, rows_name, rows, chunk_rows)}
    for name, spec in kind.specs().items():
        if spec.width:
            scales[spec.width] = _create_dimension(group, f"{name}_element", spec.width, 0)
        group[name].dims[0].attach_scale(scales[0])
        if spec.width:
            group[name].dims[1].attach_scale(scales[spec.width])


def _create_dimension(group: Any, name: str, size: int, chunk_rows: int) -> Any:
    unlimited = {"maxshape": (None,), "chunks": (chunk_rows,)} if chunk_rows else {}
    scale = group.create_dataset(name, shape=(size,), dtype=">f4", **unlimited)
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    return scale


def _unused_part_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{os.getpid()}-{n}{INCOMPLETE_SUFFIX}") for n in count())
    return next(name for name in names if not name.exists())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _expect(table: Table, kind: type[Table]) -> None:
    if not isinstance(table, kind):
        raise LogError(f"expected a {kind.__name__} table, got {type(table).__name__}; use the method for its kind")
