"""Fixed-interval smoothing: Rauch-Tung-Striebel for one model, its interacting form for several.

Backward, each pair (model i at plot k, model j up to plot k + 1) is one RTS step. What the plots after k say, given j,
is the ratio of j's smoothed density at k + 1 to its predicted one; that ratio is taken as Gaussian (the one
approximation beside the filter's own). It gives each pair its end state and its weight, and the pairs are then merged
per i by moments: a two-filter smoother in the manner of Helmick, Blair and Hoffman, "Fixed-interval smoothing for
Markovian switching systems", IEEE T-IT 41(6), 1995, but by division in place of their backward filter. With one model
the result is the RTS smoother; sigma-point filters use the unscented RTS step (Särkkä 2008, IEEE T-AC 53(3)).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError
from ssrtrack.filters.bank import Bank, BankState, enter
from ssrtrack.filters.batched import batched_backend, smooth_batched
from ssrtrack.filters.estimators import make_estimator
from ssrtrack.filters.gaussian import log_sum_exp, mixture_moments, symmetric
from ssrtrack.filters.history import flight_lengths
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import Motion
from ssrtrack.filters.protocol import Estimator, take
from ssrtrack.kernels.linalg import psd_solve

Array = NDArray[Any]
Moments = tuple[Array, Array]  # mean (N, n), covariance (N, n, n)


def smooth(
    estimator: str | Estimator,
    measurements: Measurements,
    *,
    lag: int | None = None,
    backend: str = "auto",
    dtype: str = "float64",
) -> tuple[Array, Array]:
    """Mean (N, T, 4) and covariance (N, T, 4, 4) of x, y, vx, vy given later plots of each flight; NaN in padding.

    A track that its gate let begin anew is smoothed in pieces.

    Args:
        estimator: a Kalman filter or an IMM, or its name.
        measurements: (N, T) plots of whole flights.
        lag: None takes all plots of the flight (fixed interval), a number those up to so many columns later (fixed
            lag).
        backend, dtype: as for `ssrtrack.filters.run.run`. triton smooths single models; several go to numba under
            "auto". Keep several models in float64 if flights have long gaps: in float32 their merged densities lose
            the digits (over 1,000 s a covariance is out by a third, over 10,000 s the mean by several sigma).

    Raises:
        EstimatorError: the estimator has no smoother (alpha-beta has no posterior to smooth: use "kf"), the lag is
            negative, the backend cannot run it, or the measurements are not whole flights (see `run`).
    """
    bank = make_estimator(estimator) if isinstance(estimator, str) else estimator
    if not isinstance(bank, Bank):
        raise EstimatorError(
            f"{type(bank).__name__} has no smoother; smooth with a Kalman filter or an IMM, e.g. 'imm'"
        )
    if lag is not None and lag < 0:
        raise EstimatorError(f"lag is {lag}, expected a number of columns from 0, or None for the whole flight")
    if lag is not None and lag >= measurements.time_s.shape[-1] - 1:
        lag = None  # the same, in one pass rather than one for each column
    if chosen := batched_backend(bank, backend, dtype):
        return smooth_batched(bank, measurements, lag, chosen, dtype)
    return _stepwise(bank, measurements, lag)


def _stepwise(bank: Bank, measurements: Measurements, lag: int | None) -> Moments:
    lengths = flight_lengths(measurements)
    order = np.argsort(-lengths, kind="stable")
    z = measurements.select(order)
    states = _forward(bank, z, lengths[order])
    mean = np.full((*z.time_s.shape, 4), np.nan)
    covariance = np.full((*mean.shape, 4), np.nan)
    for first in range(len(states) if lag is not None else min(1, len(states))):
        top = len(states) - 1 if lag is None else min(first + lag, len(states) - 1)
        smoothed: BankState | None = None
        for k in range(top, first - 1, -1):
            smoothed = _backward(bank, states, smoothed, k, z.time_s)
            if lag is None or k == first:
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
    prior = here.log_probability[:, :, None] + bank.chain.log_matrix(dt_s)
    pair_mean = np.empty((count, models, models, size))
    pair_covariance = np.empty((count, models, models, size, size))
    log_weight = np.empty((count, models, models))
    for j, motion in enumerate(bank.motions):
        # All models i that a flight may come from at once: (N, M, ...).
        ahead = _pairs_ahead(bank, here, j, dt_s)
        smoothed = later.mean[:, j, : motion.size], later.covariance[:, j, : motion.size, : motion.size]
        ends, log_weight[:, :, j] = _pair_ends(prior[:, :, j], ahead, smoothed)
        pair_mean[:, :, j], pair_covariance[:, :, j] = _rts(here, j, ahead, ends)
    log_weight += (later.log_probability - log_sum_exp(log_weight, 1))[:, None, :]
    log_probability = log_sum_exp(log_weight, 2)
    with np.errstate(invalid="ignore"):
        weight = np.nan_to_num(np.exp(log_weight - log_probability[:, :, None]))
    mean, covariance = np.empty_like(here.mean), np.empty_like(here.covariance)
    for i in range(models):
        mean[:, i], covariance[:, i] = mixture_moments(weight[:, i], pair_mean[:, i], pair_covariance[:, i])
    return BankState(mean, symmetric(covariance), log_probability, here.gated, here.restarted)


def _pairs_ahead(bank: Bank, here: BankState, j: int, dt_s: Array) -> tuple[Array, Array, Array]:
    """`_ahead` of every model i's state as it enters model j: (N, M, n), (N, M, n, n) twice, with n of model j."""
    motion, (count, models, _) = bank.motions[j], here.mean.shape
    mean, covariance, n = here.mean.copy(), here.covariance.copy(), motion.size
    for i in range(models):
        if i != j:
            enter(motion, mean[:, i], covariance[:, i])
    flat = mean[:, :, :n].reshape(-1, n), covariance[:, :, :n, :n].reshape(-1, n, n)
    moved, spread, F = _ahead(motion, bank.engine, *flat, np.repeat(dt_s, models))
    square = count, models, n, n
    return moved.reshape(count, models, n), spread.reshape(square), F.reshape(square)


