"""How a run shows itself: a line for each validation, a bar on a terminal, TensorBoard if asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrtrack.errors import TrainingError


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Whom a run tells how it goes; by default nobody. line: a text; step: share done and loss; scalars: by step."""

    line: Callable[[str], None] = _nothing
    step: Callable[[float, float], None] = _nothing
    scalars: Callable[[int, dict[str, float]], None] = _nothing


SILENT = Telling()


@contextmanager
def tensorboard_scalars(folder: Path, wanted: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function that writes numbers of a step into a TensorBoard log in `folder`; it does nothing unless wanted.

    Raises:
        TrainingError: TensorBoard is not installed.
    """
    if not wanted:
        yield _nothing
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "--tensorboard needs the package tensorboard; install it with `pip install 'ssrtrack[tensorboard]'`"
        ) from error
    # Made with the first number: a folder that holds something is refused as a run's.
    writers: list[Any] = []

    def add(step: int, values: dict[str, float]) -> None:
        if not writers:
            writers.append(SummaryWriter(str(folder / "tensorboard"), flush_secs=10))
        for name, value in values.items():
            writers[0].add_scalar(name, value, step)

    try:
        yield add
    finally:
        for writer in writers:
            writer.close()
