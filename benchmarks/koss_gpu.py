"""Milliseconds of the KOSS kernels on one CUDA device, beside plain torch, torch.compile and a plain selective scan.

    python benchmarks/koss_gpu.py --workers 12            (about 7 minutes; --quick: two or three)

First of all, each case must be right: small sizes, in all outputs and gradients against float64, and the timed size
against plain torch on four of its sequences (`koss_gpu_check`). What is wrong gets no time.
Two timings, named in each row: `call` is what a caller waits for, the device idle before, by CUDA events around one
call; `graph` is a replay of a CUDA graph, so the device's work without the gaps between launches. Both go round
several sets of inputs that together exceed the L2 cache (plain torch, which writes far more than it reads, has one);
p20, p50, p80 of many rounds. `forward` keeps nothing,
`forward+backward` gives the gradients of all inputs and weights. The floor of each row is `koss_gpu_cases.floor_ms`,
from ceilings measured in the same process.

In order: the table, the small batch with all its peers, further precisions and operators, the sweep over T, B, S and J,
plain torch at the table's sizes. With --workers the kernels of the first two are compiled side by side, then timed,
then the rest. Writes results/koss_gpu.csv and results/koss_gpu_sweep.csv after each case; --resume goes on where a run
of the same commit and device ended. A part that fails leaves its error in its row. Without a CUDA device,
`--device cpu --tiny` goes through the same motions.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from koss_gpu_ahead import Job, boxed, compiled
from koss_gpu_cases import ALSO, BESIDE, DIRECTIONS, TABLE, Case, Ceilings, columns_of
from koss_gpu_check import against_reference, against_torch
from koss_gpu_clock import (
    Deadline,
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
from koss_gpu_sweep import kernels_of_sweep, sweep
from koss_gpu_table import COMPILED, Row, done_key, finished, shown, taken_up
from koss_gpu_ways import Problem, problem, way_of
from setting import RESULTS, cuda_device, device, setting, write_csv

CACHE_BYTES, MOST_SETS = 200 << 20, 8  # several times an H100's L2
OURS = ("fused", "selective scan")
PLAIN = ("eager", "parallel scan in a Python loop")
COMPILED_BOX_S = 60.0  # of torch.compile's process that is timed
Plan = list[tuple[Case, str, float]]


def sets_of(case: Case, way: str, call: Callable[..., Any], where: str) -> list[Problem]:
    """As many sets of inputs as it takes to exceed the cache."""
    first = problem(case, call, where, 1)
    rotated = where == "cuda" and way in OURS
    count = max(2, min(MOST_SETS, -(-CACHE_BYTES // first.nbytes))) if rotated else 1
    return [first, *(problem(case, call, where, 10 + k) for k in range(1, count))]


def case_rows(case: Case, way: str, backend: str, where: str, budget_s: float, deadline: Deadline) -> list[Row]:
    """Rows of one way to compute a case: directions by two timings, or one that says why there are none."""
    common = columns_of(case) | {"of": case, "way": way}
    rows: list[Row] = []
    try:
        call = way_of(case, way, backend)
        small = against_reference(case, way, call, backend, where)
        if not small.right:
            return [common | small.columns()]
        sets = sets_of(case, way, call, where)
        large = against_torch(case, way, sets[0], backend)
        if not large.right:
            return [common | large.columns()]
        worst = {"error_y": max(small.output, large.output), "error_gradient": max(small.gradient, large.gradient)}
        common |= {name: f"{error:.1e}" for name, error in worst.items()}
        peak = peak_bytes(sets[0].both, where) / case.tokens
        common |= {"peak_bytes_per_token": f"{peak:.1f}" if peak == peak else ""}
        # Two records of plain torch at once may not fit the memory, so it has no row for the backward pass alone.
        for direction in DIRECTIONS if way in OURS else DIRECTIONS[::2]:
            rows += [common | row for row in timed_rows(direction, sets, where, budget_s, deadline)]
    except Exception as error:  # a way that does not run here is a finding, not an end
        rows.append(common | {"note": f"does not run: {first_line(error)}"})
    finally:
        free()
    return rows


def timed_rows(
    direction: str, sets: Sequence[Problem], where: str, budget_s: float, deadline: Deadline
) -> Iterator[Row]:
    """One direction by both timings."""
    stream = side_stream(where)
    if deadline.over():
        yield {"direction": direction, "note": deadline.note}
        return
    # A graph of the backward pass needs its record made on the stream that it is captured on.
    with on(stream):
        works = works_of(direction, sets)
        ms = within(works, where, min(budget_s, deadline.left_s()))
    yield {"direction": direction, "timing": "call"} | time_columns(ms)
    if stream is None or deadline.over():
        return
    row = {"direction": direction, "timing": "graph"}
    free()
    try:
        row |= time_columns(graph_ms(works, stream, min(budget_s, deadline.left_s())))
    except Exception as error:
        row |= {"note": f"no graph: {first_line(error)}"}
    yield row


def works_of(direction: str, sets: Sequence[Problem]) -> list[Callable[[], object]]:
    """What is timed, one for each set of inputs."""
    if direction == "forward":
        return [p.forward for p in sets]
    if direction == "forward+backward":
        return [p.both for p in sets]
    made = [(p, p.call(p.inputs)[0]) for p in sets]
    return [lambda p=p, y=y: p.backward_of(y) for p, y in made]  # type: ignore[misc]


def compiled_rows(case: Case, where: str, box_s: float, steps: int = 0) -> list[Row]:
    """torch.compile's rows, from a process that is ended after box_s seconds."""
    begin = time.perf_counter()
    told, _ = boxed(compiled_command(case, where, steps), box_s)
    return compiled_read(told, case, time.perf_counter() - begin)


