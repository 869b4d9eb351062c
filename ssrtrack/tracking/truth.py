"""True states at the times of plots: cubic Hermite interpolation of the truth table, streamed beside the plots."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Truth
from ssrtrack.errors import ScoringError
from ssrtrack.geodesy import enu_rotation, geodetic_to_ecef
from ssrtrack.tracking.flights import FlightBatch

Array = NDArray[Any]

# Between rows further apart than this nothing is interpolated: in a 3 deg/s turn at 150 m/s the cubic's error is
# (dt^4 / 384) V w^3, 0.4 m at 10 s spacing and 2.8 m at 15 s.
MAX_SPACING_S = 15.0


@dataclass(frozen=True)
class TrueStates:
    """True states (n,) in a tracking frame; NaN (and phase 0) where the truth is not known."""

    position_m: Array  # (n, 2) east, north
    velocity_mps: Array  # (n, 2)
    height_rate_mps: Array  # (n,) in the aircraft's own vertical
    up_m: Array  # (n,)
    phase: Array  # (n,) uint8, of the truth row before

    def grid(self, index: Array) -> "TrueStates":
        """The states laid out like `FlightBatch.index`, (N, T); padding is NaN."""
        pad = index < 0

        def laid(values: Array) -> Array:
            out = values[index]
            out[pad] = 0 if values.dtype.kind == "u" else np.nan
            return out

        return TrueStates(
            *(laid(v) for v in (self.position_m, self.velocity_mps, self.height_rate_mps, self.up_m, self.phase))
        )


class TruthWindow:
    """The part of a truth stream that plots may still ask for, in the ENU frame of `site`.

    Rows are read up to the time asked for and forgotten when no waiting flight needs them, so memory follows the
    number of waiting plots, not the length of the log.
    """

    def __init__(self, chunks: Iterable[Truth], site_rad: tuple[float, float, float]) -> None:
        self._chunks: Iterator[Truth] = iter(chunks)
        self._site = site_rad
        self._read_to_s = -np.inf
        self._id = np.zeros(0, np.int64)
        self._time = np.zeros(0)
        self._state = np.zeros((0, 7))  # position (3), velocity (3), height rate
        self._phase = np.zeros(0, np.uint8)

    @property
    def rows(self) -> int:
        """Truth rows held at present."""
        return int(self._id.size)

    def at(self, truth_id: Array, time_s: Array) -> TrueStates:
        """States of aircraft `truth_id` (n,) at `time_s` (n,)."""
        self._read(float(np.max(time_s, initial=-np.inf)) + MAX_SPACING_S)
        left, known = self._left_row(np.asarray(truth_id, np.int64), np.asarray(time_s, float))
        right = np.minimum(left + 1, max(self._id.size - 1, 0))
        if not self._id.size:
            return _interpolated(np.zeros((time_s.size, 7)), np.zeros((time_s.size, 7)), time_s * 0, time_s * 0, known)
        dt = np.where(known, self._time[right] - self._time[left], 1.0)
        u = (time_s - self._time[left]) / dt
        states = _interpolated(self._state[left], self._state[right], dt, u, known)
        states.phase[:] = np.where(known, self._phase[left], 0)
        return states

    def forget(self, batch: FlightBatch) -> None:
        """Drop rows that neither the flights waiting after this batch nor later plots can ask for."""
        if batch.waiting is None or not self._id.size:
            return
        ids, since = batch.waiting
        needed_from = np.full(self._id.size, batch.now_s)
        if ids.size:
            at = np.minimum(np.searchsorted(ids, self._id), ids.size - 1)
            needed_from = np.where(ids[at] == self._id, since[at], needed_from)
        self._keep(self._time >= needed_from - MAX_SPACING_S)

    def _keep(self, rows: Array) -> None:
        self._id, self._time = self._id[rows], self._time[rows]
        self._state, self._phase = self._state[rows], self._phase[rows]

    def _read(self, time_s: float) -> None:
        new: list[Truth] = []
        while self._read_to_s < time_s:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._read_to_s = np.inf
            elif len(chunk):
                new.append(chunk)
                self._read_to_s = float(chunk.time_s[-1])
        if not new:
            return
        table = Truth.concat(new)
        self._id = np.concatenate([self._id, table.truth_id])
        self._time = np.concatenate([self._time, table.time_s])
        self._state = np.concatenate([self._state, _in_frame(table, self._site)])
        self._phase = np.concatenate([self._phase, table.phase])
        self._keep(np.lexsort((self._time, self._id)))
        again = (np.diff(self._id) == 0) & (np.diff(self._time) <= 0)
        if again.any():
            row = int(np.flatnonzero(again)[0])
            raise ScoringError(
                f"truth of aircraft {self._id[row]} has two rows at {self._time[row]:.3f} s; keep one row per time"
            )

    def _left_row(self, truth_id: Array, time_s: Array) -> tuple[Array, Array]:
        """Row at or before each query, and whether the query lies between that row and the aircraft's next."""
        if not self._id.size:
            return np.zeros(time_s.size, int), np.zeros(time_s.size, bool)
        ids, rank = np.unique(self._id, return_inverse=True)
        asked = np.minimum(np.searchsorted(ids, truth_id), ids.size - 1)
        start = min(float(self._time.min()), float(time_s.min()))
        span = max(float(self._time.max()), float(time_s.max())) - start + 1.0
        # One sorted number for (aircraft, time). Rounding (some microseconds) may pick the neighbouring interval at
        # its very edge, where both cubics agree.
        rows = rank * span + (self._time - start)
        left = np.searchsorted(rows, asked * span + (time_s - start), "right") - 1
        left = np.clip(left, 0, max(self._id.size - 2, 0))
        last = rank[left] != rank[np.minimum(left + 1, rank.size - 1)]
        left = np.where(last & (left > 0), left - 1, left)  # exactly at the aircraft's last row
        right = np.minimum(left + 1, self._id.size - 1)
        slack = 1e-5
        known = (self._id[left] == truth_id) & (self._id[right] == truth_id) & (right > left)
        known &= (time_s >= self._time[left] - slack) & (time_s <= self._time[right] + slack)
        known &= self._time[right] - self._time[left] <= MAX_SPACING_S
        return left, known


