"""Learned trackers of several kinds trained side by side on one GPU, on radars and traffic of all kinds.

    python benchmarks/train_learned_gpu.py --seconds 540 --runs RUNS           (nine minutes, five models)
    python benchmarks/train_learned_gpu.py --models koss "koss:innovate=false" "gru:learning_rate=3e-3" --seed 1 2
    python benchmarks/train_learned_gpu.py --models ablations --output benchmarks/results/ablations.csv

Each model is a process of its own that does what `ssrtrack train … -s spread` does, with as many weights as KOSS of
that size; `--side` of them run at a time, dealt out to the GPUs there are, each for the same time by the wall clock.
All stop so that everything is over `--seconds` after the start: the learning rate has fallen by then, and the best
weights lie in RUNS/NAME-SEED, a folder that `ssrtrack evaluate -t` takes. A process that is late or fails costs its
own row alone; its best weights so far are kept. RUNS/NAME-SEED.log has a line for every validation as it happens.

Before its first step a model must score as its base filter does, or it gets no row. Ratios are of RMSE over the better
of the two tuned IMMs (mixture noise, gate) on each setting of the suite's validation splits, on other traffic under the
suite's radars and on flights of all kinds, on which the best weights were chosen; what a row says of all is of the
suite alone. What a model is worth is what `ssrtrack evaluate` says of it on the test splits. There too: the normalised
error squared over its 4 components, and the share of positions within their 95 % ellipse. Writes
results/train_learned_gpu.csv. Without a GPU `--device cpu --steps 2 --batch 4 --size tiny` does the same.

A model is NAME or NAME:key=value,key=value with a key of the network (width, blocks, residual, timed, ...), of the
training (learning_rate, loss, batch, dtype, ...), of the flights (suite_share) or of the block (see_prediction,
operator, inner, ...); seed=2 there is the seed of that one alone. `ablations` stands for KOSS of the shipped size with
the prediction shown to its gain, under three seeds, and all that it is compared with, one thing of it changed or taken
away at a time; `peers` for the other blocks at that size.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import RESULTS, cuda_device, device, setting, write_csv

from ssrtrack.filters.bank import Bank
from ssrtrack.models.checkpoint import load_run
from ssrtrack.models.load import load_tracker
from ssrtrack.models.residual_blocks import BLOCKS, memory_octets
from ssrtrack.models.residual_config import ResidualConfig
from ssrtrack.models.residual_inputs import base_history
from ssrtrack.simulators.suite import list_suite
from ssrtrack.training.loop import Report
from ssrtrack.training.loop_data import SPREAD, data_of, settings_of
from ssrtrack.training.loop_folder import PROGRESS, STEPS
from ssrtrack.training.loop_koss import Outcome, train_koss
from ssrtrack.training.loop_model import config_of, new_model
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_telling import Telling
from ssrtrack.training.loop_validation import Errors, HeldOut, errors_of, joined, scored

MODELS = ("koss", "gka", "gru", "s6", "transformer")
# Highest learning rates, where a model names none.
RATES = {"koss": 5e-3, "gka": 3e-3, "gru": 4e-3, "s6": 4e-3, "transformer": 2e-3}
WHOLE = "koss:width=128,blocks=4,see_prediction=true"
PEERS = tuple(f"{name}:width=128,blocks=4" for name in MODELS if name != "koss")
ABLATIONS = (
    WHOLE, f"{WHOLE},seed=2", f"{WHOLE},seed=3",
    "koss:width=128,blocks=4", "koss:width=128,blocks=4,innovate=false",
    *(f"{WHOLE},{change}" for change in (
        "derivative=difference", "operator=kalman", "operator=exact", "segment=4", "residual=false", "timed=false",
        "loss=nll", "loss=mse", "input_gain=false", "suite_share=0",
    )),
    "koss:width=64,blocks=4,see_prediction=true", "koss:width=128,blocks=2,see_prediction=true",
)  # fmt: skip
SETS = {"ablations": ABLATIONS, "peers": PEERS}
IMMS = ("imm", "imm-gated")
SETTINGS = settings_of(data_of(SPREAD, [], []))
SPENT_S = 28.0  # of a process's time that is no training: imports, held-out flights, the last look at its weights
GRACE_S = 20.0  # how late a process may be before it is ended
ELLIPSE = -2.0 * log(0.05)  # χ² of two components that 95 % lie below
BASE_OFF = 1e-3  # by how much an untrained model's errors may differ from its base's
COLUMNS = (
    "model", "seed", "block", "network", "loss", "weights", "octets_per_track", "size", "batch", "window",
    "learning_rate", "dtype", "side_by_side", "steps", "best_step", "training_s", "steps_per_s", "plots_per_s",
    *(f"{what}_over_best_imm_{name}" for name in SETTINGS for what in ("position", "velocity")),
    "position_over_best_imm", "velocity_over_best_imm",
    *(f"{what}_{name}" for name in SETTINGS for what in ("anees", "coverage")), "note",
)  # fmt: skip
NETWORK = {f.name for f in fields(ResidualConfig)} - {"options", "block", "modes", "nominal_gap_s"}
TRAINING = {f.name for f in fields(Recipe)} - {"network", "minutes", "steps", "seed"}


def job_of(text: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """A model as it was written, as what its process is told.

    Raises:
        ValueError: a name that is no block, or a key that nobody knows.
    """
    name, _, rest = text.partition(":")
    if name not in BLOCKS:
        raise ValueError(f"model {text!r}: no block {name!r}; known: {', '.join(BLOCKS)}")
    network: dict[str, Any] = {} if name == "koss" else {"block": name}
    recipe: dict[str, Any] = {
        "learning_rate": RATES[name],
        "batch": given.batch,
        "size": given.size,
        "dtype": given.dtype,
    }
    options: dict[str, Any] = {}
    flights: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (v.strip() for v in part.partition("="))
        if key == "seed" and value.isdigit():
            seed, text = int(value), text.replace(part, "").replace(",,", ",").strip(",:")
            continue
        own = key in BLOCKS[name].options  # which goes before what the network calls the same
        where = options if own else network if key in NETWORK else recipe if key in TRAINING else flights
        if not equals or (where is flights and key != "suite_share"):
            raise ValueError(f"model {text!r}: {part!r} is no key=value of network, training, flights or block")
        where[key] = parsed(value)
    recipe |= {"network": network | ({"options": options} if options else {}), "seed": seed, "window": given.window}
    return {
        "model": text, "recipe": recipe, "folder": str(given.runs / f"{plain(text)}-{seed}"), "device": given.device,
        "steps": given.steps, "side": given.side, "flights": flights,
    }  # fmt: skip


def parsed(value: str) -> Any:
    """true, false, a number, or the word itself."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def plain(text: str) -> str:
    """A model's name as a file may be called."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)


def recipe_of(job: dict[str, Any]) -> Recipe:
    """The job's recipe: by steps if it says how many, else by what is left of its time."""
    if job["steps"]:
        return Recipe(**job["recipe"], minutes=0.0, steps=job["steps"])
    left_s = job["until"] - time.time() - SPENT_S
    if left_s < 1.0:
        raise ValueError(f"{left_s:.0f} s are left to train; give more --seconds")
    return Recipe(**job["recipe"], minutes=left_s / 60.0)


