"""The command line as a person uses it, with exit codes, one-line errors and the files it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssrtrack import __version__
from ssrtrack.scoring.result import Scores
from tests.cli_fixture import in_process

STABLE_KEYS = {
    *("position_rmse_m", "position_rmse_turn_m", "position_rmse_straight_m", "predicted_position_rmse_m"),
    *("velocity_rmse_mps", "anees", "anis", "nll", "updates", "flights", "seconds"),
}


def ssrtrack(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ssrtrack.cli.main import main; main()", *map(str, arguments)]
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo log and its ASTERIX export."""
    folder = tmp_path_factory.mktemp("cli")
    assert ssrtrack("simulate", "demo", "-o", "demo.h5", "--seed", 3, cwd=folder).returncode == 0
    assert in_process("export", "demo.h5", "-o", "demo.ast", cwd=folder).returncode == 0
    return folder


def test_version() -> None:
    assert ssrtrack("--version").stdout.strip() == f"ssrtrack {__version__}"


@pytest.mark.parametrize("command", ["simulate", "ingest", "export", "info", "evaluate"])
def test_help_of_every_command(command: str, tmp_path: Path) -> None:
    done = in_process(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert command in done.stdout


def test_simulated_log_to_report(folder: Path) -> None:
    trackers = "kf", "alpha-beta:q_m2s3=20,gate=0.9999"
    options = [option for name in trackers for option in ("-t", name)]
    done = ssrtrack("evaluate", "demo.h5", *options, "--gap", 45, "-o", "report", "--save-tracks", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bars where there is no terminal
    scores = json.loads((folder / "report" / "scores.json").read_text())
    for name in trackers:
        tracker = scores["trackers"][name]
        assert set(tracker) >= STABLE_KEYS
        assert set(tracker) >= set(Scores.units())
        assert 10 < tracker["position_rmse_m"] < 1000
        assert tracker["updates"] > 5000
    assert "<html" in (folder / "report" / "report.html").read_text()
    about = json.loads(in_process("info", "report/tracks.h5", "--json", cwd=folder).stdout)
    assert {t["name"] for t in about["tracks"]} == set(trackers)


def test_export_and_ingest_give_back_the_plots(folder: Path) -> None:
    done = in_process("ingest", "demo.ast", "-o", "back.h5", "--date", "2025-06-01", cwd=folder)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(in_process("info", log, "--json", cwd=folder).stdout) for log in ("demo.h5", "back.h5"))
    assert after["plots"] == before["plots"]
    assert after["aircraft"] == before["aircraft"]
    assert after["start_utc"] == before["start_utc"]
    report = in_process("evaluate", "back.h5", "-t", "kf", "-o", "no-truth", cwd=folder)
    assert report.returncode == 0, report.stderr
    kf = json.loads((folder / "no-truth" / "scores.json").read_text())["trackers"]["kf"]
    assert kf["position_rmse_m"] is None
    assert kf["next_plot_rmse_m"] > 10


def test_list_of_scenarios(tmp_path: Path) -> None:
    listed = in_process("simulate", "--list", cwd=tmp_path).stdout
    assert all(name in listed for name in ("demo", "suite:tma-4s", "modes-typical"))


# What is typed -> exit code and what the message must name.
WRONG = {
    "no such command": (["evalute"], 2, "evalute"),
    "no such option": (["info", "demo.h5", "--jsn"], 2, "--jsn"),
    "no log given": (["info"], 2, "LOG"),
    "no such log": (["info", "nothing.h5"], 1, "nothing.h5"),
    "not a log": (["info", "demo.ast"], 1, "demo.ast"),
    "a folder": (["info", "."], 1, "folder"),
    "no such scenario": (["simulate", "dmeo", "-o", "x.h5"], 1, "demo"),
    "no scenario": (["simulate", "-o", "x.h5"], 2, "scenario"),
    "negative seed": (["simulate", "demo", "-o", "x.h5", "--seed", "-1"], 2, "--seed"),
    "output exists": (["simulate", "demo", "-o", "demo.h5"], 1, "--force"),
    "folder missing": (["simulate", "demo", "-o", "no/x.h5"], 1, "no"),
    "unknown tracker": (["evaluate", "demo.h5", "-t", "imn", "-o", "r"], 1, "imm"),
    "unknown parameter": (["evaluate", "demo.h5", "-t", "imm:q=1", "-o", "r"], 1, "q_m2s3"),
    "unknown identity": (["evaluate", "demo.h5", "--identity", "x", "-t", "kf", "-o", "r"], 1, "address"),
    "report is a file": (["evaluate", "demo.h5", "-t", "kf", "-o", "demo.h5"], 2, "demo.h5"),
    "two logs, one tracks file": (["evaluate", "demo.h5", "demo.h5", "-t", "kf", "--save-tracks"], 2, "one log"),
    "log is not a recording": (["ingest", "demo.h5", "-o", "x.h5"], 1, "HDF5"),
    "no such recording": (["ingest", "nothing.ast", "-o", "x.h5"], 1, "nothing.ast"),
    "bad date": (["ingest", "demo.ast", "-o", "x.h5", "--date", "1.6.2025"], 2, "--date"),
    "bad site": (["ingest", "demo.ast", "-o", "x.h5", "--site", "48.1"], 1, "LAT,LON,HEIGHT"),
    "bad radar file": (["ingest", "demo.ast", "-o", "x.h5", "--radar", "demo.ast"], 1, "demo.ast"),
    "no such radar file": (["ingest", "demo.ast", "-o", "x.h5", "--radar", "none.toml"], 1, "none.toml"),
}


# What is wrong in these two ways reaches the shell; the others are told apart in this process.
SHELL = "not a log", "negative seed"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_readable_line(folder: Path, name: str) -> None:
    arguments, code, named = WRONG[name]
    done = (ssrtrack if name in SHELL else in_process)(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "x.h5").exists()


def test_debug_shows_the_traceback(folder: Path) -> None:
    for arguments in (["--debug", "info", "nothing.h5"], ["info", "nothing.h5", "--debug"]):
        done = in_process(*arguments, cwd=folder)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_a_failed_run_leaves_the_log_that_was_there(folder: Path) -> None:
    before = (folder / "demo.h5").read_bytes()
    (folder / "empty.ast").write_bytes(b"")
    assert in_process("ingest", "empty.ast", "-o", "demo.h5", "--force", cwd=folder).returncode == 1
    assert (folder / "demo.h5").read_bytes() == before
    assert not list(folder.glob("*.incomplete"))


def test_completion_is_offered(tmp_path: Path) -> None:
    assert "--install-completion" in in_process("--help", cwd=tmp_path).stdout
