"""The closed KOSS loop on a GPU, segments of S > 1 steps: forward. One program walks through G sequences of one head.

A segment's x, Δ and z are columns [G·C, 1] in registers, one a step (`koss_rows`), so that prediction, update and
read-out are straight lines of multiply-adds with no exchange between threads but Σ_n over NS lanes, made for all steps
at once. Twice a pass the columns meet as a tile for the two products of φ.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005 (Triton knows no unpacking; its conditions are branches)

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import CODES, gain, saturation
from ssrtrack.kernels.koss_rows import stack, unstack
from ssrtrack.kernels.koss_segment_ahead import ask_rows, fits, forward_ahead, read_tile, reads
from ssrtrack.kernels.koss_segment_parts import (
    bounds,
    by_pair,
    by_row,
    decayed,
    hidden_layer,
    kept_row,
    load_slope,
    load_states,
    load_tile,
    operand,
    predictions,
    read_out,
    store_states,
    store_tile,
    updated,
    zeros,
)  # fmt: skip

Tensor = torch.Tensor


@triton.jit
def _forward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, Y, FINAL, KEPT, T, H,
    xb, xt, db, dt, cb, ct, zb, zt, sb, st, yb, yt, rn, hb, hn,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    KEEP: tl.constexpr, G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr,
    LOG: tl.constexpr, P: tl.constexpr, LOGP: tl.constexpr, J: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    PC: tl.constexpr = G * C
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    sequence, channel = tl.arange(0, PC) // C, tl.arange(0, PC) % C
    x_at, d_at = X + b * xb + first * xt + head * C, DELTA + b * db + first * dt + head * C
    z_at, s_at = BIAS + b * zb + first * zt + head * C, SLOPE + b * sb + first * st + head * C
    c_at, y_at = READ + b * cb + first * ct, Y + b * yb + first * yt + head * C
    kept = KEPT + (kept_row(first, b, T, S, VARLEN) * H + head) * (NI * NS * C)
    kept_apart = tl.cdiv(T, S) * H * (NI * NS * C)

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    rate = load_states(RATE + head * C, channel, rn, NI, NS)
    h = load_states(START + b * hb + head * C, sequence * hb + channel, hn, NI, NS)
    lead = tl.load(LEAD + head * C + channel)[:, None].to(tl.float32) if HAS_LEAD else tl.zeros([PC, 1], tl.float32)
    pad = zeros(P - S, PC, NS)
    c_tile = read_tile(c_at, cb, ct, 0, length, S, NI, NS, G, C)
    for at in range(0, length, S):
        rest = length - at
        left = tl.minimum(rest, S)
        # From far away into the second-level cache: the compiler asks one segment ahead, too late for that.
        ask_rows(x_at, xb, xt, 2 * S, rest, S, G, C)
        ask_rows(d_at, db, dt, 2 * S, rest, S, G, C)
        ask_rows(z_at, zb, zt, 2 * S, rest, S, G, C)
        ask_rows(c_at, cb, ct, 2 * S, rest, S, G, NI * NS)
        if HAS_SLOPE:
            ask_rows(s_at, sb, st, 2 * S, rest, S, G, C)
        if KEEP:
            store_states(kept, sequence * kept_apart + channel, C, h, NI, NS)
        x_tile = load_tile(x_at, sequence * xb + channel, xt, left, 0.0, P)
        x = unstack(x_tile, PC, P, LOGP)
        delta = unstack(load_tile(d_at, sequence * db + channel, dt, left, 0.0, P), PC, P, LOGP)
        z = by_row(load_tile(z_at, sequence * zb + channel, zt, left, -1e9, P), G, C, P)
        slope = load_slope(s_at, sequence * sb + channel, st, left, HAS_SLOPE, PC, P, LOGP)
        rows, c = reads(c_tile, S, NI, NS, G, C), ()
        for k in tl.static_range(S * NI):
            c = c + (tl.reshape(rows[k], [PC, NS]),)
        c_tile = read_tile(c_at, cb, ct, S, rest, S, NI, NS, G, C)
        e = x_tile
        if INNOVATE:
            e -= stack(predictions(h, rate, delta, c, S, NI, NI) + pad, NS, PC, P, LOGP)
        for j in tl.static_range(J + 1):
            s, _ = saturation(by_row(e, G, C, P))
            hidden = hidden_layer(s, w1, b1, DOT)
            K_tile = gain(OP, tl.dot(operand(hidden, w2), w2, input_precision=DOT) + z)
            K = unstack(by_pair(K_tile, G, C, P), PC, P, LOGP)
            g = h
            refined, y = (), ()
            for s in tl.static_range(S):
                if j < J:
                    refined = refined + (read_out(c, s * NI, decayed(g, rate, delta[s], NI), NI),)
                g = updated(OP, g, rate, delta[s], K[s], c, s * NI, x[s], slope[s], lead, NI)
                if j == J:
                    y = y + (read_out(c, s * NI, g, NI),)
            if j < J:
                e = x_tile - stack(refined + pad, NS, PC, P, LOGP)
        h = g
        store_tile(y_at, sequence * yb + channel, yt, left, stack(y + pad, NS, PC, P, LOGP), P)
        x_at, d_at, z_at, s_at = x_at + S * xt, d_at + S * dt, z_at + S * zt, s_at + S * st
        c_at, y_at, kept = c_at + S * ct, y_at + S * yt, kept + H * (NI * NS * C)
    store_states(FINAL + b * hb + head * C, sequence * hb + channel, hn, h, NI, NS)


class Shape(NamedTuple):
    """What a launch needs to know: sequences, rows of the time axis, heads, channels of one, states."""

    B: int
    T: int
    H: int
    C: int
    N: int


def shape_of(inputs: LoopInputs) -> Shape:
    heads, _, channels = inputs.w1.shape
    return Shape(inputs.start.shape[0], inputs.x.shape[1], heads, channels, inputs.read.shape[2])


def supported(inputs: LoopInputs, form: LoopForm) -> bool:
    """Whether the kernels are written for these sizes: S = 2 … 32 and C = 16 … 128 powers of two, N ≤ 16.

    A gain that sees the prediction (w1 of 2C rows) has no kernel here. Heads of 128 channels need x in bfloat16: each
    weight of a float32 product is there in two parts, more than a multiprocessor's shared memory holds.
    """
    size = shape_of(inputs)
    widths = (16, 32, 64, 128) if inputs.x.dtype == torch.bfloat16 else (16, 32, 64)
    sizes = size.C in widths and size.N <= 16 and size.T > 0
    return form.segment in (2, 4, 8, 16, 32) and sizes and inputs.w1.shape[1] == size.C


class Tiling(NamedTuple):
    """Sequences G a program (a divisor of B; 1 if packed), lanes NS a channel (1 if G > 1), warps, stages in flight.

    U: steps the backward pass walks at a time, unrolled (a power of two).
    """

    G: int
    NS: int
    warps: int
    stages: int
    U: int = 4


def tiling(inputs: LoopInputs) -> Tiling:
    """Small N: one lane, two sequences a program where there are enough. Large N: states in lanes."""
    size = shape_of(inputs)
    if size.N <= 4:
        pairs = inputs.offsets is None and size.C <= 64 and near(inputs)
        G = 2 if pairs and size.B % 2 == 0 and size.B * size.H >= 256 else 1
        return Tiling(G, 1, max(1, G * size.C // 32), 3)
    NS = 1
    while NS < 4 and size.N % (2 * NS) == 0:
        NS *= 2
    return Tiling(1, NS, max(1, min(8, size.C * NS // 32)), 2)


def near(inputs: LoopInputs) -> bool:
    """Whether a few neighbouring sequences lie within 32-bit offsets of one another."""
    tensors = (inputs.x, inputs.delta, inputs.read, inputs.bias, inputs.slope)
    widest = max(abs(v.stride(0)) for v in tensors if v is not None)
    return max(widest, inputs.x.shape[1] * inputs.x.shape[2], inputs.x.shape[1] * inputs.start[0].numel()) < 2**28


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
    tiles = tiling(inputs) if tiles is None else tiles
    given, strides = pointers(inputs)
    varlen = inputs.offsets is not None
    count = size.T // form.segment + size.B if varlen else size.B * triton.cdiv(size.T, form.segment)
    kept = given[8].new_empty((count if keep else 0, size.H, size.N, size.C))
    y = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    final = torch.empty_like(given[8])
    places = (0 if varlen else y.stride(0), y.stride(1), given[4].stride(0), *final.stride()[:2])
    known = settings(inputs, form, tiles)
    kernel = _forward
    if fits(tiles.G, size.C, tiles.NS, form.segment, tiles.warps):
        kernel = forward_ahead
        known["LOGNS"], known["num_stages"] = tiles.NS.bit_length() - 1, 1  # it loads ahead by itself
        del known["LOG"], known["LOGP"]
    grid = (size.B // tiles.G * size.H,)
    kernel[grid](*given, y, final, kept, size.T, size.H, *strides, *places, KEEP=keep, **known)
    return y, final, (kept,) if keep else ()
