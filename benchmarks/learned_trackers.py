"""The judge of learned trackers: how far below the better tuned IMM, how honest, how robust, how fast. CPU only.

    python benchmarks/learned_trackers.py --models koss gka                     (those that come with ssrtrack)
    python benchmarks/learned_trackers.py --models runs/koss-1 runs/koss-2 runs/gka-1 --folder FLIGHTS
    python benchmarks/learned_trackers.py --models MODEL --flights 64 --transfer-flights 32 --sweep-flights 16

Models are names or folders of learned trackers, as `ssrtrack evaluate -t` takes them; each is judged on the test splits
of the suite's four scenarios (4,096 flights each), on the same flights with Gaussian noise alone, on settings that the
suite does not hold (other periods, noise, detection, biases, outliers, banks and legs), on plots degraded along every
axis of `evaluate --sweep`, and on what may make it diverge; where SSRTRACK_DATA names the recordings, also on real
flights seen by the suite's radars, and on a real hour of plots, which has no truth. A model that was trained on a test
split is refused.

Everything is scored as `ssrtrack evaluate` scores it. The reference is always the better one of two four-model IMMs,
both tuned on the suite's training splits: with mixture noise, or with a gate. It is chosen for every set and measure,
so that no other choice of one of them gives a greater ratio. Intervals are 95 %, of ratios paired over flights.

Writes results/learned_trackers.csv: a row for each part, set, model, seed and measure, with what is asked of it
("must", "target"), what is met ("target", "must" or "no"), and the first digits of the weights' SHA-256. The set
"suite" is all four together, and its seed "all" the mean over a model's seeds, with the least and the greatest. Beside
it the figure, as learned_trackers.svg and .png. The flights are simulated once and stay in --folder, by settings, so
that any number of models may follow. The table is written anew after every set. Two cores take about seven minutes for
a KOSS of size small, twenty for a large one (extrapolated from 64 to 256 flights of each set); several models share
what the IMMs and the flights cost.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Any

# One thread for each of the processes, told before numpy and torch begin theirs; the timing asks for two.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from learned_trackers_hard import case_of, cost_rows, hard_cases, hard_rows, long_case, same_rows
from learned_trackers_real import data_folder, hour_log, recorded_log
from learned_trackers_score import calibration_rows, digest_of, judged, named, ratio_rows, sweep_rows
from learned_trackers_sets import GAUSSIAN, LONG, SUITE, TRANSFER, Setting, log_of
from learned_trackers_wanted import (
    ACCURACY,
    COLUMNS,
    NO_NAN,
    TRANSFER_ALIKE,
    TRANSFER_OTHER,
    over_seeds,
    over_suite,
    row,
)
from learned_trackers_wanted import GAUSSIAN as GAUSSIAN_MEASURES
from learned_trackers_wanted import HOUR as HOUR_MEASURES
from setting import RESULTS, setting, write_csv

from ssrtrack.errors import EstimatorError
from ssrtrack.scoring.degrade import AXES
from ssrtrack.simulators.processes import Processes

Rows = list[dict[str, Any]]
Models = Mapping[str, tuple[str, str]]
Work = Callable[[str, Path, Models], Rows]
Make = Callable[..., Path]  # given the folder for logs
PARTS = ("suite", "gaussian", "transfer", "real", "sweep", "hard", "cost")
REAL_HOUR = "recorded hour"
LONG_FLIGHTS, HARD_FLIGHTS = 8, 128
ORDER = (
    "ratio", "gaussian", "transfer", "real", "calibration", "phase bands", "range bands", "speed bands", "efficiency",
    "sweep", "hard", "cost", "failed",
)  # fmt: skip


def suite(name: str, log: Path, models: Models) -> Rows:
    """One of the suite's sets."""
    found = judged(log, models)
    return ratio_rows("ratio", name, found, ACCURACY) + calibration_rows(name, found)


def gaussian(name: str, log: Path, models: Models) -> Rows:
    """The same flights without outliers."""
    return ratio_rows("gaussian", name, judged(log, models), GAUSSIAN_MEASURES)


def transfer(name: str, log: Path, models: Models) -> Rows:
    """A setting that the suite does not hold."""
    measures = TRANSFER_ALIKE if TRANSFER[name].alike else TRANSFER_OTHER
    return ratio_rows("transfer", name, judged(log, models), measures)


def sweep(name: str, log: Path, models: Models) -> Rows:
    """All axes of degradation."""
    return sweep_rows(name, judged(log, models, list(AXES)))


def hard(name: str, log: Path, models: Models) -> Rows:
    """What may make a tracker diverge."""
    if name == "long":
        return hard_rows(name, {"10,000 updates": long_case(log)}, models)
    return hard_rows(name, hard_cases(log), models) + same_rows(name, case_of(log, plots=90), models)


def recorded(name: str, log: Path, models: Models) -> Rows:
    """Recorded flights seen by a radar of the suite, or the real hour of plots."""
    return ratio_rows("real", name, judged(log, models), HOUR_MEASURES if name == REAL_HOUR else TRANSFER_OTHER)