def _rts(here: BankState, j: int, ahead: tuple[Array, Array, Array], end: Moments) -> Moments:
    """RTS step from every pair's state at k + 1 (`end`) to model i's at k, padded (N, M, n)."""
    n = ahead[0].shape[2]
    shared = here.covariance[:, :, :n].copy()
    # What j does not take over from i it draws from its prior, so only the shared components carry back.
    shared[:, np.arange(shared.shape[1]) != j, 4:] = 0.0
    gain = np.swapaxes(psd_solve(ahead[1], ahead[2] @ shared), -1, -2)
    mean = here.mean + (gain @ (end[0] - ahead[0])[..., None])[..., 0]
    return mean, symmetric(here.covariance + gain @ (end[1] - ahead[1]) @ np.swapaxes(gain, -1, -2))


def _pair_ends(log_prior: Array, ahead: tuple[Array, Array, Array], smoothed: Moments) -> tuple[Moments, Array]:
    """State (N, M, n) at k + 1 of every pair (i, j) given all plots, and their log-weights (N, M) up to a constant.

    The plots after k say L(x) ∝ N(x; xˢ, Pˢ) / N(x; x⁻, P⁻), with x⁻, P⁻ the moments of all pairs' predictions; each
    pair's end is its own prediction times L, its weight the prior times the integral of that product. In the
    coordinates u that make P⁻ the identity and Pˢ diagonal, L is exp(h·u − λ·u²/2).
    """
    if log_prior.shape[1] == 1:
        return (smoothed[0][:, None], smoothed[1][:, None]), log_prior
    weight = np.exp(log_prior - log_sum_exp(log_prior)[:, None])
    centre, spread = mixture_moments(weight, ahead[0], ahead[1])
    root = np.linalg.cholesky(symmetric(spread))
    inner = np.linalg.solve(root, np.swapaxes(np.linalg.solve(root, smoothed[1]), 1, 2))
    share, axes = np.linalg.eigh(symmetric(inner))
    basis = root @ axes
    shift = np.linalg.solve(basis, (smoothed[0] - centre)[..., None])[..., 0]
    # Later plots cannot add uncertainty; where merging made it seem so, they say nothing of the spread.
    information = np.maximum(1.0 / np.maximum(share, 1e-12) - 1.0, 0.0)
    tilt = (1.0 + information) * shift
    wide, middle = basis[:, None], centre[:, None]
    u = np.linalg.solve(wide, (ahead[0] - middle)[..., None])[..., 0]
    B = np.linalg.solve(wide, np.swapaxes(np.linalg.solve(wide, ahead[1]), -1, -2))
    end_u, end_B, log_match = _tilted(u, symmetric(B), information[:, None], tilt[:, None])
    end_mean = middle + (wide @ end_u[..., None])[..., 0]
    return (end_mean, symmetric(wide @ end_B @ np.swapaxes(wide, -1, -2))), log_prior + log_match


def _tilted(u: Array, B: Array, information: Array, tilt: Array) -> tuple[Array, Array, Array]:
    """N(u, B) times exp(tilt·x − information·x²/2), all (..., n): its mean, covariance and log-integral."""
    # C (I + Cᵀ Λ C)⁻¹ Cᵀ with C Cᵀ = B: no difference of large matrices where later plots say far more.
    C = np.linalg.cholesky(B)
    inner = np.eye(u.shape[-1]) + np.swapaxes(C, -1, -2) @ (information[..., :, None] * C)
    N = np.linalg.cholesky(symmetric(inner))
    W = np.linalg.solve(N, np.swapaxes(C, -1, -2))
    covariance = np.swapaxes(W, -1, -2) @ W
    pull = tilt - information * u
    pulled = (W @ pull[..., None])[..., 0]
    moved = (np.swapaxes(W, -1, -2) @ pulled[..., None])[..., 0]
    exponent = (tilt * u).sum(-1) - 0.5 * (information * u**2).sum(-1) + 0.5 * (pulled**2).sum(-1)
    return u + moved, covariance, exponent - np.log(np.diagonal(N, axis1=-2, axis2=-1)).sum(-1)


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
