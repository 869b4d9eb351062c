"""A learned tracker from a scenario or logs to a run folder: what `ssrtrack train koss` does."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ssrtrack import __version__
from ssrtrack.errors import CheckpointError, LogError, TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.checkpoint_base import bank_from_dict, bank_to_dict
from ssrtrack.models.learned import LearnedEstimator
from ssrtrack.models.load import load_tracker
from ssrtrack.models.provenance import Sources
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_inputs import base_form
from ssrtrack.training.dataset import check_logs
from ssrtrack.training.distributed import Ranks, ranks
from ssrtrack.training.flown_tensors import to_flown
from ssrtrack.training.flown_windows import Windows
from ssrtrack.training.loop import Report, Training, Watch
from ssrtrack.training.loop_data import (
    Data,
    check_logs_of,
    check_validation,
    chosen_source,
    fixed_flights,
    flights_of,
    groups_of,
    sources_trained_on,
)
from ssrtrack.training.loop_folder import (
    CONFIG,
    RunFolder,
    check_free,
    digest_of,
    new_folder,
    open_folder,
    sole_use,
    write_json,
    writing,
)
from ssrtrack.training.loop_model import new_model
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_store import Store
from ssrtrack.training.loop_telling import SILENT, Telling
from ssrtrack.training.loop_validation import held_out, ratio_interval

FORMAT = "ssrtrack-run-2"
RATE = "learning_rate"  # in config.json, of a run that goes on at another than its recipe's
REFERENCE = "imm"  # the tuned IMM, beside which every validation stands


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
        TrainingError: nothing to train on, validation flights that are trained on, a folder that holds something, no
            such device, divergence.
        ScenarioError, LogError, EstimatorError: what was named cannot be used.
    """
    # What cannot be done is found out before anything is written.
    filters = _base(recipe), _bank(REFERENCE)
    _begun(recipe, filters[0], 1.0)
    check_logs([*data.logs, *data.validation])
    check_free(output, force=force)
    sources = sources_trained_on(data, recipe)
    check_validation(data, sources)
    with ranks(device) as here:
        source, remark = chosen_source(data, here.device)
        data = replace(data, source=source)
        config = {
            "format": FORMAT, "software_version": __version__, "command": command, "created": created,
            "recipe": recipe.to_dict(), "data": data.to_dict(), "sources": sources.to_list(),
            "base": bank_to_dict(filters[0]), "reference": bank_to_dict(filters[1]),
        }  # fmt: skip
        if here.leads:
            for line in filter(None, (remark, fixed_flights(data))):
                telling.line(line)
        run = _Run(data, recipe, sources, *filters, RunFolder(output, digest_of(config)), created, _New(config, force))
        return _trained(run, here, workers, telling)


def resume_koss(
    output: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    telling: Telling = SILENT,
    created: str = "",
    learning_rate: float | None = None,
) -> Outcome:
    """Go on with a run that was stopped, from its last saved state.

    Args:
        learning_rate: from here on, for a run that diverged; by default what it was.

    Raises:
        TrainingError: there is no run, or its logs have changed; or as `train_koss`. CheckpointError: what is there is
            damaged or of another version.
    """
    folder, config = open_folder(output)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{output}: its config has format {config.get('format')!r}, expected {FORMAT!r}; go on with the version "
            "that began it"
        )
    data, recipe = Data.from_dict(config.get("data")), Recipe.from_dict(config.get("recipe"))
    # Beside the recipe, which stays as the run was begun: by it a saved state is known to be of this run.
    changed = config | ({} if learning_rate is None else {RATE: learning_rate})
    recipe = replace(recipe, learning_rate=changed.get(RATE, recipe.learning_rate))
    # The filters as they were: what "imm" means may have been tuned anew since.
    filters = bank_from_dict(config.get("base")), bank_from_dict(config.get("reference"))
    sources = _sources(folder, config.get("sources"))
    check_logs_of(data, sources)
    with ranks(device) as here:
        run = _Run(data, recipe, sources, *filters, folder, created, changed=changed if changed != config else None)
        return _trained(run, here, workers, telling)


