"""What is kept of one tracker while a log streams by: sums per flight, histograms, and means over time.

Nothing here grows with the number of plots; the sums grow with the number of flights.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.scoring.consistency import chi2_quantile, mean_bounds
from ssrtrack.scoring.histogram import LogHistogram
from ssrtrack.scoring.result import Scores, Series

Array = NDArray[Any]

# Scores that are a root of a mean square, or a mean, over updates: what is summed per flight.
RMS, MEAN = Scores.of_kind("rms"), Scores.of_kind("mean")
SUMMED = RMS + MEAN
# Score -> (histogram, quantile, divisor)
QUANTILES: dict[str, tuple[str, float, float]] = {
    "position_p50_m": ("position", 0.50, 1.0),
    "position_p95_m": ("position", 0.95, 1.0),
    "position_p99_m": ("position", 0.99, 1.0),
    "predicted_position_p95_m": ("predicted", 0.95, 1.0),
    "next_plot_p50_m": ("next_plot", 0.50, 1.0),
    "next_plot_p95_m": ("next_plot", 0.95, 1.0),
    "anis_median_ratio": ("nis", 0.50, float(chi2_quantile(0.5, 2))),
    "bds50_ground_speed_median_mps": ("speed", 0.50, 1.0),
    "bds50_ground_speed_p95_mps": ("speed_size", 0.95, 1.0),
    "bds50_track_angle_p95_deg": ("angle_size", 0.95, 1.0),
}
HISTOGRAMS = ("position", "predicted", "next_plot", "nis", "speed", "speed_size", "angle_size")
# Efficiency: the bound over the error, both root mean squares over the same updates.
EFFICIENCY = {
    "position_efficiency": ("position_bound_rms_m", "position_rmse_m"),
    "velocity_efficiency": ("velocity_bound_rms_mps", "velocity_rmse_mps"),
}
SERIES_STEP_S = 10.0
SERIES_BINS = 2160  # six hours
SERIES_POINTS = 120  # what a figure shows
MIN_PER_POINT = 20


class SeriesSums:
    """Mean of a chi-square statistic by time since each flight's first plot."""

    def __init__(self, dof: int, *, independent: bool) -> None:
        self._dof, self._independent = dof, independent
        self._total, self._count, self._flights = np.zeros(SERIES_BINS), np.zeros(SERIES_BINS), np.zeros(SERIES_BINS)

    def add(self, age_s: Array, statistic: Array) -> None:
        """Add (N, T) values at (N, T) ages; NaN is left out."""
        known = np.isfinite(statistic)
        bins = np.where(known, np.minimum(np.nan_to_num(age_s) // SERIES_STEP_S, SERIES_BINS - 1), -1).astype(int)
        self._total += np.bincount(bins[known], statistic[known], minlength=SERIES_BINS)
        self._count += np.bincount(bins[known], minlength=SERIES_BINS)
        entered = known.copy()
        entered[:, 1:] &= bins[:, 1:] != bins[:, :-1]
        self._flights += np.bincount(bins[entered], minlength=SERIES_BINS)

    def sums(self) -> Array:
        """All sums, (3, bins): of the statistic, of its values, of flights."""
        return np.stack([self._total, self._count, self._flights])

    def merge(self, sums: Array) -> None:
        """Add another one's sums."""
        self._total += sums[0]
        self._count += sums[1]
        self._flights += sums[2]

    def series(self) -> Series:
        """At most 120 points, none with fewer than 20 values; bounds for as many independent values as there are.

        Innovations of a matched filter are independent; estimation errors of one flight are not and count once a bin.
        """
        used = int(np.flatnonzero(self._count).max(initial=-1)) + 1
        width = max(1, -(-used // SERIES_POINTS))
        edges = np.arange(0, used, width)
        if not edges.size:
            return Series(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
        total, count = np.add.reduceat(self._total[:used], edges), np.add.reduceat(self._count[:used], edges)
        flights = np.maximum.reduceat(self._flights[:used], edges)
        keep = count >= min(MIN_PER_POINT, count.max())
        low, high = mean_bounds(count if self._independent else flights, self._dof)
        centre = (edges + 0.5 * width) * SERIES_STEP_S
        mean = total / np.maximum(count, 1) / self._dof
        return Series(centre[keep], mean[keep], low[keep], high[keep])


class Tally:
    """One tracker's sums."""

    def __init__(self) -> None:
        self._sums: list[Array] = []  # per batch (flights, 2 * len(SUMMED)): numerators, then denominators
        self.histograms = {name: LogHistogram(signed=name == "speed") for name in HISTOGRAMS}
        self.nees = SeriesSums(4, independent=False)
        self.nis = SeriesSums(2, independent=True)
        self.seconds = 0.0

    def add(self, values: Mapping[str, Array], ratios: Mapping[str, tuple[Array, Array]]) -> None:
        """Add one batch.

        Args:
            values: score key -> (N, T); a score is the mean (or root mean) of the cells that are not NaN.
            ratios: score key -> numerator and denominator (N, T), for scores that are quotients of sums.
        """
        rows = next(iter(values.values())).shape[0]
        sums = np.zeros((rows, 2 * len(SUMMED)))
        numerator, denominator = sums[:, : len(SUMMED)], sums[:, len(SUMMED) :]
        for name, cells in values.items():
            column, known = SUMMED.index(name), ~np.isnan(cells)
            numerator[:, column] = np.sum(cells, axis=1, where=known)
            denominator[:, column] = known.sum(1)
        for name, (above, below) in ratios.items():
            column = SUMMED.index(name)
            numerator[:, column], denominator[:, column] = np.nansum(above, axis=1), np.nansum(below, axis=1)
        self._sums.append(sums)

    def table(self) -> Array:
        """Numerators and denominators of all flights, (flights, 2 * len(SUMMED))."""
        if len(self._sums) != 1:
            self._sums = [np.concatenate([np.zeros((0, 2 * len(SUMMED))), *self._sums])]
        return self._sums[0]

    def arrays(self) -> dict[str, Array]:
        """Everything it holds, as arrays that can be stored and merged."""
        histograms = {f"histogram/{name}": histogram.counts() for name, histogram in self.histograms.items()}
        series = {"nees": self.nees.sums(), "nis": self.nis.sums()}
        return histograms | series | {"flights": self.table(), "seconds": np.array(self.seconds)}

    def merge(self, arrays: Mapping[str, Array]) -> None:
        """Add what another tally holds; its flights come after those already here."""
        for name, histogram in self.histograms.items():
            histogram.merge(arrays[f"histogram/{name}"])
        self.nees.merge(arrays["nees"])
        self.nis.merge(arrays["nis"])
        self._sums.append(arrays["flights"])
        self.seconds += float(arrays["seconds"])


def score_values(sums: Array) -> dict[str, Array]:
    """Scores (B,) by key from sums (B, 2 * len(SUMMED)); NaN where nothing was summed."""
    half = len(SUMMED)
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.where(sums[:, half:] != 0.0, sums[:, :half] / sums[:, half:], np.nan)
        values = {name: quotient[:, i] for i, name in enumerate(SUMMED)}
        values |= {name: np.sqrt(values[name]) for name in RMS}
        values |= {name: values[bound] / values[error] for name, (bound, error) in EFFICIENCY.items()}
    return values
