"""CAT048 records per second: ours (reference, all fields as columns, Plots) beside asterix-decoder, one core.

Reads the real hour under SSRTRACK_DATA, or records of our own encoder without it. Every case is checked for equal
records first; on a difference nothing is printed but the difference.

    python benchmarks/asterix_decode.py [--repeats 7]
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import asterix
import numpy as np
from setting import RESULTS, setting, write_csv

from ssrtrack.data import Plots, Radar
from ssrtrack.io.asterix import decode
from ssrtrack.io.asterix_export import encode
from ssrtrack.io.asterix_fast import parts, records, stream
from ssrtrack.io.asterix_stream import PlotStream


def recording() -> Path:
    """The real hour, or 44,085 records made here."""
    root = os.environ.get("SSRTRACK_DATA")
    if root:
        return Path(root) / "recordings" / "barcelona_cat048_1h.ast"
    rng, n = np.random.default_rng(0), 44_085
    plots = Plots(
        time_s=np.sort(rng.uniform(28800, 32400, n)), radar_id=np.zeros(n, int), range_m=rng.uniform(1e3, 1e5, n),
        azimuth_rad=rng.uniform(0, 6.28, n), mode3a=rng.integers(0, 4096, n), address=rng.integers(0, 200, n),
        pressure_altitude_m=rng.uniform(0, 12e3, n), callsign=np.full(n, b"ABC123"), plot_type=np.full(n, 5),
        ground_speed_mps=rng.uniform(50, 250, n), mach=rng.uniform(0.2, 0.9, n), mcp_altitude_m=rng.uniform(0, 12e3, n),
    )  # fmt: skip
    path = Path(tempfile.mkdtemp()) / "made.ast"
    path.write_bytes(b"".join(encode(plots, Radar(name=[b"made"], sac=[1], sic=[1]), records_per_block=1)))
    return path


def differences(path: Path, data: bytes) -> list[str]:
    """What is not equal between the readers."""
    reference = [r.items for r in decode(data)]
    fast = [r.items for columns in stream(path) for r in records(columns)]
    plots = Plots.concat([chunk.plots for chunk in PlotStream(path)])
    theirs = asterix.parse(data, verbose=False)
    found = []
    if fast != reference:
        found.append("fast and reference records differ")
    if len(theirs) != len(reference):
        found.append(f"{len(reference)} records here, {len(theirs)} in asterix-decoder")
    elif any(
        (r["140"]["TOD"] / 128, r["040"]["RHO"] / 256) != (t["I140"]["ToD"]["val"], t["I040"]["RHO"]["val"])
        for r, t in zip(reference, theirs, strict=True)
    ):
        found.append("times or ranges differ from asterix-decoder's")
    ranges = np.sort([r["040"]["RHO"] * 1852 / 256 for r in reference])
    if len(plots) != len(reference) or not np.array_equal(np.sort(plots.range_m), ranges):
        found.append("plots and reference records differ")
    return found


def rates(cases: dict[str, Callable[[], object]], count: int, repeats: int) -> dict[str, list[float]]:
    """Records per second of `repeats` rounds; each round runs every case, so that other load meets them all.

    Python's cycle collector is off: it would cost whoever makes dictionaries (asterix-decoder, our reference) two
    thirds of their speed, which says nothing about decoding.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    gc.disable()
    for work in cases.values():
        work()
    for _ in range(repeats):
        for name, work in cases.items():
            start = perf_counter()
            work()
            found[name].append(count / (perf_counter() - start))
            gc.collect()
    gc.enable()
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=7)
    arguments.add_argument("--output", type=Path, default=RESULTS / "asterix_decode.csv", help="CSV to write")
    given = arguments.parse_args()
    repeats = given.repeats
    path = recording()
    data = path.read_bytes()
    if red := differences(path, data):
        print("NOT EQUAL, no speed is given:", *red, sep="\n  ")
        return 1
    count = sum(1 for _ in decode(data))
    cases: dict[str, Callable[[], object]] = {
        "ours, reference (dictionaries)": lambda: list(decode(data)),
        "ours, all fields as columns": lambda: [parts(columns) for columns in stream(path)],
        "ours, Plots in time order": lambda: list(PlotStream(path)),
        "asterix-decoder": lambda: asterix.parse(data, verbose=False),
    }
    rows = []
    print(f"{count} records of {path.name}, {len(data)} octets; records per second")
    for name, measured in rates(cases, count, repeats).items():
        low, middle, high = np.percentile(measured, (20, 50, 80))
        print(f"{name:32} p20 {low:12,.0f}   p50 {middle:12,.0f}   p80 {high:12,.0f}")
        row = {"case": name, "records_per_s_p20": round(low), "records_per_s_p50": round(middle)}
        row |= {"records_per_s_p80": round(high)} | setting("numpy", "numba", "asterix-decoder")
        rows.append(row)
    write_csv(given.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
