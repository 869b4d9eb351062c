"""The loop: it begins at the base filter, gets better than it, survives bad gradients, and can be resumed exactly."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssrtrack.errors import CheckpointError, TrainingError
from ssrtrack.training import loop, loop_graph
from ssrtrack.training.flown_simulated import held_out_flights, simulated_flights
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.loop import Report, Training, Watch
from ssrtrack.training.loop_folder import RunFolder, new_folder, open_folder, sole_use
from ssrtrack.training.loop_model import groups, new_model
from ssrtrack.training.loop_recipe import LAST_RATE, Recipe
from ssrtrack.training.loop_validation import HeldOut, held_out
from tests.training_fixture import ALONE, imm, plan

SHORT = Recipe(size="tiny", steps=12, batch=8, window=40, validate_every=5, warmup=0.2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of a few microseconds' work wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def test_a_bad_gradient_is_skipped_and_many_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = training(SHORT, None)
    real, bad = loop_graph.loss_of, {2, 3}

    def sometimes(*arguments: Any) -> Any:
        loss, plots = real(*arguments)
        return loss * (nan if run.at.step in bad else 1.0), plots

    monkeypatch.setattr(loop_graph, "loss_of", sometimes)
    before: dict[int, list[torch.Tensor]] = {}
    step = run._step

    def watched(rate: float) -> float:
        before[run.at.step] = [p.detach().clone() for p in run.model.parameters()]
        return step(rate)

    monkeypatch.setattr(run, "_step", watched)
    run.run()
    same = [all(torch.equal(a, b) for a, b in zip(before[k], before[k + 1], strict=True)) for k in range(11)]
    assert same == [k in bad for k in range(11)] and run.at.skipped == 0
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    bad |= set(range(100))
    with pytest.raises(TrainingError, match="not finite for 20 steps in a row"):
        again = run = training(replace(SHORT, steps=40), None)
        again.run()


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

    alone, killed = start(tmp_path / "alone"), start(tmp_path / "killed")
    _wait_for_rows(tmp_path / "killed", 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    seen = len(losses(tmp_path / "killed"))
    again = start(tmp_path / "killed", "resume")
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and alone.wait(120) == 0
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
