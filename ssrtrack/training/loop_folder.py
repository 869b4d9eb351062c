"""The folder of a run: what is in it, that nothing there is lost, and the two tables that grow.

config.json    what was asked for; a run goes on from it alone
steps.csv      a row for every step: loss, norm of the gradient, learning rate
progress.csv   a row for every validation: errors beside the base filter's and the reference's
last.safetensors                  the state to go on from
model.json, model-*.safetensors   the best model so far: what `evaluate -t` takes
bad-batch-STEP.npz                what the run stopped at, if a loss or gradient was not finite: flights and weights
"""

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from ssrtrack.errors import CheckpointError, TrainingError
from ssrtrack.io.whole import write_whole

CONFIG, STATE, STEPS, PROGRESS = "config.json", "last.safetensors", "steps.csv", "progress.csv"
TENSORBOARD = "tensorboard"
# What a run may leave there, also when it was killed while it wrote.
_OURS = [CONFIG, STATE, STEPS, PROGRESS, "model.json", "model-*.safetensors", "bad-batch-*.npz", "*.part", TENSORBOARD]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the folder where something cannot be written; what was saved before stays.

    Raises:
        TrainingError: the disk is full, for example.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be written ({error.strerror or error}); free space, then go on with --resume {path}"
        ) from error


class RunFolder:
    """An open run folder; rows are kept until `flush`, so that the tables never fall behind the saved state.

    run: digest of what the run is (`digest_of`), "" where that does not matter.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run
        self._waiting: dict[str, list[Mapping[str, Any]]] = {STEPS: [], PROGRESS: []}

    @property
    def state(self) -> Path:
        """The file of the state to go on from."""
        return self.path / STATE

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """A row for one of the two tables, kept until `flush`."""
        self._waiting[table].append(row)

    def flush(self) -> None:
        """Append the rows kept to their files."""
        for name, rows in self._waiting.items():
            if rows:
                _append(self.path / name, rows)
                rows.clear()

    def keep_batch(self, step: str, columns: Mapping[str, Any]) -> Path:
        """Store the tensors of a step that went wrong, by name, so that it can be looked into; returns the file."""
        file = self.path / f"bad-batch-{step}.npz"
        with writing(self.path):
            np.savez(file, **{name: value.cpu().numpy() for name, value in columns.items() if value is not None})
        return file

    def cut_to(self, step: int, validated: int) -> None:
        """Drop rows after these steps, which a killed run wrote and its successor will write again.

        Raises:
            CheckpointError: a table is damaged.
        """
        for name, last in ((STEPS, step), (PROGRESS, validated)):
            path = self.path / name
            if path.exists():
                rows = _rows_to(path, last)
                with writing(self.path):
                    _write(path, rows)


def _rows_to(path: Path, last: int) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # A kill may have cut the last row short.
            whole = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
            return [row for row in whole if int(row["step"]) <= last]
    except (KeyError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: damaged ({error!r}); the run does not need it: move it elsewhere and go on"
        ) from error


def digest_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of what the losses of a run depend on; where its logs lie is not among it, what they hold is."""
    names = "recipe", "base", "sources"
    data = config.get("data")
    data = data if isinstance(data, dict) else {}
    told = {name: config.get(name) for name in names} | {name: data.get(name) for name in ("scenario", "source")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@contextmanager
def sole_use(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """The folder for this process alone: two that save into it would destroy each other's state.

    Raises:
        TrainingError: another process trains in it.
    """
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{path}: another process trains in it; wait until it has ended, or end it") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)


def check_free(path: Path, *, force: bool) -> list[str]:
    """Names of what lies in a folder and may be removed for a new run.

    Raises:
        TrainingError: it is a file, or holds something that `force` does not remove.
    """
    if path.exists() and not path.is_dir():
        raise TrainingError(f"{path} is a file, expected a folder for the run")
    there = sorted(p.name for p in path.iterdir()) if path.exists() else []
    foreign = [name for name in there if not any(fnmatch(name, ours) for ours in _OURS)]
    if there and not force:
        what = "a run" if CONFIG in there else ", ".join(there[:3])
        raise TrainingError(
            f"{path} is not empty (it holds {what}); give another folder, --resume {path} to go on, or --force to "
            "replace the run that is there"
        )
    if foreign:
        raise TrainingError(f"{path} holds {', '.join(foreign[:3])}, which is of no run; give another folder")
    if there:
        with sole_use(path, fcntl.LOCK_SH):  # processes of one torchrun look at the same time
            pass
    return there


def new_folder(path: Path, config: Mapping[str, Any], *, force: bool) -> RunFolder:
    """A folder for a new run, with its config.json; `force` removes the run that is there, and only that.

    Raises:
        TrainingError: as `check_free`; or it cannot be written.
    """
    there = check_free(path, force=force)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in there:
            rmtree(path / name) if name == TENSORBOARD else (path / name).unlink()
        write_json(path / CONFIG, config)
    except OSError as error:
        raise TrainingError(f"{path}: cannot write a run there ({error.strerror}); give another folder") from error
    return RunFolder(path, digest_of(config))


def open_folder(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a run that was begun, and its config.

    Raises:
        TrainingError: there is no run. CheckpointError: its config.json is damaged.
    """
    file = path / CONFIG
    if not file.is_file():
        raise TrainingError(f"{path}: holds no run to go on with (no {CONFIG}); begin one with -o {path}")
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged ({error}); begin the run anew in another folder") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds a {type(config).__name__}, expected the table that a run writes")
    return RunFolder(path, digest_of(config)), config


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file whole."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
        # The state that is saved next must not outlive these rows.
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text("", "utf-8")
    if rows:
        _append(beside, rows)
    beside.replace(path)
