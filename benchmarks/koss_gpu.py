"""Milliseconds of the KOSS kernels on one CUDA device, beside plain torch, torch.compile and a plain selective scan.

    python benchmarks/koss_gpu.py            (about 4 minutes; --quick: one or two)

First of all, each case must be right: a small one, with odd lengths, in all outputs and gradients against float64 loops
(`kernels/reference.py`), and the timed size against plain torch on four of its sequences. What is wrong gets no time.
Two timings, named in each row: `call` is what a caller waits for, the device idle before, by CUDA events around one
call; `graph` is a replay of a CUDA graph, so the device's work without the gaps between launches. Both go round
several sets of inputs that together exceed the L2 cache (plain torch, which writes far more than it reads, has one);
p20, p50, p80 of many rounds. `forward` keeps nothing,
`forward+backward` gives the gradients of all inputs and weights. The floor of each row is `koss_gpu_cases.floor_ms`,
from ceilings measured in the same process. Writes results/koss_gpu.csv, and the sweep over T, B, S and J to
results/koss_gpu_sweep.csv. A part that fails leaves its error in its row. Without a CUDA device, `--device cpu --tiny`
goes through the same motions.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import torch
from koss_gpu_cases import ALSO, BESIDE, DIRECTIONS, TABLE, Case, Ceilings, bytes_moved, columns_of, floor_ms
from koss_gpu_check import against_reference, against_torch
from koss_gpu_clock import (
    ceilings,
    first_line,
    free,
    graph_ms,
    on,
    peak_bytes,
    side_stream,
    time_columns,
    within,
)
from koss_gpu_sweep import cases, exponents, sweep_rows
from koss_gpu_ways import Problem, problem, way_of
from setting import RESULTS, cuda_device, device, setting, write_csv

CACHE_BYTES, MOST_SETS = 200 << 20, 8  # several times an H100's L2
OURS = ("fused", "selective scan")
PLAIN = ("eager", "parallel scan in a Python loop")
COMPILED_BOX_S = 100.0
COLUMNS = (
    "case", "way", "direction", "timing", "B", "T", "D", "N", "S", "J", "operator", "dtype", "ms_p20", "ms_p50",
    "ms_p80", "repeats", "target_ms", "target_times", "met", "floor_ms", "floor_by", "percent_of_floor",
    "percent_of_copy", "times_fused", "ns_per_token_channel", "bytes", "peak_bytes_per_token", "error_y",
    "error_gradient", "note",
)  # fmt: skip


def sets_of(case: Case, way: str, call: Callable[..., Any], where: str) -> list[Problem]:
    """As many sets of inputs as it takes to exceed the cache."""
    first = problem(case, call, where, 1)
    rotated = where == "cuda" and way in OURS
    count = max(2, min(MOST_SETS, -(-CACHE_BYTES // first.nbytes))) if rotated else 1
    return [first, *(problem(case, call, where, 10 + k) for k in range(1, count))]


def case_rows(case: Case, way: str, backend: str, where: str, budget_s: float) -> list[dict[str, Any]]:
    """Rows of one way to compute a case: directions by two timings, or one that says why there are none."""
    common = columns_of(case) | {"of": case, "way": way}
    try:
        call = way_of(case, way, backend)
        small = against_reference(case, call, where)
        if not small.right:
            return [common | small.columns()]
        sets = sets_of(case, way, call, where)
        large = against_torch(case, sets[0])
        if not large.right:
            return [common | large.columns()]
        worst = {"error_y": max(small.output, large.output), "error_gradient": max(small.gradient, large.gradient)}
        common |= {name: f"{error:.1e}" for name, error in worst.items()}
        peak = peak_bytes(sets[0].both, where) / case.tokens
        common |= {"peak_bytes_per_token": f"{peak:.1f}" if peak == peak else ""}
        rows = []
        # Two records of plain torch at once may not fit the memory, so it has no row for the backward pass alone.
        for direction in DIRECTIONS if way in OURS else DIRECTIONS[::2]:
            rows += [common | row for row in timed_rows(direction, sets, where, budget_s)]
    except Exception as error:  # a way that does not run here is a finding, not an end
        rows = [common | {"note": f"does not run: {first_line(error)}"}]
    finally:
        free()
    return rows


def timed_rows(direction: str, sets: Sequence[Problem], where: str, budget_s: float) -> list[dict[str, Any]]:
    """One direction by both timings."""
    stream = side_stream(where)
    # A graph of the backward pass needs its record made on the stream that it is captured on.
    with on(stream):
        works = works_of(direction, sets)
        rows = [{"direction": direction, "timing": "call"} | time_columns(within(works, where, budget_s))]
    if stream is not None:
        row = {"direction": direction, "timing": "graph"}
        free()
        try:
            rows.append(row | time_columns(graph_ms(works, stream, budget_s)))
        except Exception as error:
            rows.append(row | {"note": f"no graph: {first_line(error)}"})
    return rows


def works_of(direction: str, sets: Sequence[Problem]) -> list[Callable[[], object]]:
    """What is timed, one for each set of inputs."""
    if direction == "forward":
        return [p.forward for p in sets]
    if direction == "forward+backward":
        return [p.both for p in sets]
    made = [(p, p.call(p.inputs)[0]) for p in sets]
    return [lambda p=p, y=y: p.backward_of(y) for p, y in made]  # type: ignore[misc]


def compiled_rows(case: Case, where: str, box_s: float, steps: int = 0) -> list[dict[str, Any]]:
    """torch.compile's rows, from a process that is ended after box_s seconds."""
    script = Path(__file__).with_name("koss_gpu_compiled.py")
    command = [sys.executable, str(script), "--case", case.name, "--device", where, "--steps", str(steps)]
    begin = time.perf_counter()
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=box_s, check=True).stdout
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    except subprocess.CalledProcessError as error:
        text = error.stdout
    return compiled_read(text, case, time.perf_counter() - begin)


