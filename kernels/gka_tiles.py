"""What the Triton kernels of Gated KalmaNet share: where a chunk lies, its tiles of rows, its decays.

A program of a chunk-wise kernel owns C steps of one head of one sequence; letters as in `gka_chunks`. A tile of rows is
(C, DP), DP the power of two from D up; what lies beyond a sequence's end or beyond D is 0, so that it changes no state.
Gates are kept as logarithms to the base 2: a scaling by 2^c with a whole c is exact in every precision.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# ruff: noqa: SIM108
# What Triton compiles has types of its own; a constant is asked alone, so that what depends on it is left out.

import triton
import triton.language as tl

from ssrtrack.kernels import gka_form

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(gka_form.LOWEST)
EMPTY = tl.constexpr(gka_form.EMPTY)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def chunk_of(offsets, firsts, owners, steps, begin, count, heads, C: tl.constexpr, VARLEN: tl.constexpr):
    """Of this program's chunk: batch row, head, first step, the sequence's end, and its row in the chunks' states;

    and where among all chunks its head's gates are, in numbers.

    Grid (chunks of a sequence from `begin` on, `count` of them, sequences · heads), or where VARLEN (chunks of all
    sequences, heads); there owners tells a chunk's sequence and firsts a sequence's first chunk.
    """
    i, h = tl.program_id(0), tl.program_id(1)
    if VARLEN:
        n = tl.load(owners + i)
        b = n * 0
        t0 = tl.load(offsets + n) + (i - tl.load(firsts + n)) * C
        end = tl.load(offsets + n + 1)
        row = i
        turn = i
    else:
        b = h // heads
        h = h % heads
        t0 = (begin + i) * C
        end = steps
        row = b * count + i
        turn = b * tl.cdiv(steps, C) + begin + i
    return b, h, t0, end, row, (turn * heads + h) * C


@triton.jit
def head_at(b, t0, h, stride_b, stride_t, stride_h):
    """Where step t0 of a head begins: in 64 bits, so that all distances within a chunk fit into 32."""
    return tl.cast(b, tl.int64) * stride_b + tl.cast(t0, tl.int64) * stride_t + tl.cast(h, tl.int64) * stride_h


@triton.jit
def rows(pointer, left, stride_t, d, width, C: tl.constexpr, EVEN: tl.constexpr):
    """(C, len(d)) numbers of the steps from `pointer` on; 0 beyond `left` steps, and beyond `width` unless EVEN."""
    t = tl.arange(0, C)
    on = (t < left)[:, None] & within(d, width, EVEN)[None, :]
    return tl.load(pointer + t[:, None] * stride_t + d[None, :], mask=on, other=0.0)


@triton.jit
def put_rows(pointer, tile, left, stride_t, d, width, C: tl.constexpr, EVEN: tl.constexpr):
    """The same places, written."""
    t = tl.arange(0, C)
    on = (t < left)[:, None] & within(d, width, EVEN)[None, :]
    tl.store(pointer + t[:, None] * stride_t + d[None, :], tile.to(pointer.dtype.element_ty), mask=on)


@triton.jit
def column(pointer, left, heads, C: tl.constexpr, other: tl.constexpr):
    """(C,) numbers, one a step."""
    t = tl.arange(0, C)
    return tl.load(pointer + t * heads, mask=t < left, other=other)


@triton.jit
def put_column(pointer, value, left, heads, C: tl.constexpr):
    """The same places, written."""
    t = tl.arange(0, C)
    tl.store(pointer + t * heads, value, mask=t < left)


@triton.jit
def within(d, width, EVEN: tl.constexpr):
    """Which columns there are: all, where EVEN, so that no load needs a mask."""
    if EVEN:
        on = tl.full(d.shape, 1, tl.int1)
    else:
        on = d < width
    return on


@triton.jit
def gates(log_z, C: tl.constexpr):
    """(C,) log₂ z_t of a chunk of a head."""
    return tl.load(log_z + tl.arange(0, C))


@triton.jit
def decays(G, C: tl.constexpr):
    """M (C, C): M_ti = z_t / z_i for i ≤ t, else 0."""
    t = tl.arange(0, C)
    return tl.where(t[:, None] >= t[None, :], tl.exp2(tl.minimum(G[:, None] - G[None, :], 0.0)), 0.0)


@triton.jit
def decays_ahead(G, C: tl.constexpr):
    """Mᵀ (C, C): row i, column t ≥ i."""
    t = tl.arange(0, C)
    return tl.where(t[:, None] <= t[None, :], tl.exp2(tl.minimum(G[None, :] - G[:, None], 0.0)), 0.0)


@triton.jit
def sizes(tile):
    """(C,) powers of two by which rows are divided, so that their largest number is about 1/4; 1 for a row of zeros.

    A 16-bit float's digits then serve all numbers that matter, and sums of products stay within its range.
    """
    return power(tl.max(tl.abs(tile.to(tl.float32)), 1))


@triton.jit
def size_of(tile):
    """The same for a whole tile."""
    return power(tl.max(tl.max(tl.abs(tile.to(tl.float32)), 1), 0))


@triton.jit
def by_rows(tile, OT: tl.constexpr):
    """A tile as an operand of precision OT, and what its rows were divided by (C,)."""
    e = sizes(tile)
    # Divided a row, not a number, at a time; exact, since e are powers of two.
    return (tile.to(tl.float32) * (1.0 / e)[:, None]).to(OT), e


@triton.jit
def by_whole(tile, OT: tl.constexpr):
    """The same with one size for the whole tile."""
    e = size_of(tile)
    return (tile.to(tl.float32) * (1.0 / e)).to(OT), e


@triton.jit
def by_largest(H0, row, heads, h, DP: tl.constexpr, OT: tl.constexpr):
    """`by_whole` of a chunk's H0, of which no number is larger than the largest on its diagonal."""
    d = tl.arange(0, DP)
    at = H0 + (tl.cast(row, tl.int64) * heads + h) * DP * DP
    e = power(tl.max(tl.abs(tl.load(at + d * (DP + 1)).to(tl.float32)), 0))
    return (tl.load(square(H0, row, heads, h, d, d, DP, DP)).to(tl.float32) * (1.0 / e)).to(OT), e


