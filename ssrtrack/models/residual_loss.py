"""What a residual model is trained for: the likelihood of the truth, and small squared errors."""

from dataclasses import dataclass
from math import log, pi

import torch

from ssrtrack.errors import TrainingError
from ssrtrack.kernels.kalman_algebra import Vector, dot, solve_lower
from ssrtrack.models.residual import Correction, Outputs
from ssrtrack.models.residual_frames import whitened
from ssrtrack.models.residual_inputs import Flown

Tensor = torch.Tensor
FAR = 60.0  # squared distance (χ², 4 degrees of freedom) beyond which the likelihood grows as a root: lost flights


@dataclass(frozen=True)
class LossWeights:
    """nll: of the truth under the filtered Gaussian; position, velocity: squared errors over the base's own variance;
    ahead: all of this for the prediction of each plot's time. warmup_plots of each flight do not count.
    """

    nll: float = 1.0
    position: float = 1.0
    velocity: float = 1.0
    ahead: float = 0.25
    warmup_plots: int = 3


@dataclass(frozen=True, eq=False)
class Loss:
    """total, to be differentiated: a mean over `count` plots; parts by name, detached."""

    total: Tensor
    count: Tensor
    parts: dict[str, Tensor]


def residual_loss(outputs: Outputs, flown: Flown, weights: LossWeights) -> Loss:
    """Mean loss over the plots after the warm-up whose truth is known.

    Raises:
        TrainingError: no truth.
    """
    if flown.truth is None:
        raise TrainingError("plots without truth cannot train a learned tracker; simulate, or use logs that have truth")
    truth = flown.truth.permute(2, 1, 0).double()
    count = flown.valid.T.cumsum(0)
    scored = flown.valid.T & (count > max(weights.warmup_plots, 1)) & torch.isfinite(truth).all(0)
    number = scored.sum()
    here = _terms(outputs.filtered, truth, scored)
    ahead = _terms(outputs.predicted, truth, scored)
    parts = {**here, **{f"ahead_{name}": value for name, value in ahead.items()}}
    means = {name: torch.where(scored, value, 0.0).sum() / number.clamp(min=1) for name, value in parts.items()}
    own = {"nll": weights.nll, "position": weights.position, "velocity": weights.velocity}
    scale = {**own, **{f"ahead_{name}": weights.ahead * weight for name, weight in own.items()}}
    total = torch.stack([scale[name] * means[name] for name in scale]).sum()
    return Loss(total, number, {name: value.detach() for name, value in means.items()})


def _terms(said: Correction, truth: Tensor, scored: Tensor) -> dict[str, Tensor]:
    """Loss of every estimate (T, N): NLL in nats (of the whitened truth) and squared errors."""
    frame = said.frame
    target = whitened(frame, [torch.where(scored, t - m, 0.0) for t, m in zip(truth, frame.mean, strict=True)])
    off = [t.float() - u for t, u in zip(target, said.shift.unbind(-1), strict=True)]
    white = solve_lower(said.factor(), off)
    distance = dot(white, white)
    distance = torch.where(distance > FAR, 2.0 * (FAR * distance.clamp(min=FAR)).sqrt() - FAR, distance)
    nll = 0.5 * distance + said.log_diagonal.sum(-1) + 2.0 * log(2.0 * pi)
    G = [[v.float() if isinstance(v, torch.Tensor) else v for v in row] for row in frame.factor]
    return {"nll": nll, "position": _share(G[:2], off), "velocity": _share(G[2:], off)}


def _share(rows: list[Vector], off: Vector) -> Tensor:
    """Squared error of two components over the base's variance of both."""
    squared, variance = [], []
    for row in rows:
        error = dot(row, off)
        squared.append(error * error)
        variance.append(dot(row, row))
    share: Tensor = (squared[0] + squared[1]) / (variance[0] + variance[1])
    return share
