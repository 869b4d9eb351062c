"""The error of one flight over time, a strip for each tracker."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ssrtrack.report import prepare
from ssrtrack.report.figures_base import DENSE, draw
from ssrtrack.report.looks import GRID, MUTED, SHADE, Look, plain_label, result_looks
from ssrtrack.report.words import number
from ssrtrack.scoring.result import EvaluationResult, FlightExample

PITCH = 1.42  # height of a strip with its title, in heights of the strip alone


def error_over_time(result: EvaluationResult, example: FlightExample, prefix: str) -> str:
    """One flight's error under every tracker, its own 2-sigma envelope, and the manoeuvres shaded."""
    shown = result_looks(result)
    names = [name for name in shown if name in example.error_m]
    minutes = (np.asarray(example.time_s, dtype=float) - float(example.time_s[0])) / 60.0
    top = prepare.error_limit(example, names, result.warmup_plots)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bases = PITCH * top * np.arange(len(names))[::-1]
        axes.set_xlim(0, max(float(minutes[-1]), 0.1))
        axes.set_ylim(0, float(bases[0]) + PITCH * top)
        axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
        _strip_frames(axes, bases, top)
        for base, name in zip(bases, names, strict=True):
            _error_strip(axes, example, name, minutes, shown[name], result.warmup_plots, (float(base), top))
        axes.set_xlabel("minutes since the flight's first plot")
        axes.set_ylabel("position error, m" if result.has_truth else "to the smoothed reference, m")

    return draw(0.5 + 0.98 * len(names), prefix, f"Position error over time of flight {example.label}", paint)


def _strip_frames(axes: Axes, bases: Any, top: float) -> None:
    """Axis lines, ticks and grid of every strip.

    The strips share one pair of axes: matplotlib takes half a second for the layout of a dozen, for each flight.
    """
    low, high = axes.get_xlim()
    ticks = np.asarray(MaxNLocator(3).tick_values(0, top))
    ticks = ticks[(ticks >= 0) & (ticks <= top)]
    places = (bases[:, None] + ticks).ravel()
    axes.set_yticks(places, [f"{tick:g}" for _ in bases for tick in ticks])
    axes.grid(axis="x", visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    upright = [x for x in axes.get_xticks() if low < x <= high]
    grid = [[(x, base), (x, base + top)] for base in bases for x in upright]
    axes.add_collection(LineCollection(grid, colors=GRID, linewidths=0.6, zorder=0.5), autolim=False)
    corners = [[(low, base + top), (low, base), (high, base)] for base in bases]
    lines = LineCollection(corners, colors=MUTED, linewidths=0.7, zorder=2.5, clip_on=False)
    axes.add_collection(lines, autolim=False)


def _error_strip(
    axes: Axes,
    example: FlightExample,
    name: str,
    minutes: Any,
    look: Look,
    warmup: int,
    strip: tuple[float, float],
) -> None:
    """One tracker's curve in its strip (base, height); what rises above the strip is cut."""
    base, top = strip
    error = np.asarray(example.error_m[name], dtype=float)
    sigma = np.asarray(example.sigma_m[name], dtype=float)
    dense = len(minutes) > DENSE
    turning = prepare.turning(example)
    if turning is not None:
        spans = [(minutes[first], minutes[last] - minutes[first]) for first, last in prepare.runs(turning)]
        axes.broken_barh(spans, strip, color=SHADE, linewidth=0, zorder=0)
    if 0 < warmup < len(minutes):
        axes.vlines(minutes[warmup], base, base + top, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    envelope = axes.fill_between(
        minutes, base, base + 2 * sigma, color=look.colour, alpha=0.2, linewidth=0, rasterized=dense
    )
    (curve,) = axes.plot(minutes, base + error, color=look.colour, linewidth=1.1, rasterized=dense)
    low, high = axes.get_xlim()
    window = Rectangle((low, base), high - low, top, transform=axes.transData)
    for artist in (envelope, curve):
        artist.set_clip_path(window)
    inside = prepare.inside_share(error, sigma, warmup)
    share = "" if inside is None else f"   {100 * inside:.0f} % inside 2σ"
    title = f"{plain_label(name)}   {number(prepare.rms(error[warmup:]))} m RMS{share}"
    axes.annotate(title, (low, base + top), (0, 3), textcoords="offset points", size=8.5, weight="bold")
