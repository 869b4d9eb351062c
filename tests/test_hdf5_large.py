"""Memory does not grow with the log, and the long-log benchmark runs."""

import csv
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ssrtrack.data import Plots, Radar
from ssrtrack.io.hdf5 import LogReader, LogWriter, Provenance
from ssrtrack.io.hdf5_schema import CHUNK_ROWS
from ssrtrack.io.info import summarise

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "large_log.py"
CHUNKS = 16
BYTES_PER_ROW = sum(np.dtype(spec.dtype).itemsize for spec in Plots.specs().values())


def one_chunk(start_s: float) -> Plots:
    """A chunk's worth of plots without any absent column, 100 a second and half a minute out of order."""
    rng, n = np.random.default_rng(0), CHUNK_ROWS
    columns = {name: np.full(n, spec.low or 0.0) for name, spec in Plots.specs().items() if spec.dtype[0] != "S"}
    columns["time_s"] = start_s + np.arange(n) / 100.0 + rng.uniform(-15.0, 15.0, n)
    columns["range_m"] = rng.uniform(1e3, 2e5, n)
    return Plots(**columns, callsign=np.full(n, b"BAW12"))


def test_writing_reading_and_summarising_take_a_few_chunks_of_memory(tmp_path: Path) -> None:
    path, made = tmp_path / "log.h5", Provenance("test", datetime(2023, 5, 2, tzinfo=UTC), "0.1.0", "now")
    whole, peaks, rows = CHUNKS * CHUNK_ROWS * BYTES_PER_ROW, dict[str, int](), 0
    tracemalloc.start()  # follows NumPy's arrays
    try:
        with LogWriter(path, made, Radar(name=np.array([b"north"]))) as log:
            for i in range(CHUNKS):
                log.append_plots(one_chunk(i * CHUNK_ROWS / 100.0))
        peaks["write"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with LogReader(path) as log:
            for plots in log.plots(rows=CHUNK_ROWS):
                rows += len(plots)
        peaks["read"] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == CHUNKS * CHUNK_ROWS
    # Reading holds the chunk given out, the next one, and both copies while they are put into order.
    assert peaks["write"] < whole / 3, f"{peaks} of {whole}"
    assert peaks["read"] < whole / 3, f"{peaks} of {whole}"
    assert summarise(path).plots == rows


def test_the_long_log_benchmark_runs_and_reports_every_stage(tmp_path: Path) -> None:
    output = tmp_path / "results.csv"
    command = [sys.executable, BENCHMARK, "--plots", "250000", "--output", output, "--folder", tmp_path]
    subprocess.run(command, check=True, timeout=200, stdout=subprocess.PIPE)
    with output.open() as file:
        found = {row["stage"]: row for row in csv.DictReader(file)}
    assert {"write plots", "write truth", "read plots", "read truth", "read core", "info"} <= set(found)
    for row in found.values():
        assert int(row["rows"]) >= int(row["plots"]) == 250_000
        assert int(row["peak_rss_mib"]) < 1024
