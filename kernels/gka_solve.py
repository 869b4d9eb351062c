"""Forward of Gated KalmaNet chunk by chunk in Triton: ‖H_t‖_F, Chebyshev's iterations, α, readout; all steps at once.

For all C steps of a chunk together (arXiv 2511.21016, section 4.2.1; letters as in `gka_chunks`), with rows x_t in X:

    rows H_t x_t = z ∘ (X H0) + ((X Kᵀ) ∘ M) K

What is iterated is x̂ = F x, whose matrix H/F + a I has the same bounds at every step: ŝ, ρ and the weights w are
constants. Where a memory is of low rank x is up to 51 times as large across the keys as along them, and a rounding of
x, K or M by 2⁻ⁿ is one of the outputs by 51 · 2⁻ⁿ. So tensor cores get float16, with three bits more than bfloat16, and
its narrow range is seen to: rows of K and Q, and H0, are divided by powers of two, which go into M and z where they
meet 1/F; there M_tj e_j²/F_t and z_t e_H/F_t are at most 1, since F_t is at least |k_j|² M_tj and z_t ‖H0‖.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_tiles import (
    EMPTY,
    ask_rows,
    ask_square,
    by_largest,
    by_rows,
    by_whole,
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
def norms(K, e, H, e_H, G, C: tl.constexpr, DOT: tl.constexpr):
    """‖H_t‖_F (C,), by F_t² = γ_t² F_{t−1}² + r_t with r_t = |k_t|⁴ + 2 (z_t k_tᵀ H0 k_t + Σ_{j<t} M_tj (k_t·k_j)²).

    Of such a recurrence the solution is z_t² F_0² + Σ_s M_ts² r_s, all positive. e (C,) and e_H: what K and H were
    divided by.
    """
    z, t = tl.exp2(G), tl.arange(0, C)
    gram = tl.dot(K, tl.trans(K), input_precision=DOT) * (e[:, None] * e[None, :])
    square = gram * gram
    # Adds 0: so M lies where the product does, whose rows few threads share.
    M = decays(G, C) + tl.minimum(square, 0.0)
    twice = tl.where(t[:, None] == t[None, :], 1.0, 2.0)
    h = tl.sum(tl.dot(K, H, input_precision=DOT) * K.to(tl.float32), 1) * (e * e * e_H)
    r = tl.sum(twice * M * square, 1) + 2.0 * z * h
    start = tl.sum(tl.sum(H.to(tl.float32) * H.to(tl.float32), 1), 0) * (e_H * e_H)
    return tl.sqrt(tl.maximum(z * z * start + tl.sum(M * M * r[None, :], 1), 0.0))


@triton.jit
def iterated(x, before, w, right, K, H, near, far, short, ridge, DOT: tl.constexpr):
    """The x̂ after x̂ and x̂₋: x̂ + (w − 1)(x̂ − x̂₋) + w ŝ (right − a x̂ − H x̂).

    x̂ is kept in the operands' precision: its products are then those of the very x̂ that is added to, so that
    iterations come to rest where the equations hold; and what is added is small there, and so is its rounding.
    """
    DT: tl.constexpr = K.dtype
    more, part = tl.full([], w - 1.0, DT), tl.full([], w * short, DT)
    y = more * (x - before) + part * (right - tl.full([], ridge, DT) * x)
    # The sign is there twice: as what has been computed just now, −x̂ goes from registers to the tensor cores.
    S = (tl.dot(-x, tl.trans(K), input_precision=DOT) * (w * short)).to(DT) * near
    y = tl.dot(x * (-w * short * far).to(DT)[:, None], H, y.to(tl.float32), input_precision=DOT)
    return x + tl.dot(S, K, y, input_precision=DOT).to(DT)


@triton.jit
def solved(right, K, e, H, e_H, G, F, rounds, short, ridge, rho2, C: tl.constexpr, DOT: tl.constexpr):
    """x̂ (C, DP) with (H_t / F_t + a I) x̂_t = right_t by `rounds` iterations of Chebyshev.

    Two at a time: what was x̂ becomes x̂₋ where it stands. e (C,) and e_H: what K and H were divided by.
    """
    F = tl.where(F <= EMPTY, 1.0, F)
    # Bounded by 16 and 4 where K and H hold something. Where they do not, what they were divided by is 1, and 1/F, of
    # small keys, may be more than float16 has: their zeros times that are to be zeros.
    near = tl.minimum(decays(G, C) * ((e * e)[None, :] / F[:, None]), 32.0).to(K.dtype)
    far = tl.minimum(tl.exp2(G) * (e_H / F), 8.0)
    x = (short * right.to(tl.float32)).to(K.dtype)
    before = tl.zeros_like(x)
    w = short * 0.0 + 2.0
    for _ in range(rounds // 2):
        w = 4.0 / (4.0 - rho2 * w)
        before = iterated(x, before, w, right, K, H, near, far, short, ridge, DOT)
        w = 4.0 / (4.0 - rho2 * w)
        x = iterated(before, x, w, right, K, H, near, far, short, ridge, DOT)
    if rounds % 2 == 1:
        w = 4.0 / (4.0 - rho2 * w)
        x = iterated(x, before, w, right, K, H, near, far, short, ridge, DOT)
    return x.to(tl.float32)


@triton.jit
def per_norm(F):
    """1/F (C,), 0 where the memory is empty."""
    return tl.where(F <= EMPTY, 0.0, 1.0 / tl.where(F <= EMPTY, 1.0, F))


@triton.jit(do_not_specialize=["steps", "begin", "count", "rounds"])
def solve_kernel(
    q, k, v, log_z, alpha, H0, U0, o, kept_x, kept_size, kept_F, offsets, firsts, owners,
    steps, begin, count, heads, D, V, rounds, short, ridge, rho2, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, OT: tl.constexpr,
    DOT: tl.constexpr, ALPHA: tl.constexpr, KEEP: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """o (B, T, H, V), of the states H0 and U0 before each chunk; where KEEP x (B, T, H, D) and F (B, T, H).

    x is kept divided by `kept_size` (B, T, H). DT: the precision of states and values, OT: that of operands where
    rounding is amplified.
    """
    b, h, t0, end, row, gated = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    k += head_at(b, t0, h, k_b, k_t, k_h)
    q += head_at(b, t0, h, q_b, q_t, q_h)
    v += head_at(b, t0, h, v_b, v_t, v_h)
    G = gates(log_z + gated, C)
    K = rows(k, left, k_t, d, D, C, EVEN)
    # Behind what is wanted at once.
    ask_square(H0, row, heads, h, DP, DP)
    ask_rows(q, left, q_t, D, C, DP)
    ask_rows(v, left, v_t, V, C, VP)
    ask_square(U0, row, heads, h, DP, VP)
    K, e = by_rows(K, OT)
    H, e_H = by_largest(H0, row, heads, h, DP, OT)
    F = norms(K, e, H, e_H, G, C, DOT)
    Q, e_q = by_rows(rows(q, left, q_t, d, D, C, EVEN), OT)
    x = solved(Q, K, e, H, e_H, G, F, rounds, short, ridge, rho2, C, DOT)
    e_x = e_q * per_norm(F)
    if KEEP:
        put_rows(kept_x + at * D, x, left, heads * D, d, D, C, EVEN)
        put_column(kept_size + at, e_x, left, heads, C)
        put_column(kept_F + at, F, left, heads, C)
    x *= e_x[:, None]
    if ALPHA:
        mix = column(alpha + at, left, heads, C, 0.0)[:, None]
        x = (1.0 - mix) * rows(q, left, q_t, d, D, C, EVEN).to(tl.float32) + mix * x
    X, e_x = by_rows(x, OT)
    e_x *= scale
    weights = decays(G, C) * (e_x[:, None] * e[None, :])
    S = (tl.dot(X, tl.trans(K), input_precision=DOT) * weights).to(DT)
    for e0 in tl.static_range(0, VP, BV):
        c = e0 + tl.arange(0, BV)
        U, e_U = by_whole(tl.load(square(U0, row, heads, h, d, c, DP, VP)), OT)
        y = tl.dot(X, U, input_precision=DOT) * (e_x * tl.exp2(G) * e_U)[:, None]
        y = tl.dot(S, rows(v, left, v_t, c, V, C, EVEN_V).to(DT), y, input_precision=DOT)
        put_rows(o + at * V, y, left, heads * V, c, V, C, EVEN_V)
