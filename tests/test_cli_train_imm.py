"""`ssrtrack train imm` as a person types it: tables, a file that tracks, and what it refuses."""

import json
import subprocess
from pathlib import Path

import pytest

from ssrtrack.filters.tuned_file import read_tuned
from tests.cli_fixture import in_process
from tests.scenario_text import SCENARIO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario, its log with the seed that is tuned on, and a file of tuned parameters."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "small.toml").write_text(SCENARIO)
    assert in_process("simulate", "small.toml", "-o", "one.h5", "--seed", 1, cwd=folder).returncode == 0
    assert in_process("simulate", "small.toml", "-o", "five.h5", "--seed", 5, cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def tuned(folder: Path) -> subprocess.CompletedProcess[str]:
    return in_process("train", "imm", "-s", "small.toml", "-e", "kf:speed_sigma_mps=150", "-o", "kf.toml", cwd=folder)


def test_a_scenario_to_a_file_and_its_scores(folder: Path, tuned: subprocess.CompletedProcess[str]) -> None:
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stderr == ""
    assert all(word in tuned.stdout for word in ("q_m2s3", "tail_weight", "position RMSE (m)", "objective", "kf.toml"))
    file = read_tuned(folder / "kf.toml")
    assert (file.estimator, file.variant) == ("kf", "mixture")
    assert file.parameters["speed_sigma_mps"] == 150.0
    assert file.validation["objective_after"] > file.validation["objective_before"]
    assert "ssrtrack train imm -s small.toml" in file.command
    done = in_process("evaluate", "five.h5", "-t", "kf", "-t", "kf.toml", "-o", "report", cwd=folder)
    assert done.returncode == 0, done.stderr
    scores = json.loads((folder / "report" / "scores.json").read_text())["trackers"]
    assert set(scores) == {"kf", "kf.toml"}
    assert scores["kf.toml"]["position_rmse_m"] < scores["kf"]["position_rmse_m"]


def test_the_training_log_is_refused_unless_forced(folder: Path, tuned: subprocess.CompletedProcess[str]) -> None:
    assert tuned.returncode == 0
    refused = in_process("evaluate", "one.h5", "-t", "kf.toml", "-o", "no", cwd=folder)
    assert refused.returncode == 1
    assert "'kf.toml' was trained on it" in refused.stderr
    assert "--force-training-data" in refused.stderr
    forced = in_process("evaluate", "one.h5", "-t", "kf.toml", "-o", "yes", "--force-training-data", cwd=folder)
    assert forced.returncode == 0, forced.stderr


WRONG = {
    "output exists": (["-s", "small.toml", "-o", "small.toml"], 1, "--force"),
    "nothing to tune on": (["-o", "x.toml"], 1, "-l"),
    "no such log": (["-l", "none.h5", "-o", "x.toml"], 1, "none.h5"),
    "no such scenario": (["-s", "smal", "-o", "x.toml"], 1, "smal"),
    "no such estimator": (["-s", "small.toml", "-e", "kalman", "-o", "x.toml"], 1, "known: alpha-beta"),
    "no such variant": (["-s", "small.toml", "--variant", "best", "-o", "x.toml"], 1, "mixture"),
    "a seed for the suite": (["-s", "suite:tma-4s", "--seed", "3", "-o", "x.toml"], 1, "--seed"),
    "no such folder": (["-s", "small.toml", "-o", "none/x.toml"], 1, "none"),
}


@pytest.mark.parametrize(("arguments", "code", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage(folder: Path, arguments: list[str], code: int, named: str) -> None:
    before = sorted(p.name for p in folder.iterdir())
    done = in_process("train", "imm", *arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir()) == before
