"""Figures of the experiments on KOSS: arrays in, a matplotlib figure out, and how it becomes SVG and PNG files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from ssrtrack.report import looks
from ssrtrack.report.figures_base import DPI, WIDTH_IN
from ssrtrack.report.looks import COLOURS, INK, MUTED, PAPER

Array = NDArray[np.float64]
Curves = Mapping[str, Array]
DASHES: tuple[Any, ...] = ("-", (0, (5.0, 1.6)), (0, (1.5, 1.5)), (0, (5.0, 1.5, 1.2, 1.5)))
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LEAST = 1e-9  # where a logarithmic axis ends at the latest: below it lies rounding


def drawn(height_in: float, paint: Callable[[Figure], None]) -> Figure:
    """The figure that `paint` fills, in the report's style, laid out."""
    with matplotlib.style.context(["default", looks.STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in))
        paint(figure)
        # Laid out once: a figure that owns its engine is laid out at every drawing, each time a little differently.
        ConstrainedLayoutEngine().execute(figure)
        return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write the figure as `name`.svg and `name`.png into the folder, and say where. The same figure, the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    with matplotlib.style.context(["default", looks.STYLE]):
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(paths[0], metadata=empty, facecolor=PAPER)
        figure.savefig(paths[1], metadata={"Software": None}, facecolor=PAPER, dpi=DPI)
    return paths


def convergence_figure(
    time_s: Array, gain: Curves, distance: Curves, steady: Array,
    kalman: Array, spread: tuple[Array, Array, Array], wanted: Array,
) -> Figure:  # fmt: skip
    """The Riccati flow's gain from several starts; below, a trained layer's gains beside its Kalman filters'.

    gain: K (T, 2) by the name of P(0); distance from K∞ (T,); steady K∞ (2,). kalman (L, D): gains of D filters;
    spread: 10th percentile, median and 90th percentile (L, D) of the layer's gains; wanted: K∞ of the D channels.
    """

    def paint(figure: Figure) -> None:
        upper = figure.subplots(2, 3)
        for i in range(2):
            for name, look, K in _looked(gain):
                upper[0, i].plot(time_s, K[:, i], **look, label=f"P(0) = {name}")
            upper[0, i].axhline(steady[i], color=INK, linewidth=0.8)
            upper[0, i].set(title=f"Riccati flow: gain of state {i + 1}", xlabel="t, s", ylabel=f"K, component {i + 1}")
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
            limit = f"K∞ = {steady[i]:.5f}".replace("-", "−")
            upper[0, i].annotate(limit, (1.0, steady[i]), (0, 4), color=MUTED, **where)
        upper[0, 0].legend(fontsize=7)
        for name, look, far in _looked(distance):
            upper[0, 2].plot(time_s, np.maximum(far, LEAST), **look, label=name)
        upper[0, 2].set(title="Distance from K∞", xlabel="t, s", ylabel="max |K − K∞|", ylim=(1e-6, 1.0))
        powers_of_ten(upper[0, 2], "y")
        _learned(upper[1], kalman, spread, wanted)

    return drawn(6.2, paint)


