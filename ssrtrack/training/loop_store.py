"""Where a run leaves its model, as `evaluate -t RUN` wants it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssrtrack.models.provenance import Sources


def store(
    path: Path, model: nn.Module, base: str, training: dict[str, Any], sources: Sources, scores: dict[str, Any]
) -> None:
    """Leave a model where `evaluate` finds it."""


def stored(path: Path, device: torch.device) -> nn.Module:
    """The model that `store` left."""
