"""The closed KOSS loop on a GPU, segments of S > 1 steps: forward. One program walks through G sequences of one head.

A segment's x, Δ and z are columns [G·C, 1] in registers, one a step (`koss_rows`), so that prediction, update and
read-out are straight lines of multiply-adds with no exchange between threads but Σ_n over NS lanes, made for all steps
at once. Twice a pass the columns meet as a tile for the two products of φ.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import CODES, gain, saturation
from ssrtrack.kernels.koss_rows import stack, unstack
from ssrtrack.kernels.koss_segment_parts import (
    bounds, by_pair, by_row, decayed, hidden_layer, kept_row, load_read, load_slope, load_states, load_tile, operand,
    predictions, read_out, store_states, store_tile, updated, zeros,
)  # fmt: skip

Tensor = torch.Tensor


@triton.jit
def _forward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, Y, FINAL, KEPT, B, T, H,
    xb, xt, db, dt, cb, ct, zb, zt, sb, st, yb, yt, rn, hb, hn,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    KEEP: tl.constexpr, G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr,
    LOG: tl.constexpr, P: tl.constexpr, LOGP: tl.constexpr, J: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    PC: tl.constexpr = G * C
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    head = tl.program_id(0) % H
    group = (tl.program_id(0) // H) * G
    channel = head * C + tl.arange(0, PC) % C
    b = (group + tl.arange(0, PC) // C).to(tl.int64)
    first, length = bounds(OFFSETS, b, B, T, VARLEN)
    sequence = (group + tl.arange(0, G)).to(tl.int64)
    first_read, length_read = bounds(OFFSETS, sequence, B, T, VARLEN)
    inside = b < B
    kept = KEPT + (kept_row(first, b, T, S, VARLEN) * H + head) * (NI * NS * C) + channel - head * C
    x_at, d_at = X + b * xb + first * xt + channel, DELTA + b * db + first * dt + channel
    z_at, y_at = BIAS + b * zb + first * zt + channel, Y + b * yb + first * yt + channel
    s_at, c_at = SLOPE + b * sb + first * st + channel, READ + sequence * cb + first_read * ct

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    rate = load_states(RATE + channel, rn, inside, NI, NS)
    h = load_states(START + b * hb + channel, hn, inside, NI, NS)
    lead = tl.load(LEAD + channel)[:, None].to(tl.float32) if HAS_LEAD else tl.zeros([PC, 1], tl.float32)
    pad = zeros(P - S, PC, NS)
    for at in range(0, tl.max(length, 0), S):
        left, there = tl.minimum(length - at, S), at < length
        ahead = tl.zeros([], tl.int64) + at
        if KEEP:
            store_states(kept + ahead // S * H * (NI * NS * C), C, there, h, NI, NS)
        x_tile = load_tile(x_at + ahead * xt, xt, left, 0.0, P)
        x = unstack(x_tile, PC, P, LOGP)
        delta = unstack(load_tile(d_at + ahead * dt, dt, left, 0.0, P), PC, P, LOGP)
        z = by_row(load_tile(z_at + ahead * zt, zt, left, -1e9, P), G, C, P)
        slope = load_slope(s_at + ahead * st, st, left, HAS_SLOPE, PC, P, LOGP)
        c = load_read(c_at + ahead * ct, ct, length_read - at, G, C, NI, NS, S, LOG, EVEN)
        e = x_tile
        if INNOVATE:
            e -= stack(predictions(h, rate, delta, c, S, NI, EVEN) + pad, NS, PC, P, LOGP)
        for j in tl.static_range(J + 1):
            s, _ = saturation(by_row(e, G, C, P))
            hidden = hidden_layer(s, w1, b1, DOT)
            K_tile = gain(OP, tl.dot(operand(hidden, w2), w2, input_precision=DOT) + z)
            K = unstack(by_pair(K_tile, G, C, P), PC, P, LOGP)
            g = h
            refined, y = (), ()
            for s in tl.static_range(S):
                if j < J:
                    refined = refined + (read_out(c, s * EVEN, decayed(g, rate, delta[s], NI), NI),)
                g = updated(OP, g, rate, delta[s], K[s], c, s * EVEN, x[s], slope[s], lead, NI)
                if j == J:
                    y = y + (read_out(c, s * EVEN, g, NI),)
            if j < J:
                e = x_tile - stack(refined + pad, NS, PC, P, LOGP)
        h = g
        store_tile(y_at + ahead * yt, yt, left, stack(y + pad, NS, PC, P, LOGP), P)
    store_states(FINAL + b * hb + channel, hn, inside, h, NI, NS)


class Shape(NamedTuple):
    """What a launch needs to know: sequences, rows of the time axis, heads, channels of one, states."""

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


class Tiling(NamedTuple):
    """sequences G a program, lanes NS a channel (G > 1 needs 1), warps, loop stages in flight."""

    G: int
    NS: int
    warps: int
    stages: int


def tiling(size: Shape, most_lanes: int) -> Tiling:
    """Small N: one lane, and two sequences a program where there are enough. Large N: a channel's states in lanes."""
    if size.N <= 4:
        G = 2 if size.B * size.H >= 256 and size.C <= 64 else 1
        return Tiling(G, 1, max(1, G * size.C // 32), 2)
    NS = 1
    while NS < most_lanes and size.N % (2 * NS) == 0:
        NS *= 2
    return Tiling(1, NS, max(1, min(8, size.C * NS // 32)), 2)


def pointers(inputs: LoopInputs) -> tuple[list[Tensor], list[int]]:
    """The tensors in the kernels' order and their strides over b and t; what is not given is not read."""
    x, delta, read, bias, rate, w1, b1, w2, start, slope, lead, offsets = inputs
    # Triton's interpreter multiplies bfloat16 as if its bits were integers.
    rough = x.dtype == torch.bfloat16 and not triton.knobs.runtime.interpret
    precision = torch.bfloat16 if rough else torch.float32
    given = [x, delta, read, bias, rate.contiguous(), w1.to(precision).contiguous(), b1.contiguous()]
    given += [w2.to(precision).contiguous(), start.contiguous(), x if slope is None else slope]
    given += [rate if lead is None else lead.contiguous(), rate if offsets is None else offsets.contiguous()]
    strides = [v.stride(k) for v in (x, delta, read, bias, given[9]) for k in (0, 1)]
    if offsets is not None:
        strides[::2] = [0] * len(strides[::2])
    return given, strides


def settings(inputs: LoopInputs, form: LoopForm, tiles: Tiling) -> dict[str, Any]:
    """What the compiler has to know, for both directions."""
    size = shape_of(inputs)
    rows = max(form.segment, 16 // tiles.G)
    return {
        "OP": CODES[form.operator],
        "HAS_SLOPE": inputs.slope is not None,
        "HAS_LEAD": inputs.slope is not None and inputs.lead is not None and form.operator not in ("exact", "neumann"),
        "INNOVATE": form.innovate,
        "VARLEN": inputs.offsets is not None,
        "G": tiles.G,
        "C": size.C,
        "NI": size.N // tiles.NS,
        "NS": tiles.NS,
        "S": form.segment,
        "LOG": form.segment.bit_length() - 1,
        "P": rows,
        "LOGP": rows.bit_length() - 1,
        "J": form.passes if form.innovate else 0,
        "DOT": "ieee" if inputs.x.dtype == torch.bfloat16 else "tf32x3",
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def forward(
    inputs: LoopInputs, form: LoopForm, keep: bool, tiles: Tiling | None = None
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """y (B, T, D) in x's precision, the last state (B, N, D) float32, and, for `backward`, what it needs.

    That is the state before each segment, (segments, H, N, C) float32: 4 N / S bytes a step and channel.
    """
    size = shape_of(inputs)
    tiles = tiling(size, 4) if tiles is None else tiles
    given, strides = pointers(inputs)
    varlen = inputs.offsets is not None
    count = size.T // form.segment + size.B if varlen else size.B * triton.cdiv(size.T, form.segment)
    kept = given[8].new_empty((count if keep else 0, size.H, size.N, size.C))
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    final = torch.empty_like(given[8])
    _forward[(triton.cdiv(size.B, tiles.G) * size.H,)](
        *given, y, final, kept, size.B, size.T, size.H, *strides, 0 if varlen else y.stride(0), y.stride(1),
        given[4].stride(0), *final.stride()[:2], KEEP=keep, **settings(inputs, form, tiles),
    )  # fmt: skip
    return y, final, (kept,) if keep else ()
