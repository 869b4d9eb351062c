"""How a program of the segment kernels walks through time: a few steps at a time, each of them plain vectors.

A vector [R], R = G·C·NS, holds one number a thread: pair = r // NS of sequence and channel, lane = r % NS of the states
(n = lane·NI + i in NI such vectors). Lanes of a pair are neighbours in a warp, so that a sum over them is an exchange
within it and all else is straight lines of multiply-adds. Nothing here asks for another layout, hence for a barrier.

What has to be seen by other threads, or outlives a few steps, goes to the program's own kilobytes in memory, which stay
in the caches: rows [G·C] of a step for φ's tiles, vectors [R] for the thread that wrote them.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM300 (Triton knows no unpacking)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import BUCY, DISCRETE, INTERPRETED, LOG2E, advance, drive
from ssrtrack.kernels.koss_rows import pile, unstack


@triton.constexpr_function
def own_at(part, S, P, U, J, NI, PC, R):
    """Where a part of a program's own memory begins, in float32 numbers; "end": how many there are.

    Tiles of P rows [G·C]: K of every pass, de over ds/de. Rows of S steps: ds/de of every pass, and the passes' sums of
    gx, gΔ, gẋ and dz. Vectors [R] before every U steps: h of every pass, and p. Vectors of every step: gc.
    """
    even = 1 << (NI - 1).bit_length()
    tile, rows, blocks, steps = P * PC, S * PC, S // U * even * R, S * even * R
    at = 0
    for name, size in (
        ("slope", (J + 1) * rows), ("K", (J + 1) * tile), ("h", (J + 1) * blocks), ("p", blocks), ("de", tile),
        ("gx", rows), ("gd", rows), ("gs", rows), ("gz", rows), ("gc", steps),
    ):  # fmt: skip
        if name == part:
            return at
        at += size
    return at


@triton.jit
def powers(rate, delta, NI: tl.constexpr):
    """E = e^{ΔA}."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (tl.exp2(delta * (rate[i] * LOG2E)),)
    return out


@triton.jit
def times(a, b, NI: tl.constexpr):
    out = ()
    for i in tl.static_range(NI):
        out = out + (a[i] * b[i],)
    return out


@triton.jit
def driven(OP: tl.constexpr, x, slope, lead, HAS_LEAD: tl.constexpr):
    """`koss_math.drive`, without the product where there is no lead."""
    if HAS_LEAD:
        return drive(OP, x, slope, lead)
    elif OP == BUCY:
        return tl.zeros_like(x)
    else:
        return x


@triton.jit
def advanced(OP: tl.constexpr, h, p, rate, delta, K, c, at, x, slope, v, NI: tl.constexpr):
    """All states of a lane one step later."""
    out = ()
    for i in tl.static_range(NI):
        if OP == DISCRETE:
            out = out + (p[i] + K * (v - c[at + i] * p[i]),)
        else:
            out = out + (advance(OP, h[i], p[i], rate[i], delta, K, c[at + i], x, slope, v),)
    return out


@triton.jit
def across(v, PC: tl.constexpr, NS: tl.constexpr):
    """The sum over a pair's lanes [R], known to all of them."""
    if NS == 1:
        return v
    else:
        total = tl.sum(tl.reshape(v, [PC, NS]), 1, keep_dims=True)
        return tl.reshape(tl.broadcast_to(total, [PC, NS]), [PC * NS])


@triton.jit
def weighed(c, at, tiles, NI: tl.constexpr):
    """Σ_i c_i h_i of one lane; c_i is c[at + i]."""
    total = c[at] * tiles[0]
    for i in tl.static_range(1, NI):
        total += c[at + i] * tiles[i]
    return total


@triton.jit
def there(pointer, t, left):
    """Whether a step is there, for all places of `pointer` (the interpreter takes no scalar for a mask)."""
    return tl.full(pointer.shape, t, tl.int32) < left


@triton.constexpr_function
def load_code(rough, k, stride, other):
    """Loads step k, `other` unless the step is there; bfloat16 is float32's upper half."""
    bits, shift = ("u16", "shl.b32 $0, $0, 16;") if rough else ("b32", "")
    other = 0 if other == 0.0 else 0xCE6E if rough else 0xCE6E6B28  # −1e9, a closed gate
    load = f"mov.b32 $0, {other}; @p ld.global.nc.{bits} $0, [$1+{k * stride * (2 if rough else 4)}]; {shift}"
    return f"{{ .reg .pred p; setp.gt.s32 p, $2, {k}; " + load + " }"


@triton.constexpr_function
def store_code(rough, k, stride):
    place = k * stride * (2 if rough else 4)
    store = f"@p st.global.b32 [$1+{place}], $2;"
    if rough:
        store = f".reg .b16 t; .reg .f32 f; mov.b32 f, $2; cvt.rn.bf16.f32 t, f; @p st.global.b16 [$1+{place}], t;"
    return f"{{ .reg .pred p; setp.gt.s32 p, $3, {k}; " + store + " mov.u32 $0, 0; }"


@triton.jit
def steps_of(pointer, stride: tl.constexpr, left, U: tl.constexpr):
    """U steps [R], `stride` apart, in float32; 0 where fewer are `left`."""
    KIND: tl.constexpr = pointer.dtype.element_ty
    ROUGH: tl.constexpr = KIND == tl.bfloat16
    out = ()
    for u in tl.static_range(U):
        if INTERPRETED or (not ROUGH and KIND != tl.float32):
            out = out + (tl.load(pointer + u * stride, mask=there(pointer, u, left), other=0.0).to(tl.float32),)
        else:
            # The compiler looks at everything beside every load it knows of, for long; of this one it does not know.
            bits = tl.inline_asm_elementwise(
                load_code(ROUGH, u, stride, 0.0), "=&r,l,r", [pointer, left], tl.int32, True, 1
            )
            out = out + (bits.to(tl.float32, bitcast=True),)
    return out


