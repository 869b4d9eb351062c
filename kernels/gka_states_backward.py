"""The walk back through the chunks of Gated KalmaNet in Triton: ∂L/∂H and ∂L/∂U after every chunk, by all later ones.

    dH ← z_C dH − ½ (Σ z_t (d_t x_tᵀ + x_t d_tᵀ) + (Σ w_t z_t²) H0 + Kᵀ diag(b) K)
    dU ← z_C dU + scale Σ z_t q̃_t ∂L/∂o_tᵀ

The two last terms of dH come through λ_t = a ‖H_t‖_F: Σ_t (w_t z_t) H_t with b_i = Σ_t w_t z_t M_ti. H and dH are
symmetric. Programs own columns as in `gka_states`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_states import walk
from ssrtrack.kernels.gka_tiles import column, gates, head_at, last_of, rows, within


@triton.jit
def crossed(
    state, part, k, x, adjoint, b_in, w, z, left, heads, k_t, d, e, D,
    C: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """dH's columns e with a chunk's own share added; part: H0's columns."""
    K = rows(k, left, k_t, d, D, C, EVEN).to(DT)
    X = rows(x, left, heads * D, d, D, C, EVEN)
    Y = rows(adjoint, left, heads * D, d, D, C, EVEN)
    Ke = rows(k, left, k_t, e, D, C, EVEN).to(tl.float32)
    Xe = rows(x, left, heads * D, e, D, C, EVEN).to(tl.float32)
    Ye = rows(adjoint, left, heads * D, e, D, C, EVEN).to(tl.float32)
    state -= 0.5 * tl.sum(w * z * z, 0) * part
    weight = -0.5 * z[:, None]
    b = column(b_in, left, heads, C, 0.0)
    state = tl.dot(tl.trans(Y), (weight * Xe).to(DT), state, input_precision=DOT)
    state = tl.dot(tl.trans(X), (weight * Ye).to(DT), state, input_precision=DOT)
    return tl.dot(tl.trans(K), (-0.5 * b[:, None] * Ke).to(DT), state, input_precision=DOT)


@triton.jit
def read_out(
    state, q, x, alpha, go, z, left, heads, q_t, go_t, d, e, D, V, scale,
    C: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr, ALPHA: tl.constexpr, EVEN: tl.constexpr,
    EVEN_V: tl.constexpr,
):  # fmt: skip
    """dU's columns e with a chunk's own share added."""
    mixed = rows(x, left, heads * D, d, D, C, EVEN)
    if ALPHA:
        Q = rows(q, left, q_t, d, D, C, EVEN).to(tl.float32)
        mix = column(alpha, left, heads, C, 0.0)
        mixed = (Q + mix[:, None] * (mixed.to(tl.float32) - Q)).to(DT)
    Y = rows(go, left, go_t, e, V, C, EVEN_V).to(tl.float32)
    return tl.dot(tl.trans(mixed), (Y * (scale * z)[:, None]).to(DT), state, input_precision=DOT)


@triton.jit(do_not_specialize=["steps", "begin", "count", "started"])
def states_back_kernel(
    q, k, log_decay, alpha, x, adjoint, w_in, b_in, go, H0, U0, start_H, start_U, dH, dU, through, end_H, end_U,
    offsets, firsts, steps, begin, count, started, heads, D, V, scale,
    q_b, q_t, q_h, k_b, k_t, k_h, go_b, go_t, go_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BN: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    ALPHA: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """dH and dU after each chunk, laid out as H0 and U0; before the first chunk as end_H and end_U.

    start_H, start_U: the gradients of the state after the last chunk, zero unless `started`. through (rows, heads,
    blocks): the sum of dH ∘ H0 + dU ∘ U0 over a program's columns.
    """
    n, b, h, t0, end, row = walk(offsets, firsts, steps, begin, count, heads, C, VARLEN)
    block, d = tl.program_id(0), tl.arange(0, DP)
    of_H = block < DP // BN
    e = block * BN + tl.arange(0, BN)
    lead, outer, width, padded, put, before = start_H, end_H, D, DP, dH, H0
    if not of_H:
        e -= DP
        lead, outer, width, padded, put, before = start_U, end_U, V, VP, dU, U0
    own = tl.cast(n * heads + h, tl.int64) * D * width
    corner = within(d, D, EVEN)[:, None] & within(e, width, EVEN and EVEN_V)[None, :]
    inside = d[:, None] * width + e[None, :]
    state = tl.load(lead + own + inside, mask=corner & (started != 0), other=0.0)
    place = d[:, None] * padded + e[None, :]
    chunks = tl.cdiv(end - t0, C)
    for i in range(0, chunks):
        c = chunks - 1 - i
        t = t0 + c * C
        left = end - t
        # Rows of the chunk's states, and of what has one number, or D side by side, for each step and head.
        one = tl.cast(row + c, tl.int64) * heads + h
        at = head_at(b, t, h, steps * heads, heads, 1)
        tl.store(put + one * DP * padded + place, state.to(put.dtype.element_ty))
        part = tl.load(before + one * DP * padded + place).to(tl.float32)
        tl.store(through + one * tl.num_programs(0) + block, tl.sum(tl.sum(state * part, 1), 0))
        G = gates(log_decay + at, left, heads, C)
        z = tl.exp2(G)
        state *= tl.exp2(last_of(G, C))
        if of_H:
            w = column(w_in + at, left, heads, C, 0.0)
            k_at = k + head_at(b, t, h, k_b, k_t, k_h)
            state = crossed(
                state, part, k_at, x + at * D, adjoint + at * D, b_in + at, w, z, left, heads, k_t, d, e, D,
                C, DT, DOT, EVEN,
            )  # fmt: skip
        else:
            state = read_out(
                state, q + head_at(b, t, h, q_b, q_t, q_h), x + at * D, alpha + at,
                go + head_at(b, t, h, go_b, go_t, go_h), z, left, heads, q_t, go_t, d, e, D, V, scale,
                C, DT, DOT, ALPHA, EVEN, EVEN_V,
            )  # fmt: skip
    tl.store(outer + own + inside, state, mask=corner)
