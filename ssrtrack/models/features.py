"""What a residual model is told of a plot: numbers near 1, free of place, heading and the radar's quality.

Every offset is turned into the heading's axes and divided by a standard deviation, so turning the whole picture about
the radar changes nothing; asinh keeps an outlier's order of size and no more. What has physical meaning in itself
(standard deviations, speed, range, time) comes as a logarithm.

The formulas are over scalars as in `kalman_algebra`: run on tensors here, traced and compiled in `learned_rows`.
"""

from dataclasses import dataclass
from math import radians
from typing import Any

import torch

from ssrtrack.kernels.kalman_algebra import Matrix, Vector, cholesky, maximum, solve_lower, times_vector, where
from ssrtrack.models.residual_frames import Frame, frame_of, turn2, turned2, whitened

Tensor = torch.Tensor
POSITION_M, SPEED_MPS, RANGE_M = 100.0, 10.0, 1e5  # sizes whose logarithm is 0
CRUISE_MPS = 200.0
TURN_RPS = radians(0.5)  # a slow turn
LEAST_GAP_S = 0.1  # below it a change of heading says nothing of a rate
OFFSET_LIMIT = 4.0  # standard deviations; what an outlier may weigh at most
AGE_PLOTS = 100  # an older flight looks as old as this


@dataclass(frozen=True, eq=False)
class Newest:
    """A plot, the base's estimates around it, and the plots before it, by component; any one shape (...).

    predicted, filtered (14, ...): the base before and after the plot; before (2, ...): its velocity after the plot
    before; gap_s: time since that plot. plot (5, ...): x, y, xx, xy, yy; past (H, 5, ...) the plots before it, newest
    first, past_age_s (H, ...) how long ago. modes (M, ...), used, range_m, sin and cos of azimuth; count: plots of the
    flight before this one.
    """

    predicted: Tensor
    filtered: Tensor
    before: Tensor
    gap_s: Tensor
    plot: Tensor
    past: Tensor
    past_age_s: Tensor
    modes: Tensor
    used: Tensor
    range_m: Tensor
    sin_azimuth: Tensor
    cos_azimuth: Tensor
    count: Tensor


def offset_count(history: int) -> int:
    """Length R of the vector of offsets."""
    return 2 + 2 * (history + 1)


def feature_count(modes: int, history: int) -> int:
    """Length F of a feature vector."""
    return 28 + modes + 2 * (history + 1)


@dataclass(frozen=True, eq=False)
class Told:
    """What a model is told: features (..., F); of them the offsets (..., R) as they are, innovation over √S first,
    then the plots' distances from the estimate; the frame of the filtered estimate. Both are float32.
    """

    features: Tensor
    offsets: Tensor
    frame: Frame


def told_of(newest: Newest, nominal_gap_s: float) -> Told:
    """What a model is told of a plot."""
    numbers, distances, here = numbers_of(newest, nominal_gap_s)
    features = torch.stack([v.float() for v in numbers], -1)
    offsets = torch.stack([v.float() for v in distances], -1)
    return Told(features, OFFSET_LIMIT * torch.tanh(offsets / OFFSET_LIMIT), here)


def numbers_of(newest: Any, nominal_gap_s: float) -> tuple[Vector, Vector, Frame]:
    """The features (F), the offsets (R) without their limit, and the frame; of a `Newest` of scalars of any kind."""
    ahead, here = frame_of(newest.predicted), frame_of(newest.filtered)
    started = newest.count > 0
    innovation = [where(started, v, 0.0) for v in _innovation(newest, ahead)]
    residuals = _residuals(newest, here)
    squashed = [
        *innovation,
        *(where(started, v, 0.0) for v in _shift(ahead, here)),
        where(started, _turn_rate(newest) / TURN_RPS, 0.0),
        *residuals,
    ]
    plain = [*_sizes(newest, ahead, here), *_circumstances(newest, here, nominal_gap_s), *newest.modes]
    return [*(v.asinh() for v in squashed), *plain], [*innovation[:2], *residuals], here