def compiled_read(text: str, case: Case, seconds: float) -> list[dict[str, Any]]:
    """Rows from what the process printed; a way that it had begun and not done was cut off."""
    rows: list[dict[str, Any]] = []
    begun: dict[str, dict[str, Any]] = {}
    for told in (json.loads(line) for line in text.splitlines() if line.startswith("{")):
        way = told["way"]
        if "begun" in told:
            # The whole loop is compiled at a reduced length.
            of = replace(case, steps=told["begun"])
            begun[way] = columns_of(of) | {"of": of, "way": way}
            continue
        sizes, done = begun.pop(way), told["done"]
        row = sizes | {k: done[k] for k in ("error_y", "error_gradient", "note") if k in done}
        for name, figures in done.get("times", {}).items():
            direction, timing = name.split(", ")
            note = f"compiled in {done['compiling_s']} s"
            rows.append(row | {"direction": direction, "timing": timing, "note": note} | figures)
        if not done.get("times"):
            rows.append(row)
    rows += [sizes | {"note": f"not done after {seconds:.0f} s"} for sizes in begun.values()]
    nothing = columns_of(case) | {"of": case, "way": "torch.compile", "note": f"nothing after {seconds:.0f} s"}
    return rows or [nothing]


def finished(rows: Sequence[dict[str, Any]], found: Ceilings) -> list[dict[str, Any]]:
    """All columns: floors, targets, and every way's time over the fused kernel's at the same size and timing."""
    fused = {_place(r): r["ms_p50"] for r in rows if "ms_p50" in r and r["way"] == "fused"}
    out = []
    for r in rows:
        if "ms_p50" in r:
            case, ms, moved = r["of"], r["ms_p50"], bytes_moved(r["of"], r["direction"])
            floor, by = floor_ms(case, r["direction"], found)
            target, beside = target_ms(case, r, found), fused.get(_place(r), nan)
            times, met = target_times(case, r), ""
            if target or times:
                met = "yes" if (ms <= target if target else ms >= times * beside) else "no"
            r = r | {
                "floor_ms": f"{floor:.4g}", "floor_by": by, "percent_of_floor": f"{100.0 * floor / ms:.3g}",
                "percent_of_copy": f"{1e5 * moved / ms / found.copy_bytes_per_s:.3g}", "bytes": moved,
                "times_fused": f"{ms / beside:.3g}" if beside == beside else "",
                "ns_per_token_channel": f"{1e6 * ms / (case.tokens * case.channels):.3g}",
                "target_ms": f"{target:.4g}" if target else "",
                "target_times": times or "", "met": met,
            } | {name: f"{r[name]:.4g}" for name in ("ms_p20", "ms_p50", "ms_p80")}  # fmt: skip
        out.append({column: r.get(column, "") for column in COLUMNS})
    return out


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["case"], row["T"], row["direction"], row["timing"]


