"""What `learned_trackers.py` judges, in pieces that processes share: a setting x a tracker x a slice of its flights.

The flights of a setting are made once and lie in a folder. How they are cut depends on the flights alone, and pieces
are joined in their order before figures and intervals are made of them, so that the rows are the same to the last bit
whatever the number of processes. The IMMs are a tracker like the models here: all of them together are one piece.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from imm_per_set import trackers as own_imms
from learned_trackers_hard import (
    Survived,
    case_of,
    cost_rows,
    hard_cases,
    hard_rows,
    long_case,
    same_rows,
    survived,
)
from learned_trackers_real import data_folder, hour_log, recorded_log
from learned_trackers_score import (
    IMMS,
    Judged,
    Sums,
    beside,
    calibration_rows,
    check_log,
    joined,
    ratio_rows,
    summed,
    sweep_rows,
)
from learned_trackers_sets import GAUSSIAN, LONG, SUITE, TRANSFER, Setting, log_of
from learned_trackers_wanted import ACCURACY, TRANSFER_ALIKE, TRANSFER_OTHER
from learned_trackers_wanted import GAUSSIAN as GAUSSIAN_MEASURES
from learned_trackers_wanted import HOUR as HOUR_MEASURES

from ssrtrack.filters.run import run
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.load import load_tracker
from ssrtrack.scoring.degrade import AXES
from ssrtrack.tracking.pieces import Piece, pieces_of

Rows = list[dict[str, Any]]
Model = tuple[str, str]  # name and seed
Make = Callable[..., Path]  # given the folder for logs
REAL_HOUR = "recorded hour"
LONG_NAME = "long"
LONG_FLIGHTS, HARD_FLIGHTS = 8, 128
# Most plots of a piece, so that the slowest tracker has done with it in about a minute; a sweep's are tracked at some
# six levels.
PLOTS, SWEEP_PLOTS = 200_000, 30_000
READ = 1_000_000
PARTS = ("suite", "gaussian", "transfer", "real", "hard", "sweep", "cost")  # the first is judged first
WARM_FLIGHTS, WARM_PLOTS, WARM_STEPS = 8, 80, 4


@dataclass(frozen=True)
class Job:
    """What is judged on the flights of one setting.

    own: IMMs tuned on the set of the suite that it is made from, text -> name. most: plots of a piece. axes: of
    degradation, each a piece of its own; one that is none where nothing is degraded.
    """

    part: str
    name: str
    make: Make
    own: Mapping[str, str] = field(default_factory=dict)
    most: int = PLOTS
    axes: tuple[str, ...] = ("",)


def jobs_of(asked: Namespace) -> list[Job]:
    """Everything that is asked but the costs."""

    def log(one: Setting, flights: int) -> Make:
        return partial(log_of, one, flights)

    sets = {name: one for name, one in SUITE.items() if name in asked.sets}
    elsewhere = {name: one for name, one in TRANSFER.items() if one.suite in sets}
    own, few = {name: own_imms(name) for name in sets}, min(HARD_FLIGHTS, asked.flights)
    jobs = [Job("suite", name, log(one, asked.flights), own[name], PLOTS) for name, one in sets.items()]
    jobs += [Job("gaussian", name, log(GAUSSIAN[name], asked.flights), own[name], PLOTS) for name in sets]
    jobs += [
        Job("transfer", name, log(one, asked.transfer_flights), own[one.suite], PLOTS)
        for name, one in elsewhere.items()
    ]
    if "tma-4s" in sets:
        jobs.append(Job("hard", LONG_NAME, log(LONG, LONG_FLIGHTS)))
    jobs += [Job("hard", name, log(one, few)) for name, one in sets.items()]
    jobs += [
        Job("sweep", name, log(one, asked.sweep_flights), own[name], SWEEP_PLOTS, tuple(AXES))
        for name, one in sets.items()
    ]
    if (data := data_folder()) is not None:
        jobs += [
            Job("real", f"recorded flights, {name}", partial(recorded_log, data, name), own[name], PLOTS)
            for name in sets
        ]
        jobs.append(Job("real", REAL_HOUR, partial(hour_log, data)))
    elif "real" in asked.parts:
        print("SSRTRACK_DATA does not name the recordings: real flights are left out")
    return [job for job in jobs if job.part in asked.parts]


def one_thread() -> None:
    """As many processes as cores: none may take more than its own."""
    import torch

    torch.set_num_threads(1)


def made(job: Job, folder: str, models: Sequence[str]) -> tuple[Path, tuple[Piece, ...]]:
    """The job's log and how it is cut; in a process.

    Raises:
        ScoringError: a model was trained on it.
    """
    log = job.make(folder=Path(folder))
    check_log(log, [*IMMS, *models])
    if job.part == "hard":
        return log, pieces_of(())
    return log, slices_of(log, job.most)


def slices_of(log: Path, most: int) -> tuple[Piece, ...]:
    """Spans of time in each of which flights of up to about `most` plots begin; one for a log without truth."""
    with LogReader(log) as reader:
        if not reader.has_truth or reader.plot_count <= most:
            return pieces_of(())
        parts = [(chunk.truth_id, chunk.time_s) for chunk in reader.plots(READ, ("time_s", "truth_id"))]
    ids, time_s = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    known = ids >= 0
    _, first, count = np.unique(ids[known], return_index=True, return_counts=True)  # plots come in time order
    begin_s = time_s[known][first]
    order = np.argsort(begin_s, kind="stable")
    total = np.cumsum(count[order])
    wanted = np.arange(1, -(-int(total[-1]) // most)) * total[-1] / -(-int(total[-1]) // most)
    return pieces_of(np.unique(begin_s[order][np.searchsorted(total, wanted)]))


def piece_of(job: Job, log: Path, piece: Piece, axis: str, model: str) -> Any:
    """One piece's sums; of "" the IMMs, else a model; in a process."""
    one_thread()
    if job.part == "hard":
        return hard_piece(job, log, model)
    trackers = [model] if model else [*IMMS, *job.own]
    return summed(log, trackers, piece, axes=[axis] if axis else [], banded=job.part == "suite")


