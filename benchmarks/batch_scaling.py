"""Plots per second of `ssrtrack batch` on one and more processes, one of them killed on the way.

    python benchmarks/batch_scaling.py --logs 100 --plots 10000 --workers 1 2

Simulated logs of about so many plots each are evaluated by every number of workers. In one further run a worker is
killed in the middle: its log must be done by another. Before a speed is reported, every run must have scored every
log, and the overall scores of all runs must be those of a run over the logs cut into pieces.
Rows go to benchmarks/results/batch_scaling.csv.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from setting import RESULTS, setting, write_csv

from ssrtrack.batch.run import batch
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.storage import content_hash
from ssrtrack.scoring.overall import BatchResult
from ssrtrack.simulators.scenario import load_scenario, radars, simulate
from ssrtrack.tracking.flights import COLUMNS

TOLERANCE = 1e-9
KEYS = ("position_rmse_m", "velocity_rmse_mps", "anees", "anis", "nll", "position_p95_m", "updates", "flights")


class Killer:
    """Kills one worker when half of the logs are done."""

    def __init__(self) -> None:
        self.killed = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        if what.startswith("logs") and 2 * done >= total and not self.killed and children:
            self.killed = children[0]
            os.kill(self.killed, signal.SIGKILL)


def make_logs(folder: Path, count: int, plots: int) -> list[Path]:
    """Logs of a simulated terminal area, each with its own seed, as long as it takes to fill them."""
    plan = load_scenario("tma")
    per_hour = 71_000  # of this scenario
    plan = replace(plan, duration_s=3600.0 * plots / per_hour)
    made = []
    for seed in range(count):
        path = folder / f"{seed:05}.h5"
        about = Provenance(
            "benchmark", plan.epoch, "0", "2026-01-01T00:00:00Z", extra={"turbulence_m2ps3": plan.turbulence_m2ps3}
        )
        with LogWriter(path, about, radars(plan)) as log:
            for table, truth in simulate(plan, seed):
                log.append_plots(table)
                log.append_truth(truth)
        made.append(path)
    return made


def differences(result: BatchResult, reference: BatchResult) -> list[str]:
    """What is lost or not the same."""
    found = [f"{log.name}: {log.status} {log.cause}" for log in result.logs if log.status != "scored"]
    for one, other in zip(result.overall[0].trackers, reference.overall[0].trackers, strict=True):
        for key in KEYS:
            a, b = getattr(one.scores, key), getattr(other.scores, key)
            if abs(a - b) > TOLERANCE * abs(b):
                found.append(f"{one.name} {key}: {a} instead of {b}")
    return found


def read_rates(logs: list[Path]) -> dict[str, float]:
    """Octets hashed and plots read per second, from the system's cache."""
    octets, plots = sum(log.stat().st_size for log in logs), 0
    begun = time.perf_counter()
    for log in logs:
        content_hash(str(log))
    hashed = time.perf_counter() - begun
    begun = time.perf_counter()
    for log in logs:
        with LogReader(log) as reader:
            plots += sum(len(table) for table in reader.plots(200_000, COLUMNS))
    return {"hash_mb_per_s": octets / hashed / 1e6, "read_plots_per_s": plots / (time.perf_counter() - begun)}


def main() -> int:
    """Run from the command line; 1 when something was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--plots", type=int, default=10_000, help="of each log, about")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-t", "--tracker", action="append", default=None)
    parser.add_argument("--output", type=Path, default=RESULTS / "batch_scaling.csv")
    arguments = parser.parse_args()
    trackers = arguments.tracker or ["kf", "imm"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        logs = make_logs(folder / "logs", arguments.logs, arguments.plots)
        rates = read_rates(logs)
        common: dict[str, Any] = {"bootstrap": 1000}
        reference = batch(logs, trackers, folder / "cut", workers=max(arguments.workers),
                          max_plots=max(arguments.plots // 3, 1), **common)  # fmt: skip
        rows, faults = [], differences(reference, reference)
        for workers, kill in [*((n, False) for n in arguments.workers), (max(arguments.workers), True)]:
            killer = Killer()
            out = folder / f"{workers}{kill}"
            begun = time.perf_counter()
            result = batch(logs, trackers, out, workers=workers, progress=killer if kill else None, **common)
            wall = time.perf_counter() - begun
            faults += differences(result, reference)
            if kill and not killer.killed:
                faults.append("no worker was killed")
            plots = sum(log.plots for log in result.logs)
            rows.append(
                {
                    "trackers": " ".join(trackers), "logs": len(logs), "plots": plots, "workers": workers,
                    "killed": int(kill), "wall_s": round(wall, 2), "logs_per_s": round(len(logs) / wall, 3),
                    "plots_per_s": round(plots / wall),
                    "sums_octets_per_log": round(sum(p.stat().st_size for p in out.rglob("*.npz")) / len(logs)),
                    **{key: round(value) for key, value in rates.items()}, **setting("numpy", "h5py"),
                }
            )  # fmt: skip
            print({key: rows[-1][key] for key in ("workers", "killed", "wall_s", "logs_per_s", "plots_per_s")})
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 1
    write_csv(arguments.output, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
