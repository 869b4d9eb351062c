"""A log that a tracker was trained on is recognised, whatever became of it; other logs are not."""

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssrtrack.data import Plots, Truth
from ssrtrack.errors import LogError, ScoringError
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.tuned_file import read_tuned
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.models import provenance
from ssrtrack.models.provenance import (
    KEPT,
    Sketch,
    Sources,
    _smallest,
    clash,
    sources_of,
    sources_of_log,
    sources_of_simulation,
)
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate
from ssrtrack.training.tune_job import flights_of, tune_text, tuned_of, write_tuned
from ssrtrack.units import AZIMUTH_LSB_RAD, RANGE_LSB_M
from tests.scenario_text import SCENARIO
from tests.scoring_fixture import EPOCH, paths, plots_table, radar, simple_log, truth_table


@dataclass(frozen=True)
class Trained:
    """An estimator that says what it was trained on, as learned ones do."""

    inner: Any
    sources: tuple[dict[str, Any], ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def sources(path: Path) -> Sources:
    with LogReader(path) as reader:
        return sources_of_log(reader)


def clashes(trained: Sources, path: Path) -> str | None:
    with LogReader(path) as reader:
        return clash(trained, reader)


def write(path: Path, plots: Plots, truth: Truth | None, **changes: object) -> Path:
    """A log whose provenance gives nothing away."""
    known = Provenance("test", EPOCH, "0", "2026-01-01T00:00:00Z")
    with LogWriter(path, replace(known, **changes), radar()) as log:  # type: ignore[arg-type]
        log.append_plots(plots)
        if truth is not None:
            log.append_truth(truth)
    return path


@pytest.fixture(scope="module")
def tables() -> tuple[Plots, Truth]:
    rng = np.random.default_rng(1)
    position, velocity = paths(30, 90, rng, turn=True)
    return plots_table(position, rng), truth_table(position, velocity, turn=True)


def test_the_same_log_in_every_disguise(tables: tuple[Plots, Truth], tmp_path: Path) -> None:
    plots, truth = tables
    trained = sources(write(tmp_path / "trained.h5", plots, truth))
    blind = plots.replace(truth_id=np.full(len(plots), -2))
    later = plots.time_s > 120.0
    # As ASTERIX gives it back: in units of CAT048, of a file without a date.
    coarse = blind.replace(
        time_s=np.rint(plots.time_s * 128.0) / 128.0,
        range_m=np.rint(plots.range_m / RANGE_LSB_M) * RANGE_LSB_M,
        azimuth_rad=np.rint(plots.azimuth_rad / AZIMUTH_LSB_RAD) % 65536 * AZIMUTH_LSB_RAD,
    )
    rng = np.random.default_rng(9)
    noisy = plots.replace(range_m=plots.range_m + rng.normal(0.0, 50.0, len(plots)))
    shifted = {"epoch": EPOCH + timedelta(seconds=100)}
    disguised = {
        "renamed": write(tmp_path / "other.h5", plots, truth),
        "cut": write(tmp_path / "cut.h5", plots[later], truth[truth.time_s > 120.0]),
        "without truth": write(tmp_path / "blind.h5", blind, None),
        "another date and epoch": write(tmp_path / "date.h5", coarse, None, epoch=EPOCH + timedelta(days=40)),
        "cut, without truth": write(tmp_path / "piece.h5", coarse[later], None),
        "another time of zero": write(
            tmp_path / "zero.h5",
            plots[later].replace(time_s=plots.time_s[later] - 100.0),
            truth[truth.time_s > 120.0].replace(time_s=truth.time_s[truth.time_s > 120.0] - 100.0),
            **shifted,
        ),
        "another radar's plots of the same flights": write(tmp_path / "again.h5", noisy, truth),
        "truth on another grid": write(tmp_path / "grid.h5", noisy, truth[np.rint(truth.time_s) % 10 == 0]),
    }
    found = {what: clashes(trained, path) for what, path in disguised.items()}
    assert all(found.values()), found
    assert "minutes of its true flights" in str(found["truth on another grid"])
    assert "plots" in str(found["without truth"])


def test_other_logs_are_not_taken_for_it(tables: tuple[Plots, Truth], tmp_path: Path) -> None:
    plots, truth = tables
    trained = sources(write(tmp_path / "trained.h5", plots, truth))
    rng = np.random.default_rng(2)
    position, velocity = paths(30, 90, rng, turn=True)
    others = {
        "other flights": write(tmp_path / "a.h5", plots_table(position, rng), truth_table(position, velocity)),
        "the same flights a day later": write(
            tmp_path / "b.h5",
            plots.replace(
                range_m=plots.range_m + rng.normal(0.0, 50.0, len(plots)),
                azimuth_rad=(plots.azimuth_rad + rng.normal(0.0, 1e-3, len(plots))) % (2.0 * np.pi),
            ),
            truth,
            epoch=EPOCH + timedelta(days=1),
        ),
        "other noise, no truth": write(
            tmp_path / "c.h5", plots_table(position, rng).replace(truth_id=np.full(len(plots), -2)), None
        ),
    }
    assert {what: clashes(trained, path) for what, path in others.items()} == dict.fromkeys(others)
    assert clashes(Sources(), tmp_path / "trained.h5") is None


def test_simulations_are_known_by_text_and_seed_and_by_their_flights(tmp_path: Path) -> None:
    def simulated(name: str, seed: int, text: str = SCENARIO, **extra: float | str) -> Path:
        scenario = parse_scenario(text, "small", "small")
        known = Provenance("test", scenario.epoch, "0", "2026-01-01T00:00:00Z", text, seed, (), extra)
        with LogWriter(tmp_path / name, known, radars(scenario)) as log:
            for plots, truth in simulate(scenario, seed):
                log.append_plots(plots)
                log.append_truth(truth)
        return tmp_path / name

    log, other = simulated("one.h5", 1), simulated("two.h5", 2)
    named = sources_of_simulation("small", SCENARIO, 1)
    assert "seed 1" in str(clashes(named, log))
    assert clashes(named, other) is None
    # Another radar, so another text: the flights give it away.
    again = simulated("noise.h5", 1, SCENARIO.replace("height_m = 80.0", "height_m = 90.0"))
    assert clashes(named, again) is None
    assert "true flights" in str(clashes(sources(log), again))
    assert clashes(sources(log), other) is None
    suite = {"suite": "tma-4s", "suite_version": 1.0, "suite_split": "train"}
    split = sources_of_simulation("tma-4s", "text", 3, suite)
    marked = simulated("suite.h5", 4, **suite)
    assert "train split of suite:tma-4s" in str(clashes(split, marked))
    for key, value in (("suite_split", "test"), ("suite", "degraded"), ("suite_version", 2.0)):
        assert clashes(split, simulated("split.h5", 4, **(suite | {key: value}))) is None  # type: ignore[arg-type]
        (tmp_path / "split.h5").unlink()


def test_parts_of_a_recording_share_no_flight(tables: tuple[Plots, Truth], tmp_path: Path) -> None:
    plots, truth = tables
    shared = {"scenario": "# Recorded flights in place of this traffic", "seed": 1, "extra": {"truth": "day.csv"}}
    even, odd = (
        write(tmp_path / f"{i}.h5", plots[plots.truth_id % 2 == i], truth[truth.truth_id % 2 == i], **shared)
        for i in (0, 1)
    )
    assert clashes(sources(even), odd) is None
    assert "true flights" in str(clashes(sources(even), even))


def test_an_evaluation_refuses_training_data_unless_forced(tmp_path: Path) -> None:
    log = simple_log(tmp_path / "trained.h5", flights=40, plots=40)
    found = flights_of([], [log])
    path = tmp_path / "t.toml"
    write_tuned(path, tuned_of(tune_text("kf", found, max_iterations=2), found, software="1", created="now"))
    copy = tmp_path / "copy.h5"
    copy.write_bytes(log.read_bytes())
    with pytest.raises(ScoringError, match=r"copy\.h5: tracker '.*t\.toml' was trained on it.*--force-training-data"):
        evaluate([copy], ["kf", str(path)], bootstrap=0)
    said: list[str] = []
    with pytest.raises(ScoringError, match=r"copy\.h5: .*are those trained on"):  # before hours are spent on the first
        clean = simple_log(tmp_path / "clean.h5", seed=9)
        evaluate([clean, copy], [str(path)], bootstrap=0, progress=lambda what, done, total: said.append(what))
    assert said and all(what.endswith("comparing with training data") for what in said)
    known = Trained(make_estimator("kf"), tuple(read_tuned(path).sources))  # an estimator in place of its file
    with pytest.raises(ScoringError, match="'mine' was trained on it"):
        evaluate([copy], {"kf": make_estimator("kf"), "mine": known}, bootstrap=0)
    forced = evaluate([copy], ["kf", str(path)], bootstrap=0, allow_training_data=True)
    assert forced.trackers[1].scores.position_rmse_m is not None
    other = simple_log(tmp_path / "other.h5", seed=8)
    assert evaluate([other], [str(path)], bootstrap=0).trackers[0].name == str(path)


def test_trackers_without_marks_cost_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = simple_log(tmp_path / "a.h5")
    monkeypatch.setattr(provenance, "_truth_marks_of_log", lambda reader: pytest.fail("truth was read"))
    monkeypatch.setattr(provenance, "_plot_marks_of_log", lambda reader: pytest.fail("plots were read"))
    evaluate([log], ["kf", "imm"], bootstrap=0)


def test_sketches_estimate_what_they_hold() -> None:
    rng = np.random.default_rng(3)
    marks = np.unique(rng.integers(0, 2**48, 60_000, dtype=np.uint64))
    part, fresh = marks[::2], np.unique(rng.integers(0, 2**48, 30_000, dtype=np.uint64))
    sketch = Sketch.of(marks)
    assert sketch.marks.size == KEPT and not sketch.whole
    sample, known = sketch.known(np.sort(np.concatenate([part, fresh])))
    # Half of the 60,000 are known; the sample is hypergeometric, here binomial to 1 %.
    assert abs(known / sample - 0.5) < 4.0 * 0.5 / sample**0.5
    assert sample == pytest.approx(KEPT, rel=0.1)
    assert sketch.known(fresh)[1] == 0
    # Joining sketches is the sketch of all.
    joined = Sketch.of(part).joined(Sketch.of(np.setdiff1d(marks, part)))
    assert (joined.marks == np.unique(marks)[: joined.marks.size]).all()
    assert joined.marks.size > 0.9 * KEPT and not joined.whole
    # In pieces, as a long log is read, the same marks are found.
    pieces = np.array_split(rng.permutation(marks), 7)
    assert (_smallest(pieces, KEPT + 1) == marks[: KEPT + 1]).all()
    assert (_smallest(pieces, KEPT, marks[100]) == marks[:101]).all()
    small = Sketch.of(marks[:10]).joined(Sketch.of(marks[5:20]))
    assert small.whole and (small.marks == marks[:20]).all()
    assert Sketch().known(marks) == (0, 0)


def test_sources_as_text(tables: tuple[Plots, Truth], tmp_path: Path) -> None:
    first = write(tmp_path / "a.h5", *tables)
    with LogReader(first) as a, LogReader(simple_log(tmp_path / "b.h5", seed=5)) as b:
        both = sources_of([a, b])
    text = json.dumps(both.to_list())
    back = Sources.from_list(json.loads(text), "x")
    assert back.entries == both.entries
    assert [e["name"] for e in back.entries] == ["a.h5", "b.h5"]
    for one, other in ((back.truth, both.truth), (back.plots, both.plots)):
        assert (one.marks == other.marks).all() and one.whole == other.whole
    assert len(text) < 80_000
    assert clashes(back, tmp_path / "b.h5")


DAMAGED = {
    "not a table": ["x"],
    "no kind": [{"name": "a"}],
    "not base64": [{"kind": "marks", "truth": "?", "truth_whole": True}],
    "cut off": [{"kind": "marks", "plots": "AAAA", "plots_whole": True}],
    "no order": [{"kind": "marks", "plots": "AgAAAAAAAQAAAAAA", "plots_whole": True}],
    "whole is not said": [{"kind": "marks", "plots": "AQAAAAAA"}],
}


@pytest.mark.parametrize("tables", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_sources(tables: list[object]) -> None:
    with pytest.raises(LogError, match=r"x: .*train again"):
        Sources.from_list(tables, "x")  # type: ignore[arg-type]
