"""The report's sections as HTML, in the order a surveillance engineer reads them. Texts from outside are escaped."""

from collections.abc import Callable, Sequence
from html import escape
from math import isfinite
from pathlib import PurePath

from ssrtrack.report import figures, figures_time, prepare, words
from ssrtrack.report.parts import figure, legend, table
from ssrtrack.report.sweep_section import robustness
from ssrtrack.report.words import GROUPS, ROWS, Row
from ssrtrack.scoring.result import EvaluationResult, RadarNoise, Scores, TrackerResult

SHOWN_LOGS = 5
Section = tuple[str, str, str]  # id, title, body
Progress = Callable[[str, int, int], None]


def sections(
    result: EvaluationResult, progress: Progress | None = None, only: Sequence[str] | None = None
) -> list[Section]:
    """Every section that applies to this result, in reading order; `progress` is called with (what, done, total).

    `only` names the ids of those wanted.
    """
    parts: tuple[tuple[str, str, Callable[[EvaluationResult], str]], ...] = (
        ("scores", "Scores", _scores),
        ("map", "Where they flew", _map),
        ("time", "Error over time", _time),
        ("distribution", _error_name(result).capitalize(), _distribution),
        ("calibration", "Can the uncertainty be believed?", _calibration),
        ("flights", "Flight by flight", _flights),
        ("robustness", "Robustness", robustness),
        ("noise", "Radar noise", _noise),
        ("bound", "How close to the limit", _bound),
        ("notes", "Notes", _notes),
        ("definitions", "What every score means", _definitions),
    )
    made = []
    for i, (name, title, write) in enumerate(part for part in parts if only is None or part[0] in only):
        if progress:
            progress("drawing the report", i, len(parts))
        made.append((name, title, write(result)))
    return [section for section in made if section[2]]


def _error_name(result: EvaluationResult) -> str:
    return "position error" if result.has_truth else "distance to the next plot"


def facts(result: EvaluationResult) -> str:
    """What was evaluated, as a list of facts."""
    names = [PurePath(log).name or log for log in result.logs[:SHOWN_LOGS]]
    more = len(result.logs) - len(names)
    logs = ", ".join(names) + (f" and {words.count(more)} more" if more > 0 else "")
    flights = max((tracker.scores.flights for tracker in result.trackers), default=0)
    updates = max((tracker.scores.updates for tracker in result.trackers), default=0)
    share = f"{100 * result.plots_used / result.plots:.1f} % used for tracks" if result.plots else "none to use"
    identity = {"truth": "simulated truth", "address": "24-bit address"}.get(result.identity, result.identity)
    reference = "the true trajectories" if result.has_truth else "the next plot"
    known = [
        ("Log" if len(result.logs) == 1 else f"{words.count(len(result.logs))} logs", logs, ""),
        ("Time", words.span(result), ""),
        ("Plots", words.count(result.plots), share),
        ("Flights", words.count(flights), f"told apart by {identity}"),
        ("Scored updates", words.count(updates), f"after {result.warmup_plots} warm-up plots per flight"),
        ("Radars", _radar_names(result.radars), ""),
        ("Compared with", reference, "" if result.has_truth else "the log holds no truth"),
    ]

    return f'<dl class="facts">{"".join(fact(*one) for one in known if one[1])}</dl>'


def fact(name: str, value: str, small: str) -> str:
    """One entry of a list of facts, as HTML."""
    kind = ' class="wide"' if len(value) > 30 else ""
    more = f"<small>{escape(small)}</small>" if small else ""
    return f"<div{kind}><dt>{escape(name)}</dt><dd>{escape(value)}{more}</dd></div>"


def _radar_names(radars: Sequence[RadarNoise]) -> str:
    names = [radar.name for radar in radars[:SHOWN_LOGS]]
    more = len(radars) - len(names)
    return ", ".join(names) + (f" and {words.count(more)} more" if more > 0 else "")


def _score_rows(result: EvaluationResult, rows: Sequence[Row]) -> str:
    units, meanings = Scores.units(), Scores.meanings()
    return "".join(_score_row(result.trackers, row, words.unit(row.key, units), meanings[row.key]) for row in rows)


def _score_row(trackers: Sequence[TrackerResult], row: Row, unit: str, meaning: str) -> str:
    values = [words.value_of(tracker, row.key) for tracker in trackers]
    if all(value is None for value in values):
        return ""
    winners = words.best(row, values)
    cells = []
    for i, (tracker, value) in enumerate(zip(trackers, values, strict=True)):
        interval = words.written_interval(row, value, words.interval_of(tracker, row.key))
        small = f'<span class="interval">{interval}</span>' if interval else ""
        mark = ' class="best"' if i in winners else ""
        cells.append(f"<td><span{mark}>{words.written(row, value)}</span>{small}</td>")
    title = escape(meaning, quote=True)
    name = f'<th scope="row" title="{title}"><a href="#score-{row.key}">{escape(row.label)}</a></th>'
    return f'<tr>{name}<td class="left unit">{escape(unit)}</td>{"".join(cells)}</tr>'


