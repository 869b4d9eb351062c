"""The KOSS loop under torch.compile, in a process of its own that can be ended when its time is up.

    python benchmarks/koss_gpu_compiled.py --case "small batch"

Prints a JSON line when a way begins, with its steps, and one with its figures when it is done. The whole loop is
unrolled by the compiler, segment by segment, so it gets a reduced length.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

from koss_gpu_cases import BESIDE, TABLE, Case
from koss_gpu_check import against_torch
from koss_gpu_clock import first_line, graph_ms, side_stream, time_columns, within
from koss_gpu_peers import compiled_ways
from koss_gpu_ways import problem

BUDGET_S = 1.0  # of timing, for each figure
WHOLE_STEPS = 96  # of the loop that is compiled whole


def figures(case: Case, way: str, call: Any, where: str, timed: bool) -> dict[str, Any]:
    """Check and times of one compiled way; the first call compiles."""
    begin = time.perf_counter()
    p = problem(case, call, where, 1)
    found = against_torch(case, way, p, "triton")
    p.forward()  # without a gradient it is compiled once more
    compiling_s = time.perf_counter() - begin
    out: dict[str, Any] = {"compiling_s": round(compiling_s, 1), **found.columns(), "times": {}}
    if not found.right or not timed:
        return out
    for direction, work in (("forward", p.forward), ("forward+backward", p.both)):
        out["times"][f"{direction}, call"] = time_columns(within([work], where, BUDGET_S))
        if where == "cuda":
            try:
                out["times"][f"{direction}, graph"] = time_columns(graph_ms([work], side_stream(where), BUDGET_S))
            except Exception as error:
                out["graph"] = first_line(error)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default=BESIDE[0].name)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=0, help="fewer steps than the case has, for a trial")
    parser.add_argument("--compile-only", action="store_true", help="fill the compiler's cache, time nothing")
    given = parser.parse_args()
    case = next(c for c in (*TABLE, *BESIDE) if c.name == given.case)
    case = replace(case, steps=given.steps or case.steps)
    for way, call in compiled_ways(case.form):
        one = replace(case, steps=min(case.steps, WHOLE_STEPS)) if "whole" in way else case
        print(json.dumps({"way": way, "begun": one.steps}), flush=True)
        try:
            told = figures(one, way, call, given.device, not given.compile_only)
        except Exception as error:
            told = {"note": f"does not run: {first_line(error)}"}
        print(json.dumps({"way": way, "done": told}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
