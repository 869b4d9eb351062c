"""Forward of Gated KalmaNet chunk by chunk in Triton: ‖H_t‖_F, Chebyshev's iterations, α, readout; all steps at once.

For all C steps of a chunk together (arXiv 2511.21016, section 4.2.1; letters as in `gka_chunks`), with rows x_t in X:

    rows H_t x_t = z ∘ (X H0 + ((X K̂ᵀ) ∘ past) K̂)        K̂_j = k_j / √z_j

so that all that differs from row to row is one factor, which goes into the left operand before it is rounded. What is
iterated is x̂ = F x, whose matrix H/F + a I has the same bounds at every step: ŝ, ρ and the weights w are constants.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_tiles import (
    EMPTY,
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

# Decay over a chunk, in powers of two, up to which z is factored out of the rows: 2^±58 and its square root then stand
# in the operands, which neither overflow nor lose what matters. Beyond, M is applied as it is.
FACTORED = tl.constexpr(116.0)


@triton.jit
def norms(K, H, G, C: tl.constexpr, DOT: tl.constexpr):
    """‖H_t‖_F (C,): <H_t, H_t> = z_t² ‖H0‖² + Σ_i M_ti (2 z_t k_iᵀ H0 k_i + Σ_j M_tj (k_i·k_j)²)."""
    M, z = decays(G, C), tl.exp2(G)
    gram = tl.dot(K, tl.trans(K), input_precision=DOT)
    h = tl.sum(tl.dot(K, H, input_precision=DOT) * K.to(tl.float32), 1)
    start = tl.sum(tl.sum(H.to(tl.float32) * H.to(tl.float32), 1), 0)
    inner = tl.dot(M, gram * gram, input_precision=DOT) + 2.0 * z[:, None] * h[None, :]
    return tl.sqrt(tl.maximum(z * z * start + tl.sum(M * inner, 1), 0.0))


@triton.jit
def stepped(x, before, right, w, short, ridge):
    """What an iteration adds H x̂'s part to: x̂ + (w − 1)(x̂ − x̂₋) + w ŝ (right − a x̂)."""
    if right.dtype == tl.float32:
        return x + ((w - 1.0) * (x - before) + (w * short) * (right - ridge * x))
    else:
        # Three products instead of five; what that rounds more is little beside bfloat16.
        return (1.0 - w) * before + (w - w * short * ridge) * x + (w * short) * right.to(tl.float32)


@triton.jit
def iterated(x, before, w, right, K, H, scale, past, short, ridge, DOT: tl.constexpr):
    """The x̂ after x̂ and x̂₋."""
    X = (x * (-w * scale)[:, None]).to(K.dtype)
    S = tl.dot(X, tl.trans(K), input_precision=DOT).to(K.dtype) * past
    y = stepped(x, before, right, w, short, ridge)
    y = tl.dot(X, H, y, input_precision=DOT)
    return tl.dot(S, K, y, input_precision=DOT)


