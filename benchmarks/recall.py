"""Multi-query associative recall: Gated KalmaNet beside delta rules, linear and softmax attention, all tuned alike.

    python benchmarks/recall.py --seconds 330 --output recall
    python benchmarks/recall.py --summarise recall [--figures FOLDER]
    python benchmarks/recall.py --tiny --seconds 50 --output recall_trial

The first trains, on a GPU where there is one, in one process for each family of mixers, and adds a line of JSON to the
family's file in the folder for every training that ends; run again, it goes on where the files end. The second makes
the table of them, results/recall.csv, and the picture. The third is a trial on a CPU that must not be reported. Before
anything is trained, the task's rule must give every answer, and each mixer must be what its loop says.
"""

import argparse
import multiprocessing
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

# Workers share the processor; said before torch is loaded here or in any of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from setting import RESULTS, cuda_device, setting, write_csv

from ssrtrack.experiments.grid import Record, read_records
from ssrtrack.experiments.recall import rule_answers, sample, tasks
from ssrtrack.experiments.recall_check import graph_off_by, off_by
from ssrtrack.experiments.recall_grid import RecallPlan, cuda_precision, ready, run_plan
from ssrtrack.experiments.recall_models import MIXERS
from ssrtrack.experiments.recall_table import surfaces, table

# Trainings within a process run side by side, on streams of their own; processes take turns on a GPU.
FAMILIES = {
    "gka": ("gka", "gka gated"),
    "delta": ("delta", "delta gated"),
    "linear": ("linear", "linear gated", "softmax"),
}
ALLOWED = 0.05  # of `off_by`, whose rounding to bfloat16 is 0.005; a wrong gradient is off by about 1
TINY: dict[str, Any] = {
    "widths": (32,), "rates": (1e-2,), "seeds": (1,), "steps": 300, "tokens": 2048, "vocabulary": 128,
    "lengths": (64,), "most": 8, "each": 32, "mixers": ("gka", "delta"),
}  # fmt: skip


def check(device: str, precision: str, mixers: tuple[str, ...]) -> None:
    """Stop unless the rule gives every answer and every mixer is what its loop says."""
    for task in tasks():
        drawn = sample(task, 1, 2, torch.Generator().manual_seed(0))
        if not torch.equal(rule_answers(drawn.tokens[0], drawn.at[0]), drawn.answers[0]):
            sys.exit(f"T = {task.steps}: the rule does not give its answers; nothing trained")
    off = {name: off_by(name, device, precision) for name in mixers}
    tell("off the loops by " + ", ".join(f"{name} {share:.1e}" for name, share in off.items()))
    if wrong := [name for name, share in off.items() if not share < ALLOWED]:
        sys.exit(f"not what their loops say: {', '.join(wrong)}; nothing trained")
    if torch.device(device).type == "cuda":
        apart = {name: graph_off_by(name, device, precision) for name in mixers}
        tell("graphs off plain steps by " + ", ".join(f"{name} {share:.1e}" for name, share in apart.items()))
        if wrong := [name for name, share in apart.items() if not share < ALLOWED]:
            sys.exit(f"graphs do not train as torch does: {', '.join(wrong)}; nothing trained")


def tell(text: str) -> None:
    print(text, flush=True)


def family(
    name: str, plan: RecallPlan, folder: Path, device: str, deadline: float, slots: int, facts: Record
) -> None:  # pragma: no cover, in a process of its own
    """Check and train a family's mixers until `deadline` (of time.time)."""
    check(device, plan.precision, plan.mixers)
    left = deadline - time.time()
    run_plan(plan, folder / f"{name}.jsonl", device, seconds=left, facts=facts, tell=tell, slots=slots)


def train(plan: RecallPlan, folder: Path, device: str, seconds: float, slots: int, facts: Record) -> int:
    """All families at once, each in a process; where the device compiles kernels, they are compiled first."""
    deadline = time.time() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    parts = {name: tuple(m for m in mixers if m in plan.mixers) for name, mixers in FAMILIES.items()}
    ahead = [
        context.Process(target=ready, args=(mixer, replace(plan, widths=(width,)), device), daemon=True)
        for mixer in parts["gka"] for width in plan.widths if device != "cpu"
    ]  # fmt: skip
    workers = {
        name: context.Process(
            target=family, daemon=True,
            args=(name, replace(plan, mixers=mixers), folder, device, deadline, slots, facts),
        )
        for name, mixers in parts.items() if mixers
    }  # fmt: skip
    for process in [*ahead, *(worker for name, worker in workers.items() if name != "gka")]:
        process.start()
    for process in ahead:
        process.join(max(0.0, deadline - time.time()))
    if ahead:
        tell(f"kernels are compiled; {deadline - time.time():.0f} s left")
    if "gka" in workers:
        workers["gka"].start()
    for worker in workers.values():
        worker.join(max(0.0, deadline + 5.0 - time.time()))
        if worker.is_alive():
            worker.terminate()
    return sum(worker.exitcode != 0 for worker in workers.values())


def records_of(folder: Path) -> list[Record]:
    """All lines of all families."""
    return [record for path in sorted(folder.glob("*.jsonl")) for record in read_records(path)]


def summarise(records: list[Record], folder: Path, figures: Path | None) -> None:
    """recall.csv, and the picture where there is a folder for it."""
    write_csv(folder / "recall.csv", table(records))
    if figures is not None:
        from ssrtrack.report.figures_koss import save
        from ssrtrack.report.figures_recall import recall_figure

        save(recall_figure(surfaces(records)), figures, "recall")


def planned(given: argparse.Namespace, device: str) -> RecallPlan:
    """The plan that the options name."""
    said = {
        "widths": given.width, "rates": given.rate, "mixers": given.mixer, "steps": given.steps, "tokens": given.tokens,
        "seeds": range(1, given.seeds + 1) if given.seeds else None, "precision": given.precision,
    }  # fmt: skip
    known = {k: tuple(v) if isinstance(v, list | range) else v for k, v in said.items() if v is not None}
    start = RecallPlan(precision=cuda_precision(device), **(TINY if given.tiny else {}))
    return replace(start, **known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0, help="after which nothing goes on")
    parser.add_argument("--slots", type=int, default=4, help="trainings at once in each process")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mixer", nargs="+", choices=tuple(MIXERS), help="these alone")
    parser.add_argument("--width", nargs="+", type=int, help="of the networks; the middle one is tuned at")
    parser.add_argument("--rate", nargs="+", type=float, help="learning rates to choose from")
    parser.add_argument("--seeds", type=int, help="at the best learning rate, instead of 3")
    parser.add_argument("--steps", type=int, help="of every training, instead of 3000")
    parser.add_argument("--tokens", type=int, help="of a batch, about, instead of 8192")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="else bfloat16 on a GPU")
    parser.add_argument("--tiny", action="store_true", help="a trial: one short length, few pairs, few symbols")
    parser.add_argument("--output", type=Path, default=Path("recall"), help="folder of the files that records go to")
    parser.add_argument("--summarise", type=Path, help="make the table of this folder's files and train nothing")
    parser.add_argument("--tables", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--figures", type=Path, help="folder of the picture; without it none is drawn")
    given = parser.parse_args()
    if given.summarise:
        summarise(records_of(given.summarise), given.tables, given.figures)
        return 0
    facts = setting("torch", "triton", on=cuda_device() if given.device.startswith("cuda") else "")
    plan = planned(given, given.device)
    return train(plan, given.output, given.device, given.seconds, given.slots, facts)


if __name__ == "__main__":
    sys.exit(main())
