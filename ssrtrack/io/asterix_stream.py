"""A recording as time-ordered chunks of Plots and Service, with the radars it comes from."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from math import floor, isnan, nan
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar
from ssrtrack.io.asterix_fast import WINDOW_BYTES, Columns, part, source_of, stream
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.asterix_plots import Service, dense, plots_from, service_from, usable
from ssrtrack.io.asterix_time import TICKS_PER_S, DayClock, StrayTimes
from ssrtrack.units import DAY_S

Array = NDArray[Any]
MAX_RADARS = 2**15  # radar_id is a 16-bit column
TOO_MANY_RADARS = "too many radars"  # reason of dropped plots
LAST_STAMP_S = 7.258e9  # capture stamps from 2200 on are corrupt, and no date
MAX_HELD = 1 << 20  # rows held back for ordering, at most


class Chunk(NamedTuple):
    """Plots and service messages of about the same time, each in time order."""

    plots: Plots
    service: Service


class PlotStream:
    """Iterate once over the chunks of a recording; `summary`, `epoch` and `radars()` fill up on the way.

    Times count from `epoch`, midnight UTC of the recording's first day: `on_date`, or else the day of the first capture
    stamp (the first report is put on the day that brings it nearest to that stamp, so its time can be just below 0).
    A raw file without a date has epoch None, and times count from midnight of its first day.

    Rows come in time order within a chunk, and across chunks as long as no report is more than `reorder_s` later in the
    file than its time says. Later ones are put out in the next chunk and counted in `summary.late_plots`.

    Networks carry radar data on two lines; a report that comes twice within `reorder_s` is kept once, and the repeats
    are counted in `summary.dropped_plots["repeated"]`. Reports with a corrupt time of day are left out, and counted
    there as "stray time" (see `asterix_time.StrayTimes`).

    Args:
        path: raw ASTERIX, pcap or pcapng; told from its content.
        on_date: UTC day of the first report.
        reorder_s: how long reports are held back for ordering.
        window_bytes: octets of input per step.

    Raises:
        AsterixError: on iteration, if the file cannot be opened.
    """

    def __init__(
        self, path: Path, on_date: date | None = None, reorder_s: float = 30.0, window_bytes: int = WINDOW_BYTES
    ) -> None:
        self.path = path
        self.summary = Summary()
        self.epoch = datetime.combine(on_date, time(), UTC) if on_date else None
        self.captured_on: date | None = None  # UTC day of the first capture stamp
        self.octets_read = 0  # of the file, for progress
        self._reorder_s = reorder_s
        self._window_bytes = window_bytes
        self._clock: DayClock | None = None
        self._strays = StrayTimes()
        self._ids: dict[int, int] = {}  # radar_id by SAC * 256 + SIC
        self._sites: dict[int, tuple[float, float, float]] = {}
        self._periods: dict[int, Counter[int]] = {}

    def __iter__(self) -> Iterator[Chunk]:
        plots = _Queue(Plots.empty(), ("time_s", "radar_id", "range_m", "azimuth_rad", "address"), self._reorder_s)
        service = _Queue(Service.empty(), ("time_s", "radar_id", "message_type", "sector"), self._reorder_s)
        for pair in self._windows():
            new_plots, new_service = self._tables(pair)
            if repeated := plots.push(new_plots):
                self.summary.dropped_plots["repeated"] += repeated
            service.push(new_service)
            self.summary.late_plots = plots.late
            chunk = Chunk(plots.pop(), service.pop())
            if len(chunk.plots) or len(chunk.service):
                yield chunk
        yield Chunk(plots.pop(everything=True), service.pop(everything=True))

    def radars(self) -> Radar:
        """The radars seen so far; a plot's radar_id is the row."""
        keys = list(self._ids)
        sites = np.array([self._sites.get(key, (nan, nan, nan)) for key in keys]).reshape(-1, 3)
        periods = [_median(self._periods.get(key, Counter())) / TICKS_PER_S for key in keys]
        return Radar(
            name=np.array([f"SAC {key // 256} SIC {key % 256}" for key in keys], "S32"),
            sac=np.array(keys, np.int64).reshape(-1) // 256,
            sic=np.array(keys, np.int64).reshape(-1) % 256,
            latitude_deg=sites[:, 0],
            longitude_deg=sites[:, 1],
            height_m=sites[:, 2],
            rotation_period_s=np.array(periods),
        )

    def _windows(self) -> Iterator[list[Columns]]:
        """Columns of both categories that cover the same stretch of the file."""
        pair: list[Columns] = []
        for columns in stream(self.path, self.summary, self._window_bytes):
            self.octets_read = int(columns.offset[-1]) if len(columns) else self.octets_read
            if pair and columns.category <= pair[-1].category:
                yield pair
                pair = []
            pair.append(columns)
        if pair:
            yield pair

    def _tables(self, pair: list[Columns]) -> tuple[Plots, Service]:
        sources = [source_of(columns) for columns in pair]
        times_of_day = [dense(c, "030" if c.category == 34 else "140", "TOD") for c in pair]
        self._register(np.concatenate(sources)[np.argsort(np.concatenate([c.offset for c in pair]), kind="stable")])
        ids = [self._radar_ids(source) for source in sources]
        good = [(tod >= 0) & (radar >= 0) for tod, radar in zip(times_of_day, ids, strict=True)]
        good = self._without_strays(pair, sources, times_of_day, good)
        times = self._times(pair, sources, times_of_day, good)
        plots, service = Plots.empty(), Service.empty()
        for columns, source, tod, radar, ok, time_s in zip(pair, sources, times_of_day, ids, good, times, strict=True):
            if columns.category == 48:
                if crowded := int(((source >= 0) & (radar < 0)).sum()):
                    self.summary.dropped_plots[TOO_MANY_RADARS] += crowded
                plots = plots_from(columns, time_s, radar, ok & usable(columns, source, tod, self.summary))
            else:
                self._learn(columns, source)
                service = service_from(columns, time_s, radar, ok)
        return plots, service

    def _register(self, source: Array) -> None:
        """Give new sources their radar_id, in order of appearance, as long as there are any left."""
        keys, first = np.unique(source, return_index=True)
        for key in keys[np.argsort(first)].tolist():
            if key >= 0 and key not in self._ids and len(self._ids) < MAX_RADARS:
                self._ids[key] = len(self._ids)

    def _radar_ids(self, source: Array) -> Array:
        """Row of each record's radar; -1 without one."""
        keys, inverse = np.unique(source, return_inverse=True)
        return np.array([self._ids.get(key, -1) for key in keys.tolist()], np.int64)[inverse]

    def _without_strays(
        self, pair: list[Columns], sources: list[Array], tods: list[Array], good: list[Array]
    ) -> list[Array]:
        """`good` without reports whose time of day is corrupt; those of plots are counted."""
        ok = np.concatenate(good)
        order = np.flatnonzero(ok)[np.argsort(np.concatenate([c.offset for c in pair])[ok], kind="stable")]
        stray = np.zeros(ok.size, bool)
        stray[order] = self._strays.find(np.concatenate(tods)[order], np.concatenate(sources)[order])
        parts = np.split(stray, np.cumsum([len(c) for c in pair])[:-1])
        if count := sum(int(part.sum()) for c, part in zip(pair, parts, strict=True) if c.category == 48):
            self.summary.dropped_plots["stray time"] += count
        return [ok & ~part for ok, part in zip(good, parts, strict=True)]

    def _times(self, pair: list[Columns], sources: list[Array], tods: list[Array], good: list[Array]) -> list[Array]:
        """Seconds since the epoch for each category; both share the clock of their source, in file order."""
        ok = np.concatenate(good)
        order = np.flatnonzero(ok)[np.argsort(np.concatenate([c.offset for c in pair])[ok], kind="stable")]
        stamps = np.concatenate([c.time_s for c in pair])
        clock = self._clock or self._start(stamps[order])
        ticks = np.zeros(ok.size, np.int64)
        ticks[order] = clock.ticks(np.concatenate(tods)[order], np.concatenate(sources)[order])
        return np.split(ticks / TICKS_PER_S, np.cumsum([len(c) for c in pair])[:-1])

    def _start(self, stamps: Array) -> DayClock:
        """The clock: on the epoch's day if a date was given, else where the first capture stamp says."""
        first = float(stamps[0]) if stamps.size else nan
        if not stamps.size:
            return DayClock()
        anchor = None
        if not isnan(first) and 0 <= first < LAST_STAMP_S:
            day = floor(first / DAY_S)
            midnight = datetime.fromtimestamp(day * DAY_S, UTC)
            self.captured_on = midnight.date()
            if self.epoch is None:
                self.epoch, anchor = midnight, round((first - day * DAY_S) * TICKS_PER_S)
        self._clock = DayClock(anchor)
        return self._clock

    def _learn(self, columns: Columns, source: Array) -> None:
        """Sites and rotation periods from I034/120 and I034/041."""
        site = part(columns, "120")
        for key in np.unique(source[site.rows]).tolist():
            row = np.flatnonzero(source[site.rows] == key)[-1]
            lsb = 180 / 2**23
            latitude, longitude = float(site.fields["LAT"][row] * lsb), float(site.fields["LON"][row] * lsb)
            if abs(latitude) <= 90.0:
                self._sites[key] = (latitude, longitude, float(site.fields["HGT"][row]))
        period = part(columns, "041")
        for key in np.unique(source[period.rows]).tolist():
            values = period.fields["PERIOD"][source[period.rows] == key]
            self._periods.setdefault(key, Counter()).update(values[values > 0].tolist())


