"""Parameters of the suite's reference, the four-model IMM, and what tuning gains on each of its scenarios.

    python benchmarks/tune_suite.py [--ship]

The IMM is tuned by likelihood on the four training splits together (each counts alike), once with mixture noise and
once with a gate, and again on each split by itself. Every result is scored on flights of the validation splits, beside
the untuned defaults; the rows go to benchmarks/results/tune_suite.csv. With --ship the joint parameters replace those
that come with the package (ssrtrack/filters/tuned). `--estimators kf,ekf` tunes others as well; `--compare` also tries
the objectives and the methods of search on the joint problem.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from setting import RESULTS, setting, write_csv

import ssrtrack
from ssrtrack.filters.estimators import TUNED, make_estimator, untuned_parameters
from ssrtrack.simulators.suite import PREFIX, list_suite
from ssrtrack.training.likelihood import Figures, figures
from ssrtrack.training.tune import METHODS, OBJECTIVES, Tuning, tune
from ssrtrack.training.tune_flights import Group
from ssrtrack.training.tune_job import Flights, flights_of, tuned_of, write_tuned

GATE = 0.9999
VARIANT_NAMES = {"mixture": "imm", "gated": "imm-gated"}
DESCRIPTION = "Reference of the benchmark suite: tuned on its four training splits together"


def untuned(name: str, variant: str) -> dict[str, Any]:
    """Defaults of the code alone; the gated variant has its gate, the mixture the tail of the documentation."""
    more = {"gate": GATE} if variant == "gated" else {"tail_weight": 0.01, "tail_scale": 8.0}
    return untuned_parameters(name) | (more if variant != "plain" else {})


def tuned(name: str, variant: str, found: Flights, **options: Any) -> Tuning:
    """A search that begins at the untuned defaults, whatever is shipped at present."""
    start = untuned(name, variant)
    return tune(name, found.training, found.validation, variant=variant, start=start, **options)


def rows_of(
    name: str, variant: str, what: str, parameters: dict[str, Any], groups: Sequence[Group], tuning: Tuning | None
) -> Iterator[dict[str, Any]]:
    """One row for each scenario."""
    for group in groups:
        found: Figures = figures(make_estimator(name, **parameters), group)
        numbers = {k: f"{v:.5g}" for k, v in found.to_dict().items()}
        cost = {"evaluations": tuning.evaluations, "seconds": f"{tuning.seconds:.1f}"} if tuning else {}
        row = {"suite": group.name, "estimator": name, "variant": variant, "parameters": what, **numbers}
        print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        yield row | {"evaluations": "", "seconds": ""} | cost


def alone(found: Flights, k: int) -> Flights:
    """Flights of one scenario."""
    return Flights((found.training[k],), (found.validation[k],))


def main() -> None:
    """Tune, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ship", action="store_true", help="replace the parameters that come with the package")
    parser.add_argument("--max-plots", type=int, default=60_000, help="of each split")
    parser.add_argument("--estimators", default="", help="others to tune on all splits, with mixture noise: kf,ekf,...")
    parser.add_argument("--compare", action="store_true", help="also try every objective and method")
    parser.add_argument("--joint-only", action="store_true", help="leave out the tuning by scenario")
    parser.add_argument("--output", type=Path, default=RESULTS / "tune_suite.csv")
    asked = parser.parse_args()
    scenarios = [PREFIX + name for name in list_suite()]
    found = flights_of(scenarios, [], max_plots=asked.max_plots)
    rows: list[dict[str, Any]] = []
    for variant, shipped in VARIANT_NAMES.items():
        rows += rows_of("imm", variant, "untuned", untuned("imm", variant), found.validation, None)
        joint = tuned("imm", variant, found)
        rows += rows_of("imm", variant, "tuned on all", joint.after, found.validation, joint)
        if asked.ship:
            ship(shipped, joint, found)
    for variant in () if asked.joint_only else VARIANT_NAMES:
        for k in range(len(scenarios)):
            one = tuned("imm", variant, alone(found, k))
            rows += rows_of("imm", variant, "tuned on this", one.after, alone(found, k).validation, one)
    for name in filter(None, asked.estimators.split(",")):
        rows += rows_of(name, "plain", "untuned", untuned(name, "plain"), found.validation, None)
        for variant in ("plain", "mixture"):
            joint = tuned(name, variant, found)
            print(name, variant, {key: joint.after[key] for key in joint.searched})
            rows += rows_of(name, variant, "tuned on all", joint.after, found.validation, joint)
    if asked.compare:
        for objective, method in [(o, METHODS[0]) for o in OBJECTIVES[1:]] + [(OBJECTIVES[0], m) for m in METHODS[1:]]:
            joint = tuned("imm", "mixture", found, objective=objective, method=method)
            what = f"tuned on all, {objective}, {method}"
            rows += rows_of("imm", "mixture", what, joint.after, found.validation, joint)
    write_csv(asked.output, [row | setting("numba", "scipy") for row in rows])


def ship(name: str, joint: Tuning, found: Flights) -> None:
    """Replace a file of the package."""
    tuned = tuned_of(
        replace(joint, estimator=name),
        found,
        description=DESCRIPTION,
        software=ssrtrack.__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=shlex.join(["python", *sys.argv]),
    )
    write_tuned(TUNED[name], tuned)
    print(f"written: {TUNED[name]}")


if __name__ == "__main__":
    main()
