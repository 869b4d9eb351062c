"""Exact posteriors of switching models and of two-component noise: a sum over every sequence of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles.dense import Problem, posterior
from tests.oracles.linear import Linear, stationary, transition

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Exact:
    """Mean (T, 4), covariance (T, 4, 4) and model probabilities (T, M) at every column."""

    mean: Array
    covariance: Array
    mode_probability: Array


def exact(
    problem: Problem,
    models: Sequence[Linear],
    rates: Array,
    seen: int,
    noise: Sequence[tuple[float, float]] = ((1.0, 1.0),),
) -> Exact:
    """Given the plots up to column `seen`; `noise` lists (weight, factor on R) of the components of a plot's noise.

    The first plot, which starts the track, has one component only.
    """
    plots, count = problem.time_s.size, problem.plots(seen).size
    with np.errstate(divide="ignore"):
        start = np.log(stationary(rates)) if len(models) > 1 else np.zeros(1)
        moves = [
            np.log(transition(rates, dt)) if len(models) > 1 else np.zeros((1, 1)) for dt in np.diff(problem.time_s)
        ]
    logs, means, covariances, modes = [], [], [], []
    for sequence in product(range(len(models)), repeat=plots):
        log_chain = start[sequence[0]] + sum(moves[k][sequence[k], sequence[k + 1]] for k in range(plots - 1))
        if not np.isfinite(log_chain):
            continue
        for parts in product(noise, repeat=count):
            x, P, log_likelihood = posterior(problem, [models[m] for m in sequence], seen, [p[1] for p in parts])
            logs.append(log_chain + log_likelihood + sum(np.log(p[0]) for p in parts))
            means.append(x)
            covariances.append(P)
            modes.append(np.eye(len(models))[list(sequence)])
    weight = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    return Exact(*merged(weight, means, covariances), np.einsum("s,stm->tm", weight, modes))


def merged(weight: Array, means: Sequence[Array], covariances: Sequence[Array]) -> tuple[Array, Array]:
    """Mean (T, 4) and covariance (T, 4, 4) of a mixture of S posteriors with weights (S,)."""
    mean = np.einsum("s,sti->ti", weight, means)
    offset = np.array(means) - mean
    spread = np.array(covariances) + offset[..., :, None] * offset[..., None, :]
    return mean, np.einsum("s,stij->tij", weight, spread)


def distance(mean: Array, covariance: Array, true: Exact, k: int) -> tuple[float, float]:
    """Mean error in standard deviations of the exact posterior at column k, and KL(exact ‖ given) of the Gaussians."""
    offset, spread = mean - true.mean[k], true.covariance[k]
    sigma = float(np.sqrt(offset @ np.linalg.solve(spread, offset)))
    ratio = np.linalg.solve(covariance, spread)
    inner = np.trace(ratio) - 4.0 - np.linalg.slogdet(ratio)[1] + offset @ np.linalg.solve(covariance, offset)
    return sigma, 0.5 * float(inner)
