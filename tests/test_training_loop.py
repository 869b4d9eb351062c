"""The loop: it begins at the base filter, gets better than it, stops at a bad gradient, and can be resumed exactly."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssrtrack.errors import CheckpointError, TrainingError
from ssrtrack.models.provenance import Sources
from ssrtrack.models.residual_inputs import Flown
from ssrtrack.training import loop, loop_graph
from ssrtrack.training.flown_simulated import held_out_flights, simulated_flights
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.loop import Report, Training, Watch
from ssrtrack.training.loop_ahead import Batches, Flights
from ssrtrack.training.loop_broken import broken_step
from ssrtrack.training.loop_folder import RunFolder, new_folder
from ssrtrack.training.loop_model import groups, loss_of, new_model
from ssrtrack.training.loop_recipe import LAST_RATE, Recipe
from ssrtrack.training.loop_store import Store
from ssrtrack.training.loop_validation import HeldOut, held_out
from ssrtrack.training.resume import write_state
from tests.training_fixture import ALONE, imm, plan

SHORT = Recipe(size="tiny", steps=12, batch=8, window=40, validate_every=5, warmup=0.2)


@pytest.fixture(scope="module")
def validation() -> HeldOut:
    windows = held_out_flights(plan(length=60), 32)
    bank = imm()
    return held_out(to_flown(windows), windows.flight, bank, bank)


def training(recipe: Recipe, validation: HeldOut | None, **parts: Any) -> Training:
    with simulated_flights(replace(plan(), batch=recipe.batch, length=recipe.window), workers=0) as flights:
        bank = imm()
        return Training(recipe, new_model("tiny", bank, 4.0, recipe.seed), bank, flights, validation, ALONE, **parts)


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_begins_at_the_base_filter_and_beats_it(validation: HeldOut) -> None:
    reports: list[Report] = []
    recipe = Recipe(size="tiny", steps=40, batch=16, window=40, validate_every=20, learning_rate=1e-2)
    training(recipe, validation, watch=Watch(validated=reports.append)).run()
    assert [r.step for r in reports] == [0, 20, 40]
    assert reports[0].ratio == pytest.approx((1.0, 1.0), abs=1e-6)
    assert max(reports[-1].ratio) < 0.995
    assert reports[-1].score < reports[1].score < 0.0 and reports[-1].score < -0.02
    assert reports[-1].row()["reference_position_rmse_m"] == validation.reference.position_rmse_m


def test_the_learning_rate_rises_and_falls() -> None:
    r = Recipe(steps=1000, learning_rate=1.0, warmup=0.1)
    rates = [r.rate(r.progress(k, 0.0), k) for k in range(1001)]
    assert rates[0] < 0.06 and np.argmax(rates) == 100 and rates[100] > 0.97
    assert (np.diff(rates[100:]) < 0).all() and rates[1000] == pytest.approx(LAST_RATE)
    # A run by minutes may be over half its time at its second step.
    assert Recipe(minutes=1.0).rate(0.5, 1) <= 0.1 * Recipe().learning_rate
    by_time = Recipe(minutes=2.0)
    assert [by_time.progress(10**6, s) for s in (0.0, 60.0, 500.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"minutes": nan}, "minutes is nan"),
        ({"steps": 0, "minutes": 0.0}, "both steps and minutes are 0"),
        ({"window": 4}, "window is 4, expected a number from 16 to 10000"),
        ({"window": 10**8}, "window is 100000000"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"learning_rate": inf}, "learning_rate is inf"),
        ({"dtype": "float16"}, "'float16'.*bf16"),
    ],
)
def test_a_recipe_out_of_range_is_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        Recipe(**values)


def test_recipes_survive_json() -> None:
    recipe = Recipe(steps=7, base="kf", learning_rate=1e-3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for damaged in (None, {}, {**recipe.to_dict(), "more": 1}):
        with pytest.raises(CheckpointError, match="the saved recipe"):
            Recipe.from_dict(damaged)


@dataclass(frozen=True)
class Poisoned:
    """Flights of which one plot, of batch number `at`, has no range."""

    flights: Flights
    at: int

    def windows(self, k: int) -> Flown:
        batch = self.flights.windows(k)
        flown = batch if isinstance(batch, Flown) else to_flown(batch)
        if k == self.at:
            flown.range_m[2, 5] = nan
        return flown


def test_what_is_not_finite_stops_the_run_at_once_and_is_kept(tmp_path: Path, validation: HeldOut) -> None:
    """What was saved before stays as it was; the step can be taken again from the file."""
    folder = new_folder(tmp_path / "run", {}, force=False)
    run = training(SHORT, validation, folder=folder)
    run.watch = Watch(best=Store(folder.path, run.bank, {}, Sources()).keep)
    run.flights, step = Poisoned(run.flights, 7), run._step
    saved: dict[str, bytes] = {}
    weights: dict[str, torch.Tensor] = {}
    run._batches = Batches(run.flights, run.bank, ALONE.device)

    def saving(rate: float) -> float:
        if run.at.step == 6:
            run._save()
            saved.update({p.name: p.read_bytes() for p in folder.path.iterdir()})
        if run.at.step == 7:
            weights.update({name: value.clone() for name, value in run.model.state_dict().items()})
        return step(rate)

    run._step = saving  # type: ignore[method-assign]
    told = r"loss of step 8 is not finite .*bad-batch-8\.npz; .*broken_step.*--resume \S*run --learning-rate 0\.0027"
    with pytest.raises(TrainingError, match=told):
        run.run()
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
    there = {p.name: p.read_bytes() for p in folder.path.iterdir()}
    assert set(there) == set(saved) | {"bad-batch-8.npz"} and {"last.safetensors", "model.json"} <= set(saved)
    assert [name for name in saved if there[name] != saved[name]] == ["steps.csv"]  # which has grown
    assert [row["step"] for row in losses(folder.path)] == [str(k) for k in range(1, 9)]
    assert losses(folder.path)[-1]["loss"] == "nan"

    model, base, flown = broken_step(folder.path / "bad-batch-8.npz")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(flown.position_m, run.flights.windows(7).position_m)
    assert torch.isnan(flown.range_m[2, 5]) and not torch.isfinite(loss_of(model, base, flown)[0])
    (folder.path / "bad-batch-9.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"bad-batch-9\.npz: holds no batch"):
        broken_step(folder.path / "bad-batch-9.npz")

    again = training(SHORT, validation, folder=RunFolder(folder.path))
    again.resume()
    assert again.at.step == 6 and len(losses(folder.path)) == 6
    again.run()
    assert again.at.step == 12


def test_a_gradient_alone_stops_a_run_without_a_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = training(SHORT, None), loss_of

    def steep(model: nn.Module, *given: Any) -> Any:
        loss, plots = real(model, *given)
        if run.at.step == 2:  # the root of 0 has no slope
            loss = loss + (0.0 * next(model.parameters())).sum().abs().sqrt()
        return loss, plots

    monkeypatch.setattr(loop_graph, "loss_of", steep)
    with pytest.raises(TrainingError, match=r"gradient of step 3 is not finite \(loss .*\d.*nan\).*Begin anew"):
        run.run()
    assert run.at.step == 2 and all(torch.isfinite(p).all() for p in run.model.parameters())


def test_a_state_that_counted_steps_left_out_is_read(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run", {}, force=False)
    run = training(replace(SHORT, steps=2), None, folder=folder)
    run.run()
    write_state(folder.state, run.model, run.optimizer, {**run.at.facts(), "skipped": 3}, folder.run)
    run.resume()
    assert run.at.step == 2


def test_a_run_stops_when_nothing_gets_better(validation: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(replace(SHORT, steps=400, validate_every=2, patience=3, learning_rate=1e-12), validation)
    run.run()
    assert run.at.step == 2 * (run.at.best_step // 2 + 3) and run.at.step < 40


def test_bf16_trains(validation: HeldOut) -> None:
    reports: list[Report] = []
    training(replace(SHORT, dtype="bf16", learning_rate=5e-3), validation, watch=Watch(validated=reports.append)).run()
    assert reports[0].ratio == pytest.approx((1.0, 1.0), abs=1e-3) and reports[-1].score < 0.0


def test_a_model_is_judged_in_the_precision_in_which_it_will_be_used(validation: HeldOut) -> None:
    run = training(replace(SHORT, dtype="bf16", learning_rate=5e-3), validation)
    run.run()
    alone = replace(run, recipe=replace(SHORT, learning_rate=5e-3)).report_on(run.model)
    assert run.report_on(run.model).ratio == alone.ratio


# --- resuming ---


def test_a_stopped_run_goes_on_exactly(tmp_path: Path, validation: HeldOut) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training(SHORT, validation, folder=new_folder(whole, {}, force=False)).run()
    first = training(SHORT, validation, folder=new_folder(parts, {}, force=False))
    step = first._step

    def seven(rate: float) -> float:
        if first.at.step == 7:
            first._save()
            raise KeyboardInterrupt
        return step(rate)

    first._step = seven  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = training(SHORT, validation, folder=RunFolder(parts))
    second.resume()
    assert second.at.step == 7
    second.run()
    assert losses(parts) == losses(whole) and len(losses(whole)) == 12
    tables = [(f / "progress.csv").read_text().splitlines() for f in (whole, parts)]
    # All but the seconds.
    assert len({tuple(row[:1] + row[2:] for row in map(tuple, csv.reader(t))) for t in tables}) == 1
    assert len(tables[0]) == 5


KILLED = """
import sys
from pathlib import Path
from ssrtrack.training import loop, loop_graph
from tests.test_training_loop import SHORT, RunFolder, new_folder, replace, training
import torch
torch.set_num_threads(1)
loop.SAVE_S = 0.0
folder, resumed = Path(sys.argv[1]), len(sys.argv) > 2
opened = RunFolder(folder) if resumed else new_folder(folder, {}, force=False)
run = training(replace(SHORT, steps=25), None, folder=opened)
if resumed:
    run.resume()
    print(run.at.step)
