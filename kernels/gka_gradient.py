"""What keys, values and decays get, chunk by chunk in Triton, from the solutions and the states around each chunk.

All (C, C) tiles have a row for what step i wrote and a column for the step t ≥ i that reads it, Mᵀ_it = z_t / z_i:

    ∂L/∂k_i = Σ_t Mᵀ_it ((v_i·y_t) q̃_t − (k_i·x_t) d_t − (k_i·d_t) x_t − w_t H_t k_i) + left_i (2 dH k_i + dU v_i)
    ∂L/∂v_i = Σ_t Mᵀ_it (k_i·q̃_t) y_t + left_i dUᵀ k_i
    ∂L/∂log γ_t: all that goes from before t to t and later: Σ_{j ≥ t} (Z_j + Σ_{i < t} Pᵀ_ij)

with y = scale · ∂L/∂o, left_i = z_C / z_i, and dH and dU after the chunk. The sum over the later H_t, each a sum over
steps itself, comes to b_i H0 k_i + Σ_j (Mᵀ diag(w) M)_ij (k_i·k_j) k_j. Nothing is subtracted in ∂L/∂log γ that was
added before: where decays are strong that would leave rounding alone.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_tiles import (
    ask_rows,
    ask_square,
    by_rows,
    by_whole,
    chunk_of,
    column,
    decays_ahead,
    gates,
    head_at,
    put_column,
    put_rows,
    rows,
    square,
)


@triton.jit
def solutions_back(gk, paths, K, X, Y, MT, DT: tl.constexpr, DOT: tl.constexpr):
    """∂L/∂k and paths (C, C) with the parts by −d xᵀ added."""
    by_x = tl.dot(K, tl.trans(X), input_precision=DOT)
    gk = tl.dot((by_x * -MT).to(DT), Y, gk, input_precision=DOT)
    by_d = tl.dot(K, tl.trans(Y), input_precision=DOT)
    gk = tl.dot((by_d * -MT).to(DT), X, gk, input_precision=DOT)
    return gk, paths - by_x * by_d


@triton.jit
def ridge_back(gk, paths, K, KH, G, w, b, start, C: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr):
    """The same with the parts by λ_t = a ‖H_t‖_F added; and what of them reaches step t from H0 (C,).

    KH: rows H0 k_i; start: ‖H0‖². Since M_ti M_tj = M_ij M_ti² for t ≥ i ≥ j, Mᵀ diag(w) M is no product of matrices.
    """
    z, i = tl.exp2(G), tl.arange(0, C)
    gk -= b[:, None] * KH
    quad = tl.sum(KH * K.to(tl.float32), 1)
    gram = tl.dot(K, tl.trans(K), input_precision=DOT)
    # Adds 0: so Mᵀ lies where the product does, whose rows few threads share.
    MT = decays_ahead(G, C) + tl.minimum(gram * gram, 0.0)
    twice = tl.sum(MT * MT * w[None, :], 1)
    later = tl.where(i[:, None] < i[None, :], twice[None, :], twice[:, None])
    weights = tl.exp2(-tl.abs(G[:, None] - G[None, :])) * later
    gk = tl.dot((gram * -weights).to(DT), K, gk, input_precision=DOT)
    paths -= (0.5 * w)[None, :] * (tl.dot(gram * gram, MT, input_precision=DOT) + quad[:, None] * z[None, :])
    return gk, paths, -0.5 * w * z * (z * start + tl.sum(MT * quad[:, None], 0))


@triton.jit
def decays_back(paths, reach, ends, end, C: tl.constexpr, DOT: tl.constexpr):
    """∂L/∂log γ (C,) of paths Pᵀ (C, C), reach Z (C,), and those to the state after the chunk, `ends` and `end`."""
    i = tl.arange(0, C)
    earlier = i[:, None] > i[None, :]
    before = tl.dot(tl.where(earlier, 1.0, 0.0), paths, input_precision=DOT)
    # Row t: ends before it, and from it on what reaches there.
    return tl.sum(tl.where(earlier, ends[None, :], before + reach[None, :]), 1) + end


@triton.jit
def product(a, b):
    """Σ a ∘ b of two (DP, …) tiles."""
    return tl.sum(tl.sum(a.to(tl.float32) * b.to(tl.float32), 1), 0)


@triton.jit(do_not_specialize=["steps", "begin", "count"])
def keys_kernel(
    k, log_z, x, size, adjoint, w_in, b_in, reach, H0, dH, gk, g_decay, offsets, firsts, owners,
    steps, begin, count, heads, D, k_b, k_t, k_h,
    C: tl.constexpr, DP: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Of ∂L/∂k (B, T, H, D) and ∂L/∂log γ (B, T, H) what comes by H."""
    b, h, t0, end, row, gated = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    G = gates(log_z + gated, C)
    last = tl.load(log_z + gated + C - 1)
    K = rows(k + head_at(b, t0, h, k_b, k_t, k_h), left, k_t, d, D, C, EVEN).to(DT)
    # Behind what is wanted at once.
    ask_square(dH, row, heads, h, DP, DP)
    ask_square(H0, row, heads, h, DP, DP)
    ask_rows(x + at * D, left, heads * D, D, C, DP)
    ask_rows(adjoint + at * D, left, heads * D, D, C, DP)
    after = tl.load(square(dH, row, heads, h, d, d, DP, DP))
    H = tl.load(square(H0, row, heads, h, d, d, DP, DP))
    total, start = product(after, H) * tl.exp2(last), product(H, H)
    KH = tl.dot(K, H, input_precision=DOT)
    acc = tl.dot(K, after, input_precision=DOT) * tl.exp2(last - G)[:, None]
    ends = tl.sum(acc * K.to(tl.float32), 1)
    MT = decays_ahead(G, C)
    e_x = column(size + at, left, heads, C, 0.0)
    X = (rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]).to(DT)
    Y = rows(adjoint + at * D, left, heads * D, d, D, C, EVEN)
    w, b_i = column(w_in + at, left, heads, C, 0.0), column(b_in + at, left, heads, C, 0.0)
    acc, paths, reached = ridge_back(2.0 * acc, tl.zeros([C, C], tl.float32), K, KH, G, w, b_i, start, C, DT, DOT)
    acc, paths = solutions_back(acc, paths, K, X, Y, MT, DT, DOT)
    # What gk is written over may be d: every thread has read it.
    tl.debug_barrier()
    put_rows(gk + at * D, acc, left, heads * D, d, D, C, EVEN)
    reached += column(reach + at, left, heads, C, 0.0)
    put_column(g_decay + at, decays_back(paths * MT, reached, ends, total, C, DOT), left, heads, C)