@triton.jit
def solved_factored(
    right, K, H, scale, rounds, short, ridge, rho2, C: tl.constexpr, DOT: tl.constexpr
):  # fmt: skip
    """x̂ (C, DP) of right sides (C, DP): x̂ ← `stepped` − w scale ∘ (H x̂), `rounds` times.

    Two at a time: what was x̂ becomes x̂₋ where it stands.
    """
    t = tl.arange(0, C)
    past = tl.where(t[:, None] >= t[None, :], 1.0, 0.0).to(K.dtype)
    x = short * right.to(tl.float32)
    before = tl.zeros_like(x)
    w = short * 0.0 + 2.0
    for _ in range(rounds // 2):
        w = 4.0 / (4.0 - rho2 * w)
        before = iterated(x, before, w, right, K, H, scale, past, short, ridge, DOT)
        w = 4.0 / (4.0 - rho2 * w)
        x = iterated(before, x, w, right, K, H, scale, past, short, ridge, DOT)
    if rounds % 2 == 1:
        w = 4.0 / (4.0 - rho2 * w)
        x = iterated(x, before, w, right, K, H, scale, past, short, ridge, DOT)
    return x


@triton.jit
def solved_general(
    right, K, H, G, scale, rounds, short, ridge, rho2, C: tl.constexpr, DOT: tl.constexpr
):  # fmt: skip
    """The same where z falls so far within the chunk that it cannot be factored."""
    z = tl.exp2(G)
    x = short * right.to(tl.float32)
    before = tl.zeros_like(x)
    w = short * 0.0 + 2.0
    for _ in range(rounds):
        w = 4.0 / (4.0 - rho2 * w)
        X = (x * (-w * scale)[:, None]).to(K.dtype)
        S = (tl.dot(X, tl.trans(K), input_precision=DOT) * decays(G, C)).to(K.dtype)
        y = stepped(x, before, right, w, short, ridge)
        y = tl.dot((X * z[:, None]).to(K.dtype), H, y, input_precision=DOT)
        y = tl.dot(S, K, y, input_precision=DOT)
        before = x
        x = y
    return x


@triton.jit
def solved(right, K, H, G, F, rounds, short, ridge, rho2, C: tl.constexpr, DOT: tl.constexpr):
    """x (C, DP) with (H_t + a F_t I) x_t = right_t by `rounds` iterations, 0 where the memory is empty.

    The factors are centred, z 2^c and K̂ = K / √(z 2^c), H0 2^−c, so that both stay near 1.
    """
    empty = F <= EMPTY
    F = tl.where(empty, 1.0, F)
    depth = -last_of(G, C)
    strong = depth > FACTORED
    if strong:
        x = solved_general(right, K, H, G, short / F, rounds, short, ridge, rho2, C, DOT)
    else:
        c = tl.floor(0.5 * depth)
        Kh = (K.to(tl.float32) * tl.exp2(-0.5 * (G + c))[:, None]).to(K.dtype)
        Hc = (H.to(tl.float32) * tl.exp2(-c)).to(H.dtype)
        x = solved_factored(right, Kh, Hc, short / F * tl.exp2(G + c), rounds, short, ridge, rho2, C, DOT)
    return tl.where(empty, 0.0, 1.0 / F)[:, None] * x


@triton.jit(do_not_specialize=["steps", "begin", "count", "rounds"])
def solve_kernel(
    q, k, v, log_decay, alpha, H0, U0, o, kept_x, kept_F, offsets, firsts, owners,
    steps, begin, count, heads, D, V, rounds, short, ridge, rho2, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    ALPHA: tl.constexpr, KEEP: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """o (B, T, H, V), and where KEEP x (B, T, H, D) and F (B, T, H), of the states H0 and U0 before each chunk."""
    b, h, t0, end, row = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    G = gates(log_decay + at, left, heads, C)
    K = rows(k + head_at(b, t0, h, k_b, k_t, k_h), left, k_t, d, D, C, EVEN).to(DT)
    H = tl.load(square(H0, row, heads, h, d, d, DP, DP))
    F = norms(K, H, G, C, DOT)
    Q = rows(q + head_at(b, t0, h, q_b, q_t, q_h), left, q_t, d, D, C, EVEN).to(DT)
    x = solved(Q, K, H, G, F, rounds, short, ridge, rho2, C, DOT)
    if KEEP:
        put_rows(kept_x + at * D, x, left, heads * D, d, D, C, EVEN)
        put_column(kept_F + at, F, left, heads, C)
    if ALPHA:
        mix = column(alpha + at, left, heads, C, 0.0)[:, None]
        x = (1.0 - mix) * Q.to(tl.float32) + mix * x
    X = x.to(DT)
    S = (tl.dot(X, tl.trans(K), input_precision=DOT) * decays(G, C)).to(DT)
    for e0 in tl.static_range(0, VP, BV):
        e = e0 + tl.arange(0, BV)
        U = tl.load(square(U0, row, heads, h, d, e, DP, VP))
        values = rows(v + head_at(b, t0, h, v_b, v_t, v_h), left, v_t, e, V, C, EVEN_V).to(DT)
        y = tl.dot(X, U, input_precision=DOT) * tl.exp2(G)[:, None]
        y = tl.dot(S, values, y, input_precision=DOT) * scale
        put_rows(o + at * V, y, left, heads * V, e, V, C, EVEN_V)
