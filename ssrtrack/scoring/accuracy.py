"""Errors against the truth: position, velocity, speed, heading, and by what the aircraft does.

Values are squared errors (their root mean is the score) in (N, T) tables, NaN where a score does not apply.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.tracking.truth import TrueStates

Array = NDArray[Any]

MIN_HEADING_SPEED_MPS = 20.0  # below it a track angle means little
ONSET_SCANS = 3
# A climb at constant ground speed leaves the horizontal motion straight, so its start is no onset.
HORIZONTAL = int(Phase.TURN | Phase.SPEED_CHANGE)


def circular_difference_deg(a_rad: Array, b_rad: Array) -> Array:
    """a - b in degrees, in [-180, 180)."""
    difference: Array = (np.degrees(a_rad - b_rad) + 180.0) % 360.0 - 180.0
    return difference


def onset(phase: Array) -> Array:
    """The first three plots of each turn or speed change, (N, T) bool.

    The flight's first plot starts nothing: what came before it is not known.
    """
    moving = (phase & HORIZONTAL) != 0
    begins = np.zeros(moving.shape, bool)
    begins[:, 1:] = moving[:, 1:] & ~moving[:, :-1]
    early = begins.copy()
    for lag in range(1, ONSET_SCANS):
        early[:, lag:] |= begins[:, :-lag]
    return early


def accuracy_values(mean: Array, predicted_mean: Array, truth: TrueStates, scored: Array) -> dict[str, Array]:
    """Squared errors by score key.

    Args:
        mean, predicted_mean: (N, T, 4) after and before each plot's update.
        truth: (N, T) true states in the tracking frame.
        scored: (N, T) which updates count.
    """
    turning = (truth.phase & int(Phase.TURN)) != 0
    climbing = (truth.phase & int(Phase.CLIMB)) != 0
    position = np.where(scored, squared_distance(mean, truth.position_m), np.nan)
    velocity = np.where(scored, squared_distance(mean[..., 2:4], truth.velocity_mps), np.nan)
    predicted = np.where(scored, squared_distance(predicted_mean, truth.position_m), np.nan)
    early = onset(truth.phase)
    values = {
        "position_rmse_m": position,
        "position_rmse_turn_m": np.where(turning, position, np.nan),
        "position_rmse_straight_m": np.where(truth.phase == 0, position, np.nan),
        "position_rmse_climb_m": np.where(climbing & ~turning, position, np.nan),
        "position_rmse_onset_m": np.where(early, position, np.nan),
        "predicted_position_rmse_m": predicted,
        "velocity_rmse_mps": velocity,
        "velocity_rmse_turn_mps": np.where(turning, velocity, np.nan),
        "velocity_rmse_straight_mps": np.where(truth.phase == 0, velocity, np.nan),
        "velocity_rmse_onset_mps": np.where(early, velocity, np.nan),
    }
    return values | _directions(mean, truth, scored)


def squared_distance(estimate: Array, truth: Array) -> Array:
    """Squared distance (...) of the first two components of (..., n)."""
    squared: Array = (estimate[..., 0] - truth[..., 0]) ** 2 + (estimate[..., 1] - truth[..., 1]) ** 2
    return squared


def _directions(mean: Array, truth: TrueStates, scored: Array) -> dict[str, Array]:
    """Errors along and across the true track, of speed and of heading, all in the frame's horizontal plane."""
    vx, vy = truth.velocity_mps[..., 0], truth.velocity_mps[..., 1]
    speed = np.hypot(vx, vy)
    fast = scored & (speed > MIN_HEADING_SPEED_MPS)
    ex, ey = mean[..., 0] - truth.position_m[..., 0], mean[..., 1] - truth.position_m[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        along, across = (ex * vx + ey * vy) / speed, (ex * vy - ey * vx) / speed
    turned = circular_difference_deg(np.arctan2(mean[..., 2], mean[..., 3]), np.arctan2(vx, vy))
    return {
        "along_track_rmse_m": np.where(fast, along**2, np.nan),
        "across_track_rmse_m": np.where(fast, across**2, np.nan),
        "speed_rmse_mps": np.where(scored, (np.hypot(mean[..., 2], mean[..., 3]) - speed) ** 2, np.nan),
        "heading_rmse_deg": np.where(fast, turned**2, np.nan),
    }
