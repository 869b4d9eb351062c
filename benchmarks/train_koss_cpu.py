"""How far below the tuned IMM a small KOSS comes in five minutes of two processor cores, on flights it never saw.

    python benchmarks/train_koss_cpu.py

For each scenario of the benchmark suite that is named, and each seed, a small KOSS is trained as `ssrtrack train koss`
does, then scored on the suite's test split (as much of it as `--test-hours` says) beside kf, imm and imm-gated. Ratios
are of RMSE over the same updates, with 95 % intervals from a paired bootstrap over flights. Before that, an untrained
model must score as its base filter does, or nothing is trained. Also written: plots per second that a training uses,
and that one core simulates for it.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from setting import RESULTS, setting, write_csv

from ssrtrack.filters.estimators import make_estimator
from ssrtrack.io.hdf5 import LogWriter, Provenance
from ssrtrack.models.checkpoint import save_run
from ssrtrack.scoring.evaluate import evaluate
from ssrtrack.simulators.scenario import radars, simulate
from ssrtrack.simulators.suite import load_suite
from ssrtrack.training.flown_simulated import TRAINING, Endless, block
from ssrtrack.training.loop_data import data_of
from ssrtrack.training.loop_koss import train_koss
from ssrtrack.training.loop_model import new_model
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_telling import Telling

AGAINST = ("imm", "imm-gated", "kf")
SCORES = ("position_rmse_m", "velocity_rmse_mps", "position_rmse_turn_m", "position_rmse_straight_m")


def test_log(name: str, hours: float, path: Path) -> None:
    """The first hours of a scenario's test split."""
    scenario, seed = load_suite(name, "test")
    scenario = replace(scenario, duration_s=min(scenario.duration_s, 3600.0 * hours))
    provenance = Provenance(
        command="benchmark", epoch=scenario.epoch, software_version="", created="", scenario=scenario.text, seed=seed
    )
    with LogWriter(path, provenance, radars(scenario)) as writer:
        for plots, truth in simulate(scenario, seed):
            writer.append_plots(plots)
            writer.append_truth(truth)


def scored(log: Path, run: Path) -> dict[str, Any]:
    """Ratios of the run's errors to each classical filter's, and how honest its covariance is."""
    row: dict[str, Any] = {}
    for name in AGAINST:
        _, ours = evaluate([log], [name, str(run)]).trackers
        for score in SCORES:
            ratio, low, high = ours.ratio[score]
            row |= {f"{score}_over_{name}": f"{ratio:.4f}", f"{score}_over_{name}_95": f"{low:.4f}..{high:.4f}"}
    return row | {
        "position_rmse_m": f"{ours.scores.position_rmse_m:.2f}",
        "velocity_rmse_mps": f"{ours.scores.velocity_rmse_mps:.3f}",
        "anees": f"{ours.scores.anees:.3f}",
        "flights": ours.scores.flights,
        "updates": ours.scores.updates,
    }


def untrained_off_by(log: Path, folder: Path) -> float:
    """Largest relative difference between an untrained model's scores and its base filter's."""
    bank = make_estimator("imm")
    save_run(folder, new_model("small", bank, 5.0, 1), bank)
    ratio = evaluate([log], ["imm", str(folder)], bootstrap=10).trackers[1].ratio
    return max(abs(ratio[score][0] - 1.0) for score in SCORES)


def simulated_plots_per_s(name: str) -> float:
    """Plots in windows, with measurements and truth, that one core makes in a second of its time."""
    plan = Endless(load_suite(name, "train")[0], 1, 64, 100)
    begin = time.process_time()
    return block(plan, TRAINING, 0, 0).plots / (time.process_time() - begin)


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each training."""
    minutes = given.minutes
    with TemporaryDirectory() as folder:
        here = Path(folder)
        for name in given.scenario:
            test_log(name, given.test_hours, here / f"{name}.h5")
            if (off := untrained_off_by(here / f"{name}.h5", here / "untrained")) > 1e-5:
                sys.exit(f"{name}: an untrained model is {off:.1e} off its base filter; nothing trained")
            speed = simulated_plots_per_s(name)
            for seed in given.seed:
                run = here / f"{name}-{seed}"
                recipe = Recipe(minutes=minutes, seed=seed, batch=given.batch)
                told = Telling(line=lambda text, seed=seed: print(f"  seed {seed}: {text}", flush=True))  # type: ignore[misc]
                begin = time.perf_counter()
                train_koss(
                    data_of(f"suite:{name}", [], []),
                    recipe,
                    run,
                    device=given.device,
                    workers=given.workers,
                    telling=told,
                )
                seconds = time.perf_counter() - begin
                steps = sum(1 for _ in (run / "steps.csv").open()) - 1
                used = steps * recipe.batch * recipe.window / (60.0 * minutes)
                yield {
                    "scenario": name, "seed": seed, "minutes": minutes, "seconds_in_all": round(seconds),
                    "steps": steps, "batch": recipe.batch, "trained_on": given.device,
                    "threads": torch.get_num_threads(),
                    "training_plots_per_s": round(used), "simulated_plots_per_s_of_a_core": round(speed),
                } | scored(here / f"{name}.h5", run)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", default=["tma-4s"], help="names in the suite")
    parser.add_argument("--seed", nargs="+", type=int, default=[1], help="a training for each")
    parser.add_argument("--minutes", type=float, default=4.5, help="of training; simulating and scoring come on top")
    parser.add_argument("--batch", type=int, default=Recipe().batch, help="windows in a step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate ahead")
    parser.add_argument("--test-hours", type=float, default=1.0, help="of the test split that are scored")
    parser.add_argument("--output", type=Path, default=RESULTS / "train_koss_cpu.csv", help="CSV to write")
    given = parser.parse_args()
    out = []
    for row in rows(given):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        out.append(row | setting("numpy", "torch", "numba"))
    write_csv(given.output, out)


if __name__ == "__main__":
    main()
