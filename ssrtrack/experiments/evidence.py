"""What the experiments on KOSS share: their command line, their table, their picture."""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ssrtrack.report.figures_koss import save

Row = Mapping[str, str | int | float]
Result = TypeVar("Result")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV file of rows that have the same keys; folders are made."""
    if not rows:
        raise ValueError(f"no rows for {path}: an experiment's table has at least one")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def rounded(value: float, digits: int = 5) -> float:
    """`value` to so many significant digits: what a table shows, and what makes its lines short."""
    return float(f"{value:.{digits}g}")


def main(
    name: str, about: str, compute: Callable[[], Result], table: Callable[[Result], Sequence[Row]],
    draw: Callable[[Result], Any],
) -> int:  # fmt: skip
    """Compute once and write `name`.csv, .svg and .png into the folder that --output names."""
    parser = argparse.ArgumentParser(
        prog=f"python -m ssrtrack.experiments.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the table and the picture")
    folder = parser.parse_args().output
    result = compute()
    write_rows(folder / f"{name}.csv", table(result))
    written = [folder / f"{name}.csv", *save(draw(result), folder, name)]
    sys.stdout.write("".join(f"written: {path}\n" for path in written))
    return 0
