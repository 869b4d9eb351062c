"""Writes a long synthetic log by streaming, reads and evaluates it; each stage in a process of its own.

    python benchmarks/large_log.py --plots 50000000

400 aircraft are in the air at any time, each for 30 minutes: a leg, a 25° banked turn, a leg, climbing to a cruising
level, seen by one Mode S radar turning once in 4 s, with the truth every 4 s. Reports rows per second, file size and
peak memory, and refuses to report anything when what was read is not what was written.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from setting import RESULTS, setting, write_csv

import ssrtrack
from ssrtrack.data import Array, Plots, Radar, Truth
from ssrtrack.geodesy import enu_rotation, enu_to_geodetic
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.info import summarise
from ssrtrack.scoring.evaluate import evaluate as score
from ssrtrack.units import DEG_RAD, FL_M, G_MPS2, KT_MPS, NM_M

SITE = (41.3 * DEG_RAD, 2.1 * DEG_RAD, 30.0)
EARTH_M = 6_371_000.0
ROTATION_S, SLOTS, FLIGHT_S, SCANS = 4.0, 400, 1800.0, 250
DETECTED, SIGMA_RANGE_M, SIGMA_AZIMUTH_RAD = 0.98, 30.0, 0.06 * DEG_RAD
BANK_RAD = 25.0 * DEG_RAD
SEED = 20230502
TRACKER = "alpha-beta"  # the one that is vectorised over flights; memory does not depend on which
CORE = ("mode3a", "pressure_altitude_m", "address")
MIB = 1024.0 * 1024.0


def fly(time_s: Array, slot: Array) -> dict[str, Array]:
    """State at `time_s` of the aircraft that then is in `slot`: position and velocity in the radar's ENU frame."""
    turn = np.floor(time_s / FLIGHT_S - slot / SLOTS).astype(np.int64)
    first = int(turn.min())
    batches = [_flights(first + i) for i in range(int(turn.max()) - first + 1)]
    p = {name: np.stack([batch[name] for batch in batches])[turn - first, slot] for name in batches[0]}
    age_s = time_s - (turn + slot / SLOTS) * FLIGHT_S
    before, during = np.minimum(age_s, p["turn_start_s"]), np.clip(age_s - p["turn_start_s"], 0.0, p["turn_s"])
    after = np.maximum(age_s - p["turn_start_s"] - p["turn_s"], 0.0)
    speed, rate, heading0 = p["speed_mps"], p["rate_radps"], p["heading_rad"]
    heading = heading0 + rate * during
    arc_east = (np.cos(heading0) - np.cos(heading)) / rate
    arc_north = (np.sin(heading) - np.sin(heading0)) / rate
    east = p["east_m"] + speed * (before * np.sin(heading0) + arc_east + after * np.sin(heading))
    north = p["north_m"] + speed * (before * np.cos(heading0) + arc_north + after * np.cos(heading))
    climbing = p["level_m"] + p["climb_mps"] * age_s < p["cruise_m"]
    altitude = np.where(climbing, p["level_m"] + p["climb_mps"] * age_s, p["cruise_m"])
    v_east, v_north = speed * np.sin(heading), speed * np.cos(heading)
    v_up = np.where(climbing, p["climb_mps"], 0.0) - (east * v_east + north * v_north) / EARTH_M
    up = altitude - (east**2 + north**2) / (2.0 * EARTH_M)
    banked = np.where((during > 0.0) & (after == 0.0), np.sign(rate) * BANK_RAD, 0.0)
    flight = (turn + 1) * SLOTS + slot
    return {
        "enu_m": np.stack([east, north, up], -1),
        "v_mps": np.stack([v_east, v_north, v_up], -1),
        "heading_rad": heading,
        "speed_mps": speed,
        "roll_rad": banked,
        "climbing": climbing,
        "flight": flight,
    }


