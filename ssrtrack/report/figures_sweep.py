"""The figure of a sweep: every tracker's error over the levels, with its band and its break point."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssrtrack.report.figures_base import draw, line, plain_log
from ssrtrack.report.looks import MUTED, Look, plain_label
from ssrtrack.report.sweep_words import score_label
from ssrtrack.scoring.degrade import AXES
from ssrtrack.scoring.sweep_curves import LOST, Sweep

LABEL_STEP = 0.062  # least distance of two labels, in heights of the panel
NEAR = 0.055  # ticks closer than this share of the axis are left out


def sweep_curves(sweep: Sweep, shown: Mapping[str, Look], prefix: str) -> str:
    """Two panels over the same levels: the score that decides, with the limit; and velocity, or flights lost."""
    second = "velocity_rmse_mps" if "velocity_rmse_mps" in sweep.curves[0].scores else LOST

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, key in ((left, sweep.key), (right, second)):
            ends = _panel(axes, sweep, key, shown)
            _levels(axes, sweep)
            _heights(axes, sweep, key)
            axes.set_title(score_label(key))
            _labels(axes, ends, shown)
        left.axhline(sweep.limit, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        low, high = sorted(left.get_ylim())
        if low <= sweep.limit <= high:
            spot = (sweep.levels[0], sweep.limit)
            left.annotate("limit", spot, (3, 3), textcoords="offset points", size=7.5, color=MUTED)
        for curve in sweep.curves:
            if curve.break_level is not None:
                look = shown[curve.tracker]
                left.plot(curve.break_level, sweep.limit, marker=look.marker, color=look.colour, markersize=6.5)

    return draw(3.7, prefix, f"{AXES[sweep.axis].title}: every tracker's error over the levels", paint)


def _panel(axes: Axes, sweep: Sweep, key: str, shown: Mapping[str, Look]) -> dict[str, float]:
    """Draws lines and bands; returns where each tracker's line ends."""
    scale, ends = 100.0 if key == LOST else 1.0, {}
    for curve in sweep.curves:
        look, values = shown[curve.tracker], scale * curve.scores[key]
        if key in curve.intervals:
            low, high = scale * curve.intervals[key].T
            axes.fill_between(sweep.levels, low, high, color=look.colour, alpha=0.14, linewidth=0)
        line(axes, sweep.levels, values, look, marker=look.marker, markersize=3.5, markeredgewidth=0)
        known = values[np.isfinite(values)]
        if known.size:
            ends[curve.tracker] = float(known[-1])
    return ends


def _levels(axes: Axes, sweep: Sweep) -> None:
    """The undegraded level at the left, the worst at the right, ticks at the levels that have room."""
    first, last = float(sweep.levels[0]), float(sweep.levels[-1])
    ticks: list[float] = []
    for level in (first, last, *reversed(sweep.levels[1:-1].tolist())):
        if all(abs(level - other) >= NEAR * abs(last - first) for other in ticks):
            ticks.append(level)
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.set_xlim(first, last)
    axes.set_xlabel(AXES[sweep.axis].label)


def _heights(axes: Axes, sweep: Sweep, key: str) -> None:
    """From zero; on a log scale where the curves differ too much to be read from zero."""
    if key == LOST:
        axes.set_ylim(0, max(5.0, 108 * max(float(np.nanmax(curve.scores[key])) for curve in sweep.curves)))
        return
    known: Any = np.concatenate([curve.scores[key] for curve in sweep.curves])
    known = known[np.isfinite(known) & (known > 0)]
    if known.size and known.max() > 8 * known.min():
        plain_log(axes.yaxis, 0.8 * float(known.min()), 1.3 * float(known.max()), 9)
        axes.set_ylim(0.8 * float(known.min()), 1.3 * float(known.max()))
    else:
        axes.set_ylim(0, 1.15 * float(known.max(initial=1.0)))


def _labels(axes: Axes, ends: Mapping[str, float], shown: Mapping[str, Look]) -> None:
    """Names at the lines' ends, moved apart where they would touch."""
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = {name: float(to_axes.transform((0.0, end))[1]) for name, end in ends.items()}
    names = sorted(wanted, key=lambda name: wanted[name])
    heights = apart(np.array([wanted[name] for name in names]))
    for name, height in zip(names, heights, strict=True):
        spot = axes.text(1.015, height, plain_label(name, 18), color=shown[name].colour, size=8, va="center")
        spot.set_transform(axes.transAxes)


def apart(wanted: Any) -> Any:
    """Heights (n,) at least LABEL_STEP apart, below the top, closest to those wanted (ascending) in squares."""
    if not len(wanted):
        return wanted
    from scipy.optimize import isotonic_regression  # takes a fifth of a second to load

    steps = LABEL_STEP * np.arange(len(wanted))
    heights = isotonic_regression(wanted - steps).x + steps
    return heights - max(float(heights[-1]) - 1.02, 0.0)  # a full panel is moved down as a whole
