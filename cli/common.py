"""What several commands share: progress bars, output checks, the command line as provenance."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ssrtrack.errors import LogError

Progress = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A function (what, done, total) that draws bars on a terminal's stderr and is silent elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def new_output(path: Path, force: bool) -> Path:
    """The path, if it may be written.

    Raises:
        LogError: it exists and `--force` was not given, it is a directory, or its folder does not exist.
    """
    if path.is_dir():
        raise LogError(f"{path} is a directory, expected a file name")
    if path.exists() and not force:
        raise LogError(f"{path} exists; give another name or --force to replace it")
    if not path.parent.is_dir():
        raise LogError(f"folder {path.parent} does not exist; create it first")
    return path


def command_line() -> str:
    """The command as it was typed, for provenance."""
    return shlex.join(["ssrtrack", *sys.argv[1:]])


def now_utc() -> str:
    """The present time, ISO 8601 UTC to the second: the library takes it as an argument."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
