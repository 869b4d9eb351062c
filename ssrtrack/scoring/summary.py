"""From sums to scores: values, bootstrap intervals and ratios to the first tracker."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.scoring.bootstrap import MIN_FLIGHTS, interval, resampled_sums
from ssrtrack.scoring.result import Scores, TrackerResult
from ssrtrack.scoring.tally import EFFICIENCY, QUANTILES, RMS, SUMMED, Tally, score_values

Array = NDArray[Any]

# Scores of which a ratio between trackers means something: errors in metres, m/s or degrees.
RATIOS = tuple(name for name in RMS if name not in ("position_bound_rms_m", "velocity_bound_rms_mps"))
INTERVALS = (*SUMMED, *EFFICIENCY)


def tracker_results(
    tallies: Mapping[str, Tally], order: Array, *, has_truth: bool, bootstrap: int, seed: int
) -> tuple[TrackerResult, ...]:
    """Results in the order of `tallies`; the first tracker is the one that ratios refer to.

    Args:
        order: (flights,) rows of the tallies in an order that does not depend on how the log was read.
        bootstrap: resamples, 0 for no intervals.
        seed: of the resampling; the same resamples serve all trackers.
    """
    key = "position_rmse_m" if has_truth else "next_plot_rmse_m"
    tables = [tally.table()[order] for tally in tallies.values()]
    scored = [table[table[:, len(SUMMED) + SUMMED.index("anis")] > 0] for table in tables]
    samples: list[dict[str, Array]] = [{} for _ in tables]
    if bootstrap and scored and scored[0].shape[0] >= MIN_FLIGHTS:
        sums = resampled_sums(scored, bootstrap, np.random.default_rng(seed))
        samples = [score_values(s) for s in sums]
    values = [score_values(table.sum(0, keepdims=True)) for table in scored]
    return tuple(
        TrackerResult(
            name=name,
            scores=_scores(value, tally, table),
            intervals=_intervals(sample, value),
            ratio={} if i == 0 else _ratios(sample, samples[0], value, values[0]),
            position_error=tally.histograms["position" if has_truth else "next_plot"].result(),
            nees=tally.nees.series() if has_truth else None,
            nis=tally.nis.series(),
            per_flight_rmse_m=score_values(table)[key],
        )
        for i, ((name, tally), table, sample, value) in enumerate(
            zip(tallies.items(), scored, samples, values, strict=True)
        )
    )


def _scores(value: Mapping[str, Array], tally: Tally, table: Array) -> Scores:
    numbers: dict[str, Any] = {name: _number(cells[0]) for name, cells in value.items()}
    for name, (histogram, q, divisor) in QUANTILES.items():
        quantile = tally.histograms[histogram].quantile(q)
        numbers[name] = None if quantile is None else quantile / divisor
    updates = int(table[:, len(SUMMED) + SUMMED.index("anis")].sum())
    return Scores(**numbers, updates=updates, flights=table.shape[0], seconds=tally.seconds)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _intervals(sample: Mapping[str, Array], value: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    found = {name: interval(sample[name]) for name in INTERVALS if name in sample and np.isfinite(value[name][0])}
    return {name: pair for name, pair in found.items() if pair is not None}


def _ratios(
    sample: Mapping[str, Array],
    first: Mapping[str, Array],
    value: Mapping[str, Array],
    first_value: Mapping[str, Array],
) -> dict[str, tuple[float, float, float]]:
    ratios: dict[str, tuple[float, float, float]] = {}
    for name in RATIOS if sample else ():
        with np.errstate(divide="ignore", invalid="ignore"):
            centre, pair = float(value[name][0] / first_value[name][0]), interval(sample[name] / first[name])
        if pair is not None and np.isfinite(centre):
            ratios[name] = (centre, *pair)
    return ratios
