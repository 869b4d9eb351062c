"""Robustness in the report and on the terminal: figures, words, tables, from curves that are known."""

import io
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ssrtrack.report import sweep_words as words
from ssrtrack.report.html import html_page
from ssrtrack.report.looks import looks
from ssrtrack.report.sweep_section import robustness
from ssrtrack.report.sweep_table import format_sweeps
from ssrtrack.scoring.degrade import AXES
from ssrtrack.scoring.result import EvaluationResult
from ssrtrack.scoring.sweep_curves import BREAK_FACTOR, WITH_TRUTH, WITHOUT_TRUTH, Curve, Sweep, main_key
from tests.report_fixture import make_result
from tests.test_report_page import ABOUT, Page

HOSTILE = "<b>x</b>[bold]"


def made(axis: str, trackers: dict[str, float], *, truth: bool = True, intervals: bool = True) -> Sweep:
    """Every tracker's errors grow from 50 m times its factor by 40 % a level; the first one is the reference."""
    levels = np.array([AXES[axis].none, *AXES[axis].levels])
    grown = 50.0 * 1.4 ** np.arange(levels.size)
    curves = []
    for i, (name, factor) in enumerate(trackers.items()):
        scores = dict.fromkeys(WITH_TRUTH if truth else WITHOUT_TRUTH, grown * factor)
        scores["lost_share"] = np.linspace(0.0, 0.1, levels.size) * (i + 1)
        bands = {key: np.stack([0.9 * v, 1.1 * v], 1) for key, v in scores.items()} if intervals else {}
        broken = None if i == 2 else float(levels[2])
        curves.append(
            Curve(
                name, scores, bands, broken, (float(levels[1]), None) if intervals else None,
                factor, (0.9 * factor, 1.1 * factor) if intervals else None,
            )
        )  # fmt: skip
    return Sweep(axis, levels, main_key(axis, truth), next(iter(trackers)), BREAK_FACTOR * 50.0, 33, tuple(curves))


def with_sweeps(*axes: str, truth: bool = True, trackers: Any = None, **more: Any) -> EvaluationResult:
    trackers = trackers or {"imm": 1.0, "kf": 1.3, HOSTILE: 0.8}
    result = make_result(trackers=dict.fromkeys(trackers, (5.0, 1.0)), flights=6, scans=60, examples=1, truth=truth)
    return replace(result, sweeps=tuple(made(axis, trackers, truth=truth, **more) for axis in axes))


@pytest.mark.parametrize("truth", [True, False])
def test_page_has_a_figure_a_verdict_and_a_table_for_every_axis(truth: bool) -> None:
    result = with_sweeps(*AXES, truth=truth)
    text = html_page(result, **ABOUT)
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) and "robustness" in ids
    section = text[text.index('<section id="robustness">') :].split("</section>")[0]
    assert section.count("<svg xmlns") == len(AXES) and section.count("<tbody>") == len(AXES)
    for name, axis in AXES.items():
        assert f'id="sweep-{name}"' in section and axis.title in section and escape(axis.text) in section
    assert "<b>x</b>" not in text and "&lt;b&gt;x&lt;/b&gt;" in section
    words_of = Page(section + "</section>").text
    assert "compared with the truth" in words_of or not truth
    assert "the undegraded plots at every scan" in words_of or truth


def test_page_without_a_sweep_has_no_such_section() -> None:
    result = with_sweeps()
    assert robustness(result) == "" and 'id="robustness"' not in html_page(result, **ABOUT)


@pytest.mark.parametrize("trackers", [{"kf": 1.0}, {f"filter-{i}": 1.0 + 0.001 * i for i in range(9)}])
def test_one_and_many_trackers_are_drawn(trackers: dict[str, float]) -> None:
    text = robustness(with_sweeps("pd", trackers=trackers, intervals=len(trackers) == 1))
    assert text.count("<svg xmlns") == 1 and all(name in text for name in trackers)


