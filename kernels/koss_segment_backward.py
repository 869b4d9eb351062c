"""The closed KOSS loop on a GPU, segments of S > 1 steps: backward. One program walks back through one sequence of a head.

Of the forward pass only the state before each segment is kept; a segment is computed again from it, all its states in
registers, and then taken back pass by pass, the last one first (λ = ∂L/∂h after the segment):

    states    G_t = (source) + carry, carry and the rest by `koss_math.retreat`; carry starts at λ in the last pass, else 0
    gate      dz = dK K′(z),  dhid = (dz W2ᵀ) ⊙ 1[hid > 0],  de = (dhid W1ᵀ) ⊙ 2e/(1 + e²)²
    weights   gW2 += hidᵀ dz,  gW1 += sᵀ dhid,  gb1 += Σ dhid: in registers, one partial sum a program, no atomics
    innov.    gx += de,  dp = −c de,  gc −= p de;  a refined pass hands E dp at t to the states at t − 1 of the pass before,
              the first one runs Q_t = dp_t + E_{t+1} Q_{t+1} back to λ of the segment before
"""

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import (
    BUCY, EXACT, KALMAN, LOG2E, NEUMANN, advance, drive, gain, gain_slope, retreat, saturation, saturation_slope,
)  # fmt: skip
from ssrtrack.kernels.koss_rows import pile, stack, unstack
from ssrtrack.kernels.koss_segment_forward import (
    decayed, kept_row, load_read, load_slope, load_states, load_tile, operand, pointers, predictions, read_out,
    settings, shape_of, span, store_states, store_tile,
)  # fmt: skip

Tensor = torch.Tensor
LoopGradients = tuple[Tensor | None, ...]


