"""`ssrtrack evaluate --sweep` as a person uses it."""

import json
import sys
from pathlib import Path

import pytest
import typer

from ssrtrack.cli.evaluate import _axes
from ssrtrack.cli.main import main
from tests.scoring_fixture import simple_log


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process: a fresh one takes seconds to start."""
    monkeypatch.setattr(sys, "argv", ["ssrtrack", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_sweeps_go_to_the_terminal_the_page_and_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simple_log(tmp_path / "log.h5")
    monkeypatch.chdir(tmp_path)
    trackers = ["-t", "kf", "-t", "imm"]
    assert (
        run_here(monkeypatch, "evaluate", "log.h5", *trackers, "--sweep", "sigma", "--levels", "2,4", "-o", "out") == 0
    )
    printed = capsys.readouterr().out
    assert "sigma 1 … 4" in printed and "breaks at" in printed
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["sweeps"]["sigma"]
    assert found["levels"] == [1, 2, 4] and found["reference"] == "imm" and list(found["trackers"]) == ["kf", "imm"]
    assert 'id="sweep-sigma"' in (tmp_path / "out" / "report.html").read_text()
    assert run_here(monkeypatch, "evaluate", "log.h5", "--sweep", "speed", "-o", "other") == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: no axis ['speed'] to sweep; known: pd, ") and said.err.count("\n") == 1
    assert said.out == "" and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("sweep", "levels", "message"),
    [
        (["pd", "pd"], None, "names an axis twice"),
        ([], "0.9", "belongs to one --sweep, there are 0"),
        (["pd", "gap"], "0.9", "belongs to one --sweep, there are 2"),
        (["pd"], "0.9;0.8", "expected numbers with commas"),
        (["pd"], "", "expected numbers with commas"),
    ],
)
def test_wrong_options_are_refused(sweep: list[str], levels: str | None, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        _axes(sweep, levels)


def test_options_become_levels() -> None:
    assert _axes(["pd", "gap"], None) == {"pd": None, "gap": None}
    assert _axes(["pd"], "0.9, .5") == {"pd": [0.9, 0.5]}
    assert _axes([], None) == {}


def test_batch_says_that_it_has_no_sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(monkeypatch, "batch", "logs", "--sweep", "pd") == 2
    assert "batch sweeps nothing; sweep logs together with `ssrtrack evaluate" in capsys.readouterr().err


def test_training_data_is_scored_only_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simple_log(tmp_path / "log.h5", flights=16)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "train", "imm", "--estimator", "kf", "-l", "log.h5", "-o", "kf.toml") == 0
    for command in (["evaluate", "log.h5"], ["batch", "log.h5", "--workers", "0"]):
        both = [*command, "-t", "kf.toml", "-o"]
        assert run_here(monkeypatch, *both, f"{command[0]}-1") == 1
        assert "--force-training-data" in capsys.readouterr().err
        assert run_here(monkeypatch, *both, f"{command[0]}-2", "--force-training-data") == 0
