"""The report of a batch: what failed, the scores of all logs together, and every log, worst first."""

from collections.abc import Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from urllib.parse import quote

from ssrtrack.errors import ScoringError
from ssrtrack.report import words
from ssrtrack.report.figures_batch import logs_by_score
from ssrtrack.report.html import frame, replace_file
from ssrtrack.report.parts import figure, legend, table
from ssrtrack.report.sections import Section, fact, score_table, sections
from ssrtrack.report.words import GROUPS, ROWS
from ssrtrack.scoring.overall import BatchResult, LogResult, main_score, worst_first
from ssrtrack.scoring.result import EvaluationResult

MOST_LOGS = 1000  # rows of a table that a browser still scrolls well
WHOLE = ("scores", "distribution", "calibration", "bound", "notes", "definitions")


def make_batch_report(
    result: BatchResult, directory: Path, *, command: str, software_version: str, created: str
) -> Path:
    """Write `report.html` into `directory` and return its path; the file is replaced in one step.

    Raises ScoringError when it cannot be written.
    """
    page = batch_page(result, command=command, software_version=software_version, created=created)
    path = Path(directory) / "report.html"
    try:
        replace_file(path, page)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ScoringError(f"cannot write {path}: {reason}; name a folder that can be written") from error
    return path


def batch_page(result: BatchResult, *, command: str, software_version: str, created: str) -> str:
    """The whole page as text."""
    parts: list[Section] = []
    failed = [log for log in result.logs if not log.good]
    if failed:
        parts.append(("failed", _counted(len(failed), "log") + " failed", _failures(failed)))
    for i, overall in enumerate(_most_logs_first(result)):
        logs = [log for log in worst_first(result.logs, result.trackers[0]) if log.has_truth == overall.has_truth]
        parts += _of_kind(overall, [log for log in logs if log.good], i, len(result.overall) > 1)
    provenance = (
        f"<p>ssrtrack {escape(software_version)}, {escape(created)}.</p><pre><code>{escape(command)}</code></pre>"
    )
    return frame(
        title=_counted(len(result.logs), "log"),
        lead=_lead(result),
        below=_remarks(result) + _facts(result),
        parts=[*parts, ("provenance", "Provenance", provenance)],
        software_version=software_version,
    )


def _most_logs_first(result: BatchResult) -> list[EvaluationResult]:
    return sorted(result.overall, key=lambda one: -len(one.logs))


def _counted(number: int, what: str) -> str:
    return f"{words.count(number)} {what}{'s' * (number != 1)}"


def _lead(result: BatchResult) -> str:
    if not result.overall:
        return "No log could be scored; the causes are below."
    overall = _most_logs_first(result)[0]
    few = "" if len(overall.logs) == len(result.logs) else f"{words.count(len(overall.logs))} of "
    return f"Over {few}{_counted(len(result.logs), 'log')}: {words.headline(overall)}"


def _remarks(result: BatchResult) -> str:
    texts = []
    if failed := result.count("failed"):
        texts.append(
            f'<span class="warn">{_counted(failed, "log")} failed</span> and '
            f"{'is' if failed == 1 else 'are'} not in any score below."
        )
    for overall in _most_logs_first(result)[:1]:
        texts += [escape(text) for text in (words.calibration(overall), words.outliers(overall)) if text]
    return "".join(f"<p>{text}</p>" for text in texts)


def _facts(result: BatchResult) -> str:
    plots = sum(log.plots for log in result.logs if log.good)
    flights = sum(log.flights for log in result.logs if log.good)
    updates = sum(max(t.scores.updates for t in one.trackers) for one in result.overall)
    again = result.count("reused")
    speed = result.plots_per_s
    known = [
        (
            "Logs",
            words.count(len(result.logs)),
            f"{words.count(again)} taken over from an earlier run" if again else "",
        ),
        ("Plots", words.count(plots), ""),
        ("Flights", words.count(flights), ""),
        ("Scored updates", words.count(updates), ""),
        (
            "Took",
            str(timedelta(seconds=round(result.wall_s))),
            f"{words.count(speed)} plots/s, all workers together" if speed else "",
        ),
    ]
    return f'<dl class="facts">{"".join(fact(*one) for one in known)}</dl>'


def _failures(failed: Sequence[LogResult]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(log.name)}</th><td>{escape(log.cause or "not done: the run was ended")}</td></tr>'
        for log in failed[:MOST_LOGS]
    )
    return table(["Log", "Cause"], f"<tbody>{body}</tbody>", "defs") + _rest(len(failed))


def _rest(number: int) -> str:
    more = number - MOST_LOGS
    return f'<p class="muted">{_counted(more, "further log")} in summary.json.</p>' if more > 0 else ""


def _of_kind(overall: EvaluationResult, logs: Sequence[LogResult], turn: int, apart: bool) -> list[Section]:
    """The sections of the logs with truth, or of those without; the second kind gets tables alone."""
    kind = (", with truth" if overall.has_truth else ", without truth") if apart else ""
    tail = "" if not turn else f"-{turn + 1}"
    each: Section = (f"logs{tail}", f"Every log, worst first{kind}", _logs(overall, logs, f"logs{tail}"))
    if turn:
        return [(f"scores{tail}", f"Scores of all logs{kind}", score_table(overall, GROUPS)), each]
    titles = {"scores": f"Scores of all logs{kind}"}
    whole = [(name, titles.get(name, title), body) for name, title, body in sections(overall, only=WHOLE)]
    return [whole[0], each, *whole[1:]]


def _logs(overall: EvaluationResult, logs: Sequence[LogResult], prefix: str) -> str:
    names = [tracker.name for tracker in overall.trackers]
    row = ROWS[main_score(overall.has_truth)]
    calibration = ROWS["coverage_95" if overall.has_truth else "anis_median_ratio"]
    first = escape(names[0])
    what = "RMS position error" if overall.has_truth else "95th percentile of the distance to the next plot"
    text = (
        f"{what} in m by tracker; {first} ranks the logs. Select a log for its own result.json, which has all scores "
        "with their intervals."
    )
    head = [
        "Log", "plots", "flights", *map(escape, names), f"{first}: {escape(calibration.short)}", "work, s",
    ]  # fmt: skip
    body = "".join(_log_row(log, names, row.key, calibration.key) for log in logs[:MOST_LOGS])
    picture = logs_by_score(logs, names, prefix)
    return (
        figure(picture, "", legend(overall))
        + f"<p>{text}</p>"
        + table(head, f"<tbody>{body}</tbody>", "tight")
        + _rest(len(logs))
    )


def _log_row(log: LogResult, names: Sequence[str], key: str, calibration: str) -> str:
    values = [log.score(name, key) for name in names]
    winners = words.best(ROWS[key], values)
    marks = [' class="best"' if i in winners else "" for i in range(len(names))]
    cells = "".join(
        f"<td><span{mark}>{words.written(ROWS[key], value)}</span></td>"
        for mark, value in zip(marks, values, strict=True)
    )
    sure = words.written(ROWS[calibration], log.score(names[0], calibration))
    link = f'<a href="{escape(quote(log.folder), quote=True)}/result.json">{escape(log.name)}</a>'
    return (
        f'<tr><th scope="row">{link}</th><td>{words.count(log.plots)}</td><td>{words.count(log.flights)}</td>{cells}'
        f"<td>{sure}</td><td>{words.number(log.seconds)}</td></tr>"
    )