def compiled_command(case: Case, where: str, steps: int) -> list[str]:
    """torch.compile's process."""
    script = Path(__file__).with_name("koss_gpu_compiled.py")
    return [sys.executable, str(script), "--case", case.name, "--device", where, "--steps", str(steps)]


def compiled_read(text: str, case: Case, seconds: float) -> list[Row]:
    """Rows from what the process printed; a way that it had begun and not done was cut off."""
    rows: list[Row] = []
    begun: dict[str, Row] = {}
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


def plan(quick: bool) -> Plan:
    """Cases and ways in order of weight, with the seconds that each figure may take; the small batch's ways last."""
    found: Plan = [(case, "fused", 0.4) for case in TABLE]
    for case in BESIDE:
        found += [(case, "fused", 0.4), (case, "eager", 0.4)]
        found += [(case, COMPILED, 1.0)] if case is BESIDE[0] else []
        found += [(case, PLAIN[1], 0.4), (selective(case), "selective scan", 0.3)]
    return found if quick else found + further()


def further() -> Plan:
    """What comes behind the small batch; plain torch at large sizes, which may take all memory, behind the sweep."""
    found: Plan = [(case, "fused", 0.3) for case in ALSO]
    found += [(selective(case), "selective scan", 0.3) for case in TABLE]
    return found + [(case, "eager", 1.0) for case in TABLE] + [(c, PLAIN[1], 1.0) for c in (TABLE[1], TABLE[3])]


def selective(case: Case) -> Case:
    """A plain selective scan of the same sizes."""
    return replace(case, kind="selective", operator="discrete")


def groups(work: Plan) -> tuple[Plan, Plan, Plan]:
    """What is compiled and timed first, what after it, and what waits until the sweep is done."""
    first = {(case, way) for case, way, _ in plan(quick=True)}
    names = {(case.name, way) for case, way in first}
    late = [it for it in work if (it[0].name, it[1]) not in names and it[1] in PLAIN]
    early = [it for it in work if (it[0].name, it[1]) in names]
    return early, [it for it in work if it not in early and it not in late], late


