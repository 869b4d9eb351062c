"""What every figure shares: how it becomes an inline SVG, and its lines and scales."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ssrtrack.report import looks, prepare, svg
from ssrtrack.report.looks import Look

DENSE = 3000  # vertices above which a layer is rasterised
WIDTH_IN, DPI = 10.0, 130


def draw(height_in: float, prefix: str, alt: str, paint: Callable[[Figure], None]) -> str:
    """The figure that `paint` fills, as an inline SVG whose ids begin with `prefix` and whose description is `alt`."""
    with matplotlib.style.context(["default", looks.STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in))
        paint(figure)
        # A figure that owns its layout engine is drawn twice, the first time only to be laid out.
        ConstrainedLayoutEngine().execute(figure)
        text = StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", dpi=DPI, metadata=empty)
    return svg.inline(text.getvalue(), prefix=prefix, alt=alt, variables=looks.VARIABLES)


def plain_log(axis: Any, low: float, high: float, most: int = 8) -> None:
    """A logarithmic axis with a few round ticks, written plainly."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(FixedLocator(prepare.log_ticks(low, high, most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}".replace(",", " ")))


def dash(look: Look) -> Any:
    """The look's line style as matplotlib takes it."""
    return (0, look.dash) if look.dash else "-"


def line(axes: Axes, x: Any, y: Any, look: Look, **more: Any) -> None:
    """A tracker's line; a dense one is rasterised."""
    more = {"linewidth": look.width} | more
    axes.plot(x, y, color=look.colour, linestyle=dash(look), rasterized=len(x) > DENSE, **more)
