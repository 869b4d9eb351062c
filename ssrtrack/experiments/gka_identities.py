"""What Gated KalmaNet's operator is in special cases, each computed a second way: how far the two are apart.

full covariance   γ = 1 and λ constant: a Kalman filter of a constant s with prior N(0, I/λ) and unit noise (arXiv
                  2511.21016, section 6): recall kᵀs, and its variance qᵀ(H + λ I)⁻¹q
prior put again   γ ≤ 1, λ = a ‖H‖_F: the filter forgets, P → P/γ, and λ_t − γ λ_{t−1} ≥ 0 of the prior's information
                  comes back as a measurement of every number of s, that it is 0
linear attention  α = 0: o_t = D^−½ Σ_j (γ_{j+1} … γ_t) (q_t·k_j) v_j
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ssrtrack.kernels import gka_torch
from ssrtrack.kernels.gka import gka
from ssrtrack.kernels.gka_form import GkaForm, GkaInputs
from ssrtrack.kernels.gka_reference import gka_loop

Tensor = torch.Tensor
STEPS, WIDTH, VALUES, RIDGE, SOLVED = 200, 16, 8, 0.02, 200


class Filter(NamedTuple):
    """Mean (D, V) and covariance (D, D) of s, whose V columns are seen through kᵀs with independent noise."""

    mean: Tensor
    covariance: Tensor

    def seen(self, k: Tensor, v: Tensor, noise: float = 1.0) -> "Filter":
        """After v (V,) = kᵀs + noise of that variance; Joseph's form."""
        gain = self.covariance @ k / (k @ self.covariance @ k + noise)
        rest = torch.eye(len(k), dtype=k.dtype) - torch.outer(gain, k)
        covariance = rest @ self.covariance @ rest.T + noise * torch.outer(gain, gain)
        return Filter(self.mean + torch.outer(gain, v - k @ self.mean), covariance)


def drawn(decay: float, seed: int = 0) -> list[Tensor]:
    """q, k (T, D), v (T, V), log γ (T,) in [−decay, 0]: unit queries and keys."""
    g = torch.Generator().manual_seed(seed)
    wide: dict[str, Any] = {"generator": g, "dtype": torch.float64}
    q, k = (torch.randn(STEPS, WIDTH, **wide) for _ in range(2))
    q, k = (part / part.norm(dim=-1, keepdim=True) for part in (q, k))
    return [q, k, torch.randn(STEPS, VALUES, **wide), -decay * torch.rand(STEPS, **wide)]


def full_covariance() -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """What is compared, with what, the operator's numbers and the filter's."""
    q, k, v, log_decay = drawn(0.0)
    lam = 0.4
    kf = Filter(torch.zeros(WIDTH, VALUES, dtype=q.dtype), torch.eye(WIDTH, dtype=q.dtype) / lam)
    means, spreads = [], []
    for t in range(STEPS):
        kf = kf.seen(k[t], v[t])
        means.append(q[t] @ kf.mean)
        spreads.append(q[t] @ kf.covariance @ q[t])
    form = GkaForm(lam, SOLVED, adaptive=False)
    blank = torch.zeros(WIDTH, WIDTH, dtype=q.dtype), torch.zeros(WIDTH, VALUES, dtype=q.dtype)
    o, spread, *_ = gka_loop(q, k, v, log_decay, torch.ones_like(log_decay), *blank, form)
    chunks, *_ = gka_torch.forward(GkaInputs(*(part[None, :, None] for part in (q, k, v, log_decay))), form, False)
    yield "full covariance: recall", "loops, exact", o, torch.stack(means)
    yield "full covariance: variance", "loops, exact", spread, torch.stack(spreads)
    yield "full covariance: recall", f"chunks, {SOLVED} iterations", chunks[0, :, 0], torch.stack(means)


def prior_put_again() -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """As `full_covariance`; the first row's filter starts with that row's own prior."""
    q, k, v, log_decay = drawn(0.1)
    H, eye, means = torch.zeros(WIDTH, WIDTH, dtype=q.dtype), torch.eye(WIDTH, dtype=q.dtype), []
    lam, kf = 0.0, Filter(torch.zeros(WIDTH, VALUES, dtype=q.dtype), eye)
    for t in range(STEPS):
        gamma = float(log_decay[t].exp())
        H = gamma * H + torch.outer(k[t], k[t])
        now = RIDGE * float(H.norm())
        kf = kf._replace(covariance=eye / now if t == 0 else kf.covariance / gamma)
        for direction in eye if t else ():
            kf = kf.seen(direction, torch.zeros(VALUES, dtype=q.dtype), 1.0 / (now - gamma * lam))
        kf, lam = kf.seen(k[t], v[t]), now
        means.append(q[t] @ kf.mean)
    inputs = GkaInputs(*(part[None, :, None] for part in (q, k, v, log_decay)))
    for iterations in (30, SOLVED):
        o, _ = gka(*inputs[:4], ridge=RIDGE, steps=iterations, scale=1.0, backend="torch")
        yield "prior put again: recall", f"chunks, {iterations} iterations", o[0, :, 0], torch.stack(means)


def linear_attention() -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """As `full_covariance`."""
    q, k, v, log_decay = drawn(0.1)
    total = log_decay.cumsum(0)
    weights = torch.tril((q @ k.T) * torch.exp((total[:, None] - total).clamp(max=0.0)))
    inputs = GkaInputs(*(part[None, :, None] for part in (q, k, v, log_decay)))
    o, _ = gka(*inputs[:4], torch.zeros_like(inputs.log_decay), backend="torch")
    yield "linear attention: recall", "chunks, α = 0", o[0, :, 0], WIDTH**-0.5 * weights @ v


def identities() -> list[tuple[str, str, float]]:
    """What is compared, how the operator computed it, and RMS(difference)/RMS, float64."""
    found = (case for part in (full_covariance, prior_put_again, linear_attention) for case in part())
    return [(what, how, float((a - b).norm() / b.norm())) for what, how, a, b in found]
