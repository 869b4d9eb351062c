"""`ssrtrack simulate` with the suite and with recorded flights; what it refuses, and what a kill leaves behind."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ssrtrack.cli.main import main
from ssrtrack.data import Plots
from ssrtrack.io.hdf5 import LogReader, Provenance
from ssrtrack.io.sites import parse_site
from ssrtrack.io.trajectories import read_trajectories
from ssrtrack.simulators import profile, suite
from ssrtrack.simulators.replay_scenario import with_truth
from ssrtrack.simulators.scenario import parse_scenario
from ssrtrack.simulators.scenario import simulate as run
from ssrtrack.simulators.suite import SEEDS, VERSION
from tests.cli_fixture import in_process
from tests.test_io_trajectories import flown, state_vectors

MAIN = [sys.executable, "-c", "from ssrtrack.cli.main import main; main()", "simulate"]
ENVIRONMENT = os.environ | {"NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
TOML = """
epoch = 2025-01-01T00:00:00Z
duration_s = {seconds}
[[radar]]
name = "R"
latitude_deg = 50.3
longitude_deg = 8.5
rotation_period_s = 4
[[traffic]]
number = {number}
radius_nm = 40
"""


def simulate(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return in_process("simulate", *arguments, cwd=cwd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a scenario and a recording of one flight near its radar."""
    (tmp_path / "x.toml").write_text(TOML.format(seconds=900, number=5))
    frame = flown()
    frame.loc[[20, 21], ["latitude", "longitude"]] = frame.loc[19, ["latitude", "longitude"]].to_numpy()
    frame.to_csv(tmp_path / "flights.csv", index=False)
    state_vectors(flown(north_deg=-30.0)).to_parquet(tmp_path / "south.parquet")
    return tmp_path