@triton.jit
def zeros(count: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """`count` tiles [C, R] of zeros."""
    out = ()
    for _ in tl.static_range(count):
        out = out + (tl.zeros([C, R], tl.float32),)
    return out


@triton.jit
def history(OP: tl.constexpr, h, rate, delta, K, c, x, slope, lead, S: tl.constexpr, NI: tl.constexpr, EVEN: tl.constexpr):
    """The states before each step and after the last: (S + 1)·NI tiles, that of step s and tile i at s·NI + i."""
    out = h
    for s in tl.static_range(S):
        p = decayed(h, rate, delta[s], NI)
        v = drive(OP, x[s], slope[s], lead)
        if OP == KALMAN:
            v = v - tl.sum(read_out(c, s * EVEN, p, NI), 1, keep_dims=True)
        g = ()
        for i in tl.static_range(NI):
            g = g + (advance(OP, h[i], p[i], rate[i], delta[s], K[s], c[s * EVEN + i], x[s], slope[s], v),)
        h = g
        out = out + h
    return out


@triton.jit
def take(tiles, at: tl.constexpr, NI: tl.constexpr):
    """tiles[at … at + NI]."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (tiles[at + i],)
    return out


@triton.jit
def states_back(
    OP: tl.constexpr, states, source, carry, rate, g_rate, delta, K, c, x, slope, lead, gy, LAST: tl.constexpr,
    S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, EVEN: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One pass' states taken back. `source`: ∂L/∂h_t from beyond this pass, at s·NI + i; in the last one c gy itself.

    Returns carry to before the segment, ∂L/∂A so far, and per step, still to be summed over lanes [C, NS]: gK, gx,
    gΔ, gẋ, gv and gc (at s·EVEN + i, still to be summed over channels too).
    """
    gK, gx, g_delta, g_slope, gv, gc = (), (), (), (), (), ()
    for k in tl.static_range(S):
        s: tl.constexpr = S - 1 - k
        before = take(states, s * NI, NI)
        p = decayed(before, rate, delta[s], NI)
        v = drive(OP, x[s], slope[s], lead)
        G = ()
        gr = tl.zeros([C, NS], tl.float32)
        for i in tl.static_range(NI):
            if LAST:
                G = G + (carry[i] + c[s * EVEN + i] * gy[s],)
            else:
                G = G + (carry[i] + source[s * NI + i],)
            if OP == KALMAN:
                gr += G[i] * (K[s] * c[s * EVEN + i])
        total = tl.zeros([C, 1], tl.float32)
        if OP == KALMAN:
            v = v - tl.sum(read_out(c, s * EVEN, p, NI), 1, keep_dims=True)
            total = tl.sum(gr, 1, keep_dims=True)
        back, rates, reads = (), (), ()
        for i in tl.static_range(NI):
            cn = c[s * EVEN + i]
            E = tl.exp2(delta[s] * (rate[i] * LOG2E))
            a, q, b_K, b_c, b_x, b_slope, b_v, b_delta = retreat(
                OP, G[i], total, before[i], p[i], E, rate[i], delta[s], K[s], cn, x[s], slope[s], v
            )
            back = back + (a,)
            rates = rates + (g_rate[i] + q * delta[s],)
            b_delta = b_delta + q * rate[i] if OP == BUCY else q * rate[i]
            b_c = b_c if OP != EXACT else tl.zeros([C, NS], tl.float32)
            if LAST:
                b_c += states[(s + 1) * NI + i] * gy[s]
            reads = reads + (b_c,)
            if i == 0:
                d_K, d_x, d_delta, d_slope, d_v = b_K, b_x, b_delta, b_slope, b_v
            else:
                d_K += b_K
                d_delta += b_delta
                if OP == NEUMANN or OP == BUCY:
                    d_x += b_x
                if OP == NEUMANN or OP == EXACT:
                    d_slope += b_slope
                if OP != NEUMANN and OP != EXACT:
                    d_v += b_v
        for _ in tl.static_range(EVEN - NI):
            reads = reads + (tl.zeros([C, NS], tl.float32),)
        carry, g_rate = back, rates
        gK, gx, g_delta = (d_K,) + gK, (d_x,) + gx, (d_delta,) + g_delta
        g_slope, gv, gc = (d_slope,) + g_slope, (d_v,) + gv, reads + gc
    return carry, g_rate, gK, gx, g_delta, g_slope, gv, gc


@triton.jit
def _backward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, KEPT, GY, GFINAL,
    GX, GDELTA, GREAD, GBIAS, GSLOPE, GRATE, GW1, GB1, GW2, GSTART, GLEAD, T, H,
    xb, xt, db, dt, cb, ct, zb, zt, sb, st, gb, gt, ob, ot, rh, rb, rt, rn, hb, hn,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, LOG: tl.constexpr, J: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    b, head = (pid // H).to(tl.int64), pid % H
    first, end = span(OFFSETS, b, T, VARLEN)
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    # The products over a segment's steps need 16 of them; where it has fewer, the others are 0.
    P: tl.constexpr = 16 if S < 16 else S
    LOGP: tl.constexpr = 4 if S < 16 else LOG
    channel = head * C + tl.arange(0, C)
    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + channel).to(tl.float32)
    rate = load_states(RATE, rn, channel, NI, NS)
    lead = tl.load(LEAD + channel)[:, None].to(tl.float32) if HAS_LEAD else tl.zeros([C, 1], tl.float32)
    lam = load_states(GFINAL + b * hb, hn, channel, NI, NS)
    g_rate = zeros(NI, NS, C)
    g_w1, g_w2 = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    g_b1 = tl.zeros([C], tl.float32)
    g_lead = tl.zeros([C], tl.float32)
    count = tl.cdiv(end - first, S)
    row = kept_row(first, b, T, S, VARLEN)
    for back in range(0, count):
        q = count - 1 - back
        at = first + q * S
        stop = tl.minimum(end, at + S)
        h = load_states(KEPT + ((row + q).to(tl.int64) * H + head) * (NI * NS * C) - head * C, C, channel, NI, NS)
        x_tile = load_tile(X + b * xb, xt, at, stop, channel, 0.0, P)
        x = unstack(x_tile, C, P, LOGP)
        delta = unstack(load_tile(DELTA + b * db, dt, at, stop, channel, 0.0, P), C, P, LOGP)
        z = tl.trans(load_tile(BIAS + b * zb, zt, at, stop, channel, -1e9, P))
        gy = unstack(load_tile(GY + b * gb, gt, at, stop, channel, 0.0, P), C, P, LOGP)
        slope = load_slope(SLOPE + b * sb, st, at, stop, channel, HAS_SLOPE, C, P, LOGP)
        c = load_read(READ + b * cb, ct, at, end, NI, NS, S, LOG, EVEN)
        pad = zeros(P - S, NS, C)

        # Forward again: innovations, hidden layers, gains and states of every pass.
        e = tl.trans(x_tile)
        if INNOVATE:
            e -= tl.trans(stack(predictions(h, rate, delta, c, S, NI, EVEN) + pad, NS, C, P, LOGP))
        es, hiddens, tiles, gains, states = (), (), (), (), ()
        for j in tl.static_range(J + 1):
            s, _ = saturation(e)
            hidden = tl.maximum(tl.dot(operand(s, w1), w1, input_precision=DOT) + b1[None, :], 0.0)
            K_tile = gain(OP, tl.dot(operand(hidden, w2), w2, input_precision=DOT) + z)
            K = unstack(tl.trans(K_tile), C, P, LOGP)
            es, hiddens, tiles, gains = es + (e,), hiddens + (hidden,), tiles + (K_tile,), gains + (K,)
            states = states + (history(OP, h, rate, delta, K, c, x, slope, lead, S, NI, EVEN),)
            if j < J:
                refined = ()
                for s in tl.static_range(S):
                    p = decayed(take(states[j], s * NI, NI), rate, delta[s], NI)
                    refined = refined + (read_out(c, s * EVEN, p, NI),)
                e = tl.trans(x_tile) - tl.trans(stack(refined + pad, NS, C, P, LOGP))

        # And back, the last pass first.
        source = zeros(1, NS, C)
        carry = lam
        gz_sum = tl.zeros([P, C], tl.float32)
        gx_sum = tl.zeros([C, P], tl.float32)
        g_delta_sum = tl.zeros([C, P], tl.float32)
        g_slope_sum = tl.zeros([C, P], tl.float32)
        g_read = tl.zeros([NS, S * EVEN], tl.float32)
        lam = zeros(NI, NS, C)
        for k in tl.static_range(J + 1):
            j: tl.constexpr = J - k
            carry, g_rate, gK, gx, g_delta, g_slope, gv, gc = states_back(
                OP, states[j], source, carry, rate, g_rate, delta, gains[j], c, x, slope, lead, gy, k == 0,
                S, NI, NS, EVEN, C,
            )  # fmt: skip
            gz = tl.trans(stack(gK + pad, NS, C, P, LOGP)) * gain_slope(OP, tiles[j])
            gz_sum += gz
            gz = operand(gz, w2)
            s, rest = saturation(es[j])
            d_hidden = tl.dot(gz, tl.trans(w2), input_precision=DOT)
            d_hidden = operand(tl.where(hiddens[j] > 0.0, d_hidden, 0.0), w1)
            g_w2 += tl.dot(tl.trans(operand(hiddens[j], w2)), gz, input_precision=DOT)
            g_w1 += tl.dot(tl.trans(operand(s, w1)), d_hidden, input_precision=DOT)
            g_b1 += tl.sum(d_hidden.to(tl.float32), 0)
            de_tile = tl.dot(d_hidden, tl.trans(w1), input_precision=DOT) * saturation_slope(es[j], rest)
            gx_sum += tl.trans(de_tile)
            if OP == NEUMANN or OP == BUCY:
                gx_sum += stack(gx + pad, NS, C, P, LOGP)
            if OP == NEUMANN or OP == EXACT:
                g_slope_sum += stack(g_slope + pad, NS, C, P, LOGP)
            else:
                v_tile = stack(gv + pad, NS, C, P, LOGP)
                if OP != BUCY:
                    gx_sum += v_tile
                if HAS_LEAD:
                    g_slope_sum += lead * v_tile
                    slopes = load_tile(SLOPE + b * sb, st, at, stop, channel, 0.0, P)
                    g_lead += tl.sum(v_tile * slopes, 1)
            if INNOVATE:
                de = unstack(tl.trans(de_tile), C, P, LOGP)
                predicted = h
                ps = ()
                if j == 0:
                    for s in tl.static_range(S):
                        predicted = decayed(predicted, rate, delta[s], NI)
                        ps = ps + predicted
                else:
                    for s in tl.static_range(S):
                        ps = ps + decayed(take(states[j - 1], s * NI, NI), rate, delta[s], NI)
                later = zeros(NI, NS, C)
                onward, reads, steps = (), (), ()
                for i in tl.static_range(S):
                    s: tl.constexpr = S - 1 - i
                    row_reads, Q, weighted = (), (), tl.zeros([C, NS], tl.float32)
                    rates, passed = (), ()
                    for n in tl.static_range(NI):
                        dp = -c[s * EVEN + n] * de[s]
                        if j == 0:
                            dp += later[n]
                        grown = dp * ps[s * NI + n]
                        weighted += grown * rate[n]
                        rates = rates + (g_rate[n] + grown * delta[s],)
                        passed = passed + (tl.exp2(delta[s] * (rate[n] * LOG2E)) * dp,)
                        row_reads = row_reads + (gc[s * EVEN + n] - ps[s * NI + n] * de[s],)
                    g_rate = rates
                    for _ in tl.static_range(EVEN - NI):
                        row_reads = row_reads + (tl.zeros([C, NS], tl.float32),)
                    later = passed
                    onward = passed + onward
                    reads = row_reads + reads
                    steps = (weighted + g_delta[s],) + steps
                gc, g_delta = reads, steps
                # What the first step hands on belongs to the state before the segment, whatever the pass.
                sums = ()
                for n in tl.static_range(NI):
                    sums = sums + (lam[n] + carry[n] + later[n],)
                lam = sums
                source = take(onward, NI, (S - 1) * NI) + zeros(NI, NS, C)
            else:
                lam = carry
            carry = zeros(NI, NS, C)
            g_delta_sum += stack(g_delta + pad, NS, C, P, LOGP)
            g_read += tl.sum(pile(gc, NS, C, S * EVEN, LOG + EVEN.bit_length() - 1), 0)

        store_tile(GX + b * ob, ot, at, stop, channel, gx_sum, P)
        store_tile(GDELTA + b * ob, ot, at, stop, channel, g_delta_sum, P)
        if HAS_SLOPE:
            store_tile(GSLOPE + b * ob, ot, at, stop, channel, g_slope_sum, P)
        store_tile(GBIAS + b * ob, ot, at, stop, channel, tl.trans(gz_sum), P)
        place = tl.arange(0, S * EVEN)[None, :]
        i = place % EVEN
        read_place = GREAD + head * rh + b * rb + (at + place // EVEN).to(tl.int64) * rt
        keep = (at + place // EVEN < stop) & (i < NI)
        tl.store(read_place + tl.arange(0, NS)[:, None] * NI + i, g_read, mask=keep)

    store_states(GSTART + b * hb, hn, channel, lam, NI, NS)
    store_states(GRATE + b * hb, hn, channel, g_rate, NI, NS)
    tl.store(GW1 + pid.to(tl.int64) * C * C + square, g_w1)
    tl.store(GW2 + pid.to(tl.int64) * C * C + square, g_w2)
    tl.store(GB1 + b * H * C + channel, g_b1)
    if HAS_LEAD:
        tl.store(GLEAD + b * H * C + channel, g_lead)


def backward(
    inputs: LoopInputs, form: LoopForm, saved: tuple[Tensor, ...], gy: Tensor, g_final: Tensor
) -> LoopGradients:
    """Gradients in the order of `LoopInputs` but for offsets, from gy (B, T, D) and g_final (B, N, D)."""
    size = shape_of(inputs)
    given, strides = pointers(inputs)
    varlen = inputs.offsets is not None
    gy, g_final = gy if gy.stride(-1) == 1 else gy.contiguous(), g_final.contiguous()
    gx, g_delta, g_bias = (v.new_empty(inputs.x.shape) for v in (inputs.x, inputs.delta, inputs.bias))
    g_slope = None if inputs.slope is None else inputs.slope.new_empty(inputs.x.shape)
    rows = inputs.x.shape[:2]
    g_read = g_final.new_empty((size.H, *rows, size.N))
    g_start, g_rate = torch.empty_like(g_final), torch.empty_like(g_final)
    weights = (size.B, size.H, size.C)
    g_w1, g_w2 = (g_final.new_empty((*weights, size.C)) for _ in range(2))
    g_b1, g_lead = (g_final.new_empty(weights) for _ in range(2))
    options = settings(inputs, form, 2 if size.N <= 4 else 4)
    zero = 0 if varlen else 1
    _backward[(size.B * size.H,)](
        *given, saved[0], gy, g_final, gx, g_delta, g_read, g_bias, gx if g_slope is None else g_slope, g_rate,
        g_w1, g_b1, g_w2, g_start, g_lead, size.T, size.H, *strides, gy.stride(0) * zero, gy.stride(1),
        gx.stride(0) * zero, gx.stride(1), g_read.stride(0), g_read.stride(1) * zero, g_read.stride(2),
        given[4].stride(0), *g_final.stride()[:2], **options,
    )  # fmt: skip
    lead = None
    if inputs.lead is not None:
        lead = g_lead.sum(0).reshape(-1) if options["HAS_LEAD"] else torch.zeros_like(inputs.lead)
    read = g_read[0] if size.H == 1 else g_read.sum(0)
    return (
        gx, g_delta, read.to(inputs.read.dtype), g_bias, g_rate.sum(0), g_w1.sum(0), g_b1.sum(0), g_w2.sum(0), g_start,
        g_slope, lead,
    )  # fmt: skip
