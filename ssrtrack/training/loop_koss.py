"""A learned tracker from a scenario or logs to a run folder: what `ssrtrack train koss` does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack import __version__
from ssrtrack.errors import CheckpointError, TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.checkpoint_base import bank_from_dict, bank_to_dict
from ssrtrack.models.load import load_tracker, sources_of_tracker
from ssrtrack.models.provenance import Sources, sources_of
from ssrtrack.models.residual_inputs import base_form
from ssrtrack.simulators.scenario import load_scenario, parse_scenario
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.suite import is_suite, load_suite
from ssrtrack.training.dataset import LoggedFlights, check_logs, read_flights, split_by_flight
from ssrtrack.training.distributed import Ranks, ranks
from ssrtrack.training.flown_simulated import Endless, held_out_flights, simulated_flights
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.flown_windows import Windows
from ssrtrack.training.loop import Flights, Report, Training, Watch
from ssrtrack.training.loop_folder import RunFolder, new_folder, open_folder
from ssrtrack.training.loop_model import new_model
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_store import Store
from ssrtrack.training.loop_telling import SILENT, Telling
from ssrtrack.training.loop_validation import held_out, ratio_interval

FORMAT = "ssrtrack-run-1"
REFERENCE = "imm"  # the tuned IMM, beside which every validation stands
HELD_OUT = 256  # windows of validation
HELD_OUT_PLOTS = 200  # in each of them: longer than a training window, as flights in `evaluate` are
HELD_OUT_SHARE = 0.1  # of the flights of logs, where no others are named


@dataclass(frozen=True, kw_only=True)
class Data:
    """What to train on: a scenario, simulated without end, or logs. validation: logs of held-out flights, if any."""

    scenario: Scenario | None = None
    suite: str = ""  # suite:NAME, if the scenario is one of the suite
    logs: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: with the scenario's text, so that a changed file does not change a resumed run."""
        s = self.scenario
        scenario = {} if s is None else {"name": s.name, "text": s.text}
        return {"scenario": scenario, "suite": self.suite, "logs": self.logs, "validation": self.validation}

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
            return Data(scenario=scenario, suite=str(values["suite"]), logs=logs, validation=validation)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the run's data are damaged ({error!r}); begin the run anew") from error


def data_of(scenario: str, logs: list[Path], validation: list[Path]) -> Data:
    """What the caller names, checked.

    Raises:
        TrainingError: neither a scenario nor logs, or both. ScenarioError: no such scenario.
    """
    if bool(scenario) == bool(logs):
        raise TrainingError("give either a scenario to simulate (-s) or logs (-l) to train on")
    files = tuple(str(p.absolute()) for p in validation)
    if logs:
        return Data(logs=tuple(str(p.absolute()) for p in logs), validation=files)
    if is_suite(scenario):
        return Data(scenario=load_suite(scenario, "train")[0], suite=scenario, validation=files)
    return Data(scenario=load_scenario(scenario), validation=files)


@dataclass(frozen=True)
class Outcome:
    """The end of a run: the best model's errors beside the base's and the reference's, with 95 % intervals.

    report is None where another process leads; ratios are of position RMSE, with the ends of their interval.
    """

    report: Report | None = None
    to_reference: tuple[float, float, float] = (nan, nan, nan)

    @property
    def summary(self) -> str:
        """In words; empty where another process leads."""
        if self.report is None:
            return ""
        ratio, low, high = self.to_reference
        ours, other = self.report.errors, self.report.held_out.reference
        return (
            f"On held-out flights, position RMSE {ours.position_rmse_m:.1f} m, the tuned IMM's "
            f"{other.position_rmse_m:.1f} m: {ratio:.3f} of it (95 % interval {low:.3f} to {high:.3f}). Velocity RMSE "
            f"{ours.velocity_rmse_mps:.2f} m/s to {other.velocity_rmse_mps:.2f} m/s."
        )


def train_koss(
    data: Data,
    recipe: Recipe,
    output: Path,
    *,
    force: bool = False,
    device: str = "auto",
    workers: int = 1,
    telling: Telling = SILENT,
    command: str = "",
    created: str = "",
) -> Outcome:
    """Train a learned tracker and leave it in the folder `output`; `evaluate -t output` uses it.

    Args:
        force: replace a run that is in the folder.
        device: auto, cpu, cuda or cuda:N. Under torchrun every process takes the GPU of its local rank.
        workers: processes that simulate ahead, per training process; 0 for none.
        command, created: for the checkpoint's provenance.

    Raises:
        TrainingError: nothing to train on, a folder that holds something, no such device, divergence.
        ScenarioError, LogError, EstimatorError: what was named cannot be used.
    """
    # What cannot be done is found out before anything is written.
    filters = _bank(recipe.base), _bank(REFERENCE)
    new_model(recipe.size, filters[0], 1.0, 0)
    check_logs([*data.logs, *data.validation])
    with ranks(device) as here:
        folder = RunFolder(output)
        if here.leads:
            config = {
                "format": FORMAT, "software_version": __version__, "command": command, "created": created,
                "recipe": recipe.to_dict(), "data": data.to_dict(),
                "base": bank_to_dict(filters[0]), "reference": bank_to_dict(filters[1]),
            }  # fmt: skip
            folder = new_folder(output, config, force=force)
        return _trained(_Run(data, recipe, *filters, folder, False, created), here, workers, telling)


