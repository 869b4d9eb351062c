"""The long-log benchmark, at a size that shows whether memory grows with the log."""

import csv
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "large_log.py"


def measured(folder: Path, plots: int) -> dict[str, dict[str, str]]:
    output = folder / "results.csv"
    command = [sys.executable, BENCHMARK, "--plots", str(plots), "--output", output, "--folder", folder]
    subprocess.run(command, check=True, timeout=200)
    with output.open() as file:
        return {row["stage"]: row for row in csv.DictReader(file)}


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    short, long = measured(tmp_path, 600_000), measured(tmp_path, 2_400_000)
    assert {"write plots", "write truth", "read plots", "read truth", "read core", "info"} <= set(long)
    for stage, row in long.items():
        assert int(row["plots"]) == 2_400_000
        # The longer log's further plots take 118 MiB, its truth 89 MiB.
        assert int(row["peak_rss_mib"]) < int(short[stage]["peak_rss_mib"]) + 50, stage
        assert int(row["peak_rss_mib"]) < 1024, stage
