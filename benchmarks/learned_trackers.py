"""The judge of learned trackers: how far below the better tuned IMM, how honest, how robust, how fast. CPU only.

    python benchmarks/learned_trackers.py --models koss gka                     (those that come with ssrtrack)
    python benchmarks/learned_trackers.py --models runs/koss-1 runs/koss-2 runs/gka-1 --folder FLIGHTS
    python benchmarks/learned_trackers.py --models koss gka --peers runs/gru-1 runs/s6-1      (these on the suite alone)
    python benchmarks/learned_trackers.py --models MODEL --flights 64 --transfer-flights 32 --sweep-flights 16

Models are names or folders of learned trackers, as `ssrtrack evaluate -t` takes them; each is judged on the test splits
of the suite's four scenarios (4,096 flights each), on the same flights with Gaussian noise alone, on settings that the
suite does not hold (other periods, noise, detection, biases, outliers, banks and legs), on plots degraded along every
axis of `evaluate --sweep`, and on what may make it diverge; where SSRTRACK_DATA names the recordings, also on real
flights seen by the suite's radars, and on a real hour of plots, which has no truth. A model that was trained on a test
split is refused.

Everything is scored as `ssrtrack evaluate` scores it. The reference is always the better one of two four-model IMMs,
both tuned on the training splits of all the suite's sets together: with mixture noise, or with a gate. It is chosen for
every set and measure, so that no other choice of one of them gives a greater ratio. Parts whose names end in
over_set_tuned_imm say the same with the best of four IMMs that were tuned on that set alone (imm_per_set.py): what a
user of one radar could do instead. Intervals are 95 %, of ratios paired over flights.

Writes results/learned_trackers.csv: a row for each part, set, model, seed and measure, with what is asked of it
("must", "target"), what is met ("target", "must" or "no"), and the first digits of the weights' SHA-256. The set
"suite" is all four together, and its seed "all" the mean over a model's seeds, with the least and the greatest. Beside
it the figure, as learned_trackers.svg and .png. The flights are simulated once and stay in --folder, by settings, so
that any number of models may follow.

The work is cut into pieces (a setting x a model x a slice of flights or an axis of degradation) for --workers
processes of one thread each, by default as many as there are cores; the rows do not depend on how many there are. With
--seconds nothing is begun or waited for after so long, and what is missing then is a row "absent" for each setting and
model, of which no line is met. The table is written anew as it grows, so that it is there if the run is ended.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

# One thread for each of the processes, told before numpy and torch begin theirs; the timing asks for two.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from learned_trackers_pieces import PARTS, Model, Rows, cores, costs, jobs_of, warmed
from learned_trackers_score import digest_of, named
from learned_trackers_sets import SUITE, TRANSFER
from learned_trackers_wanted import ABOVE_OWN, ABSENT, COLUMNS, FAILED, OVER_OWN, above_own, over_seeds, over_suite
from learned_trackers_work import Board
from setting import RESULTS, setting, write_csv

from ssrtrack.simulators.processes import Processes

ORDER = (
    "ratio", "gaussian", "transfer", ABOVE_OWN, "real", "calibration", "phase bands", "range bands", "speed bands",
    "efficiency", "sweep", "hard", "cost",
    *(part + OVER_OWN for part in ("ratio", "gaussian", "transfer", "real", "calibration", "sweep")),
    ABSENT, FAILED,
)  # fmt: skip
ALIKE = {name: one.suite for name, one in TRANSFER.items() if one.alike}
KEEP_SHARE = 0.1  # of the time at most that goes into writing the table anew


def judge(asked: argparse.Namespace, models: Mapping[str, Model], folder: str, keep: Callable[[Rows], None]) -> Rows:
    """All rows; `keep` is told of those so far, with one for each that is missing."""
    end = time.perf_counter() + asked.seconds
    jobs = jobs_of(asked)
    # Alone on the machine, and first: what it compiles need not be compiled by every process.
    main = {text: model for text, model in models.items() if text not in asked.peers}
    rows = costs(asked, main, folder) if "cost" in asked.parts else []
    if jobs:
        warmed(tuple(models), folder)
    board = Board(jobs, models, folder, keep=lambda more: keep(rows + more), peers=asked.peers)
    with Processes(asked.workers) as pool:
        return rows + board.drive(pool, asked.workers, end)


def table(
    rows: Rows, shared: dict[str, str], digests: Mapping[Model, str], sets: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Rows as they are written: those over the suite added, in a fixed order, numbers of five digits.

    digests: of the weights, by name and seed. sets: see `whole`.
    """
    every = whole(rows, sets)
    order = {part: i for i, part in enumerate(ORDER)}
    every.sort(key=lambda r: (order[r["part"]], r["model"], r["seed"], r["set"] != "suite", r["set"]))
    return [
        {key: written(one[key]) for key in COLUMNS} | {"weights": digests.get((one["model"], one["seed"]), "")} | shared
        for one in every
    ]


