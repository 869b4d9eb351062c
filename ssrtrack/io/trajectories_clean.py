"""Cleaning of recorded trajectories: what cannot be true goes, and every row that goes is counted with its reason.

Whole columns at a time; the few loops are over passes. Rows that are merely inaccurate stay: smoothing weighs them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.geodesy import geodetic_to_ecef
from ssrtrack.units import DEG_RAD, FT_M

Array = NDArray[Any]
Columns = dict[str, Array]
_MOST_PASSES = 50
_EXACT_DEG = 1e-8  # a millimetre
_YEAR_10000_S = 253_402_300_800.0  # since 1970; no calendar here goes on


@dataclass(frozen=True)
class Cleaning:
    """Bounds of what is believed; the defaults fit airliners and most military aircraft seen by ADS-B."""

    max_gap_s: float = 60.0  # a longer silence ends a flight: what happened in it is unknown
    min_step_s: float = 0.2  # nearer rows say nothing new of an aircraft that moves by metres between them
    min_rows: int = 6
    min_duration_s: float = 60.0
    max_speed_mps: float = 500.0
    max_climb_mps: float = 150.0  # 30,000 ft/min
    max_acceleration_mps2: float = 20.0  # 2 g, as in a turn with 64° of bank
    position_slack_m: float = 300.0  # what a wrong time stamp may move a position by without making it an outlier
    altitude_slack_m: float = 150.0
    altitude_m: tuple[float, float] = (-600.0, 70_000 * FT_M)
    newest_position_s: float = 5.0  # a position cannot be from later than this after its own row


@dataclass(frozen=True)
class Cleaned:
    """Rows by flight and time with `flight_id`, and counts by reason."""

    rows: Columns
    dropped: dict[str, int] = field(default_factory=dict)
    unset: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)


def clean(columns: Columns, rules: Cleaning) -> Cleaned:
    """Cleaned rows of the columns that `trajectories_columns.to_columns` gives, (n,) each."""
    dropped: dict[str, int] = {}
    unset: dict[str, int] = {}
    splits: dict[str, int] = {}

    def keep(rows: Columns, good: Array, reason: str) -> Columns:
        dropped[reason] = dropped.get(reason, 0) + int(len(good) - good.sum())
        return rows if good.all() else {name: value[good] for name, value in rows.items()}

    rows = dict(columns)
    rows = keep(rows, _complete(rows), "without time, position or address")
    rows = keep(rows, _on_earth(rows), "with an impossible latitude or longitude")
    if "onground" in rows:
        rows = keep(rows, ~rows.pop("onground"), "on the ground")
    rows["altitude_m"], unset["altitudes out of range"] = _altitudes_in_range(rows["altitude_m"], rules)
    rows, unset["speeds, tracks and rates of climb out of range"] = _motion_in_range(rows, rules)
    rows = _timed(rows, rules)
    order = np.lexsort((rows["row_time_s"], rows["time_s"], rows["address"]))
    rows = {name: value[order] for name, value in rows.items()}
    stale, twice = _repeats(rows)
    rows = keep({n: v[~twice] for n, v in rows.items()}, ~stale[~twice], "stale: the position of an earlier row again")
    dropped["second rows of one aircraft at one time"] = int(twice.sum())
    rows = keep(rows, _apart(rows, rules), f"within {rules.min_step_s:g} s of the row before")
    rows = keep(rows, ~_interpolated(rows), "interpolated by others: exactly on the line between their neighbours")
    rows, unset["speeds and tracks repeated to the last digit"] = _fresh_velocity(rows)
    rows, flight = _flights(rows, rules, splits)
    place = _ecef(rows)
    good = _without_spikes(rows["time_s"], place, flight, rules)
    rows, place, flight = keep(rows, good, "outliers off their neighbours"), place[good], flight[good]
    flight = _split_at_jumps(rows["time_s"], place, flight, rules, splits)
    long = _long_enough(rows["time_s"], flight, rules)
    rows, flight = keep(rows, long, "in pieces too short to use"), flight[long]
    rows["altitude_m"], unset["altitudes off their neighbours"] = _plain_altitudes(rows, flight, rules)
    has = _with_altitude(rows["altitude_m"], flight)
    rows, flight = keep(rows, has, "of flights with fewer than two altitudes"), flight[has]
    return Cleaned(_numbered(rows, flight), dropped, unset, splits)


def _complete(rows: Columns) -> Array:
    numbers = ("time_s", "latitude_deg", "longitude_deg")
    good = np.all([np.isfinite(rows[name]) for name in numbers], 0) & (rows["address"] >= 0)
    return np.asarray(good & (rows["time_s"] >= 0.0) & (rows["time_s"] < _YEAR_10000_S))


def _on_earth(rows: Columns) -> Array:
    # Paths fail at the poles; (0, 0) is what broken decoders give.
    lat, lon = rows["latitude_deg"], rows["longitude_deg"]
    return np.asarray((np.abs(lat) <= 88.0) & (lon >= -180.0) & (lon <= 360.0) & ((lat != 0.0) | (lon != 0.0)))


def _altitudes_in_range(altitude_m: Array, rules: Cleaning) -> tuple[Array, int]:
    wrong = (altitude_m < rules.altitude_m[0]) | (altitude_m > rules.altitude_m[1])
    return np.where(wrong, np.nan, altitude_m), int(wrong.sum())


def _motion_in_range(rows: Columns, rules: Cleaning) -> tuple[Columns, int]:
    """Rows without reported motion that no aircraft has, and how many values that are."""
    limits = {
        "ground_speed_mps": (0.0, rules.max_speed_mps),
        "track_angle_rad": (-2.0 * np.pi, 2.0 * np.pi),
        "vertical_rate_mps": (-rules.max_climb_mps, rules.max_climb_mps),
    }
    wrong = {n: (rows[n] < low) | (rows[n] > high) for n, (low, high) in limits.items() if n in rows}
    rows = rows | {name: np.where(bad, np.nan, rows[name]) for name, bad in wrong.items()}
    return rows, sum(int(bad.sum()) for bad in wrong.values())


def _timed(rows: Columns, rules: Cleaning) -> Columns:
    """Rows at the time of their position where it is given; `row_time_s` keeps the time of the row."""
    rows = rows | {"row_time_s": rows["time_s"]}
    if "position_time_s" in rows:
        position = rows.pop("position_time_s")
        believed = position <= rows["time_s"] + rules.newest_position_s
        rows["time_s"] = np.where(believed, position, rows["time_s"])
    return rows


def _same(values: Array) -> Array:
    """Whether a row's value is that of the row before it."""
    return np.concatenate([[False], values[1:] == values[:-1]])[: len(values)]