def resume_koss(
    output: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    telling: Telling = SILENT,
    created: str = "",
) -> Outcome:
    """Go on with a run that was stopped, from its last saved state.

    Raises:
        TrainingError: there is no run. CheckpointError: what is there is damaged or of another version.
    """
    folder, config = open_folder(output)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{output}: its config has format {config.get('format')!r}, expected {FORMAT!r}; go on with the version "
            "that began it"
        )
    data, recipe = Data.from_dict(config.get("data")), Recipe.from_dict(config.get("recipe"))
    # The filters as they were: what "imm" means may have been tuned anew since.
    filters = bank_from_dict(config.get("base")), bank_from_dict(config.get("reference"))
    with ranks(device) as here:
        return _trained(_Run(data, recipe, *filters, folder, True, created), here, workers, telling)


@dataclass(frozen=True)
class _Run:
    """What of a run does not depend on where it is computed."""

    data: Data
    recipe: Recipe
    bank: Bank
    reference: Bank
    folder: RunFolder
    resumed: bool
    created: str


def _trained(it: _Run, here: Ranks, workers: int, telling: Telling) -> Outcome:
    data, recipe, bank, folder = it.data, it.recipe, it.bank, it.folder
    with _flights(data, recipe, here, workers) as (flights, held):
        there = held_out(to_flown(held, here.device), held.flight, bank, it.reference) if here.leads else None
        model = new_model(recipe.size, bank, _usual_gap_s(flights.sample), recipe.seed)
        store = Store(folder.path, bank, recipe.to_dict() | {"created": it.created}, _sources(data, recipe))
        watch = Watch(telling.step, lambda report: telling.line(_line(report)), store.keep, telling.scalars)
        run = Training(recipe, model, bank, flights, there, here, folder, watch)
        if it.resumed:
            run.resume()
        run.run()
        if there is None:
            return Outcome()
        # What is on disk is what others will use, so that is what the summary is about.
        report = run.report_on(store.kept(here.device))
    return Outcome(report, ratio_interval(report.errors, there.reference, there.flight, recipe.seed))


def _bank(text: str) -> Bank:
    estimator = load_tracker(text)
    if not isinstance(estimator, Bank):
        raise TrainingError(
            f"base {text!r} is no Kalman filter or IMM; a learned tracker corrects one, such as imm or kf"
        )
    base_form(estimator)
    return estimator


@contextmanager
def _flights(data: Data, recipe: Recipe, here: Ranks, workers: int) -> Iterator[tuple[Flights, Windows]]:
    """Where batches come from, and the held-out windows."""
    if data.scenario is None:
        windows = read_flights(data.logs, recipe.window)
        if data.validation:
            held = read_flights(data.validation, HELD_OUT_PLOTS)
        else:
            windows, held = split_by_flight(windows, HELD_OUT_SHARE, recipe.seed)
        yield LoggedFlights(windows, recipe.seed, recipe.batch, here.rank, here.world), _some(held, recipe.seed)
        return
    plan = Endless(data.scenario, recipe.seed, recipe.batch, recipe.window)
    with simulated_flights(plan, here.rank, here.world, workers) as flights:
        longer = replace(plan, length=HELD_OUT_PLOTS)
        if data.validation:
            held = _some(read_flights(data.validation, HELD_OUT_PLOTS), recipe.seed)
        elif data.suite:
            scenario, seed = load_suite(data.suite, "validation")
            held = held_out_flights(replace(longer, scenario=scenario), HELD_OUT, seed)
        else:
            held = held_out_flights(longer, HELD_OUT)
        yield flights, held


def _some(windows: Windows, seed: int) -> Windows:
    """HELD_OUT of the windows, drawn by the seed."""
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).permutation(len(windows))
    return windows.take(np.sort(order[:HELD_OUT]))


def _usual_gap_s(windows: Windows) -> float:
    gaps = np.diff(windows.time_s, axis=1)
    return float(np.median(gaps[np.isfinite(gaps)]))


def _sources(data: Data, recipe: Recipe) -> Sources:
    """What the tracker learned from, its base filter included."""
    if data.scenario is not None:
        # No seed under which `simulate` would fly the same: those of the blocks are derived from it.
        name = data.suite or data.scenario.name
        entry: dict[str, str | int | float] = {"kind": "endless simulation", "name": name, "first_seed": recipe.seed}
        own = Sources((entry,))
    else:
        readers = [LogReader(path) for path in data.logs]
        own = sources_of(readers)
        for reader in readers:
            reader.close()
    return own.joined(sources_of_tracker(recipe.base))


def _line(report: Report) -> str:
    p, v = report.ratio
    e = report.errors
    return (
        f"step {report.step:,}, {report.seconds:.0f} s: position {e.position_rmse_m:.1f} m "
        f"({p:.3f} of the tuned IMM), velocity {e.velocity_rmse_mps:.2f} m/s ({v:.3f}), loss {report.loss:.3f}"
    )
