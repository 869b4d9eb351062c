"""The frame in which a residual model sees a base estimate: along its heading, in units of its own uncertainty.

An estimate x, P has the frame W = Rᵀ G: R turns the first axis of position and of velocity along its velocity,
G is the lower Cholesky factor of R P Rᵀ, so W Wᵀ = P. In it the base's error has zero mean and unit covariance
if the base is right, wherever the aircraft flies, whatever its heading and its radar's quality.

Everything is by component: a scalar is a tensor of any shape (or what `learned_rows` traces), estimates are rows
(14, ...) of x, y, vx, vy and the upper triangle of their covariance.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ssrtrack.kernels.kalman_algebra import (
    Matrix,
    Vector,
    cholesky,
    congruence,
    dot,
    product,
    solve_lower,
    symmetric,
    times_vector,
    transposed,
    where,
)
from ssrtrack.models.residual_inputs import UPPER

Tensor = torch.Tensor
STANDING_MPS = 1e-6  # below this an estimate has no heading
# What stands where there is no estimate: north at 1 m/s with unit covariance.
NOWHERE = (0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Frame:
    """mean x, y, vx, vy; the heading's unit vector (east, north); G as rows; all of one shape."""

    mean: Vector
    east: Tensor
    north: Tensor
    factor: Matrix


def where_known(rows: Tensor, known: Tensor) -> Tensor:
    """Estimates (14, ...) with NOWHERE where they are not known (...)."""
    nowhere = constants(NOWHERE, rows).reshape(-1, *[1] * known.dim())
    return torch.where(known, rows, nowhere)


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """These numbers beside `like`, in its precision; not to be written to."""
    return _constants(values, like.dtype, like.device)


@cache
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once: each time anew, the device would have to be waited for.
    return torch.tensor(values, dtype=dtype, device=device)


def frame_of(rows: Any) -> Frame:
    """The frame of estimates (14, ...); one that stands still heads away from the origin."""
    x, y, vx, vy = rows[:4]
    moving = vx * vx + vy * vy > STANDING_MPS**2
    east, north = where(moving, vx, x), where(moving, vy, y)
    length = east.hypot(north)
    placed = length > 0.0
    east = where(placed, east / length, 0.0)
    north = where(placed, north / length, 1.0)
    turned = congruence(turn4(east, north), [[rows[4 + k] for k in row] for row in UPPER], ZERO)
    return Frame([x, y, vx, vy], east, north, cholesky(turned))


ZERO: Matrix = [[0.0] * 4 for _ in range(4)]


def turn2(east: Tensor, north: Tensor) -> Matrix:
    """R (2, 2): components along the heading and to its left."""
    return [[east, north], [-north, east]]


def turn4(east: Tensor, north: Tensor) -> Matrix:
    """R (4, 4), of position and velocity alike."""
    return [[east, north, 0.0, 0.0], [-north, east, 0.0, 0.0], [0.0, 0.0, east, north], [0.0, 0.0, -north, east]]


def turned2(frame: Frame, xx: Tensor, xy: Tensor, yy: Tensor) -> Matrix:
    """A position covariance in the heading's axes."""
    return congruence(turn2(frame.east, frame.north), [[xx, xy], [xy, yy]], [[0.0, 0.0], [0.0, 0.0]])


def whitened(frame: Frame, offset: Vector) -> Vector:
    """W⁻¹ d for offsets d of x, y, vx, vy from the frame's mean."""
    return solve_lower(frame.factor, times_vector(turn4(frame.east, frame.north), offset))


def whitening_of_move(before: Frame, after: Frame, dt_s: Tensor) -> Matrix:
    """W_after⁻¹ F(dt) W_before: how an offset in one frame looks in another after straight flight."""
    east, north = before.east, before.north
    back = [[east, -north, 0.0, 0.0], [north, east, 0.0, 0.0], [0.0, 0.0, east, -north], [0.0, 0.0, north, east]]
    spread = product(back, before.factor)
    moved = [[spread[i][j] + (dt_s * spread[i + 2][j] if i < 2 else 0.0) for j in range(4)] for i in range(4)]
    columns = [whitened(after, [moved[i][j] for i in range(4)]) for j in range(4)]
    return [[columns[j][i] for j in range(4)] for i in range(4)]


def corrected(frame: Frame, shift: Vector, lower: Matrix) -> tuple[Tensor, Tensor]:
    """Mean (..., 4) and covariance (..., 4, 4), x = x_b + W u and P = W L Lᵀ Wᵀ, float64; u and L in the frame."""
    mean, P = moments_of(frame, shift, lower)
    shape = frame.east.shape
    rows = [torch.stack([v.double().expand(shape) for v in row], -1) for row in P]
    return torch.stack([v.double().expand(shape) for v in mean], -1), torch.stack(rows, -2)


def moments_of(frame: Frame, shift: Vector, lower: Matrix) -> tuple[Vector, Matrix]:
    """The same as scalars."""
    spread = product(transposed(turn4(frame.east, frame.north)), frame.factor)
    mean = [m + d for m, d in zip(frame.mean, times_vector(spread, shift), strict=True)]
    root = product(spread, lower)
    return mean, symmetric(4, lambda i, j: dot(root[i], root[j]))