def _learned(axes: Sequence[Axes], kalman: Array, spread: tuple[Array, Array, Array], wanted: Array) -> None:
    low, median, high = spread
    half, steps = slice(len(median) // 2, None), np.arange(1, len(median) + 1)
    shown = [0, len(wanted) // 2, len(wanted) - 1]
    for colour, d in zip(COLOURS, shown, strict=False):
        axes[0].plot(steps, kalman[:, d], color=INK, linestyle=DASHES[1], linewidth=1.1)
        axes[0].plot(steps, median[:, d], color=colour)
        axes[0].annotate(f"K∞ = {wanted[d]:.1f}", (1.0, median[-1, d]), (0, -11), xycoords=("axes fraction", "data"),
                         textcoords="offset points", ha="right", color=colour, fontsize=8)  # fmt: skip
        axes[0].fill_between(steps, low[:, d], high[:, d], color=colour, alpha=0.2, linewidth=0)
    axes[0].set(title="Learned gain (dashed: Kalman)", xlabel="step", ylabel="κ = K c", ylim=(0, 1))
    powers_of_ten(axes[0], "x")
    axes[1].plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    found = np.array([np.median(v[half], 0) for v in (low, median, high)])
    error = np.maximum(np.array([found[1] - found[0], found[2] - found[1]]), 0.0)
    axes[1].errorbar(wanted, found[1], error, color=COLOURS[0], fmt="o", markersize=4)
    axes[1].set(title="After the start: learned against K∞", xlabel="Kalman gain K∞", ylabel="κ, 10 to 90 % of steps")
    axes[1].set(xlim=(0, 1), ylim=(0, 1))
    axes[2].plot(steps, np.abs(median - wanted).mean(1), color=COLOURS[0], label="learned")
    axes[2].plot(steps, np.abs(kalman - wanted).mean(1), color=INK, linestyle=DASHES[1], label="Kalman")
    axes[2].set(title="Mean distance from K∞", xlabel="step", ylabel="|κ − K∞|", ylim=(1e-3, 1.0))
    powers_of_ten(axes[2], "x", "y")
    axes[2].legend(fontsize=7)


def sdu_figure(
    frequency: Array, gain: Curves, error: Curves, noise_db: Array, noisy: Curves, jitter: Array, jittered: Curves
) -> Figure:
    """Derivative units: |out|/|in| and relative error on sines, error under noise, error at irregular times.

    frequency in cycles per sample; every mapping from a unit's name to its curve over the axis before it.
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots(2, 2)
        axes[0, 0].plot(frequency, 2 * np.pi * frequency, color=INK, linewidth=3.0, alpha=0.25, label="ideal, 2πf")
        panels = ((axes[0, 0], frequency, gain), (axes[0, 1], frequency, error), (axes[1, 0], noise_db, noisy))
        for one, at, curves in (*panels, (axes[1, 1], jitter, jittered)):
            for name, look, curve in _looked(curves, of=gain):
                one.plot(at, np.maximum(curve, LEAST), **look, label=name)
        axes[0, 0].set(title="Frequency response", xlabel="f, cycles per sample", ylabel="|out| / |in|")
        axes[0, 1].set(title="Error of the derivative of a sine", xlabel="f, cycles per sample")
        axes[1, 0].set(title="Under white noise (signal up to f = 0.08)", xlabel="signal to noise, dB")
        axes[1, 1].set(title="At irregular times (sine, f = 0.03)", xlabel="jitter, samples peak to peak")
        for one in axes.ravel()[1:]:
            one.set_ylabel("RMS error / RMS derivative")
            powers_of_ten(one, "y")
        _legend_below(figure, [axes[0, 0], axes[1, 1]])

    return drawn(7.2, paint)


def precision_figure(
    end: Array, error: Mapping[tuple[str, float, int], Array], gradient: Mapping[tuple[float, int], Array]
) -> Figure:
    """Relative error of y over time by way of computing, a panel for each (ρ, S); the gradient's norm over L.

    end: last step of every block of time. error: by (way, ρ, S). gradient: by (ρ, S) the norms (L, H) of H heads.
    """
    norms, segments = (list(dict.fromkeys(key[i] for key in error)) for i in (1, 2))

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(segments), len(norms) + 1, squeeze=False, width_ratios=[1] * len(norms) + [1.3])
        for row, segment in zip(axes, segments, strict=True):
            for one, norm in zip(row, norms, strict=False):
                for name, look, curve in _looked({way: e for (way, *at), e in error.items() if at == [norm, segment]}):
                    one.plot(end, curve, **look, label=name)
                one.set(title=f"ρ = {norm:g}, S = {segment}", xlabel="step", ylim=(1e-8, 1.0))
                powers_of_ten(one, "y")
            row[0].set_ylabel("relative error of y")
            _gradients(row[-1], {f"ρ = {norm:g}": g for (norm, s), g in gradient.items() if s == segment})
            row[-1].set_title(f"‖∂y_L/∂h_0‖, S = {segment}")
        axes[0, 0].legend(fontsize=7, loc="center right", bbox_to_anchor=(1.0, 0.4))

    return drawn(6.0, paint)


def _gradients(axes: Axes, norms: Curves) -> None:
    """The geometric mean of the heads' norms (L, H), and the range of them shaded."""
    for name, look, some in _looked(norms):
        some = np.maximum(some, 1e-30)
        steps = np.arange(1, len(some) + 1)
        axes.fill_between(steps, some.min(1), some.max(1), color=look["color"], alpha=0.25, linewidth=0)
        axes.plot(steps, np.exp(np.log(some).mean(1)), **look, label=name)
    axes.set(xlabel="L", ylim=(1e-12, 1e12))
    powers_of_ten(axes, "y")
    axes.legend(fontsize=7, loc="lower left")


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels: a panel's own would hide its curves."""
    lines: dict[str, Any] = {}
    for axes in panels:
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True):
            lines.setdefault(name, line)
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "fontsize": 8}
    figure.legend(list(lines.values()), list(lines), **look)


def powers_of_ten(axes: Axes, *names: str) -> None:
    """Logarithmic axes ("x", "y") whose ticks are powers of ten; the style reads no text as mathematics."""
    for name in names:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axes.set_xscale("log") if name == "x" else axes.set_yscale("log")
        axis.set_major_locator(LogLocator(10.0, numticks=9))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_power))


def _power(value: float, _: int) -> str:
    return f"{value:g}" if 0.01 <= value <= 100.0 else "10" + str(round(np.log10(value))).translate(SUPERSCRIPTS)


def _looked(curves: Curves, of: Mapping[str, Any] | None = None) -> list[tuple[str, dict[str, Any], Array]]:
    """Name, colour with line style, and curve; the look is by the name's place in `of`, or in the curves themselves.

    Names that `of` lacks follow after its own.
    """
    places = list(dict.fromkeys([*(of or ()), *curves]))
    return [
        (
            name,
            {
                "color": COLOURS[places.index(name) % len(COLOURS)],
                "linestyle": DASHES[(places.index(name) + places.index(name) // len(COLOURS)) % len(DASHES)],
                "linewidth": 1.3,
            },
            curve,
        )
        for name, curve in curves.items()
    ]
