"""The gates of Gated KalmaNet in Triton: log₂ z_t in every chunk, summed once for all kernels.

They lie chunk by chunk and head by head side by side, (chunks, heads, C), whole chunks: beyond a sequence's end nothing
decays, so that the last of a chunk is what a state decays by through it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# What Triton compiles has types of its own.

import triton
import triton.language as tl

from ssrtrack.kernels import gka_form

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(gka_form.LOWEST)


@triton.jit(do_not_specialize=["steps"])
def gates_kernel(
    log_decay, log_z, offsets, firsts, owners, steps, heads,
    C: tl.constexpr, HEADS: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """Of log_decay (B, T, H) log_z (chunks, H, C). Grid (chunks of a sequence, sequences), VARLEN (of all, 1).

    HEADS: the power of two from H up, or less: then they are taken by turns.
    """
    i, n = tl.program_id(0), tl.program_id(1)
    row = n * tl.cdiv(steps, C) + i
    t0, end = tl.cast(n, tl.int64) * steps + i * C, tl.cast(n + 1, tl.int64) * steps
    if VARLEN:
        row = i
        n = tl.load(owners + i)
        t0 = tl.cast(tl.load(offsets + n) + (i - tl.load(firsts + n)) * C, tl.int64)
        end = tl.cast(tl.load(offsets + n + 1), tl.int64)
    t = tl.arange(0, C)
    for first in range(0, heads, HEADS):
        h = first + tl.arange(0, HEADS)
        on = (t0 + t < end)[:, None] & (h < heads)[None, :]
        logs = tl.load(log_decay + (t0 + t)[:, None] * heads + h[None, :], mask=on, other=0.0)
        sums = tl.cumsum(tl.maximum(logs, LOWEST) * LOG2E, 0)
        at = (row * heads + h[None, :]) * C + t[:, None]
        tl.store(log_z + at, sums, mask=(h < heads)[None, :] & (t >= 0)[:, None])
