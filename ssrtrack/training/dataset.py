"""Windows of flights out of logs, shuffled anew in every pass: batch k is a function of the logs, the seed and k."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

import numpy as np

from ssrtrack.errors import TrainingError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.tracking.flights import Cutting
from ssrtrack.tracking.sigma import choose_sigmas
from ssrtrack.training.flown_simulated import FLIGHTS_APART
from ssrtrack.training.flown_windows import MIN_PLOTS, Array, Windows, windows_of

_PASS = 104  # first word of the spawn key of a pass's order


def read_flights(logs: Sequence[str | PathLike[str]], length: int) -> Windows:
    """All windows of at most `length` plots of the logs, in memory: about 130 bytes a plot.

    Raises:
        TrainingError: no log, a log without truth or without a flight long enough.
        LogError, EstimatorError, ScoringError: a log that cannot be read or tracked.
    """
    if not logs:
        raise TrainingError("no log to train on; name at least one")
    parts = []
    for number, path in enumerate(logs):
        with LogReader(path) as reader:
            part = _windows(reader, length)
        parts.append(replace(part, flight=part.flight + number * FLIGHTS_APART))
    return Windows.concat(parts)


def check_logs(logs: Sequence[str | PathLike[str]]) -> None:
    """Raises TrainingError for a log without truth, LogError for what is no log; reads none of it."""
    for path in logs:
        with LogReader(path) as reader:
            _check_truth(reader)


def _check_truth(reader: LogReader) -> None:
    if not reader.has_truth:
        raise TrainingError(
            f"{reader.path}: has no truth, and a learned tracker is trained against true states; train on logs from "
            "`ssrtrack simulate` (a recording is enough to tune a classical tracker with `ssrtrack train imm`)"
        )


def _windows(reader: LogReader, length: int) -> Windows:
    _check_truth(reader)
    chosen = choose_sigmas(reader, "truth", Cutting(min_plots=MIN_PLOTS), None, None)
    sigmas = chosen.range_m, chosen.azimuth_rad
    found = windows_of(reader.plots(), reader.truth(), reader.radars, length, sigmas=sigmas)
    if found is None:
        raise TrainingError(f"{reader.path}: no flight has {MIN_PLOTS} plots, so there is nothing to train on")
    if not np.isfinite(found.truth).any():
        raise TrainingError(f"{reader.path}: its truth has no state at the time of any plot; check the log's times")
    return found


def split_by_flight(windows: Windows, share: float, seed: int) -> tuple[Windows, Windows]:
    """Windows of most aircraft, and those of about `share` of the aircraft (at least one), drawn by the seed.

    Aircraft of one number are held out in all logs together: the logs may be of the same flights, seen by other radars.

    Raises:
        TrainingError: all windows are of aircraft of one number.
    """
    aircraft = windows.flight % FLIGHTS_APART
    ids = np.unique(aircraft)
    if ids.size < 2:
        raise TrainingError(
            f"all flights are of aircraft {int(ids[0])}, so none can be held out for validation; give a log with more "
            "aircraft, or --validation"
        )
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_PASS, 0)))).permutation(ids)
    held = np.isin(aircraft, drawn[: max(1, round(share * ids.size))])
    return windows.take(~held), windows.take(held)


class LoggedFlights:
    """One process's part of endless batches of windows from logs; the interface of `SimulatedFlights`."""

    def __init__(self, windows: Windows, seed: int, batch: int, rank: int = 0, world: int = 1) -> None:
        if batch % world:
            raise TrainingError(
                f"{world} processes cannot share a batch of {batch} windows; give a multiple of {world}"
            )
        self._all, self._seed, self._batch = windows, seed, batch
        self._mine = slice(rank * batch // world, (rank + 1) * batch // world)

    def windows(self, k: int) -> Windows:
        """This process's windows of batch k: passes follow one another without a gap, each in an order of its own."""
        at = k * self._batch + np.arange(self._batch)
        number, place = np.divmod(at, len(self._all))
        rows = [self._order(int(n))[place[number == n]] for n in np.unique(number)]
        return self._all.take(np.concatenate(rows)[self._mine])

    def _order(self, number: int) -> Array:
        stream = np.random.SeedSequence(self._seed, spawn_key=(_PASS, 1 + number))
        order: Array = np.random.Generator(np.random.PCG64(stream)).permutation(len(self._all))
        return order
