"""Figure of the learned trackers' table: error ratios to the better tuned IMM, and how often the truth lies inside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ssrtrack.report.figures_koss import drawn
from ssrtrack.report.looks import COLOURS, INK, MARKERS, MUTED, PLOT, SHADE
from ssrtrack.scoring.bands import BANDS

Row = Mapping[str, Any]
SUITE = "suite"  # the set of a row over all of the benchmark's sets
ROW_IN, MORE_IN, REST_IN = 0.24, 0.05, 1.1  # height of a line, for each further model, and of what is around lines
APART = 0.62  # of a line: over what models are spread


def learned_figure(rows: Sequence[Row]) -> Figure:
    """Ratios on the suite and coverage of 95 % ellipses by band; below, ratios on other radars and traffic.

    Args:
        rows: of benchmarks/learned_trackers.py, those over the suite and over seeds among them; numbers as such or as
            the CSV has them. A colour for each model; large with a bar: the suite, small: each of its sets. Bars are
            intervals over flights, or of several seeds from the least to the greatest. The lower panels are left out
            where there is no row of part "transfer" or "real".

    Raises:
        ValueError: no ratio among the rows.
    """
    ratios = [r for r in rows if r["part"] == "ratio" and np.isfinite(_number(r["value"]))]
    bands = [f"coverage_95, {band}" for kind, band in BANDS if kind in ("range", "speed")]
    covered = [r for r in rows if r["part"] in ("range bands", "speed bands") and r["measure"] in bands and r["must"]]
    beyond = [r for r in rows if r["part"] in ("transfer", "real") and r["measure"].startswith("all updates")]
    if not ratios:
        raise ValueError('no row of part "ratio" to draw; judge at least one model on one set')
    models = list(dict.fromkeys(str(r["model"]) for r in ratios))
    measures = list(dict.fromkeys(str(r["measure"]) for r in ratios))
    bands = [band for band in bands if any(r["measure"] == band for r in covered)]
    others = list(dict.fromkeys(str(r["set"]) for r in sorted(beyond, key=lambda r: r["part"] == "real")))
    line_in = ROW_IN + MORE_IN * (len(models) - 1)
    heights = [len(some) * line_in + REST_IN for some in (measures, others) if some]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(heights), 2, height_ratios=heights, squeeze=False)
        _ratios(panels[0, 0], ratios, measures, models)
        _coverage(panels[0, 1], covered, bands, models)
        for axes, what in zip(panels[1] if others else (), ("position", "velocity"), strict=False):
            some = [r for r in beyond if r["measure"] == f"all updates, {what}"]
            _elsewhere(axes, _over_seeds(some), others, models, what)
        figure.legend(handles=_legend(panels[0, 0], models), loc="outside lower center", ncols=6, fontsize=7.5)

    figure = drawn(sum(heights) + 0.3, paint)
    ConstrainedLayoutEngine(w_pad=0.2).execute(figure)  # labels on the left are a little wider than it reckons
    return figure


def _number(value: Any) -> float:
    """A cell's number; NaN for nothing."""
    return float(value) if value not in ("", None) else float("nan")


def _over_suite(rows: Sequence[Row]) -> list[Row]:
    """Rows over the suite: of a model with several seeds the one over all of them; of a single set that set's own."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        groups.setdefault((r["model"], r["measure"]), []).append(r)
    found = []
    for some in groups.values():
        whole = [r for r in some if r["set"] == SUITE]
        if whole or len({r["set"] for r in some}) == 1:
            found.append(max(whole or some, key=lambda r: str(r["seed"]).startswith("all")))
    return found


def _over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Rows of single sets: of several seeds the mean, with the least and the greatest for an interval."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for r in rows:
        if r["set"] != SUITE:
            groups.setdefault((r["model"], r["set"], r["measure"]), []).append(r)
    found: list[Row] = []
    for some in groups.values():
        values = [_number(r["value"]) for r in some]
        ends = {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
        found.append({**some[0], **(ends if len(some) > 1 else {})})
    return found


def _line(at: int, model: str, models: Sequence[str]) -> float:
    """Where a model's point lies on a line."""
    return at + APART * ((models.index(model) + 0.5) / len(models) - 0.5)


def _points(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str], key: str) -> None:
    """Large points with their intervals, for the lines that `key` tells."""
    for r in rows:
        at, i = _line(names.index(r[key]), str(r["model"]), models), models.index(str(r["model"]))
        low, high, value = (_number(r[cell]) for cell in ("low", "high", "value"))
        if np.isfinite(low):
            axes.plot([low, high], [at, at], color=_colour(i), linewidth=1.1)
        axes.plot([value], [at], MARKERS[i % len(MARKERS)], color=_colour(i), markersize=4.2)


def _sets(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str]) -> None:
    """Small points of single sets."""
    for r in _over_seeds(rows):
        at, i = _line(names.index(r["measure"]), str(r["model"]), models), models.index(str(r["model"]))
        axes.plot([_number(r["value"])], [at], "|", color=_colour(i), markersize=5.0, markeredgewidth=0.8)


def _labelled(axes: Axes, names: Sequence[str], words: Callable[[str], str] = str) -> None:
    axes.set_yticks(range(len(names)), [words(name) for name in names])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _ratios(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str]) -> None:
    for r in rows:
        at = names.index(r["measure"])
        for key, colour in (("must", INK), ("target", PLOT)):
            if str(r[key]).startswith("<="):
                bound = float(str(r[key]).removeprefix("<="))
                axes.plot([bound, bound], [at - 0.42, at + 0.42], color=colour, linewidth=1.0)
    _sets(axes, rows, names, models)
    _points(axes, _over_suite(rows), names, models, "measure")
    _one(axes)
    _labelled(axes, names)
    axes.set_title("On the benchmark suite")
    axes.set_xlabel("RMSE over the better tuned IMM's")


def _coverage(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str]) -> None:
    axes.axvspan(0.93, 0.97, color=SHADE, linewidth=0.0)
    axes.axvline(0.95, color=MUTED, linewidth=0.8)
    whole = _over_suite(rows)
    for r in whole:
        axes.plot([_number(r["reference_value"])], [names.index(r["measure"])], "x", color=PLOT, markersize=5.0)
    _sets(axes, rows, names, models)
    _points(axes, whole, names, models, "measure")
    _labelled(axes, names, lambda name: name.removeprefix("coverage_95, "))
    axes.set_title("Truth inside the 95 % ellipse")
    axes.set_xlabel("share of updates, by range and speed; shaded: asked")


def _elsewhere(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str], what: str) -> None:
    _points(axes, rows, names, models, "set")
    _one(axes)
    _labelled(axes, names)
    if what == "velocity":
        axes.tick_params(axis="y", labelleft=False)
    axes.set_title(f"Elsewhere, and recorded flights: {what}")
    axes.set_xlabel("RMSE over the better tuned IMM's")


def _one(axes: Axes) -> None:
    axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (3.0, 2.0)))


def _legend(axes: Axes, models: Sequence[str]) -> list[Any]:
    looks = [(name, MARKERS[i % len(MARKERS)], _colour(i)) for i, name in enumerate(models)]
    looks += [("one set of the suite", "|", _colour(0)), ("better IMM", "x", PLOT)]
    marks = [axes.plot([], [], marker, color=colour, label=name, linewidth=0.0)[0] for name, marker, colour in looks]
    lines = [("asked", INK), ("aimed at", PLOT)]
    return marks + [axes.plot([], [], color=colour, label=name, linewidth=1.0)[0] for name, colour in lines]


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]
