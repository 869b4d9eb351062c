"""Milliseconds of one step of Gated KalmaNet on a CPU, the compiled one beside plain torch.

    python benchmarks/gka_step_cpu.py            (under a minute)

`gka_step` of B sequences with heads of D numbers, 30 iterations, with α and variance, float32, each step from the state
that the last one gave. First both must give the same numbers. The two take turns; p20, p50 and p80 of the repeats.
Writes results/gka_step_cpu.csv.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import RESULTS, device, setting, write_csv

from ssrtrack.kernels import gka as public
from ssrtrack.kernels.gka import gka_step

SIZES = ((1000, 2, 32), (100, 2, 32), (1, 2, 32), (1000, 1, 64), (64, 8, 128))  # B, heads, D; a tracker's first
WAYS = {"compiled": 1, "plain torch": 1 << 40}  # heads of sequences from which the compiled step is taken
OFF = 1e-4  # RMS(err)/RMS(ref) of o, H, U and variance


def drawn(B: int, heads: int, D: int) -> list[torch.Tensor]:
    """q, k, v (B, heads, D), log γ and α (B, heads)."""
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(B, heads, D, generator=g) for _ in range(3))
    unit = [part / part.norm(dim=-1, keepdim=True) for part in (q, k)]
    return [*unit, v, -0.05 * torch.rand(B, heads, generator=g), torch.rand(B, heads, generator=g)]


def stepped(way: str, given: Sequence[torch.Tensor], state: Any, turn: int) -> tuple[float, list[torch.Tensor]]:
    """Seconds, and o, H, U and variance; keys change hands from step to step."""
    q, k, *rest = given
    k = k.roll(turn, 0)
    public.MANY = WAYS[way]
    begin = time.perf_counter()
    with torch.no_grad():
        o, state, variance = gka_step(q, k, *rest, state, variance=True)  # type: ignore[call-overload,misc]
    return time.perf_counter() - begin, [o, *state, variance]


def rows_of(size: tuple[int, int, int], repeats: int) -> list[dict[str, Any]]:
    """One row a way, in the order of WAYS."""
    given = drawn(*size)
    found: dict[str, list[torch.Tensor] | None] = dict.fromkeys(WAYS)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(repeats + 3):
        for way in WAYS:
            before = found[way]
            took, found[way] = stepped(way, given, None if before is None else (before[1], before[2]), turn)
            seconds[way].append(took)
    pairs = zip(*(part for part in found.values() if part is not None), strict=True)
    off = max(float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in pairs)
    if not off <= OFF:
        sys.exit(f"{size}: the two steps differ by {off:.1e}, more than {OFF:.0e}; nothing was timed")
    made = []
    for way in WAYS:
        p20, p50, p80 = 1e3 * np.quantile(seconds[way][3:], (0.2, 0.5, 0.8))
        names = dict(zip(("B", "heads", "D"), size, strict=True))
        made.append(
            names | {"way": way, "threads": torch.get_num_threads(), "ms_p20": f"{p20:.3g}", "ms_p50": f"{p50:.3g}",
                     "ms_p80": f"{p80:.3g}", "repeats": repeats, "off": f"{off:.0e}"}
        )  # fmt: skip
    made[0]["times_torch"] = f"{float(made[1]['ms_p50']) / float(made[0]['ms_p50']):.3g}"
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "gka_step_cpu.csv")
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    rows = []
    for size in SIZES:
        for row in rows_of(size, args.repeats):
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row | {"times_torch": row.get("times_torch", "")} | setting("torch", "numba", on=device()))
    write_csv(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
