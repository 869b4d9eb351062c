"""Figure of the learned trackers' table: error ratios to the better tuned IMM, and how often the truth lies inside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ssrtrack.report.figures_koss import drawn
from ssrtrack.report.looks import COLOURS, INK, MARKERS, MUTED, PLOT, SHADE
from ssrtrack.scoring.bands import BANDS

Row = Mapping[str, Any]


def learned_figure(rows: Sequence[Row]) -> Figure:
    """Ratios by measure with what is asked of them (left), coverage of 95 % ellipses by band (right).

    Args:
        rows: of benchmarks/learned_trackers.py, of parts "ratio" and "range bands", "speed bands"; a colour for each
            model, the suite's sets a little apart from top to bottom, by name.

    Raises:
        ValueError: no ratio among the rows.
    """
    ratios = [r for r in rows if r["part"] == "ratio" and np.isfinite(float(r["value"]))]
    covered = [
        r for r in rows
        if r["part"] in ("range bands", "speed bands") and r["measure"].startswith("coverage") and r["must"]
    ]  # fmt: skip
    if not ratios:
        raise ValueError('no row of part "ratio" to draw; judge at least one model on one set')
    models = list(dict.fromkeys(_model(r) for r in ratios))

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.1))
        _ratios(left, ratios, models)
        _coverage(right, covered, models)
        handles = [
            left.plot([], [], MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=name)[0]
            for i, name in enumerate(models)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(models)), fontsize=7.5)

    figure = drawn(5.2, paint)
    ConstrainedLayoutEngine(w_pad=0.2).execute(figure)  # labels on the left are a little wider than it reckons
    return figure


def _model(row: Row) -> str:
    return f"{row['model']} {row['seed']}".strip()


def _sets(rows: Sequence[Row]) -> list[str]:
    return sorted({str(r["set"]) for r in rows})


def _places(rows: Sequence[Row], names: Sequence[str], models: Sequence[str]) -> list[tuple[float, Row, int]]:
    """Where each row's point lies: a step for each name, and inside it the sets and models side by side."""
    sets = _sets(rows)
    width = max(1, len(sets) * len(models))
    return [
        (
            names.index(r["measure"])
            + 0.8 * ((models.index(_model(r)) * len(sets) + sets.index(r["set"]) + 0.5) / width - 0.5),
            r,
            models.index(_model(r)),
        )
        for r in rows
        if _model(r) in models
    ]


def _points(axes: Axes, rows: Sequence[Row], names: Sequence[str], models: Sequence[str], size: float) -> None:
    for at, r, i in _places(rows, names, models):
        low, high, value = (float(r[key]) for key in ("low", "high", "value"))
        colour = COLOURS[i % len(COLOURS)]
        if np.isfinite(low):
            axes.plot([low, high], [at, at], color=colour, linewidth=0.8)
        axes.plot([value], [at], MARKERS[i % len(MARKERS)], color=colour, markersize=size)


def _ratios(axes: Axes, rows: Sequence[Row], models: Sequence[str]) -> None:
    names = list(dict.fromkeys(r["measure"] for r in rows))
    for r in rows:
        for key, colour in (("must", INK), ("target", PLOT)):
            if str(r[key]).startswith("<="):
                at, bound = names.index(r["measure"]), float(str(r[key]).removeprefix("<="))
                axes.plot([bound, bound], [at - 0.45, at + 0.45], color=colour, linewidth=1.0)
    _points(axes, rows, names, models, 3.2)
    axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (3.0, 2.0)))
    short = {
        "position": "p",
        "velocity": "v",
        "first three scans": "onset",
        "one scan ahead": "ahead",
        "straight legs": "straight",
        "all updates": "all",
    }
    labels = [" ".join(short.get(part, part) for part in name.split(", ")) for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.invert_yaxis()
    axes.set_title("RMSE over the better tuned IMM's")
    axes.set_xlabel("ratio (p position, v velocity); black: asked, grey: aimed at")


def _coverage(axes: Axes, rows: Sequence[Row], models: Sequence[str]) -> None:
    names = [f"coverage_95, {band}" for kind, band in BANDS if kind != "phase"]
    names = [name for name in names if any(r["measure"] == name for r in rows)]
    axes.axvspan(0.93, 0.97, color=SHADE, linewidth=0.0)
    axes.axvline(0.95, color=MUTED, linewidth=0.8)
    _points(axes, rows, names, models, 2.4)
    axes.set_yticks(range(len(names)), [name.removeprefix("coverage_95, ") for name in names])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.invert_yaxis()
    axes.set_title("Truth inside the 95 % ellipse")
    sets = _sets(rows)
    order = f"\nof each colour from the top: {', '.join(sets)}" if len(sets) > 1 else ""
    axes.set_xlabel(f"share; shaded: asked; bars: 95 % over flights{order}")
