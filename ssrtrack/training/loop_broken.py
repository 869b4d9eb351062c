"""The step at which a run stopped, for its loss or gradient was not finite: kept, so that it can be taken again."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssrtrack.errors import CheckpointError
from ssrtrack.models.checkpoint import load_run
from ssrtrack.models.residual import ResidualKoss
from ssrtrack.models.residual_inputs import Base, Flown, base_history
from ssrtrack.training.loop_folder import RunFolder

_WEIGHTS = "weights."  # begins their names in the file


def keep_broken(folder: RunFolder, step: int, model: nn.Module, flown: Flown, part: int | None = None) -> Path:
    """Store a batch and the weights it met in the run's folder; returns the file.

    part: the rank whose part of the batch it is, where there are several processes.

    Raises:
        TrainingError: it cannot be written.
    """
    columns = {f.name: getattr(flown, f.name) for f in fields(Flown)}
    weights = {_WEIGHTS + name: value for name, value in model.state_dict().items()}
    return folder.keep_batch(f"{step}" if part is None else f"{step}-{part}", columns | weights)


def broken_step(file: str | Path) -> tuple[ResidualKoss, Base, Flown]:
    """From a run's bad-batch-STEP.npz: the model with the weights of that step, its base's estimates, the flights.

    Raises:
        CheckpointError: it is damaged, or the run's model.json beside it is.
    """
    file = Path(file)
    tracker = load_run(file.parent)
    try:
        with np.load(file) as arrays:
            kept = {name: torch.from_numpy(arrays[name]) for name in arrays}
        names = [name for name in kept if name.startswith(_WEIGHTS)]
        tracker.model.load_state_dict({name.removeprefix(_WEIGHTS): kept.pop(name) for name in names})
        flown = Flown(**kept)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{file}: holds no batch of the run in its folder ({error})") from error
    return tracker.model, base_history(tracker.bank, flown), flown
