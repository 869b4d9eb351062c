"""`ssrtrack train koss`, `gka` and `residual`: every option says one thing of the network, every block runs."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ssrtrack.cli.train import train
from ssrtrack.errors import CheckpointError, SsrtrackError, TrainingError
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.models.residual_blocks import parameters_of
from ssrtrack.models.residual_config import SIZES
from ssrtrack.models.residual_inputs import base_history
from ssrtrack.models.residual_loss import residual_loss
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.training import loop, loop_data, loop_graph, loop_koss
from ssrtrack.training.flown_simulated import simulated_flights
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.loop_model import LOSSES, config_of, new_model
from ssrtrack.training.loop_recipe import Recipe
from tests.training_fixture import ALONE, TEXT, imm, plan, scenario

QUICK = ["--steps", "2", "--batch", "4", "--window", "30", "--size", "tiny", "--workers", "0", "--base", "imm3"]


@pytest.fixture(autouse=True)
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_data, "HELD_OUT", 6)
    monkeypatch.setattr(loop_data, "HELD_OUT_PLOTS", 30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.toml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(train, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


# What is typed -> what of the recipe is not as without it.
NETWORKS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "nothing": (["koss"], {}),
    "size": (["koss", "--size", "medium"], {"size": "medium"}),
    "width and layers": (["koss", "--width", "128", "--layers", "3"], {"network": {"width": 128, "blocks": 3}}),
    "history": (["koss", "--history", "0"], {"network": {"history": 0}}),
    "operator": (["koss", "--operator", "bucy"], {"network": {"options": {"operator": "bucy"}}}),
    "segments": (
        ["koss", "--segment", "8", "--passes", "2"],
        {"network": {"options": {"segment": 8, "passes": 2}}},
    ),
    "derivative": (["koss", "--derivative", "causal"], {"network": {"options": {"derivative": "causal"}}}),
    "heads": (["koss", "--heads", "2"], {"network": {"head": 32}}),
    "heads of a width": (["koss", "--heads", "3", "--width", "96"], {"network": {"head": 32, "width": 96}}),
    "states": (["koss", "--states", "8"], {"network": {"states": 8}}),
    "prediction": (["koss", "--see-prediction"], {"network": {"options": {"see_prediction": True}}}),
    "innovation off": (["koss", "--no-innovation"], {"network": {"options": {"innovate": False}}}),
    "input gain off": (["koss", "--no-input-gain"], {"network": {"options": {"input_gain": False}}}),
    "base off": (["koss", "--no-residual"], {"network": {"residual": False}}),
    "true time off": (["koss", "--nominal-time"], {"network": {"timed": False}}),
    "loss": (["koss", "--loss", "mse"], {"loss": "mse"}),
    "gka": (["gka"], {"network": {"block": "gka"}}),
    "gka's own": (
        ["gka", "--key", "16", "--heads", "1", "--hidden", "0", "--iterations", "10", "--no-alpha", "--ridge", "0.05"],
        {
            "network": {
                "block": "gka",
                "options": {"head": 16, "heads": 1, "hidden": 0, "steps": 10, "alpha": False, "ridge": 0.05},
            }
        },
    ),
    "gru": (["residual", "--block", "gru"], {"network": {"block": "gru"}}),
    "a peer's own": (
        ["residual", "--block", "transformer", "--option", "plots=8", "--option", "heads=2", "--no-residual"],
        {"network": {"block": "transformer", "options": {"plots": 8, "heads": 2}, "residual": False}},
    ),
    "a word, a switch": (
        ["residual", "--block", "koss", "--option", "operator=bucy", "--option", "innovate=false"],
        {"network": {"block": "koss", "options": {"operator": "bucy", "innovate": False}}},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_option_says_what_it_names_and_nothing_else(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, changed = NETWORKS[name]
    recipes: list[Recipe] = []

    def caught(_: Any, recipe: Recipe, *__: Any, **___: Any) -> loop_koss.Outcome:
        recipes.append(recipe)
        return loop_koss.Outcome()

    monkeypatch.setattr(loop_koss, "train_koss", caught)
    call(*arguments, "-s", "small.toml")
    (recipe,) = recipes
    assert recipe == replace(Recipe(), **changed)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    config, plain = config_of(recipe.size, recipe.network), config_of(recipe.size)
    named = set(changed.get("network", {}))
    differs = {key for key, value in asdict(config).items() if value != asdict(plain)[key]}
    # A block that is made as large as KOSS says so among its options.
    knobs = {"options"} if config.block != "koss" else set()
    assert recipe.size != "small" or differs - knobs <= named <= differs | {"block"}


@pytest.mark.parametrize(
    "command", [["gka", "--key", "8"], *(["residual", "--block", b] for b in ("gru", "s6", "transformer"))]
)
def test_every_block_trains_and_is_scored(command: list[str], folder: Path) -> None:
    said = call(*command, "-s", "small.toml", "-o", "run", *QUICK)
    assert "nan" not in said and "step 2," in said and "evaluate LOG -t imm -t run" in said
    area = scenario()
    about = Provenance(command="", epoch=area.epoch, software_version="0", created="2025-06-01T00:00:00Z")
    with LogWriter(folder / "test.h5", about, radars(area)) as writer:
        for plots, truth in simulate(replace(area, duration_s=300.0), 99):
            writer.append_plots(plots)
            writer.append_truth(truth)
    scores = evaluate([folder / "test.h5"], ["imm3", "run"], bootstrap=10).trackers
    ratio = scores[1].ratio["position_rmse_m"][0]
    assert 0.8 < ratio < 1.2 and ratio != 1.0
    kept = json.loads((folder / "run" / "model.json").read_text())
    block = command[2] if command[0] == "residual" else "gka"
    assert (kept["architecture"]["kind"], kept["architecture"]["block"]) == ("residual", block)
    assert kept["training"]["network"]["block"] == block
    before = (folder / "run" / "steps.csv").read_text()
    (folder / "run" / "last.safetensors").unlink()
    call(command[0], "--resume", "run", "--workers", "0")
    assert (folder / "run" / "steps.csv").read_text() == before


REFUSED: dict[str, tuple[list[str], str]] = {
    "no block": (["residual", "--block", "lstm"], "block is 'lstm', expected one of koss, gka, gru, s6, transformer"),
    "no option": (["residual", "--block", "gru", "--option", "plots=3"], "block gru has no option 'plots'"),
    "no operator": (["koss", "--operator", "magic"], "magic"),
    "looking ahead": (["koss", "--derivative", "spectral"], "looks ahead"),
    "a state too large": (["gka", "--key", "128"], r"a track's state would take .* octets, at most 64,000"),
    "no loss": (["koss", "--loss", "mae"], "loss is 'mae', expected one of nll"),
    "no time": (["residual", "--block", "gru", "--nominal-time"], "says nothing of gru"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_network_is_made_of_is_refused_before_anything_is_written(name: str, folder: Path) -> None:
    arguments, words = REFUSED[name]
    with pytest.raises(SsrtrackError, match=words):
        call(*arguments, "-s", "small.toml", "-o", "run", "--workers", "0")
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["koss", "--heads", "3"], "does not part a width of 64 evenly"),
        (["residual", "--block", "gru", "--option", "inner"], "expected NAME=VALUE"),
    ],
)
def test_what_is_typed_wrong_is_named(arguments: list[str], words: str, folder: Path) -> None:
    done = CliRunner().invoke(train, [*arguments, "-s", "small.toml"], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and words in " ".join(done.output.split())


def test_a_size_is_a_number_of_weights() -> None:
    """Whatever the width, the layers and the block; a KOSS that sees its prediction has some more."""
    for network in ({}, {"width": 96, "head": 32}, {"blocks": 3}):
        wanted = parameters_of(config_of("small", network))
        for block in ("gka", "gru", "s6", "transformer"):
            assert parameters_of(config_of("small", {**network, "block": block})) == pytest.approx(wanted, rel=0.011)
    more = parameters_of(config_of("small", {"options": {"see_prediction": True}}))
    assert more == parameters_of(SIZES["small"]) + 2 * 64 * 64
    with pytest.raises(TrainingError, match=r"network names .'deep'"):
        config_of("small", {"deep": 3})


def test_each_loss_is_of_what_it_names() -> None:
    """Without likelihood nothing is learned of the covariance, without squares only the likelihood counts."""
    bank = imm()
    with simulated_flights(plan(), workers=0) as flights:
        flown = to_flown(flights.windows(0))
    history, model = base_history(bank, flown), new_model("tiny", bank, 4.0, 1)
    outputs = model(history, flown)
    found = {name: residual_loss(outputs, flown, weights) for name, weights in LOSSES.items()}
    parts = {name: float(value) for name, value in found["nll+mse"].parts.items()}
    squares, likelihood = ({n: v for n, v in parts.items() if ("nll" in n) is own} for own in (False, True))
    for name, kept in (("nll", likelihood), ("mse", squares), ("nll+mse", parts)):
        total = sum(v * (0.25 if n.startswith("ahead") else 1.0) for n, v in kept.items())
        assert float(found[name].total.detach()) == pytest.approx(total, rel=1e-5)
    (gradient,) = torch.autograd.grad(found["mse"].total, [model.filter_head.bias], retain_graph=True)
    assert float(gradient[:4].abs().max()) > 0.0 and float(gradient[4:14].abs().max()) == 0.0
    (gradient,) = torch.autograd.grad(found["nll"].total, [model.filter_head.bias])
    assert float(gradient[4:14].abs().max()) > 0.0


def test_a_training_follows_the_loss_of_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(loop_graph, "loss_of", lambda *given: seen.append(given[4]) or loop.loss_of(*given))
    for name in LOSSES:
        recipe = Recipe(size="tiny", steps=1, batch=4, window=20, loss=name)
        with simulated_flights(replace(plan(), batch=4, length=20), workers=0) as flights:
            bank = imm()
            loop.Training(recipe, new_model("tiny", bank, 4.0, 1), bank, flights, None, ALONE)._step(1e-3)
    assert seen == list(LOSSES.values())


def test_a_recipe_of_before_there_were_networks_is_read() -> None:
    old = {k: v for k, v in Recipe(steps=3).to_dict().items() if k not in ("network", "loss")}
    assert Recipe.from_dict(old) == Recipe(steps=3)
    with pytest.raises(CheckpointError, match="the saved recipe names"):
        Recipe.from_dict({k: v for k, v in old.items() if k != "seed"})