def _innovation(newest: Any, ahead: Frame) -> Vector:
    """Innovation over √S and over the plot's own standard deviations, in the predicted heading's axes."""
    x, y, xx, xy, yy = newest.plot
    offset = times_vector(turn2(ahead.east, ahead.north), [x - ahead.mean[0], y - ahead.mean[1]])
    p = newest.predicted
    whole = turned2(ahead, p[4] + xx, p[5] + xy, p[8] + yy)
    return [*solve_lower(cholesky(whole), offset), *solve_lower(_root(ahead, newest.plot), offset)]


def _shift(ahead: Frame, here: Frame) -> Vector:
    """What the plot did to the base's estimate, in the prediction's frame."""
    return whitened(ahead, [b - a for a, b in zip(ahead.mean, here.mean, strict=True)])


def _turn_rate(newest: Any) -> Any:
    """Change of the base's heading since the plot before, rad/s; positive to the left."""
    vx, vy, ux, uy = newest.filtered[2], newest.filtered[3], newest.before[0], newest.before[1]
    across, along = ux * vy - uy * vx, ux * vx + uy * vy
    # From a standing start both are zeros of either sign, which atan2 may take for half a turn.
    moved = (maximum(across, -across) > 0.0) | (maximum(along, -along) > 0.0)
    angle = where(moved, across.atan2(along), 0.0)
    return angle / newest.gap_s.clamp(min=LEAST_GAP_S)


def _residuals(newest: Any, here: Frame) -> Vector:
    """Distances of this plot and those before it from the straight line through the estimate, over their own noise."""
    x, y, vx, vy = here.mean
    turn = turn2(here.east, here.north)
    offset = times_vector(turn, [newest.plot[0] - x, newest.plot[1] - y])
    out = solve_lower(_root(here, newest.plot), offset)
    for j, (plot, age) in enumerate(zip(newest.past, newest.past_age_s, strict=True)):
        known = newest.count > j
        old = _either(known, plot, newest.plot)
        offset = times_vector(turn, [old[0] - (x - vx * age), old[1] - (y - vy * age)])
        out += [where(known, v, 0.0) for v in solve_lower(_root(here, old), offset)]
    return out


def _either(known: Any, a: Any, b: Any) -> Any:
    """The vector a where it is known, else b."""
    if isinstance(a, Tensor):
        return torch.where(known, a, b)
    return [where(known, x, y) for x, y in zip(a, b, strict=True)]


def _root(frame: Frame, plot: Any) -> Matrix:
    """Cholesky factor of a plot's covariance in the heading's axes."""
    return cholesky(turned2(frame, plot[2], plot[3], plot[4]))


def _sizes(newest: Any, ahead: Frame, here: Frame) -> Vector:
    """Logarithms of standard deviations: of the estimate, of the plot, and prediction against plot."""
    G, noise, before = here.factor, _root(here, newest.plot), ahead.factor
    started = newest.count > 0
    compared = [where(started, (before[i][i] / noise[i][i]).log(), 0.0) for i in range(2)]
    return [
        *((G[i][i] / POSITION_M).log() for i in range(2)),
        *((G[i][i] / SPEED_MPS).log() for i in (2, 3)),
        *(G[i + 2][i] / G[i + 2][i].hypot(G[i + 2][i + 2]) for i in range(2)),
        *((noise[i][i] / POSITION_M).log() for i in range(2)),
        (noise[1][0] / noise[1][1]).asinh(),
        *compared,
    ]


def _circumstances(newest: Any, here: Frame, nominal_gap_s: float) -> Vector:
    """Time, speed, range, where the radar lies, whether the base took the plot, age of the flight."""
    gap = newest.gap_s / nominal_gap_s
    speed = newest.filtered[2].hypot(newest.filtered[3])
    sin, cos = newest.sin_azimuth, newest.cos_azimuth
    return [
        (gap + 0.1).log(),
        ((speed + 1.0) / CRUISE_MPS).log(),
        (newest.range_m.clamp(min=1.0) / RANGE_M).log(),
        here.east * sin + here.north * cos,
        here.east * cos - here.north * sin,
        newest.used.double() - 1.0,
        where(newest.count > 0, 0.0, 1.0),
        newest.count.clamp(max=AGE_PLOTS).double().log1p() / 3.0,
    ]
