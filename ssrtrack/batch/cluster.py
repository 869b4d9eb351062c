"""Jobs on an existing Dask cluster: the same function on its workers, wherever these run."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from ssrtrack.batch.local import Done
from ssrtrack.batch.task import Failed, Job, work
from ssrtrack.errors import BatchError

CONNECT_S = 20.0


def run_cluster(
    jobs: Iterable[Job], done: Done, *, scheduler: str, retries: int, resources: Mapping[str, float] | None = None
) -> None:
    """Jobs on the cluster of `scheduler`; `done` is called here with each outcome and returns further jobs.

    The scheduler itself tries a job again when its worker dies, as often as its `allowed-failures` says; after that
    the job is handed in `retries` times more, by itself, then fails. `resources` restricts jobs to workers that
    announce them.

    Raises:
        BatchError: dask is not installed, the scheduler cannot be reached, none of its workers may do the jobs, or it
            is lost on the way.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise BatchError("--scheduler needs dask; pip install 'ssrtrack[dask]'") from error
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BatchError(
            f"scheduler {scheduler} cannot be reached ({reason}); start one with `dask scheduler` or check the address"
        ) from error
    running: dict[Any, Job] = {}
    tries, suspects = Counter[Job](), deque[Job]()

    def hand_in(job: Job) -> Any:
        # pure=False: a job handed in again must run again, not return the failure that is remembered by its key.
        future = client.submit(work, job, pure=False, resources=dict(resources) if resources else None)
        running[future] = job
        return future

    def run_all(some: Iterable[Job]) -> None:
        futures = as_completed([hand_in(job) for job in some], loop=client.loop)
        for future in futures:
            job = running.pop(future)
            further: list[Job] = []
            if future.status in ("lost", "cancelled"):
                raise BatchError(f"scheduler {scheduler} was lost; finished results are whole, go on with --resume")
            if future.status == "finished":
                further = list(done(job, future.result()))
            else:
                tries[job] += 1
                if tries[job] <= retries:
                    suspects.append(job)
                else:
                    further = list(done(job, _failure(job, future.exception(), tries[job])))
            future.release()
            futures.update([hand_in(other) for other in further])

    try:
        _require_workers(client, scheduler, resources or {})
        run_all(jobs)
        # The scheduler blames a death on all jobs the worker had been given. The suspects go one by one, when nothing
        # else is left, so that the one that kills cannot take others along again.
        while suspects:
            run_all([suspects.popleft()])
    finally:
        _leave(client, list(running))


def _require_workers(client: Any, scheduler: str, resources: Mapping[str, float]) -> None:
    """Without this a batch that no worker may touch would wait for ever, and say nothing."""
    end = time.monotonic() + CONNECT_S
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(all((w.get("resources") or {}).get(k, 0) >= v for k, v in resources.items()) for w in workers):
            return
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    lacking = f"none of its {len(workers)} workers announces {dict(resources)}" if workers else "it has no workers"
    raise BatchError(f"scheduler {scheduler}: {lacking}; start some, see docs/scaling.md")


def _failure(job: Job, error: Any, tries: int) -> Failed:
    """An error that is the cluster's and not the log's: `work` turns those into outcomes."""
    died = type(error).__name__ == "KilledWorker"
    cause = "workers died on it each time" if died else " ".join(f"{type(error).__name__}: {error}".split())
    return Failed(f"{job.location}: {cause}, {tries} tries; give workers more memory or lower --max-plots")


def _leave(client: Any, unfinished: list[Any]) -> None:
    """Take back what is not done, so that an interrupted batch does not keep the cluster busy."""
    try:
        if unfinished:
            client.cancel(unfinished, force=True)
        client.close(timeout=5.0)
    except (OSError, TimeoutError, RuntimeError):  # the scheduler is gone
        pass
