"""Reads a log in time-ordered tables of bounded size, after checking that it is one."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from ssrtrack.data import Array, Origin, Plots, Radar, Table, Tracks, Truth
from ssrtrack.errors import DataError, LogError
from ssrtrack.io.hdf5_check import check_group, check_root, open_log
from ssrtrack.io.hdf5_schema import ORIGIN_ATTRIBUTES, TRACKS, Provenance, h5_errors

READ_REMEDY = "the file is damaged: copy it again from its source, or write the log again"
WRITER_REMEDY = "correct the program that wrote the log"
DEFAULT_ROWS = 500_000
AnyTable = TypeVar("AnyTable", bound=Table)


class LogReader:
    """An open log: `with LogReader(path) as log: for plots in log.plots(): ...`.

    With `file`, an open binary file that can seek, the log is read from there and `path` is only its name.

    Opening checks the format, its version, that the writer finished, and every column's presence, type, unit and
    length. The data's own checksums are checked while reading.

    Attributes:
        radars: the radars table.
        provenance: where the log comes from; provenance.epoch is the UTC instant of time_s = 0.
        plot_count, truth_count: rows of the plots and truth tables.
        track_names: names of the trackers whose tracks are stored.

    Raises (opening and every method):
        LogError: says which file, what was found and expected, and what to do.
    """

    radars: Radar
    provenance: Provenance
    plot_count: int
    truth_count: int
    track_names: tuple[str, ...]

    def __init__(self, path: str | os.PathLike[str], file: Any = None) -> None:
        self.path = Path(path)
        self._file: Any = open_log(self.path, file)
        try:
            with h5_errors(self.path, "opening the log", READ_REMEDY):
                self._open()
        except LogError:
            self.close()
            raise

    def _open(self) -> None:
        self.provenance = check_root(self.path, self._file)
        self._streams = {key: self._stream(key, kind) for key, kind in (("radars", Radar), ("plots", Plots))}
        self._streams["plots"].radar_count = self._streams["radars"].rows
        if "truth" in self._file:
            self._streams["truth"] = self._stream("truth", Truth)
        names = list(self._file[TRACKS]) if TRACKS in self._file else []
        self._streams |= {f"{TRACKS}/{name}": self._stream(f"{TRACKS}/{name}", Tracks) for name in names}
        self.track_names = tuple(names)
        self.plot_count = self._streams["plots"].rows
        self.truth_count = self._streams["truth"].rows if "truth" in self._streams else 0
        self.radars = self._streams["radars"].whole(Radar)

    def _stream(self, key: str, kind: type[Table]) -> "_Stream":
        return _Stream(self.path, key, kind, check_group(self.path, self._file, key, kind, self.provenance.epoch))

    def close(self) -> None:
        """Closes the file; further reading raises LogError."""
        with h5_errors(self.path, "closing the log", READ_REMEDY):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def has_truth(self) -> bool:
        """Whether there are true states."""
        return self.truth_count > 0

    @property
    def time_span_s(self) -> tuple[float, float]:
        """First and last time of the plots, or without plots of the truth, or of the tracks; NaN for an empty log."""
        timed = (stream for key, stream in self._streams.items() if key != "radars" and stream.rows)
        first = next(timed, None)
        return (first.start_s, first.end_s) if first else (np.nan, np.nan)

    def plots(
        self, rows: int = DEFAULT_ROWS, columns: Sequence[str] | None = None, start_s: float = -np.inf
    ) -> Iterator[Plots]:
        """Plots in time order (ties in stored order), in tables of at most `rows` rows.

        `columns` names the optional columns to read, None all; the others come as absent. Required columns always come.
        `start_s` begins with the plots of that time, without reading all those before.
        """
        return self._streams["plots"].ordered(Plots, rows, columns, start_s)

    def truth(self, rows: int = DEFAULT_ROWS, start_s: float = -np.inf) -> Iterator[Truth]:
        """True states from `start_s` on in time order, in tables of at most `rows` rows; none without truth."""
        return self._streams["truth"].ordered(Truth, rows, None, start_s) if "truth" in self._streams else iter(())

    def cuts(self, rows: int) -> tuple[float, ...]:
        """Times at which the plots part into pieces of about `rows` rows, each in the longest silence nearby."""
        return self._streams["plots"].cuts(rows)

    def tracks(self, name: str, rows: int = DEFAULT_ROWS) -> Iterator[Tracks]:
        """States of the tracker called `name` in time order, in tables of at most `rows` rows."""
        return self._tracks(name).ordered(Tracks, rows, None)

    def read_plots(self, columns: Sequence[str] | None = None) -> Plots:
        """All plots in time order, as one table in memory."""
        return self._streams["plots"].whole(Plots, columns)

    def read_truth(self) -> Truth:
        """All true states in time order, as one table in memory."""
        return self._streams["truth"].whole(Truth) if "truth" in self._streams else Truth.empty()

    def read_tracks(self, name: str) -> Tracks:
        """All states of the tracker called `name` in time order, as one table in memory."""
        return self._tracks(name).whole(Tracks)

    def _tracks(self, name: str) -> "_Stream":
        if name not in self.track_names:
            raise LogError(f"{self.path}: has no tracks {name!r}; it has {list(self.track_names) or 'none at all'}")
        return self._streams[f"{TRACKS}/{name}"]


class _Stream:
    """One group of an open log."""

    def __init__(self, path: Path, key: str, kind: type[Table], group: Any) -> None:
        self.path, self.key, self.kind = path, key, kind
        self.datasets = {name: group[name] for name in kind.specs()}
        leading = next(iter(self.datasets.values()))
        self.rows, self.chunk_rows = int(leading.shape[0]), int(leading.chunks[0])
        # A column of which no chunk was ever written is wholly absent: nothing to read, and no memory to hold it.
        self.stored = {n: d for n, d in self.datasets.items() if d.id.get_storage_size()}
        timed = "time_s" in self.datasets and self.rows > 0
        names = ("time_start_s", "time_end_s", "max_disorder_s")
        self.start_s, self.end_s, self.lag_s = (float(group.attrs[n]) if timed else 0.0 for n in names)
        self.radar_count: int | None = None  # bound of radar_id, for plots
        self.others: dict[str, Any] = {}
        if kind is Tracks:
            self.others["origin"] = Origin(*(float(group.attrs.get(name, np.nan)) for name in ORIGIN_ATTRIBUTES))

    def whole(self, kind: type[AnyTable], columns: Sequence[str] | None = None) -> AnyTable:
        """All rows in time order."""
        if not self.rows:
            return self._table(kind, kind.empty().columns())
        block = self._read(self._chosen(columns), 0, self.rows)
        if "time_s" in block:
            block = _sorted(block) if self.lag_s else block
            self._check_order(block["time_s"], -np.inf)
        return self._table(kind, block)

    def ordered(
        self, kind: type[AnyTable], rows: int, columns: Sequence[str] | None, start_s: float = -np.inf
    ) -> Iterator[AnyTable]:
        """Rows from `start_s` on in time order, in tables of at most `rows` rows."""
        if rows < 1:
            raise LogError(f"{self.path}: rows per table is {rows}; give at least 1")
        tables = self._ordered(kind, rows, self._chosen(columns), self._first_row(start_s))
        return tables if start_s == -np.inf else _from(tables, start_s)

    def cuts(self, rows: int) -> tuple[float, ...]:
        """See LogReader.cuts."""
        if rows < 1:
            raise LogError(f"{self.path}: rows per piece is {rows}; give at least 1")
        pieces = -(-self.rows // rows)
        times = (self._silence_near(i * self.rows // pieces, rows // 4) for i in range(1, pieces))
        return tuple(sorted({t for t in times if self.start_s < t <= self.end_s}))

    def _silence_near(self, row: int, reach: int) -> float:
        """Middle of the longest silence within `reach` rows of `row`, and within one chunk: that alone is read."""
        chunk = row // self.chunk_rows * self.chunk_rows
        low, high = max(chunk, row - reach), min(chunk + self.chunk_rows, row + reach + 1)
        time_s = np.sort(self._read(["time_s"], low, min(high, self.rows))["time_s"])
        if time_s.size < 2:
            return float(time_s[0])
        at = int(np.argmax(np.diff(time_s)))
        return float(0.5 * (time_s[at] + time_s[at + 1]))

    def _first_row(self, start_s: float) -> int:
        """A row at a chunk's beginning before which no row has a time of `start_s` or later."""
        low, high = 0, self.rows // self.chunk_rows if start_s > self.start_s else 0
        while low < high:
            middle = (low + high + 1) // 2
            row = min(middle * self.chunk_rows, self.rows - 1)
            # Rows before this one are at most lag_s later than it.
            if float(self._read(["time_s"], row, row + 1)["time_s"][0]) + self.lag_s + 1e-6 < start_s:
                low = middle
            else:
                high = middle - 1
        return min(low * self.chunk_rows, self.rows)

    def _ordered(self, kind: type[AnyTable], rows: int, names: list[str], first: int) -> Iterator[AnyTable]:
        # A row may come at most lag_s later than a newer one (the margin covers rounding), so what is older than
        # that is final.
        lag_s = self.lag_s + 1e-6 if self.lag_s else 0.0
        last_s, waiting = -np.inf, dict[str, Array]()
        for block in self._blocks(rows, names, first):
            if lag_s:
                block = _sorted({n: np.concatenate([waiting[n], v]) for n, v in block.items()} if waiting else block)
            time_s = block["time_s"]
            self._check_order(time_s, last_s)
            final = int(np.searchsorted(time_s, time_s[-1] - lag_s, "right"))
            last_s = time_s[final - 1] if final else last_s
            yield from self._tables(kind, block, 0, final, rows)
            waiting = {n: v[final:].copy() for n, v in block.items()} if lag_s else {}
        if waiting:
            yield from self._tables(kind, waiting, 0, len(waiting["time_s"]), rows)

    def _check_order(self, time_s: Array, last_s: float) -> None:
        if time_s[0] < last_s or (time_s[1:] < time_s[:-1]).any():
            raise LogError(f"{self.path}: {self.key}: rows are less ordered than max_disorder_s; {READ_REMEDY}")

    def _tables(
        self, kind: type[AnyTable], block: dict[str, Array], start: int, stop: int, rows: int
    ) -> Iterator[AnyTable]:
        for at in range(start, stop, rows):
            yield self._table(kind, {n: v[at : min(at + rows, stop)] for n, v in block.items()})

    def _table(self, kind: type[AnyTable], block: dict[str, Array]) -> AnyTable:
        if self.radar_count is not None and (block["radar_id"] >= self.radar_count).any():
            raise LogError(f"{self.path}: plots name radars beyond the {self.radar_count} in /radars; {WRITER_REMEDY}")
        try:
            return kind(**block, **self.others).validate()
        except DataError as error:
            raise LogError(f"{self.path}: {self.key}: {error}; {WRITER_REMEDY}") from error

    def _blocks(self, rows: int, names: list[str], first: int = 0) -> Iterator[dict[str, Array]]:
        """Stored columns in blocks of whole chunks, so that no chunk is unpacked twice."""
        step = max(rows // self.chunk_rows, 1) * self.chunk_rows
        for start in range(first, self.rows, step):
            yield self._read(names, start, min(start + step, self.rows))

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, Array]:
        with h5_errors(self.path, f"reading {self.key}", READ_REMEDY):
            return {name: np.asarray(self.stored[name][start:stop]) for name in names}

    def _chosen(self, columns: Sequence[str] | None) -> list[str]:
        specs = self.kind.specs()
        unknown = set(columns or ()) - set(specs)
        if unknown:
            raise LogError(f"{self.path}: {self.key} has no columns {sorted(unknown)}; known: {list(specs)}")
        return [n for n in self.stored if columns is None or n in columns or specs[n].fill is None]


def _sorted(block: dict[str, Array]) -> dict[str, Array]:
    order = np.argsort(block["time_s"], kind="stable")
    return {name: values[order] for name, values in block.items()}


def _from(tables: Iterator[AnyTable], start_s: float) -> Iterator[AnyTable]:
    for table in tables:
        later = table[int(np.searchsorted(table.columns()["time_s"], start_s)) :]
        if len(later):
            yield later
