"""A long log in pieces by time, so that several machines share it: exactly the flights of the uncut log, each once.

Traffic never pauses, so a piece owns the flights that *begin* in its span of time. It reads a little before its span,
to see which flights only go on there, and on past its end until the flights it owns have ended. Plots of other flights
are dropped as they are read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots
from ssrtrack.tracking.flights import Cutting, flight_keys, unusable

Array = NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """The span start_s <= time < end_s of a log; infinite at the log's ends."""

    start_s: float
    end_s: float

    def read_from_s(self, gap_s: float) -> float:
        """Plots before this time cannot tell whether a flight begins in the piece; a second covers rounding."""
        return self.start_s - gap_s - 1.0

    def holds(self, time_s: Array) -> Array:
        """Which times (n,) are inside."""
        inside: Array = (time_s >= self.start_s) & (time_s < self.end_s)
        return inside


def pieces_of(cuts: Iterable[float]) -> tuple[Piece, ...]:
    """The pieces between ascending times of cuts, one more than there are cuts."""
    edges = [-np.inf, *cuts, np.inf]
    return tuple(Piece(float(a), float(b)) for a, b in pairwise(edges))


@dataclass(frozen=True)
class _Latest:
    """Per key seen so far (sorted): time of its latest plot, and whether its latest flight is the piece's own."""

    keys: Array
    time_s: Array
    mine: Array

    def of(self, keys: Array) -> tuple[Array, Array]:
        """Time (-inf for a key not seen) and ownership for `keys`."""
        if not self.keys.size:
            return np.full(keys.size, -np.inf), np.zeros(keys.size, bool)
        at = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        known = self.keys[at] == keys
        return np.where(known, self.time_s[at], -np.inf), known & self.mine[at]

    def after(self, keys: Array, time_s: Array, mine: Array, since_s: float) -> "_Latest":
        """With newer values of some keys; keys silent since `since_s` are forgotten, their flights have ended."""
        old = ~np.isin(self.keys, keys) & (self.time_s >= since_s)
        joined = np.concatenate([self.keys[old], keys])
        order = np.argsort(joined, kind="stable")
        return _Latest(
            joined[order],
            np.concatenate([self.time_s[old], time_s])[order],
            np.concatenate([self.mine[old], mine])[order],
        )


def plots_of_piece(
    chunks: Iterable[Plots], piece: Piece, *, identity: str, cutting: Cutting
) -> Iterator[tuple[Plots, Plots]]:
    """Plots of a piece out of a stream that begins at `piece.read_from_s` or before.

    Yields:
        For each chunk read: the plots inside the piece's span, whatever flight they belong to, for counting; and the
        plots to track: those of flights that begin in the piece, with the unusable plots inside its span, so that
        every plot of the log is tracked or left out in one piece alone. Ends with the last flight the piece owns.
    """
    latest = _Latest(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    for chunk in chunks:
        if not len(chunk):
            continue
        usable = np.ones(len(chunk), bool)
        for bad in unusable(chunk, identity, cutting).values():
            usable &= ~bad
        inside, now = piece.holds(chunk.time_s), float(chunk.time_s[-1])
        wanted = inside & ~usable
        rows = np.flatnonzero(usable)
        keys = flight_keys(chunk.address[rows], chunk.truth_id[rows], chunk.radar_id[rows], identity, cutting)
        mine, latest = _owned(keys, chunk.time_s[rows], piece, latest, cutting.gap_s, now)
        wanted[rows] = mine
        yield chunk[inside], chunk[wanted]
        if now >= piece.end_s and not (latest.mine & (latest.time_s >= now - cutting.gap_s)).any():
            return


def _owned(
    keys: Array, time_s: Array, piece: Piece, latest: _Latest, gap_s: float, now: float
) -> tuple[Array, _Latest]:
    """Which plots (n,) belong to flights that begin in the piece, and what the next chunk needs to know."""
    result = np.zeros(keys.size, bool)
    if not keys.size:
        return result, latest
    order = np.lexsort((time_s, keys))
    key, time = keys[order], time_s[order]
    first = np.flatnonzero(np.diff(key, prepend=-1) != 0)
    before_s, was_mine = latest.of(key[first])
    of_key = np.repeat(np.arange(first.size), np.diff(np.append(first, key.size)))
    previous = np.append(-np.inf, time[:-1])
    previous[first] = before_s
    # Each plot follows the latest beginning of its key in this chunk, or else the flight that was going on before.
    begun = np.maximum.accumulate(np.where(time - previous > gap_s, np.arange(key.size), -1))
    here = begun >= first[of_key]
    mine = np.where(here, piece.holds(time[np.maximum(begun, 0)]), was_mine[of_key])
    result[order] = mine
    last = np.append(first[1:], key.size) - 1
    return result, latest.after(key[last], time[last], mine[last], now - gap_s)
