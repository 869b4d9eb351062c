"""The walk back through the chunks of Gated KalmaNet in Triton: ∂L/∂H and ∂L/∂U after every chunk, by all later ones.

    dH ← z_C dH − ½ (Σ z_t (d_t x_tᵀ + x_t d_tᵀ) + (Σ w_t z_t²) H0 + Kᵀ diag(b) K)        dU ← z_C dU + Σ z_t q̃_t y_tᵀ

with y = scale · ∂L/∂o, and d, b and Σ w_t z_t² (`drift`) as `gka_solve_backward` has them. As in `gka_states` a
program walks with BN columns of (dH, dU) side by side.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_states import walk
from ssrtrack.kernels.gka_tiles import column, gates, head_at, rows, within

NARROW = tl.constexpr(64)  # rows of a state: 16 for each of four warps, so that eight part the columns


@triton.jit
def joined(state, a, b, DP: tl.constexpr, DOT: tl.constexpr):
    """state − a b of narrow states, else state + a b.

    Where one product is added to by the next, eight warps take all columns twice or move the state between two layouts;
    and a sum the compiler would join again.
    """
    if DP <= NARROW:
        state -= tl.dot(a, b, input_precision=DOT)
    else:
        state = tl.dot(a, b, state, input_precision=DOT)
    return state


@triton.jit(do_not_specialize=["steps", "begin", "count", "started"])
def states_back_kernel(
    q, k, log_z, alpha, x, size, go, adjoint, drift, b_in, H0, start_H, start_U, dH, dU, end_H, end_U,
    offsets, firsts, steps, begin, count, started, heads, D, V, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BN: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    ALPHA: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """dH (rows, heads, DP, DP) and dU (rows, heads, DP, VP) after each chunk; before the first as end_H and end_U.

    start_H, start_U: the gradients of the state after the last chunk, zero unless `started`. Grid (blocks of BN columns
    of (dH, dU), sequences · heads).
    """
    n, b, h, t0, end, row, gated = walk(offsets, firsts, steps, begin, count, heads, C, VARLEN)
    chunks = tl.cdiv(end - t0, C)
    d, block = tl.arange(0, DP), tl.program_id(0)
    of_H = block < DP // BN
    e = block * BN + tl.arange(0, BN)
    lead, outer, put, width, padded = start_H, end_H, dH, D, DP
    if not of_H:
        e -= DP
        lead, outer, put, width, padded = start_U, end_U, dU, V, VP
    corner = within(d, D, EVEN)[:, None] & within(e, width, EVEN and EVEN_V)[None, :]
    inside = tl.cast(n * heads + h, tl.int64) * D * width + d[:, None] * width + e[None, :]
    state = tl.load(lead + inside, mask=corner & (d[:, None] * 0 < started), other=0.0)
    # Of the last chunk: from there back.
    t = t0 + tl.maximum(chunks - 1, 0) * C
    at = head_at(b, t, h, steps * heads, heads, 1)
    square = (tl.cast(row + tl.maximum(chunks - 1, 0), tl.int64) * heads + h) * DP
    put += square * padded
    place = d[:, None] * padded + e[None, :]
    log_z += gated + tl.maximum(chunks - 1, 0) * C * heads
    size, x = size + at, x + at * D
    last = tl.load(log_z + C - 1, mask=chunks > 0, other=0.0)
    left = end - t
    if of_H:
        k += head_at(b, t, h, k_b, k_t, k_h)
        adjoint, b_in, H0 = adjoint + at * D, b_in + at, H0 + square * DP
        drift += (row + tl.maximum(chunks - 1, 0)) * heads + h
        later, total = column(b_in, left, heads, C, 0.0), tl.load(drift, mask=chunks > 0, other=0.0)
        sign: tl.constexpr = 0.5 if DP <= NARROW else -0.5
        for i in range(0, chunks):
            tl.store(put + place, state.to(put.dtype.element_ty))
            # Of the chunk before, a turn ahead: the compiler does not ask for these early.
            coming = tl.load(log_z - C * heads + C - 1, mask=i + 1 < chunks, other=0.0)
            total_coming = tl.load(drift - heads, mask=i + 1 < chunks, other=0.0)
            steps_back = b_in - C * heads + tl.arange(0, C) * heads
            later_coming = tl.load(steps_back, mask=tl.arange(0, C) * 0 + i + 1 < chunks, other=0.0)
            # Wanted last, asked for first: what comes of it takes longer than a chunk's products.
            H = tl.load(H0 + place)
            # What x is kept divided by goes into the other factor.
            half = (sign * tl.exp2(gates(log_z, C)) * column(size, left, heads, C, 0.0))[:, None]
            state *= tl.exp2(last)
            X = rows(x, left, heads * D, d, D, C, EVEN).to(DT)
            part = (half * rows(adjoint, left, heads * D, e, D, C, EVEN).to(tl.float32)).to(DT)
            state = joined(state, tl.trans(X), part, DP, DOT)
            part = (half * rows(x, left, heads * D, e, D, C, EVEN).to(tl.float32)).to(DT)
            Y = rows(adjoint, left, heads * D, d, D, C, EVEN)
            state = joined(state, tl.trans(Y), part, DP, DOT)
            part = ((sign * later)[:, None] * rows(k, left, k_t, e, D, C, EVEN).to(tl.float32)).to(DT)
            K = rows(k, left, k_t, d, D, C, EVEN).to(DT)
            state = joined(state, tl.trans(K), part, DP, DOT)
            state -= 0.5 * total * H.to(tl.float32)
            left = C + left * 0
            last, log_z = coming, log_z - C * heads
            size, x, put = size - C * heads, x - C * heads * D, put - heads * DP * DP
            k, adjoint = k - C * k_t, adjoint - C * heads * D
            total, later = total_coming, later_coming
            drift, b_in, H0 = drift - heads, b_in - C * heads, H0 - heads * DP * DP
    else:
        q += head_at(b, t, h, q_b, q_t, q_h)
        go += head_at(b, t, h, go_b, go_t, go_h)
        alpha += at
        for i in range(0, chunks):
            tl.store(put + place, state.to(put.dtype.element_ty))
            # Of the chunk before, a turn ahead: the compiler does not ask for these early.
            coming = tl.load(log_z - C * heads + C - 1, mask=i + 1 < chunks, other=0.0)
            G, e_x = gates(log_z, C), column(size, left, heads, C, 0.0)
            mixed = rows(x, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
            if ALPHA:
                Q = rows(q, left, q_t, d, D, C, EVEN).to(tl.float32)
                mixed = Q + column(alpha, left, heads, C, 0.0)[:, None] * (mixed - Q)
            part = rows(go, left, go_t, e, V, C, EVEN_V).to(tl.float32) * (scale * tl.exp2(G))[:, None]
            state *= tl.exp2(last)
            state = tl.dot(tl.trans(mixed.to(DT)), part.to(DT), state, input_precision=DOT)
            left = C + left * 0
            last, log_z = coming, log_z - C * heads
            size, x, put = size - C * heads, x - C * heads * D, put - heads * DP * VP
            q, go, alpha = q - C * q_t, go - C * go_t, alpha - C * heads
    tl.store(outer + inside, state, mask=corner)
