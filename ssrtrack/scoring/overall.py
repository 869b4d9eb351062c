"""Scores over many logs: what became of each, and the scores of all together, exact, from merged sums."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np

from ssrtrack.scoring.evaluate import evaluation_result
from ssrtrack.scoring.gathered import Gathered, empty_like
from ssrtrack.scoring.result import EvaluationResult

# More flights are not resampled one by one: a table of their sums would fill the memory of the machine that merges.
MAX_FLIGHTS = 200_000
STATUSES = ("scored", "reused", "failed", "stopped")


@dataclass(frozen=True)
class LogResult:
    """What became of one log."""

    location: str
    name: str  # as short as the other logs' names allow
    status: str  # of STATUSES; "reused": scored by an earlier run; "stopped": not done, the run was ended before
    cause: str = ""  # of a failure, one line
    plots: int = 0
    flights: int = 0
    seconds: float = 0.0  # of work, all pieces together; for a reused log as they were then
    has_truth: bool | None = None
    scores: dict[str, Any] | None = None  # by tracker, as in scores.json
    folder: str = ""  # of its result, from the batch's folder

    @property
    def good(self) -> bool:
        """Whether it has scores."""
        return self.status in ("scored", "reused")

    def score(self, tracker: str, key: str) -> float | None:
        """One score, None where there is none."""
        value = ((self.scores or {}).get(tracker) or {}).get(key)
        return float(value) if isinstance(value, int | float) and isfinite(value) else None


@dataclass(frozen=True)
class BatchResult:
    """All logs in the order named; overall scores of those with truth and of those without."""

    trackers: tuple[str, ...]
    logs: tuple[LogResult, ...]
    overall: tuple[EvaluationResult, ...]
    wall_s: float
    stopped: bool = False

    def count(self, *statuses: str) -> int:
        """How many logs have one of these statuses."""
        return sum(log.status in statuses for log in self.logs)

    @property
    def plots_per_s(self) -> float | None:
        """Plots of this run's logs per second of this run, all workers together; None if nothing was computed."""
        plots = sum(log.plots for log in self.logs if log.status == "scored")
        return plots / self.wall_s if plots and self.wall_s > 0 else None


def main_score(has_truth: bool | None) -> str:
    """The score by which logs are ranked: displaced plots decide an RMS without truth, so there a percentile."""
    return "position_rmse_m" if has_truth else "next_plot_p95_m"


def worst_first(logs: Iterable[LogResult], tracker: str) -> list[LogResult]:
    """Failed and stopped logs, then those with truth, then those without, each by the tracker's main score."""

    def badness(log: LogResult) -> tuple[int, float, str]:
        if not log.good:
            return STATUSES.index(log.status) - len(STATUSES), 0.0, log.name
        value = log.score(tracker, main_score(log.has_truth))
        return (0 if log.has_truth else 1), -(value if value is not None else inf), log.name

    return sorted(logs, key=badness)


def overall_results(
    logs: Sequence[LogResult],
    sums_of: Callable[[LogResult], Gathered],
    *,
    warmup_plots: int,
    bootstrap: int,
    seed: int,
) -> tuple[EvaluationResult, ...]:
    """The scores of all logs together, those with truth and those without apart.

    They are the scores `evaluate` gives for the same logs. With more than 200,000 flights the intervals are
    over logs instead of flights, and a note says so.
    """
    found = []
    for has_truth in (True, False):
        chosen = [log for log in logs if log.good and log.has_truth == has_truth]
        if chosen:
            found.append(_overall(chosen, sums_of, warmup_plots=warmup_plots, bootstrap=bootstrap, seed=seed))
    return tuple(found)


def _overall(logs: Sequence[LogResult], sums_of: Callable[[LogResult], Gathered], **options: int) -> EvaluationResult:
    many = sum(log.flights for log in logs) > MAX_FLIGHTS
    total, notes = None, Counter[str]()
    for number, log in enumerate(logs):
        sums = sums_of(log)
        notes.update(sums.notes)
        sums.notes.clear()
        if total is None:
            total = empty_like(sums)
        total.merge(_folded(sums) if many else sums, number)
    if total is None:
        raise ValueError("no log to merge")
    total.notes += _shared(notes, len(logs))
    result = evaluation_result([log.location for log in logs], total, **options)
    return _unfolded(result, logs) if many else result


def _folded(sums: Gathered) -> Gathered:
    """The sums with one row for the whole log."""
    folded = empty_like(sums)
    for name, tally in sums.tallies.items():
        arrays = tally.arrays()
        folded.tallies[name].merge(arrays | {"flights": arrays["flights"].sum(axis=0, keepdims=True)})
    row = replace(folded, order=[np.zeros((3, 1))])
    for key in ("excluded", "radars", "notes", "plots", "plots_used", "first_s", "last_s"):
        setattr(row, key, getattr(sums, key))
    return row


def _unfolded(result: EvaluationResult, logs: Sequence[LogResult]) -> EvaluationResult:
    """With the number of flights, which rows of whole logs do not know."""

    def flights(name: str) -> int:
        return int(sum(log.score(name, "flights") or 0 for log in logs))

    trackers = tuple(replace(t, scores=replace(t.scores, flights=flights(t.name))) for t in result.trackers)
    note = "Intervals are over logs, not over flights, of which there are too many to resample."
    return replace(result, trackers=trackers, notes=(*result.notes, note))


def _shared(notes: Counter[str], logs: int) -> list[str]:
    """What holds for all logs; what is said of some only is counted, and stands in their own results."""
    shared = [note for note, n in notes.items() if n == logs]
    some = [note for note, n in notes.items() if n < logs]
    if len(some) <= 5:
        return shared + [f"{notes[note]} of {logs} logs: {note}" for note in some]
    return [*shared, f"{len(some)} further notes concern some of the logs; they are in those logs' result.json."]
