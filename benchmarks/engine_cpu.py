"""Track-steps per second of the batched engine on processor cores, beside filterpy and vectorised numpy.

    python benchmarks/engine_cpu.py

A track-step is one predict and one update with the plot's own time step and covariance. 10,000 tracks of 100 steps;
filterpy, which takes them one by one, gets some of them. Speeds are by the wall clock (threads share the work), the
sides' repeats take turns. The package is timed twice: its kernels (`scan`, `smooth` of `ssrtrack.kernels`) on packed
arrays, as numpy is given its favourite layout and returns posterior means and covariances only; and as a user calls
it, `run` or `smooth` of `ssrtrack.filters` from tables to tables, predicted moments and all. Before anything is timed,
every side must give filterpy's posterior means on tracks from all over the batch: within 1 µm (µm/s) in float64, 1 m
(m/s) in float32.
Where filterpy cannot do what the estimator does (it mixes turn rates otherwise), the package's own filterpy path is
what all must agree with, and filterpy's difference, 100 m RMS at most, is in the table. Writes results/engine_cpu.csv.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import engine_filterpy
import engine_numpy
import engine_ours
import numpy as np
from engine_cases import simulated, wall_rates
from setting import RESULTS, setting, write_csv

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.estimators import make_estimator, untuned_parameters
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import constant_velocity
from ssrtrack.filters.options import Options

TRACKS, STEPS, REPEATS, Q_M2S3 = 10_000, 100, 9, 15.0
Q_IMM_CV = (0.1, 1.0, 10.0, 50.0)
TOLERANCE = {"float64": 1e-6, "float32": 1.0}
IMM_RMS_M = 100.0  # the plots themselves are some 300 m off
# Precision and cores of every row of ours.
OURS = (("float64", 1), ("float64", 2), ("float32", 1), ("float32", 2))
BLOCKS = (1000, 2000, 5000, 10_000)
Array = Any


@dataclass(frozen=True)
class Side:
    """One implementation: `work` returns means (N, ≥ T − 1, 4), or what `means` makes such of, which is not timed."""

    name: str
    dtype: str
    threads: int
    tracks: int
    work: Callable[[], Any]
    means: Callable[[Any], Array] = lambda out: out
    on_sample: bool = False
    difference: float = float("nan")
    note: str = ""


@dataclass(frozen=True)
class Case:
    """An estimator, what filterpy does for it, and how fast it should be."""

    name: str
    estimator: Any
    peer: Callable[[Measurements], Array]
    target: float | None = None
    smooth: bool = False
    exact_peer: bool = True


def cases() -> list[Case]:
    imm = make_estimator("imm", **untuned_parameters("imm"))  # Gaussian noise, like its peer
    cv = Bank(
        tuple(constant_velocity(q) for q in Q_IMM_CV), imm.chain, "extended", "position", Options()
    )  # fmt: skip
    with_q = {name: make_estimator(name, q_m2s3=Q_M2S3) for name in ("kf", "ekf", "ukf")}
    return [
        Case("KF CV", with_q["kf"], partial(engine_filterpy.kf, q_m2s3=Q_M2S3), 10e6),
        Case("KF CV and RTS smoother", with_q["kf"], partial(engine_filterpy.smoother, q_m2s3=Q_M2S3), 4e6, True),
        Case("IMM, CV CV-high CT CT", imm, partial(engine_filterpy.imm_turns, bank=imm), 1e6, exact_peer=False),
        Case("IMM, 4 CV models", cv, partial(engine_filterpy.imm_cv, bank=cv, q_m2s3=Q_IMM_CV)),
        Case("EKF CV, range-azimuth", with_q["ekf"], partial(engine_filterpy.ekf, q_m2s3=Q_M2S3)),
        Case("UKF CV, range-azimuth", with_q["ukf"], partial(engine_filterpy.ukf, q_m2s3=Q_M2S3)),
    ]


def sides_of(case: Case, z: Measurements, sample: Array, peers_only: bool) -> list[Side]:
    """filterpy first, then numpy where it has the case, then ours."""
    few = z.select(sample)
    note = "" if case.exact_peer else "mixes turn rates otherwise"
    out = [Side("filterpy loop", "float64", 1, sample.size, partial(case.peer, few), on_sample=True, note=note)]
    if case.name.startswith("KF"):
        out += numpy_sides(case, z)
    if not peers_only:
        call = engine_ours.smoothed if case.smooth else engine_ours.filtered
        means = partial(engine_ours.means_of_packed, tracks=len(z))
        for dtype, threads in OURS:
            work = engine_ours.packed(case.estimator, z, dtype, threads, case.smooth)
            out.append(Side("ssrtrack scan, numba", dtype, threads, len(z), work, means))
        for dtype, threads in OURS:
            work = partial(call, case.estimator, z, "numba", dtype, threads)
            out.append(Side("ssrtrack run, numba", dtype, threads, len(z), work))
    return out


def numpy_sides(case: Case, z: Measurements) -> list[Side]:
    p = engine_numpy.problem_of(z, Q_M2S3, Options().speed_sigma_mps)
    scan = engine_numpy.component_smoother if case.smooth else engine_numpy.component_filter
    out = []
    for threads in (1, 2):
        block = fastest_block(scan, p, threads)
        work, note = partial(scan, p, threads, block), f"blocks of {block} tracks"
        out.append(Side("numpy, components", "float64", threads, len(z), work, by_components, note=note))
    if not case.smooth:
        work = partial(engine_numpy.matrix_filter, p)
        out.append(Side("numpy, matrices", "float64", 1, len(z), work, lambda o: np.swapaxes(o[0], 0, 1)))
    return out


def by_components(out: tuple[Array, Array]) -> Array:
    return np.moveaxis(out[0], -1, 0)


def fastest_block(scan: Callable[..., object], p: engine_numpy.Problem, threads: int) -> int:
    """Of BLOCKS, by two quick runs each."""
    seconds = {}
    for block in BLOCKS:
        scan(p, threads, block)
        begin = time.perf_counter()
        scan(p, threads, block)
        seconds[block] = time.perf_counter() - begin
    return min(seconds, key=seconds.__getitem__)


def compared(case: Case, sides: Sequence[Side], sample: Array, reference: Array) -> list[Side]:
    """The sides with their difference from the reference (n, T − 1, 4): the largest of any component, RMS distance
    (m) for a peer that is not exact.

    Raises:
        SystemExit: a side is further off than it may be.
    """
    out = []
    for side in sides:
        means = side.means(side.work())
        got = (means if side.on_sample else means[sample])[:, -reference.shape[1] :]
        exact = case.exact_peer or side.name != "filterpy loop"
        off = got - reference
        worst = float(np.abs(off).max() if exact else np.sqrt((off[..., :2] ** 2).sum(-1).mean()))
        limit = TOLERANCE[side.dtype] if exact else IMM_RMS_M
        if not worst <= limit:
            sys.exit(
                f"{case.name}, {side.name} {side.dtype}: {worst:.3g} off, expected {limit:g} at most; nothing timed"
            )
        out.append(replace(side, difference=worst))
    return out


def reference_of(case: Case, z: Measurements, peers_only: bool) -> Array:
    """Posterior means (n, T − 1, 4) of the tracks of z (smoothed: T of them) that every side must give."""
    if case.exact_peer:
        return case.peer(z)
    return engine_ours.filtered(case.estimator, z, None if peers_only else "filterpy", "float64", 1)[:, 1:]


def rows_of(case: Case, sides: Sequence[Side], repeats: int) -> list[dict[str, Any]]:
    speeds = wall_rates([(side.work, side.tracks * STEPS) for side in sides], repeats)
    best = {
        peer: max((s[1] for side, s in zip(sides, speeds, strict=True) if side.name.startswith(peer)), default=None)
        for peer in ("filterpy", "numpy")
    }
    rows = []
    for side, (p20, p50, p80) in zip(sides, speeds, strict=True):
        print(f"{case.name:24s} {side.name:18s} {side.dtype} x{side.threads} {p50:14,.0f} steps/s", flush=True)
        rows.append({
            "case": case.name, "implementation": side.name, "dtype": side.dtype, "threads": side.threads,
            "tracks": side.tracks, "steps": STEPS, "difference_from_reference": f"{side.difference:.1e}",
            "steps_per_s_p20": round(p20), "steps_per_s_p50": round(p50), "steps_per_s_p80": round(p80),
            "target_steps_per_s": round(case.target) if case.target else "",
            "ratio_to_filterpy": ratio(p50, best["filterpy"]), "ratio_to_numpy": ratio(p50, best["numpy"]),
            "note": side.note,
        })  # fmt: skip
    return rows


def ratio(speed: float, peer: float | None) -> str:
    return f"{speed / peer:.3g}" if peer else ""


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "engine_cpu.csv", help="CSV to write")
    parser.add_argument("--peers-only", action="store_true", help="leave the package's engine out")
    parser.add_argument("--tracks", type=int, default=TRACKS)
    parser.add_argument("--sample", type=int, default=20, help="tracks that filterpy filters and all are checked on")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--case", default="", help="only the cases whose name holds this")
    args = parser.parse_args(given)
    z = simulated(args.tracks, STEPS + 1)
    # From all over the batch, its last track included.
    sample = np.unique(np.linspace(0, args.tracks - 1, args.sample).astype(int))
    rows = []
    for case in cases():
        if args.case not in case.name:
            continue
        reference = reference_of(case, z.select(sample), args.peers_only)
        sides = compared(case, sides_of(case, z, sample, args.peers_only), sample, reference)
        rows += rows_of(case, sides, args.repeats)
    if not rows:
        sys.exit(f"no case has {args.case!r} in its name; there are {[case.name for case in cases()]}")
    write_csv(args.output, [row | setting("numpy", "filterpy", "numba", "torch") for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
