"""What cannot be evaluated is refused with the reason: requests, logs, and trackers that break."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.errors import EstimatorError, ScoringError
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.scoring.evaluate import evaluate
from tests.scoring_fixture import paths, plots_table, radar, simple_log, truth_table, write_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "truth.h5")


@pytest.fixture(scope="module")
def bare_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simple_log(tmp_path_factory.mktemp("logs") / "bare.h5", truth=False, flights=14)


@dataclass(frozen=True)
class Broken:
    """An estimator that spoils one flight's covariance from 60 s on."""

    inner: Any
    covariance: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def init(self, first: Any) -> Any:
        return self.inner.init(first), first.time_s

    def predict(self, state: Any, dt_s: Any) -> Any:
        return self.inner.predict(state[0], dt_s), state[1] + dt_s

    def update(self, state: Any, z: Any, valid: Any) -> Any:
        return _State(self.inner.update(state[0], z, valid), state[1])

    def estimate(self, state: Any) -> Any:
        mean, covariance = self.inner.estimate(state[0])
        covariance = covariance.copy()
        covariance[0, 3, 3] = np.where(state[1][0] >= 60.0, self.covariance, covariance[0, 3, 3])
        return mean, covariance

    def mode_probability(self, state: Any) -> None:
        return None


class _State(tuple):  # type: ignore[type-arg]
    def __new__(cls, inner: Any, time_s: Any) -> "_State":
        return super().__new__(cls, (inner, time_s))

    @property
    def gated(self) -> Any:
        return self[0].gated


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_a_tracker_that_breaks_is_named_with_flight_and_time(log: Path, value: float, monkeypatch: Any) -> None:
    monkeypatch.setattr("ssrtrack.filters.run.take", lambda state, rows: state)  # all flights are of one length
    with pytest.raises(EstimatorError, match=r"'broken' .* flight 4B0000, 60\.000 s"):
        evaluate([log], {"kf": make_estimator("kf"), "broken": Broken(make_estimator("kf"), value)}, bootstrap=0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"trackers": []}, "no tracker"),
    ({"trackers": "kf"}, "expected a list"),
    ({"trackers": ["kf", "kf"]}, "named twice"),
    ({"identity": "colour"}, "identity is 'colour'"),
    ({"warmup_plots": 0}, "warmup_plots is 0"),
    ({"warmup_plots": 500}, "no flight is long enough"),
    ({"min_range_m": 400e3}, r"at most 215\.\d+ NM from the radar"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_requests_are_explained(log: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        evaluate(**({"logs": [log], "trackers": ["kf"]} | change))


def test_logs_that_cannot_be_scored_are_refused(tmp_path: Path, log: Path, bare_log: Path) -> None:
    with pytest.raises(ScoringError, match="no log"):
        evaluate([], ["kf"])
    with pytest.raises(ScoringError, match="with and without truth"):
        evaluate([log, bare_log], ["kf"])
    with pytest.raises(ScoringError, match="the logs have none"):
        evaluate([bare_log], ["kf"], identity="truth")
    with pytest.raises(ScoringError, match="one log at a time"):
        evaluate([log, log], ["kf"], tracks_writer=lambda name, tracks: None)
    with pytest.raises(EstimatorError, match="no estimator 'magic'"):
        evaluate([log], ["magic"])
    nowhere = simple_log(tmp_path / "a.h5", radars=radar(latitude_deg=[np.nan]))
    with pytest.raises(ScoringError, match="radar without a site"):
        evaluate([nowhere], ["kf"])
    rng = np.random.default_rng(1)
    position, velocity = paths(4, 40, rng)
    truth = truth_table(position, velocity)
    late = write_log(tmp_path / "b.h5", plots_table(position, rng), truth.replace(time_s=truth.time_s + 1e5))
    with pytest.raises(ScoringError, match="no update could be scored"):
        evaluate([late], ["kf"])