def _in_frame(table: Truth, site_rad: tuple[float, float, float]) -> Array:
    """Position and velocity in the frame's ENU axes and the rate of height, (n, 7)."""
    lat, lon = np.radians(table.latitude_deg), np.radians(table.longitude_deg)
    # Written out, since a rotation matrix for each row costs three times as much.
    sin_lat, cos_lat, sin_lon, cos_lon = np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)
    outward = cos_lat * table.v_up_mps - sin_lat * table.v_north_mps
    velocity_ecef = np.stack(
        [
            outward * cos_lon - sin_lon * table.v_east_mps,
            outward * sin_lon + cos_lon * table.v_east_mps,
            sin_lat * table.v_up_mps + cos_lat * table.v_north_mps,
        ],
        -1,
    )
    to_frame = enu_rotation(site_rad[0], site_rad[1]).T
    position = (geodetic_to_ecef(lat, lon, table.height_m) - geodetic_to_ecef(*site_rad)) @ to_frame
    return np.concatenate([position, velocity_ecef @ to_frame, table.v_up_mps[:, None]], -1)


def _interpolated(a: Array, b: Array, dt: Array, u: Array, known: Array) -> TrueStates:
    """Cubic Hermite position and velocity at u in [0, 1] between states a and b (n, 7) that are dt apart."""
    h, s = dt[:, None], u[:, None]
    s2, s3 = s * s, s * s * s
    p0, v0, p1, v1 = a[:, :3], a[:, 3:6], b[:, :3], b[:, 3:6]
    position = (2 * s3 - 3 * s2 + 1) * p0 + (s3 - 2 * s2 + s) * h * v0 + (3 * s2 - 2 * s3) * p1 + (s3 - s2) * h * v1
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (6 * s2 - 6 * s) / h
        velocity = slope * (p0 - p1) + (3 * s2 - 4 * s + 1) * v0 + (3 * s2 - 2 * s) * v1
    rate = a[:, 6] + u * (b[:, 6] - a[:, 6])
    for values in (position, velocity, rate):
        values[~known] = np.nan
    return TrueStates(position[:, :2], velocity[:, :2], rate, position[:, 2], np.zeros(u.size, np.uint8))