def whole(rows: Rows, sets: Sequence[str] = ()) -> Rows:
    """The rows, those over the suite, those over a model's seeds, and those of settings beside the set they come from.

    sets: on all of which a model must have been judged for a row over the suite; empty: whatever there is.
    """
    over = over_suite(rows, sets)
    return rows + above_own(rows, ALIKE) + over + over_seeds(over)


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
    parser.add_argument("--peers", nargs="+", default=[], metavar="MODEL", help="judged on the suite's sets alone")
    parser.add_argument("--folder", default="", help="keeps the flights for a next time; by default a passing one")
    parser.add_argument("--flights", type=int, default=4096, help="of each of the suite's sets")
    parser.add_argument("--transfer-flights", type=int, default=1024, help="of each setting outside the suite")
    parser.add_argument("--sweep-flights", type=int, default=256, help="of each set, at every level of every axis")
    parser.add_argument("--sets", nargs="+", default=list(SUITE), choices=list(SUITE), metavar="SET")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--workers", type=int, default=cores(), help="processes, of one thread each")
    parser.add_argument("--seconds", type=float, default=inf, help="nothing is begun or waited for after so long")
    parser.add_argument("--threads", type=int, default=2, help="of the timing, beside one thread")
    parser.add_argument("--output", type=Path, default=RESULTS / "learned_trackers.csv")
    parser.add_argument("--figures", type=Path, default=RESULTS, help="folder of the figure")
    return parser.parse_args(given)


def kept(asked: argparse.Namespace, make: Callable[[Rows], list[dict[str, str]]]) -> Callable[[Rows], None]:
    """Writes the table of the rows so far, unless the last writing took too much of the time since."""
    last, took = -inf, 0.0

    def keep(rows: Rows) -> None:
        nonlocal last, took
        begin = time.perf_counter()
        if rows and (begin - last) * KEEP_SHARE >= took:
            write_csv(asked.output, make(rows), told=False)
            last = time.perf_counter()
            took = last - begin

    return keep


def draw(rows: Rows, folder: Path) -> None:
    """The figure, where there is what draws it: a machine for computing may have no matplotlib."""
    try:
        from ssrtrack.report.figures_koss import save
        from ssrtrack.report.figures_learned import learned_figure
    except ImportError as error:
        print(f"no figure ({error}); learned_trackers_table.py --figures draws it from the table")
        return
    for path in save(learned_figure(rows), folder, "learned_trackers"):
        print(f"written: {path}")


def main(given: Sequence[str] | None = None) -> int:
    """Judge, write, tell."""
    asked = arguments(given)
    models = named([*asked.models, *asked.peers])
    digests = {model: digest_of(text) for text, model in models.items()}
    shared = setting("torch", "numpy", "numba")
    start = time.perf_counter()

    def made(rows: Rows) -> list[dict[str, str]]:
        return table(rows, shared, digests, asked.sets)

    with tempfile.TemporaryDirectory() as passing:
        rows = judge(asked, models, asked.folder or passing, kept(asked, made))
    write_csv(asked.output, made(rows))
    if any(one["part"] == "ratio" for one in rows):
        draw(whole(rows, asked.sets), asked.figures)
    missed = tell(whole(rows, asked.sets))
    print(f"{time.perf_counter() - start:.0f} s for {len(models)} model{'s' * (len(models) != 1)}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
