"""From I048/140 and I034/030, which start again every midnight, to time that only goes on.

Each data source (SAC/SIC) keeps its own day: a step of more than half a day back is midnight passing, a step of more
than half a day forward is a late report from before midnight. Values of 86400 s and more, which the items can carry
and which do occur, need no rule of their own: they are later than 86399 s, and the reset after them is a step back.

One corrupt time of day must not move the reports around it to another day, so `StrayTimes` finds such reports first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TICKS_PER_S = 128
DAY_TICKS = 86400 * TICKS_PER_S
Array = NDArray[Any]

STEP_TICKS = 60 * TICKS_PER_S  # reports of one source that follow each other are nearer than this, or time has jumped
SILENCE_TICKS = 3600 * TICKS_PER_S  # a few reports, and then nothing for so long: the few are not believed
MAX_STRAYS = 16  # longest run of reports of one source that is taken for stray


class StrayTimes:
    """Finds reports whose time of day is corrupt, by those of the same source around them.

    * Up to `MAX_STRAYS` reports that jump away from the one before, after which time goes on from there, are stray.
    * So are up to `MAX_STRAYS` first reports of a source, or last ones of a window, that are not followed, or preceded,
      within an hour by the many others.
    * So are the one or two reports of a new source, over an hour off the busiest source's.

    A jump from which time does not come back is a gap in the recording, and is believed.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # last believed time of day of each source

    def find(self, time_of_day: Array, source: Array) -> Array:
        """Which reports are stray, (n,) bool; arguments as for `DayClock.ticks`, of one window."""
        stray = np.zeros(time_of_day.size, bool)
        if not stray.size:
            return stray
        time_of_day = time_of_day.astype(np.int64)
        sources, inverse, counts = np.unique(source, return_inverse=True, return_counts=True)
        by_source = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
        guide = by_source[int(counts.argmax())]
        for which in np.argsort(-counts, kind="stable").tolist():  # the guide first
            rows, key = by_source[which], int(sources[which])
            if rows.size <= 2 and key not in self._last and guide.size > MAX_STRAYS:
                beside = guide[np.minimum(np.searchsorted(guide, rows), guide.size - 1)]
                if (np.abs(_step(time_of_day[beside], time_of_day[rows])) > SILENCE_TICKS).any():
                    stray[rows] = True
                    continue
            stray[rows] = self._of_source(key, time_of_day[rows])
            guide = guide[~stray[guide]] if rows is guide else guide
        return stray

    def _of_source(self, key: int, time_of_day: Array) -> Array:
        stray = np.zeros(time_of_day.size, bool)
        jumps = np.flatnonzero(np.abs(np.diff(time_of_day)) > STEP_TICKS) + 1
        jumps = jumps[np.abs(_step(time_of_day[jumps - 1], time_of_day[jumps])) > STEP_TICKS]
        bounds = [0, *jumps.tolist(), time_of_day.size]  # of runs of reports that go on from each other
        run = 0
        if key not in self._last:
            run = _first_believed(time_of_day, bounds)
            stray[: bounds[run]] = True
            self._last[key] = int(time_of_day[bounds[run]])
        while run < len(bounds) - 1:
            back = _comes_back(time_of_day, bounds, run, self._last[key])
            if _breaks_off(time_of_day, bounds, back, self._last[key]):
                stray[bounds[run] :] = True
                break
            stray[bounds[run] : bounds[back]] = True
            self._last[key] = int(time_of_day[bounds[back + 1] - 1])
            run = back + 1
        return stray


def _step(before: Any, after: Any) -> Any:
    """From one time of day to the other by the shorter way round the clock."""
    return (after - before + DAY_TICKS // 2) % DAY_TICKS - DAY_TICKS // 2


def _follows(before: int, after: int) -> bool:
    return bool(-STEP_TICKS <= _step(before, after) <= SILENCE_TICKS)


def _first_believed(time_of_day: Array, bounds: list[int]) -> int:
    """The run that a source starts with: 0, or a long one soon after it that cannot follow on it."""
    for run in range(1, len(bounds) - 1):
        if bounds[run] > MAX_STRAYS:
            break
        if bounds[run + 1] - bounds[run] > MAX_STRAYS:
            return 0 if _follows(time_of_day[bounds[run] - 1], time_of_day[bounds[run]]) else run
    return 0


def _comes_back(time_of_day: Array, bounds: list[int], run: int, last: int) -> int:
    """The run, from `run` on, in which time goes on from `last`; `run` itself if none does."""
    for later in range(run, len(bounds) - 1):
        if bounds[later] - bounds[run] > MAX_STRAYS:
            break
        if abs(_step(last, int(time_of_day[bounds[later]]))) <= STEP_TICKS:
            return later
    return run


def _breaks_off(time_of_day: Array, bounds: list[int], run: int, last: int) -> bool:
    """Whether this run and what is left after it are a few reports that do not follow on many."""
    few = bounds[-1] - bounds[run] <= MAX_STRAYS < bounds[run]
    return few and not _follows(last, int(time_of_day[bounds[run]]))


class DayClock:
    """Days of each source, carried from window to window.

    Args:
        anchor_ticks: where the first report of all is expected, in ticks (1/128 s) since the epoch; it is put on the
            day that brings it nearest. None: it is put on the epoch's own day.
    """

    def __init__(self, anchor_ticks: int | None = None) -> None:
        self._anchor = anchor_ticks
        self._last: dict[int, int] = {}  # latest report of each source, in ticks since the epoch

    def ticks(self, time_of_day: Array, source: Array) -> Array:
        """Ticks since the epoch.

        Args:
            time_of_day: (n,) int, 1/128 s, in the order of the file.
            source: (n,) int, one value for each data source.

        Returns:
            (n,) int64.
        """
        result = np.empty(time_of_day.size, np.int64)
        sources, first, inverse = np.unique(source, return_index=True, return_inverse=True)
        by_source = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
        for which in np.argsort(first):  # a new source starts from the report before its own, which is done by then
            rows, key = by_source[which], int(sources[which])
            start = self._start(key, int(first[which]), result)
            result[rows] = _unwrap(time_of_day[rows].astype(np.int64), start)
            self._last[key] = int(result[rows[-1]])
        if result.size:
            self._anchor = int(result[-1])
        return result

    def _start(self, key: int, row: int, done: Array) -> int | None:
        if key in self._last:
            return self._last[key]
        return int(done[row - 1]) if row else self._anchor


def _unwrap(time_of_day: Array, start: int | None) -> Array:
    """Each report on the day that brings it nearest to the one before."""
    before = time_of_day[0] if start is None else start
    steps = np.diff(time_of_day, prepend=before)
    return time_of_day - DAY_TICKS * np.cumsum(np.rint(steps / DAY_TICKS).astype(np.int64))
