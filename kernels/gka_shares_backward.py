"""∂L/∂H and ∂L/∂U after every chunk of Gated KalmaNet by shares: what `gka_states_backward` has by one walk.

    dH ← z_C dH + A      A = −½ (Σ z_t (d_t x_tᵀ + x_t d_tᵀ) + (Σ w_t z_t²) H0 + Kᵀ diag(b) K)
    dU ← z_C dU + B      B = Σ z_t q̃_t y_tᵀ

Letters as there. A and B are made by products, for all chunks at once, where dH and dU will be; the walk back has only
to add them up, and numbers of a state know nothing of each other: there are as many programs as keep memory busy. Where
states are small this takes less time than waiting, chunk after chunk, for products.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_tiles import column, gates, head_at, rows, square


@triton.jit(do_not_specialize=["steps", "begin", "count"])
def shares_kernel(
    q, k, log_z, alpha, x, size, go, adjoint, drift, b_in, H0, dH, dU,
    steps, begin, count, heads, D, V, scale, q_b, q_t, q_h, k_b, k_t, k_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BN: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    ALPHA: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """A into dH (rows, heads, DP, DP) and B into dU (rows, heads, DP, VP), of `count` chunks from `begin` on.

    Grid (chunks · blocks of BN columns of both, which read the same and so are side by side; sequences · heads).
    """
    BLOCKS: tl.constexpr = (DP + VP) // BN
    i, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    t0, row = (begin + i) * C, b * count + i
    left, gated = steps - t0, ((b * tl.cdiv(steps, C) + begin + i) * heads + h) * C
    d, e = tl.arange(0, DP), block * BN + tl.arange(0, BN)
    at = head_at(b, t0, h, steps * heads, heads, 1)
    z, e_x = tl.exp2(gates(log_z + gated, C)), column(size + at, left, heads, C, 0.0)
    x += at * D
    if block < DP // BN:
        k += head_at(b, t0, h, k_b, k_t, k_h)
        adjoint += at * D
        X = rows(x, left, heads * D, d, D, C, EVEN)
        Y = rows(adjoint, left, heads * D, d, D, C, EVEN)
        K = rows(k, left, k_t, d, D, C, EVEN)
        here_x, here_y, here_k = X, Y, K
        if BN < DP:
            here_x = rows(x, left, heads * D, e, D, C, EVEN)
            here_y = rows(adjoint, left, heads * D, e, D, C, EVEN)
            here_k = rows(k, left, k_t, e, D, C, EVEN)
        # What x is kept divided by goes into the other factor.
        half = (-0.5 * z * e_x)[:, None]
        later = (-0.5 * column(b_in + at, left, heads, C, 0.0))[:, None]
        A = tl.dot(tl.trans(X.to(DT)), (half * here_y.to(tl.float32)).to(DT), input_precision=DOT)
        A = tl.dot(tl.trans(Y), (half * here_x.to(tl.float32)).to(DT), A, input_precision=DOT)
        A = tl.dot(tl.trans(K.to(DT)), (later * here_k.to(tl.float32)).to(DT), A, input_precision=DOT)
        A -= 0.5 * tl.load(drift + row * heads + h) * tl.load(square(H0, row, heads, h, d, e, DP, DP)).to(tl.float32)
        tl.store(square(dH, row, heads, h, d, e, DP, DP), A.to(dH.dtype.element_ty))
    else:
        e -= DP
        q += head_at(b, t0, h, q_b, q_t, q_h)
        go += head_at(b, t0, h, go_b, go_t, go_h)
        mixed = rows(x, left, heads * D, d, D, C, EVEN).to(tl.float32) * e_x[:, None]
        if ALPHA:
            Q = rows(q, left, q_t, d, D, C, EVEN).to(tl.float32)
            mixed = Q + column(alpha + at, left, heads, C, 0.0)[:, None] * (mixed - Q)
        y = rows(go, left, go_t, e, V, C, EVEN_V).to(tl.float32) * (scale * z)[:, None]
        B = tl.dot(tl.trans(mixed.to(DT)), y.to(DT), input_precision=DOT)
        tl.store(square(dU, row, heads, h, d, e, DP, VP), B.to(dU.dtype.element_ty))


@triton.jit
def share(put, log_z, hop, hop_z, left, none, i: tl.constexpr):
    """Of the i-th chunk from here back its share, and what a state decays by through it; 0 and 1 beyond `left` chunks.

    hop and hop_z: from a chunk's places to the one before. none: 0 for each place.
    """
    there = tl.load(put - i * hop, mask=none + left > i, other=0.0)
    return there, tl.exp2(tl.load(log_z - i * hop_z, mask=left > i, other=0.0))


@triton.jit
def added(state, there, z, put, hop, left, none, i: tl.constexpr):
    """The state before the i-th chunk from here back; the one after it is put where its share was."""
    tl.store(put - i * hop, state.to(put.dtype.element_ty), mask=none + left > i)
    return state * z + there.to(tl.float32)


@triton.jit(do_not_specialize=["steps", "begin", "count", "started"])
def sums_kernel(
    log_z, start_H, start_U, dH, dU, end_H, end_U, steps, begin, count, started, heads, D, V,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """dH (rows, heads, DP, DP) and dU (…, VP) after each chunk from the shares there; before the first end_H and end_U.

    start_H, start_U: the gradients of the state after the last chunk, zero unless `started`. Grid (blocks of BE numbers
    of both, sequences · heads).
    """
    n, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    place = tl.program_id(0) * BE + tl.arange(0, BE)
    put, lead, outer, width, padded = dH, start_H, end_H, D, DP
    if tl.program_id(0) >= DP * DP // BE:
        place -= DP * DP
        put, lead, outer, width, padded = dU, start_U, end_U, V, VP
    i, e, none = place // padded, place % padded, place * 0
    corner = (i < D) & (e < width)
    inside = tl.cast(n * heads + h, tl.int64) * D * width + i * width + e
    state = tl.load(lead + inside, mask=corner & (none < started), other=0.0).to(tl.float32)
    # From the last chunk back.
    left, hop, hop_z = count, heads * DP * padded, heads * C
    put += (tl.cast(n * count + count - 1, tl.int64) * heads + h) * DP * padded + place
    log_z += ((n * tl.cdiv(steps, C) + begin + count - 1) * heads + h) * C + C - 1
    # Four chunks are asked for while four are added up: memory is further away than an addition takes.
    a, z_a = share(put, log_z, hop, hop_z, left, none, 0)
    b, z_b = share(put, log_z, hop, hop_z, left, none, 1)
    c, z_c = share(put, log_z, hop, hop_z, left, none, 2)
    d, z_d = share(put, log_z, hop, hop_z, left, none, 3)
    for _ in range(0, left, 4):
        next_a, next_z_a = share(put, log_z, hop, hop_z, left, none, 4)
        next_b, next_z_b = share(put, log_z, hop, hop_z, left, none, 5)
        next_c, next_z_c = share(put, log_z, hop, hop_z, left, none, 6)
        next_d, next_z_d = share(put, log_z, hop, hop_z, left, none, 7)
        state = added(state, a, z_a, put, hop, left, none, 0)
        state = added(state, b, z_b, put, hop, left, none, 1)
        state = added(state, c, z_c, put, hop, left, none, 2)
        state = added(state, d, z_d, put, hop, left, none, 3)
        a, b, c, d = next_a, next_b, next_c, next_d
        z_a, z_b, z_c, z_d = next_z_a, next_z_b, next_z_c, next_z_d
        put, log_z, left = put - 4 * hop, log_z - 4 * hop_z, left - 4
    tl.store(outer + inside, state, mask=corner)
