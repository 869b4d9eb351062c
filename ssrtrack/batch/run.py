"""Many logs through `evaluate`: who does what, what is stored, what is left to do."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssrtrack.batch.cluster import run_cluster
from ssrtrack.batch.local import cores, run_here, run_local
from ssrtrack.batch.logs import find_logs, names_of
from ssrtrack.batch.store import (
    FORMAT,
    VERSION,
    LogFolder,
    alone,
    piece_key,
    prepare,
    read_sums,
    settings_key,
    write_json,
    write_whole,
)
from ssrtrack.batch.task import Cut, Failed, Job, Outcome, Scored, Unchanged, software_version
from ssrtrack.errors import BatchError, SsrtrackError
from ssrtrack.io.storage import stamp
from ssrtrack.scoring.evaluate import evaluation_result
from ssrtrack.scoring.gather import Asked, require_flights
from ssrtrack.scoring.gathered import Gathered, one_log
from ssrtrack.scoring.overall import STATUSES, BatchResult, LogResult, overall_results
from ssrtrack.scoring.serialise import scores_json
from ssrtrack.tracking.pieces import pieces_of

Progress = Callable[[str, int, int], None]
MAX_PLOTS = 2_000_000  # of a task: minutes of work, so that a machine that is lost costs little


@dataclass
class _Pieces:
    """A long log on its way: what its pieces have yielded so far."""

    cut: Cut
    jobs: list[Job]
    missing: set[int]
    seconds: float = 0.0


@dataclass
class _Run:
    """A batch on its way."""

    output: Path
    key: str
    names: dict[str, str]
    progress: Progress
    on_failure: Callable[[LogResult], None]
    earlier: dict[str, dict[str, Any]] = field(default_factory=dict)
    pieces: dict[str, _Pieces] = field(default_factory=dict)
    logs: dict[str, LogResult] = field(default_factory=dict)
    failed: int = 0

    def done(self, job: Job, outcome: Outcome) -> list[Job]:
        """Store an outcome; returns the jobs that follow from it."""
        try:
            return self._stored(job, outcome)
        except BatchError:  # results cannot be written: no use in going on
            raise
        except SsrtrackError as error:
            return self._stored(job, Failed(str(error)))

    def _stored(self, job: Job, outcome: Outcome) -> list[Job]:
        if job.location in self.logs:  # one of its pieces has failed already
            return []
        if isinstance(outcome, Failed):
            cause = " ".join(outcome.cause.removeprefix(f"{job.location}: ").split())
            self.finish(LogResult(job.location, self.names[job.location], "failed", cause))
        elif isinstance(outcome, Unchanged):
            self.reuse(job.location, self.earlier[job.location] | {"stamp": outcome.stamp})
        elif isinstance(outcome, Cut):
            return self._cut(job, outcome)
        elif job.piece is not None:
            self._piece(job, outcome)
        else:
            folder = LogFolder.of(self.output, job.location)
            folder.result_path.unlink(missing_ok=True)  # of another content: it must not vouch for these sums
            write_whole(folder.part(0, 1), outcome.sums)
            self._result(job, outcome, [folder.part(0, 1).name])
        return []

    def _cut(self, job: Job, cut: Cut) -> list[Job]:
        pieces = pieces_of(cut.cuts)
        piece_job = replace(job, known_sha256="", known_stamp=cut.stamp)
        jobs = [replace(piece_job, piece=piece, number=i) for i, piece in enumerate(pieces)]
        folder = LogFolder.of(self.output, job.location)
        left = [j for j in jobs if not self._there(folder, j, cut.sha256, len(jobs))]
        self.pieces[job.location] = _Pieces(cut, jobs, {j.number for j in left}, cut.seconds)
        if not left:
            self._join(job)
        return left

    def _there(self, folder: LogFolder, job: Job, sha256: str, count: int) -> bool:
        """Whether an earlier run left the sums of this piece."""
        part = folder.part(job.number, count)
        try:
            return part.is_file() and part.with_suffix(".key").read_text() == piece_key(self.key, sha256, count, job)
        except (OSError, UnicodeDecodeError):
            return False

    def _piece(self, job: Job, outcome: Scored) -> None:
        log = self.pieces[job.location]
        folder, count = LogFolder.of(self.output, job.location), len(log.jobs)
        part = folder.part(job.number, count)
        # Of another content: they must not vouch for these sums.
        folder.result_path.unlink(missing_ok=True)
        part.with_suffix(".key").unlink(missing_ok=True)
        write_whole(part, outcome.sums)
        write_whole(part.with_suffix(".key"), piece_key(self.key, log.cut.sha256, count, job).encode())
        log.missing.discard(job.number)
        log.seconds += outcome.seconds
        if not log.missing:
            self._join(job)

    def _join(self, job: Job) -> None:
        """All pieces of a log are there: its result."""
        log, folder = self.pieces.pop(job.location), LogFolder.of(self.output, job.location)
        parts = [folder.part(i, len(log.jobs)) for i in range(len(log.jobs))]
        sums = one_log(map(read_sums, parts))
        require_flights(job.location, sums.flights, sums)
        result = evaluation_result(
            [job.location], sums, warmup_plots=job.asked.warmup_plots, bootstrap=job.bootstrap, seed=job.seed
        )
        joined = Scored(b"", sums.plots, sums.flights, log.seconds, log.cut.sha256, log.cut.stamp, scores_json(result))
        self._result(job, joined, [part.name for part in parts])

    def _result(self, job: Job, outcome: Scored, parts: list[str]) -> None:
        result = {
            "format": FORMAT,
            "version": VERSION,
            "log": job.location,
            "sha256": outcome.sha256,
            "stamp": outcome.stamp,
            "settings": self.key,
            "software": job.version,
            "sums": parts,
            "plots": outcome.plots,
            "flights": outcome.flights,
            "seconds": outcome.seconds,
            "scores": outcome.scores,
        }
        write_json(LogFolder.of(self.output, job.location).result_path, result)
        self.finish(self._log_result(job.location, result, "scored"))

    def reuse(self, location: str, result: dict[str, Any]) -> None:
        """Take an earlier run's result; a new stamp is kept, so that the next run need not read the log."""
        folder = LogFolder.of(self.output, location)
        folder.sums(result)  # raises if damaged
        if result["stamp"] != self.earlier[location]["stamp"]:
            write_json(folder.result_path, result)
        self.finish(self._log_result(location, result, "reused"))

    def _log_result(self, location: str, result: dict[str, Any], status: str) -> LogResult:
        scores = result["scores"]
        return LogResult(
            location,
            self.names[location],
            status,
            plots=result["plots"],
            flights=result["flights"],
            seconds=result["seconds"],
            has_truth=scores["has_truth"],
            scores=scores["trackers"],
            folder=LogFolder.of(self.output, location).path.relative_to(self.output).as_posix(),
        )

    def finish(self, log: LogResult) -> None:
        """A log is done, one way or the other."""
        self.logs[log.location] = log
        self.pieces.pop(log.location, None)
        if log.status == "failed":
            self.failed += 1
            self.on_failure(log)
        self.progress(f"logs, {self.failed} failed" if self.failed else "logs", len(self.logs), len(self.names))


