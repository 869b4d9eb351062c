"""From sums per flight to curves over a sweep's levels: bands, break points, areas (docs/robustness.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import ScoringError
from ssrtrack.scoring.bootstrap import HIGH, LOW, MIN_FLIGHTS, interval, resampled_sums
from ssrtrack.scoring.degrade import AXES

Array = NDArray[Any]

LOST = "lost_share"
BREAK_FACTOR = 2.0  # a tracker breaks where its error is this many times the reference's on undegraded plots
REFERENCE = "imm"
# Score -> unit.
WITH_TRUTH = {
    "scan_position_rmse_m": "m",
    "position_rmse_m": "m",
    "predicted_position_rmse_m": "m",
    "velocity_rmse_mps": "m/s",
    "coverage_95": "1",
    LOST: "1",
}
# A few displaced plots decide an RMS without truth, so the mean distance comes first there.
WITHOUT_TRUTH = {"next_plot_mean_m": "m", "next_plot_rmse_m": "m", LOST: "1"}


def keys_of(has_truth: bool) -> tuple[str, ...]:
    """Score keys of a sweep."""
    return tuple(WITH_TRUTH if has_truth else WITHOUT_TRUTH)


def main_key(axis: str, has_truth: bool) -> str:
    """The score that decides break points and areas of an axis."""
    return AXES[axis].main if has_truth else "next_plot_mean_m"


@dataclass(frozen=True, eq=False)
class Curve:
    """One tracker over the levels. scores: key -> (L,), NaN unknown; intervals: key -> (L, 2), 95 %, NaN unknown.

    break_level: the level at which the main score exceeds the sweep's limit, interpolated; None: at none of them.
    break_interval: its 95 % interval from the milder to the worse end, None for an end beyond the last level; None
    without intervals. area_ratio: area under the main score over that of the reference, with its 95 % interval.
    """

    tracker: str
    scores: dict[str, Array]
    intervals: dict[str, Array]
    break_level: float | None
    break_interval: tuple[float | None, float | None] | None
    area_ratio: float | None
    area_interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Sweep:
    """One axis: every tracker's curve over the same degraded plots."""

    axis: str  # of AXES
    levels: Array  # (L,), the undegraded one first, then from mild to bad
    key: str  # the main score
    reference: str  # tracker that limit and areas refer to
    limit: float  # of the main score: BREAK_FACTOR times the reference's on undegraded plots
    flights: int  # with a scored scan
    curves: tuple[Curve, ...]


class SweepSums:
    """Sums per flight of every tracker and level of one axis."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = np.array(levels)
        self._parts: dict[str, list[list[Array]]] = {}

    def add(self, tracker: str, level: int, sums: Array) -> None:
        """Add one batch's flights (N, 2 K) at level number `level`."""
        self._parts.setdefault(tracker, [[] for _ in self.levels])[level].append(sums)

    def merge(self, other: "SweepSums") -> None:
        """Add what another one of the same levels holds: later flights of its trackers, or other trackers."""
        for tracker, levels in other._parts.items():
            own = self._parts.setdefault(tracker, [[] for _ in self.levels])
            for mine, theirs in zip(own, levels, strict=True):
                mine.extend(theirs)

    @property
    def trackers(self) -> list[str]:
        """Names in the order in which they came."""
        return list(self._parts)

    def table(self, order: Array) -> Array:
        """All sums, (flights, trackers, levels, 2 K), rows in the given order."""
        return np.stack(
            [np.stack([np.concatenate(level)[order] for level in levels], 1) for levels in self._parts.values()], 1
        )


