"""Milliseconds of Gated KalmaNet's kernels on one CUDA device, beside flash-linear-attention and softmax attention.

    python benchmarks/gka_gpu.py --workers 14 --peers DIR040 DIR060 --ahead    (compiles all; some minutes)
    python benchmarks/gka_gpu.py --peers DIR040 DIR060                         (about 8 minutes)

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
(python -m pip download --no-deps fla-core==0.4.0 einops; unzip); each version is timed in a process of its own, and the
package's own forward in both. Without --peers their rows say so.

Writes results/gka_gpu.csv after each part, and results/gka_gpu_sweep.csv: T from 1,024 to 131,072 at a constant number
of tokens, and single steps of `gka_step`. Without a CUDA device, `--device cpu --tiny` goes through the same motions.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from gka_gpu_cases import TABLE, Case, columns_of
from gka_gpu_check import Found, checked
from gka_gpu_kernels import kernel_rows, memory_columns
from gka_gpu_sweep import classes, sweep
from gka_gpu_table import finished, shown
from gka_gpu_ways import ATTENTION, FLA, OURS, Row, attention, ours, problem, sets_of, timed_rows
from koss_gpu_ahead import Job, boxed, compiled
from koss_gpu_clock import Deadline, ceilings, first_line, free
from setting import RESULTS, cuda_device, device, setting, write_csv

PEERS = {
    "0.4.0": ("chunk_mesa_net", "chunk_gated_delta_rule", "chunk_simple_gla"),
    "0.6.0": ("chunk_mesa_net", "chunk_gated_delta_rule"),
}
SCRIPT = Path(__file__).with_name("gka_gpu_peers.py")


class Peer(NamedTuple):
    """One version of flash-linear-attention: where it lies, None if nowhere, and which of its operators are timed."""

    version: str
    site: Path | None
    ways: tuple[str, ...]

    def command(self, args: argparse.Namespace, cases: Sequence[Case], ways: Sequence[str], *more: str) -> list[str]:
        names = [case.name for case in cases]
        options = ["--site", str(self.site), "--version", self.version, "--device", args.device, *more]
        options += ["--backend", args.backend, "--budget", str(args.budget), *["--tiny"] * args.tiny]
        return [sys.executable, str(SCRIPT), *options, "--ways", *ways, "--cases", *names]


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


def peer_rows(peer: Peer, cases: Sequence[Case], args: argparse.Namespace, deadline: Deadline) -> list[Row]:
    """Rows of one version's operators, from a process of its own that is ended after --peer-box seconds."""
    way = f"flash-linear-attention {peer.version}"
    nothing = columns_of(cases[0]) | {"of": cases[0], "way": way}
    if peer.site is None:
        return [nothing | {"note": "not installed: --peers names no folder of it"}]
    if deadline.over():
        return [nothing | {"note": deadline.note}]
    free()
    box_s = min(args.peer_box, deadline.left_s())
    told, fault = boxed(peer.command(args, cases, peer.ways, "--seconds", str(0.9 * box_s)), box_s)
    rows = peers_read(told, cases)
    return [*rows, nothing | {"note": f"not whole: {fault}"}] if fault else rows


def peers_read(told: str, cases: Sequence[Case]) -> list[Row]:
    """Rows from what a peer's process printed."""
    of = {case.name: case for case in cases}
    read = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return [columns_of(of[row["case"]]) | {"of": of[row["case"]]} | row for row in read]


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
        """In order of weight: the package's own, peers, the sweep."""
        args, deadline = self.args, self.deadline
        beside = [case for case in cases if case.peers]
        for case in cases:
            self.keep(own_rows(case, args, deadline))
        for case in beside:
            self.keep(attention_rows(case, args, deadline))
        for peer in peers if beside else []:
            self.keep(peer_rows(peer, beside, args, deadline))
        if not args.no_sweep:
            print("\n".join(sweep(args, deadline, self.found, self.extra)), flush=True)


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
    sites = args.peers or [None] * len(PEERS)
    peers = [
        Peer(version, site, chosen)
        for (version, ways), site in zip(PEERS.items(), sites, strict=True)
        if (chosen := [way for way in ways if not args.ways or way in args.ways])
    ]
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
    add("--peers", type=Path, nargs=2, metavar=("DIR040", "DIR060"), help="flash-linear-attention 0.4.0 and 0.6.0")
    add("--ways", nargs="+", choices=list(FLA), help="those of the peers' operators alone")
    add("--tiny", action="store_true", help="all sizes as small as they can be: a trial")
    add("--only", default="", metavar="CASE", help="those whose names hold this text")
    add("--budget", type=float, default=0.3, help="seconds for each figure")
    add("--seconds", type=float, default=540.0, help="after which nothing further is begun, compiling included")
    add("--workers", type=int, default=0, help="processes that compile side by side before anything is timed")
    add("--ahead", action="store_true", help="compile, which needs --workers, and stop before anything is timed")
    add("--box", type=float, default=240.0, help="seconds that one of them has")
    add("--peer-box", type=float, default=180.0, help="seconds that the process of one version of the peers has")
    add("--compile-only", type=int, metavar="K", help="compile the K-th size's kernels, and nothing else")
    add("--no-sweep", action="store_true")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