def _median(counts: Counter[int]) -> float:
    """Median of counted values, NaN if there are none; the lower one of two."""
    values = sorted(counts)
    total = np.cumsum([counts[value] for value in values])
    return values[int(np.searchsorted(total, total[-1] / 2))] if values else nan


_Rows = TypeVar("_Rows", Plots, Service)


class _Queue(Generic[_Rows]):
    """Rows held back until `reorder_s` has passed after them, so that they leave in time order, each once."""

    def __init__(self, empty: _Rows, key: tuple[str, ...], reorder_s: float) -> None:
        self._held: _Rows = empty
        self._key = key  # columns that two reports of the same thing share
        self._reorder_s = reorder_s
        self._left_s = -np.inf  # time of the latest row put out
        self.late = 0

    def push(self, rows: _Rows) -> int:
        """Take rows in; returns how many were repeats."""
        self.late += int((rows.time_s < self._left_s).sum())
        pool = type(rows).concat([self._held, rows])
        once = ~_repeats([getattr(pool, name) for name in self._key])
        order = np.argsort(pool.time_s, kind="stable")
        self._held = pool[order[once[order]]]
        return int((~once).sum())

    def pop(self, everything: bool = False) -> _Rows:
        times: Array = self._held.time_s
        count = times.size
        if count and not everything and count <= MAX_HELD:
            count = int(np.searchsorted(times, times[-1] - self._reorder_s))
        ready, self._held = self._held[:count], self._held[count:]
        if count:
            self._left_s = max(self._left_s, float(times[count - 1]))
        return ready


def _repeats(key: list[Array]) -> Array:
    """Which rows have the same key as an earlier one, (n,) bool."""
    order = np.lexsort(key[::-1])  # stable: the first of equal rows stays first
    same = np.ones(max(order.size - 1, 0), bool)
    for column in key:
        same &= np.diff(column[order]) == 0
    repeats = np.zeros(order.size, bool)
    repeats[order[1:][same]] = True
    return repeats
