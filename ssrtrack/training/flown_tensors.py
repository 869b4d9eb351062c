"""Windows of flights as tensors on the training device."""

from dataclasses import fields

import torch

from ssrtrack.models.residual_inputs import Flown
from ssrtrack.training.flown_windows import Windows


def to_flown(windows: Windows, device: torch.device | str = "cpu") -> Flown:
    """The windows on a device; float64, as positions of a few hundred kilometres need it to the centimetre."""
    pinned = torch.device(device).type == "cuda"

    def moved(name: str) -> torch.Tensor:
        column = torch.from_numpy(getattr(windows, name))
        # From pinned memory the copy runs beside the step before.
        return column.pin_memory().to(device, non_blocking=True) if pinned else column.to(device)

    return Flown(**{f.name: moved(f.name) for f in fields(Flown)})
