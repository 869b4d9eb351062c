"""Figure of the recall experiment: accuracy over lengths and numbers of pairs, for every mixer and width."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ssrtrack.report.figures_koss import drawn
from ssrtrack.report.looks import COLOURS, INK, MUTED, PAPER

Surface = Mapping[tuple[int, int], float]
DARK = 0.55  # accuracy from which its number is written on a dark ground


def recall_figure(surfaces: Mapping[tuple[str, int], Surface]) -> Figure:
    """Mean accuracy by (mixer, width), then by (T, N): a column of panels for each mixer, a row for each width.

    The line parts the cells with more pairs than the network is wide from those with fewer. ValueError: no surface.
    """
    if not surfaces:
        raise ValueError("no accuracies to draw: give at least one mixer's, see ssrtrack.experiments.recall_table")
    mixers = list(dict.fromkeys(mixer for mixer, _ in surfaces))
    widths = sorted({width for _, width in surfaces})
    cells = {cell for surface in surfaces.values() for cell in surface}
    lengths, pairs = (sorted({cell[i] for cell in cells}) for i in (0, 1))

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(widths), len(mixers), squeeze=False, sharex=True, sharey=True)
        shown = None
        for row, width in enumerate(widths):
            for column, mixer in enumerate(mixers):
                panel = axes[row, column]
                shown = _surface(panel, surfaces.get((mixer, width), {}), lengths, pairs)
                _boundary(panel, pairs, width)
                if row == 0:
                    panel.set_title(mixer)
                if row == len(widths) - 1:
                    panel.set_xlabel("T")
            axes[row, 0].set_ylabel(f"width {width}\nN pairs")
        if shown is not None:
            bar = figure.colorbar(shown, ax=axes.ravel().tolist(), shrink=0.5, aspect=30, pad=0.01)
            bar.set_label("share of answers that are right")

    return drawn(1.0 + 1.5 * len(widths), paint)


def _surface(panel: Axes, surface: Surface, lengths: list[int], pairs: list[int]) -> AxesImage:
    """One panel; cells that are not tested stay blank."""
    share = np.array([[surface.get((T, n), np.nan) for T in lengths] for n in pairs])
    image = panel.imshow(share, cmap=_shades(), vmin=0.0, vmax=1.0, origin="lower", aspect="auto")
    for i, j in zip(*np.nonzero(np.isfinite(share)), strict=True):
        colour = PAPER if share[i, j] >= DARK else INK
        panel.text(j, i, f"{100.0 * share[i, j]:.0f}", ha="center", va="center", fontsize=5, color=colour)
    panel.set_xticks(range(len(lengths)), [str(T) for T in lengths], fontsize=5.5)
    panel.set_yticks(range(len(pairs)), [str(n) for n in pairs], fontsize=6)
    panel.grid(False)
    return image


def _boundary(panel: Axes, pairs: list[int], width: int) -> None:
    above = sum(n <= width for n in pairs) - 0.5
    if -0.5 < above < len(pairs) - 0.5:
        panel.axhline(above, color=MUTED, linewidth=0.8, linestyle=(0, (3.0, 2.0)))


def _shades() -> ListedColormap:
    """From paper to the first colour of all figures."""
    ends = [[int(colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5)] for colour in (PAPER, COLOURS[0])]
    low, high = (np.array(end) for end in ends)
    return ListedColormap(low + (high - low) * np.linspace(0.0, 1.0, 101)[:, None])