@triton.jit
def less(total, factor, tile, APART: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr):
    """total − factor · tile, (C, C) times rows.

    APART: not added up in the product. Where one product adds to another, eight warps compute both twice or move the
    sum between two layouts.
    """
    if APART:
        total -= tl.dot(factor.to(DT), tile, input_precision=DOT)
    else:
        total = tl.dot((-factor).to(DT), tile, total, input_precision=DOT)
    return total


@triton.jit(do_not_specialize=["steps", "begin", "count"])
def values_kernel(
    q, k, v, log_z, alpha, x, size, go, U0, dU, gk, gv, g_decay, offsets, firsts, owners,
    steps, begin, count, heads, D, V, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, OT: tl.constexpr,
    DOT: tl.constexpr, ALPHA: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """∂L/∂v (B, T, H, V); and what comes by U added to ∂L/∂k and ∂L/∂log γ."""
    b, h, t0, end, row, gated = chunk_of(offsets, firsts, owners, steps, begin, count, heads, C, VARLEN)
    left = end - t0
    if left <= 0:
        return
    d = tl.arange(0, DP)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    G = gates(log_z + gated, C)
    last = tl.load(log_z + gated + C - 1)
    go += head_at(b, t0, h, go_b, go_t, go_h)
    v += head_at(b, t0, h, v_b, v_t, v_h)
    K = rows(k + head_at(b, t0, h, k_b, k_t, k_h), left, k_t, d, D, C, EVEN)
    # Behind what is wanted at once.
    ask_rows(x + at * D, left, heads * D, D, C, DP)
    ask_square(dU, row, heads, h, DP, VP)
    ask_rows(go, left, go_t, V, C, VP)
    ask_rows(v, left, v_t, V, C, VP)
    ask_square(U0, row, heads, h, DP, VP)
    K, e = by_rows(K, OT)
    e_x = column(size + at, left, heads, C, 0.0)
    mixed = rows(x + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
    if ALPHA:
        Q = rows(q + head_at(b, t0, h, q_b, q_t, q_h), left, q_t, d, D, C, EVEN).to(tl.float32)
        mixed = Q + column(alpha + at, left, heads, C, 0.0)[:, None] * (mixed - Q)
    X, e_x = by_rows(mixed, OT)
    mixed = mixed.to(DT)
    read = tl.dot(K, tl.trans(X), input_precision=DOT) * (e[:, None] * e_x[None, :])
    weights = read * decays_ahead(G, C) * -scale
    # Keys for which eight warps share a chunk.
    APART: tl.constexpr = DP > 64
    acc = tl.zeros([C, DP], tl.float32)
    S = tl.zeros([C, C], tl.float32)
    ends = tl.zeros([C], tl.float32)
    total = 0.0
    for e0 in tl.static_range(0, VP, BV):
        c = e0 + tl.arange(0, BV)
        after = tl.load(square(dU, row, heads, h, d, c, DP, VP))
        total += product(after, tl.load(square(U0, row, heads, h, d, c, DP, VP)))
        Y = rows(go, left, go_t, c, V, C, EVEN_V).to(DT)
        values = rows(v, left, v_t, c, V, C, EVEN_V).to(DT)
        # Where q̃ is much larger across the keys than along them, so is dU.
        dU_here, e_U = by_whole(after, OT)
        kept = tl.dot(K, dU_here, input_precision=DOT)
        kept *= (e * e_U * tl.exp2(last - G))[:, None]
        ends += tl.sum(kept * values.to(tl.float32), 1)
        kept = less(kept, weights, Y, APART, DT, DOT)
        put_rows(gv + at * V, kept, left, heads * V, c, V, C, EVEN_V)
        acc = tl.dot(values, tl.trans(after), acc, input_precision=DOT)
        S = tl.dot(values, tl.trans(Y), S, input_precision=DOT)
    S *= decays_ahead(G, C) * scale
    acc = less(acc * tl.exp2(last - G)[:, None], -S, mixed, APART, DT, DOT)
    acc += rows(gk + at * D, left, heads * D, d, D, C, EVEN).to(tl.float32)
    tl.debug_barrier()
    put_rows(gk + at * D, acc, left, heads * D, d, D, C, EVEN)
    decay = decays_back(read * S, 0.0 * G, ends, total * tl.exp2(last), C, DOT)
    put_column(g_decay + at, decay + column(g_decay + at, left, heads, C, 0.0), left, heads, C)