def score_table(result: EvaluationResult, groups: dict[str, tuple[Row, ...]]) -> str:
    """All scores of all trackers, one row per score."""
    bodies = []
    for title, rows in groups.items():
        # Without truth `nll` repeats `nll_next_plot`.
        lines = _score_rows(result, [row for row in rows if result.has_truth or row.key != "nll"])
        if lines:
            span = (
                f'<tr><th class="group" scope="rowgroup" colspan="{len(result.trackers) + 2}">{escape(title)}</th></tr>'
            )
            bodies.append(f"<tbody>{span}{lines}</tbody>")
    head = ["Score", '<span class="unit">unit</span>', *(escape(tracker.name) for tracker in result.trackers)]
    return table(head, "".join(bodies), "scores")


def _scores(result: EvaluationResult) -> str:
    picture = figures.by_phase(result, "phase")
    bound = " The upright line is the Cramér–Rao bound." if _has(result, "position_bound_rms_m") else ""
    caption = f"Points are scores, bars their 95 % bootstrap intervals over flights; further left is better.{bound}"
    text = (
        "Bold with a dot: best of its row. Small figures: 95 % bootstrap interval over flights. A dash: does not apply."
    )
    return (
        figure(picture, caption, legend(result))
        + f'<p class="muted">{text} Select a score to read its definition.</p>'
        + score_table(result, GROUPS)
    )


def _has(result: EvaluationResult, key: str) -> bool:
    return any(words.value_of(tracker, key) is not None for tracker in result.trackers)


def _path_words(result: EvaluationResult) -> list[tuple[str, str]]:
    if any(example.truth_m is not None for example in result.examples):
        return [("line", "truth"), ("dot", "plots")]
    smoothed = any(example.smoothed_m is not None for example in result.examples)
    return [*([("line", "smoothed reference")] if smoothed else []), ("dot", "plots")]


def _map(result: EvaluationResult) -> str:
    if not result.overview_tracks_m and not result.examples:
        return ""
    origin = "the radar" if len(result.radars) == 1 else "the tracking frame's origin"
    text = f"A sample of the flights around {origin} (+), north up, rings in nautical miles."
    chosen = " The numbered flights are drawn closer below." if result.examples else ""
    near = (
        "Each numbered flight where it is hardest to follow: in a turn, or else where errors are largest. Axes in NM."
    )
    return figure(figures.overview(result, "map"), text + chosen) + figure(
        figures.closeups(result, "close"), near, legend(result, _path_words(result))
    )


def _time(result: EvaluationResult) -> str:
    drawn = []
    for i, example in enumerate(result.examples, start=1):
        if len(example.time_s) > 1 and any(tracker.name in example.error_m for tracker in result.trackers):
            picture = figures_time.error_over_time(result, example, f"time{i}")
            drawn.append(f"<h3>{i}&ensp;{escape(example.label)}</h3>{figure(picture)}")
    if not drawn:
        return ""
    against = "the truth" if result.has_truth else "the smoothed reference, which knows the plots to come"
    honest = (
        "an honest tracker stays inside it for 95 to 98 % of its updates"
        if result.has_truth
        else "an honest tracker stays inside it even more often than 95 %, for the reference shares its plots"
    )
    text = (
        f"Distance to {against}, one strip per tracker. The tinted area is the tracker's own 2σ envelope: {honest}. "
        "What rises above the axis is cut."
    )
    turning = [flags for flags in map(prepare.turning, result.examples) if flags is not None and flags.any()]
    shade = "turning" if result.has_truth else "turning, by the smoothed reference"
    keys = [*([("shade", shade)] if turning else []), ("dash", "end of the warm-up, scored from here")]
    return f"<p>{text}</p>{legend(result, keys, trackers=False)}{''.join(drawn)}"


def _distribution(result: EvaluationResult) -> str:
    caption = "Left: share of updates with a smaller error. Right: share with a larger one. Marks at p50, p95 and p99."
    return figure(figures.distribution(result, "cdf"), caption, legend(result))


def _calibration(result: EvaluationResult) -> str:
    series = figure(
        figures.consistency(result, "nees"),
        "Normalised squares by time since each flight's first plot, mean over flights: 1 is ideal; above it the "
        "tracker claims more accuracy than it has, below it less. Inside the band a mean may differ from 1 by chance.",
        legend(result, [("band", "95 % χ² bounds of the mean")]),
    )
    coverage = figure(
        figures.reliability(result, "cover"),
        "Probability a tracker gives its position ellipse, and how often the true position was inside. The axes are "
        "stretched so that an uncertainty wrong by one factor is a straight line.",
        legend(result),
    )
    return series + coverage


def _flights(result: EvaluationResult) -> str:
    won = "".join(_won(name, result.trackers[0].name, *pair) for name, pair in prepare.paired_flights(result).items())
    listed = f'<ul class="notes">{won}</ul>' if won else ""
    picture = figures.per_flight(result, "each")
    right = (
        f" Right: a mark below the line is a flight on which {escape(result.trackers[0].name)} does worse."
        if won
        else ""
    )
    caption = f"RMS {_error_name(result)} of every flight.{right}"
    return figure(picture, caption, legend(result)) + listed if picture else ""


