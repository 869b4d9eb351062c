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
    ask_rows,
    ask_square,
    by_largest,
    by_rows,
    chunk_of,
    column,
    decays,
    gates,
    head_at,
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


@triton.jit(do_not_specialize=["steps", "begin", "count", "rounds"])
def adjoint_kernel(
    q, k, v, log_z, alpha, x, size, F, go, H0, U0, gq, adjoint, g_alpha, w_out, b_out, reach, drift,
    offsets, firsts, owners, steps, begin, count, heads, D, V, rounds, short, ridge, rho2, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, OT: tl.constexpr,
    DOT: tl.constexpr, ALPHA: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """∂L/∂q and d (B, T, H, D); (B, T, H): ∂L/∂α, w_t = 2 a x·d / F, b_i = Σ_t M_ti z_t w_t, and in `reach`

    z_t (q̃_t·(scale U0 ∂L/∂o_t) − d_t·(H0 x_t)), what reaches step t from H0 and U0. drift (rows, heads): Σ_t w_t z_t².
    x, size and F as the forward kept.
    """
    b, h, t0, end, row, gated = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    go += head_at(b, t0, h, go_b, go_t, go_h)
    v += head_at(b, t0, h, v_b, v_t, v_h)
    G = gates(log_z + gated, C)
    K = rows(k + head_at(b, t0, h, k_b, k_t, k_h), left, k_t, d, D, C, EVEN).to(DT)
    Q = rows(q + head_at(b, t0, h, q_b, q_t, q_h), left, q_t, d, D, C, EVEN).to(tl.float32)
    e_x = column(size + at, left, heads, C, 0.0)
    X = rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
    # Behind what is wanted at once.
    ask_rows(go, left, go_t, V, C, VP)
    ask_rows(v, left, v_t, V, C, VP)
    ask_square(U0, row, heads, h, DP, VP)
    ask_square(H0, row, heads, h, DP, DP)
    mixed, mix = X, tl.full([C], 1.0, tl.float32)
    if ALPHA:
        mix = column(alpha + at, left, heads, C, 0.0)
        mixed = Q + mix[:, None] * (X - Q)
    g, through = readout_back(
        go, v, U0, K, G, mixed, row, heads, h, left, V, go_t, v_t, scale, C, DP, VP, BV, DT, DOT, EVEN_V,
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
    H, e_H = by_largest(H0, row, heads, h, DP, OT)
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
    tl.store(drift + row * heads + h, tl.sum(w * z * z, 0))
    later = tl.sum(decays(G, C) * (w * z)[:, None], 0)
    put_column(b_out + at, later, left, heads, C)
    if ALPHA:
        tl.debug_barrier()
        waited = rows(gq, left, heads * D, d, D, C, EVEN).to(tl.float32)
        put_rows(gq, y + waited, left, heads * D, d, D, C, EVEN)
    else:
        put_rows(gq, y, left, heads * D, d, D, C, EVEN)
