"""The states before every chunk of Gated KalmaNet in Triton: H0 and U0 in one walk through the chunks.

    H ← z_C H + Kᵀ (left ∘ K)        U ← z_C U + Kᵀ (left ∘ V)        left_i = z_C / z_i

A program walks through all chunks of one head of one sequence with BN columns of (H, U) side by side, in float32; what
it writes for the chunk-wise kernels has their operands' precision.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_tiles import gates, head_at, rows, within


@triton.jit
def walk(offsets, firsts, steps, begin, count, heads, C: tl.constexpr, VARLEN: tl.constexpr):
    """Of this program's sequence: its number and batch row, head, first step, end, and first row in chunks' states;

    and where the gates of its first chunk are.

    Grid (blocks of columns, sequences · heads). Chunks from `begin` on, `count` of them; where VARLEN all.
    """
    n, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    if VARLEN:
        b = n * 0
        t0 = tl.load(offsets + n)
        end = tl.load(offsets + n + 1)
        row = tl.load(firsts + n)
        turn = row
    else:
        b = n
        t0 = begin * C
        end = tl.minimum(steps, (begin + count) * C)
        row = n * count
        turn = n * tl.cdiv(steps, C) + begin
    return n, b, h, t0, end, row, (turn * heads + h) * C


@triton.jit(do_not_specialize=["steps", "begin", "count", "started"])
def states_kernel(
    k, v, log_z, start_H, start_U, H0, U0, end_H, end_U, offsets, firsts, steps, begin, count, started, heads, D, V,
    k_b, k_t, k_h, v_b, v_t, v_h,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BN: tl.constexpr, DT: tl.constexpr, DOT: tl.constexpr,
    VARLEN: tl.constexpr, EVEN: tl.constexpr, EVEN_V: tl.constexpr,
):  # fmt: skip
    """H0 (rows, heads, DP, DP) and U0 (rows, heads, DP, VP) before each chunk; (N, heads, D, D), (…, V) after the last.

    start_H and start_U are as the ends, of any precision; not read, and zero, unless `started`.
    """
    n, b, h, t0, end, row, at = walk(offsets, firsts, steps, begin, count, heads, C, VARLEN)
    block, d = tl.program_id(0), tl.arange(0, DP)
    of_H = block < DP // BN
    e = block * BN + tl.arange(0, BN)
    lead, outer, width, padded = start_H, end_H, D, DP
    put, right, right_b, right_t, right_h = H0, k, k_b, k_t, k_h
    if not of_H:
        e -= DP
        lead, outer, width, padded = start_U, end_U, V, VP
        put, right, right_b, right_t, right_h = U0, v, v_b, v_t, v_h
    own = tl.cast(n * heads + h, tl.int64) * D * width
    corner = within(d, D, EVEN)[:, None] & within(e, width, EVEN and EVEN_V)[None, :]
    inside = d[:, None] * width + e[None, :]
    state = tl.load(lead + own + inside, mask=corner & (d[:, None] * 0 < started), other=0.0).to(tl.float32)
    k += head_at(b, t0, h, k_b, k_t, k_h)
    right += head_at(b, t0, h, right_b, right_t, right_h)
    log_z += at
    put += (tl.cast(row, tl.int64) * heads + h) * DP * padded
    place = d[:, None] * padded + e[None, :]
    last = tl.load(log_z + C - 1)
    for t in range(t0, end, C):
        tl.store(put + place, state.to(put.dtype.element_ty))
        left = end - t
        G = gates(log_z, C)
        # Of the next chunk, a turn ahead: a single number is not asked for early by the compiler.
        coming = tl.load(log_z + C * (heads + 1) - 1, mask=left > C, other=0.0)
        K = rows(k, left, k_t, d, D, C, EVEN).to(DT)
        R = rows(right, left, right_t, e, width, C, EVEN and EVEN_V).to(tl.float32)
        R = (R * tl.exp2(last - G)[:, None]).to(DT)
        state = tl.dot(tl.trans(K), R, state * tl.exp2(last), input_precision=DOT)
        k += C * k_t
        right += C * right_t
        log_z += C * heads
        last = coming
        put += heads * DP * padded
    tl.store(outer + own + inside, state, mask=corner)
