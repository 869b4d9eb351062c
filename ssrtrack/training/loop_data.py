"""What a learned tracker is trained on: a scenario or logs, who makes the flights, and which are held out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.errors import CheckpointError, ScenarioError, TrainingError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.load import sources_of_tracker
from ssrtrack.models.provenance import Sources, clash, marks_of_tables, sources_of, sources_of_log
from ssrtrack.simulators.scenario import load_scenario, parse_scenario, simulate
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.suite import is_suite, list_suite, load_suite
from ssrtrack.training.dataset import LoggedFlights, read_flights, split_by_flight
from ssrtrack.training.device_radar import left_out
from ssrtrack.training.device_sampler import PATTERNS, device_flights, not_on_device
from ssrtrack.training.device_spread import ALL_RADARS, SpreadFlights, spread_flights
from ssrtrack.training.distributed import Ranks
from ssrtrack.training.flown_simulated import FLIGHTS_APART, Endless, held_out_flights, simulated_flights
from ssrtrack.training.flown_windows import Windows
from ssrtrack.training.loop_ahead import Flights
from ssrtrack.training.loop_recipe import Recipe

SOURCES = ("auto", "simulator", "device")
SPREAD = "spread"  # in a scenario's place: radars and traffic of all kinds (`ssrtrack.training.device_spread`)
HELD_OUT = 256  # windows of validation
HELD_OUT_PLOTS = 200  # in each of them: longer than a training window, as flights in `evaluate` are
HELD_OUT_SEED = 900_001  # of those that are in no scenario: far from the seeds that trainings have
# Beside the suite's own: a tracker that took a radar's numbers for its traffic would show here.
BESIDE_SUITE = {
    "other traffic": replace(ALL_RADARS, suite_share=1.0, suite_traffic=0.0),
    "all kinds": replace(ALL_RADARS, suite_share=0.0),
}
HELD_OUT_SHARE = 0.1  # of the flights of logs, where no others are named


@dataclass(frozen=True, kw_only=True)
class Data:
    """What to train on: a scenario, simulated without end, or logs. validation: logs of held-out flights, if any.

    source: what makes a scenario's flights, one of SOURCES; or SPREAD, where there is neither scenario nor log; then
    suite_share says which share of the flights the benchmark suite's radars see.
    """

    scenario: Scenario | None = None
    suite: str = ""  # suite:NAME, if the scenario is one of the suite
    source: str = "auto"
    logs: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    suite_share: float = ALL_RADARS.suite_share

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: with the scenario's text, so that a changed file does not change a resumed run."""
        s = self.scenario
        scenario = {} if s is None else {"name": s.name, "text": s.text}
        files = {"logs": self.logs, "validation": self.validation}
        share = {"suite_share": self.suite_share} if self.source == SPREAD else {}
        return {"scenario": scenario, "suite": self.suite, "source": self.source} | files | share

    @staticmethod
    def from_dict(values: Any) -> "Data":
        """From what JSON had.

        Raises:
            CheckpointError: keys are missing. ScenarioError: the scenario's text is damaged.
        """
        try:
            text, name = values["scenario"].get("text"), values["scenario"].get("name", "")
            scenario = parse_scenario(text, name, "the run's scenario") if text is not None else None
            logs, validation = (tuple(map(str, values[key])) for key in ("logs", "validation"))
            source, suite = str(values["source"]), str(values["suite"])
            share = float(values.get("suite_share", 0.0))  # the first runs had none
            files = {"logs": logs, "validation": validation}
            return Data(scenario=scenario, suite=suite, source=source, suite_share=share, **files)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the run's data are damaged ({error!r}); begin the run anew") from error


