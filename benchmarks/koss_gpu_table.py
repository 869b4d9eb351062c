"""Rows of the KOSS benchmark: floors, targets and ratios worked out, shown, kept in a file and taken up again."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

from koss_gpu_cases import DIRECTIONS, Case, Ceilings, bytes_moved, floor_ms

Row = dict[str, Any]
COLUMNS = (
    "case", "way", "direction", "timing", "B", "T", "D", "N", "S", "J", "operator", "dtype", "ms_p20", "ms_p50",
    "ms_p80", "repeats", "target_ms", "target_times", "met", "floor_ms", "floor_by", "percent_of_floor",
    "percent_of_copy", "times_fused", "ns_per_token_channel", "bytes", "peak_bytes_per_token", "error_y",
    "error_gradient", "note",
)  # fmt: skip
TIMES = ("ms_p20", "ms_p50", "ms_p80")
CEILINGS = ("copy_bytes_per_s", "matmul_flop_per_s", "exps_per_s", "exps_how")
COMPILED = "torch.compile"  # the way of which there are several


def finished(rows: Sequence[Row]) -> list[Row]:
    """All columns: floors, targets, and every way's time over the fused kernel's at the same size and timing.

    A row has its Case as `of`, the Ceilings it was measured under as `under`, and columns of its run as `run`.
    """
    fused = {_place(r): r["ms_p50"] for r in rows if "ms_p50" in r and r["way"] == "fused"}
    return [_finished(r, fused.get(_place(r), nan)) for r in rows]


def _finished(r: Row, beside: float) -> Row:
    if "ms_p50" in r:
        case, ms, moved, found = r["of"], r["ms_p50"], bytes_moved(r["of"], r["direction"]), r["under"]
        floor, by = floor_ms(case, r["direction"], found)
        target, times, met = target_ms(case, r, found), target_times(case, r), ""
        if target or times:
            met = "yes" if (ms <= target if target else ms >= times * beside) else "no"
        r = r | {
            "floor_ms": f"{floor:.4g}", "floor_by": by, "percent_of_floor": f"{100.0 * floor / ms:.3g}",
            "percent_of_copy": f"{1e5 * moved / ms / found.copy_bytes_per_s:.3g}", "bytes": moved,
            "times_fused": f"{ms / beside:.3g}" if beside == beside else "",
            "ns_per_token_channel": f"{1e6 * ms / (case.tokens * case.channels):.3g}",
            "target_ms": f"{target:.4g}" if target else "",
            "target_times": times or "", "met": met,
        } | {name: f"{r[name]:.4g}" for name in TIMES}  # fmt: skip
    return {column: r.get(column, "") for column in COLUMNS} | r.get("run", {})


def _place(row: Row) -> tuple[Any, ...]:
    return row["case"], row["T"], row.get("direction"), row.get("timing")


def target_ms(case: Case, row: Row, found: Ceilings) -> float:
    """Target of a fused row in ms; 0 where there is none."""
    if row["way"] != "fused" or row["direction"] == "backward":
        return 0.0
    if case.target_share:
        return 1e3 * bytes_moved(case, row["direction"]) / (case.target_share * found.copy_bytes_per_s)
    return case.target_ms[DIRECTIONS[::2].index(row["direction"])] if case.target_ms else 0.0


def target_times(case: Case, row: Row) -> float:
    """How many times the fused kernel's time plain torch should take at least; 0 where nothing is asked."""
    if row["way"] != "eager" or case.target_times is None:
        return 0.0
    return case.target_times[DIRECTIONS[::2].index(row["direction"])]


def shown(row: Row) -> None:
    """Print a finished row."""
    ms = f"{row['ms_p50']:>9} ms" if row["ms_p50"] else " " * 12
    wanted = f"{row['target_ms']} ms" if row["target_ms"] else f"{row['target_times']} x"
    target = f"target {wanted}: {'met' if row['met'] == 'yes' else 'MISSED'}" if row["met"] else ""
    floor = f"{row['percent_of_floor']:>5} % of floor ({row['floor_by']})" if row["floor_by"] else ""
    times = f"{row['times_fused']:>6} x" if row["way"] != "fused" and row["times_fused"] else ""
    print(
        f"{row['case']:26s} {row['way']:30s} {row['direction']:16s} {row['timing']:5s} {ms} {floor} {times} {target} "
        f"{row['note']}",
        flush=True,
    )


def of_this_run(path: Path, run: Row) -> list[dict[str, str]]:
    """Rows of a file that this commit made on this device with these versions; none of code that is not committed."""
    if not path.exists() or run["commit"].endswith(("+", "unknown")):
        return []
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row.get(name) == run[name] for name in ("commit", "device", "versions"))]


def taken_up(path: Path, run: Row, cases: dict[tuple[str, str], Case], processors: int) -> list[Row]:
    """Rows as `finished` takes them, of each case and way that was measured whole; cases: by their name and way."""
    of = of_this_run(path, run)
    broken = {done_key(row) for row in of if not row["ms_p50"] and not row["note"].startswith("no graph")}
    rows = []
    for row in of:
        key = done_key(row)
        if key in broken or key not in cases:
            continue
        under = Ceilings(*(float(row[name]) for name in CEILINGS[:3]), row["exps_how"], processors)
        case = replace(cases[key], steps=int(row["T"]))
        times = {name: float(row[name]) for name in TIMES if row[name]}
        kept: Row = {name: row[name] for name in COLUMNS if row[name] and name not in TIMES}
        rows.append(kept | times | {"T": case.steps, "of": case, "under": under, "run": {n: row[n] for n in run}})
    return rows


def done_key(row: Row) -> tuple[str, str]:
    """A row's case and way, the ways of torch.compile as one."""
    return row["case"], COMPILED if row["way"].startswith(COMPILED) else row["way"]
