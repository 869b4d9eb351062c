"""`ssrtrack train koss` from a scenario and from logs to a tracker that `evaluate` takes; its refusals."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ssrtrack.cli.train_koss import koss
from ssrtrack.errors import CheckpointError, EstimatorError, ScenarioError, SsrtrackError, TrainingError
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.scenario import parse_scenario, radars, simulate
from ssrtrack.training import loop, loop_data, loop_koss
from ssrtrack.training.loop_recipe import Recipe
from tests.training_fixture import TEXT, scenario

APP = typer.Typer()
APP.command()(koss)
QUICK = ["--steps", "3", "--batch", "4", "--window", "30", "--size", "tiny", "--workers", "0", "--base", "imm3"]


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_data, "HELD_OUT", 12)
    monkeypatch.setattr(loop_data, "HELD_OUT_PLOTS", 40)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.toml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def log(path: Path, seed: int) -> Path:
    area = scenario()
    provenance = Provenance(
        command="test", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z", scenario=TEXT, seed=seed
    )
    with LogWriter(path, provenance, radars(area)) as writer:
        for plots, truth in simulate(area, seed):
            writer.append_plots(plots)
            writer.append_truth(truth)
    return path


def two_radars(folder: Path) -> None:
    second = TEXT[TEXT.index("[[radar]]") : TEXT.index("[[traffic]]")].replace('"A"', '"B"').replace("48.1", "48.4")
    (folder / "two.toml").write_text(TEXT + second)


def call(*arguments: str) -> str:
    done = CliRunner().invoke(APP, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_from_a_scenario_to_scores(folder: Path) -> None:
    said = call("-s", "small.toml", "-o", "run", *QUICK)
    assert (
        "nan" not in said
        and "step 3," in said
        and "On held-out flights, position RMSE" in said
        and "evaluate LOG -t imm -t run" in said
    )
    scores = evaluate([log(folder / "test.h5", 99)], ["imm3", "run"], bootstrap=10).trackers
    assert [t.name for t in scores] == ["imm3", "run"]
    # Three steps from the base: near it, and not it.
    ratio = scores[1].ratio["position_rmse_m"][0]
    assert 0.8 < ratio < 1.2 and ratio != 1.0
    kept = json.loads((folder / "run" / "model.json").read_text())
    assert kept["training"]["steps"] == 3 and kept["scores"]["reference_position_rmse_m"] > 0
    assert {s["kind"] for s in kept["sources"]} >= {"endless simulation"}
    with (folder / "run" / "steps.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_from_logs(folder: Path) -> None:
    first, second = log(folder / "a.h5", 1), log(folder / "b.h5", 2)
    call("-l", str(first), "-l", str(second), "-o", "split", *QUICK)
    call("-l", str(first), "--validation", str(second), "-o", "named", *QUICK)
    # A tracker is not scored on the flights it learned from, whatever their file is called.
    first.rename(folder / "c.h5")
    with pytest.raises(SsrtrackError, match="trained on"):
        evaluate([folder / "c.h5"], ["named"], bootstrap=10)
    assert evaluate([second], ["named"], bootstrap=10).trackers[0].scores.flights > 0


def test_validation_on_what_is_trained_on_is_refused(folder: Path) -> None:
    first = log(folder / "a.h5", 1)
    (folder / "copy.h5").write_bytes(first.read_bytes())
    with pytest.raises(TrainingError, match=r"copy\.h5: holds flights that are trained on"):
        call("-l", str(first), "--validation", "copy.h5", "-o", "run", *QUICK)
    assert not (folder / "run").exists()


def test_a_log_that_has_changed_stops_a_resumed_run(folder: Path) -> None:
    """What it was begun with is trained on, and must be known as such for ever."""
    call("-l", str(log(folder / "a.h5", 1)), "-o", "run", *QUICK)
    before = json.loads((folder / "run" / "model.json").read_text())["sources"]
    (folder / "a.h5").unlink()
    log(folder / "a.h5", 2)
    with pytest.raises(TrainingError, match=r"a\.h5: is not the log that the run was begun with"):
        call("--resume", "run", "--workers", "0")
    assert json.loads((folder / "run" / "model.json").read_text())["sources"] == before


SCRIPTED = """
[[aircraft]]
latitude_deg = 48.0
longitude_deg = 11.2
flight_level = 200.0
speed_kt = 300.0
track_deg = 60.0
"""


def test_scripted_aircraft_are_known_under_every_seed(folder: Path) -> None:
    (folder / "small.toml").write_text(TEXT + SCRIPTED)
    assert "1 scripted aircraft fly the same path" in call("-s", "small.toml", "-o", "run", *QUICK)
    area = replace(parse_scenario(TEXT + SCRIPTED, "s", "s"), traffic=())
    provenance = Provenance(command="", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z")
    with LogWriter(folder / "again.h5", provenance, radars(area)) as writer:
        for plots, truth in simulate(area, 77):
            writer.append_plots(plots)
            writer.append_truth(truth)
    with pytest.raises(SsrtrackError, match=r"of its true flights .* trained on"):
        evaluate([folder / "again.h5"], ["run"], bootstrap=0)


def test_a_run_that_cannot_begin_takes_the_place_of_none(folder: Path) -> None:
    call("-s", "small.toml", "-o", "run", *QUICK)
    before = {p.name: p.read_bytes() for p in (folder / "run").iterdir()}
    (folder / "empty.toml").write_text(
        TEXT.replace("radius_nm = 40.0", "radius_nm = 40.0\nlatitude_deg = -40.0\nlongitude_deg = 0.0")
    )
    for more in (["-o", "run", "--force"], ["-o", "other"]):
        with pytest.raises(ScenarioError, match="nothing to train on"):
            call("-s", "empty.toml", *more, *QUICK)
    assert {p.name: p.read_bytes() for p in (folder / "run").iterdir()} == before
    assert not (folder / "other").exists()


def test_ctrl_c_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call("-s", "small.toml", "-o", "run", *QUICK)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_koss, "_trained", stopped)
    done = CliRunner().invoke(APP, ["--resume", "run"])
    assert done.exit_code == 130 and "Go on with: ssrtrack train koss --resume run" in done.stderr


def test_a_finished_run_is_resumed_to_the_same_end(folder: Path) -> None:
    call("-s", "small.toml", "-o", "run", *QUICK)
    before = [(folder / "run" / name).read_text() for name in ("steps.csv", "progress.csv", "config.json")]
    # The run has what it needs: neither the scenario's file nor today's meaning of a name.
    (folder / "small.toml").unlink()
    assert "On held-out flights" in call("--resume", "run", "--workers", "0")
    assert [(folder / "run" / n).read_text() for n in ("steps.csv", "progress.csv", "config.json")] == before


def test_a_run_goes_on_at_a_lower_learning_rate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the run that it is: a third start takes the rate of the second."""
    stopped = 2

    def step(training: loop.Training, rate: float) -> float:
        if training.at.step == stopped:
            training._save()
            raise KeyboardInterrupt
        return real(training, rate)

    real = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", step)
    begun = ["-s", "small.toml", "-o", "run", *QUICK, "--steps", "5"]
    go_on = ["--resume", "run"]
    for stopped, arguments in ((2, begun), (4, [*go_on, "--learning-rate", "8e-4"]), (9, go_on)):
        done = CliRunner().invoke(APP, [*arguments, "--workers", "0"])
        assert done.exit_code == (130 if stopped < 5 else 0), done.output
    with (folder / "run" / "steps.csv").open(newline="") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    recipe = Recipe(steps=5)
    usual = [recipe.rate(k / 5, k) for k in range(5)]
    assert rates == pytest.approx([*usual[:2], *(0.1 * rate for rate in usual[2:])])
    done = CliRunner().invoke(APP, ["--resume", "run", "--learning-rate", "-1"])
    assert isinstance(done.exception, TrainingError) and "learning_rate is -1" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ([], TrainingError, "either a scenario"),
        (["-s", "small.toml", "-l", "a.h5"], TrainingError, "either a scenario"),
        (["-s", "nowhere.toml"], ScenarioError, r"nowhere\.toml"),
        (["-s", "suite:tma"], ScenarioError, "did you mean suite:tma-4s"),
        (["-s", "small.toml", "-b", "nothing"], EstimatorError, "no estimator 'nothing'"),
        (["-s", "small.toml", "-b", "ekf"], EstimatorError, "must observe converted positions"),
        (["-s", "small.toml", "-b", "alpha-beta"], TrainingError, "no Kalman filter"),
        (["-s", "small.toml", "--flights", "birds"], TrainingError, "flights from 'birds'"),
        (["-s", "two.toml", "--flights", "device"], ScenarioError, "2 radars see it"),
        (["-s", "small.toml", "--size", "huge"], TrainingError, "size is 'huge'"),
        (["-s", "small.toml", "--device", "tpu"], TrainingError, "device is 'tpu'"),
        (["-s", "small.toml", "--dtype", "int8"], TrainingError, "dtype is 'int8'"),
        (["-s", "small.toml", "-o", "small.toml"], TrainingError, "is a file"),
        (["--resume", "nowhere"], TrainingError, "no run to go on with"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    folder: Path, arguments: list[str], error: type[SsrtrackError], named: str
) -> None:
    two_radars(folder)
    with pytest.raises(error, match=named):
        CliRunner().invoke(APP, [*arguments, "--workers", "0"], catch_exceptions=False)
    assert sorted(p.name for p in folder.iterdir()) == ["small.toml", "two.toml"]


