"""Backward of Gated KalmaNet's readout, α and solution chunk by chunk in Triton: the adjoint equations, and ∂L/∂q.

With q̃ = q + α (x − q) and g = ∂L/∂q̃ = scale · U ∂L/∂o, the equations (H + λ I) d = α g are solved by the forward's
iterations (implicit differentiation, arXiv 2511.21016, lemma 1); then ∂L/∂q = (1 − α) g + d, ∂L/∂α = g·(x − q) and
∂L/∂λ = −x·d.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_solve import per_norm, solved
from ssrtrack.kernels.gka_tiles import (
    by_rows,
    by_whole,
    chunk_of,
    column,
    decays,
    gates,
    head_at,
    last_of,
    put_column,
    put_rows,
    rows,
    square,
)


@triton.jit
def readout_back(
    go, v, U0, K, G, mixed, row, heads, h, left, V, go_t, v_t, scale,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """g (C, DP), and what of q̃·g goes through U0 (C,)."""
    g = tl.zeros([C, DP], tl.float32)
    S = tl.zeros([C, C], tl.float32)
    d = tl.arange(0, DP)
    for e0 in tl.static_range(0, VP, BV):
        e = e0 + tl.arange(0, BV)
        Y = rows(go, left, go_t, e, V, C, EVEN_V).to(DT)
        U = tl.load(square(U0, row, heads, h, d, e, DP, VP))
        g = tl.dot(Y, tl.trans(U), g, input_precision=DOT)
        S = tl.dot(Y, tl.trans(rows(v, left, v_t, e, V, C, EVEN_V).to(DT)), S, input_precision=DOT)
    g *= (scale * tl.exp2(G))[:, None]
    through = tl.sum(g * mixed, 1)
    g = tl.dot((S * scale * decays(G, C)).to(DT), K, g, input_precision=DOT)
    return g, through


@triton.jit
def own_H(
    dH, H0, k, x, e_x, adjoint, w, b, z, row, heads, h, left, k_t, D,
    C: tl.constexpr, DP: tl.constexpr, BS: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """A chunk's share of ∂L/∂H0: −½ (Σ z_t (d_t x_tᵀ + x_t d_tᵀ) + (Σ w_t z_t²) H0 + Kᵀ diag(b) K)."""
    d = tl.arange(0, DP)
    K = rows(k, left, k_t, d, D, C, EVEN).to(DT)
    X = (rows(x, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]).to(DT)
    Y = rows(adjoint, left, heads * D, d, D, C, EVEN)
    half, more, same = (-0.5 * z)[:, None], (-0.5 * b)[:, None], -0.5 * tl.sum(w * z * z, 0)
    for e0 in range(0, DP, BS):
        e = e0 + tl.arange(0, BS)
        share = same * tl.load(square(H0, row, heads, h, d, e, DP, DP)).to(tl.float32)
        Ye = (half * rows(adjoint, left, heads * D, e, D, C, EVEN).to(tl.float32)).to(DT)
        share = tl.dot(tl.trans(X), Ye, share, input_precision=DOT)
        Xe = (half * e_x[:, None] * rows(x, left, heads * D, e, D, C, EVEN).to(tl.float32)).to(DT)
        share = tl.dot(tl.trans(Y), Xe, share, input_precision=DOT)
        Ke = (more * rows(k, left, k_t, e, D, C, EVEN).to(tl.float32)).to(DT)
        share = tl.dot(tl.trans(K), Ke, share, input_precision=DOT)
        put = square(dH, row, heads, h, d, e, DP, DP)
        tl.store(put, share.to(put.dtype.element_ty))


