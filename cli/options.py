"""Options that `evaluate` and `batch` share: one wording, one check."""

from math import inf, radians
from typing import Annotated

import typer

Identity = Annotated[str, typer.Option(help="Plots to flights by: truth, address, or auto.")]
Warmup = Annotated[int, typer.Option(help="Plots at each flight's start that are not scored.", min=1)]
SigmaRange = Annotated[float | None, typer.Option(help="Range sigma in m, for plots that state none.")]
SigmaAzimuth = Annotated[float | None, typer.Option(help="Azimuth sigma in degrees, for plots that state none.")]
Gap = Annotated[float, typer.Option(help="Silence in s after which a new flight begins.", min=1.0)]
Seed = Annotated[int, typer.Option(help="Seed of the bootstrap intervals.", min=0)]
ForceTrainingData = Annotated[
    bool, typer.Option("--force-training-data", help="Score trackers also on logs that they were trained on.")
]
Backend = Annotated[
    str, typer.Option(help="What computes the trackers: auto, numba, torch, triton or filterpy (the reference).")
]


def azimuth_sigma_rad(sigma_range: float | None, sigma_azimuth: float | None) -> float | None:
    """The azimuth sigma in radians.

    Raises:
        typer.BadParameter: one of the two is no number above 0.
    """
    for name, sigma in (("--sigma-range", sigma_range), ("--sigma-azimuth", sigma_azimuth)):
        if sigma is not None and not 0.0 < sigma < inf:
            raise typer.BadParameter(f"{name} is {sigma:g}, expected a number above 0")
    return None if sigma_azimuth is None else radians(sigma_azimuth)
