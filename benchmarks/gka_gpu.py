"""Milliseconds of Gated KalmaNet's kernels on one CUDA device, beside flash-linear-attention and softmax attention.

    python benchmarks/gka_gpu.py --workers 14 --peers DIR040 DIR060 --ahead    (compiles all; some minutes)
    python benchmarks/gka_gpu.py --peers DIR040 DIR060                         (about 4 minutes)

First of all, each case must be right: two heads of the timed size, all their steps, output and gradients against
float64, and the same of a length that ends within a chunk (`gka_gpu_check`). What is wrong gets no time.
Three timings, named in each row: `call` is what a caller waits for, the device idle before, by CUDA events around one
call; `graph` is a replay of a CUDA graph, so the device's work without the gaps between launches; `kernel` is one
kernel's own time in a pass. All go round several sets of inputs that together exceed the L2 cache; p20, p50, p80 of
many rounds. `forward` keeps nothing, `forward+backward` gives the gradients of all inputs. The floor of a row is
`gka_gpu_cases.floor_ms`: of each kernel the larger of its matrix products at the rate of a large one and its bytes at
that of a copy, both measured in the same process, summed over the kernels.

Peers are different operators at the same sizes: MesaNet's solves the same equations with a constant ridge by conjugate
gradients (30 of them). DIR040 and DIR060 are folders with the unpacked wheels of fla-core 0.4.0 and 0.6.0 and of einops
(python -m pip download --no-deps fla-core==0.4.0 einops packaging; unzip). They are timed in processes of their own,
each with the package's own forward beside them (`gka_gpu_beside`). Without --peers their rows say so.

In the order of the rows' weight: the package's own, MesaNet of both versions, softmax attention, the sweep, the other
peers; 0.6.0's Gated DeltaNet comes last, since its backward refuses Triton 3.4 to 3.7 on these cards.

Writes results/gka_gpu.csv row by row, and results/gka_gpu_sweep.csv: T from 1,024 to 131,072 at a constant number of
tokens, and single steps of `gka_step`. Without a CUDA device, `--device cpu --tiny` goes through the same motions.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from gka_gpu_beside import FIRST, LAST, SECOND, VERSIONS, Peer, peer_rows, peers_of
from gka_gpu_cases import TABLE, Case, columns_of
from gka_gpu_check import Found, checked
from gka_gpu_kernels import kernel_rows, memory_columns
from gka_gpu_sweep import classes, sweep
from gka_gpu_table import finished, shown
from gka_gpu_ways import ATTENTION, FLA, OURS, Row, attention, ours, problem, sets_of, timed_rows
from koss_gpu_ahead import Job, compiled
from koss_gpu_clock import Deadline, ceilings, first_line, free
from setting import RESULTS, cuda_device, device, setting, write_csv


def own_rows(case: Case, args: argparse.Namespace, deadline: Deadline) -> Iterator[Row]:
    """The package's rows of a case: both directions, each kernel; or one that says why there are none."""
    common = columns_of(case) | {"of": case, "way": OURS}
    if deadline.over():
        yield common | {"note": deadline.note}
        return
    try:
        make, where = ours(args.backend), args.device
        first = problem(case, make, where, 1)
        found = [checked(problem(case.short, make, where, 3), case.short), checked(first, case)]
        worst = max(found, key=lambda one: one.share)
        if not worst.right:
            yield common | worst.columns()
            return
        common |= _errors(found)
        memory = memory_columns(first, case, args.backend, where)
        sets = sets_of(first, case, make, where)
        for row in timed_rows(sets, where, args.budget, deadline):
            yield common | row | (memory[row["direction"]] if row.get("timing") == "call" else {})
        if args.backend == "triton":
            free()
            for row in kernel_rows(sets, case):
                yield common | row
    except Exception as error:  # a case that does not run here is a finding, not an end
        yield common | {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def _errors(found: Sequence[Found]) -> Row:
    output, gradient = (max(getattr(one, name) for one in found) for name in ("output", "gradient"))
    return {"error_o": f"{output:.1e}", "error_gradient": f"{gradient:.1e}"}


def attention_rows(case: Case, args: argparse.Namespace, deadline: Deadline) -> Iterator[Row]:
    """Softmax attention at the same size."""
    common = columns_of(case) | {"of": case, "way": ATTENTION}
    try:
        sets = sets_of(problem(case, attention, args.device, 1), case, attention, args.device)
        for row in timed_rows(sets, args.device, args.budget, deadline):
            yield common | row
    except Exception as error:
        yield common | {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def jobs_of(cases: Sequence[Case], peers: Sequence[Peer], args: argparse.Namespace) -> list[Job]:
    """Processes that compile, the peers' first, which take longest: their kernels are made for each size."""
    jobs = []
    for case in cases if args.device == "cuda" else []:
        for peer in peers if case.peers else []:
            for way in peer.ways if peer.site is not None else []:
                name = f"{way} {peer.version}, {case.name}"
                jobs.append(Job(name, name, peer.command(args, [case], [way], "--compile-only")))
    own = [sys.executable, __file__, "--device", args.device, "--backend", args.backend, "--compile-only"]
    jobs += [Job(k, f"{OURS}, D {c.width}, {c.heads} heads", [*own, str(k)]) for k, c in enumerate(kernels_of())]
    return jobs


def kernels_of() -> list[Case]:
    """Small cases that between them need every kernel: Triton's code depends on heads and widths alone."""
    sizes = {(case.heads, case.width): case.short for case in TABLE}
    return [*sizes.values(), *(case for case in classes() if (case.heads, case.width) not in sizes)]


def compile_only(case: Case, args: argparse.Namespace) -> None:
    p = problem(case, ours(args.backend), args.device, 1)
    p.forward()
    p.both()


class Run:
    """One run: its rows, and where all is kept."""

    def __init__(self, args: argparse.Namespace, deadline: Deadline) -> None:
        self.args, self.deadline = args, deadline
        self.rows: list[Row] = []
        self.found = found = ceilings(args.device, args.tiny)
        print(
            f"copy {found.copy_bytes_per_s / 1e9:.0f} GB/s read and written, bf16 product "
            f"{found.matmul_flop_per_s / 1e12:.0f} TFLOP/s",
            flush=True,
        )
        on_what = cuda_device() if args.device == "cuda" else device()
        known = setting("torch", *(["triton"] if args.device == "cuda" else []), on=on_what)
        measured = {"copy_bytes_per_s": round(found.copy_bytes_per_s)}
        self.extra = measured | {"matmul_flop_per_s": round(found.matmul_flop_per_s)} | known

    def keep(self, new: Iterator[Row] | Sequence[Row]) -> None:
        """Kept as it grows: a run that is cut off has not been for nothing."""
        for row in new:
            self.rows.append(row | {"under": self.found, "run": self.extra})
            table = finished(self.rows)
            shown(table[-1])
            write_csv(self.args.output, table, told=False)

    def all(self, cases: Sequence[Case], peers: Sequence[Peer]) -> None:
        """In order of weight: the package's own, the peers that solve the same, the sweep, other peers."""
        args, deadline = self.args, self.deadline
        beside = [case for case in cases if case.peers]
        for case in cases:
            self.part(case.name, own_rows(case, args, deadline))
        self.turn(FIRST, peers, beside)
        for case in beside:
            self.part(f"{ATTENTION}, {case.name}", attention_rows(case, args, deadline))
        if not args.no_sweep:
            begin = time.perf_counter()
            print("\n".join(sweep(args, deadline, self.found, self.extra)), flush=True)
            print(f"-- {time.perf_counter() - begin:.1f} s for the sweep", flush=True)
        self.turn(SECOND, peers, beside)
        self.turn(LAST, peers, beside)

    def turn(self, which: int, peers: Sequence[Peer], cases: Sequence[Case]) -> None:
        for peer in peers if cases else []:
            if peer.turn == which:
                self.part(peer.name, peer_rows(peer, cases, self.args, self.deadline))

    def part(self, name: str, new: Iterator[Row]) -> None:
        begin = time.perf_counter()
        self.keep(new)
        print(f"-- {time.perf_counter() - begin:.1f} s for {name}", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; --device cpu --tiny goes through the same motions without one")
    args.backend = args.backend or ("triton" if args.device == "cuda" else "torch")
    if args.compile_only is not None:
        compile_only(kernels_of()[args.compile_only], args)
        return 0
    begin = time.perf_counter()
    deadline = Deadline(begin + args.seconds, args.seconds)
    cases = [trimmed(case) if args.tiny else case for case in TABLE if args.only in case.name]
    peers = peers_of(args.peers, args.ways)
    if args.workers:
        compiled(jobs_of(cases, peers, args), args.workers, args.box, deadline.at)
    if args.ahead:
        return 0
    run = Run(args, deadline)
    run.all(cases, peers)
    wrong = [row for row in run.rows if "wrong" in row.get("note", "")]
    print(f"{len(run.rows)} rows in {time.perf_counter() - begin:.0f} s, {len(wrong)} wrong; written: {args.output}")
    return 1 if wrong else 0


def trimmed(case: Case) -> Case:
    """A case as small as a trial without a GPU wants it."""
    return replace(case.short, heads=2, width=16)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=RESULTS / "gka_gpu.csv", help="CSV to write; the sweep's lies beside it")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--backend", default="", help="the package's own: triton, or torch on a CPU")
    add(
        "--peers",
        type=Path,
        nargs=len(VERSIONS),
        metavar=("DIR040", "DIR060"),
        help="flash-linear-attention 0.4.0 and 0.6.0",
    )
    add("--ways", nargs="+", choices=list(FLA), help="those of the peers' operators alone")
    add("--tiny", action="store_true", help="all sizes as small as they can be: a trial")
    add("--only", default="", metavar="CASE", help="those whose names hold this text")
    add("--budget", type=float, default=0.3, help="seconds for each figure")
    add("--seconds", type=float, default=540.0, help="after which nothing further is begun, compiling included")
    add("--workers", type=int, default=0, help="processes that compile side by side before anything is timed")
    add("--ahead", action="store_true", help="compile, which needs --workers, and stop before anything is timed")
    add("--box", type=float, default=240.0, help="seconds that one of them has")
    add("--peer-box", type=float, default=180.0, help="seconds that a process of peers has")
    add("--compile-only", type=int, metavar="K", help="compile the K-th size's kernels, and nothing else")
    add("--no-sweep", action="store_true")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
