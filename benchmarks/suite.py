"""What the benchmark suite holds: flights, plots, misses and manoeuvres of every split, and the time to make it.

    python benchmarks/suite.py

Simulates all twelve splits (a few minutes of one core) and writes benchmarks/results/suite.csv, the source of the table
in docs/suite.md. Before that, no two splits may share a place of the truth, or nothing is reported.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from setting import RESULTS, setting, write_csv

from ssrtrack.data import FALSE_PLOT, Phase, Truth
from ssrtrack.simulators.scenario import simulate
from ssrtrack.simulators.suite import SPLITS, VERSION, list_suite, load_suite

_FEW = 20  # plots that a flight needs to be worth scoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "suite.csv")
    output = parser.parse_args().output
    where = setting("numpy", "scipy")
    rows = []
    for name in list_suite():
        places: dict[str, np.ndarray] = {}
        for split in SPLITS:
            row, places[split] = measured(name, split)
            rows.append(row | where)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        whole = np.concatenate(list(places.values()))
        if len(np.unique(whole)) != sum(len(np.unique(p)) for p in places.values()):
            raise SystemExit(f"suite:{name}: splits share places of the truth")
    write_csv(output, rows)


def measured(name: str, split: str) -> tuple[dict[str, object], np.ndarray]:
    """One row of the table, and the places of the truth as complex numbers."""
    scenario, seed = load_suite(name, split)
    begin = time.process_time()
    chunks = list(simulate(scenario, seed))
    seconds = time.process_time() - begin
    ids = np.concatenate([plots.truth_id for plots, _ in chunks])
    truth = Truth.concat([rows for _, rows in chunks])
    counts = np.bincount(ids[ids >= 0])
    turn, climb, speed, steady = shares(truth)
    return {
        "name": name,
        "version": VERSION,
        "split": split,
        "seed": seed,
        "hours": round(scenario.duration_s / 3600, 2),
        "flights": len(np.unique(truth.truth_id)),
        f"flights_of_{_FEW}_plots": int((counts >= _FEW).sum()),
        "plots": int((ids != FALSE_PLOT).sum()),
        "false_plots": int((ids == FALSE_PLOT).sum()),
        "median_plots_of_flight": int(np.median(counts[counts > 0])),
        "turning": round(turn, 3),
        "climbing": round(climb, 3),
        "changing_speed": round(speed, 3),
        "steady": round(steady, 3),
        "seconds": round(seconds, 1),
    }, truth.latitude_deg + 1j * truth.longitude_deg


def shares(truth: Truth) -> tuple[float, float, float, float]:
    """Shares of flying time in turns, in climbs or descents, in speed changes, and in none of them."""
    order = np.lexsort((truth.time_s, truth.truth_id))
    time_s, flight, phase = truth.time_s[order], truth.truth_id[order], truth.phase[order]
    last = np.diff(flight) != 0
    seconds = np.where(last, 0.0, np.diff(time_s))
    phase = phase[:-1]
    of = [float(seconds[(phase & bit) > 0].sum()) for bit in (Phase.TURN, Phase.CLIMB, Phase.SPEED_CHANGE)]
    whole = float(seconds.sum())
    return of[0] / whole, of[1] / whole, of[2] / whole, float(seconds[phase == 0].sum()) / whole


if __name__ == "__main__":
    main()
