"""Sweeps in the terminal: one line per tracker and axis, at most 100 columns wide."""

from rich.table import Table
from rich.text import Text

from ssrtrack.report import sweep_words as words
from ssrtrack.report.looks import plain_label
from ssrtrack.report.words import THIN, number
from ssrtrack.scoring.sweep_curves import BREAK_FACTOR, Curve, Sweep


def format_sweeps(sweeps: tuple[Sweep, ...]) -> Table:
    """Every tracker's error before and at the worst level, its break point, its area over the reference's, its losses.

    All texts are literal: a tracker's name is never read as markup.
    """
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="", show_edge=False, width=None)
    table.add_column(Text("sweep", style="bold"), max_width=18)
    table.add_column(Text("tracker", style="bold"), overflow="fold", max_width=16)
    reference = sweeps[0].reference
    for heading in ("first, m", "worst, m", "breaks at", f"area ÷ {plain_label(reference, 16)}", "lost"):
        table.add_column(Text(heading, style="bold", justify="right"), justify="right", max_width=22)
    for sweep in sweeps:
        for i, curve in enumerate(sweep.curves):
            name = f"{sweep.axis} {sweep.levels[0]:g} … {sweep.levels[-1]:g}" if i == 0 else ""
            table.add_row(Text(name), Text(curve.tracker), *_cells(sweep, curve))
    table.caption = Text(
        f"Error undegraded and at the worst level; breaks at {BREAK_FACTOR:g} times the undegraded error of "
        f"{reference}; small: 95 % intervals over flights; lost: flights at the worst level",
        style="dim",
    )
    table.caption_justify = "left"
    return table


def _cells(sweep: Sweep, curve: Curve) -> tuple[Text, ...]:
    first, worst = (_plain(number(words.value(curve, sweep.key, place))) for place in (0, -1))
    breaks = Text(words.broken(sweep, curve))
    area = Text(words.area(curve))
    for text, small in (
        (breaks, words.break_interval(sweep, curve)),
        (area, words.area_interval(curve, sweep.reference)),
    ):
        if small:
            text.append(f"\n{_plain(small)}", style="dim")
    return Text(first), Text(worst), breaks, area, Text(words.lost(curve))


def _plain(text: str) -> str:
    """Without narrow spaces: a terminal may break a line at one."""
    return text.replace(THIN, "")
