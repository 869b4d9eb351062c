"""From scenarios and logs to a file of tuned parameters: what `ssrtrack train imm` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssrtrack.errors import TrainingError
from ssrtrack.filters.estimators import given_parameters, parameters_of
from ssrtrack.filters.tuned_file import Tuned, format_tuned
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.io.whole import write_whole
from ssrtrack.models.provenance import Sources, clash
from ssrtrack.simulators.scenario import load_scenario
from ssrtrack.simulators.suite import is_suite, load_suite, suite_provenance
from ssrtrack.training.likelihood import Figures
from ssrtrack.training.tune import Progress, Tuning, tune
from ssrtrack.training.tune_flights import Group, log_group, simulated_group, split_group

MAX_PLOTS = 60_000  # of a group: more flights change the parameters by less than flights differ
VALIDATION_SHARE = 0.3  # of the aircraft in logs, where no validation logs are given


@dataclass(frozen=True)
class Flights:
    """Groups to tune on and, in the same order, groups of other flights to judge by."""

    training: tuple[Group, ...]
    validation: tuple[Group, ...]

    @property
    def sources(self) -> Sources:
        """What was trained on; validation flights chose nothing."""
        found = Sources()
        for group in self.training:
            found = found.joined(group.sources)
        return found


def flights_of(
    scenarios: Sequence[str],
    logs: Sequence[str | Path],
    validation_logs: Sequence[str | Path] = (),
    *,
    seed: int | None = None,
    max_plots: int = MAX_PLOTS,
    progress: Progress | None = None,
) -> Flights:
    """Flights of scenarios (names, files or suite:NAME), each a group, and of logs, together one group.

    A scenario is simulated with `seed` (1 by default) to tune on and with the next seed to validate; of suite:NAME
    these are the train and validation splits. Logs are judged by the validation logs, else by 30 % of their aircraft.
    The validation logs also serve scenarios, in place of their own.

    Raises:
        TrainingError: nothing to tune on, a seed for a split of the suite, too few flights, or validation logs of
            flights that are tuned on.
        ScenarioError, LogError: a scenario or log cannot be read.
    """
    if not scenarios and not logs:
        raise TrainingError("nothing to tune on; give a log with -l or a scenario with -s")
    show = progress or (lambda what, done, total: None)
    training, validation = [], []
    for k, name in enumerate(scenarios):
        show(f"simulating {name}", k, len(scenarios))
        training.append(_simulated(name, "train", seed, max_plots))
        if not validation_logs:
            validation.append(_simulated(name, "validation", seed, max_plots))
    if logs:
        show("reading logs", 0, 1)
        both = log_group(logs, max_plots=max_plots)
        if validation_logs:
            training.append(both)
        else:
            first, held = split_group(both, VALIDATION_SHARE)
            training.append(first)
            validation.append(held)
    if validation_logs:
        validation.append(log_group(validation_logs, max_plots=max_plots))
    found = Flights(tuple(training), tuple(validation))
    for path in validation_logs:
        with LogReader(path) as reader:
            if known := clash(found.sources, reader):
                raise TrainingError(f"{path}: holds flights that are tuned on ({known}); validate on others")
    return found


def _simulated(name: str, split: str, seed: int | None, max_plots: int) -> Group:
    if is_suite(name):
        if seed is not None:
            raise TrainingError(f"{name}: its splits have seeds of their own; leave --seed out")
        scenario, number = load_suite(name, split)
        return simulated_group(scenario, number, suite=suite_provenance(name, split), max_plots=max_plots)
    number = (1 if seed is None else seed) + (split != "train")
    return simulated_group(load_scenario(name), number, max_plots=max_plots)


def tune_text(text: str, found: Flights, *, variant: str | None = None, **options: Any) -> Tuning:
    """`tune` for an estimator written as NAME or NAME:key=value,...; what the text gives is not searched.

    variant: None is "gated" for a name or text with a gate, else "mixture". options: as for `tune`.

    Raises:
        EstimatorError, TrainingError: as `tune`.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    known = parameters_of(name)
    fixed = given_parameters(text, rest if colon else None, known)
    if variant is None:
        variant = "gated" if (known | fixed)["gate"] is not None else "mixture"
    # Noise that was measured comes with its tail: what `evaluate` gives the name on these logs, and so the start.
    tail = next((group.tail for group in found.training if group.tail), {})
    return tune(name, found.training, found.validation, variant=variant, fixed=fixed, start=tail, **options)


def tuned_of(
    tuning: Tuning, found: Flights, *, description: str = "", software: str, created: str, command: str = ""
) -> Tuned:
    """The contents of the file: parameters, what they were tuned on, and what they gained on other flights."""
    return Tuned(
        estimator=tuning.estimator,
        parameters=tuning.after,
        variant=tuning.variant,
        description=description,
        software=software,
        created=created,
        command=command,
        training={
            "objective": tuning.objective,
            "method": tuning.method,
            "searched": list(tuning.searched),
            "at_bounds": list(tuning.at_bounds),
            "evaluations": tuning.evaluations,
            "groups": [group.name for group in found.training],
            "flights": sum(group.flights for group in found.training),
            "plots": sum(group.plots for group in found.training),
            "objective_before": round(tuning.objective_before, 5),
            "objective_after": round(tuning.objective_after, 5),
        },
        validation={
            "objective_before": round(tuning.validation_objective_before, 5),
            "objective_after": round(tuning.validation_objective_after, 5),
            "groups": [group.name for group in found.validation],
            "before": _columns(tuning.validation_before),
            "after": _columns(tuning.validation_after),
        },
        sources=found.sources.to_list(),
    )


def _columns(rows: Sequence[Figures]) -> dict[str, list[float]]:
    """Figures by name, one number for each group."""
    tables = [row.to_dict() for row in rows]
    names = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    return {name: [float(f"{table[name]:.5g}") for table in tables] for name in names}


def write_tuned(path: str | Path, tuned: Tuned) -> None:
    """Write a file that is seen whole or not at all: what was there before stays until the new one is complete.

    Raises:
        TrainingError: it cannot be written.
    """
    where = Path(path)
    try:
        write_whole(where, format_tuned(tuned).encode())
    except OSError as error:
        raise TrainingError(f"{where}: cannot be written ({error.strerror or error}); name another file") from error
