"""Fixed-interval smoothing: Rauch-Tung-Striebel for one model, its interacting form for several.

Backward, each pair (model i at plot k, model j up to plot k + 1) is one RTS step from j's smoothed state; the pair's
weight is μˢ_j · Pr(i | j, x_{k+1}, plots up to k) with x_{k+1} put at j's smoothed mean, and the pairs are then
merged per i by moments (W. Koch, "Fixed-interval retrodiction approach to Bayesian IMM-MHT for maneuvering multiple
targets", IEEE T-AES 36(1), 2000). Two approximations, then: given j, the state at k + 1 does not depend on i, and the
weight is taken at the mean. With one model both vanish and the result is the RTS smoother; sigma-point filters use
the unscented RTS step (Särkkä 2008, IEEE T-AC 53(3)).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank, BankState, enter
from ssrtrack.filters.classical import symmetric
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.gaussian import log_sum_exp, mixture_moments
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import Motion
from ssrtrack.filters.protocol import Estimator, take
from ssrtrack.filters.run import flight_lengths
from ssrtrack.kernels.linalg import psd_log_density, psd_solve

Array = NDArray[Any]


def smooth(estimator: str | Estimator, measurements: Measurements) -> tuple[Array, Array]:
    """Mean (N, T, 4) and covariance (N, T, 4, 4) of x, y, vx, vy given all plots of each flight; NaN in padding.

    A track that its gate let begin anew is smoothed in pieces.

    Raises:
        EstimatorError: the estimator has no smoother (alpha-beta has no posterior to smooth: use "kf"), or the
            measurements are not whole flights (see `run`).
    """
    bank = make_estimator(estimator) if isinstance(estimator, str) else estimator
    if not isinstance(bank, Bank):
        raise EstimatorError(
            f"{type(bank).__name__} has no smoother; smooth with a Kalman filter or an IMM, e.g. 'imm'"
        )
    lengths = flight_lengths(measurements)
    order = np.argsort(-lengths, kind="stable")
    z = measurements.select(order)
    states = _forward(bank, z, lengths[order])
    mean = np.full((*z.time_s.shape, 4), np.nan)
    covariance = np.full((*mean.shape, 4), np.nan)
    smoothed: BankState | None = None
    for k in range(len(states) - 1, -1, -1):
        smoothed = _backward(bank, states, smoothed, k, z.time_s)
        rows = order[: smoothed.gated.size]
        mean[rows, k], covariance[rows, k] = bank.estimate(smoothed)
    return mean, covariance


def _forward(bank: Bank, z: Measurements, lengths: Array) -> list[BankState]:
    """Filtered states at every column; flights are sorted by length, so those alive are the first rows."""
    states: list[BankState] = []
    for k in range(z.time_s.shape[1]):
        alive = int((lengths > k).sum())
        if alive == 0:
            break
        column = z.select((slice(0, alive), k))
        if k == 0:
            states.append(bank.init(column))
        else:
            step = column.time_s - z.time_s[:alive, k - 1]
            ahead = bank.predict(take(states[-1], slice(0, alive)), step)
            states.append(bank.update(ahead, column, column.valid))
    return states


def _backward(bank: Bank, states: list[BankState], later: BankState | None, k: int, time_s: Array) -> BankState:
    """Smoothed states at column k from those at k + 1; a flight that ends or restarts there keeps its filtered one."""
    here = states[k]
    if later is None:
        return here
    alive = later.gated.size
    step = time_s[:alive, k + 1] - time_s[:alive, k]
    back = _step_back(bank, take(here, slice(0, alive)), later, step)
    keep = np.ones(here.gated.size, bool)
    keep[:alive] = states[k + 1].restarted
    mean, covariance, log_probability = here.mean.copy(), here.covariance.copy(), here.log_probability.copy()
    moved = ~keep[:alive]
    mean[~keep], covariance[~keep] = back.mean[moved], back.covariance[moved]
    log_probability[~keep] = back.log_probability[moved]
    return BankState(mean, covariance, log_probability, here.gated, here.restarted)


def _step_back(bank: Bank, here: BankState, later: BankState, dt_s: Array) -> BankState:
    """One step of the interacting smoother for the N flights alive at both columns."""
    count, models, size = here.mean.shape
    pair_mean = np.zeros((count, models, models, size))
    pair_covariance = np.zeros((count, models, models, size, size))
    log_match = np.empty((count, models, models))
    for i in range(models):
        for j in range(models):
            pair = _pair(bank, here, later, (i, j), dt_s)
            n = bank.motions[i].size
            pair_mean[:, i, j, :n], pair_covariance[:, i, j, :n, :n], log_match[:, i, j] = pair
    log_weight = here.log_probability[:, :, None] + bank.chain.log_matrix(dt_s) + log_match
    log_weight += later.log_probability[:, None, :] - log_sum_exp(log_weight, 1)[:, None, :]
    log_probability = log_sum_exp(log_weight, 2)
    with np.errstate(invalid="ignore"):
        weight = np.nan_to_num(np.exp(log_weight - log_probability[:, :, None]))
    mean, covariance = np.empty_like(here.mean), np.empty_like(here.covariance)
    for i in range(models):
        mean[:, i], covariance[:, i] = mixture_moments(weight[:, i], pair_mean[:, i], pair_covariance[:, i])
    return BankState(mean, symmetric(covariance), log_probability, here.gated, here.restarted)


def _pair(
    bank: Bank, here: BankState, later: BankState, pair: tuple[int, int], dt_s: Array
) -> tuple[Array, Array, Array]:
    """RTS step of model i at k from model j at k + 1: mean (N, n_i), covariance, and log N(xˢ_j; x⁻_ij, P⁻_ij)."""
    i, j = pair
    motion, n = bank.motions[j], bank.motions[i].size
    mean, covariance = here.mean[:, i, :n], here.covariance[:, i, :n, :n]
    start_mean, start_covariance = here.mean[:, i].copy(), here.covariance[:, i].copy()
    # What j does not take over from i it draws from its prior, so only the shared components carry back.
    shared = n
    if i != j:
        enter(motion, start_mean, start_covariance)
        shared = 4
    m = motion.size
    ahead_mean, ahead_covariance, F = _ahead(motion, bank.engine, start_mean[:, :m], start_covariance[:, :m, :m], dt_s)
    cross = F[:, :, :shared] @ covariance[:, :shared, :]
    gain = np.swapaxes(psd_solve(ahead_covariance, cross), 1, 2)
    offset = later.mean[:, j, :m] - ahead_mean
    change = later.covariance[:, j, :m, :m] - ahead_covariance
    out_mean = mean + np.einsum("nij,nj->ni", gain, offset)
    out_covariance = covariance + gain @ change @ np.swapaxes(gain, 1, 2)
    return out_mean, symmetric(out_covariance), psd_log_density(offset, ahead_covariance)


def _ahead(motion: Motion, engine: str, mean: Array, covariance: Array, dt_s: Array) -> tuple[Array, Array, Array]:
    """Predicted mean (N, m), covariance (N, m, m), and the F (N, m, m) by which it depends on the state before."""
    F, Q = motion.matrices(dt_s)
    if F is None and engine == "extended":
        F = motion.jacobian(mean, dt_s)
        return motion.move(mean, dt_s), F @ covariance @ np.swapaxes(F, 1, 2) + Q, F
    if F is not None:
        return np.einsum("nij,nj->ni", F, mean), F @ covariance @ np.swapaxes(F, 1, 2) + Q, F
    offsets, weight = _sigma_offsets(covariance, engine)
    moved = motion.move(mean[:, None] + offsets, dt_s[:, None])
    centre = np.einsum("k,nki->ni", weight, moved)
    spread = moved - centre[:, None]
    weighted = weight[:, None] * spread
    cross = np.swapaxes(offsets, 1, 2) @ weighted
    F = np.swapaxes(psd_solve(covariance, cross), 1, 2)
    return centre, np.swapaxes(spread, 1, 2) @ weighted + Q, F


def _sigma_offsets(covariance: Array, engine: str) -> tuple[Array, Array]:
    """Sigma points minus the mean (N, K, n) and their weights (K,): those of the filter itself."""
    n = covariance.shape[-1]
    kappa = 1.0 if engine == "unscented" else 0.0
    root = np.swapaxes(np.linalg.cholesky((n + kappa) * covariance), 1, 2)
    offsets = np.concatenate([np.zeros_like(root[:, :1]), root, -root], 1)
    weight = np.full(2 * n + 1, 0.5 / (n + kappa))
    weight[0] = kappa / (n + kappa)
    return offsets, weight