@triton.jit
def ask(pointer):
    """Asks for what lies there into the second-level cache: it will be wanted, and comes from afar."""
    if not INTERPRETED:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointer], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def ask_rows(pointer, left, stride_t, width, C: tl.constexpr, DP: tl.constexpr):
    """The same for `rows`, a line of 128 bytes at a time."""
    LINE: tl.constexpr = min(DP, 1024 // pointer.dtype.element_ty.primitive_bitwidth)
    t, part = tl.minimum(tl.arange(0, C), left - 1), tl.arange(0, DP // LINE) * LINE
    ask(pointer + t[:, None] * stride_t + tl.minimum(part, width - 1)[None, :])


@triton.jit
def ask_square(pointer, row, heads, h, DP: tl.constexpr, EP: tl.constexpr):
    """The same for a whole `square`."""
    LINE: tl.constexpr = min(EP, 1024 // pointer.dtype.element_ty.primitive_bitwidth)
    at = (tl.cast(row, tl.int64) * heads + h) * DP * EP
    ask(pointer + at + tl.arange(0, DP)[:, None] * EP + tl.arange(0, EP // LINE)[None, :] * LINE)


@triton.jit
def power(largest):
    """The power of two about 4 times as large; 1 where there is nothing."""
    return tl.where(largest > 1e-30, tl.exp2(tl.floor(tl.log2(tl.maximum(largest, 1e-30))) + 2.0), 1.0)


@triton.jit
def square(pointer, row, heads, h, d, e, DP: tl.constexpr, EP: tl.constexpr):
    """Places (len(d), len(e)) in the states (rows, heads, DP, EP) before or after each chunk."""
    at = (tl.cast(row, tl.int64) * heads + h) * DP * EP
    return pointer + at + d[:, None] * EP + e[None, :]
