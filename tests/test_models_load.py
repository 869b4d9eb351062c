"""Trackers as a user writes them: names, files, folders; what comes first, and what is wrong with the rest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.batch.run import batch
from ssrtrack.batch.task import software_version
from ssrtrack.errors import EstimatorError, ScoringError
from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import parameters_of, parse_estimator
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.options import Options
from ssrtrack.filters.run import run
from ssrtrack.filters.tuned_file import Tuned, format_tuned, parse_tuned, read_tuned
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.load import digest_of_tracker, load_tracker
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.scoring.gather import Asked
from tests.filters_fixture import cartesian
from tests.scoring_fixture import simple_log

KF = {"q_m2s3": 3.5, "gate": None, "tail_weight": 0.03, "tail_scale": 6.0}


def file(folder: Path, name: str = "t.toml", **changes: Any) -> Path:
    path = folder / name
    path.write_text(format_tuned(Tuned(**({"estimator": "kf", "parameters": KF} | changes))))
    return path


def options(estimator: Any) -> Options:
    assert isinstance(estimator, Bank)
    return estimator.options


def test_a_file_is_what_it_says_and_text_goes_before_it(tmp_path: Path) -> None:
    path = file(tmp_path)
    same = parse_estimator("kf:q_m2s3=3.5,tail_weight=0.03,tail_scale=6")
    loaded = load_tracker(str(path))
    assert options(loaded) == options(same)
    assert loaded.motions[0].parameters == same.motions[0].parameters  # type: ignore[attr-defined]
    changed = load_tracker(f"{path}:gate=0.999, q_m2s3=1")
    assert options(changed).gate == 0.999
    assert changed.motions[0].parameters == parse_estimator("kf:q_m2s3=1").motions[0].parameters  # type: ignore[attr-defined]
    assert options(load_tracker("t.toml:tail_scale=9", folder=tmp_path)).tail_scale == 9.0
    # What was measured on a log does not change what a file says, only what a name leaves open.
    assert options(load_tracker(str(path), tail_weight=0.5, gate=0.9)) == options(loaded)
    assert options(load_tracker("imm", tail_weight=0.05)).tail_weight == 0.05
    assert options(load_tracker("imm:tail_weight=0.02", tail_weight=0.05)).tail_weight == 0.02
    assert options(load_tracker("kf", tail_weight=0.05, gate=0.99)).gate == 0.99
    gated = options(load_tracker("imm-gated", tail_weight=0.05, tail_scale=3.0))
    assert (gated.tail_weight, gated.gate) == (0.0, 0.9999)


def straight() -> tuple[Measurements, Any]:
    """16 flights at 150 m/s, seen to 3 m every 4 s, one plot in 20 some 40 times as far off; and where they were."""
    rng = np.random.default_rng(7)
    time_s = np.tile(4.0 * np.arange(60), (16, 1))
    true_m = np.stack([150.0 * time_s - 20_000.0, np.linspace(15_000.0, 60_000.0, 16)[:, None] + 0.0 * time_s], -1)
    scale = np.where(rng.random(time_s.shape) < 0.05, 40.0, 1.0)
    off_m = 3.0 * scale[..., None] * rng.standard_normal(true_m.shape)
    return cartesian(time_s, true_m + off_m, np.diag([9.0, 9.0])), true_m


FLIGHTS, TRUE_M = straight()
# Measured tails over those of a learned tracker's own base, and whether the base takes them for its own.
TAILS = {
    "more and larger": ({"tail_weight": 1.4, "tail_scale": 2.4}, True),
    "fewer": ({"tail_weight": 0.4, "tail_scale": 2.4}, False),
    "smaller": ({"tail_weight": 1.4, "tail_scale": 0.8}, False),
    "none": ({}, False),
}


@pytest.mark.parametrize(("factors", "taken"), TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("name", ["koss", "gka"])
def test_a_learned_tracker_allows_for_a_heavier_tail_than_its_own(
    name: str, factors: dict[str, float], taken: bool
) -> None:
    plain = load_tracker(name)
    assert isinstance(plain, LearnedEstimator)
    own = plain.bank.options
    measured = {key: factor * getattr(own, key) for key, factor in factors.items()}
    told = load_tracker(name, **measured, gate=0.9999)  # a gate means nothing to it
    assert isinstance(told, LearnedEstimator)
    assert told.bank.options == (replace(own, **measured) if taken else own)
    assert told.sources == plain.sources
    # It is what it does, too: plots far beyond the base's own tail carry it off less.
    errors = [np.linalg.norm(run(tracker, FLIGHTS).mean[..., :2] - TRUE_M, axis=-1)[:, 8:] for tracker in (told, plain)]
    told_m, plain_m = (float(np.sqrt((error**2).mean())) for error in errors)
    assert told_m < 0.9 * plain_m if taken else told_m == plain_m


def test_names_go_before_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kf").mkdir()
    assert options(load_tracker("kf")) == options(parse_estimator("kf"))
    with pytest.raises(Exception, match="kf"):  # an empty folder is no learned tracker
        load_tracker("./kf")


WRONG = {
    "no file": ("none.toml", "no file"),
    "neither": ("a.h5", "neither a .toml"),
    "unknown name": ("kalman", "no estimator 'kalman'; known: alpha-beta, kf"),
    "no such path": ("runs/best", "runs/best"),
    "unknown parameter": ("t.toml:q=1", "no parameter 'q'; known: q_m2s3"),
    "folder with parameters": ("folder:gate=0.9", "no parameters"),
}


@pytest.mark.parametrize(("text", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_trackers(text: str, named: str, tmp_path: Path) -> None:
    file(tmp_path)
    (tmp_path / "a.h5").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EstimatorError, match=named):
        load_tracker(text, folder=tmp_path)


GOOD = format_tuned(Tuned("kf", KF, description='a "b" \\ c\n\x01', training={"plots": 3, "groups": ["a"]}))
DAMAGED = {
    "cut off": (GOOD[: GOOD.index("tail_weight") + 14], "not valid TOML|no \\[parameters\\]|expected"),
    "foreign": ('[tool]\nname = "x"\n', "format is None"),
    "newer": (GOOD.replace("version = 1", "version = 2"), "newer ssrtrack"),
    "no estimator": (GOOD.replace('estimator = "kf"\n', ""), "has no estimator"),
    "text for a number": (GOOD.replace("= 3.5", '= "fast"'), "q_m2s3 is 'fast'"),
    "not finite": (GOOD.replace("= 3.5", "= nan"), "q_m2s3 is nan"),
    "out of range": (GOOD.replace("= 3.5", "= -3.5"), "positive"),
    "unknown estimator": (GOOD.replace('"kf"', '"kalman"'), "no estimator 'kalman'"),
    "unknown parameter": (GOOD.replace("q_m2s3", "q_m2s9"), "q_m2s9"),
    "unknown key": (GOOD.replace("[training]", "[trainig]"), "trainig"),
    "binary": ("\x00\x01", "not valid TOML"),
}


@pytest.mark.parametrize(("text", "named"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(EstimatorError, match=f"t.toml: .*({named})"):
        load_tracker(str(path))
    path.write_bytes(b"\xff\xfe" + text.encode())
    with pytest.raises(EstimatorError, match="not UTF-8"):
        load_tracker(str(path))


values = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))
plain = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=20), st.booleans())
keys = st.text("abcdefgh_0123456789", min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    parameters=st.dictionaries(keys, values, min_size=1, max_size=4),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    training=st.dictionaries(keys, st.one_of(plain, st.lists(plain, max_size=3)), max_size=3),
    sources=st.lists(st.dictionaries(keys, plain, min_size=1, max_size=3), max_size=2),
)
def test_a_file_gives_back_what_was_written(
    parameters: dict[str, Any], description: str, training: dict[str, Any], sources: list[dict[str, Any]]
) -> None:
    description = description.replace("\r", "")
    nested = {"plots": 3, "before": {"rmse": [1.5, 2.0]}}
    before = Tuned("kf", parameters, "plain", description, "1", "", "", training, nested, tuple(sources))
    after = parse_tuned(format_tuned(before), "x")
    assert after == before


def test_no_more_than_a_file_of_parameters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.toml"
    path.write_bytes(b"#" * 5_000_000)
    with pytest.raises(EstimatorError, match="far smaller"):
        read_tuned(path)


def test_a_batch_finds_relative_files_and_notices_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = simple_log(tmp_path / "a.h5", flights=20)
    file(tmp_path)
    alone = evaluate([log], ["t.toml"], bootstrap=0).trackers[0].scores.position_rmse_m
    first = batch([log], ["t.toml"], "out", workers=1, bootstrap=0)
    assert first.overall[0].trackers[0].name == "t.toml"
    assert first.overall[0].trackers[0].scores.position_rmse_m == pytest.approx(alone, rel=1e-12)
    again = batch([log], ["t.toml"], "out", workers=0, bootstrap=0, resume=True)
    assert [one.status for one in again.logs] == ["reused"]
    file(tmp_path, parameters=KF | {"q_m2s3": 300.0})
    other = batch([log], ["t.toml"], "out", workers=0, bootstrap=0, resume=True)
    assert [one.status for one in other.logs] == ["scored"]
    assert other.overall[0].trackers[0].scores.position_rmse_m != pytest.approx(alone, rel=1e-3)
    asked = Asked(("t.toml", "kf")).here()
    assert [text for text, _ in asked.digests] == ["t.toml"]
    assert hash(asked)  # jobs are told apart by what they ask
    file(tmp_path)
    monkeypatch.chdir("/")
    with pytest.raises(ScoringError, match="another one than at the start"):
        asked.estimators({})
    assert digest_of_tracker("t.toml", folder=tmp_path) != asked.digests[0][1]
    assert digest_of_tracker("imm") == ""


def test_shipped_parameters_are_part_of_the_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch must not take over results of an imm with other numbers."""
    before = software_version()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "imm.toml" else b""))
    software_version.cache_clear()
    assert software_version() != before
    monkeypatch.undo()
    software_version.cache_clear()
    assert software_version() == before
    assert parameters_of("imm")["tail_weight"] > 0.0
