"""Colours, markers and dashes: one look per tracker in every figure and legend; the page's colours by CSS variable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssrtrack.scoring.result import EvaluationResult

INK, MUTED, GRID, SHADE, PAPER, PLOT = "#1b1f24", "#59636e", "#dfe3e8", "#f8efd8", "#fefefe", "#8b949e"
# Okabe and Ito (2008): told apart with any colour vision. Black is kept for the truth, yellow vanishes on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 1.6), (1.5, 1.5), (5.0, 1.5, 1.2, 1.5))
VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--grid", SHADE: "--shade", PAPER: "--paper", PLOT: "--plot",
    **{colour: f"--tracker-{i}" for i, colour in enumerate(COLOURS)},
}  # fmt: skip
# matplotlib's settings; its font covers Latin, Greek and signs, and texts are never read as mathematics.
STYLE: dict[str, Any] = {
    "svg.hashsalt": "ssrtrack", "svg.fonttype": "path", "text.parse_math": False, "font.family": "DejaVu Sans",
    "font.size": 9.0, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.labelsize": 9.0, "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "lines.linewidth": 1.5, "lines.solid_capstyle": "round", "legend.frameon": False,
}  # fmt: skip
# Outline of each marker in a box of -5 … 5, for the page's own legends.
MARKER_PATHS = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "s": "M-3.6 -3.6h7.2v7.2h-7.2z",
    "D": "M0 -4.8L4.8 0L0 4.8L-4.8 0z",
    "^": "M0 -4.4L4.6 3.8H-4.6z",
    "v": "M0 4.4L4.6 -3.8H-4.6z",
    "P": "M-1.6 -4.4h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8v-3.2h2.8z",
}


@dataclass(frozen=True)
class Look:
    """How one tracker is drawn in every figure; `dash` is () for a solid line, else lengths of dash and gap.

    Later trackers are drawn over earlier ones with a thinner and more broken line, so that lines that coincide all
    show: a KF and an EKF differ by metres.
    """

    colour: str
    marker: str
    dash: tuple[float, ...]
    width: float


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each tracker in order; after six, colours come again with another marker."""
    found = {}
    for i, name in enumerate(names):
        turn, kind = divmod(i, len(COLOURS))
        found[name] = Look(
            COLOURS[kind], MARKERS[(kind + turn) % len(MARKERS)], DASHES[i % len(DASHES)], max(2.7 - 0.45 * i, 1.0)
        )
    return found


def result_looks(result: EvaluationResult) -> dict[str, Look]:
    """The looks of a result's trackers: the same in every figure of its report."""
    return looks([tracker.name for tracker in result.trackers])


def plain_label(text: str, most: int = 28) -> str:
    """A name from outside as printable text the figures' font has glyphs for, `most` letters at most.

    What is left out is before the end: paths and parameters differ there.
    """
    known = text.encode("latin-1", "replace").decode("latin-1")
    plain = "".join(letter if letter.isprintable() else " " for letter in known)
    head = (most - 1) // 3
    return plain if len(plain) <= most else f"{plain[:head]}…{plain[head + 1 - most :]}"