def _repeats(rows: Columns) -> tuple[Array, Array]:
    """Rows whose position did not move since the row before while time did, and second rows of one time."""
    same = _same(rows["address"])
    still = same & _same(rows["latitude_deg"]) & _same(rows["longitude_deg"])
    at_once = same & _same(rows["time_s"])
    # A row at the time of an earlier position, but later itself, repeats that position.
    later = ~_same(rows["row_time_s"])
    stale = still & (~at_once | later)
    return stale, at_once & ~stale


def _apart(rows: Columns, rules: Cleaning) -> Array:
    """Which rows stay when those too soon after the row before go; of a dense run every second one a pass."""
    good = np.ones(len(rows["time_s"]), bool)
    step_s = rules.min_step_s - 1e-5  # seconds since 1970 are exact to a microsecond
    for _ in range(_MOST_PASSES):
        at = np.flatnonzero(good)
        soon = _same(rows["address"][at]) & (np.diff(rows["time_s"][at], prepend=-np.inf) < step_s)
        if not soon.any():
            break
        # Of adjoining ones the first, third, … go.
        run = np.arange(len(soon)) - np.maximum.accumulate(np.where(~soon, np.arange(len(soon)), 0))
        good[at[soon & (run % 2 == 1)]] = False
    return good


def _interpolated(rows: Columns) -> Array:
    """Rows that someone else has put on the line between their neighbours, where nothing was received.

    Positions are encoded in steps of metres, so that three received ones never lie on one line to a millimetre. What
    stays of such a stretch is its first and last row: a gap, to be judged by its length.
    """
    linear = np.ones(max(len(rows["time_s"]) - 2, 0), bool)
    for name in ("latitude_deg", "longitude_deg"):
        value, time_s = rows[name], rows["time_s"]
        share = (time_s[1:-1] - time_s[:-2]) / np.maximum(time_s[2:] - time_s[:-2], 1e-9)
        linear &= np.abs(value[:-2] + share * (value[2:] - value[:-2]) - value[1:-1]) < _EXACT_DEG
    linear &= (rows["address"][2:] == rows["address"][1:-1]) & (rows["address"][:-2] == rows["address"][1:-1])
    return np.concatenate([[False], linear, [False]])[: len(rows["time_s"])]


