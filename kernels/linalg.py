"""The one place where symmetric positive definite systems are solved."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def psd_solve(matrix: Array, right: Array) -> Array:
    """X with matrix X = right, for symmetric positive definite matrices (..., n, n) and right sides (..., n, m).

    By the Cholesky factor of the symmetrised matrix, so an indefinite one is an error and not a wrong answer.

    Raises:
        numpy.linalg.LinAlgError: a matrix is not positive definite.
    """
    factor = np.linalg.cholesky(0.5 * (matrix + np.swapaxes(matrix, -1, -2)))
    out: Array = np.linalg.solve(np.swapaxes(factor, -1, -2), np.linalg.solve(factor, right))
    return out


def psd_log_density(offset: Array, covariance: Array) -> Array:
    """log N(offset; 0, covariance) for offsets (..., n) and covariances (..., n, n), by Cholesky.

    Raises:
        numpy.linalg.LinAlgError: a covariance is not positive definite.
    """
    factor = np.linalg.cholesky(0.5 * (covariance + np.swapaxes(covariance, -1, -2)))
    white = np.linalg.solve(factor, offset[..., None])[..., 0]
    log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    out: Array = -0.5 * (white**2).sum(-1) - log_det - 0.5 * offset.shape[-1] * np.log(2.0 * np.pi)
    return out
