"""Workers for a grid of trainings: processes spread over all GPUs, each with several trainings at once.

A training of these sizes leaves a GPU almost idle, and processes take turns on one, so that only trainings within a
process, each on its own stream, really run side by side. The parent hands out jobs, writes down what comes back, and
starts nothing that would not be done by the deadline.
"""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import isfinite
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.grid import Cell, Job, Record, append_record, expected_seconds, left, open_jobs, read_records
from ssrtrack.experiments.grid_models import parameters
from ssrtrack.experiments.grid_tasks import TEST_SEED, TRIALS, VALIDATION_SEED, copying
from ssrtrack.experiments.selective_copy import CopyTask
from ssrtrack.experiments.train import Training

CURVE = 20  # points that are kept of a training's score


@dataclass
class Running:
    """A job under way."""

    job: Job
    training: Training
    begun: float = field(default_factory=time.monotonic)


def begin(job: Job, device: str) -> Running:
    """The job's network and training, nothing trained yet."""
    begun = time.monotonic()
    trial = TRIALS[job.task]
    recipe = trial.recipe(job.lr, job.seed, job.steps, stages=job.stages)
    return Running(job, Training(trial.network(job.model, job.seed), trial.goal, recipe, device), begun)


def finish(running: Running) -> Record:
    """What the job's line says, its scores included."""
    job, training, trial = running.job, running.training, TRIALS[running.job.task]
    _, scores = training.history()
    count = job.count or trial.count
    trained = time.monotonic()
    if job.kind == "tune":
        # What was trained on last: the whole strip comes only with all stages.
        sampler = training.recipe.stages[-1].sample
        tested = {"validation": training.evaluate(sampler, VALIDATION_SEED, max(1, count // 4), trial.at_once)}
    else:
        tested = {
            name: training.evaluate(sampler, TEST_SEED, count, trial.at_once) for name, sampler in trial.tests.items()
        }
    part = max(1, len(scores) // CURVE)
    return asdict(job) | {
        "key": job.key,
        "score": next(iter(tested.values()))["score"],
        "tests": tested,
        "test_sequences": count,
        "curve": [round(sum(scores[k : k + part]) / part, 4) for k in range(0, len(scores) - part + 1, part)],
        "diverged": not all(isfinite(v) for v in scores[-part:]),
        "parameters": parameters(training.net),
        "batch": training.recipe.batch,
        "precision": training.recipe.precision,
        "captured": training.captured,
        "why_not": training.why_not,
        "ms_per_step": round(1e3 * (trained - running.begun) / training.recipe.steps, 3),
        "seconds": round(time.monotonic() - running.begun, 2),
    }


def run_job(job: Job, device: str) -> Record:
    """One job from beginning to end in this process."""
    running = begin(job, device)
    while not running.training.advance():
        pass
    return finish(running)


def graph_off_by(model: str, device: str, steps: int = 20) -> float:
    """Largest relative difference of the losses with a graph from those without, over a few steps of a small task.

    A TrainingError where no graph could be captured.
    """
    trial = copying(CopyTask("small", "follow", tokens=2, alphabet=4, strip=30, rho=0.5))
    losses = []
    for captured in (True, False):
        training = Training(trial.network(model, 1), trial.goal, trial.recipe(2e-3, 1, steps), device)
        training.captured = captured
        while not training.advance():
            pass
        if captured and not training.captured:
            raise TrainingError(f"no graph of a step of {model!r} can be captured on {device}: {training.why_not}")
        losses.append(training.history()[0])
    return float(max(abs(a / b - 1.0) for a, b in zip(*losses, strict=True)))


def work(pipe: Connection, device: str, slots: int) -> None:
    """A worker: asks for a job while it has a free slot, advances what is under way, sends back what is over."""
    live: list[Running] = []
    asked = closing = False
    while live or not closing:
        if not (asked or closing) and len(live) < slots:
            pipe.send(("free", None, None))
            asked = True
        if asked and pipe.poll(None if not live else 0):
            job, asked = pipe.recv(), False
            if job is None:
                closing = True
            else:
                live += _tried(pipe, job, lambda job=job: [begin(job, device)])  # type: ignore[misc]
        live = [running for running in live if _tried(pipe, running.job, lambda r=running: _moved(pipe, r))]  # type: ignore[misc]


def _moved(pipe: Connection, running: Running) -> list[Running]:
    """The job, some steps further; nothing once it is over and its record sent."""
    if not running.training.advance():
        return [running]
    pipe.send(("done", running.job, finish(running)))
    return []


def _tried(pipe: Connection, job: Job, act: Callable[[], list[Running]]) -> list[Running]:
    """What the act gives; where it raises, nothing, and word of it. A device in error ends the process."""
    try:
        return act()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send(("failed", job, f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"))
        if "CUDA error" in str(error):
            os._exit(1)
        return []


@dataclass
class Worker:
    """A process and what it was given."""

    process: Any
    pipe: Any
    device: str
    jobs: list[Job] = field(default_factory=list)
    free: bool = False
    begun: bool = False


@dataclass(frozen=True)
class Site:
    """Where a grid runs: devices, processes on each, and trainings in each process."""

    devices: tuple[str, ...]
    workers: int = 1
    slots: int = 1


def run_grid(
    cells: Sequence[Cell], path: Path, site: Site, *, seconds: float, facts: Record, tell: Callable[[str], None],
) -> list[Record]:  # fmt: skip
    """Do the cells' jobs within `seconds`; returns all records in the file after.

    facts: added to every record. Jobs that the deadline finds under way are dropped, and said. A job that fails is a
    record with an "error"; the next run tries it again. A TrainingError where workers cannot even begin.
    """
    deadline = time.monotonic() + seconds
    records = [record for record in read_records(path) if "error" not in record]
    begun = next(_fitting(cells, records, (), seconds), None) is not None
    workers = [_start(device, site.slots) for device in site.devices for _ in range(site.workers) if begun]
    try:
        while True:
            waiting = _hand_out(cells, records, workers, deadline)
            if not (waiting or any(worker.jobs for worker in workers)) or time.monotonic() > deadline:
                break
            for worker in _heard(workers, max(0.0, min(1.0, deadline - time.monotonic()))):
                record = _taken(worker, site.slots)
                if record is not None:
                    records.append(record | facts)
                    append_record(path, records[-1])
                    tell(_line(records[-1], deadline))
    finally:
        dropped = [job.key for worker in workers for job in worker.jobs]
        for worker in workers:
            _stop(worker)
    for key in dropped:
        tell(f"dropped at the deadline: {key}")
    failed = sum("error" in record for record in records)
    tell(f"{left(cells, records)} trainings are left to do, {failed} failed")
    return read_records(path)


def _hand_out(cells: Sequence[Cell], records: list[Record], workers: list[Worker], deadline: float) -> bool:
    """Give free workers, those with the least to do first, the first jobs that would be done in time.

    True where some are left for workers that become free.
    """
    under_way = {job.key for worker in workers for job in worker.jobs}
    jobs = _fitting(cells, records, under_way, deadline - time.monotonic())
    for worker in sorted((w for w in workers if w.free), key=lambda w: len(w.jobs)):
        job = next(jobs, None)
        if job is None:
            return False
        worker.jobs.append(job)
        worker.free = False
        with suppress(OSError):  # dead: what it was given will be told of
            worker.pipe.send(job)
    return next(jobs, None) is not None


def _fitting(
    cells: Sequence[Cell], records: Sequence[Record], under_way: Collection[str], remaining_s: float
) -> Iterator[Job]:
    """Jobs that can be started and would be done in time."""
    return (j for j in open_jobs(cells, records, under_way) if expected_seconds(j, records) < remaining_s)


def _heard(workers: list[Worker], timeout: float) -> list[Worker]:
    ready = set(wait([worker.pipe for worker in workers], timeout))
    return [worker for worker in workers if worker.pipe in ready]


def _taken(worker: Worker, slots: int) -> Record | None:
    """The record that a worker's message makes; a worker that died is replaced, and its jobs have failed."""
    try:
        word, job, told = worker.pipe.recv()
    except (EOFError, OSError):
        if not worker.begun:
            raise TrainingError(f"a worker on {worker.device} ended before it began; see what it printed") from None
        lost = worker.jobs.pop(0) if worker.jobs else None
        if not worker.jobs:  # all of its jobs are told of
            _stop(worker)
            fresh = _start(worker.device, slots)
            worker.process, worker.pipe, worker.free, worker.begun = fresh.process, fresh.pipe, False, False
        return None if lost is None else asdict(lost) | {"key": lost.key, "error": "the worker died"}
    if word == "free":
        worker.free = worker.begun = True
        return None
    worker.jobs.remove(job)
    return told if word == "done" else asdict(job) | {"key": job.key, "error": told}


def _start(device: str, slots: int) -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, device, slots), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours, device)


def _stop(worker: Worker) -> None:
    worker.process.terminate()
    worker.process.join(5.0)
    worker.pipe.close()


def _line(record: Record, deadline: float) -> str:
    name = f"{record['task']:16} {record['model']:28} {record['kind']:5} lr {record['lr']:.0e} seed {record['seed']:3}"
    if "error" in record:
        return f"{name} FAILED {record['error']}"
    way = "graph" if record["captured"] else f"eager: {record['why_not']}"
    return (
        f"{name} score {record['score']:.4f}  {record['seconds']:6.1f} s  {record['ms_per_step']:.2f} ms/step  {way}"
        f"  ({deadline - time.monotonic():.0f} s left)"
    )
