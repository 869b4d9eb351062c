"""Where a run leaves its best model: in the run's own folder, as `evaluate -t RUN` wants it."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssrtrack.errors import TrainingError
from ssrtrack.filters.bank import Bank
from ssrtrack.models.checkpoint import load_run, save_run
from ssrtrack.models.provenance import Sources
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.training.loop import Report


@dataclass(frozen=True)
class Store:
    """Keeps models in the folder `path`, each in place of the one before."""

    path: Path
    bank: Bank
    training: dict[str, Any]
    sources: Sources

    def keep(self, model: nn.Module, report: Report) -> None:
        """Write a model and its scores on the held-out flights."""
        if not isinstance(model, ResidualKoss):
            raise TrainingError(f"a {type(model).__name__} cannot be stored, expected a ResidualKoss")
        scores = {name: value for name, value in report.row().items() if isfinite(value)}
        save_run(self.path, model, self.bank, training=self.training, sources=self.sources.to_list(), scores=scores)

    def kept(self, device: torch.device) -> nn.Module:
        """The model in the folder.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        return load_run(self.path, device).model
