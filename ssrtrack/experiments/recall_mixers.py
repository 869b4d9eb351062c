"""Linear memories to hold against Gated KalmaNet, by chunks in plain torch, each with the loop that says what it is.

For one head, with keys, queries (B, T, D), values (B, T, V), γ = exp(log_decay) and β (B, T):

    linear   S_t = γ_t S_{t−1} + k_t v_tᵀ                            o_t = D^−½ S_tᵀ q_t
    delta    S_t = γ_t (I − β_t k_t k_tᵀ) S_{t−1} + β_t k_t v_tᵀ

γ = 1: linear attention (arXiv 2006.16236, without its normaliser) and DeltaNet (2406.06484); else the scalar decay of
Mamba-2 (2405.21060) and Gated DeltaNet (2412.06464).

Chunks of C steps, with G the decays' logs summed from the chunk's start, z = e^G, M_ti = e^{G_t − G_i} for i ≤ t and 0
else, S0 the state before it. The delta rule writes k_t u_tᵀ, where u solves a unit lower triangular system (the WY form
of the product of its Householder-like factors):

    (I + diag(β) tril(M ⊙ K Kᵀ, −1)) u = diag(β) (V − diag(z) K S0)

Everything is computed in float32, or float64 where q is.
"""

from math import sqrt

import torch
from torch.nn import functional

Tensor = torch.Tensor
CHUNK = 64


def linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """o (B, T, V) of the rule `linear`; no log_decay: γ = 1. States of all chunks come by one product."""
    steps = q.shape[1]
    q, k, v, g = _chunked(q, k, v, log_decay)
    G, M = _decays(g)
    written = (_left(G) * k).mT @ v
    # From the end of chunk j to the start of chunk c: what is between them decays.
    total = G[..., -1, 0].cumsum(1)
    between = (total - G[..., -1, 0])[:, :, None] - total[:, None]
    n = between.shape[1]
    later = torch.ones(n, n, dtype=torch.bool, device=q.device).tril(-1)
    between = torch.where(later, between, -torch.inf).exp()
    S0 = (between @ written.flatten(2)).view_as(written)
    o: Tensor = G.exp() * (q @ S0) + ((q @ k.mT) * M) @ v
    return _scale(q) * o.flatten(1, 2)[:, :steps]


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """o (B, T, V) of the rule `delta`; no log_decay: γ = 1. Keys of norm 1 and β in [0, 1] keep it stable."""
    steps = q.shape[1]
    beta = _rows(beta[..., None], steps, q.dtype)
    q, k, v, g = _chunked(q, k, v, log_decay)
    G, M = _decays(g)
    z = G.exp()
    # The diagonal is not read: it counts as 1.
    system = beta * (M * (k @ k.mT))
    right = beta * torch.cat([v, z * k], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    u, w = solved.split((v.shape[-1], k.shape[-1]), -1)
    left = (_left(G) * k).mT
    kept = z[..., -1:, :] * torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    states = _walked(kept - left @ w, left @ u)
    o: Tensor = z * (q @ states) + ((q @ k.mT) * M) @ (u - w @ states)
    return _scale(q) * o.flatten(1, 2)[:, :steps]


def linear_attention_loop(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """The rule `linear`, step by step."""
    S, outputs = q.new_zeros(q.shape[0], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[1]):
        if log_decay is not None:
            S = log_decay[:, t, None, None].exp() * S
        S = S + k[:, t, :, None] * v[:, t, None]
        outputs.append((S.mT @ q[:, t, :, None])[..., 0])
    return _scale(q) * torch.stack(outputs, 1)


def delta_rule_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """The rule `delta`, step by step."""
    S, outputs = q.new_zeros(q.shape[0], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[1]):
        if log_decay is not None:
            S = log_decay[:, t, None, None].exp() * S
        key = k[:, t, :, None]
        S = S + beta[:, t, None, None] * key * (v[:, t, None] - key.mT @ S)
        outputs.append((S.mT @ q[:, t, :, None])[..., 0])
    return _scale(q) * torch.stack(outputs, 1)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention with rotary positions (arXiv 2104.09864), q and k (B, T, D) with an even D."""
    steps, width = q.shape[1:]
    slow = 10_000.0 ** (-torch.arange(0, width, 2, device=q.device) / width)
    angles = torch.arange(steps, device=q.device)[:, None] * slow
    q, k = (_turned(part, angles.cos(), angles.sin()) for part in (q, k))
    return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=True)[:, 0]


def _scale(q: Tensor) -> float:
    return 1.0 / sqrt(q.shape[-1])


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


def _rows(x: Tensor, steps: int, kind: torch.dtype) -> Tensor:
    """(B, T, …) to (B, chunks, C, …) in the precision of the algebra; steps that are not there are zeros."""
    size = min(CHUNK, steps)
    full = torch.promote_types(kind, torch.float32)
    short = -steps % size
    if short:
        x = functional.pad(x, (0, 0, 0, short))
    return x.to(full).reshape(x.shape[0], -1, size, x.shape[-1])


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = q.new_zeros(q.shape[:2]) if log_decay is None else log_decay
    rows = [_rows(part, q.shape[1], q.dtype) for part in (q, k, v, g[..., None])]
    return rows[0], rows[1], rows[2], rows[3]


def _decays(g: Tensor) -> tuple[Tensor, Tensor]:
    """G (B, n, C, 1) and M (B, n, C, C)."""
    G = g.cumsum(-2)
    seen = torch.ones(g.shape[-2], g.shape[-2], dtype=torch.bool, device=g.device).tril()
    # Masked before it is raised: above the diagonal the difference may be large.
    return G, torch.where(seen, G - G.mT, -torch.inf).exp()


def _left(G: Tensor) -> Tensor:
    """What is left at the chunk's end of what each step wrote (B, n, C, 1)."""
    return (G[..., -1:, :] - G).exp()


def _walked(change: Tensor, written: Tensor) -> Tensor:
    """States before each chunk (B, n, D, V): S ← change S + written, from zero."""
    changes, writings = change.unbind(1), written.unbind(1)
    states = [torch.zeros_like(writings[0]), writings[0]]
    for c in range(1, len(writings) - 1):
        states.append(torch.baddbmm(writings[c], changes[c], states[-1]))
    return torch.stack(states[: len(writings)], 1)
