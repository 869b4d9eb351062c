"""All states of one flight as one Gaussian vector, conditioned on all its plots at once by one dense solve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cho_factor, cho_solve

from tests.oracles.linear import SIZE, Linear

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """One flight: times (T,), positions (T, 2), their covariances (T, 2, 2), which are plots (T,), speed prior m/s."""

    time_s: Array
    z: Array
    R: Array
    valid: Array
    speed_sigma: float = 170.0

    def plots(self, seen: int) -> Array:
        """Columns after the first whose plots are used when all up to column `seen` are known."""
        return np.array([k for k in range(1, min(seen, self.time_s.size - 1) + 1) if self.valid[k]], int)


def prior(problem: Problem, models: Sequence[Linear]) -> tuple[Array, Array]:
    """Mean (T n) and covariance (T n, T n) of all states before any plot but the first, models[k] leading to k.

    models[0] is the one the flight starts in; coming from another one a model's acceleration is drawn anew.
    """
    plots = problem.time_s.size
    steps = [
        models[k].step(problem.time_s[k] - problem.time_s[k - 1], models[k] is not models[k - 1])
        for k in range(1, plots)
    ]
    start = np.zeros((SIZE, SIZE))
    start[:2, :2] = problem.R[0]
    start[[2, 3], [2, 3]], start[[4, 5], [4, 5]] = problem.speed_sigma**2, models[0].entry
    # Every state is a linear map of the first one and of the noises since: X = Φ (x₀, w₁, …).
    Phi = np.zeros((plots, SIZE, plots, SIZE))
    for k in range(plots):
        Phi[k, :, k] = np.eye(SIZE)
        if k:
            Phi[k, :, :k] = np.einsum("ij,jkl->ikl", steps[k - 1][0], Phi[k - 1, :, :k])
    flat = Phi.reshape(plots * SIZE, plots * SIZE)
    mean = flat[:, :2] @ problem.z[0]
    return mean, flat @ block_diag(start, *(Q for _, Q in steps)) @ flat.T


def posterior(
    problem: Problem, models: Sequence[Linear], seen: int, scales: Sequence[float] | None = None
) -> tuple[Array, Array, float]:
    """Means (T, 4), covariances (T, 4, 4) given the plots up to column `seen`, and the log-likelihood of those.

    scales multiply the covariance of each plot used, in order.
    """
    mean, joint = prior(problem, models)
    used = problem.plots(seen)
    log_likelihood = 0.0
    if used.size:
        rows = (SIZE * used[:, None] + np.arange(2)).ravel()
        factors = np.ones(used.size) if scales is None else np.asarray(scales)
        S = joint[np.ix_(rows, rows)] + block_diag(*(f * problem.R[k] for f, k in zip(factors, used, strict=True)))
        y = problem.z[used].ravel() - mean[rows]
        factor = cho_factor(S, lower=True)
        log_det = 2.0 * np.log(np.diag(factor[0])).sum()
        log_likelihood = float(-0.5 * (y @ cho_solve(factor, y) + log_det + y.size * np.log(2.0 * np.pi)))
        gain = cho_solve(factor, joint[rows]).T
        mean, joint = mean + gain @ y, joint - gain @ joint[rows]
    plots = problem.time_s.size
    blocks = joint.reshape(plots, SIZE, plots, SIZE)[range(plots), :, range(plots)]
    return mean.reshape(plots, SIZE)[:, :4], blocks[:, :4, :4], log_likelihood
