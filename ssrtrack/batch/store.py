"""The folder of a batch: one folder per log with its result and sums, each file written whole or not at all.

OUT/summary.json
OUT/logs/<name>-<hash of its location>/result.json     the log's scores, and what they were computed from
OUT/logs/<name>-<hash of its location>/sums-1-of-1.npz  its sums, to merge; one file for each piece of a long log
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssrtrack.batch.task import Job
from ssrtrack.errors import BatchError, ScoringError
from ssrtrack.io import whole
from ssrtrack.scoring.gathered import Gathered, one_log, unpacked

FORMAT, VERSION = "ssrtrack-batch-log", 1
LOCK = ".lock"  # in OUT/logs; stays there, because taking it away would let two runs lock two files


def settings_key(job: Job) -> str:
    """A digest of all that a log's scores depend on beside its content: trackers, parameters, software."""
    settings = asdict(job.asked) | {"version": job.version, "bootstrap": job.bootstrap, "seed": job.seed}
    # How much is read at a time changes no score, nor where trackers' files are: their digests are among the settings.
    del settings["chunk_rows"], settings["folder"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class LogFolder:
    """Where one log's results are."""

    path: Path

    @classmethod
    def of(cls, output: Path, location: str) -> "LogFolder":
        """The folder of the log at `location`; the hash parts logs of one name."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", location.rsplit("/", 1)[-1].rsplit(".", 1)[0])[:60] or "log"
        # A file's name need not be UTF-8: Python stands surrogates for octets that are not.
        digest = hashlib.sha256(location.encode("utf-8", "surrogateescape")).hexdigest()
        return cls(output / "logs" / f"{stem}-{digest[:10]}")

    @property
    def result_path(self) -> Path:
        """Its result.json."""
        return self.path / "result.json"

    def part(self, number: int, count: int) -> Path:
        """Where the sums of piece `number` of `count` are."""
        return self.path / f"sums-{number + 1}-of-{count}.npz"

    def result(self, key: str) -> dict[str, Any] | None:
        """The stored result, if it was computed with these settings and its sums are there."""
        try:
            found = json.loads(self.result_path.read_text(encoding="utf-8"))
            good = found["format"] == FORMAT and found["version"] == VERSION and found["settings"] == key
            parts = [self.path / name for name in found["sums"]]
            return found if good and parts and all(part.is_file() for part in parts) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def sums(self, result: dict[str, Any]) -> Gathered:
        """The log's sums.

        Raises:
            ScoringError: a file of theirs is damaged or gone.
        """
        return one_log([read_sums(self.path / name) for name in result["sums"]])


def read_sums(path: Path) -> Gathered:
    """Sums from a file.

    Raises:
        ScoringError: it is damaged or gone.
    """
    try:
        return unpacked(path.read_bytes())
    except (OSError, ScoringError) as error:
        raise ScoringError(f"{path}: {error}; delete its folder and run again with --resume") from error


def piece_key(settings: str, sha256: str, count: int, job: Job) -> str:
    """A digest of all that a piece's sums depend on; kept beside them."""
    return hashlib.sha256(f"{settings} {sha256} {count} {job.number} {job.piece}".encode()).hexdigest()


def prepare(output: Path, resume: bool) -> None:
    """Make the folder.

    Raises:
        BatchError: it holds something and the run is not to go on there, or it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        used = any(output.iterdir())
    except OSError as error:
        reason = error.strerror or str(error)
        raise BatchError(f"{output}: cannot hold results ({reason}); name another folder with -o") from error
    if used and not resume:
        raise BatchError(f"{output} is not empty; go on there with --resume, or name another folder with -o")
    if used and not (output / "logs").is_dir():
        raise BatchError(f"{output} holds no results of a batch; nothing to resume, name another folder with -o")
    try:
        (output / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise BatchError(f"{output}: cannot be written ({error.strerror}); name another folder with -o") from error


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """A folder that `prepare` made, for this process only: two runs would mix each other's sums and results.

    The lock ends with the process, however that ends. Storage that knows no locks is used without.

    Raises:
        BatchError: another run works there, or it cannot be written.
    """
    try:
        lock = os.open(output / "logs" / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BatchError(f"{output}: cannot be written ({error.strerror}); name another folder with -o") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchError(
                f"{output}: another batch works there; wait for it or name another folder with -o"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(lock)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is seen whole or not at all, also after a crash: beside its place, to disk, then renamed.

    Raises:
        BatchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write_whole(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BatchError(f"{path}: cannot be written ({reason}); free space, then go on with --resume") from error


def write_json(path: Path, value: Any) -> None:
    """The same for JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode("utf-8", "replace"))
