"""What a worker does, whichever kind it is: one log, or one piece of a long one, from location to sums."""

import hashlib
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ssrtrack
from ssrtrack.errors import LogError, SsrtrackError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.storage import content_hash, fetched, is_url, opened, stamp
from ssrtrack.scoring.evaluate import evaluation_result
from ssrtrack.scoring.gather import Asked, gather, nothing_yet, require_flights
from ssrtrack.scoring.gathered import packed
from ssrtrack.scoring.serialise import scores_json
from ssrtrack.tracking.pieces import Piece

# Folders of the package that no score depends on.
UNRELATED = ("batch", "cli", "experiments", "report", "simulators", "training")


@dataclass(frozen=True)
class Job:
    """What to do with one log. Nothing in it is larger than a few hundred octets."""

    location: str
    asked: Asked
    version: str  # of the software that asks: a worker with another one would give other scores
    max_plots: int  # a longer log is cut
    bootstrap: int
    seed: int
    known_sha256: str = ""  # content for which the result is there already
    known_stamp: str = ""  # of the content that was cut into pieces
    piece: Piece | None = None
    number: int = 0  # of the piece


@dataclass(frozen=True)
class Scored:
    """Sums of a log or piece; `scores` as in scores.json, None for a piece."""

    sums: bytes
    plots: int
    flights: int
    seconds: float
    sha256: str = ""
    stamp: str = ""
    scores: dict[str, Any] | None = None


@dataclass(frozen=True)
class Unchanged:
    """The log's content is the one already scored."""

    stamp: str


@dataclass(frozen=True)
class Cut:
    """The log is too long for one task: where to cut it."""

    cuts: tuple[float, ...]
    sha256: str
    stamp: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """Why there is no result, in one line."""

    cause: str


Outcome = Scored | Unchanged | Cut | Failed


@cache
def software_version() -> str:
    """The version with a digest of the code that scores depend on: a changed filter must not reuse old results."""
    root = Path(ssrtrack.__file__).parent
    digest = hashlib.sha256()
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name not in UNRELATED):
        # Tuned parameters and tables of requirements decide scores as code does.
        for path in (*sorted(folder.glob("*.py")), *sorted(folder.rglob("*.toml"))):
            digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(root.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return f"{ssrtrack.__version__}+{digest.hexdigest()[:12]}"


def work(job: Job) -> Outcome:
    """Do one job. Every error becomes its outcome, so that a bad log never takes a worker along."""
    if job.version != software_version():
        return Failed(
            f"this worker runs ssrtrack {software_version()}, the batch was started with {job.version}; "
            "install the same on every worker"
        )
    try:
        return _piece(job, job.piece) if job.piece is not None else _log(job)
    except SsrtrackError as error:
        return Failed(" ".join(str(error).split()))
    except MemoryError:
        return Failed(f"{job.location}: out of memory; give workers more, run fewer at once, or lower --max-plots")
    except Exception as error:  # a fault of the program: the other logs shall not suffer from it
        return Failed(f"{job.location}: internal error: {type(error).__name__}: {' '.join(str(error).split())}")


def _log(job: Job) -> Outcome:
    begun, marked = time.perf_counter(), stamp(job.location)
    if job.known_sha256 and content_hash(job.location) == job.known_sha256:
        return Unchanged(marked)
    if is_url(job.location):  # seen from its head, before it is fetched whole
        with opened(job.location) as reader:
            if cuts := reader.cuts(job.max_plots):
                job.asked.check_training(reader)
        if cuts:
            return Cut(cuts, content_hash(job.location), marked, time.perf_counter() - begun)
    with fetched(job.location) as (reader, sha256):
        job.asked.check_training(reader)
        if cuts := reader.cuts(job.max_plots):
            return Cut(cuts, sha256, marked, time.perf_counter() - begun)
        sums, found, plots = _sums(reader, job, None)
        require_flights(reader.path, found, sums)
        result = evaluation_result(
            [job.location], sums, warmup_plots=job.asked.warmup_plots, bootstrap=job.bootstrap, seed=job.seed
        )
    _require_unchanged(job, marked)
    return Scored(
        packed(sums), plots, found, time.perf_counter() - begun, sha256=sha256, stamp=marked, scores=scores_json(result)
    )


def _piece(job: Job, piece: Piece) -> Scored:
    begun = time.perf_counter()
    with opened(job.location) as reader:
        sums, found, plots = _sums(reader, job, piece)
    _require_unchanged(job, job.known_stamp)
    return Scored(packed(sums), plots, found, time.perf_counter() - begun)


def _require_unchanged(job: Job, before: str) -> None:
    """A log that is replaced while it is read would be scored as half the one and half the other."""
    if stamp(job.location) != before:
        raise LogError(f"{job.location}: it was changed while it was read; run again with --resume when it is complete")


def _sums(reader: LogReader, job: Job, piece: Piece | None) -> tuple[Any, int, int]:
    sums = nothing_yet(job.asked, reader)
    found = gather(reader, job.asked, sums, piece=piece)
    return sums, found, sums.plots
