"""The training loop: batches in, a learned tracker out, and a state on disk from which a killed run goes on exactly.

Every number that a step depends on is a function of the recipe, the flights and the step's number, or is in the saved
state, so a run by steps that was killed and resumed has the losses of one that was not.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite, log
from time import monotonic
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.residual_inputs import Base, Flown
from ssrtrack.training.distributed import Ranks
from ssrtrack.training.loop_ahead import Batches, Flights
from ssrtrack.training.loop_broken import keep_broken
from ssrtrack.training.loop_folder import PROGRESS, STEPS, RunFolder, writing
from ssrtrack.training.loop_graph import Gradient
from ssrtrack.training.loop_model import LOSSES, estimates, groups, keep_within_bounds, loss_of
from ssrtrack.training.loop_recipe import Recipe
from ssrtrack.training.loop_validation import Errors, HeldOut, errors_of, joined
from ssrtrack.training.resume import read_state, write_state

SAVE_S = 5.0  # between saved states: what a kill costs at most
LOWER = 3.0  # divides the learning rate: advice to a run that broke
LEAST_GAIN = 1e-5  # in the mean logarithm of the ratios: less is rounding
VALIDATIONS = 20  # in a run, unless the recipe says how many steps lie between them
MOST_SHARE = 0.1  # of the time of a run by minutes that validations may take


@dataclass
class Position:
    """Where a run stands; everything beside the tensors that its next step depends on."""

    step: int = 0
    seconds: float = 0.0
    loss: float = float("nan")  # of the last step
    validated: int = -1  # step of the last validation
    validated_s: float = 0.0  # when it began
    went_on_s: float = 0.0  # and was over
    best: float = float("inf")
    best_step: int = -1
    since_best: int = 0  # validations

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Report:
    """One validation: errors on the held-out flights beside the base filter's and the reference's."""

    step: int
    seconds: float
    loss: float
    errors: Errors
    held_out: HeldOut

    def row(self) -> dict[str, Any]:
        """A row of progress.csv."""
        out: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 2), "loss": self.loss}
        three = ("", self.errors), ("base_", self.held_out.base), ("reference_", self.held_out.reference)
        for name, errors in three:
            out |= {
                f"{name}position_rmse_m": errors.position_rmse_m,
                f"{name}velocity_rmse_mps": errors.velocity_rmse_mps,
            }
        return out

    @property
    def ratio(self) -> tuple[float, float]:
        """Position and velocity RMSE over the reference's."""
        ours, other = self.errors, self.held_out.reference
        return (
            ours.position_rmse_m / other.position_rmse_m,
            ours.velocity_rmse_mps / other.velocity_rmse_mps,
        )

    @property
    def score(self) -> float:
        """What the best model has least of: the mean logarithm of the two ratios, over all settings alike."""
        ratios = [r for pair in self.held_out.ratios(self.errors) for r in pair]
        return sum(log(r) if isfinite(r) and r > 0.0 else float("inf") for r in ratios) / len(ratios)


@dataclass(frozen=True)
class Watch:
    """Whom a run tells how it goes; by default nobody. `best` must store the model it is given."""

    step: Callable[[float, float], None] = lambda progress, loss: None
    validated: Callable[[Report], None] = lambda report: None
    best: Callable[[nn.Module, Report], None] = lambda model, report: None
    scalars: Callable[[int, dict[str, float]], None] = lambda step, values: None


