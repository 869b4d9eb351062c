"""The closed KOSS loop on a GPU, segments of S > 1 steps: backward. A program walks back through G sequences of a head.

Of the forward pass only the state before each segment is kept; a segment is computed again from it and then taken back
pass by pass, the last one first (λ = ∂L/∂h after the segment):

    states    G_t = source + carry, the rest by `koss_math.retreat`; carry starts at λ in the last pass, else at 0
    gate      dz = dK K′(z),  dhid = (dz W2ᵀ) ⊙ 1[hid > 0],  de = (dhid W1ᵀ) ⊙ 2e/(1 + e²)²
    weights   s, hid and dz are written down for the products over all rows (`koss_step_backward.weight_gradients`)
    innov.    gx += de,  dp = −c de,  gc −= p de; a refined pass hands E dp at t to the states at t − 1 of the pass
              before, the first one runs Q_t = dp_t + E_{t+1} Q_{t+1} back to λ of the segment before

Registers, not arithmetic, are what it runs out of: each stage reads its inputs and computes its states again (a barrier
between two stages keeps the compiler from finding that it has seen both before), and the weights' gradients, which
would take as many registers as all else, are left to a kernel of their own. Passes are a loop, not unrolled: e and K of
each lie in a few kilobytes of the program's own, and the compiler has one pass to deal with.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM108, SIM109 (Triton knows no unpacking and no `in`)

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import (
    BUCY,
    EXACT,
    NEUMANN,
    gain,
    gain_slope,
    saturation,
    saturation_slope,
)
from ssrtrack.kernels.koss_rows import stack, unstack
from ssrtrack.kernels.koss_segment_forward import Tiling, pointers, settings, shape_of, tiling
from ssrtrack.kernels.koss_segment_parts import (
    bounds,
    by_pair,
    by_row,
    decayed,
    hidden_layer,
    keep_tile,
    kept_columns,
    kept_row,
    kept_tile,
    load_read,
    load_rows,
    load_slope,
    load_states,
    load_tile,
    operand,
    predictions,
    read_out,
    store_rows,
    store_states,
    store_tile,
    take,
    updated,
    zeros,
)
from ssrtrack.kernels.koss_segment_stages import history, innovations_back, states_back
from ssrtrack.kernels.koss_step_backward import weight_gradients

Tensor = torch.Tensor
LoopGradients = tuple[Tensor | None, ...]


@triton.jit
def _backward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, KEPT, GY, GFINAL,
    GX, GDELTA, GREAD, GBIAS, GSLOPE, GRATE, GSTART, GLEAD, SELECTED, HIDDEN, LOGIT, OWN, T, H,
    xb, xt, db, dt, cb, ct, zb, zt, sb, st, gb, gt, ob, ot, op, rh, rb, rt, rn, hb, hn,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr,
    P: tl.constexpr, LOGP: tl.constexpr, J: tl.constexpr, DOT: tl.constexpr, BLOCK: tl.constexpr, LOGM: tl.constexpr,
):  # fmt: skip
    PC: tl.constexpr = G * C
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    sequence, channel = tl.arange(0, PC) // C, tl.arange(0, PC) % C
    count = tl.cdiv(length, S)
    row = first + tl.maximum(count - 1, 0) * S  # of the last segment: from there back
    x_at, d_at = X + b * xb + row * xt + head * C, DELTA + b * db + row * dt + head * C
    z_at, s_at = BIAS + b * zb + row * zt + head * C, SLOPE + b * sb + row * st + head * C
    c_at, g_at = READ + b * cb + row * ct, GY + b * gb + row * gt + head * C
    out, read_at = b * ob + row * ot + head * C, GREAD + head.to(tl.int64) * rh + b * rb + row * rt
    kept = KEPT + ((kept_row(first, b, T, S, VARLEN) + tl.maximum(count - 1, 0)) * H + head) * (NI * NS * C)
    x_off, d_off = sequence * xb + channel, sequence * db + channel
    z_off, s_off = sequence * zb + channel, sequence * sb + channel
    g_off, o_off, h_off = sequence * gb + channel, sequence * ob + channel, sequence * hb + channel
    kept_off = sequence * (tl.cdiv(T, S) * H * (NI * NS * C)) + channel

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    rate = load_states(RATE + head * C, channel, rn, NI, NS)
    lead = tl.load(LEAD + head * C + channel)[:, None].to(tl.float32) if HAS_LEAD else tl.zeros([PC, 1], tl.float32)
    lam = load_states(GFINAL + b * hb + head * C, h_off, hn, NI, NS)
    g_rate = zeros(NI, PC, NS)
    g_lead = tl.zeros([PC, P], tl.float32)  # summed over its rows once, at the end: a sum over threads is an exchange
    pad = zeros(P - S, PC, NS)
    zero = tl.zeros([], tl.int64)
    own = OWN + (zero + tl.program_id(0)) * (2 * (J + 1) * P * PC)  # e and K of every pass of a segment
    left = length - tl.maximum(count - 1, 0) * S
    for _segment in range(0, count):
        # Forward again: innovations and gains of every pass.
        h = load_states(kept, kept_off, C, NI, NS)
        x_tile = load_tile(x_at, x_off, xt, left, 0.0, P)
        delta = unstack(load_tile(d_at, d_off, dt, left, 0.0, P), PC, P, LOGP)
        z = by_row(load_tile(z_at, z_off, zt, left, -1e9, P), G, C, P)
        c = load_read(c_at, cb, ct, left, G, C, NI, NS, S, LOG, EVEN)
        e_tile = x_tile
        if INNOVATE:
            e_tile -= stack(predictions(h, rate, delta, c, S, NI, EVEN) + pad, NS, PC, P, LOGP)
        for j in range(0, J + 1):
            e = by_row(e_tile, G, C, P)
            s = saturation(e)[0]
            hidden = operand(hidden_layer(s, w1, b1, DOT), w2)
            K_tile = gain(OP, tl.dot(hidden, w2, input_precision=DOT) + z)
            place = out + (zero + j) * op
            store_rows(SELECTED + place, ob, ot, left, s, G, C, P)
            store_rows(HIDDEN + place, ob, ot, left, hidden, G, C, P)
            keep_tile(own + j * (2 * P * PC), e, G, C, P)
            keep_tile(own + j * (2 * P * PC) + P * PC, K_tile, G, C, P)
            if J > 0:
                tl.debug_barrier()
                x, K = unstack(x_tile, PC, P, LOGP), kept_columns(own + j * (2 * P * PC) + P * PC, PC, P, LOGP)
                slope = load_slope(s_at, s_off, st, left, HAS_SLOPE, PC, P, LOGP)
                refined = ()
                g = h
                for s in tl.static_range(S):
                    refined = refined + (read_out(c, s * EVEN, decayed(g, rate, delta[s], NI), NI),)
                    g = updated(OP, g, rate, delta[s], K[s], c, s * EVEN, x[s], slope[s], lead, NI)
                e_tile = x_tile - stack(refined + pad, NS, PC, P, LOGP)

        # And back, the last pass first.
        carry = lam
        lam = zeros(NI, PC, NS)
        gz_sum = tl.zeros([P * G, C], tl.float32)
        gx_sum, g_delta_sum = tl.zeros([PC, P], tl.float32), tl.zeros([PC, P], tl.float32)
        g_slope_sum = tl.zeros([PC, P], tl.float32)
        source, gc_sum = (), ()
        if J > 0:
            gy = unstack(load_tile(g_at, g_off, gt, left, 0.0, P), PC, P, LOGP)
            for s in tl.static_range(S):
                for i in tl.static_range(NI):
                    source = source + (tl.zeros([PC, NS], tl.float32) + c[s * EVEN + i] * gy[s],)
        for _k in tl.static_range(S // BLOCK):
            gc_sum = gc_sum + (tl.zeros([NS if G == 1 else G, BLOCK * EVEN], tl.float32),)
        for back in range(0, J + 1):
            j = J - back
            mine, place = own + j * (2 * P * PC), out + (zero + j) * op
            tl.debug_barrier()
            h = load_states(kept, kept_off, C, NI, NS)
            x = unstack(load_tile(x_at, x_off, xt, left, 0.0, P), PC, P, LOGP)
            delta = unstack(load_tile(d_at, d_off, dt, left, 0.0, P), PC, P, LOGP)
            gy = unstack(load_tile(g_at, g_off, gt, tl.where(back == 0, left, 0), 0.0, P), PC, P, LOGP)
            slope = load_slope(s_at, s_off, st, left, HAS_SLOPE, PC, P, LOGP)
            c = load_read(c_at, cb, ct, left, G, C, NI, NS, S, LOG, EVEN)
            K = kept_columns(mine + P * PC, PC, P, LOGP)
            states = history(OP, h, rate, delta, K, c, x, slope, lead, S, NI, EVEN)
            tl.debug_barrier()
            delta = unstack(load_tile(d_at, d_off, dt, left, 0.0, P), PC, P, LOGP)
            carry, g_rate, gK, gx, g_delta, g_slope, gv, gc = states_back(
                OP, states, source, carry, rate, g_rate, delta, K, c, x, slope, lead, gy, J == 0,
                S, NI, NS, EVEN, G, C, BLOCK, LOGM,
            )  # fmt: skip
            gz = by_row(stack(gK + pad, NS, PC, P, LOGP), G, C, P) * gain_slope(OP, kept_tile(mine + P * PC, G, C, P))
            # Every pass writes its sum over what was before it: the first pass, which comes last, the whole.
            gz_sum += gz
            store_rows(GBIAS + out, ob, ot, left, gz_sum, G, C, P)
            gz = operand(gz, w2)
            store_rows(LOGIT + place, ob, ot, left, gz, G, C, P)
            e = kept_tile(mine, G, C, P)
            rest = saturation(e)[1]
            d_hidden = tl.dot(gz, tl.trans(w2), input_precision=DOT)
            active = load_rows(HIDDEN + place, ob, ot, left, G, C, P) > 0.0
            d_hidden = operand(tl.where(active, d_hidden, 0.0), w1)
            de_tile = tl.dot(d_hidden, tl.trans(w1), input_precision=DOT) * saturation_slope(e, rest)
            de_tile = by_pair(de_tile, G, C, P)
            gx_sum += de_tile
            if OP == NEUMANN or OP == BUCY or OP == EXACT:
                gx_sum += stack(gx + pad, NS, PC, P, LOGP)
            if OP == NEUMANN or OP == EXACT:
                g_slope_sum += stack(g_slope + pad, NS, PC, P, LOGP)
            else:
                v_tile = stack(gv + pad, NS, PC, P, LOGP)
                if OP != BUCY:
                    gx_sum += v_tile
                if HAS_LEAD:
                    g_slope_sum += lead * v_tile
                    g_lead += v_tile * load_tile(s_at, s_off, st, left, 0.0, P)
            store_tile(GX + out, o_off, ot, left, gx_sum, P)
            if HAS_SLOPE:
                store_tile(GSLOPE + out, o_off, ot, left, g_slope_sum, P)
            if INNOVATE:
                tl.debug_barrier()
                h = load_states(kept, kept_off, C, NI, NS)
                delta = unstack(load_tile(d_at, d_off, dt, left, 0.0, P), PC, P, LOGP)
                c = load_read(c_at, cb, ct, left, G, C, NI, NS, S, LOG, EVEN)
                p = ()
                if J > 0:
                    # Of the pass before; in front of the first one is a pass of no gain: prediction, open-loop.
                    x = unstack(load_tile(x_at, x_off, xt, left, 0.0, P), PC, P, LOGP)
                    slope = load_slope(s_at, s_off, st, left, HAS_SLOPE, PC, P, LOGP)
                    K = kept_columns(own + tl.maximum(j - 1, 0) * (2 * P * PC) + P * PC, PC, P, LOGP)
                first_pass = tl.where(j == 0, 1.0, 0.0)
                for s in tl.static_range(S):
                    now = decayed(h, rate, delta[s], NI)
                    p = p + now
                    if J > 0:
                        K_before = K[s] * (1.0 - first_pass)
                        h = updated(OP, h, rate, delta[s], K_before, c, s * EVEN, x[s], slope[s], lead, NI)
                    else:
                        h = now
                tl.debug_barrier()
                delta = unstack(load_tile(d_at, d_off, dt, left, 0.0, P), PC, P, LOGP)
                de = unstack(de_tile, PC, P, LOGP)
                g_rate, g_delta, gc, onward = innovations_back(
                    p, de, rate, g_rate, delta, c, g_delta, gc, first_pass, S, NI, NS, EVEN, G, C, BLOCK, LOGM
                )
                # What the first step hands on belongs to the state before the segment, whatever the pass.
                sums = ()
                for i in tl.static_range(NI):
                    sums = sums + (lam[i] + carry[i] + onward[i],)
                lam = sums
                if J > 0:
                    source = take(onward, NI, (S - 1) * NI) + zeros(NI, PC, NS)
            else:
                lam = carry
            carry = zeros(NI, PC, NS)
            g_delta_sum += stack(g_delta + pad, NS, PC, P, LOGP)
            summed = ()
            for k in tl.static_range(S // BLOCK):
                summed = summed + (gc_sum[k] + gc[k],)
            gc_sum = summed

        store_tile(GDELTA + out, o_off, ot, left, g_delta_sum, P)
        for k in tl.static_range(S // BLOCK):
            place = tl.arange(0, BLOCK * EVEN)[None, :]
            t, i = k * BLOCK + place // EVEN, place % EVEN
            if G == 1:
                lanes = tl.arange(0, NS)[:, None] * NI
            else:
                lanes = tl.arange(0, G)[:, None] * rb
            tl.store(read_at + (lanes + t * rt + i), gc_sum[k], mask=(lanes >= 0) & (t < left) & (i < NI))
        x_at, d_at, z_at, s_at = x_at - S * xt, d_at - S * dt, z_at - S * zt, s_at - S * st
        c_at, g_at, out, read_at = c_at - S * ct, g_at - S * gt, out - S * ot, read_at - S * rt
        kept -= H * (NI * NS * C)
        left = S

    store_states(GSTART + b * hb + head * C, h_off, hn, lam, NI, NS)
    store_states(GRATE + b * hb + head * C, h_off, hn, g_rate, NI, NS)
    if HAS_LEAD:
        tl.store(GLEAD + (b + sequence) * H * C + head * C + channel, tl.sum(g_lead, 1))


def tiling_back(inputs: LoopInputs) -> Tiling:
    """As forward, with the loop's loads not taken ahead: each stage reads what the one before has left in the cache."""
    return tiling(inputs)._replace(stages=1)