@triton.jit
def own_U(
    dU, go, mixed, z, row, heads, h, left, V, go_t, scale,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BS: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """A chunk's share of ∂L/∂U0: scale Σ z_t q̃_t ∂L/∂o_tᵀ."""
    weighed = (mixed * (scale * z)[:, None]).to(DT)
    for e0 in range(0, VP, BS):
        e = e0 + tl.arange(0, BS)
        Y = rows(go, left, go_t, e, V, C, EVEN_V).to(DT)
        share = tl.dot(tl.trans(weighed), Y, input_precision=DOT)
        put = square(dU, row, heads, h, tl.arange(0, DP), e, DP, VP)
        tl.store(put, share.to(put.dtype.element_ty))


@triton.jit(do_not_specialize=["steps", "begin", "count", "rounds"])
def adjoint_kernel(
    q, k, v, log_decay, alpha, x, size, F, go, H0, U0, gq, adjoint, g_alpha, w_out, b_out, reach, dH, dU, lasts,
    offsets, firsts, owners,
    steps, begin, count, heads, D, V, rounds, short, ridge, rho2, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr, DT: tl.constexpr,
    OT: tl.constexpr, DOT: tl.constexpr, ALPHA: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """∂L/∂q and d (B, T, H, D); (B, T, H): ∂L/∂α, w_t = 2 a x·d / F, b_i = Σ_t M_ti z_t w_t, and in `reach`

    z_t (q̃_t·(scale U0 ∂L/∂o_t) − d_t·(H0 x_t)), what reaches step t from H0 and U0. Of each chunk, laid out as H0
    and U0: its own shares of ∂L/∂H0 and ∂L/∂U0, and log₂ z_C in lasts (rows, heads). x, size and F as the forward kept.
    """
    b, h, t0, end, row = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    G = gates(log_decay + at, left, heads, C)
    K = rows(k + head_at(b, t0, h, k_b, k_t, k_h), left, k_t, d, D, C, EVEN).to(DT)
    Q = rows(q + head_at(b, t0, h, q_b, q_t, q_h), left, q_t, d, D, C, EVEN).to(tl.float32)
    e_x = column(size + at, left, heads, C, 0.0)
    X = rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
    mixed, mix = X, tl.full([C], 1.0, tl.float32)
    if ALPHA:
        mix = column(alpha + at, left, heads, C, 0.0)
        mixed = Q + mix[:, None] * (X - Q)
    g, through = readout_back(
        go + head_at(b, t0, h, go_b, go_t, go_h), v + head_at(b, t0, h, v_b, v_t, v_h), U0, K, G, mixed,
        row, heads, h, left, V, go_t, v_t, scale, C, DP, VP, BV, DT, DOT, EVEN_V,
    )  # fmt: skip
    gq += at * D
    if ALPHA:
        put_column(g_alpha + at, tl.sum(g * (X - Q), 1), left, heads, C)
        # It waits in memory while registers are short.
        put_rows(gq, (1.0 - mix)[:, None] * g, left, heads * D, d, D, C, EVEN)
    g, e_g = by_rows(g * mix[:, None], OT)
    # Adds 0: so F lies in the rows' threads, and what is made of it needs no exchange in each iteration.
    norm = column(F + at, left, heads, C, 0.0) + tl.minimum(e_g, 0.0)
    K, e = by_rows(K, OT)
    H, e_H = by_whole(tl.load(square(H0, row, heads, h, d, d, DP, DP)), OT)
    y = solved(g, K, e, H, e_H, G, norm, rounds, short, ridge, rho2, C, DOT)
    X = rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
    e_g *= per_norm(norm)
    z = tl.exp2(G)
    crossed = z * e_g * e_H * tl.sum(tl.dot(y.to(OT), H, input_precision=DOT) * X, 1)
    put_column(reach + at, through - crossed, left, heads, C)
    y *= e_g[:, None]
    put_rows(adjoint + at * D, y, left, heads * D, d, D, C, EVEN)
    w = 2.0 * ridge * tl.sum(X * y, 1) * per_norm(norm)
    put_column(w_out + at, w, left, heads, C)
    later = tl.sum(decays(G, C) * (w * z)[:, None], 0)
    put_column(b_out + at, later, left, heads, C)
    tl.store(lasts + tl.cast(row, tl.int64) * heads + h, last_of(G, C))
    if ALPHA:
        tl.debug_barrier()
        waited = rows(gq, left, heads * D, d, D, C, EVEN).to(tl.float32)
        put_rows(gq, y + waited, left, heads * D, d, D, C, EVEN)
    else:
        put_rows(gq, y, left, heads * D, d, D, C, EVEN)
    # What comes next reads d as every thread has written it.
    tl.debug_barrier()
    own_H(
        dH, H0, k + head_at(b, t0, h, k_b, k_t, k_h), x + at * D, e_x, adjoint + at * D, w, later, z, row, heads, h,
        left, k_t, D, C, DP, BS, DT, DOT, EVEN,
    )  # fmt: skip
    mixed = rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
    if ALPHA:
        Q = rows(q + head_at(b, t0, h, q_b, q_t, q_h), left, q_t, d, D, C, EVEN).to(tl.float32)
        mixed = Q + mix[:, None] * (mixed - Q)
    own_U(
        dU, go + head_at(b, t0, h, go_b, go_t, go_h), mixed, z, row, heads, h, left, V, go_t, scale,
        C, DP, VP, BS, DT, DOT, EVEN_V,
    )  # fmt: skip