@triton.jit
def keep(pointer, tiles, NI: tl.constexpr, R: tl.constexpr):
    """NI vectors to the program's own memory: `pointer` [R] to EVEN ≥ NI numbers of each thread, a power of two.

    Four at a time, which is one instruction; more would ask for a layout of its own.
    """
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    FOUR: tl.constexpr = min(EVEN, 4)
    for first in tl.static_range(0, EVEN, FOUR):
        parts = ()
        for i in tl.static_range(FOUR):
            parts = parts + (tl.reshape(tiles[first + i] if first + i < NI else tl.zeros([R], tl.float32), [R, 1]),)
        four = tl.reshape(pile(parts, 1, R, FOUR, FOUR.bit_length() - 1), [R, FOUR])
        tl.store(pointer[:, None] + (first + tl.arange(0, FOUR)[None, :]), four)


@triton.jit
def kept(pointer, t: tl.constexpr, left, NI: tl.constexpr, R: tl.constexpr):
    """The opposite, from any precision: NI vectors, zeros unless step t is there."""
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    FOUR: tl.constexpr = min(EVEN, 4)
    out = ()
    for first in tl.static_range(0, EVEN, FOUR):
        i = first + tl.arange(0, FOUR)[None, :]
        mask = tl.full([R, FOUR], t, tl.int32) < left
        if NI < EVEN:
            mask = mask & (i < NI)
        columns = unstack(
            tl.load(pointer[:, None] + i, mask=mask, other=0.0).to(tl.float32), R, FOUR, FOUR.bit_length() - 1
        )
        for k in tl.static_range(FOUR):
            if first + k < NI:
                out = out + (tl.reshape(columns[k], [R]),)
    return out


@triton.jit
def reads_of(pointer, stride: tl.constexpr, left, U: tl.constexpr, NI: tl.constexpr, R: tl.constexpr):
    """c of U steps, that of step u and state i at u·NI + i; 0 where fewer steps are `left`."""
    out = ()
    for u in tl.static_range(U):
        out = out + kept(pointer + u * stride, u, left, NI, R)
    return out


@triton.jit
def own_steps(pointer, stride: tl.constexpr, U: tl.constexpr):
    """U steps of what the program itself has written."""
    out = ()
    for u in tl.static_range(U):
        out = out + (tl.load(pointer + u * stride),)
    return out


@triton.jit
def store_pair(pointer, value, NS: tl.constexpr):
    """One number a pair [R], written by its first lane."""
    if NS == 1:
        tl.store(pointer, value)
    else:
        tl.store(pointer, value, mask=tl.arange(0, value.shape[0]) % NS == 0)


@triton.jit
def store_step(pointer, value, t: tl.constexpr, left, NS: tl.constexpr):
    """The same into an output, where step t is there."""
    KIND: tl.constexpr = pointer.dtype.element_ty
    ROUGH: tl.constexpr = KIND == tl.bfloat16
    if NS > 1:
        left = tl.where(tl.arange(0, value.shape[0]) % NS == 0, left, 0)
    if INTERPRETED or (not ROUGH and KIND != tl.float32):
        tl.store(pointer, value.to(KIND), mask=tl.full(value.shape, t, tl.int32) < left)
    else:
        bits = value.to(tl.int32, bitcast=True)
        tl.inline_asm_elementwise(
            store_code(ROUGH, t, 0), "=r,l,r,r", [pointer, bits, left], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def touch(pointer, NEAR: tl.constexpr):
    """Asks for what lies there, which will be wanted soon: into the first-level cache if `NEAR`, else the second."""
    if not INTERPRETED:
        if NEAR:
            tl.inline_asm_elementwise(
                "prefetch.global.L1 [$1]; mov.u32 $0, 0;", "=r,l", [pointer], dtype=tl.int32, is_pure=False, pack=1
            )
        else:
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointer], dtype=tl.int32, is_pure=False, pack=1
            )


@triton.jit
def touch_rows(
    pointer, apart, stride: tl.constexpr, S: tl.constexpr, G: tl.constexpr, C: tl.constexpr, NEAR: tl.constexpr
):
    """The same for the S rows of C channels of every sequence that end at `pointer`, 32 bytes at a time."""
    PER: tl.constexpr = min(C, 256 // pointer.dtype.element_ty.primitive_bitwidth)
    line = tl.arange(0, S * G * (C // PER))
    row, part = line // (C // PER), line % (C // PER)
    touch(pointer - S * stride + (row % G * apart + row // G * stride + part * PER), NEAR)


@triton.jit
def touch_next(
    x, d, z, g, s, c, kept, xb, db, zb, gb, sb, cb, H, xt: tl.constexpr, dt: tl.constexpr, zt: tl.constexpr,
    gt: tl.constexpr, st: tl.constexpr, ct: tl.constexpr, HAS_SLOPE: tl.constexpr, G: tl.constexpr, C: tl.constexpr,
    NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Asks into the second-level cache for all that the segment before in time, the next one here, will read."""
    touch_rows(x, xb, xt, S, G, C, False)
    touch_rows(d, db, dt, S, G, C, False)
    touch_rows(z, zb, zt, S, G, C, False)
    touch_rows(g, gb, gt, S, G, C, False)
    if HAS_SLOPE:
        touch_rows(s, sb, st, S, G, C, False)
    touch_rows(c, cb, ct, S, G, NI * NS, False)
    for i in tl.static_range(NI):
        touch(kept - H * (NI * NS * C) + i * C, False)
