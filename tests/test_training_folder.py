"""A run's folder: nothing in it is lost unasked, and one process alone writes there."""

from pathlib import Path

import pytest

from ssrtrack.errors import CheckpointError, TrainingError
from ssrtrack.training.loop_folder import new_folder, open_folder, sole_use


def test_a_folder_in_use_is_neither_replaced_nor_shared(tmp_path: Path) -> None:
    run = new_folder(tmp_path / "run", {}, force=False)
    with sole_use(run.path):
        for attempt in (lambda: new_folder(run.path, {}, force=True), lambda: sole_use(run.path).__enter__()):
            with pytest.raises(TrainingError, match="another process trains in it"):
                attempt()
    new_folder(run.path, {}, force=True)


def test_a_folder_is_never_overwritten_unasked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    new_folder(run, {"a": 1}, force=False)
    assert open_folder(run)[1] == {"a": 1}
    with pytest.raises(TrainingError, match=r"holds a run\).*--resume"):
        new_folder(run, {}, force=False)
    (run / "steps.csv").write_text("step\n1\n")
    new_folder(run, {"b": 2}, force=True)
    assert open_folder(run)[1] == {"b": 2} and not (run / "steps.csv").exists()
    (run / "thesis.tex").write_text("years of work")
    for force in (True, False):
        with pytest.raises(TrainingError):
            new_folder(run, {}, force=force)
    assert (run / "thesis.tex").read_text() == "years of work" and open_folder(run)[1] == {"b": 2}
    with pytest.raises(TrainingError, match="is a file"):
        new_folder(run / "thesis.tex", {}, force=True)
    with pytest.raises(TrainingError, match="holds no run"):
        open_folder(tmp_path)
    for damaged in ("{", "[]"):
        (run / "config.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            open_folder(run)
