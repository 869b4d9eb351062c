"""Rows of the Gated KalmaNet benchmark: floors, targets and ratios worked out, and shown."""

from collections.abc import Sequence
from typing import Any

from gka_gpu_cases import DIRECTIONS, Case, Cost, costs, floor_ms, floor_of, kept, parts_of
from gka_gpu_ways import OURS, Row
from koss_gpu_cases import Ceilings

COLUMNS = (
    "case", "way", "direction", "kernel", "timing", "B", "T", "H", "D", "iterations", "dtype", "ms_p20", "ms_p50",
    "ms_p80", "repeats", "target_ms", "met", "floor_ms", "floor_by", "percent_of_floor", "percent_of_product",
    "percent_of_copy", "times_gka", "ns_per_token_head", "peak_bytes", "needed_bytes", "peak_over_needed", "error_o",
    "error_gradient", "note",
)  # fmt: skip
TIMES = ("ms_p20", "ms_p50", "ms_p80")


def finished(rows: Sequence[Row]) -> list[Row]:
    """All columns; every way's time over the package's at the same size, direction and timing.

    A row has its Case as `of`, the Ceilings it was measured under as `under`, and columns of its run as `run`.
    """
    own = {_place(r): r["ms_p50"] for r in rows if "ms_p50" in r and r["way"] == OURS and "kernel" not in r}
    return [_finished(r, own.get(_place(r))) for r in rows]


def _place(row: Row) -> tuple[Any, ...]:
    return row["case"], row.get("direction"), row.get("timing")


def _finished(r: Row, own: float | None) -> Row:
    if "ms_p50" in r:
        case, ms = r["of"], r["ms_p50"]
        r = r | _worked_out(r, case, ms, r["under"])
        if "kernel" not in r and own:
            r = r | {"times_gka": f"{ms / own:.3g}"}
        r = r | {"ns_per_token_head": f"{1e6 * ms / case.token_heads:.3g}"} | {name: f"{r[name]:.4g}" for name in TIMES}
    if "peak_bytes" in r:
        r = r | {"peak_over_needed": f"{r['peak_bytes'] / r['needed_bytes']:.3f}"}
    return {column: r.get(column, "") for column in COLUMNS} | r.get("run", {})


def _worked_out(r: Row, case: Case, ms: float, found: Ceilings) -> Row:
    """Of the package's own rows: the floor, the target, and how far the two ceilings are used."""
    if not r["way"].startswith(OURS):
        return {}
    cost = cost_of(case, r["direction"], r.get("kernel", ""))
    if cost is None:
        return {}
    floor, by = floor_of(case, cost, found) if "kernel" in r else floor_ms(case, r["direction"], found)
    seconds = 1e-3 * ms / case.token_heads
    row: Row = {
        "floor_ms": f"{floor:.4g}", "floor_by": by, "percent_of_floor": f"{100.0 * floor / ms:.3g}",
        "percent_of_product": f"{100.0 * cost.flop / seconds / found.matmul_flop_per_s:.3g}",
        "percent_of_copy": f"{100.0 * cost.bytes / seconds / found.copy_bytes_per_s:.3g}",
    }  # fmt: skip
    if case.target_ms and "kernel" not in r:
        target = case.target_ms[DIRECTIONS.index(r["direction"])]
        row |= {"target_ms": target, "met": "yes" if ms <= target else "no"}
    return row


def cost_of(case: Case, direction: str, kernel: str) -> Cost | None:
    """Of one kernel, None of one that `costs` does not know; without a name, of all in a direction."""
    if not kernel:
        parts = parts_of(case, direction)
        return Cost(sum(part.flop for part in parts), sum(part.bytes for part in parts))
    cost = costs(case)[direction].get(kernel)
    # Kernels are timed in a pass that keeps what the backward wants, as a pass in both directions does.
    return Cost(*(a + b for a, b in zip(cost, kept(case), strict=True))) if cost and kernel == "solve" else cost


def shown(row: Row) -> None:
    """Print a finished row."""
    ms = f"{row['ms_p50']:>8} ms" if row["ms_p50"] else " " * 11
    target = f"target {row['target_ms']}: {'met' if row['met'] == 'yes' else 'MISSED'}" if row["met"] else ""
    floor = f"{row['percent_of_floor']:>5} % of floor ({row['floor_by']})" if row["floor_by"] else ""
    times = f"{row['times_gka']:>5} x" if row["way"] != OURS and row["times_gka"] else ""
    memory = f"peak {row['peak_over_needed']}" if row["peak_over_needed"] else ""
    print(
        f"{row['case']:28s} {row['way']:30s} {row['direction']:16s} {row['kernel'] or row['timing']:11s} {ms} {floor} "
        f"{times} {target} {memory} {row['note']}",
        flush=True,
    )
