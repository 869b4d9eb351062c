"""Estimates of whole flights, and what measurements of whole flights are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.measurement import Measurements

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
