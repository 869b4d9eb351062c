"""Gated KalmaNet in plain float64 loops: what every faster path is compared with.

One head of one sequence at a time, every formula of arXiv 2511.21016 written out once; in torch, so that autograd
differentiates it. Letters as in `gka_form`.
"""

from functools import partial
from typing import Any

import torch

from ssrtrack.kernels.gka_form import EMPTY, LOWEST, PADDING, GkaForm, GkaInputs

Tensor = torch.Tensor


def regularised(H: Tensor, form: GkaForm) -> tuple[Tensor, Tensor, Tensor]:
    """‖H‖_F, λ and whether the memory is empty (all three without axes), of H (D, D).

    λ = a ‖H‖_F, or a where the form is not adaptive. The norm of an empty memory is handed back as 1, so that nothing
    is divided by it, in a gradient neither.
    """
    square = (H * H).sum()
    empty = square <= EMPTY**2
    F = torch.sqrt(torch.where(empty, 1.0, square))
    if form.adaptive:
        return F, form.ridge * F, empty
    return torch.where(empty, 0.0, F), torch.full_like(F, form.ridge), torch.zeros_like(empty)


def solved(H: Tensor, lam: Tensor, q: Tensor) -> Tensor:
    """x (D,) with (H + λ I) x = q."""
    x: Tensor = torch.linalg.solve(H + lam * torch.eye(q.shape[0], dtype=q.dtype, device=q.device), q)
    return x


def chebyshev(H: Tensor, F: Tensor, lam: Tensor, q: Tensor, steps: int) -> Tensor:
    """x (D,) after `steps` iterations (algorithm 1, w_0 = 2) on H + λ I, whose eigenvalues lie in [λ, L].

    L = λ + ‖H‖_F (1 + PADDING), s = 2/(L + λ), ρ = (L − λ)/(L + λ); x_0 = s q, then w ← 4/(4 − ρ² w) and
    x_{i+1} = w x_i − s w ((H + λ I) x_i − q) − (w − 1) x_{i−1}.
    """
    L = lam + F * (1.0 + PADDING)
    s, rho = 2.0 / (L + lam), (L - lam) / (L + lam)
    before, x, w = torch.zeros_like(q), s * q, torch.full_like(F, 2.0)
    for _ in range(steps):
        w = 4.0 / (4.0 - rho * rho * w)
        x, before = w * x - s * w * (H @ x + lam * x - q) - (w - 1.0) * before, x
    return x


def one_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor, H: Tensor, U: Tensor,
    form: GkaForm, exact: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """o (V,), predictive variance qᵀ(H + λ I)⁻¹q, H (D, D) and U (D, V) after one step of q, k (D,), v (V,).

    The variance is in units of the values' noise variance, and infinite where the memory is empty.
    """
    gamma = torch.exp(torch.clamp(log_decay, min=LOWEST))
    H = gamma * H + torch.outer(k, k)
    U = gamma * U + torch.outer(k, v)
    F, lam, empty = regularised(H, form)
    x = solved(torch.where(empty, 0.0, H), lam, q) if exact else chebyshev(H, F, lam, q, form.steps)
    x = torch.where(empty, 0.0, x)
    variance = torch.where(empty, torch.inf, q @ x)
    return form.scale * ((q + alpha * (x - q)) @ U), variance, H, U


def gka_loop(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, alpha: Tensor, H: Tensor, U: Tensor,
    form: GkaForm, exact: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """o (T, V), predictive variances (T,) and the last H (D, D) and U (D, V) of one head of one sequence.

    q, k (T, D), v (T, V), log_decay, alpha (T,), H (D, D) symmetric and positive semidefinite, U (D, V).
    """
    outputs, variances = [v.new_zeros(0, v.shape[1])], [v.new_zeros(0)]
    for t in range(q.shape[0]):
        o, variance, H, U = one_step(q[t], k[t], v[t], log_decay[t], alpha[t], H, U, form, exact)
        outputs.append(o[None])
        variances.append(variance[None])
    return torch.cat(outputs), torch.cat(variances), H, U


def forward(inputs: GkaInputs, form: GkaForm, *, exact: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), H (N, H, D, D) and U (N, H, D, V), all float64: `gka_loop` for every head of every sequence."""
    q, k, v, log_decay = (part.double() for part in inputs[:4])
    alpha = torch.ones_like(log_decay) if inputs.alpha is None else inputs.alpha.double()
    (heads, D), V, sequences = q.shape[2:], v.shape[3], inputs.sequences
    H = q.new_zeros(sequences, heads, D, D) if inputs.H0 is None else inputs.H0.double()
    U = q.new_zeros(sequences, heads, D, V) if inputs.U0 is None else inputs.U0.double()
    H = 0.5 * (H + H.transpose(-1, -2))
    timed = [q, k, v, log_decay, alpha]
    if inputs.offsets is None:
        o, H, U = _batch(timed, H, U, form, exact)
        return o, H, U
    ends, found = inputs.offsets.tolist(), []
    for n in range(sequences):
        own = [part[:, ends[n] : ends[n + 1]] for part in timed]
        found.append(_batch(own, H[n : n + 1], U[n : n + 1], form, exact))
    return (
        torch.cat([o for o, _, _ in found], 1),
        torch.cat([H for _, H, _ in found]),
        torch.cat([U for *_, U in found]),
    )


def _batch(timed: list[Tensor], H: Tensor, U: Tensor, form: GkaForm, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences (B, T, H, …) of one length, each head by itself."""
    rows = [part.transpose(1, 2).flatten(0, 1) for part in timed]

    loop: Any = partial(gka_loop, form=form, exact=exact)
    o, _, last_H, last_U = torch.vmap(loop)(*rows, H.flatten(0, 1), U.flatten(0, 1))
    return o.view(*H.shape[:2], *o.shape[1:]).transpose(1, 2), last_H.view_as(H), last_U.view_as(U)
