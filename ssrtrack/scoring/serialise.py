"""scores.json: an evaluation as plain numbers with stable keys (docs/scores.md)."""

from dataclasses import asdict
from math import isfinite
from typing import Any

from ssrtrack.scoring.degrade import AXES
from ssrtrack.scoring.result import EvaluationResult, RadarNoise, TrackerResult
from ssrtrack.scoring.sweep_curves import Curve, Sweep

FORMAT, VERSION = "ssrtrack-scores", 1


def scores_json(result: EvaluationResult) -> dict[str, Any]:
    """The result as nested dicts, lists, numbers, text and None only; NaN and infinities become None.

    Keys of a tracker: every field of `Scores`, then `intervals` {score: [low, high]} and `ratio`
    {score: [ratio to the first tracker, low, high]}, both 95 % bootstrap over flights.
    """
    plain: dict[str, Any] = _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "logs": list(result.logs),
            "epoch": result.epoch,
            "span_s": list(result.span_s),
            "identity": result.identity,
            "has_truth": result.has_truth,
            "warmup_plots": result.warmup_plots,
            "plots": result.plots,
            "plots_used": result.plots_used,
            "trackers": {tracker.name: _tracker(tracker) for tracker in result.trackers},
            "radars": [_radar(radar) for radar in result.radars],
            "notes": list(result.notes),
            "sweeps": {sweep.axis: _sweep(sweep) for sweep in result.sweeps},
        }
    )
    return plain


def _tracker(tracker: TrackerResult) -> dict[str, Any]:
    return asdict(tracker.scores) | {"intervals": tracker.intervals, "ratio": tracker.ratio}


def _radar(radar: RadarNoise) -> dict[str, Any]:
    return asdict(radar)


def _sweep(sweep: Sweep) -> dict[str, Any]:
    return {
        "unit": AXES[sweep.axis].unit,
        "levels": sweep.levels.tolist(),
        "score": sweep.key,
        "reference": sweep.reference,
        "limit": sweep.limit,
        "flights": sweep.flights,
        "trackers": {curve.tracker: _curve(curve) for curve in sweep.curves},
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "scores": {key: values.tolist() for key, values in curve.scores.items()},
        "intervals": {key: values.tolist() for key, values in curve.intervals.items()},
        "break_level": curve.break_level,
        "break_interval": curve.break_interval,
        "area_ratio": curve.area_ratio,
        "area_interval": curve.area_interval,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
