"""What the loop asks of a model: to be made, its loss on a batch, its estimates, its weights within their bounds."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.residual import Outputs, ResidualKoss
from ssrtrack.models.residual_config import SIZES
from ssrtrack.models.residual_inputs import Base, Flown
from ssrtrack.models.residual_loss import LossWeights, residual_loss

WEIGHTS = LossWeights()
SPARED = ("log_rate", "b1")  # of two dimensions, and no matrices: a row for each state or head


def new_model(size: str, bank: Bank, usual_gap_s: float, seed: int) -> ResidualKoss:
    """A model at its start, where it equals the base filter; its weights follow from the seed.

    Raises:
        TrainingError: no such size.
    """
    if size not in SIZES:
        raise TrainingError(f"size is {size!r}, expected one of {', '.join(SIZES)}")
    modes = len(bank.motions) if len(bank.motions) > 1 else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualKoss(replace(SIZES[size], modes=modes, nominal_gap_s=usual_gap_s))


def loss_of(model: nn.Module, base: Base, flown: Flown, whole: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of a batch, and over how many plots; `whole` as the model has it."""
    outputs: Outputs = model(base, flown, whole)
    loss = residual_loss(outputs, flown, WEIGHTS)
    return loss.total, loss.count


def estimates(model: nn.Module, base: Base, flown: Flown) -> torch.Tensor:
    """x, y, vx, vy (N, T, 4) after each plot."""
    outputs: Outputs = model(base, flown)
    return outputs.mean


def groups(model: nn.Module, decay: float) -> Iterator[dict[str, Any]]:
    """Weights for AdamW: matrices decay; biases, scales and time constants do not."""
    for wanted, weight in ((True, decay), (False, 0.0)):
        found = [p for name, p in model.named_parameters() if (p.ndim >= 2 and not name.endswith(SPARED)) is wanted]
        if found:
            yield {"params": found, "weight_decay": weight}


def keep_within_bounds(model: nn.Module) -> None:
    """After every step of the optimiser: the gains' weights back below their spectral cap."""
    if isinstance(model, ResidualKoss):
        model.project_()