def _sources(folder: RunFolder, tables: Any) -> Sources:
    if not isinstance(tables, list):
        raise CheckpointError(f"{folder.path}: its config.json does not say what is trained on; begin the run anew")
    try:
        return Sources.from_list(tables, str(folder.path))
    except LogError as error:
        raise CheckpointError(str(error)) from error


@dataclass(frozen=True)
class _New:
    """What a run that begins writes first."""

    config: dict[str, Any]
    force: bool


@dataclass(frozen=True)
class _Run:
    """What of a run does not depend on where it is computed."""

    data: Data
    recipe: Recipe
    sources: Sources
    bank: Bank
    reference: Bank
    folder: RunFolder
    created: str
    new: _New | None = None  # None: it goes on
    changed: dict[str, Any] | None = None  # config.json, where it does not go on as it was


def _trained(it: _Run, here: Ranks, workers: int, telling: Telling) -> Outcome:
    data, recipe, bank, folder = it.data, it.recipe, it.bank, it.folder
    with ExitStack() as stack:
        flights, held = stack.enter_context(flights_of(data, recipe, here, workers))
        told = to_flown(held, here.device), held.flight, bank, it.reference, groups_of(data, held)
        there = held_out(*told) if here.leads else None
        model = _begun(recipe, bank, _usual_gap_s(held))
        if it.new is not None and here.leads:  # only now is it known that there are flights
            new_folder(folder.path, it.new.config, force=it.new.force)
        if here.leads:
            stack.enter_context(sole_use(folder.path))
        store = Store(folder.path, bank, recipe.to_dict() | {"created": it.created}, it.sources)
        watch = Watch(telling.step, lambda report: telling.line(_line(report)), store.keep, telling.scalars)
        run = Training(recipe, model, bank, flights, there, here, folder, watch)
        if it.new is None:
            run.resume()
            if it.changed is not None and here.leads:
                with writing(folder.path):
                    write_json(folder.path / CONFIG, it.changed)
        run.run()
        if there is None:
            return Outcome()
        # What is on disk is what others will use, so that is what the summary is about.
        report = run.report_on(store.kept(here.device))
    return Outcome(report, ratio_interval(report.errors, there.reference, there.flight, recipe.seed))


def _start(text: str) -> LearnedEstimator:
    tracker = load_tracker(text)
    if not isinstance(tracker, LearnedEstimator):
        raise TrainingError(f"start {text!r} is no learned tracker; give koss, gka or the folder of a run")
    return tracker


def _base(recipe: Recipe) -> Bank:
    return _start(recipe.start).bank if recipe.start else _bank(recipe.base)


def _begun(recipe: Recipe, bank: Bank, usual_gap_s: float) -> ResidualKoss:
    """The model before its first step."""
    if recipe.start:
        return _start(recipe.start).model.train().requires_grad_()
    return new_model(recipe.size, bank, usual_gap_s, recipe.seed, recipe.network)


def _bank(text: str) -> Bank:
    estimator = load_tracker(text)
    if not isinstance(estimator, Bank):
        raise TrainingError(
            f"base {text!r} is no Kalman filter or IMM; a learned tracker corrects one, such as imm or kf"
        )
    base_form(estimator)
    return estimator


def _usual_gap_s(windows: Windows) -> float:
    gaps = np.diff(windows.time_s, axis=1)
    return float(np.median(gaps[np.isfinite(gaps)]))


def _line(report: Report) -> str:
    p, v = report.ratio
    e = report.errors
    loss = f", loss {report.loss:.3f}" if report.step else ""  # before the first step there is none
    each = report.held_out.ratios(e)
    loss += "; by setting " + ", ".join(f"{a:.3f}/{b:.3f}" for a, b in each) if len(each) > 1 else ""
    return (
        f"step {report.step:,}, {report.seconds:.0f} s: position {e.position_rmse_m:.1f} m "
        f"({p:.3f} of the tuned IMM), velocity {e.velocity_rmse_mps:.2f} m/s ({v:.3f}){loss}"
    )
