"""Selective copying and filtering a level with jumps: KOSS, its ablations and its peers, tuned alike.

    python benchmarks/selective_copy.py --jobs short --seconds 420 --output copy.jsonl
    python benchmarks/selective_copy.py --summarise copy.jsonl

The first trains, on all GPUs there are, and adds a line of JSON for every training that ends; run again, it goes on
where the file ends. The second makes the two tables of it. Before anything is trained, programs that know the tasks'
rules must solve them without an error.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

# Workers share the processor; said before torch is loaded here or in any of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from setting import RESULTS, cuda_device, setting, write_csv

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.grid import read_records, tunings
from ssrtrack.experiments.grid_models import MODELS
from ssrtrack.experiments.grid_plan import cells, narrowed
from ssrtrack.experiments.grid_tasks import TEST_SEED, TRIALS
from ssrtrack.experiments.grid_work import Site, graph_off_by, run_grid
from ssrtrack.experiments.level_jumps import Levels, best_fixed_gain, exact_filter, squared_error
from ssrtrack.experiments.level_jumps import sample as levels_of
from ssrtrack.experiments.selective_copy import TASKS, blind_answers, rule_answers, sample

# What trainings in one row have in common.
ALIKE = ("model", "lr", "steps", "batch", "precision", "parameters", "test_sequences")


def check() -> None:
    """Stop unless every task's rule gives every answer."""
    for task in TASKS.values():
        x, answers = sample(task, 64, torch.Generator().manual_seed(0))
        if not torch.equal(rule_answers(task, x), answers):
            sys.exit(f"{task.name}: its rule does not give its answers; nothing trained")


def check_graphs(models: list[str], device: str) -> None:
    """Print how far each model's training by graphs is off one without, and stop after all if any is."""
    faults = []
    for model in models:
        try:
            off = graph_off_by(model, device)
            told, fault = f"off by {off:.1e}", off > 0.02
        except (TrainingError, RuntimeError) as error:
            told, fault = f"{type(error).__name__}: {error}", True
        print(f"graph of {model:28} {told}", flush=True)
        faults += [model] if fault else []
    if faults:
        sys.exit(f"graphs do not train as torch does, or cannot be captured: {', '.join(faults)}")


def lines() -> dict[str, dict[str, float]]:
    """What scores are read against: chance or no filter, the best without context, and the best there is."""
    found = {}
    for name, task in TASKS.items():
        x, answers = sample(task, 256 if name == "long" else 10_240, torch.Generator().manual_seed(TEST_SEED))
        blind = (blind_answers(task, x) == answers).float().mean().item()
        found[name] = {"chance": task.chance, "without_context": blind, "best": 1.0}
    levels = Levels()
    x, level = levels_of(levels, 8_192, torch.Generator().manual_seed(TEST_SEED))
    exact = squared_error(exact_filter(levels, x), level).item()
    unfiltered = squared_error(x, level).item()
    found["levels"] = {"chance": unfiltered, "without_context": best_fixed_gain(levels)[1], "best": exact}
    return found