def data_of(scenario: str, logs: list[Path], validation: list[Path], source: str = "auto") -> Data:
    """What the caller names, checked.

    Raises:
        TrainingError: neither a scenario nor logs, or both, or no such source. ScenarioError: no such scenario.
    """
    if source not in SOURCES:
        raise TrainingError(f"flights from {source!r}, expected one of {', '.join(SOURCES)}")
    if bool(scenario) == bool(logs):
        raise TrainingError("give either a scenario to simulate (-s) or logs (-l) to train on")
    files = tuple(str(p.absolute()) for p in validation)
    if scenario == SPREAD:
        if source == "simulator":
            raise TrainingError(f"the flights of {SPREAD!r} are made on the training device; leave --flights out")
        return Data(source=SPREAD, validation=files)
    if logs:
        return Data(logs=tuple(str(p.absolute()) for p in logs), validation=files)
    if is_suite(scenario):
        return Data(scenario=load_suite(scenario, "train")[0], suite=scenario, source=source, validation=files)
    return Data(scenario=load_scenario(scenario), source=source, validation=files)


def chosen_source(data: Data, device: torch.device) -> tuple[str, str]:
    """What makes the flights, with "auto" decided, and what a reader should know of that; both may be empty.

    On a GPU they are made there if they can: it would wait for a processor of few cores. Elsewhere the simulator makes
    them, whatever the scenario says.

    Raises:
        ScenarioError: they are asked of the device, and cannot be made there.
    """
    if data.scenario is None:
        return (SPREAD if data.source == SPREAD else ""), ""
    reason = not_on_device(data.scenario)
    if data.source == "simulator" or (data.source == "auto" and device.type == "cpu"):
        return "simulator", ""
    if reason and data.source == "device":
        raise ScenarioError(
            f"{data.scenario.name}: cannot be made on the training device: {reason}; use --flights simulator"
        )
    if reason:
        return "simulator", f"Flights come from the simulator on the CPU, not from the training device: {reason}."
    without = ", ".join(left_out(data.scenario.radar[0]))
    return "device", f"Flights to train on are made on the device, without {without}." if without else ""


@contextmanager
def flights_of(data: Data, recipe: Recipe, here: Ranks, workers: int) -> Iterator[tuple[Flights, Windows]]:
    """Where batches come from, and the held-out windows.

    Raises:
        TrainingError, ScenarioError, LogError, EstimatorError: there is nothing to train on.
    """
    if data.source == SPREAD:
        with spread_flights(
            replace(ALL_RADARS, suite_share=data.suite_share),
            recipe.seed,
            recipe.batch,
            recipe.window,
            here.device,
            here.rank,
            here.world,
        ) as all_:
            yield all_, _held_out_everywhere(data, recipe.seed)
        return
    if data.scenario is None:
        windows = read_flights(data.logs, recipe.window)
        if data.validation:
            held = read_flights(data.validation, HELD_OUT_PLOTS)
        else:
            windows, held = split_by_flight(windows, HELD_OUT_SHARE, recipe.seed)
        yield LoggedFlights(windows, recipe.seed, recipe.batch, here.rank, here.world), _some(held, recipe.seed)
        return
    plan = Endless(data.scenario, recipe.seed, recipe.batch, recipe.window)
    held = _held_out(data, data.scenario, replace(plan, length=HELD_OUT_PLOTS))
    if data.source == "device":
        place = (here.device, here.rank, here.world)
        with device_flights(data.scenario, recipe.seed, recipe.batch, recipe.window, *place) as flights:
            yield flights, held
    else:
        with simulated_flights(plan, here.rank, here.world, workers) as flights:
            yield flights, held


def _held_out(data: Data, scenario: Scenario, plan: Endless) -> Windows:
    """The simulator makes them, also where the training's come from elsewhere."""
    if data.validation:
        return _some(read_flights(data.validation, plan.length), plan.seed)
    if data.suite:
        scenario, seed = load_suite(data.suite, "validation")
        return held_out_flights(replace(plan, scenario=scenario), HELD_OUT, seed)
    return held_out_flights(plan, HELD_OUT)


