"""What the loop asks of a model: to be made, its loss on a batch, its estimates, its weights within their bounds."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.residual import Outputs, ResidualKoss
from ssrtrack.models.residual_blocks import MOST_OCTETS, fitted, memory_octets, parameters_of
from ssrtrack.models.residual_config import SIZES, ResidualConfig
from ssrtrack.models.residual_inputs import Base, Flown
from ssrtrack.models.residual_loss import LossWeights, residual_loss

WEIGHTS = LossWeights()
# By the name that a recipe has for it.
LOSSES = {
    "nll+mse": WEIGHTS,
    "nll": LossWeights(position=0.0, velocity=0.0),
    "mse": LossWeights(nll=0.0),
}
SPARED = ("log_rate", "b1")  # of two dimensions, and no matrices: a row for each state or head
NO_CHANGE: Mapping[str, Any] = {}


def config_of(size: str, network: Mapping[str, Any] = NO_CHANGE) -> ResidualConfig:
    """The shape of a size with changes by `ResidualConfig`'s names.

    Another block than KOSS is made as large as KOSS at that width, so that a size means a number of weights; and what
    it remembers of a track, if that is a choice, is as much as a track's state may hold.

    Raises:
        TrainingError: no such size, a change that is none, or a state that is too large for a tracker.
        CheckpointError, EstimatorError: a value out of range, no such block or option.
    """
    if size not in SIZES:
        raise TrainingError(f"size is {size!r}, expected one of {', '.join(SIZES)}")
    if unknown := sorted(set(network) - {f.name for f in fields(ResidualConfig)}):
        raise TrainingError(f"network names {unknown}, expected some of {[f.name for f in fields(ResidualConfig)]}")
    config = replace(SIZES[size], **network)
    # The heads of another block's model need not part its width.
    head = next(h for h in range(min(config.head, config.width), 0, -1) if config.width % h == 0)
    plain = {name: getattr(config, name) for name in ("width", "blocks", "states", "rank")}
    config = fitted(config, parameters_of(replace(SIZES[size], **plain, head=head)))
    if (octets := memory_octets(config)) > MOST_OCTETS:
        raise TrainingError(
            f"a track's state would take {octets:,} octets, at most {MOST_OCTETS:,} may be; take fewer layers, heads "
            "or states, or less width"
        )
    return config


def new_model(
    size: str, bank: Bank, usual_gap_s: float, seed: int, network: Mapping[str, Any] = NO_CHANGE
) -> ResidualKoss:
    """A model at its start, where it equals the base filter; its weights follow from the seed.

    Raises:
        As `config_of`.
    """
    config = config_of(size, network)
    modes = len(bank.motions) if len(bank.motions) > 1 else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResidualKoss(replace(config, modes=modes, nominal_gap_s=usual_gap_s))


def loss_of(
    model: nn.Module, base: Base, flown: Flown, whole: bool | None = None, weights: LossWeights = WEIGHTS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of a batch, and over how many plots; `whole` as the model has it."""
    outputs: Outputs = model(base, flown, whole)
    loss = residual_loss(outputs, flown, weights)
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
