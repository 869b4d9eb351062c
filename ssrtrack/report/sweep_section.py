"""The report's section on robustness: one figure per axis, break points and areas in a table."""

from html import escape

from ssrtrack.report import sweep_words as words
from ssrtrack.report.figures_sweep import sweep_curves
from ssrtrack.report.looks import result_looks
from ssrtrack.report.parts import figure, legend, table
from ssrtrack.report.words import count, number
from ssrtrack.scoring.degrade import AXES
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.sweep_curves import BREAK_FACTOR, Curve, Sweep


def robustness(result: EvaluationResult) -> str:
    """The section's body, as HTML; "" without a sweep."""
    return _introduction(result) + "".join(_axis(result, sweep) for sweep in result.sweeps) if result.sweeps else ""


def _introduction(result: EvaluationResult) -> str:
    against = "the truth" if result.has_truth else "the undegraded plots"
    text = (
        "<p>The log's plots are made worse along one axis at a time; every tracker runs on the same degraded plots and "
        f"is compared with {against} at every scan of the log, also where its plot was taken away. Shaded: 95 % "
        "bootstrap intervals over flights. A tracker breaks where its error exceeds the dotted limit, "
        f"{BREAK_FACTOR:g} times that of {escape(result.sweeps[0].reference)} on undegraded plots. Area: under the "
        f"curve, over that of {escape(result.sweeps[0].reference)}; below 1 is better. Lost: flights with three errors "
        "in a row over 0.5 NM.</p>"
    )
    return text + legend(result)


def _axis(result: EvaluationResult, sweep: Sweep) -> str:
    axis = AXES[sweep.axis]
    picture = sweep_curves(sweep, result_looks(result), f"sweep-{sweep.axis}")
    first, worst = words.level(sweep, float(sweep.levels[0])), words.level(sweep, float(sweep.levels[-1]))
    head = [
        "Tracker", f"error at {first}, m", f"error at {worst}, m", "breaks at", f"area ÷ {escape(sweep.reference)}",
        f"lost at {worst}",
    ]  # fmt: skip
    rows = "".join(_row(sweep, curve) for curve in sweep.curves)
    text = f"{escape(axis.text)} {count(sweep.flights)} flights. {escape(words.verdict(sweep))}"
    return (
        f'<h3 id="sweep-{sweep.axis}">{escape(axis.title)}</h3><p>{text}</p>'
        + figure(picture)
        + table(head, f"<tbody>{rows}</tbody>", "tight")
    )


def _row(sweep: Sweep, curve: Curve) -> str:
    values = [number(words.value(curve, sweep.key, place)) for place in (0, -1)]
    breaks = escape(words.broken(sweep, curve)) + _small(words.break_interval(sweep, curve))
    area = words.area(curve) + _small(words.area_interval(curve, sweep.reference))
    cells = "".join(f"<td>{text}</td>" for text in (*values, breaks, area, words.lost(curve)))
    return f'<tr><th scope="row">{escape(curve.tracker)}</th>{cells}</tr>'


def _small(text: str) -> str:
    return f'<span class="interval">{escape(text)}</span>' if text else ""