def worked(job: dict[str, Any]) -> dict[str, Any]:
    """The row of one model, trained in this process."""
    recipe, folder = recipe_of(job), Path(job["folder"])
    log_file = folder.with_name(folder.name + ".log")

    def tell(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {job['model']} seed {recipe.seed}: {text}"
        print(line, flush=True)
        with log_file.open("a") as file:
            file.write(line + "\n")

    data = replace(data_of(SPREAD, [], []), **job["flights"])
    outcome = train_koss(data, recipe, folder, force=True, device=job["device"], workers=0, telling=Telling(line=tell))
    row = about(job, recipe) | measured(folder, outcome, recipe)
    tell(f"{row['steps_per_s']} steps/s; position {row['position_over_best_imm']}, velocity "
         f"{row['velocity_over_best_imm']} of the better IMM's")  # fmt: skip
    return row


def about(job: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What of a row is known beforehand."""
    config = config_of(recipe.size, recipe.network)
    bank = load_tracker(recipe.base)
    assert isinstance(bank, Bank)
    model = new_model(recipe.size, bank, 5.0, 0, recipe.network)
    return {
        "model": job["model"], "seed": recipe.seed, "block": config.block,
        "network": json.dumps(dict(recipe.network), sort_keys=True), "loss": recipe.loss,
        "weights": sum(p.numel() for p in model.parameters()), "octets_per_track": memory_octets(config),
        "size": recipe.size, "batch": recipe.batch, "window": recipe.window, "learning_rate": recipe.learning_rate,
        "dtype": recipe.dtype, "side_by_side": job["side"],
    }  # fmt: skip


def measured(folder: Path, outcome: Outcome, recipe: Recipe) -> dict[str, Any]:
    """How fast a run was and how good its best weights are; nothing of a run that did not begin at its base filter."""
    report = outcome.report
    assert report is not None
    with (folder / PROGRESS).open(newline="") as file:
        progress = list(csv.DictReader(file))
    if (off := off_base(progress[0])) > BASE_OFF and dict(recipe.network).get("residual", True):
        return {"note": f"untrained it was {off:.1e} off its base filter; not scored"}
    with (folder / STEPS).open() as file:
        steps = sum(1 for _ in file) - 1
    kept = json.loads((folder / "model.json").read_text())["scores"]
    row: dict[str, Any] = {
        "steps": steps, "best_step": int(kept["step"]), "training_s": round(report.seconds, 1),
        "steps_per_s": f"{steps / report.seconds:.4g}",
        "plots_per_s": round(steps * recipe.batch * recipe.window / report.seconds),
    }  # fmt: skip
    logs = []
    for name, pair in zip(SETTINGS, over_best(report), strict=True):
        row |= {
            f"{what}_over_best_imm_{name}": f"{r:.4f}" for what, r in zip(("position", "velocity"), pair, strict=True)
        }
        if name in list_suite():
            logs.append([log(r) for r in pair])
    position, velocity = np.exp(np.mean(logs, 0))
    for name, (anees, share) in zip(SETTINGS, honesty(report.held_out, folder), strict=True):
        row |= {f"anees_{name}": f"{anees:.3f}", f"coverage_{name}": f"{share:.4f}"}
    return row | {"position_over_best_imm": f"{position:.4f}", "velocity_over_best_imm": f"{velocity:.4f}"}


def off_base(first: dict[str, str]) -> float:
    """Largest relative difference between the first validation's errors and the base filter's."""
    names = "position_rmse_m", "velocity_rmse_mps"
    return max(abs(float(first[name]) / float(first[f"base_{name}"]) - 1.0) for name in names)


def over_best(report: Report) -> list[tuple[float, float]]:
    """Position and velocity RMSE over the better IMM's, of every setting."""
    held = report.held_out
    assert held.group is not None
    others = []
    for name in IMMS:
        bank = load_tracker(name)
        assert isinstance(bank, Bank)
        others.append(joined([errors_of(base_history(bank, flown).mean, flown) for flown, _ in held.pieces]))

    def ratio(rows: Any, what: str) -> float:
        def rmse(errors: Errors) -> float:
            return float(getattr(errors.of(rows), what))

        return rmse(report.errors) / min(rmse(other) for other in others)

    groups = [held.group == number for number in np.unique(held.group)]
    return [(ratio(rows, "position_rmse_m"), ratio(rows, "velocity_rmse_mps")) for rows in groups]


def honesty(held: HeldOut, folder: Path) -> list[tuple[float, float]]:
    """ANEES over 4 and the coverage of 95 % ellipses of position, of the best weights on every setting."""
    assert held.group is not None
    sums = []
    for flown, base in held.pieces:
        model = load_run(folder, flown.device).model
        with torch.no_grad():
            said = model(base, flown)
        assert flown.truth is not None
        counts = scored(flown)
        error = torch.where(counts[..., None], said.mean - flown.truth, 0.0)[..., None]
        P = torch.where(counts[..., None, None], said.covariance, torch.eye(4, device=flown.device).double())
        whole, place = ((e * torch.linalg.solve(C, e)).sum((-1, -2))
                        for e, C in ((error, P), (error[..., :2, :], P[..., :2, :2])))  # fmt: skip
        inside = (place <= ELLIPSE) & counts
        sums.append(torch.stack([whole.sum(1) / 4.0, inside.sum(1).double(), counts.sum(1).double()], 1).cpu().numpy())
    of_windows = np.concatenate(sums)
    totals = [of_windows[held.group == number].sum(0) for number in np.unique(held.group)]
    return [(float(nees / count), float(inside / count)) for nees, inside, count in totals]


def begun(job: dict[str, Any], number: int) -> "subprocess.Popen[bytes]":
    """The job's process, the `number`-th of those that run; its row comes in a file beside its folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    if job["device"] == "cuda" and (gpus := torch.cuda.device_count()) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    return subprocess.Popen([sys.executable, __file__, "--job", json.dumps(job)], env=environment)


def finished(job: dict[str, Any], process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The row that a process left, once it has ended or its time is over."""
    late = False
    try:
        limit_s = None if job["steps"] else max(0.0, job["until"] + GRACE_S - time.time())
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        late = True
        process.terminate()
        process.wait(10.0)
    row_file = Path(job["folder"] + ".json")
    if row_file.exists():
        row: dict[str, Any] = json.loads(row_file.read_text())
        return row
    note = "was late and ended" if late else f"ended with {process.returncode}"
    return {"model": job["model"], "seed": job["recipe"]["seed"], "note": f"{note}; see its log"}


def run_all(jobs: list[dict[str, Any]], given: argparse.Namespace, shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of all jobs, `--side` of them at a time; the table is written after each of these rounds."""
    rows: list[dict[str, Any]] = []
    rounds = [jobs[n : n + given.side] for n in range(0, len(jobs), given.side)]
    end = time.time() + given.seconds
    for number, some in enumerate(rounds):
        until = time.time() + (end - time.time()) / (len(rounds) - number)
        for job in some:
            job["until"] = until
        started = [(job, begun(job, n)) for n, job in enumerate(some)]
        rows += [finished(job, process) for job, process in started]
        write_csv(given.output, [{c: row.get(c, "") for c in COLUMNS} | shared for row in rows], told=False)
    return rows


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="NAME or NAME:key=value,...")
    parser.add_argument("--seed", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=540.0, help="until all is over")
    parser.add_argument("--side", type=int, default=0, help="models at a time on the card; 0: all")
    parser.add_argument("--size", default="small", help="tiny, small, medium or large")
    parser.add_argument("--batch", type=int, default=256, help="windows in a step")
    parser.add_argument("--window", type=int, default=100, help="plots in a window")
    parser.add_argument("--dtype", default="float32", help="float32 or bf16")
    parser.add_argument("--steps", type=int, default=0, help="so many, whatever the time")
    parser.add_argument("--device", default="cuda", help="cpu or cuda")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs and their logs")
    parser.add_argument("--output", type=Path, default=RESULTS / "train_learned_gpu.csv", help="CSV to write")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    if args.job:
        job = json.loads(args.job)
        Path(job["folder"] + ".json").write_text(json.dumps(worked(job)))
        return 0
    cuda = args.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --steps 2 --batch 4 --size tiny does the same without")
    args.runs.mkdir(parents=True, exist_ok=True)
    args.models = [text for each in args.models for text in SETS.get(each, (each,))]
    args.side = args.side or len(args.models) * len(args.seed)
    try:
        jobs = [job_of(text, seed, args) for seed in args.seed for text in args.models]
    except ValueError as error:
        sys.exit(str(error))
    for job in jobs:
        Path(job["folder"] + ".json").unlink(missing_ok=True)
    shared = setting("torch", "numpy", *(["triton"] if cuda else ["numba"]), on=cuda_device() if cuda else device())
    rows = run_all(jobs, args, shared)
    for row in rows:
        told = ("steps_per_s", "position_over_best_imm", "velocity_over_best_imm", "note")
        print(row["model"], "seed", row["seed"], *(f"{key} {row[key]}" for key in told if row.get(key)))
    return int(any(row.get("note") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
