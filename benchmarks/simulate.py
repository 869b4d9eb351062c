"""Plots per second of processor time of the simulator on one core, truth rows included, and memory for a day.

    python benchmarks/simulate.py

Each built-in scenario, and a terminal area of ten times the traffic, is run several times; the p20, p50 and p80 of
plots per second are written to benchmarks/results/simulate.csv. Before that, plots without error must agree with cubic
interpolation of the truth to a centimetre, or nothing is reported.

    python benchmarks/simulate.py --memory

The en-route scenario for 1 and for 24 hours, each in a process of its own: its peak resident memory and its wall time
with one and with two workers, to benchmarks/results/simulate_memory.csv.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicHermiteSpline
from setting import RESULTS, setting, write_csv

from ssrtrack.data import Plots, Truth
from ssrtrack.geodesy import ecef_to_enu, enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.scenario import list_scenarios, load_scenario, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_radar import Detection, Noise, Quantisation, RadarSpec
from ssrtrack.units import DEG_RAD

TOLERANCE_M = 0.01
SEED = 1


def cases() -> Iterator[tuple[str, Scenario]]:
    """Name and scenario of everything timed."""
    for name in list_scenarios():
        yield name, load_scenario(name)
    tma = load_scenario("tma")
    yield (
        "tma, ten times the traffic",
        replace(tma, traffic=tuple(replace(f, number=10 * f.number) for f in tma.traffic)),
    )
    bare = tuple(replace(r, registers=type(r.registers)()) for r in tma.radar)
    yield "tma, without registers", replace(tma, radar=bare)


def worst_error_m(scenario: Scenario) -> float:
    """Largest distance in range or across it between noise-free plots and the interpolated truth."""
    given = scenario.radar[0]
    spec = RadarSpec(
        name=given.name, latitude_deg=given.latitude_deg, longitude_deg=given.longitude_deg, height_m=given.height_m,
        rotation_period_s=given.rotation_period_s, rotation_jitter=given.rotation_jitter, wobble=given.wobble,
        coverage=given.coverage, noise=Noise(sigma_range_m=0.0, sigma_azimuth_deg=0.0),
        detection=Detection(probability=1.0),
        quantisation=Quantisation(range=False, azimuth=False, time=False, altitude=False, bds=False),
    )  # fmt: skip
    parts = list(simulate(replace(scenario, radar=(spec,), duration_s=600.0), SEED))
    plots, truth = Plots.concat([p for p, _ in parts]), Truth.concat([t for _, t in parts])
    site = (spec.latitude_deg * DEG_RAD, spec.longitude_deg * DEG_RAD, spec.height_m)
    worst = 0.0
    for flight in np.unique(plots.truth_id):
        p, t = plots[plots.truth_id == flight], truth[truth.truth_id == flight]
        lat, lon = t.latitude_deg * DEG_RAD, t.longitude_deg * DEG_RAD
        enu = np.stack([t.v_east_mps, t.v_north_mps, t.v_up_mps], 1)
        velocity = np.einsum("nij,ni->nj", enu_rotation(lat, lon), enu)
        path = CubicHermiteSpline(t.time_s, geodetic_to_ecef(lat, lon, t.height_m), velocity)
        east, north, up = ecef_to_enu(path(p.time_s), site).T
        along = np.sqrt(east**2 + north**2 + up**2) - p.range_m
        across = east * np.cos(p.azimuth_rad) - north * np.sin(p.azimuth_rad)
        worst = max(worst, float(np.abs(along).max()), float(np.abs(across).max()))
    return worst


def timed(scenario: Scenario, repeats: int) -> tuple[int, int, list[float]]:
    """Plots, truth rows, and processor seconds of each run after a first one that does not count."""
    seconds = []
    plots = truth = 0
    for _ in range(repeats + 1):
        begin = time.process_time()
        plots = truth = 0
        for p, t in simulate(scenario, SEED):
            plots, truth = plots + len(p), truth + len(t)
        seconds.append(time.process_time() - begin)
    return plots, truth, seconds[1:]


def one_long_run(hours: float, workers: int) -> None:
    """Simulates the en-route scenario for some hours and prints plots, wall seconds and peak resident memory in MB."""
    scenario = replace(load_scenario("enroute"), duration_s=hours * 3600.0)
    begin = time.perf_counter()
    plots = sum(len(p) for p, _ in simulate(scenario, SEED, workers=workers))
    used = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(plots, time.perf_counter() - begin, *used)


def memory(output: Path) -> None:
    """Peak memory of short and long runs; a child's is the largest of the workers'."""
    rows = []
    for hours, workers in ((1, 1), (24, 1), (1, 2), (24, 2)):
        command = [sys.executable, __file__, "--long", str(hours), str(workers)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        plots, wall_s, peak_mb, worker_mb = text.split()
        row = {
            "scenario": "enroute", "hours": hours, "workers": workers, "plots": int(plots),
            "wall_s": f"{float(wall_s):.2f}", "peak_mb": round(float(peak_mb)),
            "peak_worker_mb": round(float(worker_mb)) if workers > 1 else "",
        }  # fmt: skip
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row | setting("numpy", "scipy"))
    write_csv(output, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "simulate.csv", help="CSV to write")
    parser.add_argument("--memory", action="store_true", help="memory and wall time of a long run instead")
    parser.add_argument("--long", nargs=2, type=int, metavar=("HOURS", "WORKERS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.long:
        return one_long_run(*given.long)
    if given.memory:
        return memory(given.output.with_name("simulate_memory.csv"))
    rows = []
    for name, scenario in cases():
        if (worst := worst_error_m(scenario)) > TOLERANCE_M:
            sys.exit(f"{name}: plots are {worst:.3f} m off the truth, expected {TOLERANCE_M} m at most; nothing timed")
        plots, truth, seconds = timed(scenario, given.repeats)
        p20, p50, p80 = np.percentile(plots / np.array(seconds), [20, 50, 80])
        row = {
            "scenario": name, "plots": plots, "truth_rows": truth, "worst_error_m": f"{worst:.4f}",
            "plots_per_s_p20": round(p20), "plots_per_s_p50": round(p50), "plots_per_s_p80": round(p80),
        }  # fmt: skip
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row | setting("numpy", "scipy"))
    write_csv(given.output, rows)


if __name__ == "__main__":
    main()
