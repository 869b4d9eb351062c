"""How the fused KOSS kernels scale: with T, B, segments and passes; cost per token and channel, memory per token."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log
from typing import Any

from koss_gpu_cases import Case, columns_of
from koss_gpu_check import against_reference
from koss_gpu_clock import first_line, free, graph_ms, on, peak_bytes, side_stream, time_columns, within
from koss_gpu_ways import call_of, problem

BASE = Case("sweep", 32, 720, 4)
FORMS = ((1, 0), (16, 0))  # along T and B
LENGTHS = (96, 384, 1536, 6144, 24576, 65536)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
# Segments and passes. A refined segment of 16 steps takes minutes to compile: the table has its time, the sweep not.
SEGMENTS_AND_PASSES = ((1, 0), (4, 0), (4, 1), (16, 0))
FITTED_FROM = 1536  # steps: below, the launch is not small beside the work
COLUMNS = (
    "axis", "B", "T", "D", "N", "S", "J", "operator", "dtype", "direction", "timing", "ms_p20", "ms_p50", "ms_p80",
    "repeats", "ns_per_token_channel", "peak_bytes_per_token", "note",
)  # fmt: skip


def cases(quick: bool, tiny: bool) -> Iterator[tuple[str, Case]]:
    """What is swept, with the axis's name."""
    if tiny:
        base = replace(BASE, batch=2, steps=32)
        yield from (("T", replace(base, steps=steps)) for steps in (16, 32))
        yield "S and J", replace(base, segment=4, passes=1)
        return
    for S, J in FORMS:
        lengths = LENGTHS[::2] if quick else LENGTHS
        yield from (("T", replace(BASE, steps=steps, segment=S, passes=J)) for steps in lengths)
        batches = BATCHES[::2] if quick else BATCHES
        yield from (("B", replace(BASE, batch=batch, segment=S, passes=J)) for batch in batches)
    if not quick:
        yield from (("S and J", replace(BASE, segment=S, passes=J)) for S, J in SEGMENTS_AND_PASSES)


def sweep_rows(backend: str, where: str, quick: bool, tiny: bool, seconds: float) -> list[dict[str, Any]]:
    """Rows of all cases, forward and forward with backward; each form is checked once, small."""
    right: dict[Any, str] = {}
    rows: list[dict[str, Any]] = []
    begin = time.perf_counter()
    for axis, case in cases(quick, tiny):
        if time.perf_counter() - begin > seconds:
            right[case.form] = "left out: the time was over"
        if case.form not in right:
            right[case.form] = _fault(case, backend, where)
        for row in _timed(case, backend, where, 0.01 if tiny else 0.15, right[case.form]):
            full = {"axis": axis} | columns_of(case) | row
            rows.append({column: full.get(column, "") for column in COLUMNS})
        _show(rows[-1])
    return rows


def _show(row: dict[str, Any]) -> None:
    sizes = "  ".join(f"{name} {row[name]}" for name in ("B", "T", "S", "J"))
    cost, memory = row["ns_per_token_channel"], row["peak_bytes_per_token"]
    print(f"sweep {row['axis']}: {sizes}  {row['direction']} {cost} ns, {memory} B a token {row['note']}", flush=True)


def _fault(case: Case, backend: str, where: str) -> str:
    """Why a form is not timed; empty if it is right."""
    try:
        found = against_reference(case, call_of(case, backend), where)
    except Exception as error:
        return f"does not run: {first_line(error)}"
    return "" if found.right else f"wrong beyond the limits ({found.worst}); not timed"


def _timed(case: Case, backend: str, where: str, budget_s: float, fault: str) -> Iterator[dict[str, Any]]:
    if fault:
        yield {"note": fault}
        return
    try:
        stream = side_stream(where)
        p = problem(case, call_of(case, backend), where, 1)
        for direction, work in (("forward", p.forward), ("forward+backward", p.both)):
            with on(stream):
                peak = peak_bytes(work, where) / case.tokens
                ms, timing = within([work], where, budget_s), "call"
            if stream is not None:
                ms, timing = graph_ms([work], stream, budget_s), "graph"
            row = time_columns(ms)
            cost = 1e6 * row["ms_p50"] / (case.tokens * case.channels)
            yield (
                {"direction": direction, "timing": timing, "ns_per_token_channel": f"{cost:.3g}"}
                | {name: f"{value:.4g}" for name, value in row.items()}
                | {"peak_bytes_per_token": f"{peak:.1f}" if peak == peak else ""}
            )
    except Exception as error:
        yield {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def exponents(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Slope of log time over log T for each form and direction: 1 is linear."""
    lines = []
    for S, J in FORMS:
        for direction in ("forward", "forward+backward"):
            wanted = {"axis": "T", "S": S, "J": J, "direction": direction}
            points = [
                (log(row["T"]), log(float(row["ms_p50"])))
                for row in rows
                if row["ms_p50"] and row["T"] >= FITTED_FROM and all(row[k] == v for k, v in wanted.items())
            ]
            if len(points) > 1:
                lines.append(f"S {S} J {J}, {direction}: time grows as T to the power of {slope(points):.3f}")
    return lines


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope."""
    mean = [sum(v) / len(points) for v in zip(*points, strict=True)]
    over = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return over / sum((x - mean[0]) ** 2 for x, _ in points)
