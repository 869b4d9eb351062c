"""Recorded flights as the truth of a simulation: the traffic that a radar sees is what was flown."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase, Trajectories
from ssrtrack.errors import DataError
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.replay_noise import measured_noise
from ssrtrack.simulators.replay_paths import to_paths
from ssrtrack.simulators.replay_smooth import Ints, Noise, States, rows_of, smooth
from ssrtrack.simulators.traffic import MIN_FLIGHT_S, SPECIAL_CODES, Fleet, made_up_callsign
from ssrtrack.simulators.trajectory import Paths
from ssrtrack.units import DEG_RAD, KT_MPS

RECORDED = 65534  # flow number of recorded flights in random streams
STRAY_WEIGHT = 0.25  # of a position: it lies over four sigma off
# What no smooth flight does: there, the recording was too poor to be smoothed.
MAX_BANK_RAD, MAX_CLIMB_MPS, MAX_SPEED_MPS = 70.0 * DEG_RAD, 120.0, 500.0
MIN_STEP_S = 0.1  # nearer rows make the smoother's equations singular
_ROWS_AT_ONCE = 20_000  # smoothed together: some 100 MB
_ROWS_TO_MEASURE = 300_000  # their errors are those of the rest
_CODES = np.array(sorted(set(range(4096)) - SPECIAL_CODES))


@dataclass(frozen=True)
class ReplaySummary:
    """How the smoothed motion of the flights given so far agrees with what was recorded; NaN where nothing was."""

    flights: int
    impossible: int  # flights left out, as no aircraft moves like that
    rows: int
    noise: Noise
    stray_share: float
    speed_rms_mps: float
    speed_median_mps: float  # of the absolute difference
    track_rms_rad: float
    climb_rms_mps: float
    phase_share: dict[str, float]

    def __str__(self) -> str:
        along, across, up = self.noise.position_m
        lines = [
            f"{self.flights:,} flights smoothed from {self.rows:,} positions, taken to err by {along:.0f} m along the "
            f"track, {across:.0f} m across and {up:.0f} m in height; {self.stray_share:.2%} stray",
            "  time spent " + ", ".join(f"{name} {share:.1%}" for name, share in self.phase_share.items()),
        ]
        if np.isfinite(self.speed_rms_mps):
            lines.append(
                f"  against reported motion: ground speed {self.speed_rms_mps:.2f} m/s RMS "
                f"({self.speed_median_mps:.2f} median), track {self.track_rms_rad / DEG_RAD:.2f} deg RMS"
            )
        if self.impossible:
            lines.append(f"  {self.impossible:,} more left out: no aircraft moves as they seem to")
        if np.isfinite(self.climb_rms_mps):
            lines.append(f"  rate of climb {self.climb_rms_mps:.2f} m/s RMS")
        return "\n".join(lines)


class RecordedTraffic:
    """Recorded flights in order of their start, smoothed as they are asked for; stands where Traffic does.

    Args:
        trajectories: cleaned rows by flight and time.
        start_s: time of the table that becomes time 0; flights in the air then begin at 0.
        duration_s: length of the scenario, at which every flight ends; by default that of the table.
        noise: of the recording; measured on it if absent.

    Raises:
        DataError: there is no row, or rows of a flight are not in time order or nearer than 0.1 s.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        *,
        start_s: float = 0.0,
        duration_s: float = np.inf,
        noise: Noise | None = None,
    ) -> None:
        _check(trajectories)
        self.noise = noise or measured_noise(rows_of(trajectories[:_ROWS_TO_MEASURE]))
        inside = (trajectories.time_s >= start_s - 60.0) & (trajectories.time_s <= start_s + duration_s + 60.0)
        kept = trajectories[inside]
        self._table = kept.replace(time_s=kept.time_s - start_s)
        self._duration_s = min(duration_s, float(trajectories.time_s.max()) - start_s)
        self._first, self._count = _flights(self._table.flight_id)
        begin, end = self._table.time_s[self._first], self._table.time_s[self._first + self._count - 1]
        long = np.minimum(end, self._duration_s) - np.maximum(begin, 0.0) >= MIN_FLIGHT_S
        heights = np.add.reduceat(np.isfinite(self._table.altitude_m).astype(int), self._first) if len(begin) else 0
        self._waiting = np.flatnonzero(long & (self._count >= 2) & (heights >= 2))
        self._begin_s = begin
        self._tally = _Tally()

    @property
    def flights(self) -> int:
        """Flights not given yet."""
        return len(self._waiting)

    @property
    def summary(self) -> ReplaySummary:
        """Of the flights given so far."""
        return self._tally.summary(self.noise)

    def until(self, time_s: float) -> tuple[Paths, Fleet] | None:
        """The flights not given before that start before `time_s`, or None."""
        due = self._waiting[self._begin_s[self._waiting] < time_s]
        if len(due) == 0:
            return None
        self._waiting = self._waiting[self._begin_s[self._waiting] >= time_s]
        share = np.cumsum(self._count[due]) // _ROWS_AT_ONCE
        parts = [self._flown(due[share == s]) for s in np.unique(share)]
        flown = Paths.concat([p for p, _ in parts]), Fleet.concat([f for _, f in parts])
        return flown if len(flown[0].start_s) else None

    def _flown(self, which: Ints) -> tuple[Paths, Fleet]:
        counts = self._count[which]
        rows = np.repeat(self._first[which] - np.cumsum(counts) + counts, counts) + np.arange(int(counts.sum()))
        table, flight = self._table[rows], np.repeat(np.arange(len(which)), counts)
        states = smooth(rows_of(table), self.noise)
        paths = to_paths(table.time_s, flight, states)
        possible = _possible(paths)
        self._tally.add(table, flight, states, paths, possible)
        # Pieces outside the scenario stay, so that a flight in the air at its start is smooth there.
        clipped = dataclasses.replace(
            paths, start_s=np.maximum(paths.start_s, 0.0), end_s=np.minimum(paths.end_s, self._duration_s)
        )
        keep = np.flatnonzero(possible)
        return clipped.take(keep), _fleet(self._table, self._first[which]).take(keep)


