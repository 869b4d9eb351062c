"""What the segment kernels that keep a whole segment in registers do with their vectors beside arithmetic.

Vectors [R] and lanes as in `koss_segment_ahead`. Loads and stores of steps; between vectors and φ's rows; the sum of gc
over the channels, by exchanges that hand over half of what is left; and numbers the compiler is to forget.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM300 (Triton knows no unpacking and no `in`; a type comes before what it may be)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import INTERPRETED
from ssrtrack.kernels.koss_rows import pile, unstack
from ssrtrack.kernels.koss_segment_ahead import exchange, halved, rows_of
from ssrtrack.kernels.koss_segment_parts import by_pair, by_row, operand
from ssrtrack.kernels.koss_segment_walk import load_code, store_code


@triton.jit
def again(v):
    """v, of which the compiler does not know that it is: what is made of it is made again and need not be kept."""
    if INTERPRETED:
        return v
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [v], tl.float32, False, 1)


@triton.jit
def all_again(values, COUNT: tl.constexpr):
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (again(values[k]),)
    return out


@triton.jit
def to_rows(values, w, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr, P: tl.constexpr, M: tl.constexpr):
    """M vectors spread over the lanes → φ's rows [P·G, C] in w's precision, in the order lane, k, sequence."""
    R: tl.constexpr = G * C * NS
    Q: tl.constexpr = P // NS
    columns = ()
    for k in tl.static_range(Q):
        column = operand(again(values[k]), w) if k < M else tl.zeros([R], w.dtype)
        columns = columns + (tl.reshape(column, [R, 1]),)
    return by_row(tl.reshape(pile(columns, 1, R, Q, Q.bit_length() - 1), [G * C, P]), G, C, P)


@triton.jit
def from_rows(rows, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr, P: tl.constexpr, M: tl.constexpr):
    """The opposite, in the rows' precision."""
    R: tl.constexpr = G * C * NS
    Q: tl.constexpr = P // NS
    columns = unstack(tl.reshape(by_pair(rows, G, C, P), [R, Q]), R, Q, Q.bit_length() - 1)
    out = ()
    for k in tl.static_range(M):
        out = out + (tl.reshape(columns[k], [R]),)
    return out


@triton.jit
def store_hidden(
    pointer, apart, stride: tl.constexpr, left, hidden, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr,
    P: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Rows of φ, in the order of `to_rows`, to their steps' places."""
    Q: tl.constexpr = P // NS
    row = tl.arange(0, P * G)[:, None]
    k = row // G % Q
    step = row // (G * Q) * M + k
    place = row % G * apart + step * stride + tl.arange(0, C)[None, :]
    tl.store(pointer + place, hidden.to(pointer.dtype.element_ty), mask=(k < M) & (step < left))


@triton.jit
def load_steps(pointer, stride: tl.constexpr, step, left, other: tl.constexpr, M: tl.constexpr, AGAIN: tl.constexpr):
    """`rows_of`, in machine instructions: the compiler looks at everything beside every load it knows of, for long.

    What is loaded AGAIN, from the near cache, need not be kept in registers till then.
    """
    KIND: tl.constexpr = pointer.dtype.element_ty
    ROUGH: tl.constexpr = KIND == tl.bfloat16
    if INTERPRETED or (not ROUGH and KIND != tl.float32):
        return rows_of(pointer, stride, step, left, other, M)
    else:
        out = ()
        for k in tl.static_range(M):
            bits = tl.inline_asm_elementwise(
                load_code(ROUGH, k, stride, other), "=&r,l,r", [pointer, left - step],
                tl.int32, not AGAIN, 1,
            )  # fmt: skip
            out = out + (bits.to(tl.float32, bitcast=True),)
        return out


@triton.jit
def store_steps(pointer, stride: tl.constexpr, step, left, values, M: tl.constexpr):
    """M vectors of a step each, from step [R] on, as far as there are `left`; likewise."""
    KIND: tl.constexpr = pointer.dtype.element_ty
    ROUGH: tl.constexpr = KIND == tl.bfloat16
    for k in tl.static_range(M):
        if INTERPRETED or (not ROUGH and KIND != tl.float32):
            tl.store(pointer + k * stride, values[k].to(KIND), mask=step + k < left)
        else:
            bits = values[k].to(tl.int32, bitcast=True)
            tl.inline_asm_elementwise(
                store_code(ROUGH, k, stride), "=r,l,r,r", [pointer, bits, left - step],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@triton.jit
def store_read(
    pointer, apart, stride, left, values, V: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, G: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """V = S·NI vectors of gc, that of step s and state i at s·NI + i, summed over each sequence's channels."""
    R: tl.constexpr = G * C * NS
    CHANNELS: tl.constexpr = min(C, 32 // NS)  # of a warp, or of a sequence where that is less
    LEVELS: tl.constexpr = CHANNELS.bit_length() - 1
    HALVINGS: tl.constexpr = min(LEVELS, V.bit_length() - 1)
    Z: tl.constexpr = V >> HALVINGS
    thread = tl.arange(0, R)
    for level in tl.static_range(LEVELS):
        if level < HALVINGS:
            values = halved(values, thread, NS << (LEVELS - 1 - level), V >> (level + 1))
        else:
            values = (values[0] + exchange(values[0], NS << (LEVELS - 1 - level)),)
    columns = ()
    for z in tl.static_range(Z):
        columns = columns + (tl.reshape(again(values[z]), [R, 1]),)
    piled = tl.reshape(pile(columns, 1, R, Z, Z.bit_length() - 1), [G, C // CHANNELS, CHANNELS * NS, Z])
    total = tl.reshape(tl.sum(piled, 1), [G * CHANNELS * NS, Z])
    row = tl.arange(0, G * CHANNELS * NS)[:, None]
    channel, g = row // NS % CHANNELS, row // (NS * CHANNELS)
    at = (channel >> (LEVELS - HALVINGS)) * Z + tl.arange(0, Z)[None, :]
    first = (channel & ((1 << (LEVELS - HALVINGS)) - 1)) == 0
    place = g * apart + at // NI * stride + (row % NS * NI + at % NI)
    tl.store(pointer + place, total, mask=first & (at // NI < left))


@triton.jit
def products(a, b, COUNT: tl.constexpr):
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (a[k] * b[k],)
    return out


@triton.jit
def sums(a, b, COUNT: tl.constexpr):
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (a[k] + b[k],)
    return out