def batch(
    logs: Sequence[str | Path],
    trackers: Sequence[str],
    output: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    resume: bool = False,
    retries: int = 2,
    timeout_s: float | None = None,
    max_plots: int = MAX_PLOTS,
    bootstrap: int = 1000,
    seed: int = 1,
    progress: Progress | None = None,
    on_failure: Callable[[LogResult], None] | None = None,
    **options: Any,
) -> BatchResult:
    """Evaluate many logs, each by itself, and all together; results are kept in `output` as they come.

    Args:
        logs: logs, folders, patterns, manifests or URLs, see `ssrtrack.batch.logs.find_logs`.
        trackers: names of estimators, with parameters if wanted, as for `evaluate`.
        output: folder of the results, made if need be; empty, or one of an earlier run with `resume`.
        workers: processes on this machine; None is one per core, 0 does all in this process. Scripts that are not
            imported need the usual `if __name__ == "__main__":`.
        scheduler: address of a Dask scheduler (tcp://…) whose workers do the work instead.
        resources: Dask workers that take part must announce these, for example {"GPU": 1}.
        resume: keep what an earlier run stored, where log, trackers, parameters and software are the same.
        retries: how often a log is tried again after its worker died.
        timeout_s: a local worker that is longer at one log or piece is killed, which counts as its death; None waits
            for ever.
        max_plots: a longer log is cut by time into pieces of about that size, which are tasks of their own; its scores
            stay those of the whole.
        bootstrap, seed: as for `evaluate`, for each log and for all.
        progress: called as (what, done, total) as logs are finished.
        on_failure: called with each log that failed, at once.
        options: further arguments of `evaluate` that hold for each log: fields of `Asked`.

    Returns:
        What became of each log, and overall scores. The same is in `output`/summary.json, also after an interrupt.

    Raises:
        BatchError: nothing to do, `output` cannot be used or another batch works there, or no worker can be had.
            Failures of single logs are reported in the result.
        EstimatorError, ScoringError: no log could be evaluated as asked, for example with an unknown tracker.
        KeyboardInterrupt: passed on, after summary.json is written.
    """
    asked = Asked(tuple(trackers) if not isinstance(trackers, str) else trackers, **options)
    asked.check()
    asked = asked.here()
    _check_numbers(workers=workers, retries=retries, max_plots=max_plots)
    if scheduler is not None and workers is not None:
        raise BatchError("both workers and a scheduler were given; name one of the two")
    if timeout_s is not None and (scheduler is not None or workers == 0 or not timeout_s > 0.0):
        raise BatchError(f"timeout_s is {timeout_s:g}; give seconds above 0, and local workers that can be killed")
    output, locations = Path(output), find_logs(logs)
    blank = Job("", asked, software_version(), max_plots, bootstrap, seed)
    run = _Run(
        output,
        settings_key(blank),
        dict(zip(locations, names_of(locations), strict=True)),
        progress or (lambda what, done, total: None),
        on_failure or (lambda log: None),
    )

    def compute() -> None:
        jobs = _left_to_do(run, blank, locations)
        if scheduler is not None:
            run_cluster(jobs, run.done, scheduler=scheduler, retries=retries, resources=resources)
        elif workers == 0:
            run_here(jobs, run.done)
        else:
            run_local(jobs, run.done, workers=workers or cores(), retries=retries, timeout_s=timeout_s)

    prepare(output, resume)
    with alone(output):
        return _finished(run, compute, asked.warmup_plots, bootstrap, seed)