def target_ms(case: Case, row: dict[str, Any], found: Ceilings) -> float:
    """Target of a fused row in ms; 0 where there is none."""
    if row["way"] != "fused" or row["direction"] == "backward":
        return 0.0
    if case.target_share:
        return 1e3 * bytes_moved(case, row["direction"]) / (case.target_share * found.copy_bytes_per_s)
    return case.target_ms[DIRECTIONS[::2].index(row["direction"])] if case.target_ms else 0.0


def target_times(case: Case, row: dict[str, Any]) -> float:
    """How many times the fused kernel's time plain torch should take at least; 0 where nothing is asked."""
    if row["way"] != "eager" or case.target_times is None:
        return 0.0
    return case.target_times[DIRECTIONS[::2].index(row["direction"])]


def shown(row: dict[str, Any]) -> None:
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


def plan(quick: bool) -> list[tuple[Case, str, float]]:
    """Cases and ways in order of weight, with the seconds that each figure may take."""
    fused = [(case, "fused", 0.4) for case in (*TABLE, *BESIDE, *(() if quick else ALSO))]
    peers = [(case, way, 0.4) for way in PLAIN for case in BESIDE]
    mamba = [
        (replace(case, kind="selective", operator="discrete"), "selective scan", 0.3) for case in (*TABLE, *BESIDE)
    ]
    slow = [(case, "eager", 1.0) for case in TABLE] + [(case, PLAIN[1], 1.0) for case in (TABLE[1], TABLE[3])]
    return fused + peers + mamba + ([] if quick else slow)


def kernels_of(work: Sequence[tuple[Case, str, float]], swept: bool) -> list[tuple[Case, str]]:
    """What has to be compiled, each once."""
    found = [(case, way) for case, way, _ in work if way in OURS]
    forms = {case.form: (replace(case, steps=min(case.steps, 720)), "fused") for _, case in cases(False, False)}
    return found + (list(forms.values()) if swept else [])


def warm(count: int, options: Sequence[str], workers: int) -> None:
    """Compile the kernels of all cases in processes side by side: Triton keeps what it compiles on the disk."""
    script = [sys.executable, str(Path(__file__)), *options, "--compile-only"]
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(subprocess.run, [*script, str(k)], capture_output=True) for k in range(count)]
        # What fails here fails again below, where it gets a row.
        failed = sum(run.result().returncode != 0 for run in runs)
    print(f"compiled {count} cases, {failed} of them with an error", flush=True)


def compile_only(case: Case, way: str, backend: str, where: str) -> None:
    """One pass forward and back of a case, small and of the timed size."""
    for size in (case.small, case):
        p = problem(size, way_of(size, way, backend), where, 1)
        p.forward()
        p.both()