def test_a_run_is_neither_replaced_nor_changed_unasked(folder: Path) -> None:
    call("-s", "small.toml", "-o", "run", *QUICK)
    with pytest.raises(TrainingError, match="--resume run to go on"):
        call("-s", "small.toml", "-o", "run", *QUICK)
    done = CliRunner().invoke(APP, ["--resume", "run", "--batch", "8"])
    assert done.exit_code == 2 and "--batch cannot go with --resume" in done.output.replace("\n", " ")
    call("-s", "small.toml", "-o", "run", "--force", *QUICK)
    config = folder / "run" / "config.json"
    for wrong in ('{"format": "ssrtrack-run-9"}', json.dumps({**json.loads(config.read_text()), "data": {}})):
        config.write_text(wrong)
        with pytest.raises(CheckpointError):
            call("--resume", "run")


def test_tensorboard_is_written_if_asked(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    call("-s", "small.toml", "-o", "run", "--tensorboard", *QUICK)
    assert list((folder / "run" / "tensorboard").glob("events.*"))
    call("-s", "small.toml", "-o", "run", "--force", *QUICK)
    assert not (folder / "run" / "tensorboard").exists()


def test_tensorboard_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install 'ssrtrack\[tensorboard\]'"):
        call("-s", "small.toml", "-o", "run", "--tensorboard", *QUICK)
    assert not (folder / "run").exists()


def test_several_radars_train_together(folder: Path) -> None:
    two_radars(folder)
    assert "On held-out flights" in call("-s", "two.toml", "-o", "run", *QUICK)


def test_flights_made_on_the_device_train(folder: Path) -> None:
    (folder / "clutter.toml").write_text(TEXT.replace("outliers =", "false_plots = { per_scan = 1.0 }\noutliers ="))
    said = call("-s", "clutter.toml", "-o", "run", "--flights", "device", *QUICK)
    assert "made on the device, without false_plots" in said and "On held-out flights" in said
    assert json.loads((folder / "run" / "config.json").read_text())["data"]["source"] == "device"
    before = (folder / "run" / "steps.csv").read_text()
    (folder / "run" / "last.safetensors").unlink()  # as if it had been killed at once
    call("--resume", "run", "--workers", "0")
    assert (folder / "run" / "steps.csv").read_text() == before
