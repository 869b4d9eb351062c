"""IMMs tuned on one set of the benchmark suite each: a second reference for `learned_trackers.py`.

    python benchmarks/imm_per_set.py [--sets tma-4s] [--max-plots 30000]

The IMMs that come with ssrtrack are tuned on the training splits of all four sets together, one set of numbers for
every radar. A user of one radar would tune on that one alone. Here the same four models are tuned so: for every set on
its own training split, with mixture noise and with a gate, by the likelihood of the plots and by the position error
itself; each search begins at the untuned and at the shipped numbers, and the better end on the training flights is
kept. Numbers and what they gain on validation flights go to benchmarks/imm_per_set.json, which the judge reads;
sets that were not asked for stay in it as they were.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from setting import commit
from tune_suite import VARIANT_NAMES, untuned

import ssrtrack
from ssrtrack.filters.estimators import parameters_of
from ssrtrack.simulators.suite import PREFIX, list_suite
from ssrtrack.training.tune import Tuning, tune
from ssrtrack.training.tune_job import Flights, flights_of

FILE = Path(__file__).with_suffix(".json")
OBJECTIVES = ("likelihood", "rmse")  # of the plots, and of the position (which needs true states)
FORMAT = "ssrtrack-imm-per-set-1"


def main(given: Sequence[str] | None = None) -> int:
    """Tune and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list_suite(), choices=list_suite(), metavar="SET")
    parser.add_argument("--max-plots", type=int, default=30_000, help="of each split")
    parser.add_argument("--max-iterations", type=int, default=60, help="of each search")
    parser.add_argument("--output", type=Path, default=FILE)
    asked = parser.parse_args(given)
    for name in asked.sets:
        flights = flights_of([PREFIX + name], [], max_plots=asked.max_plots)
        found = {
            f"{variant}, {objective}": entry(searched(flights, variant, objective, asked.max_iterations))
            for variant in VARIANT_NAMES
            for objective in OBJECTIVES
        }
        about = {
            "command": shlex.join(["python", "benchmarks/imm_per_set.py", *(sys.argv[1:] if given is None else given)]),
            "software": ssrtrack.__version__,
            "commit": commit(),
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "training": {"split": "train", "flights": flights.training[0].flights, "plots": flights.training[0].plots},
        }
        write(asked.output, name, about | {"tuned": found})
        for what, one in found.items():
            told = one["validation"]
            print(f"{name}, {what}: position {told['position_rmse_m']} m, velocity {told['velocity_rmse_mps']} m/s")
    return 0


def searched(flights: Flights, variant: str, objective: str, max_iterations: int) -> Tuning:
    """The better of two searches on the training flights: a gate's objective has steps to be caught on."""
    starts = untuned("imm", variant), parameters_of(VARIANT_NAMES[variant])
    ends = [
        tune(
            "imm", flights.training, flights.validation, variant=variant, start=start, objective=objective,
            max_iterations=max_iterations,
        )
        for start in starts
    ]  # fmt: skip
    return max(ends, key=lambda end: end.objective_after)


def entry(tuning: Tuning) -> dict[str, Any]:
    """What is kept of a search: numbers, and figures on validation flights, which chose nothing."""
    told = tuning.validation_after[0].to_dict()
    return {
        "parameters": tuning.after,
        "evaluations": tuning.evaluations,
        "seconds": round(tuning.seconds, 1),
        "validation": {key: float(f"{value:.5g}") for key, value in told.items()},
    }


def write(path: Path, name: str, one: Mapping[str, Any]) -> None:
    """Put one set's entry into the file."""
    sets = read(path) if path.exists() else {}
    whole = {"format": FORMAT, "sets": dict(sorted((sets | {name: one}).items()))}
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def read(path: Path = FILE) -> dict[str, Any]:
    """Entries by set.

    Raises:
        ValueError: it is no such file.
    """
    whole = json.loads(path.read_text("utf-8"))
    if whole.get("format") != FORMAT:
        raise ValueError(f"{path} is {whole.get('format')!r}, expected {FORMAT!r}; make it with imm_per_set.py")
    sets: dict[str, Any] = whole["sets"]
    return sets


def trackers(name: str, path: Path = FILE) -> dict[str, str]:
    """The IMMs tuned on a set, as `-t` takes them: text -> what they are called; none where the set has none."""
    found = {}
    for what, one in read(path).get(name, {}).get("tuned", {}).items():
        numbers = ",".join(f"{key}={'none' if value is None else value}" for key, value in one["parameters"].items())
        found[f"imm:{numbers}"] = f"imm tuned on {name} ({what})"
    return found


if __name__ == "__main__":
    sys.exit(main())
