"""The figures of a report, each an inline SVG; only the modules `figures*` know matplotlib.

Dense layers are rasterised inside the vector figure so that a page stays small however long a log is. Colours named
in `looks.VARIABLES` become CSS variables of the page, so that a figure follows its light or dark style. Drawing is
deterministic.
"""

from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssrtrack.report import prepare
from ssrtrack.report.figures_base import DENSE, WIDTH_IN, dash, draw, line, plain_log
from ssrtrack.report.looks import GRID, INK, MUTED, PAPER, PLOT, Look, plain_label, result_looks
from ssrtrack.report.words import GROUPS, ROWS, Row, interval_of, value_of
from ssrtrack.scoring.result import EvaluationResult, FlightExample, Series, TrackerResult
from ssrtrack.units import NM_M


def _nm_axes(axes: Axes, box: tuple[float, float, float, float]) -> None:
    axes.set_xlim(box[0], box[1])
    axes.set_ylim(box[2], box[3])
    axes.set_aspect("equal")


def overview(result: EvaluationResult, prefix: str) -> str:
    """All flights in a plan view, north up, with range rings; the flights drawn closer are numbered."""
    others = [np.asarray(track, dtype=float) / NM_M for track in result.overview_tracks_m if len(track) > 1]
    chosen = [_path(example) / NM_M for example in result.examples]
    reach = prepare.reach_nm([xy * NM_M for xy in [*others, *chosen]])
    step = prepare.ring_step_nm(reach)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        angle = np.linspace(0, 2 * np.pi, 361)
        for ring in np.arange(step, reach + step, step):
            axes.plot(ring * np.sin(angle), ring * np.cos(angle), color=GRID, linewidth=0.8, zorder=1)
            name = axes.text(0, ring, f"{ring:g} NM", color=MUTED, size=7.5, ha="center", va="center", zorder=4)
            name.set_clip_on(True)
            name.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground=PAPER)])  # legible over tracks
        dense = sum(map(len, others)) > DENSE
        axes.add_collection(LineCollection(others, colors=PLOT, linewidths=0.7, alpha=0.75, zorder=2, rasterized=dense))
        for i, (example, xy) in enumerate(zip(result.examples, chosen, strict=True), start=1):
            axes.plot(*xy.T, color=INK, linewidth=1.2, zorder=3, rasterized=len(xy) > DENSE)
            spot = xy[prepare.focus(example, result.warmup_plots)]
            spot = spot[np.isfinite(spot).all(axis=1)]
            if len(spot):
                _badge(axes, spot[len(spot) // 2], str(i))
        axes.plot(0, 0, marker="+", color=INK, markersize=10, markeredgewidth=1.6, zorder=5)
        _nm_axes(axes, prepare.square_box(np.concatenate([*others, *chosen, np.zeros((1, 2))]), 0.04, 2.0))
        axes.grid(False)
        axes.set_xlabel("east of the origin, NM")
        axes.set_ylabel("north of the origin, NM")
        _north(axes)

    return draw(7.4, prefix, f"Plan view of {len(others) or len(chosen)} flights around the radar, north up", paint)


def _north(axes: Axes) -> None:
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.0}
    axes.annotate("", xy=(0.97, 0.985), xytext=(0.97, 0.93), xycoords="axes fraction", arrowprops=arrow)
    axes.text(0.97, 0.915, "N", transform=axes.transAxes, ha="center", va="top", weight="bold")


def _badge(axes: Axes, spot: Any, text: str) -> None:
    box = {"boxstyle": "circle,pad=0.22", "facecolor": PAPER, "edgecolor": INK, "linewidth": 0.9}
    axes.text(float(spot[0]), float(spot[1]), text, size=8, weight="bold", ha="center", va="center", zorder=6, bbox=box)


def _path(example: FlightExample) -> Any:
    """The best known path of a flight: truth, else smoothed, else its plots."""
    known = next(path for path in (example.truth_m, example.smoothed_m, example.plots_m) if path is not None)
    return np.asarray(known, dtype=float)


def closeups(result: EvaluationResult, prefix: str) -> str | None:
    """The numbered flights in their hardest scans: plots, truth (or smoothed reference) and every tracker."""
    if not result.examples:
        return None
    columns = min(3, len(result.examples))
    rows = -(-len(result.examples) // columns)
    shown = result_looks(result)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(result.examples) :]:
            axes.set_axis_off()
        for i, (axes, example) in enumerate(zip(grid.flat, result.examples, strict=False), start=1):
            _closeup(axes, example, prepare.focus(example, result.warmup_plots), shown)
            axes.set_title(f"{i}  {plain_label(example.label, 26)}")

    height = 0.3 + rows * (WIDTH_IN / columns) if columns > 1 else 6.0
    return draw(height, prefix, f"Plan view of {len(result.examples)} flights in their hardest scans", paint)


def _closeup(axes: Axes, example: FlightExample, part: slice, shown: dict[str, Look]) -> None:
    plots = np.asarray(example.plots_m, dtype=float)[part] / NM_M
    path = _path(example)[part] / NM_M
    axes.plot(*plots.T, linestyle="none", marker="o", markersize=4.0, color=PAPER, markeredgecolor=INK,
              markeredgewidth=0.8, zorder=5)  # fmt: skip
    if example.truth_m is not None or example.smoothed_m is not None:
        axes.plot(*path.T, color=INK, linewidth=2.6, alpha=0.35, zorder=3)
    for name, look in shown.items():
        if name in example.tracks_m:
            xy = np.asarray(example.tracks_m[name], dtype=float)[part] / NM_M
            axes.plot(*xy.T, color=look.colour, linestyle=dash(look), linewidth=0.8 * look.width, zorder=4)
    _nm_axes(axes, prepare.square_box(np.concatenate([plots, path]), 0.08, 0.2))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=7.5)


