"""The report: one self-contained HTML page and scores.json beside it, written whole or not at all."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ssrtrack.errors import ScoringError
from ssrtrack.io.whole import write_whole
from ssrtrack.report import words
from ssrtrack.report.sections import Progress, Section, facts, sections
from ssrtrack.report.style import CSS
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.serialise import scores_json

# Nothing is loaded from anywhere, and nothing in a log's texts could run even if an escape were missed.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def make_report(
    result: EvaluationResult,
    directory: Path,
    *,
    title: str,
    command: str,
    software_version: str,
    created: str,
    progress: Progress | None = None,
) -> Path:
    """Write `report.html` and `scores.json` into `directory`, making it if need be; return the page's path.

    Both files are replaced in one step each, so that a reader sees the old or the new one, never a part. `created` is
    printed as given: the library reads no clock. `progress` is called with (what, done, total).

    Raises ScoringError when the result has no tracker, or the directory cannot be made or written.
    """
    if not result.trackers:
        raise ScoringError("the result holds no tracker, expected at least one: name one, for example -t imm")
    page = html_page(
        result, title=title, command=command, software_version=software_version, created=created, progress=progress
    )
    scores = json.dumps(scores_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / "scores.json", scores)
        replace_file(directory / "report.html", page)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ScoringError(
            f"cannot write a report into {directory}: {reason}; name a directory that can be written"
        ) from error
    return directory / "report.html"


def html_page(
    result: EvaluationResult,
    *,
    title: str,
    command: str,
    software_version: str,
    created: str,
    progress: Progress | None = None,
) -> str:
    """The whole page as text."""
    remarks = "".join(f"<p>{_prose(text)}</p>" for text in (words.calibration(result), words.outliers(result)) if text)
    return frame(
        title=title,
        lead=words.headline(result),
        below=remarks + facts(result),
        parts=[
            *sections(result, progress),
            ("provenance", "Provenance", _provenance(result, command, software_version, created)),
        ],
        software_version=software_version,
    )


def frame(*, title: str, lead: str, below: str, parts: Sequence[Section], software_version: str) -> str:
    """A page: title, one sentence in large letters, HTML below it, contents, and sections (id, heading, HTML)."""
    contents = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in parts)
    body = "".join(f'<section id="{name}"><h2>{escape(heading)}</h2>{text}</section>' for name, heading, text in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="ssrtrack {escape(software_version)}">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="result">{_prose(lead)}</p>
{below}
<nav aria-label="Contents">{contents}</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _prose(text: str) -> str:
    """Escaped, with each number kept on one line with its unit."""
    return re.sub(r"(?<=\d) (?=[m%])", "\u00a0", escape(text))


def _provenance(result: EvaluationResult, command: str, software_version: str, created: str) -> str:
    logs = "".join(f"<li>{escape(log)}</li>" for log in result.logs[:100])
    more = f"<li>and {words.count(len(result.logs) - 100)} more</li>" if len(result.logs) > 100 else ""
    return (
        f"<p>ssrtrack {escape(software_version)}, {escape(created)}. Epoch of the log: {escape(result.epoch)}.</p>"
        f'<pre><code>{escape(command)}</code></pre><ul class="notes">{logs}{more}</ul>'
    )


def replace_file(path: Path, text: str) -> None:
    """Replace a page whole; characters that are none (of a file's name, say) are shown as question marks."""
    write_whole(path, text.encode("utf-8", "replace"))
