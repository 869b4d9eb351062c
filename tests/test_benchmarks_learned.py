"""The script that trains learned trackers side by side: models as written, rows as measured, none of a failed run."""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import train_learned_gpu as script  # noqa: E402

from ssrtrack.models.load import load_tracker  # noqa: E402
from ssrtrack.simulators.suite import list_suite  # noqa: E402
from ssrtrack.training import device_spread, flown_simulated, loop_data  # noqa: E402
from ssrtrack.training.loop_model import config_of  # noqa: E402
from ssrtrack.training.loop_recipe import Recipe  # noqa: E402


def given(runs: Path, **changes: Any) -> argparse.Namespace:
    told = {"batch": 4, "size": "tiny", "dtype": "float32", "window": 20, "runs": runs, "device": "cpu", "steps": 2}
    return argparse.Namespace(**{**told, "side": 1, "seconds": 60.0, **changes})


MODELS: dict[str, dict[str, Any]] = {
    "koss": {"learning_rate": 5e-3, "network": {}},
    "koss:see_prediction=true,segment=4": {"network": {"options": {"see_prediction": True, "segment": 4}}},
    "gka:head=16": {"network": {"block": "gka", "options": {"head": 16}}, "learning_rate": 3e-3},
    "koss:head=16": {"network": {"head": 16}},
    "gru:learning_rate=1e-3,loss=nll,batch=8": {"network": {"block": "gru"}, "learning_rate": 1e-3, "loss": "nll"},
    "koss:residual=false,width=96": {"network": {"residual": False, "width": 96}},
}


def test_ablations_are_models_each_of_its_own(tmp_path: Path) -> None:
    jobs = [script.job_of(text, 1, given(tmp_path)) for text in script.ABLATIONS]
    recipes = [json.dumps([script.recipe_of(job).to_dict(), job["flights"]], sort_keys=True) for job in jobs]
    assert len(set(recipes)) == len(recipes) == len({job["folder"] for job in jobs})
    for job in jobs:
        recipe = script.recipe_of(job)
        config_of(recipe.size, recipe.network)


@pytest.mark.parametrize("text", MODELS)
def test_models_are_what_is_written(text: str, tmp_path: Path) -> None:
    job = json.loads(json.dumps(script.job_of(text, 3, given(tmp_path))))
    recipe = script.recipe_of(job)
    for name, value in MODELS[text].items():
        assert getattr(recipe, name) == value
    assert (recipe.seed, recipe.steps, recipe.minutes, recipe.window) == (3, 2, 0.0, 20)
    assert recipe.batch == (8 if "batch" in text else 4)
    assert Path(job["folder"]).parent == tmp_path and ":" not in Path(job["folder"]).name


def test_a_seed_and_the_flights_are_of_that_model_alone(tmp_path: Path) -> None:
    job = script.job_of("koss:width=96,seed=2,blocks=2,suite_share=0", 1, given(tmp_path))
    assert (job["model"], job["recipe"]["seed"]) == ("koss:width=96,blocks=2,suite_share=0", 2)
    assert job["flights"] == {"suite_share": 0} and job["recipe"]["network"] == {"width": 96, "blocks": 2}
    assert script.job_of("koss:seed=4", 1, given(tmp_path))["model"] == "koss"


@pytest.mark.parametrize("text", ["lstm", "koss:speed=3", "koss:segment", "gru:segment=2"])
def test_models_that_are_none_are_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model '.*(no block|no key=value)"):
        script.job_of(text, 1, given(tmp_path))


def test_time_that_is_left_is_trained(tmp_path: Path) -> None:
    job = script.job_of("koss", 1, given(tmp_path, steps=0))
    recipe = script.recipe_of(job | {"until": time.time() + script.SPENT_S + 120.0})
    assert recipe.steps == 0 and recipe.minutes == pytest.approx(2.0, abs=0.1)
    with pytest.raises(ValueError, match="give more --seconds"):
        script.recipe_of(job | {"until": time.time() + script.SPENT_S})


