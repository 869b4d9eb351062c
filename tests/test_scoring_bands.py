"""Scores by phase, range and speed: the same cells as the scores themselves, none lost, none counted twice."""

from pathlib import Path

import numpy as np
import pytest

from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.bands import BANDS, KEYS, RANGES_NM, Bands, BandScore
from ssrtrack.scoring.gather import Asked, gather, nothing_yet
from ssrtrack.scoring.gathered import Gathered
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.units import NM_M
from tests.scoring_fixture import simple_log

TRACKERS = ["kf", "imm"]
Scores = dict[tuple[str, str, str], BandScore]


def run(log: Path, **more: object) -> tuple[Gathered, Bands]:
    asked, bands = Asked(TRACKERS, **more), Bands()  # type: ignore[arg-type]
    with LogReader(log) as reader:
        into = nothing_yet(asked, reader)
        gather(reader, asked, into, bands=bands)
    return into, bands


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gathered, dict[str, Scores]]:
    log = simple_log(tmp_path_factory.mktemp("bands") / "log.h5", flights=12, plots=40)
    into, bands = run(log)
    return into, bands.scores(bootstrap=200, seed=1)


def test_phases_are_those_of_the_scores(found: tuple[Gathered, dict[str, Scores]]) -> None:
    into, scores = found
    results = tracker_results(into.tallies, into.flight_order(), has_truth=True, bootstrap=0, seed=1)
    assert list(scores) == TRACKERS
    for result in results:
        for phase in ("straight", "turn", "onset"):
            for key in ("position_rmse_m", "velocity_rmse_mps"):
                head, _, unit = key.rpartition("_")
                own = scores[result.name]["phase", phase, key]
                assert own.value == pytest.approx(getattr(result.scores, f"{head}_{phase}_{unit}"), rel=1e-12)
    assert ("phase", "climb", "anees") not in scores["kf"], "nobody climbs"


@pytest.mark.parametrize("kind", ["range", "speed"])
def test_bands_share_all_updates_out(kind: str, found: tuple[Gathered, dict[str, Scores]]) -> None:
    into, scores = found
    results = tracker_results(into.tallies, into.flight_order(), has_truth=True, bootstrap=0, seed=1)
    for result in results:
        for key in KEYS:
            parts = [own for (k, _, name), own in scores[result.name].items() if (k, name) == (kind, key)]
            weights = np.array([part.updates for part in parts])
            power = 2 if "_rmse_" in key else 1
            values = np.array([part.value for part in parts]) ** power
            whole = getattr(result.scores, key) ** power
            assert weights.sum() == result.scores.updates
            assert (weights * values).sum() / weights.sum() == pytest.approx(whole, rel=1e-12)


def test_intervals_hold_the_score_and_are_asked_for(found: tuple[Gathered, dict[str, Scores]], tmp_path: Path) -> None:
    _, scores = found
    own = scores["imm"]["phase", "straight", "coverage_95"]
    assert own.interval is not None and own.interval[0] <= own.value <= own.interval[1] and own.flights == 12
    _, bands = run(simple_log(tmp_path / "few.h5", flights=3))
    assert all(score.interval is None for score in bands.scores(bootstrap=100, seed=1)["kf"].values())


def test_range_bands_are_of_the_plots_own_range(tmp_path: Path) -> None:
    """Flights begin 40 to 90 km out: none of their plots lies beyond 80 NM, and some lie on both sides of 40 NM."""
    _, bands = run(simple_log(tmp_path / "log.h5", flights=12, plots=40))
    there = {band for kind, band, _ in bands.scores(bootstrap=0, seed=1)["kf"] if kind == "range"}
    assert "80-120 NM" not in there and {"20-40 NM", "40-80 NM"} <= there
    assert 40.0 * NM_M < 90e3 and RANGES_NM[-1] == np.inf


def test_without_truth_there_are_no_bands(tmp_path: Path) -> None:
    _, bands = run(simple_log(tmp_path / "bare.h5", truth=False), identity="address")
    assert bands.scores(bootstrap=10, seed=1) == {}


def test_every_band_has_its_name_once() -> None:
    assert len(set(BANDS)) == len(BANDS) == 4 + 5 + 5
    assert {kind for kind, _ in BANDS} == {"phase", "range", "speed"}
