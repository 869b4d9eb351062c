"""The report page: self-contained, well formed, complete, safe with hostile texts, small, written whole."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.errors import ScoringError
from ssrtrack.report.html import html_page, make_report
from ssrtrack.scoring.result import EvaluationResult, FlightExample, RadarNoise, Scores
from tests.report_fixture import TRACKERS, make_result

ABOUT = {
    "title": "Two radars",
    "command": "ssrtrack evaluate a.h5",
    "software_version": "9.8.7",
    "created": "2025-01-01",
}
VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}
CASES: dict[str, dict[str, Any]] = {
    "truth": {},
    "no truth": {"truth": False},
    "one tracker": {"trackers": {"kf": (5.0, 1.0)}},
    "one flight": {"flights": 1, "examples": 1},
    "one flight without truth": {"flights": 1, "examples": 1, "truth": False},
    "no turns": {"turns": False},
    "no examples": {"examples": 0},
    "nine trackers": {"trackers": {f"filter-{i}": (float(i), 1.0) for i in range(1, 10)}, "flights": 4},
}


class Page(HTMLParser):
    """Collects what a test asks about and raises on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing that is open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[EvaluationResult, str]]:
    results = {name: make_result(**{"flights": 8, "scans": 100, "examples": 1} | case) for name, case in CASES.items()}
    return {name: (result, html_page(result, **ABOUT)) for name, result in results.items()}


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_self_contained_and_without_leftovers(pages: Any, case: str) -> None:
    result, text = pages[case]
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), f"{tag} loads {value[:80]}"
        assert tag not in ("script", "link", "iframe", "object")
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert not re.search(r"\b(nan|none|inf|null|undefined)\b", page.text, re.I)
    identifiers = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert set(targets) <= set(identifiers)
    for tracker in result.trackers:
        assert tracker.name in page.text
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg" and "role" in attributes)


@pytest.mark.parametrize("case", CASES)
def test_sections_are_those_that_apply(pages: Any, case: str) -> None:
    result, text = pages[case]
    found = [attributes["id"] for tag, attributes in Page(text).tags if tag == "section"]
    expected = ["scores", "map", "time", "distribution", "calibration", "flights", "noise", "bound", "notes"]
    expected += ["definitions", "provenance"]
    absent = {"bound"} if not result.has_truth else set()
    absent |= {"flights"} if case.startswith("one flight") else set()
    absent |= {"time"} if case == "no examples" else set()
    assert found == [name for name in expected if name not in absent]


def test_page_shows_each_score_with_its_unit_interval_and_definition(pages: Any) -> None:
    result, text = pages["truth"]
    page = Page(text)
    low, high = result.trackers[0].intervals["position_rmse_m"]
    assert f"{low:.0f} … {high:.0f}".replace(",", "") in page.text.replace("\u202f", "")
    identifiers = {attributes.get("id") for _, attributes in page.tags}
    for name in Scores.units():
        if any(getattr(tracker.scores, name) is not None for tracker in result.trackers):
            assert f"score-{name}" in identifiers and name in page.text, f"{name} is nowhere defined"
    assert "position_bound_rms_m" not in Page(pages["no truth"][1]).text


def test_wording_follows_the_reference(pages: Any) -> None:
    with_truth, without = Page(pages["truth"][1]).text, Page(pages["no truth"][1]).text
    assert "smallest horizontal position error" in with_truth and "Distance to the truth" in with_truth
    assert "predicts the next plot best" in without and "Distance to the smoothed reference" in without
    assert "truth inside" not in without and "24-bit address" in without
    assert "smoothed reference" not in with_truth
    assert "turning" not in Page(pages["no turns"][1]).text.split("Error over time")[-1].split("Position error")[0]


def test_same_result_gives_the_same_bytes() -> None:
    result = make_result(flights=6, scans=60, examples=1)
    assert html_page(result, **ABOUT) == html_page(result, **ABOUT)


