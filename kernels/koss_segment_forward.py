"""The closed KOSS loop on a GPU, segments of S > 1 steps: forward. One program walks through one sequence of one head.

A program holds the state [C, N] in registers, N in NI tiles [C, NS] of neighbouring states, and its segment's x, Δ and z
as S columns [C, 1] each (`koss_rows`), so that prediction, update and read-out are straight lines of multiply-adds with
no exchange between threads but Σ_n over NS lanes. Twice a pass the columns meet as a tile for the two products of φ.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import CODES, KALMAN, LOG2E, advance, drive, gain, saturation
from ssrtrack.kernels.koss_rows import stack, unstack

Tensor = torch.Tensor


@triton.jit
def load_tile(pointer, stride, first, end, channel, other, S: tl.constexpr):
    """Rows first … first + S of one head as [C, S] in float32; `other` past the sequence's end."""
    t = tl.arange(0, S)[None, :]
    pointer += first.to(tl.int64) * stride
    return tl.load(pointer + t * stride + channel[:, None], mask=t < end - first, other=other).to(tl.float32)


@triton.jit
def store_tile(pointer, stride, first, end, channel, tile, S: tl.constexpr):
    """The opposite of `load_tile`."""
    t = tl.arange(0, S)[None, :]
    pointer += first.to(tl.int64) * stride
    tl.store(pointer + t * stride + channel[:, None], tile.to(pointer.dtype.element_ty), mask=t < end - first)


@triton.jit
def load_slope(
    pointer, stride, first, end, channel, HAS_SLOPE: tl.constexpr, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr
):
    """ẋ as columns, zeros where there is none."""
    if HAS_SLOPE:
        return unstack(load_tile(pointer, stride, first, end, channel, 0.0, S), C, S, LOG)
    zeros = ()
    for _ in tl.static_range(S):
        zeros = zeros + (tl.zeros([C, 1], tl.float32),)
    return zeros