def _finished(run: _Run, compute: Callable[[], None], warmup_plots: int, bootstrap: int, seed: int) -> BatchResult:
    """Compute, merge, and keep summary.json true all the time: it says `finished` of no run but the last."""
    begun, path = time.monotonic(), run.output / "summary.json"
    # At once: killed without warning, this run must not leave an earlier one's summary standing for its own.
    write_json(path, summary(_result(run, begun, (), stopped=True)))
    try:
        compute()
        run.progress("overall scores", 0, 1)
        overall = overall_results(
            _in_order(run), lambda log: _sums_of(run, log), warmup_plots=warmup_plots, bootstrap=bootstrap, seed=seed
        )
    except BaseException:
        # Interrupted, or the cluster was lost: say what there is, without the overall scores, which take time. Where
        # that cannot be written either, as on a full disk, the first cause is the one to tell.
        with suppress(BatchError):
            write_json(path, summary(_result(run, begun, (), stopped=True)))
        raise
    result = _result(run, begun, overall)
    write_json(path, summary(result))
    return result


def _check_numbers(*, workers: int | None, retries: int, max_plots: int) -> None:
    for name, value, least in (("workers", workers, 0), ("retries", retries, 0), ("max_plots", max_plots, 1)):
        if value is not None and value < least:
            raise BatchError(f"{name} is {value}; give at least {least}")


def _left_to_do(run: _Run, blank: Job, locations: Sequence[str]) -> list[Job]:
    """Jobs for the logs that have no result yet; the others are taken over."""
    jobs = []
    for location in locations:
        job = replace(blank, location=location)
        result = LogFolder.of(run.output, location).result(run.key)
        if result is not None:
            run.earlier[location] = result
            try:
                marked = stamp(location)
                if marked and marked == result["stamp"]:
                    run.reuse(location, result)
                    continue
                job = replace(job, known_sha256=result["sha256"])
            except BatchError:
                raise
            # Gone, or its sums are damaged: the job finds out, or computes them again. Any error, because packages
            # of object storage raise their own, and one log must not stop the rest.
            except Exception:
                job = replace(job, known_sha256="")
        jobs.append(job)
    return jobs


def _sums_of(run: _Run, log: LogResult) -> Gathered:
    folder = LogFolder.of(run.output, log.location)
    result = folder.result(run.key)
    if result is None:
        raise BatchError(f"{folder.path}: the result of {log.location} has vanished; run again with --resume")
    return folder.sums(result)


def _in_order(run: _Run) -> list[LogResult]:
    return [run.logs.get(where) or LogResult(where, name, "stopped") for where, name in run.names.items()]


def _result(run: _Run, begun: float, overall: tuple[Any, ...], *, stopped: bool = False) -> BatchResult:
    names = tuple(overall[0].trackers[i].name for i in range(len(overall[0].trackers))) if overall else ()
    return BatchResult(names, tuple(_in_order(run)), overall, time.monotonic() - begun, stopped)


def summary(result: BatchResult) -> dict[str, Any]:
    """summary.json: counts, overall scores and what became of each log, as plain numbers and texts."""
    return {
        "format": "ssrtrack-batch",
        "version": 1,
        "software": software_version(),
        "finished": not result.stopped,
        "logs": len(result.logs),
        **{status: result.count(status) for status in STATUSES},
        "wall_s": result.wall_s,
        "plots_per_s": result.plots_per_s,
        "overall": [scores_json(one) | {"logs": len(one.logs), "radars": None} for one in result.overall],
        "results": [
            {
                "log": log.location,
                "status": log.status,
                "cause": log.cause or None,
                "plots": log.plots,
                "flights": log.flights,
                "seconds": log.seconds,
                "plots_per_s": log.plots / log.seconds if log.seconds else None,
                "folder": log.folder or None,
            }
            for log in result.logs
        ],
    }