def _held_out_everywhere(data: Data, seed: int) -> Windows:
    """Of the validation split of each of the suite's scenarios as many, and of each kind of BESIDE_SUITE."""
    if data.validation:
        return _some(read_flights(data.validation, HELD_OUT_PLOTS), seed)
    parts = []
    for number, name in enumerate(list_suite()):
        scenario, its_seed = load_suite(name, "validation")
        plan = Endless(scenario, its_seed, 1, HELD_OUT_PLOTS)
        part = held_out_flights(plan, -(-HELD_OUT // len(list_suite())), its_seed)
        parts.append(replace(part, flight=part.flight % FLIGHTS_APART + number * FLIGHTS_APART))
    for spread in BESIDE_SUITE.values():
        flown = SpreadFlights(spread, HELD_OUT_SEED, len(parts[0]), HELD_OUT_PLOTS, "cpu").windows(0)
        columns = {f.name: getattr(flown, f.name).numpy() for f in fields(flown)}
        parts.append(Windows(**columns, flight=np.arange(len(flown.valid)) + len(parts) * FLIGHTS_APART))
    return Windows.concat(parts)


def settings_of(data: Data) -> list[str]:
    """Names of the settings that `groups_of` tells apart, in their order; none where there is one."""
    return [*list_suite(), *BESIDE_SUITE] if data.source == SPREAD and not data.validation else []


def groups_of(data: Data, held: Windows) -> NDArray[np.int64] | None:
    """To which of several settings each held-out window (N,) belongs, that are to count alike; None for one."""
    return held.flight // FLIGHTS_APART if data.source == SPREAD and not data.validation else None


def _some(windows: Windows, seed: int) -> Windows:
    """HELD_OUT of the windows, drawn by the seed."""
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).permutation(len(windows))
    return windows.take(np.sort(order[:HELD_OUT]))


def sources_trained_on(data: Data, recipe: Recipe) -> Sources:
    """What the tracker learned from, its base filter included."""
    if data.source == SPREAD:
        about: dict[str, str | int | float] = {"kind": "endless simulation", "name": SPREAD, "first_seed": recipe.seed}
        own = Sources((about,))
    elif data.scenario is not None:
        # No seed under which `simulate` would fly the same: those of the blocks are derived from it.
        name = data.suite or data.scenario.name
        entry: dict[str, str | int | float] = {"kind": "endless simulation", "name": name, "first_seed": recipe.seed}
        own = _fixed_sources(data.scenario, Sources((entry,)))
    else:
        readers = [LogReader(path) for path in data.logs]
        own = sources_of(readers)
        for reader in readers:
            reader.close()
    return own.joined(sources_of_tracker(recipe.start or recipe.base))


def _fixed_sources(scenario: Scenario, own: Sources) -> Sources:
    """With the marks of scripted aircraft, which fly the same path under every seed."""
    if not scenario.aircraft:
        return own
    nobody: dict[str, Any] = dict.fromkeys(("traffic", *PATTERNS), ())
    alone = replace(scenario, **nobody)
    truth = [states for _, states in simulate(alone, 0)]
    return replace(own, truth=marks_of_tables(scenario.epoch.timestamp(), [], truth)[0])


def fixed_flights(data: Data) -> str:
    """What a reader should know of scripted aircraft; empty if there are none or others validate."""
    if data.scenario is None or not data.scenario.aircraft or data.validation:
        return ""
    return (
        f"{len(data.scenario.aircraft)} scripted aircraft fly the same path in training and in validation, which "
        "flatters the validation; give other flights with --validation, or random traffic."
    )


def check_validation(data: Data, trained: Sources) -> None:
    """Raises TrainingError where a validation log holds flights that are trained on."""
    for path in data.validation:
        with LogReader(path) as reader:
            if found := clash(trained, reader):
                raise TrainingError(f"{path}: holds flights that are trained on ({found}); validate on others")


def check_logs_of(data: Data, trained: Sources) -> None:
    """Raises TrainingError where a log is no longer what a run was begun with."""
    for path in data.logs:
        with LogReader(path) as reader:
            (entry,) = sources_of_log(reader, marks=False).entries
        if {**entry, "name": ""} not in [{**known, "name": ""} for known in trained.entries]:
            raise TrainingError(f"{path}: is not the log that the run was begun with; put that back, or begin anew")