@triton.jit
def load_read(
    READ, stride, first, end, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr, EVEN: tl.constexpr
):
    """c of a segment as S·EVEN rows [1, NS], that of step s and tile i at s·EVEN + i; EVEN ≥ NI is a power of two.

    State n lies in lane n // NI, tile n % NI, so that a lane reads neighbours. Past the end the last row is read again:
    K and Δ are 0 there.
    """
    place = tl.arange(0, S * EVEN)[None, :]
    row, i = tl.minimum(place // EVEN, end - 1 - first), tl.minimum(place % EVEN, NI - 1)
    pointer = READ + first.to(tl.int64) * stride
    tile = tl.load(pointer + row * stride + tl.arange(0, NS)[:, None] * NI + i).to(tl.float32)
    columns = unstack(tile, NS, S * EVEN, LOG + EVEN.bit_length() - 1)
    rows = ()
    for k in tl.static_range(S * EVEN):
        rows = rows + (tl.reshape(columns[k], [1, NS]),)
    return rows


@triton.jit
def load_states(pointer, stride, channel, NI: tl.constexpr, NS: tl.constexpr):
    """(N, C) in memory, `stride` between states → NI tiles [C, NS]."""
    tiles = ()
    for i in tl.static_range(NI):
        n = tl.arange(0, NS)[None, :] * NI + i
        tiles = tiles + (tl.load(pointer + n * stride + channel[:, None]).to(tl.float32),)
    return tiles


@triton.jit
def store_states(pointer, stride, channel, tiles, NI: tl.constexpr, NS: tl.constexpr):
    for i in tl.static_range(NI):
        n = tl.arange(0, NS)[None, :] * NI + i
        tl.store(pointer + n * stride + channel[:, None], tiles[i])


@triton.jit
def read_out(c, at, tiles, NI: tl.constexpr):
    """Σ_n c_n h_n but for the last sum, over the NS lanes: [C, NS]; c_n is c[at + i]."""
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
def updated(OP: tl.constexpr, h, rate, delta, K, c, at, x, slope, v, NI: tl.constexpr):
    """The state after one step, all operators."""
    p = decayed(h, rate, delta, NI)
    if OP == KALMAN:
        v = v - tl.sum(read_out(c, at, p, NI), 1, keep_dims=True)
    out = ()
    for i in tl.static_range(NI):
        out = out + (advance(OP, h[i], p[i], rate[i], delta, K, c[at + i], x, slope, v),)
    return out


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
def operand(tile, w):
    """A tile as the products take it: in the weights' own precision."""
    return tile.to(w.dtype)


@triton.jit
def gains(e, z, w1, b1, w2, OP: tl.constexpr, DOT: tl.constexpr):
    """K [S, C] of all steps from their innovations e and logits z [S, C]."""
    s, _ = saturation(e)
    hidden = tl.maximum(tl.dot(operand(s, w1), w1, input_precision=DOT) + b1[None, :], 0.0)
    return gain(OP, tl.dot(operand(hidden, w2), w2, input_precision=DOT) + z)


@triton.jit
def span(OFFSETS, b, T, VARLEN: tl.constexpr):
    """First row and one past the last row of sequence b."""
    if VARLEN:
        return tl.load(OFFSETS + b), tl.load(OFFSETS + b + 1)
    return b * 0, b * 0 + T


@triton.jit
def kept_row(first, b, T, S: tl.constexpr, VARLEN: tl.constexpr):
    """Where the states kept of sequence b begin, in segments; ceil(T/S) each never needs more than T // S + 1."""
    if VARLEN:
        return first // S + b
    return b * tl.cdiv(T, S)


@triton.jit
def _forward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, Y, FINAL, KEPT, T, H,
    xb, xt, db, dt, cb, ct, zb, zt, sb, st, yb, yt, rn, hb, hn,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    KEEP: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr,
    J: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    b, head = (pid // H).to(tl.int64), pid % H
    first, end = span(OFFSETS, b, T, VARLEN)
    channel = head * C + tl.arange(0, C)
    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + channel).to(tl.float32)
    rate = load_states(RATE, rn, channel, NI, NS)
    h = load_states(START + b * hb, hn, channel, NI, NS)
    lead = tl.load(LEAD + channel)[:, None].to(tl.float32) if HAS_LEAD else tl.zeros([C, 1], tl.float32)
    segment = kept_row(first, b, T, S, VARLEN)
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    for at in range(first, end, S):
        at = tl.zeros([], tl.int32) + at
        if KEEP:
            store_states(KEPT + (segment * H + head) * (NI * NS * C) - head * C, C, channel, h, NI, NS)
            segment += 1
        x_tile = load_tile(X + b * xb, xt, at, end, channel, 0.0, S)
        x = unstack(x_tile, C, S, LOG)
        delta = unstack(load_tile(DELTA + b * db, dt, at, end, channel, 0.0, S), C, S, LOG)
        z = tl.trans(load_tile(BIAS + b * zb, zt, at, end, channel, -1e9, S))
        slope = load_slope(SLOPE + b * sb, st, at, end, channel, HAS_SLOPE, C, S, LOG)
        c = load_read(READ + b * cb, ct, at, end, NI, NS, S, LOG, EVEN)
        e = x_tile
        if INNOVATE:
            e -= stack(predictions(h, rate, delta, c, S, NI, EVEN), NS, C, S, LOG)
        for j in tl.static_range(J + 1):
            K = unstack(tl.trans(gains(tl.trans(e), z, w1, b1, w2, OP, DOT)), C, S, LOG)
            g = h
            refined = ()
            y = ()
            for s in tl.static_range(S):
                if j < J:
                    refined = refined + (read_out(c, s * EVEN, decayed(g, rate, delta[s], NI), NI),)
                v = drive(OP, x[s], slope[s], lead)
                g = updated(OP, g, rate, delta[s], K[s], c, s * EVEN, x[s], slope[s], v, NI)
                if j == J:
                    y = y + (read_out(c, s * EVEN, g, NI),)
            if j < J:
                e = x_tile - stack(refined, NS, C, S, LOG)
        h = g
        store_tile(Y + b * yb, yt, at, end, channel, stack(y, NS, C, S, LOG), S)
    store_states(FINAL + b * hb, hn, channel, h, NI, NS)


class Shape(NamedTuple):
    """What a launch needs to know: sequences, steps (of the longest tensor axis), heads, channels, states."""

    B: int
    T: int
    H: int
    C: int
    N: int


def shape_of(inputs: LoopInputs) -> Shape:
    heads, channels, _ = inputs.w1.shape
    return Shape(inputs.start.shape[0], inputs.x.shape[1], heads, channels, inputs.read.shape[2])


def supported(inputs: LoopInputs, form: LoopForm) -> bool:
    """Whether the kernels are written for these sizes: S = 2 … 32 and C = 16 … 128 powers of two, N ≤ 16."""
    size = shape_of(inputs)
    return form.segment in (2, 4, 8, 16, 32) and size.C in (16, 32, 64, 128) and size.N <= 16 and size.T > 0


def lanes(states: int, most: int) -> int:
    """NS: into how many neighbouring threads the states of a channel are spread; a power of two that divides N."""
    spread = 1
    while spread < most and states % (2 * spread) == 0:
        spread *= 2
    return spread


def pointers(inputs: LoopInputs) -> tuple[list[Tensor], list[int]]:
    """The tensors in the kernels' order and their strides over b and t; what is not given is not read."""
    x, delta, read, bias, rate, w1, b1, w2, start, slope, lead, offsets = inputs
    # Triton's interpreter multiplies bfloat16 as if its bits were integers.
    rough = x.dtype in (torch.bfloat16, torch.float16) and not triton.knobs.runtime.interpret
    precision = x.dtype if rough else torch.float32
    given = [x, delta, read, bias, rate.contiguous(), w1.to(precision).contiguous(), b1.contiguous()]
    given += [w2.to(precision).contiguous(), start.contiguous(), x if slope is None else slope]
    given += [rate if lead is None else lead.contiguous(), rate if offsets is None else offsets.contiguous()]
    strides = [v.stride(k) for v in (x, delta, read, bias, given[9]) for k in (0, 1)]
    if offsets is not None:
        strides[::2] = [0] * len(strides[::2])
    return given, strides


def settings(inputs: LoopInputs, form: LoopForm, spread: int) -> dict[str, Any]:
    """What the compiler has to know, for both directions; `spread` is NS at most."""
    size = shape_of(inputs)
    NS = lanes(size.N, spread)
    return {
        "OP": CODES[form.operator],
        "HAS_SLOPE": inputs.slope is not None,
        "HAS_LEAD": inputs.slope is not None and inputs.lead is not None and form.operator not in ("exact", "neumann"),
        "INNOVATE": form.innovate,
        "VARLEN": inputs.offsets is not None,
        "C": size.C,
        "NI": size.N // NS,
        "NS": NS,
        "S": form.segment,
        "LOG": form.segment.bit_length() - 1,
        "J": form.passes if form.innovate else 0,
        "DOT": "tf32x3" if inputs.x.dtype == torch.float32 else "ieee",
        "num_warps": max(1, min(8, size.C * NS // 32)),
    }


def forward(inputs: LoopInputs, form: LoopForm, keep: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """y (B, T, D) in x's precision, the last state (B, N, D) float32, and, for `backward`, what it needs.

    That is the state before each segment, (segments, H, N, C) float32: 4 N / S bytes a step and channel.
    """
    size = shape_of(inputs)
    given, strides = pointers(inputs)
    count = size.B * triton.cdiv(size.T, form.segment)
    if inputs.offsets is not None:
        count = size.T // form.segment + size.B
    kept = given[8].new_empty((count if keep else 0, size.H, size.N, size.C))
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    final = torch.empty_like(given[8])
    _forward[(size.B * size.H,)](
        *given, y, final, kept, size.T, size.H, *strides,
        0 if inputs.offsets is not None else y.stride(0), y.stride(1), given[4].stride(0), *final.stride()[:2],
        KEEP=keep, **settings(inputs, form, 2 if size.N <= 4 else 4),
    )  # fmt: skip
    return y, final, (kept,) if keep else ()