@dataclass
class Training:
    """A run at work. `held_out` is needed by the leading process alone.

    On a GPU, replay: gradients as one CUDA graph; ahead: batches are made beside the step before theirs.
    """

    recipe: Recipe
    model: nn.Module
    bank: Bank
    flights: Flights
    held_out: HeldOut | None
    ranks: Ranks
    folder: RunFolder | None = None
    watch: Watch = field(default_factory=Watch)
    at: Position = field(default_factory=Position)
    replay: bool = True
    ahead: bool = True

    def __post_init__(self) -> None:
        self.model.to(self.ranks.device)
        self.optimizer = torch.optim.AdamW(
            groups(self.model, self.recipe.weight_decay),
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=self.ranks.device.type == "cuda",  # one launch for all weights
        )
        self._batches = Batches(self.flights, self.bank, self.ranks.device)
        self._weights = LOSSES[self.recipe.loss]
        self._gradient = Gradient(self.model, self._precision, self.replay, self._weights)
        self._shared: nn.Module = self.model
        if self.ranks.world > 1:
            self._shared = nn.parallel.DistributedDataParallel(self.model)

    def resume(self) -> None:
        """Go back to the saved state of the folder.

        Raises:
            CheckpointError: it is damaged, or not of this model.
        """
        if self.folder is None:
            raise TrainingError("a run without a folder has nothing to resume from; give it one")
        # A run that was killed before its first state begins again.
        if self.folder.state.exists():
            facts = read_state(self.folder.state, self.model, self.optimizer, self.folder.run)
            facts.pop("skipped", None)  # the first states counted steps left out
            self.at = Position(**facts)
        self.ranks.wait()  # nobody may still read what the leader now changes
        if self.ranks.leads:
            self.folder.cut_to(self.at.step, self.at.validated)

    def run(self) -> Report | None:
        """Train to the end of the recipe; returns the last validation (None where another process leads).

        Raises:
            TrainingError: a loss or a gradient is not finite: the folder keeps that batch, the state saved last and the
                best model; or the folder cannot be written.
        """
        recipe, report, begun, saved = self.recipe, None, monotonic() - self.at.seconds, monotonic()
        while True:
            self.at.seconds, done = self._agreed(monotonic() - begun)
            if self._validation_due(self.at.seconds, done):
                report = self._validate() or report
                self.at.validated, self.at.validated_s = self.at.step, self.at.seconds
                self.at.went_on_s, done_now = self._agreed(monotonic() - begun)
                done = done or done_now
            if done:
                break
            progress = recipe.progress(self.at.step, self.at.seconds)
            self.at.loss = self._step(recipe.rate(progress, self.at.step))
            if self.ranks.leads:
                self.watch.step(progress, self.at.loss)
            if monotonic() - saved > SAVE_S:
                self._save()
                saved = monotonic()
        self._save()
        self.ranks.wait()
        return report

    def _agreed(self, seconds: float) -> tuple[float, bool]:
        """Seconds of training, and whether it is over, the same in every process."""
        seconds = self.ranks.from_leader([seconds])[0]
        return seconds, self.recipe.progress(self.at.step, seconds) >= 1.0 or self._stopped()

    def _stopped(self) -> bool:
        return 0 < self.recipe.patience <= self.at.since_best

    def _validation_due(self, seconds: float, done: bool) -> bool:
        if self.at.validated == self.at.step:
            return False
        if done or self.at.validated < 0:
            return True
        recipe = self.recipe
        if recipe.validate_every or recipe.steps:
            return self.at.step % (recipe.validate_every or max(1, recipe.steps // VALIDATIONS)) == 0
        took = self.at.went_on_s - self.at.validated_s
        return seconds >= self.at.went_on_s + max(60.0 * recipe.minutes / VALIDATIONS, took * (1.0 / MOST_SHARE - 1.0))

    def _step(self, rate: float) -> float:
        """One step of the optimiser; returns the loss of the whole batch."""
        flown, base = self._batches.take(self.at.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._differentiated(base, flown)
        length = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if self.ahead:
            self._batches.prepare(self.at.step + 1)  # before the device is waited for
        norm, whole = float(length), float(loss)
        row = {"loss": whole, "gradient_norm": norm, "learning_rate": rate}
        if self.ranks.leads and self.folder is not None:
            self.folder.add(STEPS, {"step": self.at.step + 1} | row)
        if not (isfinite(whole) and isfinite(norm)):  # of all processes together, so all stop here
            raise self._broken(flown, row)
        self.optimizer.step()
        keep_within_bounds(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.at.step += 1
        if self.ranks.leads:
            self.watch.scalars(self.at.step, row)
        return whole

    def _differentiated(self, base: Base, flown: Flown) -> torch.Tensor:
        """Loss of the whole batch; leaves its gradient in the parameters."""
        if self.ranks.world == 1:
            loss, _, found = self._gradient(base, flown)
            for parameter, gradient in zip(self._gradient.parameters, found, strict=True):
                parameter.grad = gradient
            return loss
        with self._precision():
            loss, counted = loss_of(self._shared, base, flown, weights=self._weights)
        plots = float(counted)
        total = self.ranks.total(plots)
        # DDP takes the mean over processes; what is wanted is the mean over plots.
        (loss * (plots * self.ranks.world / max(total, 1.0))).backward()  # type: ignore[no-untyped-call]
        return loss.new_tensor(self.ranks.total(float(loss.detach()) * plots) / max(total, 1.0))

    def _broken(self, flown: Flown, row: dict[str, float]) -> TrainingError:
        """Why the run stops at this batch. Keeps it and the weights it met; the state saved last stays as it is.

        That state is some seconds older: from here a resumed run would meet the same batch with the same weights.
        """
        step, what = self.at.step + 1, "the gradient" if isfinite(row["loss"]) else "the loss"
        said = f"{what} of step {step:,} is not finite (loss {row['loss']:g}, norm of the gradient "
        said += f"{row['gradient_norm']:g}), so the run has stopped before the weights took it. "
        if self.folder is None:
            return TrainingError(said + "Begin anew with a lower learning rate, in a folder, which keeps such a batch")
        try:
            part = self.ranks.rank if self.ranks.world > 1 else None
            file = keep_broken(self.folder, step, self.model, flown, part)
            said += f"Its flights and weights are in {file}; ssrtrack.training.loop_broken.broken_step reads them. "
            if self.ranks.leads:
                with writing(self.folder.path):
                    self.folder.flush()
        except TrainingError as error:  # the other processes wait all the same
            said += f"What it met is not kept: {error}. "
        self.ranks.wait()  # a launcher ends all processes with the first
        lower = f"--resume {self.folder.path} --learning-rate {self.recipe.learning_rate / LOWER:.2g}"
        return TrainingError(said + f"Last good state and best model are untouched; go on from there with {lower}")

    def _precision(self) -> AbstractContextManager[Any]:
        if self.recipe.dtype == "bf16":
            return torch.autocast(self.ranks.device.type, torch.bfloat16)
        return nullcontext()

    def _validate(self) -> Report | None:
        """Errors on the held-out flights; the leader measures, and all learn whether it was a new best."""
        report, better = None, False
        if self.ranks.leads and self.held_out is not None:
            report = self.report_on(self.model)
            better = report.score < self.at.best - LEAST_GAIN
            if better:
                self.at.best, self.at.best_step = report.score, self.at.step
                self.watch.best(self.model, report)
            if self.folder is not None:
                self.folder.add(PROGRESS, report.row())
            names = "position_rmse_over_reference", "velocity_rmse_over_reference"
            self.watch.scalars(self.at.step, dict(zip(names, report.ratio, strict=True)))
            self.watch.validated(report)
        better = bool(self.ranks.from_leader([float(better)])[0])
        self.at.since_best = 0 if better else self.at.since_best + 1
        return report

    def report_on(self, model: nn.Module) -> Report:
        """Errors of a model on the held-out flights, in float32: the precision in which it will be used."""
        if self.held_out is None:
            raise TrainingError("there are no held-out flights to report on; give some")
        parts = []
        with torch.no_grad():
            for flown, base in self.held_out.pieces:
                parts.append(errors_of(estimates(model, base, flown), flown))
        return Report(self.at.step, self.at.seconds, self.at.loss, joined(parts), self.held_out)

    def _save(self) -> None:
        if self.folder is not None and self.ranks.leads:
            with writing(self.folder.path):
                self.folder.flush()
                write_state(self.folder.state, self.model, self.optimizer, self.at.facts(), self.folder.run)