def by_phase(result: EvaluationResult, prefix: str) -> str | None:
    """The main scores of every tracker side by side, with their intervals; the bound as a tick."""
    keys = _PHASE_KEYS if result.has_truth else _NEXT_PLOT_KEYS
    rows = [ROWS[key] for key in keys if any(value_of(tracker, key) is not None for tracker in result.trackers)]
    if not rows:
        return None
    shown = result_looks(result)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, row in enumerate(rows):
            for j, tracker in enumerate(result.trackers):
                offset = (j - (len(result.trackers) - 1) / 2) * min(0.16, 0.7 / len(result.trackers))
                _dot(axes, tracker, row, i + offset, shown[tracker.name])
        bound = value_of(result.trackers[0], "position_bound_rms_m") if result.has_truth else None
        if bound is not None and rows[0].key == "position_rmse_m":
            axes.plot([bound, bound], [-0.42, 0.42], color=INK, linewidth=2.0)
            axes.text(bound, -0.5, "bound", size=7.5, ha="center", va="bottom")
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.75)
        shown_values = [value_of(tracker, row.key) for tracker in result.trackers for row in rows]
        ends = [end for tracker in result.trackers for row in rows for end in interval_of(tracker, row.key) or ()]
        _metres(axes, [*shown_values, *ends, bound])
        axes.set_xlabel("position error, m" if result.has_truth else "distance, m")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    height = 0.8 + len(rows) * max(0.45, 0.14 * len(result.trackers))
    return draw(height, prefix, "Position scores of every tracker with 95 % intervals", paint)


_PHASE_KEYS = (*(row.key for row in GROUPS["Position at the update"][:5]), "predicted_position_rmse_m")
_NEXT_PLOT_KEYS = ("next_plot_rmse_m", "next_plot_p50_m", "next_plot_p95_m", "smoothed_difference_rmse_m")


def _metres(axes: Axes, values: list[float | None]) -> None:
    """An axis from zero; on a log scale where the values differ too much to be read from zero."""
    known = [value for value in values if value is not None and value > 0]
    if known and max(known) > 8 * min(known):
        low, high = 0.8 * min(known), 1.25 * max(known)
        plain_log(axes.xaxis, low, high, 9)
        axes.set_xlim(low, high)
    else:
        axes.set_xlim(left=0)