def _check(trajectories: Trajectories) -> None:
    if not len(trajectories):
        raise DataError("Trajectories: no rows, expected at least two of a flight")
    step_s, same = np.diff(trajectories.time_s), np.diff(trajectories.flight_id) == 0
    if (np.diff(trajectories.flight_id) < 0).any() or (step_s[same] < MIN_STEP_S).any():
        raise DataError(
            f"Trajectories: rows out of order or nearer than {MIN_STEP_S:g} s; expected them by flight_id and time, as "
            "read_trajectories gives them"
        )


def _possible(paths: Paths) -> NDArray[np.bool_]:
    """Which flights (F,) move as aircraft can."""
    s = paths.scalars
    wrong = (np.abs(s[5]) > MAX_BANK_RAD) | (np.abs(s[1]) > MAX_CLIMB_MPS) | (s[3] > MAX_SPEED_MPS)
    return np.asarray(np.bincount(paths.pieces_of(), wrong, len(paths.start_s)) == 0)


def _flights(flight_id: Ints) -> tuple[Ints, Ints]:
    """First row and number of rows of each flight."""
    first = np.flatnonzero(np.diff(flight_id, prepend=-1))
    return first, np.diff(np.append(first, len(flight_id)))


def _fleet(table: Trajectories, rows: Ints) -> Fleet:
    """Identities of flights from their first rows; who reports a position answers Mode S."""
    ids = table.flight_id[rows].astype(np.int64)
    who = np.stack([np.full(len(ids), RECORDED), ids, np.zeros_like(ids)], 1)
    made_up = _CODES[(ids * 1543) % len(_CODES)]
    callsign = np.array([made_up_callsign(int(i)) for i in ids], "S8")
    return Fleet(
        truth_id=ids,
        who=who,
        mode_s=np.ones(len(ids), bool),
        address=table.address[rows].astype(np.int64),
        mode3a=np.where(table.mode3a[rows] >= 0, table.mode3a[rows], made_up).astype(np.int64),
        callsign=np.where(table.callsign[rows] != b"", table.callsign[rows], callsign),
    )


class _Tally:
    """Running sums for the summary."""

    def __init__(self) -> None:
        self.flights, self.impossible, self.stray = 0, 0, 0
        self.speed: list[NDArray[np.float32]] = []
        self.sums = np.zeros(5)  # rows, track², tracks, climb², climbs
        self.seconds = np.zeros(8)

    def add(self, table: Trajectories, flight: Ints, states: States, paths: Paths, possible: NDArray[np.bool_]) -> None:
        good = possible[flight]
        self.flights += int(possible.sum())
        self.impossible += int((~possible).sum())
        self.stray += int(np.sum((states.weight[:, :2].min(1) < STRAY_WEIGHT) & good))
        self.seconds += np.bincount(paths.phase, paths.length_s * possible[paths.pieces_of()], 8)
        table, flight = table[good], flight[good]
        if not len(table):
            return
        state = paths.state(paths.locate(flight, table.time_s), table.time_s)
        speed = state["speed_mps"] - table.ground_speed_mps
        self.speed.append(speed[np.isfinite(speed)].astype("f4"))
        moving = np.isfinite(table.track_angle_rad) & (table.ground_speed_mps > 20.0 * KT_MPS)
        turn = wrapped_angle(state["track_rad"] - table.track_angle_rad)[moving]
        climb = state["climb_mps"] - table.vertical_rate_mps
        known = np.isfinite(climb)
        self.sums += len(table), np.sum(turn**2), moving.sum(), np.sum(climb[known] ** 2), known.sum()

    def summary(self, noise: Noise) -> ReplaySummary:
        rows, track2, tracks, climb2, climbs = self.sums
        speed = np.concatenate([*self.speed, np.zeros(0, "f4")]).astype(float)
        seconds = self.seconds / max(self.seconds.sum(), 1e-9)
        bits = np.arange(8)
        shares = {"steady": float(seconds[0])}
        for name, bit in (("turning", Phase.TURN), ("climbing", Phase.CLIMB), ("changing speed", Phase.SPEED_CHANGE)):
            shares[name] = float(seconds[(bits & bit) > 0].sum())
        return ReplaySummary(
            flights=self.flights,
            impossible=self.impossible,
            rows=int(rows),
            noise=noise,
            stray_share=self.stray / max(rows, 1),
            speed_rms_mps=float(np.sqrt(np.mean(speed**2))) if len(speed) else np.nan,
            speed_median_mps=float(np.median(np.abs(speed))) if len(speed) else np.nan,
            track_rms_rad=float(np.sqrt(track2 / tracks)) if tracks else np.nan,
            climb_rms_mps=float(np.sqrt(climb2 / climbs)) if climbs else np.nan,
            phase_share=shares,
        )
