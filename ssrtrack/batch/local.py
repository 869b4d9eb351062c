"""Jobs on this machine's cores. A worker that dies takes no other job along; its job is given to a new one."""

import os
import signal
import tempfile
import threading
import time
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
OVERDUE = "killed after --timeout"
END_S = 5.0  # a process that is not gone so long after a kill hangs in the kernel, on storage that does not answer


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    scratch: tempfile.TemporaryDirectory[str]  # its copies of remote logs; a killed process leaves them
    ready: bool = False
    job: Job | None = None
    since_s: float = 0.0  # time.monotonic() when it was given the job
    overdue: bool = False


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(jobs: Iterable[Job], done: Done) -> None:
    """Jobs in this process, one after another: for debugging, and for storage that only this process sees."""
    waiting = deque(jobs)
    while waiting:
        job = waiting.popleft()
        waiting.extend(done(job, work(job)))


def run_local(jobs: Iterable[Job], done: Done, *, workers: int, retries: int, timeout_s: float | None = None) -> None:
    """Jobs on `workers` processes; `done` is called here with each outcome and returns further jobs.

    A job whose worker died is tried `retries` times more, each time in a new process, then fails. A worker that is
    longer than `timeout_s` at a job, as on storage that does not answer, is killed. A pool of concurrent.futures would
    break as a whole here, which is why there is none.

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
                    worker.job, worker.since_s = waiting.popleft(), time.monotonic()
                    with suppress(OSError):  # it has died: its end of the pipe says so below
                        worker.pipe.send(worker.job)
            for worker in _heard_of(crew, timeout_s):
                try:
                    if worker.overdue:
                        raise EOFError
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


def _heard_of(crew: list[_Worker], timeout_s: float | None) -> list[_Worker]:
    """Workers with something to say, or overdue, which are killed; waits until there is one."""
    while True:
        ends = [w.since_s + timeout_s for w in crew if w.job is not None] if timeout_s is not None else []
        heard = wait([w.pipe for w in crew], max(0.0, min(ends) - time.monotonic()) if ends else None)
        if heard:
            return [w for w in crew if w.pipe in heard]
        late = [w for w in crew if timeout_s is not None and w.job and time.monotonic() >= w.since_s + timeout_s]
        for worker in late:
            worker.overdue = True
            worker.process.kill()
        if late:
            return late


def _again(job: Job, cause: str, waiting: deque[Job], tries: Counter[Job], retries: int, done: Done) -> None:
    tries[job] += 1
    if tries[job] <= retries:
        waiting.append(job)  # after the others: what kills workers shall not hold up the rest
        return
    remedy = (
        "see whether its storage answers, or raise --timeout"
        if cause == OVERDUE
        else "give it more memory or lower --max-plots"
    )
    text = f"{job.location}: worker died {tries[job]} times ({cause}); {remedy}"
    waiting.extend(done(job, Failed(text)))


def _death(worker: _Worker) -> str:
    worker.process.join(END_S)
    worker.pipe.close()
    worker.scratch.cleanup()
    if worker.overdue:
        return OVERDUE
    code = worker.process.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


def _start(workers: int) -> _Worker:
    context = get_context("spawn")  # a fork would copy the threads' locks of numba and torch, but not the threads
    here, there = context.Pipe()
    scratch = tempfile.TemporaryDirectory(prefix="ssrtrack-", ignore_cleanup_errors=True)
    process = context.Process(target=_serve, args=(there, scratch.name), daemon=True)
    with _inherited(max(1, cores() // workers)):
        process.start()
    there.close()  # so that the worker's death closes the pipe
    return _Worker(process, here, scratch)


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


def _serve(pipe: Connection, scratch: str) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = scratch
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
        worker.process.join(END_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(END_S)
        worker.pipe.close()
        worker.scratch.cleanup()
