"""The page of a batch: what failed comes first, logs worst first, texts from outside are only text."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ssrtrack.errors import ScoringError
from ssrtrack.report import batch_page
from ssrtrack.report.batch_page import make_batch_report
from ssrtrack.report.figures_batch import logs_by_score
from ssrtrack.scoring.overall import BatchResult, LogResult
from ssrtrack.scoring.result import EvaluationResult
from tests.report_fixture import make_result

HOSTILE = "<script>alert(1)</script>&\"'.h5"


def scored(name: str, error: float, *, truth: bool = True) -> LogResult:
    key = "position_rmse_m" if truth else "next_plot_p95_m"
    scores = {tracker: {key: error + i, "coverage_95": 0.95} for i, tracker in enumerate(("kf", "imm"))}
    return LogResult(f"/logs/{name}", name, "scored", "", 500, 12, 0.5, truth, scores, f"logs/{name}-0123456789")


def overall(logs: list[LogResult], *, truth: bool = True) -> EvaluationResult:
    result = make_result(truth=truth)
    return replace(
        result,
        logs=tuple(log.location for log in logs),
        trackers=tuple(replace(t, name=n) for t, n in zip(result.trackers, ("kf", "imm"), strict=False)),
        examples=(),
        overview_tracks_m=(),
    )


def page_of(result: BatchResult, folder: Path) -> str:
    path = make_batch_report(
        result, folder, command=f"ssrtrack batch {HOSTILE}", software_version="0", created="2026-01-01T00:00:00Z"
    )
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    return path.read_text()


@pytest.fixture
def result() -> BatchResult:
    good = [scored("fair.h5", 60.0), scored("worst.h5", 90.0), scored("best #1.h5", 30.0)]
    bare = [scored("bare.h5", 400.0, truth=False)]
    failed = LogResult(f"/logs/{HOSTILE}", HOSTILE, "failed", f"no good: {HOSTILE}")
    return BatchResult(("kf", "imm"), (*good, failed, *bare), (overall(good), overall(bare, truth=False)), 2.0)


def test_failures_then_scores_then_logs_worst_first(result: BatchResult, tmp_path: Path) -> None:
    page = page_of(result, tmp_path)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings[:3] == ["1 log failed", "Scores of all logs, with truth", "Every log, worst first, with truth"]
    assert headings[-3:] == [
        "Scores of all logs, without truth", "Every log, worst first, without truth", "Provenance",
    ]  # fmt: skip
    rows = re.findall(r'<th scope="row"><a href="([^"]*)">([^<]*)</a></th>', page)
    logs = [name for target, name in rows if target.endswith("/result.json")]
    assert logs == ["worst.h5", "fair.h5", "best #1.h5", "bare.h5"]
    assert "logs/best%20%231.h5-0123456789/result.json" in page
    assert "Over 3 of 5 logs" in page


def test_nothing_from_outside_is_markup(result: BatchResult, tmp_path: Path) -> None:
    page = page_of(result, tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3  # name, cause, command
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)  # nothing is loaded from elsewhere
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_all_failed(result: BatchResult, tmp_path: Path) -> None:
    failed = [log for log in result.logs if log.status == "failed"]
    page = page_of(BatchResult((), tuple(failed), (), 1.0), tmp_path)
    assert "No log could be scored" in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["1 log failed", "Provenance"]


def test_long_tables_say_what_they_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_page, "MOST_LOGS", 4)
    logs = [scored(f"{i}.h5", 10.0 + i) for i in range(7)]
    page = page_of(BatchResult(("kf", "imm"), tuple(logs), (overall(logs),), 1.0), tmp_path)
    assert "3 further logs in summary.json" in page
    assert ">6.h5</a>" in page
    assert ">1.h5</a>" not in page


def test_figure_of_logs() -> None:
    few = logs_by_score([scored(f"{i}.h5", 90.0 - i) for i in range(5)], ["kf", "imm"], "a")
    many = logs_by_score([scored(f"{i}.h5", 900.0 - i) for i in range(500)], ["kf", "imm"], "b")
    assert few is not None
    assert many is not None
    assert few != logs_by_score([scored(f"{i}.h5", 90.0 - 3 * i) for i in range(5)], ["kf", "imm"], "a")
    assert logs_by_score([scored("one.h5", 1.0)], ["kf"], "c") is None
    unscored = replace(scored("x.h5", 1.0), scores={})
    assert logs_by_score([unscored, unscored], ["kf"], "d") is None


def test_folder_that_cannot_be_written(result: BatchResult, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="cannot write"):
        make_batch_report(result, tmp_path / "gone", command="", software_version="0", created="")
