"""What the Triton kernels of `koss_scan` share: how they cut the work, read rows of time, and make one step.

A program owns CB neighbouring channels of one piece (a sequence, or one of its chunks of time), a thread one of them
with all its N states. Tiles are (NP, CB), NP the power of two from N up; lanes lie along the channels: sums over the
states stay within a thread. That layout is Triton's own choice for tiles nobody loads in wider pieces: sizes that
would let it vectorise across channels are therefore never specialised (FREE).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# ruff: noqa: RUF005, SIM108
# What Triton compiles has types of its own, and knows no unpacking.

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import BUCY, DISCRETE, EXACT, KALMAN, LN2, LOG2E, NEUMANN, advance, drive
from ssrtrack.kernels.koss_rows import unstack

SELECTIVE = tl.constexpr(5)  # beside the operators' codes: Mamba's h = e^{ΔA} h + Δ b x
FREE = ("steps", "channels", "chunk", "pieces", "shift")


@triton.jit
def span(offsets, steps, chunk, pieces, every, VARLEN: tl.constexpr):
    """Of this program's piece: its batch row, first and last + 1 step, and the row of its first kept state."""
    piece = tl.program_id(1)
    row, part = piece // pieces, piece % pieces
    if VARLEN:
        first, last = tl.load(offsets + row).to(tl.int32), tl.load(offsets + row + 1).to(tl.int32)
        return row, row * 0, first, last, first // every + row
    else:
        first = part * chunk
        kept = row * tl.cdiv(steps, every) + first // every
        return row, row, first, tl.minimum(first + chunk, steps), kept


@triton.jit
def own_tile(shift, NP: tl.constexpr, CB: tl.constexpr):
    """Places of a tile that a program keeps for itself: constant distances, so one address serves a thread.

    shift is 0, which Triton must not know: see the head of this file.
    """
    # In 64 bits: a sum in 32 bits could overflow, so its constant part would not become part of the instruction.
    own = tl.cast(tl.arange(0, CB) + shift, tl.int64)
    return tl.cast(tl.arange(0, NP), tl.int64)[:, None] * CB + own[None, :]


@triton.jit
def within(ch, channels, EVEN: tl.constexpr):
    """Which channels there are: all, where EVEN, so that no load needs a mask."""
    if EVEN:
        on = tl.full(ch.shape, 1, tl.int1)
    else:
        on = ch < channels
    return on


@triton.jit
def before(t, last, place):
    """t < last as a tile like `place`: the interpreter does not widen a lone truth value."""
    return t + place * 0 < last


@triton.jit
def rows(base, t0, last, stride, ch, inside, COUNT: tl.constexpr, MASKED: tl.constexpr):
    """COUNT rows of channels from step t0 on, as they are stored; 0 from step `last` on where MASKED."""
    base += tl.cast(t0, tl.int64) * stride + ch
    out = ()
    for u in tl.static_range(COUNT):
        on = inside
        if MASKED:
            on = inside & before(t0 + u, last, ch)
        out = out + (tl.load(base + u * stride, mask=on, other=0.0),)
    return out


