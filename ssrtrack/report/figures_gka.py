"""Figures of the experiments on Gated KalmaNet: arrays in, a matplotlib figure out."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ssrtrack.report.figures_koss import DASHES, drawn, powers_of_ten
from ssrtrack.report.looks import COLOURS, INK

Array = NDArray[np.float64]
Curves = Mapping[str, Array]
STROKES = dict(zip(("bf16 products", "float16 products", "bf16", "float32"), DASHES, strict=True))


def stability_figure(
    lengths: Array, recall: Mapping[str, Curves], conditions: Array, conditioned: Curves, kappa: Curves, ridge: Curves,
    depths: Array, deep: Mapping[tuple[str, str], Array],
) -> Figure:  # fmt: skip
    """Errors of the solvers in low precision, the condition number of two kinds of ridge, the gradient over depth.

    recall: by arithmetic, by solver, over the number of keys; conditioned: by solver, over the condition number; kappa
    and ridge: by the ridge's name, over the number of keys; deep: by solver and arithmetic, over the number of layers.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots(2, 3)
        solvers = list(dict.fromkeys(name for curves in recall.values() for name in curves))
        for one, (way, curves) in zip(axes[0], recall.items(), strict=False):
            _curves(one, lengths, curves, f"Recall, {way}", of=solvers)
            one.set(xlabel="keys", ylabel="RMS error / RMS recall", ylim=(1e-3, 3.0))
            one.legend(fontsize=6)
        _curves(axes[0, 2], conditions, conditioned, "Solution x, bf16", of=solvers)
        axes[0, 2].set(xlabel="condition number", ylabel="RMS error / RMS of x", ylim=(1e-3, 3.0))
        _curves(axes[1, 0], lengths, kappa, "Condition number")
        axes[1, 0].set(xlabel="keys of a strong mean", ylabel="κ of H + λ I")
        axes[1, 0].legend(fontsize=7, title="λ", title_fontsize=7)
        _curves(axes[1, 1], lengths, ridge, "Recall by Chebyshev, bf16")
        axes[1, 1].set(xlabel="keys of a strong mean", ylabel="RMS error / RMS recall", ylim=(1e-3, 3.0))
        _deep(axes[1, 2], depths, deep, solvers)

    return drawn(6.4, paint)


def _deep(axes: Axes, depths: Array, deep: Mapping[tuple[str, str], Array], solvers: list[str]) -> None:
    """Errors of the gradient: colours are the solvers' of the other panels, strokes the arithmetic."""
    ways = [way for way in dict.fromkeys(way for _, way in deep) if way in STROKES]
    for (solver, way), values in deep.items():
        if way in STROKES:
            look = {"color": COLOURS[solvers.index(solver) % len(COLOURS)], "linestyle": STROKES[way]}
            axes.plot(depths, values, linewidth=1.3, marker=".", **look)
    axes.set(title="Implicit gradient", xlabel="layers", ylabel="RMS error / RMS gradient", ylim=(1e-7, 3.0))
    powers_of_ten(axes, "y")
    handles = [Line2D([], [], color=INK, linewidth=1.3, linestyle=STROKES[way]) for way in ways]
    axes.legend(handles, ways, fontsize=6, loc="center right", bbox_to_anchor=(1.0, 0.36))


def _curves(axes: Axes, at: Array, curves: Curves, title: str, of: list[str] | None = None) -> None:
    """Curves on logarithmic axes, coloured by their name's place in `of`; what is not finite is left out."""
    places = list(dict.fromkeys([*(of or ()), *curves]))
    for name, values in curves.items():
        k = places.index(name)
        style = DASHES[(k // len(COLOURS)) % len(DASHES)]
        shown = np.where(np.isfinite(values), values, np.nan)
        axes.plot(at, shown, color=COLOURS[k % len(COLOURS)], linestyle=style, linewidth=1.3, label=name)
    axes.set_title(title)
    powers_of_ten(axes, "x", "y")