def timed(work: Work, name: str, make: Make, folder: str, models: Models) -> tuple[Rows, float, float]:
    """Rows of one piece of work, seconds until its flights were there, and seconds for the rest; in a process."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    log = make(folder=Path(folder))
    there = time.perf_counter()
    return work(name, log, models), there - start, time.perf_counter() - there


def work_of(asked: argparse.Namespace) -> list[tuple[str, Work, str, Make]]:
    """Pieces of work: part, function, name and what makes the log; the longest first."""

    def log(one: Setting, flights: int) -> Make:
        return partial(log_of, one, flights)

    sets = {name: one for name, one in SUITE.items() if name in asked.sets}
    some = {name: one for name, one in TRANSFER.items() if one.suite in sets}
    hard_flights = min(HARD_FLIGHTS, asked.flights)
    work: list[tuple[str, Work, str, Make]] = []
    work += [("sweep", sweep, name, log(one, asked.sweep_flights)) for name, one in sets.items()]
    work += [("suite", suite, name, log(one, asked.flights)) for name, one in sets.items()]
    work += [("gaussian", gaussian, name, log(GAUSSIAN[name], asked.flights)) for name in sets]
    work += [("transfer", transfer, name, log(one, asked.transfer_flights)) for name, one in some.items()]
    if "tma-4s" in sets:
        work.append(("hard", hard, "long", log(LONG, LONG_FLIGHTS)))
    work += [("hard", hard, name, log(one, hard_flights)) for name, one in sets.items()]
    if (data := data_folder()) is not None:
        work += [("real", recorded, f"recorded flights, {name}", partial(recorded_log, data, name)) for name in sets]
        work.append(("real", recorded, REAL_HOUR, partial(hour_log, data)))
    elif "real" in asked.parts:
        print("SSRTRACK_DATA does not name the recordings: real flights are left out")
    return [piece for piece in work if piece[0] in asked.parts]


def costs(asked: argparse.Namespace, models: Models, folder: str) -> Rows:
    """What a step costs, in this process, alone on the machine."""
    log = log_of(SUITE[asked.sets[0]], min(HARD_FLIGHTS, asked.flights), Path(folder))
    return cost_rows(case_of(log, plots=90), models, asked.threads)


def judge(asked: argparse.Namespace, models: Models, folder: str, keep: Callable[[Rows], None]) -> Rows:
    """All rows; `keep` is told of those so far after every piece of work."""
    rows: Rows = []
    with Processes(asked.workers) as pool:
        todo = work_of(asked)
        begun = {pool.submit(timed, work, name, make, folder, models): (part, name) for part, work, name, make in todo}
        for number, future in enumerate(as_completed(begun), start=1):
            part, name = begun[future]
            try:
                more, simulated_s, judged_s = future.result()
            except EstimatorError as error:  # a tracker that says NaN costs this line, not the table
                print(f"{number}/{len(begun)} {part} {name}: {error}", flush=True)
                rows.append(row("failed", name, ("any", ""), f"{part}: {error}", nan, wanted=NO_NAN))
                continue
            rows += more
            print(f"{number}/{len(begun)} {part} {name}: {simulated_s:.1f} s for flights, {judged_s:.1f} s", flush=True)
            keep(rows)
    if "cost" in asked.parts:
        rows += costs(asked, models, folder)
    return rows


def table(rows: Rows, shared: dict[str, str], digests: Mapping[tuple[str, str], str]) -> list[dict[str, str]]:
    """Rows as they are written: those over the suite added, in a fixed order, numbers of five digits.

    digests: of the weights, by name and seed.
    """
    every = whole(rows)
    order = {part: i for i, part in enumerate(ORDER)}
    every.sort(key=lambda r: (order[r["part"]], r["model"], r["seed"], r["set"] != "suite", r["set"]))
    return [
        {key: written(one[key]) for key in COLUMNS} | {"weights": digests.get((one["model"], one["seed"]), "")} | shared
        for one in every
    ]


def whole(rows: Rows) -> Rows:
    """The rows, those over the suite, and those over a model's seeds."""
    over = over_suite(rows)
    return rows + over + over_seeds(over)


def written(value: Any) -> str:
    """A cell: nothing for what is not known."""
    if isinstance(value, float):
        return f"{value:.5g}" if isfinite(value) else ""
    return str(value)


def tell(rows: Rows) -> int:
    """Print what is asked and whether it is met; returns how many are not."""
    asked = [one for one in rows if one["met"]]
    for one in asked:
        print(
            f"{one['met']:6} {one['part']}, {one['set']}, {one['model']} {one['seed']}, {one['measure']}: "
            f"{one['value']:.4g} (must {one['must']}{', target ' + one['target'] if one['target'] else ''})"
        )
    missed = [one["met"] for one in asked].count("no")
    print(f"{len(asked) - missed} of {len(asked)} lines are met")
    return missed


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--folder", default="", help="keeps the flights for a next time; by default a passing one")
    parser.add_argument("--flights", type=int, default=4096, help="of each of the suite's sets")
    parser.add_argument("--transfer-flights", type=int, default=1024, help="of each setting outside the suite")
    parser.add_argument("--sweep-flights", type=int, default=256, help="of each set, at every level of every axis")
    parser.add_argument("--sets", nargs="+", default=list(SUITE), choices=list(SUITE), metavar="SET")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--threads", type=int, default=2, help="of the timing, beside one thread")
    parser.add_argument("--output", type=Path, default=RESULTS / "learned_trackers.csv")
    parser.add_argument("--figures", type=Path, default=RESULTS, help="folder of the figure")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Judge, write, tell."""
    asked = arguments(given)
    models = named(asked.models)
    digests = {model: digest_of(text) for text, model in models.items()}
    shared = setting("torch", "numpy", "numba")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as passing:
        rows = judge(
            asked, models, asked.folder or passing,
            keep=lambda so_far: write_csv(asked.output, table(so_far, shared, digests), told=False),
        )  # fmt: skip
    write_csv(asked.output, table(rows, shared, digests))
    if "suite" in asked.parts:
        from ssrtrack.report.figures_koss import save
        from ssrtrack.report.figures_learned import learned_figure

        for path in save(learned_figure(whole(rows)), asked.figures, "learned_trackers"):
            print(f"written: {path}")
    missed = tell(whole(rows))
    print(f"{time.perf_counter() - start:.0f} s for {len(models)} model{'s' * (len(models) != 1)}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