def _won(name: str, first: str, x: prepare.Array, y: prepare.Array) -> str:
    better = int((y < x).sum())
    share = f"{words.count(better)} of {words.count(len(x))}"
    return f"<li>{escape(name)} is better than {escape(first)} on {share} flights.</li>"


def _noise(result: EvaluationResult) -> str:
    radars = result.radars
    if not radars:
        return ""
    wide = (("", 3), ("σ range, m", 3), ("σ azimuth, °", 3), ("99th percentile", 2), ("used ÷ measured", 2))
    groups = "".join(
        f'<th scope="colgroup" colspan="{span}">{text}</th>' if text else f'<td colspan="{span}"></td>'
        for text, span in wide
    )
    sigmas = ("stated", "measured", "used")
    head = ["Radar", "plots", "period, s", *sigmas, *sigmas, "range, m", "azimuth, °", "range", "azimuth"]
    body = "".join(_noise_row(radar) for radar in radars)
    text = (
        "Stated: in the log. Measured: residuals of local cubic fits to the plots, so constant errors do not show. "
        "Used: what the trackers were given; in colour where it is more than half as large again as the measured σ, or "
        "less than two thirds of it: the calibration above will show that."
    )
    return f"<p>{text}</p>" + table(head, f"<tbody>{body}</tbody>", "tight", f"<tr>{groups}</tr>")


def _noise_row(radar: RadarNoise) -> str:
    metres = [radar.stated_range_m, radar.measured_range_m, radar.used_range_m]
    # Four decimals: rounding an azimuth of 0.0057 deg to 0.006 hides what a radar is worth.
    degrees = [radar.stated_azimuth_deg, radar.measured_azimuth_deg, radar.used_azimuth_deg, radar.azimuth_p99_deg]
    *azimuths, azimuth_p99 = [words.number(value, 4) for value in degrees]
    period, *ranges, range_p99 = [
        words.number(value) for value in [radar.rotation_period_s, *metres, radar.range_p99_m]
    ]
    cells = "".join(f"<td>{text}</td>" for text in [period, *ranges, *azimuths, range_p99, azimuth_p99])
    sigmas = ((radar.used_range_m, radar.measured_range_m), (radar.used_azimuth_deg, radar.measured_azimuth_deg))
    compared = "".join(_ratio_cell(_ratio(used, measured)) for used, measured in sigmas)
    head = f'<th scope="row">{escape(radar.name)}</th><td>{words.count(radar.plots)}</td>'
    return f"<tr>{head}{cells}{compared}</tr>"


def _ratio_cell(ratio: float | None) -> str:
    mark = ' class="warn"' if ratio is not None and not 2 / 3 <= ratio <= 1.5 else ""
    return f"<td{mark}>{words.number(ratio)}</td>"


def _ratio(used: float, measured: float | None) -> float | None:
    return used / measured if measured and isfinite(measured) and isfinite(used) else None


def _bound(result: EvaluationResult) -> str:
    if not _has(result, "position_bound_rms_m"):
        return ""
    head = ["Tracker", "position RMS, m", "bound, m", "efficiency", "velocity RMS, m/s", "bound, m/s", "efficiency"]
    keys = (
        "position_rmse_m", "position_bound_rms_m", "position_efficiency",
        "velocity_rmse_mps", "velocity_bound_rms_mps", "velocity_efficiency",
    )  # fmt: skip
    lines = []
    for tracker in result.trackers:
        cells = "".join(f"<td>{words.written(ROWS[key], words.value_of(tracker, key))}</td>" for key in keys)
        lines.append(f'<tr><th scope="row">{escape(tracker.name)}</th>{cells}</tr>')
    above = [t.name for t in result.trackers if (words.value_of(t, "position_efficiency") or 0.0) > 1.0]
    warning = (
        f'<p class="warn">Above 1: {escape(", ".join(above))}. Look for leakage or a wrong σ first.</p>'
        if above
        else ""
    )
    text = (
        "The posterior Cramér–Rao bound is computed with the manoeuvres known. No tracker is told them, so 1 is out of "
        "reach in turns and the gap there is the price of not knowing. An efficiency above 1 by more than chance means "
        "leakage, a wrong σ, or a tracker with a narrower idea of how aircraft move than the bound assumes."
    )
    return f"<p>{text}</p>{warning}" + table(head, f"<tbody>{''.join(lines)}</tbody>")


def _notes(result: EvaluationResult) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _definitions(result: EvaluationResult) -> str:
    units, meanings = Scores.units(), Scores.meanings()
    lines = "".join(
        f'<tr id="score-{row.key}"><th scope="row"><code>{row.key}</code></th>'
        f"<td>{escape(words.unit(row.key, units))}</td>"
        f"<td>{escape(group)}: {escape(row.label)}</td><td>{escape(meanings[row.key])}</td></tr>"
        for group, rows in GROUPS.items()
        for row in rows
        if _has(result, row.key)
    )
    text = "Keys as in scores.json beside this page. Scores that do not apply here are left out."
    return f"<p>{text}</p>" + table(["Key", "Unit", "Score", "Meaning"], f"<tbody>{lines}</tbody>", "defs")
