"""Paired bootstrap over flights: every tracker is scored on the same resampled flights.

Updates of one flight are not independent (same manoeuvres, same errors), so whole flights are drawn with replacement.
B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentile intervals).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_FLIGHTS = 5  # fewer flights say nothing about how flights differ
LOW, HIGH = 0.025, 0.975
_BLOCK_CELLS = 4_000_000


def resampled_sums(tables: Sequence[Array], resamples: int, rng: np.random.Generator) -> list[Array]:
    """Column sums (resamples, K) of each table (flights, K) over flights drawn with replacement, alike for all."""
    flights = tables[0].shape[0]
    parts: list[list[Array]] = [[] for _ in tables]
    block = max(1, min(resamples, _BLOCK_CELLS // max(flights, 1)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, flights, (size, flights)) + flights * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * flights).reshape(size, flights).astype(float)
        for part, table in zip(parts, tables, strict=True):
            part.append(times @ table)
    return [np.concatenate(part) for part in parts]


def interval(samples: Array) -> tuple[float, float] | None:
    """The 95 % percentile interval; None if a resample in twenty has no value (too few flights of that kind)."""
    known = samples[np.isfinite(samples)]
    if known.size < 0.95 * samples.size or not known.size:
        return None
    low, high = np.quantile(known, (LOW, HIGH))
    return float(low), float(high)
