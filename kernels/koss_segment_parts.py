"""Pieces that the segment kernels of the closed KOSS loop share: tiles in and out, states, predictions, φ.

A program walks through G sequences of one head at once. Their G·C pairs of sequence and channel lie along the first
axis of every tile: [G·C, P] for the P rows of a segment (S, or more where φ's products need 16 rows; those beyond S are
empty), [G·C, NS] for the states, n = lane·NI + i in NI such tiles, and [P·G, C] for φ.

Places in memory are one 64-bit pointer a program, moved along with the segment, and 32-bit offsets from it: a 64-bit
pointer for every element would fill the registers.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005 (Triton knows no unpacking; its conditions are branches)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import KALMAN, LOG2E, drive
from ssrtrack.kernels.koss_rows import unstack
from ssrtrack.kernels.koss_segment_walk import advanced


@triton.jit
def zeros(count: tl.constexpr, PC: tl.constexpr, R: tl.constexpr):
    """`count` tiles [G·C, R] of zeros."""
    out = ()
    for _ in tl.static_range(count):
        out = out + (tl.zeros([PC, R], tl.float32),)
    return out


@triton.jit
def load_tile(pointer, offset, stride, left, other, P: tl.constexpr):
    """P rows from `pointer` + `offset` [G·C] on as [G·C, P] in float32; `other` where fewer than that are `left`."""
    t = tl.arange(0, P)[None, :]
    return tl.load(pointer + (offset[:, None] + t * stride), mask=t < left, other=other).to(tl.float32)


@triton.jit
def store_tile(pointer, offset, stride, left, tile, P: tl.constexpr):
    """The opposite of `load_tile`."""
    t = tl.arange(0, P)[None, :]
    tl.store(pointer + (offset[:, None] + t * stride), tile.to(pointer.dtype.element_ty), mask=t < left)


@triton.jit
def store_rows(pointer, apart, stride, left, tile, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """Rows [P·G, C] of φ to memory, sequences `apart`, steps `stride`."""
    row = tl.arange(0, P * G)[:, None]
    place = row % G * apart + row // G * stride + tl.arange(0, C)[None, :]
    tl.store(pointer + place, tile.to(pointer.dtype.element_ty), mask=row // G < left)


@triton.jit
def load_rows(pointer, apart, stride, left, other, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """The opposite of `store_rows`, `other` where there is none."""
    row = tl.arange(0, P * G)[:, None]
    place = row % G * apart + row // G * stride + tl.arange(0, C)[None, :]
    return tl.load(pointer + place, mask=row // G < left, other=other)


@triton.jit
def keep_tile(pointer, tile, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """Rows [P·G, C] to a program's own memory, for a walk through their steps; a barrier has to lie between."""
    tl.store(pointer + tl.arange(0, P * G)[:, None] * C + tl.arange(0, C)[None, :], tile)


@triton.jit
def load_slope(
    pointer, offset, stride, left, HAS_SLOPE: tl.constexpr, PC: tl.constexpr, P: tl.constexpr, LOGP: tl.constexpr
):
    """ẋ as columns, zeros where there is none."""
    if HAS_SLOPE:
        return unstack(load_tile(pointer, offset, stride, left, 0.0, P), PC, P, LOGP)
    else:
        return zeros(P, PC, 1)


@triton.jit
def load_states(pointer, offset, stride, NI: tl.constexpr, NS: tl.constexpr):
    """N states, `stride` apart from `pointer` + `offset` [G·C] on → NI tiles [G·C, NS]."""
    tiles = ()
    for i in tl.static_range(NI):
        n = tl.arange(0, NS)[None, :] * NI + i
        tiles = tiles + (tl.load(pointer + (offset[:, None] + n * stride)).to(tl.float32),)
    return tiles


@triton.jit
def store_states(pointer, offset, stride, tiles, NI: tl.constexpr, NS: tl.constexpr):
    """The opposite of `load_states`."""
    for i in tl.static_range(NI):
        n = tl.arange(0, NS)[None, :] * NI + i
        tl.store(pointer + (offset[:, None] + n * stride), tiles[i])


@triton.jit
def read_out(c, at, tiles, NI: tl.constexpr):
    """Σ_n c_n h_n but for the last sum, over the NS lanes: [G·C, NS]; c_n is c[at + i]."""
    total = c[at] * tiles[0]
    for i in tl.static_range(1, NI):
        total += c[at + i] * tiles[i]
    return total


@triton.jit
def decayed(tiles, rate, delta, NI: tl.constexpr):
    """e^{ΔA} h: the state one step later where nothing is measured."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (tl.exp2(delta * (rate[i] * LOG2E)) * tiles[i],)
    return out


@triton.jit
def updated(OP: tl.constexpr, h, rate, delta, K, c, at, x, slope, lead, NI: tl.constexpr):
    """The state after one step, all operators."""
    p = decayed(h, rate, delta, NI)
    v = drive(OP, x, slope, lead)
    if OP == KALMAN:
        v = v - tl.sum(read_out(c, at, p, NI), 1, keep_dims=True)
    return advanced(OP, h, p, rate, delta, K, c, at, x, slope, v, NI)


@triton.jit
def predictions(h, rate, delta, c, S: tl.constexpr, NI: tl.constexpr, EVEN: tl.constexpr):
    """c_t·p_t of the open-loop prediction p_t = e^{Δ_t A} p_{t−1} from h, step by step, as `read_out` gives it."""
    p = h
    out = ()
    for s in tl.static_range(S):
        p = decayed(p, rate, delta[s], NI)
        out = out + (read_out(c, s * EVEN, p, NI),)
    return out


@triton.jit
def by_row(tile, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """[G·C, P] → [P·G, C], the order of φ's rows."""
    return tl.reshape(tl.trans(tile), [P * G, C])


@triton.jit
def by_pair(tile, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr):
    """[P·G, C] → [G·C, P]."""
    return tl.trans(tl.reshape(tile, [P, G * C]))


@triton.jit
def operand(tile, w):
    """A tile as the products take it: in the weights' own precision."""
    return tile.to(w.dtype)


@triton.jit
def hidden_layer(s, w1, b1, DOT: tl.constexpr):
    """relu(W1ᵀ s + b1) of rows s [P·G, C]."""
    return tl.maximum(tl.dot(operand(s, w1), w1, input_precision=DOT) + b1[None, :], 0.0)


@triton.jit
def bounds(OFFSETS, b, T, VARLEN: tl.constexpr):
    """First row and number of steps of sequence b (64-bit, 32-bit)."""
    if VARLEN:
        first = tl.load(OFFSETS + b)
        return first.to(tl.int64), tl.load(OFFSETS + b + 1) - first
    else:
        return b * 0, T


@triton.jit
def kept_row(first, b, T, S: tl.constexpr, VARLEN: tl.constexpr):
    """Where the states kept of sequence b begin, in segments; ceil(T/S) each never needs more than T // S + 1."""
    if VARLEN:
        return first // S + b
    else:
        return b * tl.cdiv(T, S)
