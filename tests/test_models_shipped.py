"""Learned trackers that come with the package: what a name means, and that each of them is fit to be shipped."""

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ssrtrack.batch.run import batch
from ssrtrack.cli.main import app
from ssrtrack.cli.train_gka import gka
from ssrtrack.cli.train_koss import koss
from ssrtrack.cli.train_residual import residual_
from ssrtrack.errors import CheckpointError, EstimatorError, ScoringError
from ssrtrack.filters.run import run
from ssrtrack.models import load
from ssrtrack.models.checkpoint import read_description, save_run
from ssrtrack.models.learned import LearnedEstimator, octets_per_track
from ssrtrack.models.load import digest_of_tracker, hidden_folders, load_tracker, shipped, tracker_names, written_as
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.suite import suite_provenance
from tests.models_fixture import base, network, plots
from tests.scoring_fixture import simple_log

MOST_OCTETS = 4_000_000
# Of the tracker's own standard deviations: what float32 leaves of the network's numbers.
TOLERANCE = 1e-3


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and a package that comes with two small trackers."""
    monkeypatch.setattr(load, "PRETRAINED", tmp_path / "package")
    source: dict[str, Any] = {"kind": "simulation", "name": "tma-4s", **suite_provenance("tma-4s", "train")}
    for seed, name in enumerate(("koss", "gka")):
        save_run(tmp_path / "package" / name, network(base("imm"), seed=seed), base("imm"), sources=[source])
    (tmp_path / "package" / "notes").mkdir()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def first_weight(tracker: Any) -> Any:
    return next(iter(tracker.model.state_dict().values())).numpy()


def test_a_name_is_a_shipped_tracker_wherever_it_is_written(shelf: Path) -> None:
    assert list(shipped()) == ["gka", "koss"] and tracker_names()[-2:] == ["gka", "koss"]
    koss, gka = load_tracker("koss"), load_tracker(" gka ", gate=0.9, tail_weight=0.5)  # a log's own means nothing
    assert isinstance(koss, LearnedEstimator) and isinstance(gka, LearnedEstimator)
    assert not np.array_equal(first_weight(koss), first_weight(gka))
    assert koss.sources[0]["name"] == "tma-4s" and load.sources_of_tracker("koss").entries
    assert len({digest_of_tracker(name) for name in ("koss", "gka", "imm")}) == 3
    with pytest.raises(EstimatorError, match="takes no parameters"):
        load_tracker("koss:gate=0.9")
    for unknown in ("kos", "./koss", "runs/koss"):
        with pytest.raises(EstimatorError, match=r"known: alpha-beta, kf, .*imm3, gka, koss"):
            load_tracker(unknown)


def test_a_name_goes_before_a_folder_and_it_is_said(shelf: Path) -> None:
    assert hidden_folders(["koss", "imm"]) == []
    save_run("koss", network(base("imm"), seed=7), base("imm"))
    (line,) = hidden_folders(["koss", "gka", "imm", "./koss"])
    assert line == "-t koss is the tracker that comes with ssrtrack; the folder of that name is -t ./koss"
    own, theirs = load_tracker("./koss"), load_tracker("koss")
    assert not np.array_equal(first_weight(own), first_weight(theirs))
    assert np.array_equal(first_weight(own), first_weight(load_tracker(str(Path("koss").absolute()))))
    assert digest_of_tracker("./koss") != digest_of_tracker("koss")
    assert [written_as(Path(name)) for name in ("koss", "imm", "run", "runs/koss")] == [
        "./koss", "./imm", "run", "runs/koss"
    ]  # fmt: skip
    log = str(simple_log(shelf / "a.h5"))
    told = CliRunner().invoke(app, ["evaluate", log, "-t", "imm", "-t", "koss"], catch_exceptions=False)
    assert told.exit_code == 0 and told.stderr.splitlines() == [line] and "koss" in told.stdout
    quiet = CliRunner().invoke(app, ["evaluate", log, "-t", "./koss", "-o", "other"], catch_exceptions=False)
    assert quiet.exit_code == 0 and quiet.stderr == ""


@pytest.mark.parametrize("command", [koss, gka, residual_])
def test_where_training_writes_is_no_trackers_name(shelf: Path, command: Any) -> None:
    folder = signature(command).parameters["output"].default
    assert folder.parent == Path("runs") and written_as(folder) == str(folder)
    assert hidden_folders([str(folder)]) == []


def test_batch_and_python_take_names(shelf: Path) -> None:
    log = simple_log(shelf / "a.h5")
    whole = evaluate([log], ["imm", "koss", "gka"], bootstrap=0)
    many = batch([log], ["imm", "koss", "gka"], "out", workers=0, bootstrap=0)
    for one, other in zip(whole.trackers, many.overall[0].trackers, strict=True):
        assert other.name == one.name
        assert other.scores.position_rmse_m == pytest.approx(one.scores.position_rmse_m, rel=1e-9)
    assert whole.trackers[1].scores.position_rmse_m != pytest.approx(whole.trackers[2].scores.position_rmse_m, rel=1e-6)
    again = batch([log], ["imm", "koss", "gka"], "out", workers=0, bootstrap=0, resume=True)
    assert [job.status for job in again.logs] == ["reused"]
    save_run(load.PRETRAINED / "gka", network(base("imm"), seed=9), base("imm"))
    other_weights = batch([log], ["imm", "koss", "gka"], "out", workers=0, bootstrap=0, resume=True)
    assert [job.status for job in other_weights.logs] == ["scored"]


def test_a_shipped_tracker_is_not_scored_on_what_it_was_trained_on(shelf: Path) -> None:
    from ssrtrack.io.hdf5 import LogReader
    from ssrtrack.scoring.gather import Asked

    extra: dict[str, Any] = {**suite_provenance("tma-4s", "train")}
    log = simple_log(shelf / "a.h5", extra=extra)
    with LogReader(log) as reader, pytest.raises(ScoringError, match="tracker 'koss' was trained on it"):
        Asked(["koss"]).check_training(reader)


def test_damaged_weights_are_refused(shelf: Path) -> None:
    (weights,) = (load.PRETRAINED / "koss").glob("*.safetensors")
    octets = bytearray(weights.read_bytes())
    octets[-1] ^= 1
    weights.write_bytes(octets)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_tracker("koss")


@pytest.mark.parametrize("name", shipped())
def test_it_is_small_and_says_what_it_is(name: str) -> None:
    folder = shipped()[name]
    table = read_description(folder)
    assert sorted(f.name for f in folder.iterdir()) == sorted(["model.json", table["weights"]["file"]])
    assert sum(f.stat().st_size for f in folder.iterdir()) <= MOST_OCTETS
    assert table["sources"] and table["training"]["command"].startswith(("ssrtrack train", "python benchmarks/"))
    assert table["training"]["recipe"]["size"] and table["training"]["seconds"] > 0.0
    for what in ("position_rmse_m", "velocity_rmse_mps"):
        assert 0.0 < table["scores"]["validation"][what] < table["scores"]["validation"][f"reference_{what}"]
    assert "/" not in table["training"]["run"]


@pytest.mark.parametrize("name", shipped())
def test_it_is_causal_and_streams(name: str) -> None:
    tracker: Any = load_tracker(name)
    z, _ = plots(base("kf"), flights=4, length=30, missed=0.1, outliers=0.03)
    whole, steps = run(tracker, z), run(tracker, z, backend="filterpy")
    early = run(tracker, z.select((slice(None), slice(18))))
    sigma = np.sqrt(np.diagonal(whole.covariance, axis1=-2, axis2=-1))
    assert np.isfinite(whole.mean).all() and np.isfinite(whole.covariance).all()
    assert np.abs((steps.mean - whole.mean) / sigma).max() < TOLERANCE
    assert np.abs((early.mean - whole.mean[:, :18]) / sigma[:, :18]).max() < TOLERANCE
    assert octets_per_track(tracker.init(z.at(0))) <= 65_536


@pytest.mark.parametrize("name", shipped())
def test_it_beats_a_kalman_filter(name: str, tmp_path: Path) -> None:
    log = simple_log(tmp_path / "a.h5", flights=24)
    kf, learned = (tracker.scores for tracker in evaluate([log], ["kf", name], bootstrap=0).trackers)
    assert kf.position_rmse_m and learned.position_rmse_m and kf.velocity_rmse_mps and learned.velocity_rmse_mps
    assert learned.position_rmse_m < 0.95 * kf.position_rmse_m
    assert learned.velocity_rmse_mps < 0.9 * kf.velocity_rmse_mps
