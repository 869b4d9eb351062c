"""How the fused KOSS kernels scale: with T, B, segments and passes; cost per token and channel, memory per token."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log
from typing import Any

from koss_gpu_cases import Case, columns_of
from koss_gpu_check import against_reference
from koss_gpu_clock import Deadline, first_line, free, graph_ms, on, peak_bytes, side_stream, time_columns, within
from koss_gpu_table import Row, of_this_run
from koss_gpu_ways import call_of, problem
from setting import write_csv

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


def class_of(case: Case) -> Case:
    """The size whose kernels a swept size has: they are made for a class of sizes, as `Case.small` says."""
    return replace(case, batch=BATCHES[4] if case.batch >= BATCHES[4] else BASE.batch, steps=BASE.steps)


def kernels_of_sweep() -> list[Case]:
    """One case of each class."""
    return list(dict.fromkeys(class_of(case) for _, case in cases(False, False)))


def sweep(args: Any, deadline: Deadline, faults: dict[Any, str], extra: Row) -> list[str]:
    """Measure all cases, write them down after each, and say how time and memory grow; args: koss_gpu's own."""
    path = args.output.with_name(f"{args.output.stem}_sweep.csv")
    kept = [row for row in of_this_run(path, extra) if row["ms_p50"]] if args.resume else []
    done = {_place(row) for row in kept if row["direction"] == "forward+backward"}
    rows: list[Row] = [row for row in kept if _place(row) in done]
    right: dict[Case, str] = {case: f"not compiled: {fault}" for (case, _), fault in _pairs(faults)}
    for axis, case in cases(args.quick, args.tiny):
        here = {"axis": axis} | columns_of(case)
        if _place(here) in done:
            continue
        kind = class_of(case)
        if not deadline.over() and kind not in right:
            right[kind] = _fault(case, args.backend, args.device)
        fault = deadline.note if deadline.over() else right[kind]
        for row in _timed(case, args.backend, args.device, 0.01 if args.tiny else 0.15, fault):
            full = here | row
            rows.append({column: full.get(column, "") for column in COLUMNS} | extra)
        _show(rows[-1])
        write_csv(path, rows, told=False)
    lines = [*exponents(rows), *memory(rows)]
    told = [dict.fromkeys(COLUMNS, "") | {"axis": "over T", "note": line} | extra for line in lines]
    write_csv(path, [*rows, *told])
    return lines


def _pairs(faults: dict[Any, str]) -> list[tuple[Any, str]]:
    return [(key, fault) for key, fault in faults.items() if isinstance(key, tuple) and key[0].name == BASE.name]


def _place(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("axis", "B", "T", "S", "J"))


def _show(row: Row) -> None:
    sizes = "  ".join(f"{name} {row[name]}" for name in ("B", "T", "S", "J"))
    cost, memory = row["ns_per_token_channel"], row["peak_bytes_per_token"]
    print(f"sweep {row['axis']}: {sizes}  {row['direction']} {cost} ns, {memory} B a token {row['note']}", flush=True)


def _fault(case: Case, backend: str, where: str) -> str:
    """Why a form is not timed; empty if it is right."""
    try:
        found = against_reference(case, "fused", call_of(case, backend), backend, where)
    except Exception as error:
        return f"does not run: {first_line(error)}"
    return "" if found.right else f"wrong beyond the limits ({found.worst}); not timed"


def _timed(case: Case, backend: str, where: str, budget_s: float, fault: str) -> Iterator[Row]:
    if fault:
        yield {"note": fault}
        return
    try:
        stream = side_stream(where)
        p = problem(case, call_of(case, backend), where, 1)
        for direction, work in (("forward", p.forward), ("forward+backward", p.both)):
            with on(stream):
                peak, timing = peak_bytes(work, where) / case.tokens, "call"
                ms = within([work], where, budget_s) if stream is None else []
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


def exponents(rows: Sequence[Row]) -> list[str]:
    """Slope of log time over log T for each form and direction: 1 is linear."""
    lines = []
    for S, J in FORMS:
        for direction in ("forward", "forward+backward"):
            wanted = {"axis": "T", "S": S, "J": J, "direction": direction}
            points = [
                (log(int(row["T"])), log(float(row["ms_p50"])))
                for row in rows
                if row["ms_p50"] and int(row["T"]) >= FITTED_FROM and _is(row, wanted)
            ]
            if len(points) > 1:
                lines.append(f"S {S} J {J}, {direction}: time grows as T to the power of {slope(points):.3f}")
    return lines


def memory(rows: Sequence[Row]) -> list[str]:
    """Least and most peak memory a token along T for each form and direction: constant if the two are alike."""
    lines = []
    for S, J in FORMS:
        for direction in ("forward", "forward+backward"):
            wanted = {"axis": "T", "S": S, "J": J, "direction": direction}
            found = [float(r["peak_bytes_per_token"]) for r in rows if r["peak_bytes_per_token"] and _is(r, wanted)]
            if len(found) > 1:
                lines.append(
                    f"S {S} J {J}, {direction}: {min(found):.0f} to {max(found):.0f} bytes a token at the peak"
                )
    return lines


def _is(row: Row, wanted: Row) -> bool:
    # A row that was read from a file has texts.
    return all(str(row[name]) == str(value) for name, value in wanted.items())


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope."""
    mean = [sum(v) / len(points) for v in zip(*points, strict=True)]
    over = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return over / sum((x - mean[0]) ** 2 for x, _ in points)