def test_a_model_is_trained_scored_and_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flown_simulated, "BLOCK_PLOTS", 3000)
    monkeypatch.setattr(device_spread, "PLANNED", 64)
    monkeypatch.setattr(loop_data, "HELD_OUT", 16)
    monkeypatch.setattr(loop_data, "HELD_OUT_PLOTS", 30)
    job = script.job_of("s6:states=4,seed=7", 1, given(tmp_path))
    assert job["recipe"]["seed"] == 7 and job["folder"].endswith("-7")  # its own, not all the others'
    row = script.worked(job)
    assert set(row) <= set(script.COLUMNS) and (row["steps"], row["block"], row["seed"]) == (2, "s6", 7)
    ratios = [float(row[name]) for name in script.COLUMNS if "over_best_imm" in name]
    # Two steps from the base filter: as honest as that is on what it was tuned on.
    assert all(0.5 < float(row[f"anees_{name}"]) < 2.5 for name in list_suite())
    assert all(0.85 < float(row[f"coverage_{name}"]) < 1.0 for name in list_suite())
    assert all(0.5 < float(row[f"coverage_{name}"]) <= 1.0 for name in loop_data.BESIDE_SUITE)
    assert len(ratios) == 14 and all(0.5 < ratio < 2.0 for ratio in ratios)
    assert 2.0 / float(row["steps_per_s"]) == pytest.approx(row["training_s"], abs=0.06)
    tracker: Any = load_tracker(job["folder"])
    assert sum(p.numel() for p in tracker.model.parameters()) == row["weights"]
    assert "by setting" in Path(job["folder"] + ".log").read_text()
    # Of a run that did not begin at its base filter nothing is told.
    progress = Path(job["folder"]) / "progress.csv"
    with progress.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0]["velocity_rmse_mps"] = str(1.01 * float(rows[0]["velocity_rmse_mps"]))
    with progress.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    outcome = script.Outcome(report=object())  # type: ignore[arg-type]
    wrong = script.measured(Path(job["folder"]), outcome, Recipe())
    assert wrong == {"note": "untrained it was 1.0e-02 off its base filter; not scored"}


@pytest.mark.parametrize(
    ("code", "note"), [("raise SystemExit(3)", "ended with 3"), ("import time; time.sleep(60)", "was late and ended")]
)
def test_a_process_that_fails_or_is_late_has_a_row_that_says_so(code: str, note: str, tmp_path: Path) -> None:
    job = script.job_of("koss", 1, given(tmp_path, steps=0)) | {"until": time.time() - script.GRACE_S + 0.3}
    if "Exit" in code:
        job["until"] += 60.0
    process = subprocess.Popen([sys.executable, "-c", code])
    row = script.finished(job, process)
    assert process.poll() is not None
    assert row == {"model": "koss", "seed": 1, "note": f"{note}; see its log"}


def test_all_of_the_table_is_written_round_by_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of one round share the card; a failed one does not end the others."""
    begun, kept = [], []

    def begin(job: dict[str, Any], number: int) -> Any:
        begun.append((job["model"], number, len(kept)))
        ok = job["model"] != "gru"
        if ok:
            Path(job["folder"] + ".json").write_text(json.dumps({"model": job["model"], "seed": 1}))
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({int(not ok)})"])

    monkeypatch.setattr(script, "begun", begin)
    monkeypatch.setattr(script, "write_csv", lambda path, rows, told: kept.append([row["model"] for row in rows]))
    options = ["--device", "cpu", "--models", "koss", "gru", "s6", "--side", "2", "--runs", str(tmp_path)]
    assert script.main(options) == 1
    assert begun == [("koss", 0, 0), ("gru", 1, 0), ("s6", 0, 1)]
    assert kept == [["koss", "gru"], ["koss", "gru", "s6"]]