def _flights(batch: int) -> dict[str, Array]:
    """Parameters of the flights that follow each other `batch`-th in every slot."""
    rng = np.random.default_rng((SEED, batch + 1))
    speed = rng.uniform(110.0, 250.0, SLOTS)
    rate = G_MPS2 * np.tan(BANK_RAD) / speed
    heading = rng.uniform(0.0, 2.0 * np.pi, SLOTS)
    aside, ahead = rng.uniform(-120.0 * NM_M, 120.0 * NM_M, SLOTS), rng.uniform(-0.6, -0.4, SLOTS) * FLIGHT_S * speed
    return {
        "speed_mps": speed,
        "rate_radps": rng.choice([-1.0, 1.0], SLOTS) * rate,
        "heading_rad": heading,
        "east_m": ahead * np.sin(heading) + aside * np.cos(heading),
        "north_m": ahead * np.cos(heading) - aside * np.sin(heading),
        "turn_start_s": rng.uniform(300.0, 1500.0, SLOTS),
        "turn_s": rng.uniform(10.0, 90.0, SLOTS) * DEG_RAD / rate,
        "level_m": rng.uniform(60.0, 200.0, SLOTS) * FL_M,
        "cruise_m": rng.integers(20, 41, SLOTS) * 10.0 * FL_M,
        "climb_mps": rng.uniform(5.0, 15.0, SLOTS),
    }


def see(start_s: float, rng: np.random.Generator) -> Plots:
    """Plots of 250 scans from `start_s` on, in time order."""
    scan, slot = np.divmod(np.arange(SCANS * SLOTS), SLOTS)
    scan_s = start_s + scan * ROTATION_S
    time_s = scan_s + 0.5 * ROTATION_S
    for _ in range(2):  # the beam meets the aircraft where it is by then
        enu = fly(time_s, slot)["enu_m"]
        azimuth = np.arctan2(enu[:, 0], enu[:, 1]) % (2.0 * np.pi)
        time_s = scan_s + azimuth / (2.0 * np.pi) * ROTATION_S
    seen = np.flatnonzero(rng.random(len(time_s)) < DETECTED)
    seen = seen[np.argsort(time_s[seen], kind="stable")]
    time_s, state = time_s[seen], fly(time_s[seen], slot[seen])
    enu, flight = state["enu_m"], state["flight"]
    noisy_range = np.linalg.norm(enu, axis=1) + rng.normal(0.0, SIGMA_RANGE_M, len(seen))
    azimuth = np.arctan2(enu[:, 0], enu[:, 1]) + rng.normal(0.0, SIGMA_AZIMUTH_RAD, len(seen))
    height_m = enu_to_geodetic(enu, SITE)[2]
    replied = rng.random(len(seen)) < 0.9
    return Plots(
        time_s=np.round(time_s * 128.0) / 128.0,
        radar_id=np.zeros(len(seen), np.int16),
        range_m=np.round(np.abs(noisy_range) / (NM_M / 256.0)) * (NM_M / 256.0),
        azimuth_rad=np.round(azimuth % (2.0 * np.pi) / (2.0 * np.pi / 65536.0)) % 65536.0 * (2.0 * np.pi / 65536.0),
        mode3a=(flight * 2654435761 >> 7) % 4096,
        pressure_altitude_m=np.round(height_m / (FL_M / 4.0)).astype(np.float32) * np.float32(FL_M / 4.0),
        address=0x340000 + flight,
        callsign=_callsigns(flight),
        plot_type=np.full(len(seen), 5, np.uint8),
        sigma_range_m=np.full(len(seen), SIGMA_RANGE_M, np.float32),
        sigma_azimuth_rad=np.full(len(seen), SIGMA_AZIMUTH_RAD, np.float32),
        truth_id=flight,
        roll_rad=np.where(replied, state["roll_rad"], np.nan).astype(np.float32),
        ground_speed_mps=_stepped(state["speed_mps"], 2.0 * KT_MPS, replied),
        track_angle_rad=_stepped(state["heading_rad"] % (2.0 * np.pi), np.pi / 1024.0, replied),
    )


