"""Workers that die, here and on a real Dask cluster of processes: nothing is lost, and what kills is reported."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssrtrack.batch import cluster, local
from ssrtrack.batch.run import batch
from ssrtrack.batch.task import Asked, Failed, Job, Outcome, software_version
from ssrtrack.errors import BatchError
from ssrtrack.scoring.evaluate import evaluate
from tests.batch_fixture import TRACKERS, same_scores, small_logs, statuses

dask = pytest.importorskip("dask", reason="needs the dask extra")
distributed = pytest.importorskip("distributed", reason="needs the dask extra")
MANY = {f"{i:02}.h5": 3 for i in range(8)}


@dataclass(frozen=True)
class Lethal(Job):
    """A job that kills whoever unpacks it, but for the process of the tests, in which the scheduler runs."""

    def __reduce__(self) -> Any:
        here = f"__import__('sys').modules[{__name__!r}]"
        kill = "__import__('os').kill(__import__('os').getpid(), 9)"
        known = f"{here}.job({self.location!r}, {here}.Lethal)"
        return eval, (f"{known} if __import__('os').getpid() == {os.getpid()} else {kill}",)


@dataclass(frozen=True)
class Endless(Job):
    """A job that holds whoever unpacks it, after it has left a file."""

    def __reduce__(self) -> Any:
        return eval, ("(__import__('tempfile').mkstemp(), __import__('time').sleep(1000))",)


def job(location: object, kind: type[Job] = Job) -> Job:
    return kind(str(location), Asked(("alpha-beta",)), software_version(), 10**6, 0, 1)


class Killer:
    """A progress function that kills one worker, once, after the first log is done."""

    def __init__(self, pids: Any) -> None:
        self.pids, self.killed = pids, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if done and not self.killed:
            self.killed = self.pids()[0]
            os.kill(self.killed, signal.SIGKILL)


def local_pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


def test_local_worker_killed_mid_run(tmp_path: Path) -> None:
    logs = small_logs(tmp_path / "logs", MANY)
    killer = Killer(local_pids)
    result = batch(logs, TRACKERS, tmp_path / "out", workers=2, bootstrap=0, progress=killer)
    assert killer.killed
    assert statuses(result) == " ".join(["scored"] * len(logs))
    same_scores(result.overall[0], evaluate(logs, TRACKERS, bootstrap=0))
    assert not local_pids()  # nobody is left behind


def test_job_that_kills_its_workers_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    logs = small_logs(tmp_path / "logs")
    heard: dict[str, Outcome] = {}

    def done(job: Job, outcome: Outcome) -> list[Job]:
        heard[job.location] = outcome
        return []

    jobs = [job("poison", Lethal), *map(job, logs)]
    local.run_local(jobs, done, workers=2, retries=1)
    assert heard["poison"] == Failed(
        "poison: worker died 2 times (SIGKILL, perhaps out of memory); give it more memory or lower --max-plots"
    )
    assert all(not isinstance(heard[str(log)], Failed) for log in logs)


def test_endless_job_is_ended_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, Outcome] = {}

    def done(job: Job, outcome: Outcome) -> list[Job]:
        heard[job.location] = outcome
        return []

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    local.run_local([job("endless", Endless), job("gone")], done, workers=1, retries=1, timeout_s=2.0)
    assert heard["endless"] == Failed(
        "endless: worker died 2 times (killed after --timeout); see whether its storage answers, or raise --timeout"
    )
    assert "no such file" in str(heard["gone"])
    assert not list(tmp_path.iterdir())  # what the killed left behind is gone too
    assert not local_pids()


def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_serve", int)  # called with a pipe and a folder: an error at once
    with pytest.raises(BatchError, match="no worker can start"):
        local.run_local([job("any")], lambda job, outcome: [], workers=1, retries=0)


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    with local._inherited(2):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("2", "3")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@pytest.fixture(scope="module")
def dask_cluster() -> Iterator[Any]:
    # The scheduler gives up on a job after one death, so that the second try is this package's own.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as found,
    ):
        yield found


def test_cluster_worker_killed_mid_run(tmp_path: Path, dask_cluster: Any) -> None:
    """Whole logs and pieces of longer ones, on processes of a real cluster."""
    logs = small_logs(tmp_path / "logs", MANY | {"long.h5": 9})
    killer = Killer(lambda: [worker.pid for worker in dask_cluster.workers.values()])
    address = dask_cluster.scheduler_address
    result = batch(logs, TRACKERS, tmp_path / "out", scheduler=address, bootstrap=0, max_plots=130, progress=killer)
    assert killer.killed
    assert statuses(result) == " ".join(["scored"] * len(logs))
    same_scores(result.overall[0], evaluate(logs, TRACKERS, bootstrap=0))
    again = batch(logs, TRACKERS, tmp_path / "out", scheduler=address, bootstrap=0, max_plots=130, resume=True)
    assert statuses(again) == " ".join(["reused"] * len(logs))


def test_job_that_kills_cluster_workers_is_reported(tmp_path: Path, dask_cluster: Any) -> None:
    logs = small_logs(tmp_path / "logs")
    heard: dict[str, Outcome] = {}

    def done(job: Job, outcome: Outcome) -> list[Job]:
        heard[job.location] = outcome
        return []

    jobs = [job("poison", Lethal), *map(job, logs)]
    cluster.run_cluster(jobs, done, scheduler=dask_cluster.scheduler_address, retries=1)
    poison = heard["poison"]
    assert isinstance(poison, Failed)
    assert "workers died on it each time, 2 tries" in poison.cause
    assert all(not isinstance(heard[str(log)], Failed) for log in logs)


def test_cluster_without_a_worker_that_may(tmp_path: Path, dask_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for ever."""
    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    where, logs = dask_cluster.scheduler_address, small_logs(tmp_path / "logs")
    with pytest.raises(BatchError, match=r"none of its \d workers announces \{'GPU': 1\}"):
        batch(logs, TRACKERS, tmp_path / "out", scheduler=where, resources={"GPU": 1})


def test_cluster_reads_storage_of_its_own(tmp_path: Path) -> None:
    """Workers as threads of this process share its in-memory file system, as a cluster shares object storage."""
    import fsspec

    memory, logs = fsspec.filesystem("memory"), small_logs(tmp_path / "logs")
    try:
        for log in logs:
            memory.pipe(f"/shared/{log.name}", log.read_bytes())
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", resources={"GPU": 1}
        ) as threads:
            result = batch(
                ["memory://shared/*.h5"], TRACKERS, tmp_path / "out",
                scheduler=threads.scheduler_address, resources={"GPU": 1}, bootstrap=0,
            )  # fmt: skip
        assert statuses(result) == "scored scored scored"
    finally:
        memory.rm("/shared", recursive=True)


def test_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    logs = small_logs(tmp_path / "logs")
    with pytest.raises(BatchError, match="cannot be reached"):
        batch(logs, TRACKERS, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
    with pytest.raises(BatchError, match="cannot be reached"):
        batch(logs, TRACKERS, tmp_path / "out", scheduler="nonsense://x", resume=True)


def test_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BatchError, match=r"pip install 'ssrtrack\[dask\]'"):
        batch(small_logs(tmp_path / "logs"), TRACKERS, tmp_path / "out", scheduler="tcp://127.0.0.1:1")