def kernels_of(work: Plan, swept: bool) -> list[tuple[Case, str]]:
    """What has to be compiled, each once: the table's and the small batch's first."""
    found = [(case, way) for case, way, _ in work if way in OURS]
    return found + ([(case, "fused") for case in kernels_of_sweep()] if swept else [])


def compile_only(case: Case, way: str, backend: str, where: str) -> None:
    """One pass forward and back of each size that has kernels of its own."""
    for size in case.compiled:
        p = problem(size, way_of(size, way, backend), where, 1)
        p.forward()
        p.both()


def jobs_of(kernels: Sequence[tuple[int, Case, str]], with_torch: bool, args: argparse.Namespace) -> list[Job]:
    """Processes that compile kernels, given with their places in `kernels_of`, and torch.compile's."""
    options = ["--device", args.device, "--backend", args.backend, *["--quick"] * args.quick, *["--tiny"] * args.tiny]
    options += ["--no-sweep"] * args.no_sweep + (["--only", *args.only] if args.only else [])
    script = [sys.executable, str(Path(__file__)), *options, "--compile-only"]
    jobs = []
    for k, case, way in kernels:
        name = f"{case.name}, {way}" + (f", B {case.batch} S {case.segment} J {case.passes}" * (case.name == "sweep"))
        jobs.append(Job((case, way), name, [*script, str(k)]))
    torchs = [Job(COMPILED, COMPILED, [*compiled_command(BESIDE[0], args.device, 0), "--compile-only"])]
    return torchs * with_torch + jobs


def trimmed(case: Case) -> Case:
    """A case as small as a trial without a GPU wants it."""
    steps = 40 if case.segment > 1 else 12
    return replace(case, batch=2, steps=steps, states=min(case.states, 4), channels=case.head)