run.run()
"""


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run that saves all the time, against a run left alone."""

    def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [sys.executable, "-c", KILLED, str(folder), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    killed = start(tmp_path / "killed")
    _wait_for_rows(tmp_path / "killed", 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    seen = len(losses(tmp_path / "killed"))
    again = start(tmp_path / "killed", "resume")
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    training(replace(SHORT, steps=25), None, folder=new_folder(tmp_path / "alone", {}, force=False)).run()
    assert 0 < int(out) < 25 and seen < 25
    assert losses(tmp_path / "killed") == losses(tmp_path / "alone")


def _wait_for_rows(folder: Path, least: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(2400):
        if (folder / "steps.csv").exists() and len(losses(folder)) >= least:
            return
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.02)
    pytest.fail("no steps within 48 s")


def test_a_saved_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run", {}, force=False)
    run = training(replace(SHORT, steps=2), None, folder=folder)
    run.run()
    state = folder.state.read_bytes()
    bank = imm()
    other = Training(SHORT, new_model("small", bank, 4.0, 1), bank, run.flights, None, ALONE, folder)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        other.resume()
    for damaged in (b"", state[:100], state[: len(state) // 2], b"x" * 1000, state[:8] + b"[" + state[9:]):
        folder.state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            training(SHORT, None, folder=folder).resume()
    foreign = {"a": torch.zeros(2)}
    save_file(foreign, str(folder.state))
    with pytest.raises(CheckpointError, match="found format None"):
        training(SHORT, None, folder=folder).resume()


def test_a_full_disk_is_named_and_the_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills in the middle of a row, when a state has been saved before."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training(SHORT, None, folder=new_folder(whole, {}, force=False)).run()
    monkeypatch.setattr(loop, "SAVE_S", 0.0)
    folder = new_folder(parts, {}, force=False)
    run, flush = training(SHORT, None, folder=folder), folder.flush

    def filling() -> None:
        if run.at.step < 6:
            flush()
        else:
            with (parts / "steps.csv").open("a") as file:
                file.write(f"{run.at.step},0.1")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "flush", filling)
    with pytest.raises(TrainingError, match=r"parts: cannot be written \(No space left.*--resume"):
        run.run()
    again = training(SHORT, None, folder=RunFolder(parts))
    again.resume()
    assert again.at.step == 5
    again.run()
    assert losses(parts) == losses(whole)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run", {}, force=False)
    run = training(replace(SHORT, steps=2), None, folder=folder)
    run.run()
    state = folder.state.read_bytes()
    rng = np.random.default_rng(0)
    for at in [10, 200, len(state) - 1, *rng.integers(len(state), size=20)]:
        folder.state.write_bytes(state[:at] + bytes([state[at] ^ 4]) + state[at + 1 :])
        with pytest.raises(CheckpointError):
            run.resume()


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    one, other = (new_folder(tmp_path / name, {"recipe": name}, force=False) for name in ("a", "b"))
    run = training(replace(SHORT, steps=1), None, folder=one)
    run.run()
    other.state.write_bytes(one.state.read_bytes())
    with pytest.raises(CheckpointError, match=r"state of another run than config\.json"):
        training(SHORT, None, folder=other).resume()


@pytest.mark.parametrize("text", ["step,loss\nx,1\n", "a,b\n1,2\n", "step,loss\n\0\0,\0\n"])
def test_a_damaged_table_is_named_and_the_run_goes_on_without_it(text: str, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run", {}, force=False)
    run = training(replace(SHORT, steps=2), None, folder=folder)
    run.run()
    (folder.path / "steps.csv").write_text(text)
    with pytest.raises(CheckpointError, match=r"steps\.csv: damaged .* move it elsewhere"):
        run.resume()
    (folder.path / "steps.csv").unlink()
    run.resume()
    assert run.at.step == 2


def test_biases_and_time_constants_do_not_decay() -> None:
    model = new_model("tiny", imm(), 4.0, 1)
    names = {id(p): name for name, p in model.named_parameters()}
    decaying, free = ([names[id(p)] for p in group["params"]] for group in groups(model, 0.1))
    assert len(decaying) + len(free) == len(names)
    assert not [n for n in decaying if n.rsplit(".", 1)[-1] in ("bias", "b1", "log_rate", "skip", "gain_gap")]
    assert {n.rsplit(".", 1)[-1] for n in decaying} == {"weight", "w1", "w2", "taps"}
