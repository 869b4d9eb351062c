"""The walk back through the chunks of Gated KalmaNet in Triton: ∂L/∂H and ∂L/∂U after every chunk, by all later ones.

    dH ← z_C dH + the chunk's own share, and dU alike

Chunks' own shares come from `gka_solve_backward`, for all chunks at once; what is left is a sum for each number by
itself, written over the shares.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels.gka_states import walk
from ssrtrack.kernels.gka_tiles import within


@triton.jit(do_not_specialize=["steps", "begin", "count", "started"])
def states_back_kernel(
    lasts, start_H, start_U, dH, dU, end_H, end_U, offsets, firsts, steps, begin, count, started, heads, D, V,
    C: tl.constexpr, DP: tl.constexpr, VP: tl.constexpr, BN: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """dH and dU after each chunk in place of the chunks' shares; before the first chunk as end_H and end_U.

    start_H, start_U: the gradients of the state after the last chunk, zero unless `started`. Grid (blocks of BN numbers
    of (dH, dU), sequences · heads).
    """
    n, _, h, t0, end, row = walk(offsets, firsts, steps, begin, count, heads, C, VARLEN)
    place = tl.program_id(0) * BN + tl.arange(0, BN)
    lead, outer, put, width, padded = start_H, end_H, dH, D, DP
    if tl.program_id(0) >= DP * DP // BN:
        place -= DP * DP
        lead, outer, put, width, padded = start_U, end_U, dU, V, VP
    d, e = place // padded, place % padded
    inside = tl.cast(n * heads + h, tl.int64) * D * width + d * width + e
    corner = within(d, D, False) & within(e, width, False)
    state = tl.load(lead + inside, mask=corner & (d * 0 < started), other=0.0)
    chunks = tl.cdiv(end - t0, C)
    for i in range(0, chunks):
        one = tl.cast(row + chunks - 1 - i, tl.int64) * heads + h
        at = put + one * DP * padded + place
        share = tl.load(at).to(tl.float32)
        tl.store(at, state.to(put.dtype.element_ty))
        state = state * tl.exp2(tl.load(lasts + one)) + share
    tl.store(outer + inside, state, mask=corner)
