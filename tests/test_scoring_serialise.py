"""scores.json: plain, complete, stable, and as docs/scores.md says."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.scoring.result import EvaluationResult, Histogram, RadarNoise, Scores, Series, TrackerResult
from ssrtrack.scoring.serialise import scores_json

PAGE = (Path(__file__).parent.parent / "docs" / "scores.md").read_text("utf-8")


def result() -> EvaluationResult:
    empty = Series(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    tracker = TrackerResult(
        name="kf",
        scores=Scores(position_rmse_m=float("nan"), anis=np.float64(1.5), nll=float("inf"), updates=7, flights=2),
        intervals={"anis": (1.0, np.float64(2.0))},
        ratio={"anis": (1.0, float("nan"), 2.0)},
        position_error=Histogram(np.array([0.0, 1.0, np.inf]), np.array([1, 2])),
        nees=None,
        nis=empty,
        per_flight_rmse_m=np.zeros(2),
    )
    radar = RadarNoise("A", np.int64(3), None, None, 2.0, np.nan, 1.0, 0.1, None, None, 4.0)  # type: ignore[arg-type]
    return EvaluationResult(
        logs=("a.h5",), has_truth=False, identity="address", warmup_plots=8, plots=9, plots_used=8,
        span_s=(0.0, np.float64(9.5)), epoch="2026-01-01T00:00:00+00:00", trackers=(tracker,), radars=(radar,),
        examples=(), overview_tracks_m=(), notes=("<note>",),
    )  # fmt: skip


def test_values_are_plain_and_never_nan() -> None:
    plain = scores_json(result())
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain
    kf = plain["trackers"]["kf"]
    assert kf["position_rmse_m"] is None and kf["nll"] is None and kf["anis"] == 1.5
    assert kf["intervals"] == {"anis": [1.0, 2.0]} and kf["ratio"] == {"anis": [1.0, None, 2.0]}
    assert plain["radars"][0]["measured_azimuth_deg"] is None
    assert (plain["format"], plain["version"], plain["span_s"]) == ("ssrtrack-scores", 1, [0.0, 9.5])


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading line, backticks removed."""
    lines = PAGE[PAGE.index(heading) :].splitlines()
    table = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in re.split(r" \| ?", line.strip("|"), maxsplit=2)])
    return table


def test_every_score_is_documented_with_its_unit() -> None:
    assert {row[0]: row[1] for row in rows("| key | unit | definition |")} == Scores.units()
    assert all(len(row[2]) > 10 for row in rows("| key | unit | definition |"))


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("| key of `radars` | meaning |", [f.name for f in fields(RadarNoise)]),
        ("| key | meaning |\n|---|---|\n| `format`", list(scores_json(result()))),
    ],
)
def test_the_other_tables_are_complete(heading: str, keys: list[Any]) -> None:
    assert [row[0] for row in rows(heading)] == keys


def test_documented_numbers_are_the_codes() -> None:
    from ssrtrack.filters.options import Options
    from ssrtrack.scoring import accuracy, bds, bootstrap, gather
    from ssrtrack.tracking import flights, noise, sigma, truth
    from ssrtrack.units import NM_M

    rule = flights.Cutting()
    stated = {
        "more\nthan 60 s starts": rule.gap_s == 60.0,
        "20,000 plots": rule.max_plots == 20_000,
        "up to 2 NM": gather.MIN_RANGE_M == 2 * NM_M,
        "600 m/s and 1 km + 0.6°": (flights.MAX_SPEED_MPS, flights.JUMP_MARGIN_M) == (600.0, 1000.0),
        "no longer than 3.3\nrotations": gather.LONG_GAP == 3.3,
        "across more than 15 s": truth.MAX_SPACING_S == 15.0,
        "true speed above 20 m/s": accuracy.MIN_HEADING_SPEED_MPS == 20.0,
        "speed is 20 to 400 m/s": bds.SPEED_RANGE_MPS == (20.0, 400.0),
        "Fewer than 5 flights": bootstrap.MIN_FLIGHTS == 5,
        "170 m/s per axis": Options().speed_sigma_mps == 170.0,
        "first 200,000 plots": sigma.SAMPLE == 200_000,
        "more than 0.2 %": sigma.MIN_TAIL_SHARE == 0.002,
        "beyond 5 NM": noise.MIN_RANGE_M == 5 * NM_M,
    }
    for phrase, holds in stated.items():
        assert phrase in PAGE, phrase
        assert holds, phrase
