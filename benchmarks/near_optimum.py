"""How much is left to win: a reference that knows each scenario's own manoeuvres and errors, beside the tuned IMMs.

    python benchmarks/near_optimum.py
    python benchmarks/near_optimum.py --device cuda --flights 200 --hours 3 --particles 2048 4096 8192 --trackers koss

For every scenario of the benchmark suite, flights of its test split are followed by `ssrtrack.experiments.near_optimum`
with ever more particles, each number twice the one before: where ratios stop falling, the reference is at its optimum.
Ratios are of RMSE over the same updates to the IMM (mixture noise or gated) that is better there, with 95 % intervals
from a paired bootstrap over flights; --trackers are followed over the same flights. NEES over 4 and the share inside
the 95 % ellipse say whether its covariance is right. Nothing is written if with the most particles the reference is not
honest (NEES over 4 outside 0.8 to 1.25) or anywhere further off than twice the IMM's worst error: then it lost a flight
and is no reference.

About 5 µs for a particle and plot on one core: `--device cuda` for thousands of flights.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from setting import RESULTS, cuda_device, setting, write_csv

from ssrtrack.experiments.near_optimum import CELLS
from ssrtrack.experiments.near_optimum_scores import table
from ssrtrack.simulators.suite import list_suite, load_suite

HONEST = 0.8, 1.25
LOST = 2.0
GPU_CELLS = 1 << 20


def faults(row: dict[str, Any]) -> str:
    """Why a row is no reference's; empty if it is."""
    if not HONEST[0] < float(row["nees_per_n"]) < HONEST[1]:
        return f"NEES over 4 is {row['nees_per_n']}"
    if float(row["worst_m"]) > LOST * float(row["worst_imm_m"]):
        return f"it is {row['worst_m']} m off where the IMM is at most {row['worst_imm_m']} m off"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", default=list_suite(), help="names in the suite")
    parser.add_argument("--flights", type=int, default=24, help="of each scenario")
    parser.add_argument("--particles", nargs="*", type=int, default=[512, 1024, 2048], help="of each flight")
    parser.add_argument("--trackers", nargs="*", default=[], help="beside it, as `ssrtrack evaluate -t` takes them")
    parser.add_argument("--hours", type=float, default=0.6, help="of the test split, from which flights are taken")
    parser.add_argument("--seed", type=int, default=1, help="of the particles and the bootstrap")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-edge", action="store_true", help="without knowing where aircraft turn back")
    parser.add_argument("--output", type=Path, default=RESULTS / "near_optimum.csv", help="CSV to write")
    given = parser.parse_args()
    cuda = given.device.startswith("cuda")
    where = setting("torch", "numpy", "scipy", on=cuda_device() if cuda else "")
    out, wrong, last = [], [], {}
    for name in given.scenario:
        scenario, seed = load_suite(name)
        rows = table(
            scenario, seed, count=given.flights, particles=given.particles, trackers=given.trackers, hours=given.hours,
            seed=given.seed, device=given.device, edge=not given.no_edge, cells=GPU_CELLS if cuda else CELLS,
        )  # fmt: skip
        for row in rows:
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            out.append(row | where)
            last = row if row["particles"] else last
        if given.particles and (fault := faults(last)):
            wrong.append(f"{name}: {fault}")
    if wrong:
        print(f"not written, no reference: {'; '.join(wrong)}; ask for more --particles", file=sys.stderr)
        return 1
    write_csv(given.output, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