def _fresh_velocity(rows: Columns) -> tuple[Columns, int]:
    """Rows without a ground speed and track that are those of the row before: nobody knows how old they are."""
    if "ground_speed_mps" not in rows or "track_angle_rad" not in rows:
        return rows, 0
    old = _same(rows["address"]) & _same(rows["ground_speed_mps"]) & _same(rows["track_angle_rad"])
    names = ("ground_speed_mps", "track_angle_rad")
    return rows | {name: np.where(old, np.nan, rows[name]) for name in names}, int(old.sum())


def _flights(rows: Columns, rules: Cleaning, splits: dict[str, int]) -> tuple[Columns, Array]:
    """Flight of each row: anew for another aircraft, after a gap, and with another callsign."""
    callsign = _filled(rows["callsign"], rows["address"])
    aircraft = ~_same(rows["address"])
    gap = ~aircraft & (np.diff(rows["time_s"], prepend=-np.inf) > rules.max_gap_s)
    renamed = ~aircraft & ~gap & ~_same(callsign)
    splits[f"at a gap of over {rules.max_gap_s:g} s"] = int(gap.sum())
    splits["at a change of callsign"] = int(renamed.sum())
    begins = aircraft | gap | renamed
    if "flight" in rows:
        begins = begins | ~_same(rows.pop("flight"))
    return rows | {"callsign": callsign}, np.cumsum(begins) - 1


def _filled(callsign: Array, address: Array) -> Array:
    """Callsigns with empty ones as the last one of the aircraft before them, or else the first one after."""
    if not len(callsign):
        return callsign
    for step in (1, -1):
        values, owner = callsign[::step], address[::step]
        known = np.where(values != b"", np.arange(len(values)), 0)
        source = np.maximum.accumulate(known)
        callsign = np.where(owner[source] == owner, values[source], values)[::step]
    return callsign


def _ecef(rows: Columns) -> Array:
    """Positions (n, 3) at mean sea level: errors of altitude are not errors of position."""
    lat, lon = rows["latitude_deg"] * DEG_RAD, rows["longitude_deg"] * DEG_RAD
    return np.asarray(geodetic_to_ecef(lat, lon, np.zeros_like(lat)))


def _without_spikes(time_s: Array, place_m: Array, flight: Array, rules: Cleaning) -> Array:
    """Which rows stay when those farthest off the line between their neighbours go, pass after pass.

    With acceleration a, a row lies ½ a Δt₁ Δt₂ off that line; it is an outlier where more than the greatest a and the
    slack are needed. Its neighbours seem to be off as well, by less: only the worst of adjoining rows goes at a time.
    """
    good = np.ones(len(time_s), bool)
    for _ in range(_MOST_PASSES):
        at = np.flatnonzero(good)
        excess = _excess(time_s[at], place_m[at], flight[at], rules)
        worst = (excess > 0) & (excess >= np.append(excess[1:], 0)) & (excess > np.concatenate([[0], excess[:-1]]))
        if not worst.any():
            break
        good[at[worst]] = False
    return good


