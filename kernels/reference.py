"""Kalman filter, RTS smoother, IMM and KOSS in plain float64 loops: what every faster path is compared with.

One track at a time, every formula written out once, no batching and no cleverness. Letters as in Bar-Shalom, Li and
Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001): n states, m measured values, M models.
KOSS is in torch, so that autograd differentiates it; letters there as in `koss_form`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs, sees_prediction
from ssrtrack.kernels.linalg import psd_log_density, psd_solve

Array = NDArray[Any]
Tensor = torch.Tensor


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


def koss_gain(
    e: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, operator: str, prediction: Tensor | None = None
) -> Tensor:
    """K (D,) of one step from its innovation e (D,): K = σ(W2ᵀ relu(W1ᵀ s + b1) + z), s = e²/(1 + e²), head by head.

    s is the gain 1 − R/S of a scalar filter with C P Cᵀ estimated by e² and R = 1. `bucy`, whose gain has no upper
    limit, takes softplus in place of σ. A w1 of 2C rows multiplies s and below it the prediction ŷ⁻ (D,).
    """
    s = (e * e / (1.0 + e * e)).reshape(w1.shape[0], -1)
    logit = torch.empty_like(s) * 0.0
    for head in range(w1.shape[0]):
        told = s[head]
        if prediction is not None and sees_prediction(w1):
            told = torch.cat([told, prediction.reshape(s.shape)[head]])
        hidden = torch.relu(told @ w1[head] + b1[head])
        logit = logit.index_put((torch.tensor(head),), hidden @ w2[head])
    z = logit.reshape(-1) + bias
    return torch.nn.functional.softplus(z, threshold=1e4) if operator == "bucy" else torch.sigmoid(z)


def koss_update(
    operator: str, h: Tensor, x: Tensor, slope: Tensor, v: Tensor, K: Tensor, c: Tensor, delta: Tensor, rate: Tensor
) -> Tensor:
    """The state (N, D) after one step from h before it; x, slope, v = x + τ ẋ, K, delta (D,), c (N,), rate A (N, D).

    arXiv 2512.16723 with elementwise operators, κ = K c and φ1(z) = (e^z − 1)/z:
    discrete  h = (1 − κ) e^{ΔA} h + K v                 the discrete Kalman filter's own recursion
    kalman    h = h⁻ + K c (v − c·h⁻), h⁻ = e^{ΔA} h     one gain along c for all states of a channel (rank one)
    exact     h = e^{ΔA} (h − K x_{t−1}) + K x_t         h' = A h − A K x + K x', A_K = (I − KC) A (I − KC)⁻¹: it is
                                                         g + K x with g = e^{ΔA} (g − (K_t − K_{t−1}) x_{t−1})
    neumann   h = e^z h + φ1(z) K (ẋ − (1 − κ) Δ A x)    z = Δ (1 − κ²) A: the published truncation of `exact`
    bucy      h = e^z h + φ1(z) K (Δ v')                 z = Δ (A − κ): Kalman–Bucy, Δ v' = Δ x + τ ẋ
    `exact` needs the last x that came: slope = x_t − x_{t−1}, x_t itself where none came before.
    """
    kappa = K * c[:, None]
    E = torch.exp(delta * rate)
    if operator == "discrete":
        return (1.0 - kappa) * E * h + K * v
    if operator == "kalman":
        prior = E * h
        return prior + kappa * (v - (c[:, None] * prior).sum(0))
    if operator == "exact":
        return E * (h - K * (x - slope)) + K * x
    z = delta * ((1.0 - kappa**2) * rate if operator == "neumann" else rate - kappa)
    small = z.abs() < 1e-5
    safe = torch.where(small, 1.0, z)
    phi = torch.where(small, 1.0 + z / 2.0 + z**2 / 6.0, torch.expm1(safe) / safe)
    if operator == "neumann":
        return torch.exp(z) * h + phi * K * (slope - (1.0 - kappa) * delta * rate * x)
    return torch.exp(z) * h + phi * K * (delta * x + (v - x))


def koss_loop(inputs: LoopInputs, form: LoopForm) -> tuple[Tensor, Tensor]:
    """y (T, D) and the last state (N, D) of one sequence: every tensor of `inputs` without its leading B.

    Segments of S steps from the carried state: predictions p_t = e^{Δ_t A} p_{t−1} open-loop, innovations
    e_t = x_t − c_t·p_t, gains, states, and for each further pass predictions again from the states just found. A gain
    that sees the prediction c_t·p_t sees that of its own pass, as the innovation does.
    """
    x, delta, read, bias, rate, w1, b1, w2, h, slope, lead, _ = inputs
    slope = torch.zeros_like(x) if slope is None else slope
    v = x if lead is None else x + lead * slope
    out = []
    for first in range(0, x.shape[0], form.segment):
        steps = range(first, min(first + form.segment, x.shape[0]))
        predictions, p = [], h
        for t in steps:
            p = torch.exp(delta[t] * rate) * p
            predictions.append(p)
        states: list[Tensor] = []
        for _ in range(form.passes + 1):
            if states:
                predictions = [torch.exp(delta[t] * rate) * g for t, g in zip(steps, [h, *states[:-1]], strict=True)]
            states, g = [], h
            for t, p in zip(steps, predictions, strict=True):
                predicted = (read[t][:, None] * p).sum(0)
                e = x[t] - predicted if form.innovate else x[t]
                K = koss_gain(e, bias[t], w1, b1, w2, form.operator, predicted)
                g = koss_update(form.operator, g, x[t], slope[t], v[t], K, read[t], delta[t], rate)
                states.append(g)
        out += [(read[t][:, None] * g).sum(0) for t, g in zip(steps, states, strict=True)]
        h = states[-1]
    return torch.stack(out), h


def koss_given_gains(
    x: Tensor, delta: Tensor, gain: Tensor, read: Tensor, rate: Tensor, start: Tensor,
    slope: Tensor | None = None, lead: Tensor | None = None, operator: str = "discrete",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same recurrence with gains K (T, D) that do not depend on the state."""
    slope = torch.zeros_like(x) if slope is None else slope
    v = x if lead is None else x + lead * slope
    h, out = start, []
    for t in range(x.shape[0]):
        h = koss_update(operator, h, x[t], slope[t], v[t], gain[t], read[t], delta[t], rate)
        out.append((read[t][:, None] * h).sum(0))
    return torch.stack(out), h


def selective_scan(
    x: Tensor, delta: Tensor, write: Tensor, read: Tensor, rate: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """h = e^{ΔA} h + Δ b x, y = c·h for b, c (T, N): Mamba's selective scan (arXiv 2312.00752, algorithm 2)."""
    h, out = start, []
    for t in range(x.shape[0]):
        h = torch.exp(delta[t] * rate) * h + write[t][:, None] * (delta[t] * x[t])
        out.append((read[t][:, None] * h).sum(0))
    return torch.stack(out), h