def test_labels_of_equal_curves_do_not_touch() -> None:
    from matplotlib.figure import Figure

    from ssrtrack.report import figures_sweep

    names = [f"filter-{i}" for i in range(9)]
    axes = Figure().subplots()
    axes.set_ylim(0, 100)
    figures_sweep._labels(axes, dict.fromkeys(names, 95.0), looks(names))
    heights = np.sort([text.get_position()[1] for text in axes.texts])
    assert np.diff(heights).min() > 0.99 * figures_sweep.LABEL_STEP and heights[-1] <= 1.03 and heights[0] > 0.0


def test_unknown_values_are_a_dash_and_draw_no_line() -> None:
    sweep = made("pd", {"imm": 1.0, "kf": 1.3})
    blank = replace(sweep.curves[1], scores={key: np.full(7, np.nan) for key in WITH_TRUTH}, area_ratio=None)
    result = replace(
        with_sweeps(trackers={"imm": 1.0, "kf": 1.3}), sweeps=(replace(sweep, curves=(sweep.curves[0], blank)),)
    )
    assert "<td>–</td>" in robustness(result)


@pytest.mark.parametrize(
    ("axis", "broken", "interval"),
    [
        ("pd", "0.900", "under 0.5 … 0.950"),
        ("bias", "0.050°", "0.020 … over 0.5"),
        ("gap", "2.00 scans", "1.00 … over 12"),
    ],
)
def test_break_points_have_a_unit_and_an_open_end(axis: str, broken: str, interval: str) -> None:
    sweep = made(axis, {"imm": 1.0})
    assert words.broken(sweep, sweep.curves[0]) == broken
    assert words.break_interval(sweep, sweep.curves[0]) == interval
    closed = replace(sweep.curves[0], break_level=None, break_interval=(None, None))
    assert words.broken(sweep, closed).startswith("not up to ") and words.break_interval(sweep, closed) == ""


def test_verdict_names_who_holds_out() -> None:
    sweep = made("pd", {"imm": 1.0, "kf": 1.3, "ekf": 1.2})
    assert words.verdict(sweep).startswith("ekf stays below 2 times imm's undegraded error (100 m) up to 0.5")
    assert "imm holds out longest" in words.verdict(replace(sweep, curves=(sweep.curves[0],)))
    later = replace(sweep.curves[1], break_level=0.6, break_interval=(0.62, None))
    assert words.verdict(replace(sweep, curves=(sweep.curves[0], later))).startswith(
        "kf holds out longest: it reaches 2"
    )
    near = replace(later, tracker="near", break_level=0.61)
    assert words.verdict(replace(sweep, curves=(near, later))).startswith("kf and near hold out longest: kf reaches 2")
    blind = replace(later, break_interval=None)
    assert words.verdict(replace(sweep, curves=(near, blind))).startswith("kf holds out longest")
    none = replace(sweep, curves=(sweep.curves[2],))
    assert words.verdict(none) == "No tracker reaches 2 times imm's undegraded error (100 m) up to 0.5."


def test_terminal_table_is_narrow_and_literal() -> None:
    file = io.StringIO()
    sweeps = tuple(
        made(axis, {"imm": 1.0, "a-rather-long-tracker-name:gate=0.9999": 1.3, HOSTILE: 0.8}) for axis in AXES
    )
    Console(file=file, width=100).print(format_sweeps(sweeps))
    named = made("pd", {"/data/experiments/2026-11-22/koss-a": 1.0, "kf": 1.3})
    heading = format_sweeps((named,)).columns[5].header
    assert str(heading) == "area ÷ /data…-22/koss-a"  # its end, where runs differ
    text = file.getvalue()
    assert all(len(line) <= 100 for line in text.splitlines()) and HOSTILE in text
    assert all(f"{axis} " in text for axis in AXES)
    lines = [line.split() for line in text.splitlines()]
    row = next(line for line in lines if line[:2] == ["pd", "1"])
    assert row == ["pd", "1", "…", "0.5", "imm", "50.0", "376", "0.900", "1.00", "10", "%"]
