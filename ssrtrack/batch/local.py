"""Jobs on this machine's cores. A worker that dies takes no other job along; its job is given to a new one."""

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from ssrtrack.batch.task import Failed, Job, Outcome, work
from ssrtrack.errors import BatchError

Done = Callable[[Job, Outcome], Iterable[Job]]
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FAILED_STARTS = 3  # in a row, before it is clear that no worker can start


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    ready: bool = False
    job: Job | None = None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(jobs: Iterable[Job], done: Done) -> None:
    """Jobs in this process, one after another: for debugging, and for storage that only this process sees."""
    waiting = deque(jobs)
    while waiting:
        job = waiting.popleft()
        waiting.extend(done(job, work(job)))


def run_local(jobs: Iterable[Job], done: Done, *, workers: int, retries: int) -> None:
    """Jobs on `workers` processes; `done` is called here with each outcome and returns further jobs.

    A job whose worker died is tried `retries` times more, each time in a new process, then fails. A pool of
    concurrent.futures would break as a whole here, which is why there is none.

    Raises:
        BatchError: no worker can start.
    """
    waiting, tries, crew, failed_starts = deque(jobs), Counter[Job](), list[_Worker](), 0
    try:
        while waiting or any(worker.job for worker in crew):
            while len(crew) < min(workers, len(waiting) + sum(worker.job is not None for worker in crew)):
                crew.append(_start(workers))
            for worker in crew:
                if worker.ready and worker.job is None and waiting:
                    worker.job = waiting.popleft()
                    with suppress(OSError):  # it has died: its end of the pipe says so below
                        worker.pipe.send(worker.job)
            for pipe in wait([worker.pipe for worker in crew]):
                worker = next(w for w in crew if w.pipe is pipe)
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):
                    crew.remove(worker)
                    failed_starts = 0 if worker.ready else failed_starts + 1
                    cause = _death(worker)
                    if failed_starts >= FAILED_STARTS:
                        raise BatchError(f"no worker can start ({cause}); see what is printed above") from None
                    if worker.job is not None:
                        _again(worker.job, cause, waiting, tries, retries, done)
                    continue
                if worker.job is None:
                    worker.ready = True
                else:
                    job, worker.job = worker.job, None
                    waiting.extend(done(job, outcome))
    finally:
        _dismiss(crew)


def _again(job: Job, cause: str, waiting: deque[Job], tries: Counter[Job], retries: int, done: Done) -> None:
    tries[job] += 1
    if tries[job] <= retries:
        waiting.append(job)  # after the others: what kills workers shall not hold up the rest
        return
    text = f"{job.location}: worker died {tries[job]} times ({cause}); give it more memory or lower --max-plots"
    waiting.extend(done(job, Failed(text)))


def _death(worker: _Worker) -> str:
    worker.process.join(5.0)
    code = worker.process.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


def _start(workers: int) -> _Worker:
    context = get_context("spawn")  # a fork would copy the threads' locks of numba and torch, but not the threads
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    with _inherited(max(1, cores() // workers)):
        process.start()
    there.close()  # so that the worker's death closes the pipe
    return _Worker(process, here)


@contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a process started in here inherits: few threads, and no Ctrl-C, which is answered in this process alone."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update({name: str(threads) for name in THREADS if name not in os.environ})
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _serve(pipe: Connection) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        pipe.send("ready")
        while (job := pipe.recv()) is not None:
            pipe.send(work(job))


def _dismiss(crew: list[_Worker]) -> None:
    """End the workers: idle ones leave by themselves, busy ones (after an interrupt) are killed."""
    for worker in crew:
        if worker.job is None and worker.ready:
            with suppress(OSError):
                worker.pipe.send(None)
        else:
            worker.process.kill()
    for worker in crew:
        worker.process.join(5.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()
