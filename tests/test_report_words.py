"""Numbers, winners and sentences of the report."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrtrack.report import words
from ssrtrack.report.words import ROWS, THIN
from ssrtrack.scoring.result import EvaluationResult, Scores
from tests.report_fixture import make_result

NUMBERS = [
    (None, "–"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0.000"), (0.0123, "0.012"), (-0.2181, "−0.218"),
    (7.344, "7.34"), (62.14, "62.1"), (430.4, "430"), (12345.6, f"12{THIN}346"), (1e-5, "1.00e−05"), (3e9, "3.00e+09"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert words.number(value) == text


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_a_printed_number_is_within_half_a_digit(value: float) -> None:
    printed = float(words.number(value).replace(THIN, ""))
    assert abs(printed - value) <= max(0.0005, 0.005 * value) * 1.0001


def test_every_score_has_a_row() -> None:
    assert set(ROWS) == {field.name for field in fields(Scores)}
    for key, meaning in Scores.meanings().items():  # shown by itself where a reader hovers over a score
        assert meaning and "the same" not in meaning.split("over")[0], key


BEST = [
    ("position_rmse_m", [50.0, 40.0, None], {1}),
    ("position_rmse_m", [50.0, 50.04, 60.0], {0, 1}),  # they read the same
    ("position_rmse_m", [50.0], set()),
    ("altitude_rate_rmse_mps", [1.3, 1.3, 1.3], set()),
    ("anees", [0.5, 1.8, 3.0], {1}),
    ("anees", [0.0, 9.0], {1}),
    ("coverage_95", [0.99, 0.96, 0.90], {1}),
    ("innovation_lag1", [-0.3, 0.1, 0.2], {1}),
    ("bds50_ground_speed_median_mps", [-0.1, 0.3], {0}),
    ("nll", [-2.0, 1.0], {0}),
    ("gated_share", [0.1, 0.2], set()),
]


@pytest.mark.parametrize(("key", "values", "winners"), BEST)
def test_best_follows_what_is_ideal(key: str, values: list[float | None], winners: set[int]) -> None:
    assert words.best(ROWS[key], values) == winners


def _scored(values: dict[str, float], ratios: dict[str, tuple[float, float, float]], **more: Any) -> EvaluationResult:
    """A result in which only the main score, its interval and ratio are known."""
    base = make_result(flights=2, scans=30, examples=0, trackers=dict.fromkeys(values, (5.0, 1.0)))
    trackers = tuple(
        replace(t, scores=Scores(position_rmse_m=values[t.name]), intervals={}, ratio=_ratio(ratios, t.name))
        for t in base.trackers
    )
    return replace(base, trackers=trackers, **more)


def _ratio(ratios: dict[str, tuple[float, float, float]], name: str) -> dict[str, tuple[float, float, float]]:
    return {"position_rmse_m": ratios[name]} if name in ratios else {}


HEADLINES = [
    (
        {"kf": 100.0, "imm": 60.0},
        {"imm": (0.6, 0.5, 0.7)},
        "60.0 m RMS, 40 % less than kf (95 % interval 30.0 to 50.0 %).",
    ),
    (
        {"kf": 100.0, "imm": 98.0},
        {"imm": (0.98, 0.9, 1.05)},
        "98.0 m RMS, 2.0 % less than kf (95 % interval −5.0 to 10.0 %, so the difference may be chance).",
    ),
    (
        {"imm": 60.0, "kf": 66.0, "ab": 90.0},
        {"kf": (1.1, 1.02, 1.2)},
        "60.0 m RMS; the next, kf, has 10 % more (95 % interval 2.0 to 20.0 %).",
    ),
    ({"imm": 60.0}, {}, "imm has a position error of 60.0 m RMS."),
]


@pytest.mark.parametrize(("values", "ratios", "end"), HEADLINES)
def test_headline_says_by_how_much(values: Any, ratios: Any, end: str) -> None:
    assert words.headline(_scored(values, ratios)).endswith(end)


def test_headline_without_any_scored_update() -> None:
    assert "No update could be scored" in words.headline(_scored({"kf": float("nan")}, {}))
    assert words.calibration(_scored({"kf": float("nan")}, {})) == ""


def _real(rms_m: float) -> EvaluationResult:
    base = make_result(flights=3, scans=30, examples=0, truth=False, trackers={"kf": (5.0, 1.0), "imm": (9.0, 1.0)})
    kf = Scores(next_plot_rmse_m=rms_m - 1, next_plot_p95_m=61.0, anis_median_ratio=0.3)
    imm = Scores(next_plot_rmse_m=rms_m, next_plot_p95_m=45.0, anis_median_ratio=0.95, anis=16.1)
    flights = (np.array([5.0, 9.0, 900.0]), np.array([4.0, 7.0, 950.0]))
    made = tuple(
        replace(t, scores=s, per_flight_rmse_m=each, ratio={}, intervals={})
        for t, s, each in zip(base.trackers, (kf, imm), flights, strict=True)
    )
    return replace(base, trackers=made)


def test_without_truth_a_few_displaced_plots_do_not_decide_the_winner() -> None:
    result = _real(143.0)
    headline = words.headline(result)
    assert headline.startswith(
        "imm predicts the next plot best: 95 % of its predictions lie within 45.0 m, 26 % less than kf"
    )
    assert headline.endswith("the closer one on 2 of 3 flights.")
    assert "143 m" in words.outliers(result) and words.outliers(_real(40.0)) == ""
    assert "fits most plots" in words.calibration(result) and "some plots lie far outside" in words.calibration(result)


def test_calibration_tells_of_the_velocity_where_it_differs_from_the_position() -> None:
    base = _scored({"kf": 50.0}, {})

    def told(**scores: float) -> str:
        known = replace(base.trackers[0], scores=replace(base.trackers[0].scores, **scores))
        return words.calibration(replace(base, trackers=(known,)))

    assert "honest" in told(coverage_95=0.955, anees=1.0) and "NEES" not in told(coverage_95=0.955, anees=1.0)
    assert "wider than needed: mean NEES 0.700" in told(coverage_95=0.955, anees=0.7)
    assert "too small: mean NEES 1.90" in told(coverage_95=0.955, anees=1.9)


SPANS = [
    ("2024-05-01T00:00:00+00:00", (36000.0, 37200.5), "2024-05-01 10:00:00 to 10:20:00 UTC (0:20:00)"),
    ("2024-05-01T02:00:00+02:00", (86000.0, 87000.0), "2024-05-01 23:53:20 to 2024-05-02 00:10:00 UTC (0:16:40)"),
    ("2024-05-01", (0.0, 60.0), "2024-05-01 00:00:00 to 00:01:00 UTC (0:01:00)"),
    ("", (0.0, 60.0), "0:01:00"),
    ("2024-05-01", (0.0, float("nan")), "–"),
]


@pytest.mark.parametrize(("epoch", "span", "text"), SPANS)
def test_span_is_in_utc(epoch: str, span: tuple[float, float], text: str) -> None:
    assert words.span(replace(_scored({"kf": 1.0}, {}), epoch=epoch, span_s=span)) == text