def _dot(axes: Axes, tracker: TrackerResult, row: Row, y: float, look: Look) -> None:
    value = value_of(tracker, row.key)
    if value is None:
        return
    interval = interval_of(tracker, row.key)
    if interval is not None:
        axes.plot(interval, [y, y], color=look.colour, linewidth=1.4)
    axes.plot(value, y, marker=look.marker, color=look.colour, markersize=5.5, linestyle="none")


def distribution(result: EvaluationResult, prefix: str) -> str | None:
    """Error distribution: the cumulative share, and the share of larger errors on a log scale to show the tail."""
    curves = {tracker.name: prepare.cumulative(tracker.position_error) for tracker in result.trackers}
    curves = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if not curves:
        return None
    shown = result_looks(result)
    low, middle, high, floor = prepare.distribution_limits(list(curves.values()))

    def paint(figure: Figure) -> None:
        whole, tail = figure.subplots(1, 2)
        for tracker in result.trackers:
            if tracker.name in curves:
                x, below = curves[tracker.name]
                line(whole, x, 100 * below, shown[tracker.name])
                above = below < 1
                line(tail, x[above], 100 * (1 - below[above]), shown[tracker.name])
                _mark_quantiles(whole, tail, tracker, shown[tracker.name])
        for axes in (whole, tail):
            axes.set_xlabel("position error, m" if result.has_truth else "distance to the next plot, m")
        plain_log(whole.xaxis, low, high)
        whole.set(xlim=(low, high), ylim=(0, 100), ylabel="share of updates below, %", title="All errors")
        whole.set_yticks([0, 25, 50, 75, 95, 100])
        plain_log(tail.xaxis, middle, high)
        plain_log(tail.yaxis, floor, 50)
        tail.set(xlim=(middle, high), ylim=(floor, 50), ylabel="share of updates above, %", title="The tail")

    return draw(3.9, prefix, "Cumulative distribution of the error and its tail, with p50, p95 and p99 marked", paint)


def _mark_quantiles(whole: Axes, tail: Axes, tracker: TrackerResult, look: Look) -> None:
    for share in (0.5, 0.95, 0.99):
        x = prepare.quantile(tracker.position_error, share)
        if x is not None:
            dot: dict[str, Any] = {"marker": look.marker, "color": look.colour, "markersize": 4.5, "linestyle": "none"}
            whole.plot(x, 100 * share, **dot)
            tail.plot(x, 100 * (1 - share), **dot)


def consistency(result: EvaluationResult, prefix: str) -> str | None:
    """NEES and NIS by time since the first plot, with the 95 % chi-square bounds of their mean."""
    shown = result_looks(result)
    panels: list[tuple[str, list[tuple[Look, Series | None]]]] = [
        ("NEES ÷ 4: errors", [(shown[t.name], t.nees) for t in result.trackers if _drawable(t.nees).any()]),
        ("NIS ÷ 2: innovations", [(shown[t.name], t.nis) for t in result.trackers if _drawable(t.nis).any()]),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels, strict=True):
            _bounded_series(axes, [(look, one) for look, one in series if one is not None])
            axes.set_title(title)
            axes.set_xlabel("minutes since the flight's first plot")
            axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))

    return draw(3.4, prefix, "Mean NEES and NIS over time with their 95 % chi-square bounds", paint)


def _drawable(series: Series | None) -> Any:
    if series is None:
        return np.zeros(1, dtype=bool)
    return np.isfinite(series.mean) & (series.mean > 0) & np.isfinite(series.low) & np.isfinite(series.high)


def _bounded_series(axes: Axes, series: list[tuple[Look, Series]]) -> None:
    first = series[0][1]
    use = _drawable(first)
    axes.fill_between(first.time_s[use] / 60, first.low[use], first.high[use], color=MUTED, alpha=0.22, linewidth=0)
    axes.axhline(1.0, color=MUTED, linewidth=0.8)
    values = []
    for look, one in series:
        use = _drawable(one)
        line(axes, one.time_s[use] / 60, one.mean[use], look, linewidth=0.8 * look.width)
        values.append(one.mean[use])
    pooled = np.concatenate(values)
    low, high = min(0.4, float(np.quantile(pooled, 0.005)) * 0.8), max(2.5, float(np.quantile(pooled, 0.995)) * 1.25)
    plain_log(axes.yaxis, low, high)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)


