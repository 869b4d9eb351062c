"""Unroll an estimator over whole flights."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.protocol import Estimator, take

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class TrackHistory:
    """Estimates of N flights at T plots each, x, y (m), vx, vy (m/s) in the tracking frame.

    predicted_mean (N, T, 4) and predicted_covariance (N, T, 4, 4) are before the plot was used (NaN in the first
    column); mean and covariance after it. All are NaN in the padding after a flight's end. used (N, T): the plot
    entered the estimate. mode_probability (N, T, M), or None. seconds: wall-clock time of the whole run.
    """

    predicted_mean: Array
    predicted_covariance: Array
    mean: Array
    covariance: Array
    used: Array
    mode_probability: Array | None
    seconds: float


def run(estimator: Estimator, measurements: Measurements) -> TrackHistory:
    """Estimates of all flights of (N, T) measurements.

    A flight starts with the plot in column 0 and ends where its times become NaN; an invalid cell with a finite time
    is a miss (prediction only). Flights may start at different times; each steps by its own true time difference.

    Raises:
        EstimatorError: measurements are not (N, T), a flight has no plot in column 0, or times run backwards.
    """
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


def flight_lengths(measurements: Measurements) -> Array:
    """Number of columns (N,) of each flight before its padding.

    Raises:
        EstimatorError: measurements are not (N, T), start without a plot, or have padding before the end.
    """
    if measurements.time_s.ndim != 2:
        raise EstimatorError(f"run needs (N, T) measurements, got shape {measurements.time_s.shape}")
    alive = np.isfinite(measurements.time_s)
    lengths: Array = alive.sum(1)
    if (alive != (np.arange(alive.shape[1]) < lengths[:, None])).any():
        raise EstimatorError("a flight has padding (NaN time) before its last plot; a miss needs its time, valid=False")
    if (lengths > 0).any() and not measurements.valid[lengths > 0, 0].all():
        raise EstimatorError("a flight has no plot in column 0; start every flight at its first plot")
    return lengths


def _empty(shape: tuple[int, ...]) -> tuple[Array, Array]:
    return np.full((*shape, 4), np.nan), np.full((*shape, 4, 4), np.nan)