def _stepped(values: Array, step: float, known: Array) -> Array:
    return np.where(known, np.round(values / step) * step, np.nan).astype(np.float32)


def _callsigns(flight: Array) -> Array:
    first = int(flight.min())
    texts = np.array([f"SIM{n:05d}".encode() for n in range(first, int(flight.max()) + 1)], "S8")
    return texts[flight - first]


def true_states(start_s: float) -> Truth:
    """The truth during 250 scans from `start_s` on, every 4 s."""
    step, slot = np.divmod(np.arange(SCANS * SLOTS), SLOTS)
    time_s = start_s + step * ROTATION_S
    state = fly(time_s, slot)
    latitude, longitude, height_m = enu_to_geodetic(state["enu_m"], SITE)
    ecef = state["v_mps"] @ enu_rotation(np.float64(SITE[0]), np.float64(SITE[1]))
    v_mps = np.einsum("nij,nj->ni", enu_rotation(latitude, longitude), ecef)
    turning = state["roll_rad"] != 0.0
    return Truth(
        time_s=time_s,
        truth_id=state["flight"],
        latitude_deg=latitude / DEG_RAD,
        longitude_deg=longitude / DEG_RAD,
        height_m=height_m,
        v_east_mps=v_mps[:, 0],
        v_north_mps=v_mps[:, 1],
        v_up_mps=v_mps[:, 2],
        phase=turning + 2 * state["climbing"],
    )