def reliability(result: EvaluationResult, prefix: str) -> str | None:
    """Share of true positions inside the tracker's ellipse against the share it promised."""
    nominal = np.array([0.5, 0.9, 0.95, 0.99])
    shown = result_looks(result)
    points = [(t, [value_of(t, f"coverage_{100 * p:.0f}") for p in nominal]) for t in result.trackers]
    points = [(tracker, shares) for tracker, shares in points if all(share is not None for share in shares)]
    if not points:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        ticks = np.array([0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
        reach = (
            prepare.ellipse_scale(np.array([0.994, *(share for _, shares in points for share in shares)])).max() * 1.06
        )
        axes.plot([0, reach], [0, reach], color=MUTED, linewidth=0.9)
        axes.text(0.93, 0.9, "honest", transform=axes.transAxes, color=MUTED, size=8, ha="center", va="top")
        axes.text(0.03, 0.95, "ellipse wider than needed", transform=axes.transAxes, color=MUTED, size=8)
        axes.text(0.97, 0.03, "ellipse too small", transform=axes.transAxes, color=MUTED, size=8, ha="right")
        for tracker, shares in points:
            look = shown[tracker.name]
            actual = prepare.ellipse_scale(np.array(shares, dtype=float))
            line(axes, prepare.ellipse_scale(nominal), actual, look, marker=look.marker, markersize=5)
        for axis, setter in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
            shown_ticks = ticks[prepare.ellipse_scale(ticks) <= reach]
            axis.set_ticks(prepare.ellipse_scale(shown_ticks), [f"{100 * tick:g}" for tick in shown_ticks])
            setter(0, reach)
        axes.set_aspect("equal")
        axes.set_xlabel("promised: probability of the ellipse, %")
        axes.set_ylabel("kept: true positions inside, %")

    return draw(4.6, prefix, "Coverage of the position ellipses against their nominal probability", paint)


def per_flight(result: EvaluationResult, prefix: str) -> str | None:
    """RMS error of every flight: sorted, and each tracker against the first one. None with fewer than two flights."""
    errors = {t.name: np.asarray(t.per_flight_rmse_m, dtype=float) for t in result.trackers}
    errors = {name: values for name, values in errors.items() if (np.isfinite(values) & (values > 0)).sum() > 1}
    if not errors:
        return None
    shown = result_looks(result)
    pooled = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in errors.values()])
    low, high = float(pooled.min()) / 1.15, float(pooled.max()) * 1.15
    paired = prepare.paired_flights(result)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, 2 if paired else 1, squeeze=False)
        ranked = grid[0, 0]
        for name, values in errors.items():
            known = np.sort(values[np.isfinite(values) & (values > 0)])
            line(ranked, np.linspace(0, 100, len(known)), known, shown[name])
        plain_log(ranked.yaxis, low, high, 9)
        ranked.set(ylim=(low, high), xlim=(0, 100), xlabel="flights, best to worst, %", title="Flights sorted by error")
        ranked.set_ylabel("RMS of the flight, m")
        if paired:
            _scatter(grid[0, 1], paired, shown, (low, high), result.trackers[0].name)

    return draw(4.4, prefix, "RMS error of every flight, sorted, and against the first tracker", paint)


def _scatter(
    axes: Axes, pairs: dict[str, Any], shown: dict[str, Look], limits: tuple[float, float], first: str
) -> None:
    axes.plot(limits, limits, color=MUTED, linewidth=0.9)
    for name, (x, y) in pairs.items():
        axes.plot(x, y, linestyle="none", marker=shown[name].marker, markersize=4 if len(x) < 500 else 2.5,
                  color=shown[name].colour, alpha=0.75, markeredgewidth=0, rasterized=len(x) > DENSE)  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        plain_log(axis, *limits)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title="Flight by flight")
    axes.set_xlabel(f"{plain_label(first)}: RMS of the flight, m")
    axes.set_ylabel("other trackers, m")
