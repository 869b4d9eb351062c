"""The trainings that recall is compared by, which of them come next, and what each leaves behind: a line of JSON.

A mixer is tuned first: every learning rate once, at the middle width, on a seed of its own, scored on validation
samples. At the best rate it is then trained at all widths with several seeds and scored on test samples. First every
mixer is tuned, then comes the first seed of all mixers at all widths, then the second: what a run that ends early
leaves is even. Mixers share nothing, so that any part of them can be done by a process of its own.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from math import isfinite
from pathlib import Path

import torch

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.grid import Record, append_record, read_records
from ssrtrack.experiments.recall import LENGTHS, PAIRS, VOCABULARY, tasks
from ssrtrack.experiments.recall_models import MIXERS, parameters, recaller
from ssrtrack.experiments.recall_train import RecallRecipe, RecallTraining

TUNING_SEED = 100
VALIDATION_SEED, TEST_SEED = 1_000_003, 2_000_003  # far from every training's seed
AT_ONCE = 1 << 16  # tokens of a test in one pass
CURVE = 20  # points that are kept of a training's score


@dataclass(frozen=True)
class RecallPlan:
    """What is compared, and how all of it is trained.

    widths: the middle one is tuned at. each: sequences of each cell of a test; a quarter of them where a rate is
    chosen. most: pairs at most.
    """

    mixers: tuple[str, ...] = tuple(MIXERS)
    widths: tuple[int, ...] = (32, 64, 128)
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (1, 2, 3)
    steps: int = 3000
    tokens: int = 8192
    vocabulary: int = VOCABULARY
    lengths: tuple[int, ...] = LENGTHS
    most: int = PAIRS[-1]
    each: int = 128
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in self.mixers:
            if name not in MIXERS:
                raise TrainingError(f"mixer {name!r} is not one of {', '.join(MIXERS)}")
        if not (self.mixers and self.widths and self.rates and self.seeds and self.each > 0):
            raise TrainingError(f"a plan takes at least one mixer, width, rate, seed and test sequence, got {self}")

    @cached_property
    def key(self) -> str:
        """What two trainings must have in common to be in one table."""
        named = asdict(self)
        return " ".join(f"{k}={named[k]}" for k in ("steps", "tokens", "vocabulary", "lengths", "most", "precision"))

    @property
    def middle(self) -> int:
        """The width that the learning rates are tuned at."""
        return sorted(self.widths)[len(self.widths) // 2]

    def recipe(self, job: "RecallJob") -> RecallRecipe:
        """How a job trains."""
        found = tuple(tasks(self.vocabulary, self.lengths, self.most))
        return RecallRecipe(
            found, job.lr, job.seed, self.steps, self.tokens,
            warm_up=min(100, max(1, self.steps // 10)), precision=self.precision,
        )  # fmt: skip


@dataclass(frozen=True)
class RecallJob:
    """One training. kind: "tune" (scored on validation samples) or "final"."""

    mixer: str
    width: int
    kind: str
    lr: float
    seed: int


def job_key(job: RecallJob, plan: RecallPlan) -> str:
    """What tells this training from all others."""
    return " ".join([*(f"{name}={value}" for name, value in asdict(job).items()), plan.key])


def tuning(mixer: str, plan: RecallPlan) -> list[RecallJob]:
    """A job for each learning rate; none where there is no choice."""
    rates = plan.rates if len(plan.rates) > 1 else ()
    return [RecallJob(mixer, plan.middle, "tune", rate, TUNING_SEED) for rate in rates]


def best_rate(mixer: str, plan: RecallPlan, records: Sequence[Record]) -> float | None:
    """The rate with the best validation score, the least of equals; None while any is still to be tried.

    A training that diverged counts as tried and never wins.
    """
    if len(plan.rates) == 1:
        return plan.rates[0]
    scores = {record["key"]: float(record["score"]) for record in records if "error" not in record}
    found = {job.lr: scores.get(job_key(job, plan)) for job in tuning(mixer, plan)}
    known = {rate: score for rate, score in found.items() if score is not None}
    if len(known) < len(found):
        return None
    return max(sorted(known), key=lambda rate: known[rate] if isfinite(known[rate]) else -1.0)


def open_jobs(plan: RecallPlan, records: Sequence[Record], under_way: Collection[str] = ()) -> Iterator[RecallJob]:
    """Jobs that can be started now, the most important first; one that failed is not tried again in this run."""
    closed = {record["key"] for record in records} | set(under_way)
    widths = sorted(plan.widths, key=lambda width: width != plan.middle)
    jobs = [job for mixer in plan.mixers for job in tuning(mixer, plan)]
    best = {mixer: best_rate(mixer, plan, records) for mixer in plan.mixers}
    for seed in plan.seeds:
        for width in widths:
            jobs += [RecallJob(m, width, "final", rate, seed) for m, rate in best.items() if rate is not None]
    return (job for job in jobs if job_key(job, plan) not in closed)


@dataclass
class Running:
    """A job under way."""

    job: RecallJob
    training: RecallTraining
    begun: float


def begin(job: RecallJob, plan: RecallPlan, device: str) -> Running:
    """The job's network and training, nothing trained yet."""
    begun = time.monotonic()
    net = recaller(job.mixer, job.width, plan.vocabulary, job.seed)
    return Running(job, RecallTraining(net, plan.recipe(job), device), begun)


