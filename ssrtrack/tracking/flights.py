"""Plots to flights: a stream of plots is grouped by identity and cut at silences, in bounded memory.

One pending table holds the plots of flights that may still go on. Each chunk joins it, both are sorted by identity and
time, flights that ended are handed on in batches and the rest waits. No Python object exists per flight.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import PlotFlag, Plots
from ssrtrack.errors import ScoringError
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.units import NM_M

Array = NDArray[Any]

IDENTITIES = ("truth", "address")
# The columns that tracking and scoring read; the others would only cost memory here.
COLUMNS = (
    "time_s",
    "radar_id",
    "range_m",
    "azimuth_rad",
    "mode3a",
    "pressure_altitude_m",
    "address",
    "plot_type",
    "flags",
    "sigma_range_m",
    "sigma_azimuth_rad",
    "truth_id",
    "track_angle_rad",
    "ground_speed_mps",
)
NOT_AIRCRAFT = PlotFlag.SIMULATED | PlotFlag.TEST | PlotFlag.FIXED_TRANSPONDER
NOT_DETECTED = 0  # I048/020 TYP: the position is the radar's own extrapolation
MAX_RANGE_M = 512.0 * NM_M
# Nearer than this a recording shows the ground of the radar's own airport: on the real Barcelona hour 99.8 %
# of plots up to 2 NM have no altitude or one under 500 ft, from 2 to 3 NM 5 %.
MIN_RANGE_M = 2.0 * NM_M

# Why plots are left out; the order is the order in which they are counted.
NO_ADDRESS = "no 24-bit address"
NO_TRUTH_ID = "false plot or no true aircraft"
TEST_TARGET = "simulated, test or fixed transponder"
UNDETECTED = "no detection (CAT048 type 0: the radar's own extrapolation)"
REPEATED_TIME = "second plot of a flight at one time"
JUMP = "far off its neighbours (reflection, wrong address)"
STATIONARY = "target that does not move"
SHORT_FLIGHT = "flight too short"


def out_of_range(rule: "Cutting") -> tuple[str, str]:
    """The reasons for which plots too near and too far are left out."""
    near = f"at most {rule.min_range_m / NM_M:g} NM from the radar"
    return near, f"over {rule.max_range_m / NM_M:g} NM from the radar"


# A single plot further off both its neighbours than an aircraft can fly, while these agree with each other. The margin
# holds 5 sigma of the poorest radars' noise: 1 km + range x 0.6 deg.
MAX_SPEED_MPS, JUMP_MARGIN_M, JUMP_MARGIN_RAD = 600.0, 1000.0, 0.0105
# A whole flight inside this much range and cross-range: a field monitor or a parked aircraft.
STATIONARY_RANGE_M, STATIONARY_CROSS_M = 200.0, 500.0


@dataclass(frozen=True)
class FlightBatch:
    """Some whole flights. `plots` is sorted by flight, then time; flight i is rows starts[i]:starts[i + 1]."""

    plots: Plots
    starts: Array  # (n + 1,)
    keys: Array  # (n,) 24-bit address or truth id
    flight_ids: Array  # (n,) running number
    radar_id: int  # -1: flights may join several radars
    read: int = 0  # plots read from the stream since the batch before
    excluded: dict[str, int] = field(default_factory=dict)  # plots left out since the batch before, by reason
    # After the last batch of a round: aircraft (truth ids) with plots that wait, and when those begin.
    waiting: tuple[Array, Array] | None = None
    now_s: float = 0.0  # end of the stream as read so far

    def __len__(self) -> int:
        return int(self.starts.size - 1)

    def index(self) -> Array:
        """Rows of each flight side by side, (n, T) with T the longest flight; -1 is padding at the end."""
        lengths = np.diff(self.starts)
        columns = np.arange(int(lengths.max(initial=0)))
        return np.where(columns < lengths[:, None], self.starts[:-1, None] + columns, -1)


@dataclass(frozen=True)
class Cutting:
    """How plots become flights.

    A silence longer than `gap_s` starts a new flight; flights under `min_plots` are left out; a flight of more than
    `max_plots` is cut into pieces of that length. If more than `max_pending` plots wait, the longest flights are cut
    where they are. A batch has at most `batch_cells` cells (flights x longest flight), or one flight.
    """

    gap_s: float = 60.0
    min_plots: int = 10
    max_plots: int = 20_000
    max_pending: int = 1_000_000
    batch_cells: int = 200_000
    min_range_m: float = 0.0
    max_range_m: float = MAX_RANGE_M
    per_radar: bool = False  # flights never join radars (their relative position is not known)
    implausible: bool = False  # leave out jumps and targets that do not move (recordings)
    detected: bool = False  # leave out plot type 0, for logs that tell types apart (there 0 is "no detection")


@dataclass(frozen=True)
class _Sorted:
    """Selected columns sorted by key and time, with each row's flight: `first` marks a flight's first row."""

    columns: dict[str, Array]
    key: Array
    first: Array

    @property
    def starts(self) -> Array:
        return np.append(np.flatnonzero(self.first), self.first.size)


def flights(plot_chunks: Iterable[Plots], *, identity: str, cutting: Cutting | None = None) -> Iterator[FlightBatch]:
    """Flights of a time-ordered stream of plots, in batches, as soon as they are known to have ended.

    Args:
        plot_chunks: tables of plots, time-ordered within and across chunks.
        identity: "truth" (the plots' truth_id) or "address" (24-bit address).
        cutting: limits, see `Cutting`.

    Yields:
        Batches; their `read` and `excluded` add up to the whole stream. The last one may hold no flight.

    Raises:
        ScoringError: unknown identity, or the stream steps back in time.
    """
    if identity not in IDENTITIES:
        raise ScoringError(f"identity is {identity!r}, expected one of {', '.join(IDENTITIES)}")
    rule = cutting or Cutting()
    waiting: dict[str, Array] | None = None
    excluded: Counter[str] = Counter()
    read, number, now = 0, 0, -np.inf
    for chunk in plot_chunks:
        if not len(chunk):
            continue
        if chunk.time_s[0] < now or (np.diff(chunk.time_s) < 0).any():
            raise ScoringError("plots are not in time order; read them with LogReader.plots, which sorts them")
        now, read = float(chunk.time_s[-1]), read + len(chunk)
        table = _sorted(_joined(waiting, _selected(chunk, identity, rule, excluded)), identity, rule, excluded)
        ended = _ended(table, now, rule)
        waiting = _rows(table.columns, ~np.repeat(ended, np.diff(table.starts)))
        for batch in _batches(table, ended, number, rule, excluded):
            yield _with_tally(batch, read, excluded, None, now)
            read, number = 0, number + len(batch)
        yield _with_tally(_no_flight(), read, excluded, _first_times(waiting), now)
        read = 0
    if waiting is not None:
        table = _sorted(waiting, identity, rule, excluded)
        for batch in _batches(table, np.ones(table.starts.size - 1, bool), number, rule, excluded):
            yield _with_tally(batch, read, excluded, None, now)
    yield _with_tally(_no_flight(), read, excluded, None, now)


def unusable(chunk: Plots, identity: str, rule: Cutting) -> dict[str, Array]:
    """Why single plots cannot belong to a flight: reason -> (n,) bool. A plot may have several."""
    near, far = out_of_range(rule)
    return {
        TEST_TARGET: (chunk.flags & int(NOT_AIRCRAFT)) != 0,
        UNDETECTED: (chunk.plot_type == NOT_DETECTED) & rule.detected,
        NO_ADDRESS if identity == "address" else NO_TRUTH_ID: (
            chunk.address <= 0 if identity == "address" else chunk.truth_id < 0
        ),
        near: ~(chunk.range_m > rule.min_range_m),
        far: ~(chunk.range_m <= rule.max_range_m),
    }


def flight_keys(address: Array, truth_id: Array, radar_id: Array, identity: str, rule: Cutting) -> Array:
    """One number per plot (n,) that plots of one flight share."""
    key = (address if identity == "address" else truth_id).astype(np.int64)
    return key * 65536 + radar_id if rule.per_radar else key


def _selected(chunk: Plots, identity: str, rule: Cutting, excluded: Counter[str]) -> dict[str, Array]:
    """The columns of plots that can belong to a flight; the others are counted by their first reason."""
    keep = np.ones(len(chunk), bool)
    for reason, bad in unusable(chunk, identity, rule).items():
        excluded[reason] += int(np.count_nonzero(keep & bad))
        keep &= ~bad
    return {name: getattr(chunk, name)[keep] for name in COLUMNS}


def _joined(waiting: dict[str, Array] | None, new: dict[str, Array]) -> dict[str, Array]:
    if waiting is None:
        return new
    return {name: np.concatenate([waiting[name], new[name]]) for name in new}


def _rows(columns: dict[str, Array], rows: Array) -> dict[str, Array]:
    return {name: column[rows] for name, column in columns.items()}


def _sorted(columns: dict[str, Array], identity: str, rule: Cutting, excluded: Counter[str]) -> _Sorted:
    """Rows by key and time, later plots at an equal time dropped, flights cut at gaps and at the maximal length."""
    key = flight_keys(columns["address"], columns["truth_id"], columns["radar_id"], identity, rule)
    order = np.lexsort((columns["time_s"], key))
    columns, key = _rows(columns, order), key[order]
    other_key = np.diff(key, prepend=-1) != 0
    repeated = ~other_key & (np.diff(columns["time_s"], prepend=-np.inf) <= 0)
    if repeated.any():
        excluded[REPEATED_TIME] += int(np.count_nonzero(repeated))
        columns, key = _rows(columns, ~repeated), key[~repeated]
        other_key = np.diff(key, prepend=-1) != 0
    first = other_key | (np.diff(columns["time_s"], prepend=-np.inf) > rule.gap_s)
    return _Sorted(columns, key, _cut_long(first, rule.max_plots))


def _cut_long(first: Array, max_plots: int) -> Array:
    rows = np.arange(first.size)
    in_flight = rows - np.maximum.accumulate(np.where(first, rows, 0))
    cut: Array = first | (in_flight % max_plots == 0)
    return cut


def _ended(table: _Sorted, now: float, rule: Cutting) -> Array:
    """Which flights no later plot can join, (flights,) bool."""
    starts = table.starts
    if starts.size == 1:
        return np.zeros(0, bool)
    lengths, last_s = np.diff(starts), table.columns["time_s"][starts[1:] - 1]
    # A full piece waits until the time has moved on: a second plot at its last time must still be recognised.
    ended: Array = (last_s < now - rule.gap_s) | ((lengths >= rule.max_plots) & (last_s < now))
    # A flight followed by another one of the same key ended at the gap between them.
    ended[:-1] |= table.key[starts[1:-1]] == table.key[starts[1:-1] - 1]
    pending = int(lengths[~ended].sum())
    for i in np.argsort(-np.where(ended, 0, lengths), kind="stable") if pending > rule.max_pending else ():
        if pending <= rule.max_pending // 2:
            break
        ended[i] = True
        pending -= int(lengths[i])
    return ended


def _batches(table: _Sorted, ended: Array, number: int, rule: Cutting, excluded: Counter[str]) -> Iterator[FlightBatch]:
    """The ended flights, longest first so that padding is small, in batches of bounded size."""
    if rule.implausible:
        table, ended = _plausible(table, ended, excluded)
    starts, lengths = table.starts[:-1], np.diff(table.starts)
    short = ended & (lengths < rule.min_plots)
    excluded[SHORT_FLIGHT] += int(lengths[short].sum())
    chosen = np.flatnonzero(ended & ~short)
    radar = table.columns["radar_id"][starts[chosen]].astype(int) if rule.per_radar else np.full(chosen.size, -1)
    order = np.lexsort((chosen, -lengths[chosen], radar))
    chosen, radar = chosen[order], radar[order]
    at = 0
    while at < chosen.size:
        room = max(1, rule.batch_cells // int(lengths[chosen[at]]))
        end = min(at + room, int(np.searchsorted(radar, radar[at], "right")))
        part = chosen[at:end]
        offsets = np.concatenate([[0], np.cumsum(lengths[part])])
        rows = np.repeat(starts[part] - offsets[:-1], lengths[part]) + np.arange(offsets[-1])
        key = table.key[starts[part]]
        yield FlightBatch(
            plots=Plots(**_rows(table.columns, rows)),
            starts=offsets,
            keys=key // 65536 if rule.per_radar else key,
            flight_ids=np.arange(number, number + part.size),
            radar_id=int(radar[at]),
        )
        number, at = number + part.size, end


def _plausible(table: _Sorted, ended: Array, excluded: Counter[str]) -> tuple[_Sorted, Array]:
    """The ended flights alone, without jumps and without those that do not move."""
    flight = np.cumsum(table.first) - 1
    rows = ended[flight] if flight.size else np.zeros(0, bool)
    jump = _jumps(table) & rows
    excluded[JUMP] += int(np.count_nonzero(jump))
    still = np.zeros(ended.size, bool)
    if rows.any():
        still = ended & _stationary(table)
        excluded[STATIONARY] += int(np.count_nonzero(still[flight] & ~jump))
    keep = rows & ~jump & (~still[flight] if flight.size else rows)
    kept_flight = flight[keep]
    first = np.diff(kept_flight, prepend=-1) != 0
    kept = _Sorted(_rows(table.columns, keep), table.key[keep], first)
    return kept, np.ones(kept.starts.size - 1, bool)


def _jumps(table: _Sorted) -> Array:
    """Plots (n,) far off both neighbours of their flight and radar while the neighbours agree."""
    c = table.columns
    jump = np.zeros(table.first.size, bool)
    if jump.size < 3:
        return jump
    x, y = c["range_m"] * np.sin(c["azimuth_rad"]), c["range_m"] * np.cos(c["azimuth_rad"])

    def far(step: int) -> Array:
        moved = np.hypot(x[step:] - x[:-step], y[step:] - y[:-step])
        margin = JUMP_MARGIN_M + JUMP_MARGIN_RAD * np.maximum(c["range_m"][step:], c["range_m"][:-step])
        apart: Array = moved > MAX_SPEED_MPS * (c["time_s"][step:] - c["time_s"][:-step]) + margin
        return apart

    joined = ~table.first[1:]
    step = far(1) & joined & (c["radar_id"][1:] == c["radar_id"][:-1])
    before, after = np.append(False, step), np.append(step, False)  # far from the plot before, after
    begins, ends = table.first, np.append(~joined, True)
    jump[1:-1] = before[1:-1] & after[1:-1] & ~far(2)
    # At a flight's end only one neighbour can tell; it is believed if its own other neighbour agrees with it.
    jump |= ends & ~begins & before & ~np.append(False, before[:-1]) | begins & ~ends & after & ~np.append(
        after[1:], False
    )
    return jump


def _stationary(table: _Sorted) -> Array:
    """Flights (flights,) whose plots all lie within a small patch."""
    starts, c = table.starts[:-1], table.columns
    offset = c["azimuth_rad"] - np.repeat(c["azimuth_rad"][starts], np.diff(table.starts))
    offset = wrapped_angle(offset)
    deep = np.maximum.reduceat(c["range_m"], starts) - np.minimum.reduceat(c["range_m"], starts)
    turned = np.maximum.reduceat(offset, starts) - np.minimum.reduceat(offset, starts)
    wide = turned * np.maximum.reduceat(c["range_m"], starts)
    still: Array = (deep < STATIONARY_RANGE_M) & (wide < STATIONARY_CROSS_M)
    return still


def _no_flight() -> FlightBatch:
    return FlightBatch(Plots.empty(), np.zeros(1, int), np.zeros(0, int), np.zeros(0, int), -1)


def _with_tally(
    batch: FlightBatch, read: int, excluded: Counter[str], waiting: tuple[Array, Array] | None, now: float
) -> FlightBatch:
    """The batch with what was counted since the last one; the counter starts again."""
    counted = {reason: n for reason, n in excluded.items() if n}
    excluded.clear()
    return FlightBatch(
        batch.plots, batch.starts, batch.keys, batch.flight_ids, batch.radar_id, read, counted, waiting, now
    )


def _first_times(waiting: dict[str, Array]) -> tuple[Array, Array]:
    """Each waiting aircraft's truth id (ascending) and the time of its first waiting plot."""
    order = np.lexsort((waiting["time_s"], waiting["truth_id"]))
    ids, first = np.unique(waiting["truth_id"][order], return_index=True)
    return ids, waiting["time_s"][order][first]