def backward(
    inputs: LoopInputs,
    form: LoopForm,
    saved: tuple[Tensor, ...],
    gy: Tensor,
    g_final: Tensor,
    tiles: Tiling | None = None,
) -> LoopGradients:
    """Gradients in the order of `LoopInputs` but for offsets, from gy (B, T, D) and g_final (B, N, D)."""
    size = shape_of(inputs)
    tiles = tiling_back(inputs) if tiles is None else tiles
    given, strides = pointers(inputs)
    zero = 0 if inputs.offsets is not None else 1
    gy, g_final = gy if gy.stride(-1) == 1 else gy.contiguous(), g_final.contiguous()
    gx, g_delta, g_bias = (v.new_empty(inputs.x.shape) for v in (inputs.x, inputs.delta, inputs.bias))
    g_slope = None if inputs.slope is None else inputs.slope.new_empty(inputs.x.shape)
    g_read = g_final.new_empty((size.H, *inputs.x.shape[:2], size.N))
    g_start, g_rate = torch.empty_like(g_final), torch.empty_like(g_final)
    g_lead = g_final.new_empty((size.B, size.H * size.C))
    options = settings(inputs, form, tiles)
    passes = options["J"] + 1
    selected, hidden, logit = (gx.new_empty((passes, *gx.shape), dtype=given[5].dtype) for _ in range(3))
    programs = size.B // tiles.G * size.H
    own = g_final.new_empty((programs, 2 * passes, options["P"] * tiles.G * size.C))
    even = 1 << (options["NI"] - 1).bit_length()
    block = min(form.segment, max(1, 16 // even))
    _backward[(programs,)](
        *given, saved[0], gy, g_final, gx, g_delta, g_read, g_bias, gx if g_slope is None else g_slope, g_rate,
        g_start, g_lead, selected, hidden, logit, own, size.T, size.H, *strides, gy.stride(0) * zero, gy.stride(1),
        gx.stride(0) * zero, gx.stride(1), gx.numel(), g_read.stride(0), g_read.stride(1) * zero, g_read.stride(2),
        given[4].stride(0), *g_final.stride()[:2], BLOCK=block, LOGM=(block * even).bit_length() - 1, **options,
    )  # fmt: skip
    lead = None
    if inputs.lead is not None:
        lead = g_lead.sum(0) if options["HAS_LEAD"] else torch.zeros_like(inputs.lead)
    read = (g_read[0] if size.H == 1 else g_read.sum(0)).to(inputs.read.dtype)
    selected, hidden, logit = (v.flatten(0, 2) for v in (selected, hidden, logit))
    w1, w2, b1 = weight_gradients(selected, (hidden, hidden), logit, inputs)
    weights = (w1, b1, w2)
    return gx, g_delta, read, g_bias, g_rate.sum(0), *weights, g_start, g_slope, lead
