"""Errors on held-out flights beside those of the classical filters on the same flights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.errors import TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.checkpoint_base import bank_to_dict
from ssrtrack.models.residual_inputs import Base, Flown, base_history

WARMUP_PLOTS = 8  # at a window's start, not scored: as in `evaluate`
PIECE = 128  # windows at a time


@dataclass(frozen=True)
class Errors:
    """Sums over each of N windows: squared errors of position (m²) and velocity (m²/s²), and how many plots."""

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    plots: NDArray[np.float64]

    def of(self, rows: NDArray[np.bool_]) -> "Errors":
        """Those of some windows."""
        return Errors(self.position[rows], self.velocity[rows], self.plots[rows])

    @property
    def position_rmse_m(self) -> float:
        """Over all plots."""
        return float(np.sqrt(self.position.sum() / self.plots.sum()))

    @property
    def velocity_rmse_mps(self) -> float:
        """Over all plots."""
        return float(np.sqrt(self.velocity.sum() / self.plots.sum()))


def scored(flown: Flown) -> torch.Tensor:
    """Which plots (N, T) count: those after the warm-up whose truth is known."""
    after = torch.arange(flown.time_s.shape[1], device=flown.device) >= WARMUP_PLOTS
    return flown.valid & after & torch.isfinite(_truth(flown)).all(-1)


def errors_of(mean: torch.Tensor, flown: Flown) -> Errors:
    """Errors of estimates x, y, vx, vy (N, T, 4) after each plot."""
    mask = scored(flown)
    apart = torch.where(mask[..., None], (mean - _truth(flown)).double() ** 2, 0.0)
    sums = apart.sum(1).cpu().numpy()
    return Errors(sums[:, :2].sum(1), sums[:, 2:].sum(1), mask.sum(1).double().cpu().numpy())


def _truth(flown: Flown) -> torch.Tensor:
    if flown.truth is None:
        raise TrainingError("plots without truth cannot validate a learned tracker; use logs that have truth")
    return flown.truth


def joined(parts: list[Errors]) -> Errors:
    """The windows of several tables, one after the other."""
    return Errors(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("position", "velocity", "plots")))


@dataclass(frozen=True)
class HeldOut:
    """Held-out flights in pieces, with the base filter's history and the errors of base and reference.

    group (N,): settings that windows belong to, which count alike however large their errors are; None: one.
    """

    pieces: list[tuple[Flown, Base]]
    base: Errors
    reference: Errors
    flight: NDArray[np.int64]
    group: NDArray[np.int64] | None = None

    def ratios(self, ours: Errors) -> list[tuple[float, float]]:
        """Position and velocity RMSE over the reference's, of every group."""
        found = []
        for rows in _groups(self.group, len(ours.plots)):
            mine, its = ours.of(rows), self.reference.of(rows)
            position = mine.position_rmse_m / its.position_rmse_m
            found.append((position, mine.velocity_rmse_mps / its.velocity_rmse_mps))
        return found


def held_out(
    flown: Flown, flight: NDArray[np.int64], base: Bank, reference: Bank, group: NDArray[np.int64] | None = None
) -> HeldOut:
    """Run the classical filters over the held-out windows, once.

    Raises:
        TrainingError: there is nothing to score.
    """
    pieces, of_base, of_reference = [], [], []
    for begin in range(0, len(flight), PIECE):
        part = flown.select(slice(begin, begin + PIECE))
        history = base_history(base, part)
        other = history if bank_to_dict(reference) == bank_to_dict(base) else base_history(reference, part)
        pieces.append((part, history))
        of_base.append(errors_of(history.mean, part))
        of_reference.append(errors_of(other.mean, part))
    found = HeldOut(pieces, joined(of_base), joined(of_reference), flight, group)
    if not all(found.base.of(rows).plots.any() for rows in _groups(group, len(flight))):
        raise TrainingError(
            f"the held-out flights have no plot with known truth after their first {WARMUP_PLOTS}; validate on others"
        )
    return found


def _groups(group: NDArray[np.int64] | None, count: int) -> list[NDArray[np.bool_]]:
    return [np.ones(count, bool)] if group is None else [group == number for number in np.unique(group)]


def ratio_interval(
    ours: Errors, theirs: Errors, flight: NDArray[np.int64], seed: int, draws: int = 2000
) -> tuple[float, float, float]:
    """Ratio of position RMSE, ours to theirs, and its 95 % interval from a bootstrap over flights."""
    _, group = np.unique(flight, return_inverse=True)
    sums = np.stack([np.bincount(group, e) for e in (ours.position, theirs.position)])
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    weight = rng.multinomial(sums.shape[1], np.full(sums.shape[1], 1.0 / sums.shape[1]), size=draws)
    ratio = np.sqrt((weight @ sums[0]) / (weight @ sums[1]))
    low, high = np.quantile(ratio, [0.025, 0.975])
    return ours.position_rmse_m / theirs.position_rmse_m, float(low), float(high)
