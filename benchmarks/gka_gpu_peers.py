"""Operators of one version of flash-linear-attention, timed in a process of their own: two versions do not go into one.

    python benchmarks/gka_gpu_peers.py --site DIR --version 0.4.0 --ways chunk_mesa_net --cases "D 128, 30 iterations"

--site is a folder with the unpacked wheels of fla-core and einops. A line of JSON for each row, which `gka_gpu.py`
reads. The package's own forward at the first case is timed here too: that both processes had an equally fast card shows
in its time. What an operator autotunes it tunes here, with nothing beside it on the card: some hundred configurations
of its kernels at each size, each for TUNED_MS. With --compile-only all of them are compiled, and none is chosen.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gka_gpu_cases import DIRECTIONS, TABLE, Case
from gka_gpu_ways import FLA, OURS, Row, not_finite, ours, problem, sets_of, timed_rows
from koss_gpu_clock import Deadline, first_line, free

TUNED_MS = 15  # Triton's own habit is 100: minutes for an operator


def rows_of(case: Case, way: str, version: str, where: str, budget_s: float, deadline: Deadline) -> Iterator[Row]:
    """One operator at one size."""
    common = {"case": case.name, "way": f"{way} {version}"}
    if deadline.over():
        yield common | {"note": deadline.note}
        return
    try:
        make = FLA[way]
        first = problem(case, make, where, 1)
        bad = not_finite(first)
        for row in timed_rows(sets_of(first, case, make, where), where, budget_s, deadline):
            yield common | row | ({"note": bad} if bad and "note" not in row else {})
    except Exception as error:  # an operator that refuses is a finding, not an end
        yield common | {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def own_rows(case: Case, version: str, backend: str, where: str, budget_s: float, deadline: Deadline) -> Iterator[Row]:
    """The package's forward beside them."""
    common = {"case": case.name, "way": f"{OURS}, beside {version}"}
    try:
        make = ours(backend)
        sets = sets_of(problem(case, make, where, 1), case, make, where)
        for row in timed_rows(sets, where, budget_s, deadline, DIRECTIONS[:1]):
            yield common | row
    except Exception as error:  # the peers are timed all the same
        yield common | {"note": f"does not run: {first_line(error)}"}
    finally:
        free()


def compile_only(case: Case, ways: Sequence[str], where: str) -> None:
    """One pass of each, so that what Triton compiles lies on the disk."""
    for way in ways:
        p = problem(case, FLA[way], where, 1)
        p.forward()
        p.both()


def tuned_by(compile_only: bool) -> None:
    """How Triton's autotuner judges a configuration, from now on: in less time, or not at all but compiled."""
    testing = importlib.import_module("triton.testing")
    plain = testing.do_bench

    def once(work: Callable[[], object], quantiles: Sequence[float] = (0.5,), **_: object) -> list[float]:
        work()
        return [1.0] * len(quantiles)

    def briefly(work: Callable[[], object], quantiles: Sequence[float] = (0.5,), **_: object) -> object:
        return plain(work, warmup=5, rep=TUNED_MS, quantiles=quantiles)

    testing.do_bench = once if compile_only else briefly


def tuners() -> list[Any]:
    """Triton's autotuners that are made from now on."""
    tuner = importlib.import_module("triton.runtime.autotuner").Autotuner
    made: list[Any] = []
    plain = tuner.__init__

    def kept(self: Any, *given: Any, **options: Any) -> None:
        plain(self, *given, **options)
        made.append(self)

    tuner.__init__ = kept
    return made


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    # Nothing chosen is kept on the disk: neither what is taken for chosen while compiling, nor another size's best.
    os.environ["FLA_CACHE_RESULTS"] = "0"
    chosen = tuners() if args.device == "cuda" else []
    sys.path.insert(0, str(args.site))
    found = importlib.import_module("fla").__version__
    if found != args.version:
        sys.exit(f"{args.site} has flash-linear-attention {found}, expected {args.version}")
    if args.device == "cuda":
        tuned_by(args.compile_only)
    cases = [case.short if args.tiny else case for case in TABLE if case.name in args.cases]
    if args.compile_only:
        for case in cases:
            compile_only(case, args.ways, args.device)
        return 0
    deadline = Deadline(time.perf_counter() + args.seconds, args.seconds)
    for row in own_rows(cases[0], args.version, args.backend, args.device, args.budget, deadline):
        print(json.dumps(row), flush=True)
    for case in cases:
        # Some kernels tune by the chunk alone, so that a size would go with what was best for the one before it.
        for tuner in chosen:
            tuner.cache.clear()
        for way in args.ways:
            for row in rows_of(case, way, args.version, args.device, args.budget, deadline):
                print(json.dumps(row), flush=True)
    return 0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--site", type=Path, required=True, help="folder with the unpacked wheels")
    add("--version", required=True)
    add("--ways", nargs="+", choices=list(FLA), required=True)
    add("--cases", nargs="+", choices=[case.name for case in TABLE], required=True)
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--backend", default="triton", help="the package's own")
    add("--tiny", action="store_true")
    add("--budget", type=float, default=0.3, help="seconds for each figure")
    add("--seconds", type=float, default=150.0, help="after which nothing further is begun")
    add("--compile-only", action="store_true")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
