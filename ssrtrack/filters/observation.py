"""What a filter compares its state with: the converted position, or slant range and azimuth themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.measurement import Measurements
from ssrtrack.geodesy import polar_jacobian, wrapped_angle

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Observation:
    """Values z (N, 2) with covariance R (N, 2, 2), and what a state would give.

    expect maps states (N, n) to (N, 2); expect_points maps points (N, K, n) to (N, K, 2); jacobian gives
    ∂expect/∂state (N, 2, n), or is None where the observation is the first two components themselves.
    """

    z: Array
    R: Array
    expect: Callable[[Array], Array]
    expect_points: Callable[[Array], Array]
    jacobian: Callable[[Array], Array] | None
    residual: Callable[[Array, Array], Array]

    def scaled(self, factor: float) -> "Observation":
        """The same with R multiplied by `factor`."""
        return Observation(self.z, factor * self.R, self.expect, self.expect_points, self.jacobian, self.residual)


def position_observation(z: Measurements, mean: Array) -> Observation:
    """The converted position x, y and its covariance."""
    return Observation(z.position_m, z.covariance_m2, _first_two, _first_two, None, np.subtract)


def polar_observation(z: Measurements, mean: Array) -> Observation:
    """Slant range (m) and azimuth (rad) at the plot's radar, the target's up coordinate being known.

    Azimuths are relative to that of the predicted `mean` (N, n), wrapped to [−π, π): innovations, sigma-point means
    and spreads are then plain numbers, also across north. The altitude's uncertainty enters the range variance
    through ∂r/∂up.
    """
    k = z.radar_id
    turn, place, up = z.frame.rotation[k], z.frame.position_m[k], z.up_m

    def at_radar(x: Array) -> Array:
        target = np.concatenate([x[..., :2], np.broadcast_to(_aligned(up, x), x.shape[:-1])[..., None]], -1)
        offset = target - _aligned(place, x)
        local: Array = np.einsum("nij,n...j->n...i", turn, offset)
        return local

    def polar(x: Array) -> Array:
        p = at_radar(x)
        slant = np.sqrt((p**2).sum(-1))
        azimuth = np.arctan2(p[..., 0], p[..., 1])
        return np.stack([slant, wrapped_angle(azimuth - _aligned(reference, azimuth[..., None]))], -1)

    def jacobian(x: Array) -> Array:
        H = np.zeros((x.shape[0], 2, x.shape[1]))
        H[:, :, :2] = polar_jacobian(at_radar(x)) @ turn[:, :, :2]
        return H

    here = at_radar(mean)
    reference = np.arctan2(here[:, 0], here[:, 1])
    observed = np.stack([z.range_m, wrapped_angle(z.azimuth_rad - reference)], -1)
    R = np.zeros((observed.shape[0], 2, 2))
    slope = here[:, 2] / np.sqrt((here**2).sum(-1))
    R[:, 0, 0] = z.sigma_range_m**2 + (slope * z.sigma_height_m) ** 2
    R[:, 1, 1] = z.sigma_azimuth_rad**2
    return Observation(observed, R, polar, polar, jacobian, _polar_residual)


OBSERVATIONS = {"position": position_observation, "polar": polar_observation}


def _first_two(x: Array) -> Array:
    return x[..., :2]


def _aligned(values: Array, x: Array) -> Array:
    """Per-flight values (N, ...) reshaped to broadcast against x (N, [K,] n)."""
    extra = x.ndim - 2
    return values.reshape(values.shape[0], *(1,) * extra, *values.shape[1:])


def _polar_residual(a: Array, b: Array) -> Array:
    y = a - b
    y[1] = wrapped_angle(y[1])
    return y
