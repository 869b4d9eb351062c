"""Which trainings a comparison is made of, which of them come next, and the file that holds what is done.

A cell is one model on one task. It is tuned first: every learning rate once, on a seed of its own, scored on validation
samples. Then as many seeds as asked for are trained at the best rate and scored on test samples. Cells come in order of
importance, and whoever is free takes the first job that can be done. Every finished job is one line of JSON in an
append-only file; a run that starts again does what is not in it.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ssrtrack.errors import TrainingError
from ssrtrack.experiments.grid_models import MODELS
from ssrtrack.experiments.grid_tasks import TRIALS

TUNING_SEED = 100
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training. kind: "tune" (scored on validation samples) or "final".

    stages: of the task's, None for all. count: sequences of each test, None for the task's.
    """

    task: str
    model: str
    kind: str
    lr: float
    seed: int
    steps: int
    stages: int | None = None
    count: int | None = None

    @property
    def key(self) -> str:
        """What tells this job from all others."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Cell:
    """One model on one task: `rates` to choose from, `seeds` at the best of them.

    tuned_on: the task whose choice holds here too, instead of tuning anew. tuning_steps and tuning_stages: where the
    whole would cost too much. count: sequences of each test, None for the task's.
    """

    task: str
    model: str
    steps: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    tuned_on: str = ""
    tuning_steps: int = 0
    tuning_stages: int | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.task not in TRIALS or self.model not in MODELS:
            raise TrainingError(
                f"there is no cell {self.task!r}, {self.model!r}: "
                f"tasks are {', '.join(TRIALS)}; models are {', '.join(MODELS)}"
            )

    def tuning(self) -> list[Job]:
        """A job for each learning rate; none where the choice is made elsewhere or there is none."""
        if self.tuned_on or len(self.rates) == 1:
            return []
        steps = self.tuning_steps or self.steps
        return [
            Job(self.task, self.model, "tune", rate, TUNING_SEED, steps, self.tuning_stages, self.count)
            for rate in self.rates
        ]

    def finals(self, rate: float) -> list[Job]:
        """A job for each seed."""
        return [Job(self.task, self.model, "final", rate, seed, self.steps, None, self.count) for seed in self.seeds]


def read_records(path: Path) -> list[Record]:
    """What is done so far; a last line that a killed run left half written is not."""
    if not path.exists():
        return []
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number + 1 < len(lines):
                raise TrainingError(
                    f"{path}, line {number + 1} is not JSON ({error}); mend or move the file"
                ) from error
    return records


def append_record(path: Path, record: Record) -> None:
    """One more line, in place of one that a killed run left half written."""
    text = path.read_bytes() if path.exists() else b""
    with path.open("ab") as file:
        file.truncate(text.rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")


def tunings(task: str, model: str, records: Iterable[Record]) -> list[Record]:
    """The trainings at which a rate is chosen: of those in the file the longest."""
    some = [r for r in records if (r["task"], r["model"], r["kind"]) == (task, model, "tune")]
    longest = max((r["steps"] for r in some), default=0)
    return [r for r in some if r["steps"] == longest]


def best_rate(cell: Cell, records: Iterable[Record]) -> float | None:
    """The learning rate with the best validation score; None while any is still to be tried.

    A training that failed or diverged counts as tried and never wins; where all did, the least rate is taken. Only
    trainings of the length that the cell's own have, so that a short trial in the same file decides nothing.
    """
    if len(cell.rates) == 1:
        return cell.rates[0]
    task = cell.tuned_on or cell.task
    sign = 1.0 if TRIALS[task].least else -1.0
    cost: dict[float, float] = {}
    for record in tunings(task, cell.model, records):
        if cell.tuned_on or record["steps"] == (cell.tuning_steps or cell.steps):
            score = float(record.get("score", "nan"))
            cost[record["lr"]] = sign * score if isfinite(score) else float("inf")
    if not set(cell.rates) <= set(cost):
        return None
    return min(sorted(cell.rates), key=lambda rate: cost[rate])


def open_jobs(cells: Sequence[Cell], records: Sequence[Record], under_way: Collection[str]) -> Iterator[Job]:
    """Jobs that can be started now, the most important first."""
    closed = {record["key"] for record in records} | set(under_way)
    for cell in cells:
        rate = best_rate(cell, records)
        for job in cell.tuning() if rate is None else cell.finals(rate):
            if job.key not in closed:
                yield job


def left(cells: Sequence[Cell], records: Sequence[Record]) -> int:
    """Trainings that are not done, those that wait for a choice included."""
    closed = {record["key"] for record in records}
    count = 0
    for cell in cells:
        rate = best_rate(cell, records)
        count += sum(job.key not in closed for job in cell.tuning())
        count += len(cell.seeds) if rate is None else sum(job.key not in closed for job in cell.finals(rate))
    return count


def expected_seconds(job: Job, records: Sequence[Record]) -> float:
    """How long the job will take, from the slowest like it: same task, kind and model, else same task and kind."""
    for same in (("task", "kind", "model"), ("task", "kind")):
        like = [
            float(record["seconds"]) / int(record["steps"]) * job.steps
            for record in records
            if "seconds" in record and all(record[name] == getattr(job, name) for name in same)
        ]
        if like:
            return max(like)
    return TRIALS[job.task].guess_ms * 1e-3 * job.steps