@triton.jit
def gathered(
    x, delta, gain, slope, t0, last, x_t, delta_t, gain_t, slope_t, ch, inside,
    OP: tl.constexpr, SLOPE: tl.constexpr, COUNT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Rows of COUNT steps: tuples of x, Δ, K, ẋ; what the operator lacks repeats another one, unread."""
    ds = rows(delta, t0, last, delta_t, ch, inside, COUNT, MASKED)
    xs, ks, ss = rows(x, t0, last, x_t, ch, inside, COUNT, MASKED), ds, ds
    if OP != SELECTIVE:
        ks = rows(gain, t0, last, gain_t, ch, inside, COUNT, MASKED)
    if SLOPE:
        ss = rows(slope, t0, last, slope_t, ch, inside, COUNT, MASKED)
    return xs, ds, ks, ss


@triton.jit
def row_tile(base, t0, stride, ch, inside, COUNT: tl.constexpr):
    """COUNT whole rows of channels as a tile (CB, COUNT): one load of 16 bytes a thread where rows are aligned."""
    at = base + tl.cast(t0, tl.int64) * stride + ch[:, None] + tl.arange(0, COUNT)[None, :] * stride
    return tl.load(at, mask=inside[:, None], other=0.0)


@triton.jit
def gathered_tiles(
    x, delta, gain, slope, t0, x_t, delta_t, gain_t, slope_t, ch, inside, OP: tl.constexpr, SLOPE: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """As `gathered`, tiles of COUNT steps that all are there."""
    d = row_tile(delta, t0, delta_t, ch, inside, COUNT)
    x, k, s = row_tile(x, t0, x_t, ch, inside, COUNT), d, d
    if OP != SELECTIVE:
        k = row_tile(gain, t0, gain_t, ch, inside, COUNT)
    if SLOPE:
        s = row_tile(slope, t0, slope_t, ch, inside, COUNT)
    return x, d, k, s


@triton.jit
def by_row(tile, CB: tl.constexpr, COUNT: tl.constexpr):
    """A tile of `row_tile` as rows (CB,), step by step, each channel with its own thread."""
    columns = unstack(tile, CB, COUNT, COUNT.bit_length() - 1)
    out = ()
    for u in tl.static_range(COUNT):
        out = out + (tl.reshape(columns[u], [CB]),)
    return out


@triton.jit
def shared(base, u, rest, stride, n, N: tl.constexpr, NP: tl.constexpr):
    """The N numbers of step u of a block, which all channels share, as a tile (NP, 1).

    Of the `rest` steps that the block has left, a later one takes the last: there K, Δ and ∂L/∂y are 0.
    """
    base += tl.minimum(u, rest - 1) * stride + n
    if N == NP:
        value = tl.load(base)
    else:
        value = tl.load(base, mask=n < N, other=0.0)
    return value.to(tl.float32)[:, None]


@triton.jit
def both(read, write, u, rest, read_t, write_t, n, OP: tl.constexpr, N: tl.constexpr, NP: tl.constexpr):
    """c and b of a step, (NP, 1); b repeats c, unread, but for the selective scan."""
    c = shared(read, u, rest, read_t, n, N, NP)
    b = c
    if OP == SELECTIVE:
        b = shared(write, u, rest, write_t, n, N, NP)
    return c, b


@triton.jit
def shared_tile(base, t0, rest, stride, n, N: tl.constexpr, NP: tl.constexpr, COUNT: tl.constexpr):
    """The same of COUNT steps from t0 on, as they are stored: one load, spread over the lanes, (NP, COUNT)."""
    u = tl.minimum(tl.arange(0, COUNT), rest - 1)
    at = row_at(base, t0, stride) + n[:, None] + u[None, :] * stride
    if N == NP:
        tile = tl.load(at)
    else:
        tile = tl.load(at, mask=(n < N)[:, None], other=0.0)
    return tile


@triton.jit
def both_tiles(
    read, write, t0, rest, read_t, write_t, n, OP: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, COUNT: tl.constexpr
):
    """Tiles of c and b of COUNT steps; b repeats c, unread, but for the selective scan."""
    c = shared_tile(read, t0, rest, read_t, n, N, NP, COUNT)
    b = c
    if OP == SELECTIVE:
        b = shared_tile(write, t0, rest, write_t, n, N, NP, COUNT)
    return c, b


@triton.jit
def by_step(c, b, OP: tl.constexpr, NP: tl.constexpr, COUNT: tl.constexpr):
    """Tiles of `both_tiles` as tuples of (NP, 1), step by step, through shared memory to all threads."""
    cs = unstack(c.to(tl.float32), NP, COUNT, COUNT.bit_length() - 1)
    bs = cs
    if OP == SELECTIVE:
        bs = unstack(b.to(tl.float32), NP, COUNT, COUNT.bit_length() - 1)
    return cs, bs


@triton.jit
def row_at(base, t, stride):
    """Where row t begins; a long tensor's rows lie beyond 32 bits."""
    return base + tl.cast(t, tl.int64) * stride


@triton.jit
def wide(value):
    """A row of channels (CB,) as a float32 tile (1, CB)."""
    return value.to(tl.float32)[None, :]


@triton.jit
def stepped(OP: tl.constexpr, SLOPE: tl.constexpr, h, rate2, x, delta, K, b, c, slope, lead):
    """The state after one step; rate2 = A log₂e. `discrete` as p + K (v − c p): two multiply-adds, not three."""
    E = tl.exp2(delta * rate2)
    p = E * h
    v = x
    if SLOPE:
        v = drive(OP, x, slope, lead)
    else:
        slope = tl.zeros_like(delta)
        if OP == BUCY:
            v = slope
    if OP == SELECTIVE:
        h = p + b * (delta * x)
    elif OP == DISCRETE:
        h = p + K * (v - c * p)
    elif OP == KALMAN:
        h = p + (K * c) * (v - tl.sum(c * p, 0)[None, :])
    elif OP == EXACT:
        h = E * (h - K * (x - slope)) + K * x
    else:
        h = advance(OP, h, p, rate2 * LN2, delta, K, c, x, slope, v)
    return h


@triton.jit
def multiplied(OP: tl.constexpr, h, rate2, delta, K, c):
    """a h of one step of a diagonal operator h ← a h + u, or a G of its adjoint."""
    if OP == NEUMANN:
        h = tl.exp2(delta * rate2 * (1.0 - (K * c) * (K * c))) * h
    elif OP == BUCY:
        h = tl.exp2(delta * (rate2 - K * c * LOG2E)) * h
    else:
        h = tl.exp2(delta * rate2) * h
        if OP == DISCRETE:
            h = h - K * (c * h)
    return h
