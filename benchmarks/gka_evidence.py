"""Gated KalmaNet in low precision: solvers, condition number and ridge, gradients of a stack, and what it is beside.

    python benchmarks/gka_evidence.py [--output FOLDER] [--figures FOLDER]

`ssrtrack.experiments.gka_stability` as a table, results/gka_stability.csv; half a minute to a minute on one core, no
device asked for. With --figures the picture too.
"""

import argparse
import sys
from pathlib import Path

from setting import RESULTS, setting, write_csv

from ssrtrack.experiments.gka_stability import draw, gka_stability, table
from ssrtrack.report.figures_koss import save

NAME = "gka_stability"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--figures", type=Path, help="folder for the picture; without it none is drawn")
    options = parser.parse_args()
    result = gka_stability()
    told = setting("torch", "numpy")
    write_csv(options.output / f"{NAME}.csv", [dict(row) | told for row in table(result)])
    if options.figures:
        save(draw(result), options.figures, NAME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
