"""Unroll an estimator over whole flights: batched where it can be, step by step where not."""

from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.batched import batched_backend, run_batched
from ssrtrack.filters.history import TrackHistory, flight_lengths
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.protocol import Estimator, take

Array = NDArray[Any]


@runtime_checkable
class WholeFlights(Protocol):
    """An estimator with a way of its own to run over whole flights, the same to rounding as step by step."""

    def run_batch(self, measurements: Measurements, backend: str, dtype: str) -> TrackHistory:
        """As `run`, for a backend other than "filterpy"."""


def run(
    estimator: Estimator, measurements: Measurements, *, backend: str = "auto", dtype: str = "float64"
) -> TrackHistory:
    """Estimates of all flights of (N, T) measurements.

    A flight starts with the plot in column 0 and ends where its times become NaN; an invalid cell with a finite time
    is a miss (prediction only). Flights may start at different times; each steps by its own true time difference.

    Args:
        estimator: any Estimator; the Kalman filters and IMMs of `ESTIMATORS` have batched backends, as have learned
            trackers, whose base filter it is that `backend` then runs.
        measurements: (N, T) plots of N flights.
        backend: "numba", "torch" or "triton" (see `ssrtrack.kernels.kalman.scan`); "filterpy" calls the estimator's
            own methods column by column, which the Kalman filters hand to filterpy, track by track; "auto" is triton
            where there is a GPU and work for it, else numba, and the estimator's own methods if it has no other.
        dtype: "float64", or "float32" for the batched backends.

    Raises:
        EstimatorError: measurements are not (N, T), a flight has no plot in column 0, times run backwards, or a backend
            that is unknown or cannot run this estimator.
    """
    chosen = batched_backend(estimator, backend, dtype)
    if chosen and isinstance(estimator, Bank):
        return run_batched(estimator, measurements, chosen, dtype)
    if chosen and isinstance(estimator, WholeFlights):
        return estimator.run_batch(measurements, chosen, dtype)
    return _stepwise(estimator, measurements)


def _stepwise(estimator: Estimator, measurements: Measurements) -> TrackHistory:
    start = perf_counter()
    lengths = flight_lengths(measurements)
    # Longest first, so that the flights still alive are always the first rows and states shrink by slicing.
    order = np.argsort(-lengths, kind="stable")
    z = measurements.select(order)
    alive_at = np.searchsorted(-lengths[order], -np.arange(measurements.time_s.shape[1]), side="left")
    # Stored a column at a time, (T, N), so that every write is to one block of memory.
    shape = measurements.time_s.shape[::-1]
    predicted, filtered, used, modes = _empty(shape), _empty(shape), np.zeros(shape, bool), None
    state: Any = None
    for k, alive in enumerate(alive_at):
        if alive == 0:
            break
        column, rows = z.select((slice(0, alive), k)), order[:alive]
        if k == 0:
            state = estimator.init(column)
            used[0, rows] = True
        else:
            state = take(state, slice(0, alive))
            state = estimator.predict(state, column.time_s - z.time_s[:alive, k - 1])
            predicted[0][k, rows], predicted[1][k, rows] = estimator.estimate(state)
            state = estimator.update(state, column, column.valid)
            used[k, rows] = column.valid & (state.gated == 0)
        filtered[0][k, rows], filtered[1][k, rows] = estimator.estimate(state)
        probability = estimator.mode_probability(state)
        if probability is not None:
            modes = np.full((*shape, probability.shape[1]), np.nan) if modes is None else modes
            modes[k, rows] = probability
    modes = None if modes is None else np.swapaxes(modes, 0, 1)
    before = np.swapaxes(predicted[0], 0, 1), np.swapaxes(predicted[1], 0, 1)
    after = np.swapaxes(filtered[0], 0, 1), np.swapaxes(filtered[1], 0, 1)
    return TrackHistory(*before, *after, np.swapaxes(used, 0, 1), modes, perf_counter() - start)


def _empty(shape: tuple[int, ...]) -> tuple[Array, Array]:
    return np.full((*shape, 4), np.nan), np.full((*shape, 4, 4), np.nan)
