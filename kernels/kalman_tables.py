"""Between tables of tracks (N, T, …) and packed rows (…, P): what surrounds the scan, on all cores.

A scan takes some 50 ns a plot; numpy's indexing took 300 for the tables around it.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.kernels.kalman_numba import in_blocks

Array = NDArray[Any]
UPPER = np.array([[0, 1, 2, 3], [1, 4, 5, 6], [2, 5, 7, 8], [3, 6, 8, 9]])


def position_columns(time_s: Array, position_m: Array, covariance_m2: Array, valid: Array, layout: Layout) -> Array:
    """Columns dt, x, y, xx, xy, yy (6, P) of tables (N, T), (N, T, 2), (N, T, 2, 2), (N, T); zeros for a miss."""
    out = np.empty((6, layout.plots))
    tables = [np.ascontiguousarray(a, np.float64) for a in (time_s, position_m, covariance_m2)]
    given = (*tables, np.ascontiguousarray(valid), layout.offsets, layout.alive, layout.order, out)
    kernel: Any = _gather
    in_blocks(lambda begin, end: kernel(*given, begin, end), layout.tracks)
    return out


def table(rows: Array, layout: Layout, columns: int, index: Array | None = None) -> Array:
    """Packed rows (D, P) as a float64 table (N, columns, *index.shape) of rows[index]; NaN in the padding."""
    index = np.arange(rows.shape[0]) if index is None else index
    out = np.empty((layout.order.size, columns, index.size))
    given = (np.ascontiguousarray(rows), layout.offsets, layout.alive, layout.order, index.ravel(), out)
    kernel: Any = _spread
    in_blocks(lambda begin, end: kernel(*given, begin, end), layout.order.size)
    return out.reshape(*out.shape[:2], *index.shape)


def moments(rows: Array, layout: Layout, columns: int) -> tuple[Array, Array]:
    """Estimates packed as (14, P): mean (N, columns, 4), covariance (N, columns, 4, 4)."""
    return table(rows, layout, columns, np.arange(4)), table(rows, layout, columns, 4 + UPPER)


@njit(cache=True, nogil=True)
def _gather(
    time: Any,
    position: Any,
    covariance: Any,
    valid: Any,
    offsets: Any,
    alive: Any,
    order: Any,
    out: Any,
    begin: Any,
    end: Any,
) -> None:
    for k in range(alive.size):
        for place in range(begin, min(end, alive[k])):
            n, p = order[place], offsets[k] + place
            out[0, p] = time[n, k] - time[n, k - 1] if k else 0.0
            if valid[n, k]:
                out[1, p], out[2, p] = position[n, k, 0], position[n, k, 1]
                out[3, p], out[4, p], out[5, p] = covariance[n, k, 0, 0], covariance[n, k, 0, 1], covariance[n, k, 1, 1]
            else:
                out[1:, p] = 0.0


@njit(cache=True, nogil=True)
def _spread(rows: Any, offsets: Any, alive: Any, order: Any, index: Any, out: Any, begin: Any, end: Any) -> None:
    for k in range(out.shape[1]):
        last = min(end, alive[k]) if k < alive.size else begin
        for place in range(begin, last):
            n, p = order[place], offsets[k] + place
            for e in range(index.size):
                out[n, k, e] = rows[index[e], p]
        for place in range(max(begin, last), end):
            out[order[place], k] = np.nan