class Clock:
    """Adds up the seconds spent in the parts of a stage."""

    def __init__(self, *parts: str) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self.started = time.perf_counter()

    def lap(self, part: str) -> None:
        """Counts the time since the last lap as spent in `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self.started
        self.started = now


def write(path: Path, plots: int) -> dict[str, Any]:
    """Generates and writes the log; the seconds of making the data and of writing it are kept apart."""
    made = Provenance("large_log.py", datetime(2023, 5, 2, tzinfo=UTC), ssrtrack.__version__, "benchmark", seed=SEED)
    rng, clock, start_s = np.random.default_rng(SEED), Clock("generate", "write plots", "write truth"), 0.0
    plot_rows, truth_rows, range_m, latitude_deg = 0, 0, 0.0, 0.0
    with LogWriter(path, made, radar()) as log:
        while plot_rows < plots:
            seen, truth = see(start_s, rng)[: plots - plot_rows], true_states(start_s)
            start_s += SCANS * ROTATION_S
            plot_rows, truth_rows = plot_rows + len(seen), truth_rows + len(truth)
            range_m, latitude_deg = range_m + seen.range_m.sum(), latitude_deg + truth.latitude_deg.sum()
            clock.lap("generate")
            log.append_plots(seen)
            clock.lap("write plots")
            log.append_truth(truth)
            clock.lap("write truth")
    clock.lap("write plots")
    rows = {"generate": plot_rows, "write plots": plot_rows, "write truth": truth_rows}
    return {"rows": rows, "seconds": clock.seconds, "sums": {"range_m": range_m, "latitude_deg": latitude_deg}}


def radar() -> Radar:
    """The one radar that sees the aircraft."""
    latitude_deg, longitude_deg, height_m = SITE[0] / DEG_RAD, SITE[1] / DEG_RAD, SITE[2]
    return Radar(
        name=np.array([b"synthetic"]),
        latitude_deg=np.array([latitude_deg]),
        longitude_deg=np.array([longitude_deg]),
        height_m=np.array([height_m]),
        rotation_period_s=np.array([ROTATION_S]),
    )


def read(path: Path, plots: int) -> dict[str, Any]:
    """Reads every column of plots and truth."""
    clock = Clock("read plots", "read truth")
    with LogReader(path) as log:
        plot_rows, range_m = _drain((len(t), float(t.range_m.sum())) for t in log.plots())
        clock.lap("read plots")
        truth_rows, latitude_deg = _drain((len(t), float(t.latitude_deg.sum())) for t in log.truth())
        clock.lap("read truth")
    rows = {"read plots": plot_rows, "read truth": truth_rows}
    return {"rows": rows, "seconds": clock.seconds, "sums": {"range_m": range_m, "latitude_deg": latitude_deg}}


def read_core(path: Path, plots: int) -> dict[str, Any]:
    """Reads what a tracker needs: time, radar, range, azimuth, Mode 3/A, altitude and address."""
    start = time.perf_counter()
    with LogReader(path) as log:
        rows, range_m = _drain((len(t), float(t.range_m.sum())) for t in log.plots(columns=CORE))
    seconds = time.perf_counter() - start
    return {"rows": {"read core": rows}, "seconds": {"read core": seconds}, "sums": {"range_m": range_m}}


def info(path: Path, plots: int) -> dict[str, Any]:
    """Summarises the log."""
    start = time.perf_counter()
    summary = summarise(path)
    if abs(summary.radars[0].rotation_period_s - ROTATION_S) > 0.01:
        raise SystemExit(f"info finds a rotation of {summary.radars[0].rotation_period_s} s, not {ROTATION_S} s")
    return {"rows": {"info": summary.plots}, "seconds": {"info": time.perf_counter() - start}, "sums": {}}


def evaluate(path: Path, plots: int) -> dict[str, Any]:
    """Tracks every flight with the alpha-beta filter and scores it against the truth."""
    start = time.perf_counter()
    result = score([path], [TRACKER])
    scores = result.trackers[0].scores
    if scores.position_rmse_m is None or not scores.position_rmse_m < 1000.0 or scores.updates < 0.9 * plots:
        raise SystemExit(f"evaluate: {scores.updates} updates of {plots} plots, RMSE {scores.position_rmse_m} m")
    return {"rows": {"evaluate": result.plots}, "seconds": {"evaluate": time.perf_counter() - start}, "sums": {}}


STAGES = {"write": write, "read": read, "read_core": read_core, "info": info, "evaluate": evaluate}


def _drain(tables: Iterator[tuple[int, float]]) -> tuple[int, float]:
    rows, total = 0, 0.0
    for count, part in tables:
        rows, total = rows + count, total + part
    return rows, total


def run_stage(stage: str, path: Path, plots: int) -> dict[str, Any]:
    """Runs one stage in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--stage", stage, "--log", str(path), "--plots", str(plots)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def check(stage: str, found: dict[str, Any], written: dict[str, Any], plots: int) -> None:
    """Stops when a stage did not see every row that was written."""
    for name, rows in found["rows"].items():
        expected = written["rows"]["write truth"] if "truth" in name else plots
        if rows != expected:
            raise SystemExit(f"{stage}: {name} saw {rows} rows, expected {expected}")
    for name, total in found["sums"].items():
        if not np.isclose(total, written["sums"][name], rtol=1e-9):
            raise SystemExit(f"{stage}: the sum of {name} is {total}, written was {written['sums'][name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", type=int, default=50_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "large_log.csv", help="CSV to write")
    parser.add_argument("--folder", type=Path, help="where the log is kept while it is needed (default: temporary)")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        found = STAGES[given.stage](given.log, given.plots)
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rows = measure(Path(folder) / "large.h5", given.plots)
    write_csv(given.output, rows)


def measure(path: Path, plots: int) -> list[dict[str, Any]]:
    """All stages in turn; one result row for each part of a stage."""
    results, written, measured_with = [], {}, setting("numpy", "h5py")
    for stage in STAGES:
        found = run_stage(stage, path, plots)
        written = found if stage == "write" else written
        check(stage, found, written, plots)
        for name, seconds in found["seconds"].items():
            rows = found["rows"][name]
            row = {
                "stage": name,
                "plots": plots,
                "rows": rows,
                "seconds": f"{seconds:.2f}",
                "rows_per_s": round(rows / seconds),
                "peak_rss_mib": round(found["peak_mib"]),
                "file_mib": round(path.stat().st_size / MIB),
            }
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            results.append(row | measured_with)
    return results


if __name__ == "__main__":
    main()
