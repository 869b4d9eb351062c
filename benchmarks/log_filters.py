"""Compares HDF5 filters for the log on the plots of large_log.py: size, writing and reading speed.

python benchmarks/log_filters.py
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from large_log import ROTATION_S, SCANS, SEED, see
from setting import RESULTS, setting, write_csv

from ssrtrack.data import Array, Plots
from ssrtrack.io.hdf5_schema import CHUNK_ROWS, LIBVER

GZIP: dict[str, Any] = {"compression": "gzip", "shuffle": True}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf + shuffle": {"compression": "lzf", "shuffle": True},
    "gzip-1": {"compression": "gzip", "compression_opts": 1},
    "gzip-1 + shuffle": GZIP | {"compression_opts": 1},
    "gzip-1 + shuffle + fletcher32": GZIP | {"compression_opts": 1, "fletcher32": True},
    "gzip-4 + shuffle": GZIP | {"compression_opts": 4},
}
CHUNKS = (CHUNK_ROWS // 4, CHUNK_ROWS)


def measure(path: Path, columns: dict[str, Array], filters: dict[str, Any], chunk_rows: int) -> dict[str, Any]:
    """Writes and reads the columns in blocks of four chunks; checks that they come back."""
    rows = len(next(iter(columns.values())))
    blocks = [slice(at, min(at + 4 * chunk_rows, rows)) for at in range(0, rows, 4 * chunk_rows)]
    start = time.perf_counter()
    with h5py.File(path, "w", libver=LIBVER) as file:
        for name, values in columns.items():
            file.create_dataset(name, (rows,), values.dtype, chunks=(min(chunk_rows, rows),), **filters)
        for block in blocks:
            for name, values in columns.items():
                file[name][block] = values[block]
    written = time.perf_counter()
    with h5py.File(path) as file:
        found = [{name: file[name][block] for name in columns} for block in blocks]
    read = time.perf_counter()
    for name, values in columns.items():
        kept = np.concatenate([part[name] for part in found])
        if not np.array_equal(kept, values, equal_nan=values.dtype.kind == "f"):
            raise SystemExit(f"column {name} does not come back")
    return {
        "bytes_per_row": f"{path.stat().st_size / rows:.2f}",
        "rows_per_s_written": round(rows / (written - start)),
        "rows_per_s_read": round(rows / (read - written)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", type=int, default=2_000_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "log_filters.csv", help="CSV to write")
    given = parser.parse_args()
    rng, tables, start_s = np.random.default_rng(SEED), list[Plots](), 0.0
    while sum(map(len, tables)) < given.plots:
        tables.append(see(start_s, rng))
        start_s += SCANS * ROTATION_S
    # Columns that are absent throughout are never stored, whatever the filter.
    present = [name for name, values in tables[0].columns().items() if values.strides[0]]
    columns = {name: np.concatenate([t.columns()[name] for t in tables])[: given.plots] for name in present}
    raw = sum(values.dtype.itemsize for values in columns.values())
    results, measured_with = [], setting("numpy", "h5py")
    with tempfile.TemporaryDirectory() as folder:
        for name, filters in FILTERS.items():
            for chunk_rows in CHUNKS:
                row = {"filters": name, "chunk_rows": chunk_rows, "plots": given.plots, "raw_bytes_per_row": raw}
                row |= measure(Path(folder) / "trial.h5", columns, filters, chunk_rows)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                results.append(row | measured_with)
    write_csv(given.output, results)


if __name__ == "__main__":
    main()