def hard_piece(job: Job, log: Path, model: str) -> Any:
    """By tracker, how it took each case; and of a model the rows on batch, steps and future."""
    long = job.name == LONG_NAME
    cases = {"10,000 updates": long_case(log)} if long else hard_cases(log)
    took = {text: survived(cases, text) for text in ([model] if model else IMMS)}
    alike = [] if long or not model else same_rows(job.name, case_of(log, plots=90), model, ("", ""))
    return took, alike


def rows_of(job: Job, imms: Sequence[Any], own: Sequence[Any], text: str, model: Model) -> Rows:
    """The rows of one model on one setting, from the pieces of the IMMs and its own, axis by axis; in a process."""
    if job.part == "hard":
        return hard_rows_of(job, imms[0], own[0], text, model)
    slices = len(own) // len(job.axes)
    whole: Sums | None = None
    for first in range(0, len(own), slices):
        both = beside(joined(imms[first : first + slices]), joined(own[first : first + slices]))
        if whole is None or whole.sweeper is None or both.sweeper is None:
            whole = both
        else:
            whole.sweeper.merge(both.sweeper)
    if whole is None:
        return []
    found = Judged(whole, {text: model}, job.own)
    if job.part == "sweep":
        return sweep_rows(job.name, found)
    if job.part == "suite":
        return ratio_rows("ratio", job.name, found, ACCURACY) + calibration_rows(job.name, found)
    return ratio_rows(job.part, job.name, found, measures_of(job))


def measures_of(job: Job) -> Mapping[str, Any]:
    """What is told of a setting outside the suite, and of the suite's flights without outliers."""
    if job.part == "gaussian":
        return GAUSSIAN_MEASURES
    if job.part == "transfer":
        return TRANSFER_ALIKE if TRANSFER[job.name].alike else TRANSFER_OTHER
    return HOUR_MEASURES if job.name == REAL_HOUR else TRANSFER_OTHER


def hard_rows_of(job: Job, imms: Any, own: Any, text: str, model: Model) -> Rows:
    """As `rows_of`, of hard cases."""
    theirs: Mapping[str, Mapping[str, Survived]] = imms[0]
    took, alike = own
    return hard_rows(job.name, theirs, took[text], model) + [
        one | {"model": model[0], "seed": model[1]} for one in alike
    ]


def warmed(models: Sequence[str], folder: str) -> None:
    """Compile whatever is compiled at first use, once for all processes: they read it from the cache."""
    log = log_of(SUITE["tma-4s"], WARM_FLIGHTS, Path(folder))
    z = case_of(log, plots=WARM_PLOTS).z
    summed(log, [*IMMS, *models])
    for text in models:
        run(load_tracker(text), z.select((slice(2), slice(WARM_STEPS))), backend="filterpy")


def costs(asked: Namespace, models: Mapping[str, Model], folder: str) -> Rows:
    """What a step costs, in this process, alone on the machine."""
    log = log_of(SUITE[asked.sets[0]], min(HARD_FLIGHTS, asked.flights), Path(folder))
    return cost_rows(case_of(log, plots=90), models, asked.threads)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