def finish(running: Running, plan: RecallPlan) -> Record:
    """What the job's line says; `score` is the mean over the cells."""
    job, training = running.job, running.training
    losses, scores = training.history()
    trained = time.monotonic()
    seed, each = (TEST_SEED, plan.each) if job.kind == "final" else (VALIDATION_SEED, max(1, plan.each // 4))
    found = training.evaluate(seed, each, AT_ONCE)
    part = max(1, len(scores) // CURVE)
    return asdict(job) | {
        "key": job_key(job, plan),
        "plan": plan.key,
        "score": sum(found.values()) / len(found),
        "cells": {cell: round(share, 5) for cell, share in found.items()},
        "test_sequences": each,
        "curve": [round(sum(scores[k : k + part]) / part, 4) for k in range(0, len(scores) - part + 1, part)],
        "loss": sum(losses[-part:]) / part,
        "diverged": not all(isfinite(v) for v in losses[-part:]),
        "parameters": parameters(training.net),
        "steps": plan.steps,
        "tokens": plan.tokens,
        "vocabulary": plan.vocabulary,
        "precision": plan.precision,
        "captured": training.captured,
        "why_not": training.why_not,
        "ms_per_step": round(1e3 * (trained - running.begun) / plan.steps, 3),
        "seconds": round(time.monotonic() - running.begun, 2),
    }


def run_job(job: RecallJob, plan: RecallPlan, device: str) -> Record:
    """One job from beginning to end."""
    running = begin(job, plan, device)
    while not running.training.advance():
        pass
    return finish(running, plan)


def run_plan(
    plan: RecallPlan, path: Path, device: str, *, seconds: float, facts: Record, tell: Callable[[str], None],
    slots: int = 1, known: Sequence[Record] = (),
) -> list[Record]:  # fmt: skip
    """Do the plan's jobs within `seconds`, `slots` of them at once, and add a line for each to `path`.

    facts: added to every record. known: records of other files that count as done. Nothing is begun that would not be
    done in time, as far as its like tells; what the deadline finds under way is dropped, and said. A job that fails
    leaves no line, is said, and is tried again by the next run.
    """
    deadline, records, live = time.monotonic() + seconds, [*known, *read_records(path)], list[Running]()

    def failed(job: RecallJob, error: Exception) -> None:
        if "CUDA error" in str(error):
            raise error  # the device is lost to this process
        records.append({"key": job_key(job, plan), "error": str(error)})
        tell(f"{job.mixer}, width {job.width}, {job.kind}, lr {job.lr:g}, seed {job.seed} FAILED: {error}")

    while time.monotonic() < deadline:
        jobs = _next(plan, records, live, slots, deadline - time.monotonic())
        for job in jobs:
            try:
                live.append(begin(job, plan, device))
            except Exception as error:
                failed(job, error)
        if not (jobs or live):
            break
        for running in list(live):
            try:
                if not running.training.advance():
                    continue
                records.append(finish(running, plan) | facts)
            except Exception as error:
                failed(running.job, error)
            else:
                append_record(path, records[-1])
                tell(_line(records[-1]))
            live.remove(running)
    for running in live:
        tell(f"dropped at the deadline: {job_key(running.job, plan)}")
    tell(f"{sum(1 for _ in open_jobs(plan, records))} trainings that could be begun are left")
    return read_records(path)


def _next(
    plan: RecallPlan, records: Sequence[Record], live: Sequence[Running], slots: int, remaining_s: float
) -> list[RecallJob]:
    """Jobs for the free slots that would be done in time."""
    under_way = [job_key(running.job, plan) for running in live]
    fitting = (job for job in open_jobs(plan, records, under_way) if _expected(job, records) < remaining_s)
    return list(islice(fitting, slots - len(live)))


def ready(mixer: str, plan: RecallPlan, device: str) -> None:
    """Compile a mixer's kernels at every width into the compiler's cache, by one step each and a test of little."""
    for width in plan.widths:
        short = replace(plan, mixers=(mixer,), steps=2, tokens=plan.lengths[0], lengths=plan.lengths[:1], each=1)
        run_job(RecallJob(mixer, width, "final", 1e-3, 0), short, device)


def _expected(job: RecallJob, records: Sequence[Record]) -> float:
    """Seconds, from the slowest like it."""
    like = [r for r in records if "seconds" in r and r["mixer"] == job.mixer]
    same = [float(r["seconds"]) for r in like if r["width"] == job.width] or [float(r["seconds"]) for r in like]
    return max(same, default=0.0)


def _line(record: Record) -> str:
    way = "graph" if record["captured"] else f"eager: {record['why_not']}"
    return (
        f"{record['mixer']:12} width {record['width']:3} {record['kind']:5} lr {record['lr']:.0e} seed "
        f"{record['seed']:3}  score {record['score']:.4f}  {record['seconds']:6.1f} s  "
        f"{record['ms_per_step']:.2f} ms/step  {way}"
    )


def cuda_precision(device: str) -> str:
    """What a plan on this device trains in unless told: bfloat16's products on a GPU, the paper's way."""
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"
