"""`ssrtrack evaluate --sweep` as a person uses it."""

import json
from pathlib import Path

import pytest
import typer

from ssrtrack.cli.evaluate import _axes
from tests.scoring_fixture import simple_log
from tests.test_cli import ssrtrack


def test_sweeps_go_to_the_terminal_the_page_and_the_json(tmp_path: Path) -> None:
    simple_log(tmp_path / "log.h5")
    done = ssrtrack(
        "evaluate", "log.h5", "-t", "kf", "-t", "imm", "--sweep", "sigma", "--levels", "2,4", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "sigma 1 … 4" in done.stdout and "breaks at" in done.stdout
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["sweeps"]["sigma"]
    assert found["levels"] == [1, 2, 4] and found["reference"] == "imm" and list(found["trackers"]) == ["kf", "imm"]
    assert 'id="sweep-sigma"' in (tmp_path / "out" / "report.html").read_text()
    wrong = ssrtrack("evaluate", "log.h5", "--sweep", "speed", "-o", "other", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: no axis ['speed'] to sweep; known: pd, ") and wrong.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()


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
