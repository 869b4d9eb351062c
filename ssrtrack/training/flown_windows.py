"""Windows of flights with their truth, of one length, as `evaluate` meets them: what a learned tracker trains on.

A stream of plots is cut into flights and measurements by the same code as in scoring; a flight longer than the window
gives several windows, each of which a tracker enters at its first plot, knowing nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar, Truth
from ssrtrack.filters.measurement import SIGMA_HEIGHT_M, Measurements, TrackingFrame, make_measurements, tracking_frame
from ssrtrack.tracking.flights import Cutting, FlightBatch, flights
from ssrtrack.tracking.truth import TruthWindow

Array = NDArray[Any]

MIN_PLOTS = 12  # a shorter window holds little beyond the start of a track


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows of T plots, (N, T) each; NaN (`valid` False) in the padding after a window's last plot.

    Columns as in `Measurements`; truth (N, T, 4) is x, y (m), vx, vy (m/s) in the tracking frame, NaN where it is not
    known. flight (N,) tells windows of one flight from those of another.
    """

    time_s: Array
    position_m: Array
    covariance_m2: Array
    sigma_range_m: Array
    sigma_azimuth_rad: Array
    range_m: Array
    azimuth_rad: Array
    valid: Array
    truth: Array
    flight: Array

    def __len__(self) -> int:
        return int(self.time_s.shape[0])

    @property
    def plots(self) -> int:
        """How many plots there are in all windows."""
        return int(np.count_nonzero(self.valid))

    def take(self, rows: Any) -> Self:
        """Some of the windows: `rows` is a slice, a mask or indices."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Windows of several tables of equal T, one after the other."""
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def windows_of(
    plots: Iterable[Plots],
    truth: Iterable[Truth],
    radars: Radar,
    length: int,
    *,
    sigmas: tuple[Array, Array] | None = None,
) -> Windows | None:
    """All windows of at most `length` plots of a stream with truth, or None if it has no flight long enough.

    Plots are grouped by their true aircraft; a silence of a minute ends a flight.

    Args:
        plots, truth: tables in time order, as a log or the simulator gives them.
        radars: the radars they come from, every one with a site.
        length: plots of a window, and of the longest flight piece.
        sigmas: of range (m) and azimuth (rad) by radar, for plots that state none; by default the radars' own.

    Raises:
        EstimatorError: a plot without standard deviations, or a radar without a site.
        ScoringError: plots or truth out of time order.
    """
    frame = tracking_frame(radars)
    states = TruthWindow(truth, frame.site_rad[0])
    cutting = Cutting(min_plots=MIN_PLOTS, max_plots=length)
    range_m, azimuth_rad = sigmas or (radars.sigma_range_m, radars.sigma_azimuth_rad)
    parts = []
    for batch in flights(plots, identity="truth", cutting=cutting):
        if len(batch):
            z = _measured(batch, length, frame, range_m, azimuth_rad)
            parts.append(_with_truth(batch, z, states))
        if batch.waiting is not None:
            states.forget(batch)
    return Windows.concat(parts) if parts else None


def _measured(
    batch: FlightBatch, length: int, frame: TrackingFrame, range_m: Array, azimuth_rad: Array
) -> Measurements:
    index = batch.index()
    return make_measurements(
        batch.plots,
        np.pad(index, ((0, 0), (0, length - index.shape[1])), constant_values=-1),
        frame,
        sigma_range_m=range_m,
        sigma_azimuth_rad=azimuth_rad,
        sigma_height_m=SIGMA_HEIGHT_M,
    )


def _with_truth(batch: FlightBatch, z: Measurements, states: TruthWindow) -> Windows:
    index = np.where(z.valid, np.cumsum(z.valid).reshape(z.valid.shape) - 1, -1)
    true = states.at(batch.plots.truth_id, batch.plots.time_s).grid(index)
    truth = np.concatenate([true.position_m, true.velocity_mps], -1)
    columns = {f.name: getattr(z, f.name) for f in fields(Windows) if f.name not in ("truth", "flight")}
    return Windows(**columns, truth=truth, flight=np.asarray(batch.keys, np.int64).copy())