def summarised(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task and model: mean, least and largest score over the seeds, and how it was trained.

    Trainings that differ in more than their seed, a trial's short ones say, have rows of their own; one that is in the
    file twice counts once.
    """
    against, rows = lines(), []
    good = [r for r in records if "error" not in r]
    finals = list({r["key"]: r for r in good if r["kind"] == "final"}.values())
    for task in TRIALS:
        line = against[task.removesuffix("-clean").removesuffix("-conv").removesuffix("-one-block")]
        alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for r in finals:
            if r["task"] == task:
                alike.setdefault(tuple(r[name] for name in ALIKE), []).append(r)
        for (model, lr, *_), some in alike.items():
            sign = 1.0 if TRIALS[task].least else -1.0
            cost = {r["lr"]: sign * r["score"] for r in tunings(task, model, good)}
            if lr in cost and min(sorted(cost), key=lambda rate: cost[rate]) != lr:
                continue  # trained before a better rate was tried
            rows.append({"task": task, "model": model} | _row(some, line, sorted(cost)))
    return rows


def _row(some: list[dict[str, Any]], line: dict[str, float], tried: list[float]) -> dict[str, Any]:
    scores = [r["score"] for r in some]
    polluted = [r["tests"]["polluted"]["score"] for r in some if "polluted" in r["tests"]]
    first = some[0]
    return {
        "score": f"{mean(scores):.4f}",
        "spread": f"{stdev(scores):.4f}" if len(scores) > 1 else "",
        "least": f"{min(scores):.4f}",
        "largest": f"{max(scores):.4f}",
        "tested_polluted": f"{mean(polluted):.4f}" if polluted else "",
        "seeds": len(scores),
        "test_sequences": first["test_sequences"],
        **{name: f"{value:.4f}" for name, value in line.items()},
        "parameters": first["parameters"],
        "lr": first["lr"],
        "lr_tried": " ".join(f"{rate:g}" for rate in tried),
        "steps": first["steps"],
        "batch": first["batch"],
        "precision": first["precision"],
        "graph": first["captured"],
        "ms_per_step": f"{mean(r['ms_per_step'] for r in some):.2f}",
        "seconds": f"{mean(r['seconds'] for r in some):.1f}",
        "diverged": sum(r["diverged"] for r in some),
        **{name: "; ".join(dict.fromkeys(r[name] for r in some)) for name in ("device", "versions", "commit", "date")},
    }


def write_tables(records: list[dict[str, Any]], folder: Path) -> None:
    """selective_copy.csv and level_jumps.csv."""
    rows = summarised(records)
    parts = {False: "selective_copy.csv", True: "level_jumps.csv"}
    for least, name in parts.items():
        if some := [row for row in rows if TRIALS[row["task"]].least == least]:
            write_csv(folder / name, some)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", choices=("short", "long", "levels", "all"), default="all", help="part of the grid")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which nothing goes on")
    parser.add_argument("--workers-per-gpu", type=int, default=2, help="processes on each GPU")
    parser.add_argument("--slots", type=int, default=3, help="trainings at once in each process")
    parser.add_argument("--device", nargs="+", help="devices to use; all GPUs, or cpu where there is none")
    parser.add_argument("--model", nargs="+", help="these models only")
    parser.add_argument("--task", nargs="+", help="these tasks only")
    parser.add_argument("--seeds", type=int, help="at the best learning rate, instead of 3")
    parser.add_argument("--steps", type=int, help="of every training: for a trial that must not be reported")
    parser.add_argument("--test-sequences", type=int, help="of each test, for a trial likewise")
    parser.add_argument("--rate", nargs="+", type=float, help="learning rates to choose from")
    parser.add_argument("--check-graphs", action="store_true", help="only hold graphs against plain steps on a GPU")
    parser.add_argument("--output", type=Path, default=Path("selective_copy.jsonl"), help="file that records go to")
    parser.add_argument("--summarise", type=Path, help="make the tables of this file and train nothing")
    parser.add_argument("--tables", type=Path, default=RESULTS, help="folder of the tables")
    given = parser.parse_args()
    if given.summarise:
        write_tables(read_records(given.summarise), given.tables)
        return
    if given.check_graphs:
        check_graphs(given.model or list(MODELS), given.device[0] if given.device else "cuda:0")
        return
    check()
    found = [f"cuda:{k}" for k in range(torch.cuda.device_count())] or ["cpu"]
    site = Site(tuple(given.device or found), given.workers_per_gpu, given.slots)
    seeds = tuple(range(1, given.seeds + 1)) if given.seeds else None
    rates = tuple(given.rate) if given.rate else None
    chosen = narrowed(
        cells(given.jobs), tasks=given.task, models=given.model, seeds=seeds, rates=rates, steps=given.steps,
        tuning_steps=given.steps, count=given.test_sequences,
    )  # fmt: skip
    on = cuda_device() if site.devices[0].startswith("cuda") else ""
    facts = setting("torch", "triton", on=on)
    run_grid(chosen, given.output, site, seconds=given.seconds, facts=facts, tell=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