def _excess(time_s: Array, value: Array, flight: Array, rules: Cleaning) -> Array:
    """By how much each row is farther off the line between its neighbours than is allowed, in m; 0 at flights' ends."""
    if len(time_s) < 3:
        return np.zeros(len(time_s))
    step = np.diff(time_s)
    before, after = step[:-1], step[1:]
    share = before / np.maximum(before + after, 1e-9)
    middle = value[:-2] + share[:, None] * (value[2:] - value[:-2])
    off = np.linalg.norm(value[1:-1] - middle, axis=1)
    allowed = rules.position_slack_m + 0.5 * rules.max_acceleration_mps2 * before * after
    inside = (flight[2:] == flight[1:-1]) & (flight[:-2] == flight[1:-1])
    return np.concatenate([[0.0], np.where(inside, np.maximum(off - allowed, 0.0), 0.0), [0.0]])


def _split_at_jumps(time_s: Array, place_m: Array, flight: Array, rules: Cleaning, splits: dict[str, int]) -> Array:
    """Flights anew where the speed from one row to the next is impossible."""
    distance = np.linalg.norm(np.diff(place_m, axis=0), axis=1) - rules.position_slack_m
    jump = (distance > rules.max_speed_mps * np.diff(time_s)) & (flight[1:] == flight[:-1])
    splits[f"at a jump faster than {rules.max_speed_mps:g} m/s"] = int(jump.sum())
    return flight + np.concatenate([[0], np.cumsum(jump)]) if len(flight) else flight


def _long_enough(time_s: Array, flight: Array, rules: Cleaning) -> Array:
    if not len(flight):
        return np.zeros(0, bool)
    first, counts, owner = _bounds(flight)
    duration = time_s[first + counts - 1] - time_s[first]
    return np.asarray(((counts >= rules.min_rows) & (duration >= rules.min_duration_s))[owner])


def _with_altitude(altitude_m: Array, flight: Array) -> Array:
    if not len(flight):
        return np.zeros(0, bool)
    owner = _bounds(flight)[2]
    return np.asarray((np.bincount(owner, np.isfinite(altitude_m)) >= 2)[owner])


def _bounds(flight: Array) -> tuple[Array, Array, Array]:
    """First row and number of rows of each flight, and each row's flight numbered from 0."""
    begins = ~_same(flight)
    first = np.flatnonzero(begins)
    return first, np.diff(np.append(first, len(flight))), np.cumsum(begins) - 1


def _plain_altitudes(rows: Columns, flight: Array, rules: Cleaning) -> tuple[Array, int]:
    """Altitudes with those that jump out and back set aside, and how many these are."""
    altitude = rows["altitude_m"].copy()
    removed = 0
    for _ in range(_MOST_PASSES):
        at = np.flatnonzero(np.isfinite(altitude))
        allowed = Cleaning(position_slack_m=rules.altitude_slack_m, max_acceleration_mps2=10.0)
        excess = _excess(rows["time_s"][at], altitude[at, None], flight[at], allowed)
        worst = (excess > 0) & (excess >= np.append(excess[1:], 0)) & (excess > np.concatenate([[0], excess[:-1]]))
        if not worst.any():
            break
        altitude[at[worst]] = np.nan
        removed += int(worst.sum())
    return altitude, removed


def _numbered(rows: Columns, flight: Array) -> Columns:
    """Rows with `flight_id` in order of the flights' first positions, and sorted by it."""
    if not len(flight):
        return rows | {"flight_id": flight}
    first, _, owner = _bounds(flight)
    rank = np.empty(len(first), int)
    rank[np.lexsort((rows["address"][first], rows["time_s"][first]))] = np.arange(len(first))
    flight_id = rank[owner]
    order = np.argsort(flight_id, kind="stable")
    rows = {name: value[order] for name, value in rows.items() if name != "row_time_s"}
    return rows | {"flight_id": flight_id[order]}
