"""Tables of learned_trackers.py put together: models or parts that were judged apart, or on other machines.

    python benchmarks/learned_trackers_join.py KOSS.csv GKA.csv SWEEP.csv

Every row stays as it was measured, with its own device, versions, commit and date; two rows of the same thing are an
error, and so are two sets of weights under one name and seed. Rows over the suite, over a model's seeds and of settings
beside their own set are worked out anew from those of the sets, over the suite only where all its sets are there. A row
"absent" of one table is left out where another has what it lacks.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from learned_trackers import ALIKE, ORDER, written
from learned_trackers_sets import SUITE
from learned_trackers_wanted import ABOVE_OWN, ABSENT, COLUMNS, SUITE_ROW, above_own, over_seeds, over_suite
from setting import RESULTS, write_csv

NUMBERS = ("value", "low", "high", "reference_value")
COUNTS = ("flights", "updates")
ABOUT = ("weights", "device", "versions", "commit", "date")
SEVERAL = "several"  # in place of what rows that are joined differ in


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE")
    parser.add_argument("--output", type=Path, default=RESULTS / "learned_trackers.csv", help="CSV to write")
    asked = parser.parse_args(given)
    try:
        rows = joined([one for path in asked.tables for one in read(path)])
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    write_csv(asked.output, rows)
    return 0


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were measured, numbers as numbers.

    Raises:
        ValueError: it is no such table.
    """
    with path.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    if lacks := missing_of(rows[0]) if rows else "rows":
        raise ValueError(f"{path} is no table of learned_trackers.py: it lacks {lacks}")
    for one in rows:
        one |= {key: float(one[key]) if one[key] else nan for key in NUMBERS}
        one |= {key: int(one[key] or 0) for key in COUNTS}
    return [one for one in rows if one["set"] != SUITE_ROW and one["part"] != ABOVE_OWN]


def missing_of(row: dict[str, Any]) -> str:
    """Columns that are not there."""
    return ", ".join(sorted({*COLUMNS, *ABOUT} - set(row)))


def joined(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """All rows in the order of the judge's table, those over the suite and over seeds added.

    Raises:
        ValueError: the same thing twice, or two sets of weights that are called alike.
    """
    rows = without_filled(rows)
    seen: set[tuple[str, ...]] = set()
    weights: dict[tuple[str, str], str] = {}
    for one in rows:
        key = tuple(str(one[name]) for name in ("part", "set", "model", "seed", "measure"))
        if key in seen:
            raise ValueError(f"two rows of {', '.join(key)}; give each table once")
        seen.add(key)
        if weights.setdefault((one["model"], one["seed"]), one["weights"]) != one["weights"]:
            raise ValueError(f"two sets of weights are called {one['model']} with seed {one['seed']}; judge them again")
    over = over_suite(rows, tuple(SUITE))
    for one in over:
        own = [r for r in rows if all(r[k] == one[k] for k in ("part", "model", "seed", "measure"))]
        one |= {key: common(own, key) for key in ABOUT}
    above = above_own(rows, ALIKE)
    for one in above:
        own = [r for r in rows if r["part"] == "transfer" and all(r[k] == one[k] for k in ("set", "model", "seed"))]
        one |= {key: common(own, key) for key in ABOUT}
    seeds = over_seeds(over)
    for one in seeds:
        own = [r for r in over if all(r[k] == one[k] for k in ("part", "model", "measure"))]
        one |= {key: common(own, key) for key in ABOUT}
    order = {part: i for i, part in enumerate(ORDER)}
    every = rows + above + over + seeds
    every.sort(key=lambda r: (order[r["part"]], r["model"], r["seed"], r["set"] != SUITE_ROW, r["set"]))
    return [{key: written(one[key]) for key in (*COLUMNS, *ABOUT)} for one in every]


def without_filled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without rows that say what is missing where it is not, and each of the others once."""
    there = {(r["part"], r["set"], r["model"], r["seed"]) for r in rows}
    kept, told = [], set()
    for one in rows:
        if one["part"] == ABSENT:
            part = one["measure"].partition(":")[0]
            key = "ratio" if part == "suite" else part, one["set"], one["model"], one["seed"]
            if key in there or key in told:
                continue
            told.add(key)
        kept.append(one)
    return kept


def common(rows: list[dict[str, Any]], key: str) -> str:
    """What the rows agree on."""
    found = {str(one[key]) for one in rows}
    return found.pop() if len(found) == 1 else SEVERAL


if __name__ == "__main__":
    sys.exit(main())