def curves(
    axis: str,
    sums: SweepSums,
    order: Array,
    *,
    has_truth: bool,
    bootstrap: int,
    seed: int,
    reference: str | None = None,
) -> Sweep:
    """Curves, break points and areas of one axis.

    Args:
        order: (flights,) rows of the sums in an order that does not depend on how the log was read.
        bootstrap: resamples of whole flights, the same ones for all trackers and levels; 0 for no intervals.
        reference: tracker that areas refer to; None is "imm", or the first tracker where there is none.
    """
    keys, main = keys_of(has_truth), main_key(axis, has_truth)
    table = sums.table(order)
    table = table[table[:, 0, 0, -1] > 0]  # flights without a scored scan, which no level changes
    flights, shape = table.shape[0], table.shape[1:]
    chosen = reference or (REFERENCE if REFERENCE in sums.trackers else sums.trackers[0])
    first = sums.trackers.index(chosen)
    value = _values(table.sum(0), keys)
    sample = None
    if bootstrap and flights >= MIN_FLIGHTS:
        (drawn,) = resampled_sums([table.reshape(flights, -1)], bootstrap, np.random.default_rng(seed))
        sample = _values(drawn.reshape(-1, *shape), keys)
    if not flights:
        raise ScoringError(
            f"sweep {axis}: no flight is long enough to be scored up to level {sums.levels[-1]:g}; ask for less"
        )
    return Sweep(
        axis=axis,
        levels=sums.levels,
        key=main,
        reference=chosen,
        limit=float(BREAK_FACTOR * value[main][first, 0]),
        flights=flights,
        curves=tuple(_curve(name, i, first, value, sample, main, sums.levels) for i, name in enumerate(sums.trackers)),
    )


def _values(sums: Array, keys: Sequence[str]) -> dict[str, Array]:
    """Scores (...) by key from sums (..., 2 K); NaN where nothing was summed."""
    half = len(keys)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(sums[..., half:] > 0.0, sums[..., :half] / sums[..., half:], np.nan)
    return {key: np.sqrt(mean[..., i]) if "_rmse_" in key else mean[..., i] for i, key in enumerate(keys)}


def _curve(
    name: str,
    i: int,
    first: int,
    value: dict[str, Array],
    sample: dict[str, Array] | None,
    key: str,
    levels: Array,
) -> Curve:
    severity = np.abs(levels - levels[0])
    main, base = value[key][i], value[key][first]
    broken = crossing(severity, main[None], BREAK_FACTOR * base[None, 0])[0]
    own, others, span = area(severity, main), area(severity, base), None
    intervals, breaks = {}, None
    if sample is not None:
        intervals = {k: np.array([interval(v[:, i, j]) or (np.nan, np.nan) for j in range(v.shape[2])])
                     for k, v in sample.items()}  # fmt: skip
        found = crossing(severity, sample[key][:, i], BREAK_FACTOR * sample[key][:, first, 0])
        # Order statistics themselves: between a level and "beyond the last" nothing can be interpolated.
        ends = np.quantile(found, (LOW, HIGH), method="inverted_cdf")
        breaks = _level(levels, ends[0]), _level(levels, ends[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            span = interval(area(severity, sample[key][:, i]) / area(severity, sample[key][:, first]))
    return Curve(
        tracker=name,
        scores={k: v[i] for k, v in value.items()},
        intervals=intervals,
        break_level=_level(levels, broken),
        break_interval=breaks,
        area_ratio=float(own / others) if np.isfinite(own) and others > 0.0 else None,
        area_interval=span,
    )


def _level(levels: Array, severity: float) -> float | None:
    """The level that far from the undegraded one; None for infinity."""
    return float(levels[0] + np.copysign(severity, levels[-1] - levels[0])) if np.isfinite(severity) else None


def crossing(severity: Array, error: Array, limit: Array) -> Array:
    """Where curves (B, L) over severity (L,) first exceed their limit (B,), linear between levels; inf: nowhere."""
    found = np.full(error.shape[0], np.inf)
    above = error > limit[:, None]
    row = np.flatnonzero(above.any(1))
    k = above[row].argmax(1)
    found[row] = severity[k]
    inner = k > 0
    row, k = row[inner], k[inner]
    low, high = error[row, k - 1], error[row, k]
    share = (limit[row] - low) / (high - low)
    found[row] = severity[k - 1] + share * (severity[k] - severity[k - 1])
    return found


def area(severity: Array, error: Array) -> Array:
    """Area (...) under curves (..., L) over severity (L,), by the trapezium rule."""
    return np.asarray(np.trapezoid(error, severity, axis=-1))
