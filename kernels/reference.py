"""Kalman filter, RTS smoother and IMM in plain float64 loops: what every faster path is compared with.

One track at a time, every formula written out once, no batching and no cleverness. Letters as in Bar-Shalom, Li and
Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001): n states, m measured values, M models.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.linalg import psd_log_density, psd_solve

Array = NDArray[Any]


def kalman_predict(x: Array, P: Array, F: Array, Q: Array) -> tuple[Array, Array]:
    """x⁻ = F x, P⁻ = F P Fᵀ + Q for x (n,), P, F, Q (n, n)."""
    return F @ x, F @ P @ F.T + Q


def kalman_update(x: Array, P: Array, z: Array, H: Array, R: Array) -> tuple[Array, Array, float]:
    """Posterior x (n,), P (n, n) and log N(z; H x, S) for z (m,), H (m, n), R (m, m).

    y = z − H x, S = H P Hᵀ + R, K = P Hᵀ S⁻¹, x⁺ = x + K y, P⁺ = (I − K H) P (I − K H)ᵀ + K R Kᵀ (Joseph form).
    """
    y = z - H @ x
    S = H @ P @ H.T + R
    K = psd_solve(S, H @ P).T
    left = np.eye(x.size) - K @ H
    return x + K @ y, left @ P @ left.T + K @ R @ K.T, float(psd_log_density(y, S))


def kalman_filter(
    x: Array, P: Array, F: Array, Q: Array, z: Array, H: Array, R: Array, valid: Array
) -> tuple[Array, Array, Array, Array, float]:
    """Filter T steps from the state x, P before the first: each step predicts, then updates where `valid`.

    Shapes: F, Q (T, n, n), z (T, m), H (m, n), R (T, m, m), valid (T,). Returns predicted means (T, n) and covariances
    (T, n, n), filtered ones, and the log-likelihood of all valid measurements.
    """
    predicted_x, predicted_P, filtered_x, filtered_P, total = [], [], [], [], 0.0
    for k in range(z.shape[0]):
        x, P = kalman_predict(x, P, F[k], Q[k])
        predicted_x.append(x)
        predicted_P.append(P)
        if valid[k]:
            x, P, log_likelihood = kalman_update(x, P, z[k], H, R[k])
            total += log_likelihood
        filtered_x.append(x)
        filtered_P.append(P)
    return np.stack(predicted_x), np.stack(predicted_P), np.stack(filtered_x), np.stack(filtered_P), total


def rts_smoother(filtered_x: Array, filtered_P: Array, F: Array, Q: Array) -> tuple[Array, Array]:
    """Smoothed means (T, n) and covariances (T, n, n) from filtered ones; F[k], Q[k] (T, n, n) lead into step k.

    Rauch, Tung and Striebel 1965: G = P Fᵀ (P⁻)⁻¹, xˢ = x + G (xˢ' − x⁻), Pˢ = P + G (Pˢ' − P⁻) Gᵀ.
    """
    smoothed_x, smoothed_P = [filtered_x[-1]], [filtered_P[-1]]
    for k in range(filtered_x.shape[0] - 2, -1, -1):
        ahead_x, ahead_P = kalman_predict(filtered_x[k], filtered_P[k], F[k + 1], Q[k + 1])
        G = psd_solve(ahead_P, F[k + 1] @ filtered_P[k]).T
        smoothed_x.insert(0, filtered_x[k] + G @ (smoothed_x[0] - ahead_x))
        smoothed_P.insert(0, filtered_P[k] + G @ (smoothed_P[0] - ahead_P) @ G.T)
    return np.stack(smoothed_x), np.stack(smoothed_P)


def imm_predict(log_mu: Array, x: Array, P: Array, transition: Array, F: Array, Q: Array) -> tuple[Array, Array, Array]:
    """Mix and predict M models: log_mu (M,), x (M, n), P, F, Q (M, n, n), transition Π (M, M) from row to column.

    c_j = Σ_i Π_ij μ_i; model j starts from the moments of the mixture with weights Π_ij μ_i / c_j. Returns log c, x, P:
    without a measurement, log c are the model probabilities.
    """
    models = range(log_mu.size)
    log_c, out_x, out_P = np.empty(log_mu.size), np.empty_like(x), np.empty_like(P)
    for j in models:
        with np.errstate(divide="ignore"):
            terms = log_mu + np.log(transition[:, j])
        log_c[j] = np.logaddexp.reduce(terms)
        weight = np.exp(terms - log_c[j])
        mean = sum(weight[i] * x[i] for i in models)
        spread = sum(weight[i] * (P[i] + np.outer(x[i] - mean, x[i] - mean)) for i in models)
        out_x[j], out_P[j] = kalman_predict(mean, spread, F[j], Q[j])
    return log_c, out_x, out_P


def imm_update(log_mu: Array, x: Array, P: Array, z: Array, H: Array, R: Array) -> tuple[Array, Array, Array]:
    """Update M models and their log-probabilities with one measurement: μ_j ∝ c_j N(z; H x_j, S_j)."""
    out_x, out_P, log_mu = np.empty_like(x), np.empty_like(P), log_mu.copy()
    for j in range(log_mu.size):
        out_x[j], out_P[j], log_likelihood = kalman_update(x[j], P[j], z, H, R)
        log_mu[j] += log_likelihood
    return log_mu - np.logaddexp.reduce(log_mu), out_x, out_P


def imm_estimate(log_mu: Array, x: Array, P: Array) -> tuple[Array, Array]:
    """Mean (n,) and covariance (n, n) of the mixture of M models."""
    mu, models = np.exp(log_mu), range(log_mu.size)
    mean = sum(mu[j] * x[j] for j in models)
    return mean, sum(mu[j] * (P[j] + np.outer(x[j] - mean, x[j] - mean)) for j in models)
