"""What several commands share: progress bars, output checks, the command line as provenance."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from ssrtrack.errors import LogError, ScoringError

Progress = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A function (what, done, total) that draws a bar on a terminal's stderr and is silent elsewhere.

    The bar swings to and fro while `done` is 0: something is at work, and nobody knows for how long.
    """
    if not (sys.stderr and sys.stderr.isatty()):  # None where it was closed before the start
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    # Texts are literal: a file's name may hold brackets.
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None, visible=False)

        def show(what: str, done: int, total: int) -> None:
            nonlocal task
            if not done:  # a length, once known, cannot become unknown again within one task
                bars.remove_task(task)
                task = bars.add_task(what, total=None)
            else:
                bars.update(task, description=what, completed=done, total=total, visible=True)

        yield show


def new_output(path: Path, force: bool) -> Path:
    """The path, if it may be written.

    Raises:
        LogError: it exists and `--force` was not given, it is a directory, or its folder does not exist or cannot be
            written.
    """
    if path.is_dir():
        raise LogError(f"{path} is a directory, expected a file name")
    if path.exists() and not force:
        raise LogError(f"{path} exists; give another name or --force to replace it")
    if not path.parent.is_dir():
        raise LogError(f"folder {path.parent} does not exist; create it first")
    if reason := _unwritable(path.parent):
        raise LogError(f"cannot write into folder {path.parent}: {reason}; name another with -o")
    return path


def check_folder(path: Path) -> None:
    """Fail before the work and not after it, when no report can be written into this folder, which need not exist.

    Raises:
        ScoringError: it or a folder above it is a file, or cannot be written.
    """
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ScoringError(f"{there} is a file, expected a folder for the report")
    if reason := _unwritable(there):
        raise ScoringError(f"cannot write a report into {path}: {reason}; name another folder with -o")


def _unwritable(folder: Path) -> str:
    try:
        with TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def tell_hidden_folders(trackers: Sequence[str]) -> None:
    """One line on stderr for each shipped tracker whose name is also that of a folder here."""
    from ssrtrack.models.load import hidden_folders

    for line in hidden_folders(trackers):
        with suppress(OSError, ValueError):  # nobody may listen any more
            print(line, file=sys.stderr, flush=True)


def command_line() -> str:
    """The command as it was typed, for provenance."""
    return shlex.join(["ssrtrack", *sys.argv[1:]])


def now_utc() -> str:
    """The present time, ISO 8601 UTC to the second: the library takes it as an argument."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