def trimmed(case: Case) -> Case:
    """A case as small as a trial without a GPU wants it."""
    steps = 40 if case.segment > 1 else 12
    return replace(case, batch=2, steps=steps, states=min(case.states, 4), channels=case.head)


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --tiny goes through the same motions without one")
    backend = args.backend or ("triton" if args.device == "cuda" else "torch")
    begin, only = time.perf_counter(), args.only or ["", ""]
    work = [
        (trimmed(c) if args.tiny else c, w, s) for c, w, s in plan(args.quick) if only[0] in c.name and only[1] in w
    ]
    kernels = kernels_of(work, swept=not (args.quick or args.no_sweep))
    if args.compile_only is not None:
        compile_only(*kernels[args.compile_only], backend, args.device)
        return 0
    if args.workers:
        chosen = ["--device", args.device, "--backend", backend]
        chosen += ["--quick"] * args.quick + ["--no-sweep"] * args.no_sweep + (["--only", *only] if any(only) else [])
        warm(len(kernels), chosen, args.workers)
    found = ceilings(args.device, args.tiny)
    print(
        f"copy {found.copy_bytes_per_s / 1e9:.0f} GB/s read and written, bf16 product "
        f"{found.matmul_flop_per_s / 1e12:.0f} TFLOP/s, {found.exps_per_s / 1e12:.2f} T exponentials/s "
        f"({found.exps_how})",
        flush=True,
    )
    extra = ceiling_columns(found, args.device)
    rows: list[dict[str, Any]] = []

    def keep(new: list[dict[str, Any]]) -> None:
        # Kept as it grows: a run that is cut off has not been for nothing.
        rows.extend(new)
        table = finished(rows, found)
        for row in table[len(rows) - len(new) :]:
            shown(row)
        write_csv(args.output, [row | extra for row in table], told=False)

    def run(part: Sequence[tuple[Case, str, float]]) -> None:
        for case, way, budget_s in part:
            if time.perf_counter() - begin > args.seconds:
                keep([columns_of(case) | {"of": case, "way": way, "note": f"left out: {args.seconds:.0f} s were over"}])
            else:
                keep(case_rows(case, way, backend, args.device, budget_s))

    # Plain torch at the large sizes may take all memory, and is what can be spared.
    late = [it for it in work if it[1] in PLAIN and it[0].name not in {case.name for case in BESIDE}]
    run([it for it in work if it not in late])
    if not args.no_sweep:
        left_s = args.seconds - (time.perf_counter() - begin)
        swept = sweep_rows(backend, args.device, args.quick, args.tiny, left_s)
        write_csv(args.output.with_name(f"{args.output.stem}_sweep.csv"), [row | extra for row in swept])
        print("\n".join(exponents(swept)))
    run(late)
    if not (args.no_compile or args.tiny or any(only)):
        keep(compiled_rows(BESIDE[0], args.device, COMPILED_BOX_S / (4 if args.quick else 1)))
    wrong = [row for row in rows if "wrong" in row.get("note", "")]
    print(f"{len(rows)} rows in {time.perf_counter() - begin:.0f} s, {len(wrong)} wrong; written: {args.output}")
    return 1 if wrong else 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=RESULTS / "koss_gpu.csv", help="CSV to write; the sweep's lies beside it")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--backend", default="", help="what is timed as fused: triton, or torch on a CPU")
    add("--quick", action="store_true", help="the table, the peers at the small batch, a short sweep")
    add("--tiny", action="store_true", help="all sizes as small as they can be: a trial")
    add("--only", nargs=2, metavar=("CASE", "WAY"), help="those whose names hold these two texts")
    add("--seconds", type=float, default=220.0, help="after which no further case is begun")
    add("--workers", type=int, default=0, help="processes that compile all kernels side by side before")
    add("--compile-only", type=int, metavar="K", help="compile what the K-th case needs, and nothing else")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--no-sweep", action="store_true")
    return parser.parse_args(given)


def ceiling_columns(found: Ceilings, where: str) -> dict[str, Any]:
    """What all rows share: the ceilings and the setting."""
    on_what = cuda_device() if where == "cuda" else device()
    return {
        "copy_bytes_per_s": round(found.copy_bytes_per_s), "matmul_flop_per_s": round(found.matmul_flop_per_s),
        "exps_per_s": round(found.exps_per_s), "exps_how": found.exps_how,
    } | setting("torch", *(["triton"] if where == "cuda" else []), on=on_what)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
