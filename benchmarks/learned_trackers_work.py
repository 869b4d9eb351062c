"""Shares the pieces of `learned_trackers.py` out to processes, the most important first, until the time is up.

First the flights of every setting, then its pieces, and when the last piece of a model is there its rows: each step of
a job says what comes next. Within a part the trackers that were slow so far go first, so that no core is left waiting
for the last of them at the end. What was not done in time, or went wrong, is a row of the table too.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

from learned_trackers_pieces import LONG_NAME, PARTS, Job, Model, Rows, made, piece_of, rows_of
from learned_trackers_wanted import ABSENT, FAILED, NO_NAN, row

from ssrtrack.errors import EstimatorError
from ssrtrack.simulators.processes import WorkerDied
from ssrtrack.tracking.pieces import Piece

PEER_PARTS = ("suite", "gaussian")  # what a model is judged on that is there to be compared with
IMMS_NAME = ""  # of the IMMs among trackers
Key = tuple[str, int, int]  # tracker, number of axis, number of slice


@dataclass
class Task:
    """Work for a process, and what to do here with what it gives: that says what comes next."""

    rank: int  # the least first
    tracker: str
    work: Callable[[], Any]
    then: Callable[[Any, float], "list[Task]"]
    lost: Callable[[str], None]


@dataclass
class Progress:
    """How far one job is. models: those judged on it, what `-t` takes -> name and seed."""

    job: Job
    models: Mapping[str, Model]
    slices: tuple[Piece, ...] = ()
    log: Path = Path()
    found: dict[Key, Any] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)  # models whose rows are being made, or will not be
    done: dict[str, Rows] = field(default_factory=dict)  # by model: its rows, or one that says why there are none
    seconds: float = 0.0

    def keys(self, tracker: str) -> list[Key]:
        """All pieces of a tracker, axis by axis, slices in their order."""
        return [(tracker, a, s) for a in range(len(self.job.axes)) for s in range(len(self.slices))]

    def whole(self, tracker: str) -> bool:
        """Whether all its pieces are there."""
        return bool(self.slices) and all(key in self.found for key in self.keys(tracker))


class Board:
    """All jobs, their rows so far, and what may be done next.

    models: what `-t` takes -> name and seed. peers: those of them that are judged on PEER_PARTS alone.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        models: Mapping[str, Model],
        folder: str,
        keep: Callable[[Rows], None],
        peers: Collection[str] = (),
    ) -> None:
        self._keep = keep
        main = {text: model for text, model in models.items() if text not in peers}
        every = [Progress(job, models if job.part in PEER_PARTS else main) for job in jobs]
        self._all = [one for one in every if one.models]
        self._pace: dict[str, float] = {}  # tracker -> seconds of its last piece
        self._ready: list[Task] = []
        for one in self._all:
            work = partial(made, one.job, folder, tuple(one.models))
            lost = partial(self._lost, one, IMMS_NAME)
            self._ready.append(Task(1, IMMS_NAME, work, partial(self._cut, one), lost))

    def drive(self, pool: Any, workers: int, end: float) -> Rows:
        """Work until all is done, or until the clock (time.perf_counter) says `end`; all rows."""
        running: dict[Future[Any], Task] = {}
        while (self._ready or running) and time.perf_counter() < end:
            while self._ready and len(running) < workers:
                task = self._next()
                running[pool.submit(timed, task.work)] = task
            left_s = None if end == inf else max(0.0, end - time.perf_counter())
            ended, _ = wait(running, timeout=left_s, return_when=FIRST_COMPLETED)
            for future in ended:
                self._ready += self._taken(running.pop(future), future)
        # What only has to be put together is not thrown away.
        for task in [one for one in (*running.values(), *self._ready) if one.rank == 0]:
            self._ready += task.then(task.work(), 0.0)
        return self.rows()

    def rows(self) -> Rows:
        """Those so far, with one for all that is not there; job by job, in whatever order they were done."""
        return [
            found
            for one in self._all
            for text, model in one.models.items()
            for found in one.done.get(text, [missing(ABSENT, one.job, model, "not judged in the time given")])
        ]

    def _next(self) -> Task:
        at = min(
            range(len(self._ready)),
            key=lambda i: (self._ready[i].rank, -self._pace.get(self._ready[i].tracker, inf), i),
        )
        return self._ready.pop(at)

    def _taken(self, task: Task, future: "Future[Any]") -> list[Task]:
        """What a process gave. A tracker that says NaN, or ends its process, costs its lines, not the table."""
        try:
            result, seconds = future.result()
        except (EstimatorError, WorkerDied) as error:
            task.lost(str(error))
            return []
        return task.then(result, seconds)

    def _cut(self, one: Progress, result: tuple[Path, tuple[Piece, ...]], seconds: float) -> list[Task]:
        one.log, one.slices = result
        one.seconds += seconds
        tasks = []
        for tracker in (IMMS_NAME, *one.models):
            for key in one.keys(tracker):
                _, axis, number = key
                work = partial(piece_of, one.job, one.log, one.slices[number], one.job.axes[axis], tracker)
                then, lost = partial(self._piece, one, key), partial(self._lost, one, tracker)
                tasks.append(Task(rank_of(one.job), tracker, work, then, lost))
        return tasks

    def _piece(self, one: Progress, key: Key, result: Any, seconds: float) -> list[Task]:
        one.found[key] = result
        one.seconds += seconds
        self._pace[key[0]] = seconds
        if not one.whole(IMMS_NAME):
            return []
        tasks = []
        imms = [one.found[k] for k in one.keys(IMMS_NAME)]
        for text, model in one.models.items():
            if text not in one.begun and one.whole(text):
                one.begun.add(text)
                own = [one.found.pop(k) for k in one.keys(text)]
                work = partial(rows_of, one.job, imms, own, text, model)
                tasks.append(Task(0, text, work, partial(self._judged, one, text), partial(self._lost, one, text)))
        return tasks

    def _judged(self, one: Progress, text: str, rows: Rows, seconds: float) -> list[Task]:
        one.done[text] = rows or [missing(FAILED, one.job, one.models[text], "no score has a value")]
        self._told(one)
        return []

    def _lost(self, one: Progress, tracker: str, why: str) -> None:
        """A tracker's pieces of a job will never be whole; without the IMMs nobody's are."""
        for text in [tracker] if tracker else one.models:
            if text not in one.done:
                one.begun.add(text)
                one.done[text] = [missing(FAILED, one.job, one.models[text], why)]
        print(f"{one.job.part} {one.job.name}: {why}", flush=True)
        self._told(one)

    def _told(self, one: Progress) -> None:
        if len(one.done) == len(one.models):
            one.found.clear()
            whole = sum(len(job.done) == len(job.models) for job in self._all)
            print(f"{whole}/{len(self._all)} {one.job.part} {one.job.name}: {one.seconds:.1f} s of work", flush=True)
        self._keep(self.rows())


def missing(part: str, job: Job, model: Model, why: str) -> dict[str, Any]:
    """The row of what is not there."""
    return row(part, job.name, model, f"{job.part}: {why}", nan, wanted=NO_NAN)


def rank_of(job: Job) -> int:
    """Of a job's pieces: part by part, but what is one long piece at once."""
    return 2 if job.name == LONG_NAME else 3 + PARTS.index("transfer" if job.part == "real" else job.part)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and its seconds."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start
