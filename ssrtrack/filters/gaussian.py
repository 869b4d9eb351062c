"""Small Gaussian helpers on batches: likelihoods of 2-D innovations, moments of mixtures, chi-square gates."""

from math import log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError

Array = NDArray[Any]
LOG_TWO_PI = float(np.log(2.0 * np.pi))


def innovation_likelihood(y: Array, S: Array) -> tuple[Array, Array]:
    """Log-density of N(0, S) at y and yᵀ S⁻¹ y, for y (..., 2) and S (..., 2, 2), by the Cholesky factor of S.

    Both stay finite and distinct however far y is; nothing is floored.
    """
    l00 = np.sqrt(S[..., 0, 0])
    l10 = 0.5 * (S[..., 0, 1] + S[..., 1, 0]) / l00
    l11 = np.sqrt(S[..., 1, 1] - l10**2)
    w0 = y[..., 0] / l00
    w1 = (y[..., 1] - l10 * w0) / l11
    distance = w0**2 + w1**2
    return -0.5 * distance - np.log(l00 * l11) - LOG_TWO_PI, distance


def log_sum_exp(values: Array, axis: int = -1) -> Array:
    """log Σ exp along an axis, safe for very negative values."""
    top = values.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        out: Array = np.log(np.exp(values - top).sum(axis)) + top.squeeze(axis)
    return out


def mixture_moments(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Mean (N, n) and covariance (N, n, n) of mixtures: weight (N, M), mean (N, M, n), covariance (N, M, n, n)."""
    centre = np.einsum("nm,nmi->ni", weight, mean)
    offset = mean - centre[:, None]
    spread = (weight[:, :, None, None] * (covariance + offset[..., :, None] * offset[..., None, :])).sum(1)
    return centre, spread


def symmetric(covariance: Array) -> Array:
    """The symmetric part of matrices (..., n, n)."""
    half: Array = 0.5 * (covariance + np.swapaxes(covariance, -1, -2))
    return half


def gate_threshold(gate: float | None) -> float:
    """yᵀ S⁻¹ y that a 2-D innovation stays under with probability `gate`; infinite for None.

    Raises:
        EstimatorError: gate is not a probability between 0 and 1.
    """
    if gate is None:
        return float("inf")
    if not 0.0 < gate < 1.0:
        raise EstimatorError(f"gate={gate} is not a probability; give e.g. 0.9999 (18.4 for 2-D plots) or None")
    # The chi-square distribution with two degrees of freedom is an exponential one.
    return -2.0 * log1p(-gate)
