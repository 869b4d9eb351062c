"""From I048/140 and I034/030, which start again every midnight, to time that only goes on.

Each data source (SAC/SIC) keeps its own day: a step of more than half a day back is midnight passing, a step of more
than half a day forward is a late report from before midnight. Values of 86400 s and more, which the items can carry
and which do occur, need no rule of their own: they are later than 86399 s, and the reset after them is a step back.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TICKS_PER_S = 128
DAY_TICKS = 86400 * TICKS_PER_S
Array = NDArray[Any]


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