class Run:
    """One run: its rows, what cannot be timed, and where all is kept."""

    def __init__(self, args: argparse.Namespace, deadline: Deadline, work: Plan) -> None:
        self.args, self.deadline, self.work = args, deadline, work
        self.faults: dict[Any, str] = {}
        self.rows: list[Row] = []

    def measure_ceilings(self) -> None:
        """What the device reaches; with --resume, rows that are there already."""
        args = self.args
        self.found = found = ceilings(args.device, args.tiny)
        print(
            f"copy {found.copy_bytes_per_s / 1e9:.0f} GB/s read and written, bf16 product "
            f"{found.matmul_flop_per_s / 1e12:.0f} TFLOP/s, {found.exps_per_s / 1e12:.2f} T exponentials/s "
            f"({found.exps_how})",
            flush=True,
        )
        self.extra = ceiling_columns(found, args.device)
        if args.resume:
            known = {(case.name, way): trimmed(case) if args.tiny else case for case, way, _ in plan(quick=False)}
            self.rows = taken_up(args.output, self.extra, known, found.processors)
            print(f"taken up: {len(self.rows)} rows of {args.output}", flush=True)

    def compile(self, wanted: Plan, swept: bool) -> None:
        """Kernels of a part of the work, and of the sweep."""
        if not self.args.workers:
            return
        done, parts = {done_key(row) for row in self.rows}, {it[:2] for it in wanted}
        places = enumerate(kernels_of(self.work, not self.args.no_sweep))
        kernels = [
            (k, case, way)
            for k, (case, way) in places
            if (case.name == "sweep" and swept) or ((case, way) in parts and (case.name, way) not in done)
        ]
        with_torch = any(way == COMPILED and (case.name, way) not in done for case, way in parts)
        jobs = jobs_of(kernels, with_torch and not self.args.tiny, self.args)
        self.faults |= compiled(jobs, self.args.workers, self.args.box, self.deadline.at)

    def keep(self, new: Sequence[Row]) -> None:
        """Kept as it grows: a run that is cut off has not been for nothing."""
        self.rows += [row | {"under": self.found, "run": self.extra} for row in new]
        table = finished(self.rows)
        for row in table[len(self.rows) - len(new) :]:
            shown(row)
        write_csv(self.args.output, table, told=False)

    def time(self, part: Plan) -> None:
        """Rows of a part of the work."""
        done = {done_key(row) for row in self.rows}
        for case, way, budget_s in part:
            if (case.name, way) not in done:
                self.keep(self._timed(case, way, budget_s))

    def _timed(self, case: Case, way: str, budget_s: float) -> list[Row]:
        args, common = self.args, columns_of(case) | {"of": case, "way": way}
        if self.deadline.over():
            return [common | {"note": self.deadline.note}]
        if way == COMPILED:
            if args.no_compile or args.tiny:
                return []
            return compiled_rows(case, args.device, min(args.torch_box, self.deadline.left_s()))
        if fault := self.faults.get((case, way)):
            return [common | {"note": f"not compiled: {fault}"}]
        return case_rows(case, way, args.backend, args.device, budget_s, self.deadline)

    def sweep(self) -> None:
        """The sweep, in a file beside."""
        if not self.args.no_sweep:
            lines = sweep(self.args, self.deadline, self.faults, self.extra)
            print("\n".join(lines), flush=True)


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --tiny goes through the same motions without one")
    args.backend = args.backend or ("triton" if args.device == "cuda" else "torch")
    begin, only = time.perf_counter(), args.only or ["", ""]
    work = [
        (trimmed(c) if args.tiny else c, w, s) for c, w, s in plan(args.quick) if only[0] in c.name and only[1] in w
    ]
    if args.compile_only is not None:
        case, way = kernels_of(work, not args.no_sweep)[int(args.compile_only)]
        compile_only(case, way, args.backend, args.device)
        return 0
    run = Run(args, Deadline(begin + args.seconds, args.seconds), work)
    first, second, late = groups(work)
    run.measure_ceilings()
    run.compile(first, swept=False)
    run.time(first)
    run.compile(second, swept=not args.no_sweep)
    run.time(second)
    run.sweep()
    run.time(late)
    wrong = [row for row in run.rows if "wrong" in row.get("note", "")]
    print(f"{len(run.rows)} rows in {time.perf_counter() - begin:.0f} s, {len(wrong)} wrong; written: {args.output}")
    return 1 if wrong else 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=RESULTS / "koss_gpu.csv", help="CSV to write; the sweep's lies beside it")
    add("--resume", action="store_true", help="keep what the file has of this commit and device, and go on from there")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--backend", default="", help="what is timed as fused: triton, or torch on a CPU")
    add("--quick", action="store_true", help="the table, the peers at the small batch, a short sweep")
    add("--tiny", action="store_true", help="all sizes as small as they can be: a trial")
    add("--only", nargs=2, metavar=("CASE", "WAY"), help="those whose names hold these two texts")
    add("--seconds", type=float, default=450.0, help="after which nothing further is begun, compiling included")
    add("--workers", type=int, default=0, help="processes that compile kernels side by side before they are timed")
    add("--box", type=float, default=150.0, help="seconds that one of them has")
    add("--torch-box", type=float, default=COMPILED_BOX_S, help="seconds that torch.compile's timed process has")
    add("--compile-only", type=int, metavar="K", help="compile what the K-th case needs, and nothing else")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--no-sweep", action="store_true")
    return parser.parse_args(given)


def ceiling_columns(found: Ceilings, where: str) -> Row:
    """What all rows share: the ceilings and the setting."""
    on_what = cuda_device() if where == "cuda" else device()
    return {
        "copy_bytes_per_s": round(found.copy_bytes_per_s), "matmul_flop_per_s": round(found.matmul_flop_per_s),
        "exps_per_s": round(found.exps_per_s), "exps_how": found.exps_how,
    } | setting("torch", *(["triton"] if where == "cuda" else []), on=on_what)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