def test_hostile_texts_are_printed_not_run() -> None:
    bad = "<script>alert(1)</script>\"'&</style><img src=http://x/y onerror=z>[red]$\\frac{1}$ \x07航"
    result = make_result(
        flights=4, scans=60, examples=2, logs=(f"/data/{bad}.h5",), trackers={bad: (5.0, 1.0), "_b": (9.0, 1.0)}
    )
    radar = replace(result.radars[0], name=bad)
    examples = tuple(replace(example, label=bad) for example in result.examples)
    result = replace(result, radars=(radar,), examples=examples, notes=(bad,), epoch=bad, identity=bad)
    text = html_page(result, title=bad, command=bad, software_version=bad, created=bad)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("alert(1)") >= 8
    assert sum(tag == "style" for tag, _ in page.tags) <= 1 + text.count("<defs>")


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests about files alone: a page without sections, for figures take their time."""
    monkeypatch.setattr("ssrtrack.report.html.sections", lambda result, progress: [])


@pytest.mark.usefixtures("plain_page")
def test_writes_both_files_whole_and_replaces_old_ones(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report"
    result = make_result(flights=4, scans=60, examples=1)
    path = make_report(result, target, **ABOUT)
    assert path == target / "report.html" and path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    scores = json.loads((target / "scores.json").read_text(encoding="utf-8"))
    assert scores["trackers"]["kf"]["position_rmse_m"] == result.trackers[1].scores.position_rmse_m
    make_report(result, target, **(ABOUT | {"title": "Again"}))
    assert "<h1>Again</h1>" in path.read_text(encoding="utf-8")
    assert sorted(entry.name for entry in target.iterdir()) == ["report.html", "scores.json"]


@pytest.mark.usefixtures("plain_page")
def test_a_failed_write_leaves_the_old_page_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_result(flights=2, scans=40, examples=0)
    path = make_report(result, tmp_path, **ABOUT)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssrtrack.io.whole.os.fsync", full)
    with pytest.raises(ScoringError, match="No space left"):
        make_report(result, tmp_path, **(ABOUT | {"title": "Again"}))
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html", "scores.json"]


@pytest.mark.usefixtures("plain_page")
def test_target_that_is_a_file_or_lies_below_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("here")
    result = make_result(flights=2, scans=40, examples=0)
    for target in (tmp_path / "taken", tmp_path / "taken" / "report"):
        with pytest.raises(ScoringError, match=r"cannot write a report into .*taken"):
            make_report(result, target, **ABOUT)
    assert (tmp_path / "taken").read_text() == "here"


def test_result_without_trackers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no tracker"):
        make_report(replace(make_result(flights=2, scans=40, examples=0), trackers=()), tmp_path, **ABOUT)


def test_page_stays_small_with_long_flights() -> None:
    result = make_result(flights=3, scans=60, examples=1)
    rng, points = np.random.default_rng(0), 200_000
    walk = np.cumsum(rng.normal(0, 60, (points, 2)), axis=0)
    noisy = {name: walk + rng.normal(0, 50, walk.shape) for name in TRACKERS}
    error = {name: np.linalg.norm(track - walk, axis=1) for name, track in noisy.items()}
    sigma = {name: np.full(points, 70.0) for name in TRACKERS}
    turning = (np.arange(points) // 500) % 3 == 0
    flight = FlightExample(
        "long", 4.0 * np.arange(points), walk + 80.0, walk, turning, noisy, error, sigma, None, np.full(points, 9e3)
    )
    each = tuple(replace(t, per_flight_rmse_m=rng.gamma(4, 20, 50_000)) for t in result.trackers)
    overview = tuple(walk[i * 1000 : (i + 1) * 1000] for i in range(150))
    text = html_page(replace(result, examples=(flight,), overview_tracks_m=overview, trackers=each), **ABOUT)
    assert len(text.encode()) < 5_000_000


def test_scores_that_are_not_finite_read_as_absent() -> None:
    result = make_result(flights=3, scans=60, examples=1)
    broken = replace(result.trackers[0].scores, position_rmse_m=float("nan"), nll=float("inf"), anees=None)
    first = replace(
        result.trackers[0],
        scores=broken,
        intervals={"position_rmse_m": (float("nan"), float("inf"))},
        per_flight_rmse_m=np.array([np.nan, np.inf, 3.0]),
        nees=None,
    )
    noise = RadarNoise("R", 10, float("nan"), None, None, None, 30.0, float("inf"), None, None, float("nan"))
    example = result.examples[0]
    holes = {name: np.where(np.arange(len(error)) % 7 == 0, np.nan, error) for name, error in example.error_m.items()}
    text = html_page(
        replace(
            result,
            trackers=(first, *result.trackers[1:]),
            radars=(noise,),
            span_s=(float("nan"), float("nan")),
            examples=(replace(example, error_m=holes),),
        ),
        **ABOUT,
    )
    assert not re.search(r"\b(nan|none|inf)\b", Page(text).text, re.I)
