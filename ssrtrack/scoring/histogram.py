"""Quantiles of a stream in fixed memory: counts over logarithmic bins 0.5 % wide."""

from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.scoring.result import Histogram

Array = NDArray[Any]

WIDTH = log(1.005)
LOWEST, HIGHEST = 1e-6, 1e8  # values outside fall in the outermost bins
BINS = int(np.ceil(log(HIGHEST / LOWEST) / WIDTH)) + 1
EDGES = np.concatenate([[0.0], LOWEST * np.exp(WIDTH * np.arange(BINS)), [np.inf]])


class LogHistogram:
    """Counts of non-negative values; `signed` keeps a second set for negative ones.

    A quantile is interpolated inside its bin: within 0.5 % of the sample's own for magnitudes from 1e-6 to 1e8.
    """

    def __init__(self, *, signed: bool = False) -> None:
        self._positive = np.zeros(BINS + 1, np.int64)
        self._negative = np.zeros(BINS + 1, np.int64)
        self._signed = signed

    def add(self, values: Array) -> None:
        """Count the values; NaN is left out."""
        values = values[~np.isnan(values)]
        if self._signed:
            self._negative += _counts(-values[values < 0.0])
            values = values[values >= 0.0]
        self._positive += _counts(values)

    def __len__(self) -> int:
        return int(self._positive.sum() + self._negative.sum())

    def counts(self) -> Array:
        """All counts, (2, bins): negative values, then the others."""
        return np.stack([self._negative, self._positive])

    def merge(self, counts: Array) -> None:
        """Add another histogram's counts."""
        self._negative += counts[0]
        self._positive += counts[1]

    def quantile(self, q: float) -> float | None:
        """The value below which the share q of all lies; None without values."""
        total = len(self)
        if total == 0:
            return None
        # The q-quantile of n values is between order statistics; rank (n - 1) q, as numpy's default.
        rank = q * (total - 1) + 0.5
        below = int(self._negative.sum())
        if rank < below:
            return -_value_at(self._negative, below - rank)
        return _value_at(self._positive, rank - below)

    def result(self) -> Histogram:
        """Edges and counts, trimmed to the bins in use; the outermost edges are 0 and inf."""
        used = np.flatnonzero(self._positive)
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        first, last = min(first, BINS - 1), max(last, 1)
        inner = EDGES[first + 1 : last + 1]
        counts = self._positive[first : last + 1]
        if inner.size == 0:
            inner, counts = EDGES[first : first + 1], np.concatenate([[0], counts])
        return Histogram(np.concatenate([[0.0], inner, [np.inf]]), counts)


def _counts(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        place = np.log(np.minimum(values, HIGHEST) / LOWEST) / WIDTH
    return np.bincount(np.clip(np.floor(place) + 1, 0, BINS).astype(np.int64), minlength=BINS + 1)


def _value_at(counts: Array, rank: float) -> float:
    cumulative = np.cumsum(counts)
    bin_ = min(int(np.searchsorted(cumulative, rank)), counts.size - 1)
    inside = (rank - (cumulative[bin_] - counts[bin_])) / max(int(counts[bin_]), 1)
    low, high = EDGES[bin_], min(EDGES[bin_ + 1], HIGHEST)
    return float(low + min(max(inside, 0.0), 1.0) * (high - low))
