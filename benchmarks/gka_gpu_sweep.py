"""How Gated KalmaNet scales: with T at a constant number of tokens, and single steps online with how many heads."""

from collections.abc import Callable, Iterator, Sequence
from math import log
from typing import Any

import torch
from gka_gpu_cases import DIRECTIONS, Case, columns_of, drawn
from gka_gpu_check import LIMIT_STEP, checked, step_error
from gka_gpu_ways import Problem, Row, ours, problem
from koss_gpu_cases import Ceilings
from koss_gpu_clock import Deadline, first_line, free, graph_ms, peak_bytes, side_stream, time_columns, within
from koss_gpu_sweep import slope
from setting import write_csv

from ssrtrack.kernels.gka import gka_step

Tensor = torch.Tensor
Works = dict[str, Callable[[], object]]
TOKENS, HEADS = 131_072, 8
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
LONG = 32768  # from which T says most of how time and memory grow: measured first
EIGHT, SHARED = "T, 8 heads, 131,072 tokens", "T, 131,072 tokens and heads"
ONLINE = "one step"
AXES = (EIGHT, SHARED, ONLINE)
AT_ONCE = (64, 256, 1024, 2048, 4096, 8192)  # B H
COLUMNS = (
    "axis", "B", "T", "H", "D", "iterations", "dtype", "direction", "timing", "ms_p20", "ms_p50", "ms_p80", "repeats",
    "ns_per_token_head", "steps_per_s", "percent_of_copy", "peak_bytes_per_token_head", "note",
)  # fmt: skip


