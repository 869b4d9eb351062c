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
def load_columns(pointer, stride, first, end, channel, other, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr):
    """Rows first … first + S of one head as columns [C, 1] in float32; `other` past the sequence's end."""
    t = first + tl.arange(0, S)[None, :]
    tile = tl.load(pointer + t.to(tl.int64) * stride + channel[:, None], mask=t < end, other=other)
    return unstack(tile.to(tl.float32), C, S, LOG)


@triton.jit
def load_slope(
    pointer, stride, first, end, channel, HAS_SLOPE: tl.constexpr, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr
):
    """ẋ as columns, zeros where there is none."""
    if HAS_SLOPE:
        return load_columns(pointer, stride, first, end, channel, 0.0, C, S, LOG)
    zeros = ()
    for _ in tl.static_range(S):
        zeros = zeros + (tl.zeros([C, 1], tl.float32),)
    return zeros


@triton.jit
def load_read(READ, stride, t, end, NI: tl.constexpr, NS: tl.constexpr):
    """c_t as NI rows [1, NS]; 0 past the end."""
    rows = ()
    for i in tl.static_range(NI):
        n = i * NS + tl.arange(0, NS)[None, :]
        row = tl.zeros([1, NS], tl.int64) + t
        c = tl.load(READ + row * stride + n, mask=row < end, other=0.0)
        rows = rows + (c.to(tl.float32),)
    return rows


@triton.jit
def load_states(pointer, stride, channel, NI: tl.constexpr, NS: tl.constexpr):
    """(N, C) in memory, `stride` between states → NI tiles [C, NS]."""
    tiles = ()
    for i in tl.static_range(NI):
        n = i * NS + tl.arange(0, NS)[None, :]
        tiles = tiles + (tl.load(pointer + n * stride + channel[:, None]).to(tl.float32),)
    return tiles


@triton.jit
def store_states(pointer, stride, channel, tiles, NI: tl.constexpr, NS: tl.constexpr):
    for i in tl.static_range(NI):
        n = i * NS + tl.arange(0, NS)[None, :]
        tl.store(pointer + n * stride + channel[:, None], tiles[i])


@triton.jit
def read_out(c, tiles, NI: tl.constexpr):
    """Σ_n c_n h_n as a column [C, 1]."""
    total = c[0] * tiles[0]
    for i in tl.static_range(1, NI):
        total += c[i] * tiles[i]
    return tl.sum(total, 1, keep_dims=True)


@triton.jit
def decayed(tiles, rate, delta, NI: tl.constexpr):
    """e^{ΔA} h: the state one step later where nothing is measured."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (tl.exp2(delta * (rate[i] * LOG2E)) * tiles[i],)
    return out


@triton.jit
def updated(OP: tl.constexpr, h, rate, delta, K, c, x, slope, v, NI: tl.constexpr):
    """The state after one step, all operators."""
    p = decayed(h, rate, delta, NI)
    if OP == KALMAN:
        v = v - read_out(c, p, NI)
    out = ()
    for i in tl.static_range(NI):
        out = out + (advance(OP, h[i], p[i], rate[i], delta, K, c[i], x, slope, v),)
    return out


@triton.jit
def innovations(h, rate, delta, c, x, S: tl.constexpr, NI: tl.constexpr):
    """e_t = x_t − c_t·p_t of the open-loop prediction p_t = e^{Δ_t A} p_{t−1} from h."""
    p = h
    e = ()
    for s in tl.static_range(S):
        p = decayed(p, rate, delta[s], NI)
        e = e + (x[s] - read_out(c[s], p, NI),)
    return e


@triton.jit
def operand(tile, w):
    """A tile as the products take it: in the weights' own precision."""
    return tile.to(w.dtype)


@triton.jit
def gains(e, z, w1, b1, w2, OP: tl.constexpr, C: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr, DOT: tl.constexpr):
    """K of all steps from their innovations: columns → [S, C] → two products → columns."""
    s, _ = saturation(tl.trans(stack(e, C, S, LOG)))
    hidden = tl.maximum(tl.dot(operand(s, w1), w1, input_precision=DOT) + b1[None, :], 0.0)
    logit = unstack(tl.trans(tl.dot(operand(hidden, w2), w2, input_precision=DOT)), C, S, LOG)
    K = ()
    for i in tl.static_range(S):
        K = K + (gain(OP, logit[i] + z[i]),)
    return K


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
    for at in range(first, end, S):
        if KEEP:
            store_states(KEPT + (segment * H + head) * (NI * NS * C) - head * C, C, channel, h, NI, NS)
            segment += 1
        x = load_columns(X + b * xb, xt, at, end, channel, 0.0, C, S, LOG)
        delta = load_columns(DELTA + b * db, dt, at, end, channel, 0.0, C, S, LOG)
        z = load_columns(BIAS + b * zb, zt, at, end, channel, -1e9, C, S, LOG)
        slope = load_slope(SLOPE + b * sb, st, at, end, channel, HAS_SLOPE, C, S, LOG)
        c = ()
        for s in tl.static_range(S):
            c = c + (load_read(READ + b * cb, ct, at + s, end, NI, NS),)
        if INNOVATE:
            e = innovations(h, rate, delta, c, x, S, NI)
        else:
            e = x
        for j in tl.static_range(J + 1):
            K = gains(e, z, w1, b1, w2, OP, C, S, LOG, DOT)
            g = h
            e = ()
            y = ()
            for s in tl.static_range(S):
                if j < J:
                    e = e + (x[s] - read_out(c[s], decayed(g, rate, delta[s], NI), NI),)
                v = drive(OP, x[s], slope[s], lead)
                g = updated(OP, g, rate, delta[s], K[s], c[s], x[s], slope[s], v, NI)
                if j == J:
                    y = y + (read_out(c[s], g, NI),)
        h = g
        t = at + tl.arange(0, S)[None, :]
        place = Y + b * yb + t.to(tl.int64) * yt + channel[:, None]
        tl.store(place, stack(y, C, S, LOG).to(Y.dtype.element_ty), mask=t < end)
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
    precision = x.dtype if x.dtype in (torch.bfloat16, torch.float16) else torch.float32
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