def test_recorded_flights_make_a_log(folder):
    done = simulate("x.toml", "--truth", "flights.csv", "--seed", 7, "-o", "log.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "58 of 60 rows kept, 1 flight of 1 aircraft" in done.stdout
    assert "dropped: 2 stale" in done.stdout
    assert "against reported motion: ground speed" in done.stdout
    with LogReader(folder / "log.h5") as log:
        about = log.provenance
        truth = next(iter(log.truth()))
        plots = next(iter(log.plots()))
    assert about.seed == 7 and about.sources == ("flights.csv",)
    assert f"{about.epoch:%Y-%m-%dT%H:%M:%SZ}" == about.extra["truth_start"] == "2021-07-12T14:00:00Z"
    assert set(plots.address) == {0x3C4591} and set(plots.callsign) == {b"BOX413"}
    assert np.abs(truth.v_east_mps - 205.8).max() < 3.0 and np.abs(truth.v_north_mps).max() < 6.0


def repeated(about: Provenance, truth: Path | None = None) -> Plots:
    """The plots that a log's provenance, and the recording it names, are enough to make."""
    plan, traffic = parse_scenario(about.scenario, "log", "log"), None
    if truth:
        assert hashlib.sha256(truth.read_bytes()).hexdigest() == about.extra["truth_sha256"]
        start = datetime.fromisoformat(about.extra["truth_start"])
        place = tuple(parse_site(about.extra["site"]).values())
        plan, traffic = with_truth(plan, read_trajectories(truth)[0], start=start, site=place)
    return Plots.concat([plots for plots, _ in run(plan, about.seed, traffic=traffic)])


@pytest.mark.parametrize("arguments", [[], ["--truth", "flights.csv", "--site", "centre"]])
def test_a_log_says_all_that_makes_it_again(arguments, folder, monkeypatch):
    text = TOML.format(seconds=900, number=5).replace("[[traffic]]", 'profile = "degraded"\n[[traffic]]')
    (folder / "p.toml").write_text(text)
    done = simulate("p.toml", *arguments, "--seed", 7, "-o", "log.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "p.toml").unlink()
    monkeypatch.setattr(profile, "_FOLDER", folder)  # the built-in profiles may have changed
    with LogReader(folder / "log.h5") as log:
        again, plots = repeated(log.provenance, folder / "flights.csv" if arguments else None), log.read_plots()
    assert len(plots) > 100
    for name, column in plots.columns().items():
        np.testing.assert_array_equal(getattr(again, name), column, err_msg=name)


def test_a_log_without_plots_says_so(folder):
    far = TOML.format(seconds=60, number=5) + "latitude_deg = -50.0\nlongitude_deg = 8.5\n"
    (folder / "far.toml").write_text(far)
    done = simulate("far.toml", "-o", "log.h5", cwd=folder)
    assert done.returncode == 0 and "0 plots" in done.stdout and "no radar saw anybody" in done.stdout


def test_a_suite_radar_goes_where_the_flights_are(folder):
    done = simulate("suite:tma-4s", "--truth", "south.parquet", "-o", "log.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    with LogReader(folder / "log.h5") as log:
        assert log.radars.latitude_deg[0] == pytest.approx(20.0, abs=0.2)
        assert log.provenance.extra["suite_variant"] == "tma-4s"
        assert "suite" not in log.provenance.extra  # its flights are nobody's training flights


def test_a_split_says_what_it_is(folder, monkeypatch):
    """The whole split takes half a minute: here it is cut, by the only line that a split changes."""
    monkeypatch.setattr(suite, "DURATION_SHARE", dict.fromkeys(suite.DURATION_SHARE, 0.005))
    done = simulate("suite:degraded", "--split", "validation", "-o", "v.h5", cwd=folder)
    assert done.returncode == 0, done.stderr
    with LogReader(folder / "v.h5") as log:
        about = log.provenance
    assert about.seed == SEEDS["degraded"]["validation"]
    assert {k: about.extra[k] for k in ("suite", "suite_version", "suite_split")} == {
        "suite": "degraded",
        "suite_version": VERSION,
        "suite_split": "validation",
    }


WRONG = {
    "a seed for a split": (["suite:tma-4s", "--seed", "1"], 2, "--seed cannot be given with suite:NAME"),
    "a split of no suite": (["demo", "--split", "test"], 2, "--split is of use only with suite:NAME"),
    "no such split": (["suite:tma-4s", "--split", "dev"], 1, "expected one of train, validation, test"),
    "no such suite": (["suite:tma"], 1, "did you mean suite:tma-4s?"),
    "a start of nothing": (["x.toml", "--truth-start", "2021-07-12T14:00:00Z"], 2, "only with --truth"),
    "a site of nothing": (["x.toml", "--site", "centre"], 2, "only with --truth"),
    "a bad site": (["x.toml", "--truth", "flights.csv", "--site", "here"], 1, "is not LAT,LON,HEIGHT"),
    "a bad site of a long recording": (["x.toml", "--truth", "none.csv", "--site", "1,2"], 1, "is not LAT,LON,HEIGHT"),
    "out of range": (["x.toml", "--truth", "south.parquet"], 1, "--site centre"),
    "no recording": (["x.toml", "--truth", "none.csv"], 1, "none.csv: no such file"),
    "no kind": (["x.toml", "--truth", "x.toml"], 1, "unknown kind of file"),
    "a late start": (["x.toml", "--truth", "flights.csv", "--truth-start", "2022-01-01T00:00:00"], 1, "inside the"),
    "no worker": (["x.toml", "--workers", "0"], 2, "--workers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_refused_in_one_line(name, folder, monkeypatch, capsys):
    arguments, status, message = WRONG[name]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["ssrtrack", "simulate", *arguments, "-o", "log.h5"])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == status
    assert message in error and error.count("\n") == 1
    assert not (folder / "log.h5").exists()


def test_a_killed_simulation_leaves_the_earlier_log_and_no_half_one(folder):
    (folder / "long.toml").write_text(TOML.format(seconds=500_000, number=60))
    assert simulate("x.toml", "-o", "log.h5", cwd=folder).returncode == 0
    before = (folder / "log.h5").read_bytes()
    command = [*MAIN, "long.toml", "-o", "log.h5", "--force"]
    running = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        half = wait_for(lambda: [p for p in folder.iterdir() if "incomplete" in p.name and p.stat().st_size > 100_000])
        assert half, "nothing was written"
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert (folder / "log.h5").read_bytes() == before
    assert simulate("x.toml", "-o", "log.h5", "--force", "--seed", "2", cwd=folder).returncode == 0


def wait_for(found, seconds=60.0):
    end = time.monotonic() + seconds
    while not (what := found()) and time.monotonic() < end:
        time.sleep(0.05)
    return what
