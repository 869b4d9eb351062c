"""Milliseconds of one step of a learned tracker on a CPU, stage by stage, the compiled network beside torch's.

    python benchmarks/learned_step_cpu.py                            (the shipped KOSS; about a minute)
    python benchmarks/learned_step_cpu.py --models runs/koss-1 --tracks 1000 1 --threads 1 2

A step is a prediction, an update with a plot and an estimate, for so many tracks, on flights of the suite. First both
ways must say the same: estimates within OFF standard deviations. Then the two take turns, flight after flight; p20, p50
and p80 over all steps of all turns but the first. "rest" is what of a step is in no other stage: tables of numbers, and
Python. "matrix products" are those of the network alone, on numbers that lie in a core's cache: what it costs at least.
On a machine that others use as well the p20 of two threads says more than its p50. Writes results/learned_step_cpu.csv.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from learned_trackers_hard import case_of
from learned_trackers_sets import SUITE, log_of
from setting import RESULTS, setting, write_csv

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.measurement import Measurements
from ssrtrack.kernels import koss_rows_numba
from ssrtrack.kernels.koss_rows_weights import Network
from ssrtrack.kernels.lanes_numba import PANEL
from ssrtrack.models.koss_packed import Packed
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.learned_base import BaseSteps
from ssrtrack.models.load import load_tracker

WAYS = ("compiled", "torch")
OFF = 1e-3  # standard deviations of the estimate
FLIGHTS = 64
STAGES: dict[str, tuple[Any, str]] = {
    "base, prediction": (BaseSteps, "moved"),
    "base, update": (BaseSteps, "seen"),
    "network": (LearnedEstimator, "_network"),
    "estimate": (LearnedEstimator, "estimate"),
}
Seconds = dict[str, list[float]]


@contextmanager
def timed(seconds: Seconds) -> Iterator[None]:
    """The stages' functions note what they take."""
    owned = {stage: getattr(owner, name) for stage, (owner, name) in STAGES.items()}

    def noting(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            begin = time.perf_counter()
            found = function(*given)
            seconds[stage].append(time.perf_counter() - begin)
            return found

        return noted

    for stage, (owner, name) in STAGES.items():
        setattr(owner, name, noting(stage, owned[stage]))
    try:
        yield
    finally:
        for stage, (owner, name) in STAGES.items():
            setattr(owner, name, owned[stage])


def told(estimator: LearnedEstimator, way: str) -> None:
    """The estimator, made to take a way."""
    packed = Packed.of(estimator.model)
    if packed.network is None:
        raise EstimatorError("there is no compiled step of this model: nothing to compare")
    object.__setattr__(estimator, "_packed", packed if way == "compiled" else replace(packed, network=None, head=None))


def walked(estimator: LearnedEstimator, z: Measurements, seconds: Seconds) -> list[np.ndarray[Any, Any]]:
    """Estimates (mean, covariance) of all plots but the first, step by step."""
    state, said = estimator.init(z.at(0)), []
    for kept in seconds.values():
        kept.clear()
    for k in range(1, z.time_s.shape[1]):
        now, dt_s = z.at(k), z.time_s[:, k] - z.time_s[:, k - 1]
        begin = time.perf_counter()
        state = estimator.update(estimator.predict(state, dt_s), now, now.valid)
        mean, covariance = estimator.estimate(state)
        seconds["step"].append(time.perf_counter() - begin)
        said.append(np.concatenate([mean[:, :, None], covariance], 2))
    return said


def apart(one: list[Any], other: list[Any]) -> float:
    """Largest difference of two walks' means in standard deviations."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        sigma = np.sqrt(np.diagonal(b[:, :, 1:], axis1=1, axis2=2))
        worst = max(worst, float(np.max(np.abs(a[:, :, 0] - b[:, :, 0]) / sigma)))
    return worst


def products(network: Network, count: int, repeats: int) -> list[float]:
    """Seconds of each of so many turns of the matrix products that a step takes, on one core."""
    sizes, places, tile = network.sizes, network.places, koss_rows_numba.TILE
    W, D = sizes.wide, sizes.width
    numbers = np.random.default_rng(1).normal(size=(2, tile * max(2 * W, sizes.side, sizes.groups * sizes.seen)))
    x, out = (part.astype(np.float32) for part in numbers)
    inward, bias, _, head, head_bias = network.ends
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(-(-count // tile)):
            koss_rows_numba.set_(x, sizes.features, inward, sizes.features, bias, out, W, tile, W)
            for w in network.blocks:
                none = w[places.nothing :]
                koss_rows_numba.set_(x, W, w[places.inward :], D, none, out, 2 * W, tile, 2 * W)
                koss_rows_numba.set_(x, W, w[places.side :], D, none, out, sizes.side, tile, sizes.side)
                for _ in range(sizes.groups):
                    across, C = sizes.groups * sizes.seen, sizes.channels
                    koss_rows_numba.relu(x, across, w[places.w1 :], sizes.seen, none, out, C, tile, C)
                    koss_rows_numba.set_(x, C, w[places.w2 :], C, none, out, W, tile, C)
                koss_rows_numba.set_(x, W, w[places.outward :], D, none, out, W, tile, W)
            koss_rows_numba.set_(x, W, head, D, head_bias, out, head_bias.size, tile, head_bias.size // PANEL * PANEL)
        seconds.append(time.perf_counter() - begin)
    return seconds


def rows_of(name: str, z: Measurements, threads: int, turns: int) -> list[dict[str, Any]]:
    """One row a way and stage."""
    estimator = load_tracker(name)
    if not isinstance(estimator, LearnedEstimator):
        raise EstimatorError(f"{name} is no learned tracker")
    torch.set_num_threads(threads)
    kept: dict[str, Seconds] = {way: {stage: [] for stage in (*STAGES, "step")} for way in WAYS}
    said: dict[str, list[Any]] = {}
    for turn in range(turns + 1):
        for way in WAYS:
            told(estimator, way)
            seconds: Seconds = {stage: [] for stage in (*STAGES, "step")}
            with timed(seconds):
                said[way] = walked(estimator, z, seconds)
            for stage, values in seconds.items():
                kept[way][stage] += values if turn else []
    off = apart(said["compiled"], said["torch"])
    if not off <= OFF:
        sys.exit(f"{name}: the two ways differ by {off:.1e} standard deviations, more than {OFF:.0e}")
    for seconds in kept.values():
        parts = np.sum([seconds[stage] for stage in STAGES], 0)
        seconds["rest"] = (np.array(seconds["step"]) - parts).tolist()
    told(estimator, "compiled")
    assert estimator._packed is not None
    kept["compiled"]["matrix products, 1 core"] = products(estimator._packed.network, len(z), 20)
    made = []
    for way, seconds in kept.items():
        for stage, values in seconds.items():
            p20, p50, p80 = 1e3 * np.quantile(values, (0.2, 0.5, 0.8))
            what = {"model": name, "tracks": len(z), "threads": threads, "way": way, "stage": stage}
            took = {"ms_p20": f"{p20:.3g}", "ms_p50": f"{p50:.3g}", "ms_p80": f"{p80:.3g}", "steps": len(values)}
            made.append(what | took | {"off_sigma": f"{off:.0e}"})
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["koss"], metavar="MODEL")
    parser.add_argument("--tracks", nargs="+", type=int, default=[1000, 100, 1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--plots", type=int, default=40, help="of a flight")
    parser.add_argument("--folder", type=Path, help="keeps the flights for a next time; by default a passing one")
    parser.add_argument("--output", type=Path, default=RESULTS / "learned_step_cpu.csv")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as passing:
        z = case_of(log_of(SUITE["tma-4s"], FLIGHTS, args.folder or Path(passing)), plots=args.plots).z
    for name in args.models:
        for count in args.tracks:
            wide = z.select(np.arange(count) % len(z))
            for threads in args.threads:
                for row in rows_of(name, wide, threads, args.turns):
                    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                    rows.append(row | setting("torch", "numba"))
    write_csv(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