def lengths(tiny: bool) -> Iterator[tuple[str, Case]]:
    """T at a constant number of tokens: with 8 heads in all batches; and with fewer heads where T is the longest."""
    if tiny:
        yield from ((EIGHT, Case("sweep", 256 // steps, steps, 1, 16, 3)) for steps in (128, 256))
        return
    for steps in LENGTHS:
        yield EIGHT, Case("sweep", TOKENS // steps, steps, HEADS, 128)
    for steps in LENGTHS:
        heads = min(HEADS, TOKENS // steps)
        yield SHARED, Case("sweep", TOKENS // steps // heads, steps, heads, 128)


def online(tiny: bool) -> Iterator[Case]:
    """Sequences that are carried on by one step at once."""
    if tiny:
        yield Case(ONLINE, 2, 1, 1, 16, 3)
        return
    for rounds in (30, 10):
        yield from (Case(ONLINE, at_once // HEADS, 1, HEADS, 128, rounds) for at_once in AT_ONCE)


def ordered(tiny: bool) -> list[tuple[str, Case]]:
    """All, in the order of what a run that is cut off should have: the longest, single steps, the shorter ones."""
    whole = sorted(lengths(tiny), key=lambda part: -part[1].steps)
    long, short = ([part for part in whole if (part[1].steps >= LONG) is wanted] for wanted in (True, False))
    return [*long, *((ONLINE, case) for case in online(tiny)), *short]


def classes() -> list[Case]:
    """What has kernels of its own: numbers of heads of which Triton makes different code."""
    return [Case("sweep", 1, 128, heads, 128) for heads in (1, HEADS)]


def sweep(args: Any, deadline: Deadline, found: Ceilings, extra: Row) -> list[str]:
    """Measure all, written down after each, and say how time and memory grow; args: gka_gpu's own."""
    path = args.output.with_name(f"{args.output.stem}_sweep.csv")
    rows: list[Row] = []
    budget_s = 0.01 if args.tiny else 0.2

    for axis, case in ordered(args.tiny):
        single = axis == ONLINE
        make = _one(case, args.device, budget_s, found) if single else _whole(case, args.backend, args.device, budget_s)
        for row in _guarded(deadline, make):
            full = {"axis": axis} | columns_of(case) | row
            rows.append({column: full.get(column, "") for column in COLUMNS} | extra)
            _show(rows[-1])
        # In the file by axis and size, whatever came first.
        rows.sort(key=lambda row: (AXES.index(row["axis"]), -row["iterations"], row["T"], row["B"]))
        write_csv(path, rows, told=False)
    lines = grown(rows)
    told = [dict.fromkeys(COLUMNS, "") | {"axis": "over T", "note": line} | extra for line in lines]
    write_csv(path, [*rows, *told])
    return lines


def _guarded(deadline: Deadline, rows: Iterator[Row]) -> Iterator[Row]:
    """What cannot be begun or does not run says so."""
    if deadline.over():
        yield {"note": deadline.note}
        return
    try:
        yield from rows
    except Exception as error:
        yield {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def _whole(case: Case, backend: str, where: str, budget_s: float) -> Iterator[Row]:
    """Sequences forward, and forward and back."""
    p = problem(case, ours(backend), where, 1)
    right = checked(p, case)
    if not right.right:
        yield right.columns()
        return
    for direction, row in _timed({DIRECTIONS[0]: p.forward, DIRECTIONS[1]: p.both}, where, budget_s):
        existing = p.nbytes if direction != DIRECTIONS[0] else p.nbytes - p.go.nbytes
        peak = (existing + peak_bytes(_work(p, direction), where)) / case.token_heads
        cost = 1e6 * row.pop("p50") / case.token_heads
        yield (
            row
            | {"direction": direction, "ns_per_token_head": f"{cost:.3g}"}
            | ({"peak_bytes_per_token_head": f"{peak:.1f}"} if peak == peak else {})
        )


def _work(p: Problem, direction: str) -> Callable[[], object]:
    return p.forward if direction == DIRECTIONS[0] else p.both


def _timed(works: Works, where: str, budget_s: float) -> Iterator[tuple[str, Row]]:
    """Each by the timing without gaps between launches, where there is one; p50 as a number of its own."""
    for name, work in works.items():
        ms, timing = _ms(work, where, budget_s)
        columns = time_columns(ms)
        told = {key: f"{value:.4g}" for key, value in columns.items()}
        yield name, {"timing": timing, "p50": columns["ms_p50"]} | told


def _ms(work: Callable[[], object], where: str, budget_s: float) -> tuple[list[float], str]:
    stream = side_stream(where)
    if stream is None:
        return within([work], where, budget_s), "call"
    free()
    return graph_ms([work], stream, budget_s), "graph"


def _one(case: Case, where: str, budget_s: float, found: Ceilings) -> Iterator[Row]:
    """`gka_step` of B sequences: calls from Python, and without the gaps. The limit is its state, read and written."""
    leaves, _ = drawn(case, where, 1)
    given = tuple(leaf.detach()[:, 0] for leaf in leaves)
    state = state_of(case, where)
    error = step_error(given, state, case)
    if not error <= LIMIT_STEP:
        yield {"note": f"wrong beyond the limits ({error:.1e}); not timed"}
        return

    def step() -> object:
        with torch.no_grad():
            return gka_step(*given, state, ridge=case.form.ridge, steps=case.rounds)

    timings = [("call", within([step], where, budget_s))]
    if where == "cuda":
        timings += [("graph", _ms(step, where, budget_s)[0])]
    moved = 2 * sum(part.nbytes for part in state)
    for timing, ms in timings:
        columns = time_columns(ms)
        seconds = 1e-3 * columns["ms_p50"]
        yield {"direction": ONLINE, "timing": timing} | {key: f"{value:.4g}" for key, value in columns.items()} | {
            "steps_per_s": f"{case.token_heads / seconds:.4g}",
            "ns_per_token_head": f"{1e9 * seconds / case.token_heads:.3g}",
            "percent_of_copy": f"{100.0 * moved / seconds / found.copy_bytes_per_s:.3g}",
        }  # fmt: skip


def state_of(case: Case, where: str) -> tuple[Tensor, Tensor]:
    """A memory of as many keys as it has numbers, float32."""
    g = torch.Generator(where).manual_seed(2)
    shape = (case.batch, case.heads, case.width, case.width)
    K, V = (torch.randn(shape, generator=g, device=where) for _ in range(2))
    K /= case.width**0.5
    return K.mT @ K, K.mT @ V


def grown(rows: Sequence[Row]) -> list[str]:
    """How a token's time and memory depend on T."""
    lines = []
    for axis in (EIGHT, SHARED):
        for direction in DIRECTIONS:
            of = [row for row in rows if row["axis"] == axis and row["direction"] == direction and row["ms_p50"]]
            points = [(log(row["T"]), log(float(row["ms_p50"]))) for row in of]
            if len(points) > 1:
                # At a constant number of tokens the power of T that time grows with is one more.
                power = 1.0 + slope(points)
                line = f"{axis}, {direction}: a sequence's time grows as T to the power of {power:.3f}"
                peaks = [float(row["peak_bytes_per_token_head"]) for row in of if row["peak_bytes_per_token_head"]]
                memory = f"; {min(peaks):.0f} to {max(peaks):.0f} bytes a token and head at the peak" if peaks else ""
                lines.append(line + memory)
    return lines


def _show(row: Row) -> None:
    sizes = "  ".join(f"{name} {row[name]}" for name in ("B", "T", "H", "iterations"))
    memory = f", {row['peak_bytes_per_token_head']} B" * bool(row["peak_bytes_per_token_head"])
    share = f", {row['percent_of_copy']} % of the copy" * bool(row["percent_of_copy"])
    cost = f"{row['ms_p50']} ms, {row['ns_per_token_head']} ns{memory} a token and head{share}" if row["ms_p50"] else ""
    print(f"sweep {row['axis']}: {sizes}  {row['direction']} {row['timing']} {cost} {row['note']}", flush=True)
