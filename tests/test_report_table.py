"""The terminal table: 100 columns, the best marked, no markup read from names, plain where there is no terminal."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ssrtrack.report.table import format_table
from ssrtrack.scoring.result import EvaluationResult, Scores
from tests.report_fixture import make_result


def _printed(result: EvaluationResult, **console: Any) -> str:
    text = StringIO()
    Console(file=text, width=100, **console).print(format_table(result))
    return text.getvalue()


def _wide(result: EvaluationResult) -> EvaluationResult:
    """Large values, with an interval for every score."""
    trackers = []
    for tracker in result.trackers:
        known = {key: 12345.6 for key in Scores.units() if isinstance(getattr(tracker.scores, key), float)}
        intervals = dict.fromkeys(known, (2345.6, 98765.4))
        trackers.append(replace(tracker, scores=replace(tracker.scores, **known), intervals=intervals))
    return replace(result, trackers=tuple(trackers))


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_fits_100_columns_on_one_or_two_lines_per_tracker(truth: bool, wide: bool) -> None:
    result = make_result(truth=truth, flights=4, scans=60, examples=0)
    lines = _printed(_wide(result) if wide else result).splitlines()
    assert max(map(len, lines)) <= 100
    for tracker in result.trackers:
        assert sum(line.split()[:1] == [tracker.name] for line in lines) == 1
    if not wide:
        assert len(lines) == 2 + 2 * len(result.trackers) + 1


def test_best_is_starred_without_a_terminal_and_bold_on_one() -> None:
    result = make_result(flights=4, scans=60, examples=0)
    plain, styled = _printed(result), _printed(result, force_terminal=True, color_system="standard")
    best = min(result.trackers, key=lambda tracker: tracker.scores.position_rmse_m or 0.0)
    assert "\x1b" not in plain and "[bold" not in plain
    assert f"*{best.scores.position_rmse_m:.3g}" in plain
    line = next(line for line in styled.splitlines() if best.name in line)
    assert "\x1b[1m" in line and line.index("\x1b[1m") < line.index("*")


def test_names_are_never_read_as_markup() -> None:
    name = "[red]kf[/red]"
    assert name in _printed(make_result(flights=2, scans=30, examples=0, trackers={name: (5.0, 1.0)}))


def test_columns_that_do_not_apply_are_left_out() -> None:
    assert "turn" not in _printed(make_result(flights=3, scans=40, examples=0, turns=False)).splitlines()[0].split()
    header = _printed(make_result(flights=3, scans=40, examples=0, truth=False)).splitlines()[0]
    assert "next plot" in header and "velocity" not in header


@pytest.mark.parametrize(("share", "shown"), [(0.0, False), (0.02, True)])
def test_gated_plots_have_a_column_only_where_a_gate_rejects_some(share: float, shown: bool) -> None:
    result = make_result(truth=False, flights=4, scans=60, examples=0)
    trackers = tuple(replace(t, scores=replace(t.scores, gated_share=share)) for t in result.trackers)
    assert ("gated" in _printed(replace(result, trackers=trackers))) == shown
