"""The closed KOSS loop's way back with a whole segment in registers: no refining pass, few states a thread.

`koss_segment_backward` says what is computed; here it is one straight line for all S steps, and nothing but what other
programs or the weights' products want goes to memory. Vectors [R] and lanes are those of `koss_segment_ahead`: a
number a thread, r = pair·NS + lane, states n = lane·NI + i, what belongs to a step alone spread over the lanes. States
give way to gc and to q = ∂L/∂(ΔA) as they are taken back. x, Δ, c and e^{ΔA}, which lie near, are fetched and made
again rather than kept while the gate works.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM108, SIM109 (Triton knows no unpacking and no `in`; its conditions are branches)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm
from ssrtrack.kernels.koss_math import (
    BUCY,
    EXACT,
    KALMAN,
    LOG2E,
    NEUMANN,
    gain,
    gain_slope,
    saturation,
    saturation_slope,
)
from ssrtrack.kernels.koss_segment_ahead import decays, everywhere, read_tile, reads, shared_out, spread, take_steps
from ssrtrack.kernels.koss_segment_forward import Tiling
from ssrtrack.kernels.koss_segment_parts import bounds, hidden_layer, kept_row, operand
from ssrtrack.kernels.koss_segment_stages import load_vectors, store_vectors, undone, vectors
from ssrtrack.kernels.koss_segment_vectors import (
    again,
    all_again,
    from_rows,
    load_steps,
    products,
    store_hidden,
    store_read,
    store_steps,
    sums,
    to_rows,
)
from ssrtrack.kernels.koss_segment_walk import advanced, driven, times, touch_next, touch_rows, weighed


@triton.jit
def predicted(h, E, S: tl.constexpr, NI: tl.constexpr):
    """The open-loop prediction of all steps, S·NI vectors."""
    out = ()
    for s in tl.static_range(S):
        h = times(take_steps(E, s, NI), h, NI)
        out = out + h
    return out


@triton.jit
def residual(OP: tl.constexpr, x, slope, lead, c, at: tl.constexpr, p, HAS_LEAD: tl.constexpr, NI: tl.constexpr,
             LOGNS: tl.constexpr):  # fmt: skip
    """v as `advanced` takes it."""
    v = driven(OP, x, slope, lead, HAS_LEAD)
    if OP == KALMAN:
        v = v - everywhere(weighed(c, at, p, NI), LOGNS)
    return v


@triton.jit
def walked(
    OP: tl.constexpr, h, E, rate, lead, x, delta, K, c, slope, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr,
    S: tl.constexpr, M: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """States before the first step and after every one: (S + 1)·NI vectors; and v of every step."""
    LOGNS: tl.constexpr = NS.bit_length() - 1
    states, drives = h, ()
    for s in tl.static_range(S):
        xs, ds, ss = spread(x[s % M], s // M, NS), spread(delta[s % M], s // M, NS), 0.0
        if HAS_SLOPE:
            ss = spread(slope[s % M], s // M, NS)
        p = times(take_steps(E, s, NI), h, NI)
        v = residual(OP, xs, ss, lead, c, s * NI, p, HAS_LEAD, NI, LOGNS)
        h = advanced(OP, h, p, rate, ds, spread(K[s % M], s // M, NS), c, s * NI, xs, ss, v, NI)
        states, drives = states + h, drives + (v,)
    return states, drives


@triton.jit
def states_taken(
    OP: tl.constexpr, carry, states, drives, E, rate, lead, x, delta, K, c, slope, gy, HAS_SLOPE: tl.constexpr,
    HAS_LEAD: tl.constexpr, S: tl.constexpr, M: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """The states taken back: carry before the segment, and of every step gK, gΔ but for q A, gx, gẋ, gv, q and gc."""
    LOGNS: tl.constexpr = NS.bit_length() - 1
    g_K, g_delta, g_x, g_slope, g_v, g_power, g_read = (), (), (), (), (), (), ()
    for s in tl.static_range(S - 1, -1, -1):
        Ks, gs = spread(K[s % M], s // M, NS), spread(gy[s % M], s // M, NS)
        xs, ds, ss = spread(x[s % M], s // M, NS), spread(delta[s % M], s // M, NS), 0.0
        if HAS_SLOPE:
            ss = spread(slope[s % M], s // M, NS)
        v = drives[s] if OP == KALMAN else driven(OP, xs, ss, lead, HAS_LEAD)
        total = 0.0
        outer = ()
        for i in tl.static_range(NI):
            outer = outer + (carry[i] + c[s * NI + i] * gs,)
        if OP == KALMAN:
            total = everywhere(Ks * weighed(c, s * NI, outer, NI), LOGNS)
        onward, powers, row = (), (), ()
        for i in tl.static_range(NI):
            before, after, Es = states[s * NI + i], states[(s + 1) * NI + i], E[s * NI + i]
            a, q, b_K, b_c, b_x, b_slope, b_v, b_delta = undone(
                OP, outer[i], total, before, Es * before, Es, rate[i], ds, Ks, c[s * NI + i], xs, ss, v
            )
            row = row + (b_c + after * gs,)
            onward, powers = onward + (a,), powers + (q,)
            if OP == NEUMANN or OP == EXACT:
                b_v = b_x
            if i == 0:
                d_K, d_x, d_delta, d_slope, d_v = b_K, b_x, b_delta, b_slope, b_v
            else:
                d_K, d_x, d_delta, d_slope, d_v = d_K + b_K, d_x + b_x, d_delta + b_delta, d_slope + b_slope, d_v + b_v
        carry, g_power, g_read = onward, powers + g_power, row + g_read
        g_K, g_delta, g_x = (d_K,) + g_K, (d_delta,) + g_delta, (d_x,) + g_x
        g_slope, g_v = (d_slope,) + g_slope, (d_v,) + g_v
    return carry, g_K, g_delta, g_x, g_slope, g_v, g_power, g_read


@triton.jit
def predictions_taken(
    p, E, c, d_e, g_power, g_read, S: tl.constexpr, M: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr
):
    """The innovations taken back through the open-loop predictions p: Q before the segment, and q and gc, whole."""
    later = vectors(NI, d_e[0].shape[0])
    powers, rows = (), ()
    for s in tl.static_range(S - 1, -1, -1):
        d = spread(d_e[s % M], s // M, NS)
        onward, power, row = (), (), ()
        for i in tl.static_range(NI):
            dp = later[i] - c[s * NI + i] * d
            power = power + (g_power[s * NI + i] + dp * p[s * NI + i],)
            row = row + (g_read[s * NI + i] - p[s * NI + i] * d,)
            onward = onward + (E[s * NI + i] * dp,)
        later, powers, rows = onward, power + powers, row + rows
    return later, powers, rows


@triton.jit
def powers_taken(
    OP: tl.constexpr, q, rate, g_rate, delta, g_delta, S: tl.constexpr, M: tl.constexpr, NI: tl.constexpr,
    NS: tl.constexpr,
):  # fmt: skip
    """gA, and a lane's part of gΔ of every step, from q = ∂L/∂(ΔA) and what gΔ is beside it."""
    totals = ()
    for s in tl.static_range(S):
        ds = spread(delta[s % M], s // M, NS)
        rates, total = (), weighed(q, s * NI, rate, NI)
        if OP == BUCY:
            total += g_delta[s]
        for i in tl.static_range(NI):
            rates = rates + (g_rate[i] + q[s * NI + i] * ds,)
        g_rate, totals = rates, totals + (total,)
    return g_rate, totals


@triton.jit
def backward_whole(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, KEPT, GY, GFINAL,
    GX, GDELTA, GREAD, GBIAS, GSLOPE, GRATE, GSTART, GLEAD, SELECTED, HIDDEN, LOGIT, T, H,
    xb, db, cb, zb, sb, gb, ob, rh, rb, rt, rn, hb, hn,
    xt: tl.constexpr, dt: tl.constexpr, ct: tl.constexpr, zt: tl.constexpr, st: tl.constexpr, gt: tl.constexpr,
    ot: tl.constexpr,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    TWICE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = G * C * NS
    M: tl.constexpr = S // NS
    LOGNS: tl.constexpr = NS.bit_length() - 1
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    r = tl.arange(0, R)
    pair, lane = r // NS, r % NS
    sequence, channel, step = pair // C, pair % C, lane * M
    count = tl.cdiv(length, S)
    last = tl.maximum(count - 1, 0) * S
    row = first + last
    x_row, d_row = X + b * xb + row * xt + head * C, DELTA + b * db + row * dt + head * C
    s_row, g_row = SLOPE + b * sb + row * st + head * C, GY + b * gb + row * gt + head * C
    c_row, z_row = READ + b * cb + row * ct, BIAS + b * zb + row * zt + head * C
    x_off, d_off = sequence * xb + step * xt + channel, sequence * db + step * dt + channel
    s_off, g_off = sequence * sb + step * st + channel, sequence * gb + step * gt + channel
    z_off, o_off = sequence * zb + step * zt + channel, sequence * ob + step * ot + channel
    out = b * ob + row * ot + head * C
    read_at = GREAD + head.to(tl.int64) * rh + b * rb + row * rt
    kept = KEPT + ((kept_row(first, b, T, S, VARLEN) + tl.maximum(count - 1, 0)) * H + head) * (NI * NS * C)
    kept += sequence * (tl.cdiv(T, S) * H * (NI * NS * C)) + lane * (NI * C) + channel
    h_off = b * hb + head * C + (sequence * hb + lane * (NI * hn) + channel)

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    rate = load_vectors(RATE + head * C + (lane * (NI * rn) + channel), rn, NI)
    rate2 = ()
    for i in tl.static_range(NI):
        rate2 = rate2 + (rate[i] * LOG2E,)
    lead = tl.load(LEAD + head * C + channel).to(tl.float32) if HAS_LEAD else tl.zeros([R], tl.float32)
    lam = load_vectors(GFINAL + h_off, hn, NI)
    g_rate, g_lead = vectors(NI, R), tl.zeros([R], tl.float32)
    left = length - last
    for segment in range(0, count):
        # The one before it in time, which is next: from afar first, into the near cache while the gate works.
        if segment < count - 1:
            touch_next(
                x_row, d_row, z_row, g_row, s_row, c_row, kept, xb, db, zb, gb, sb, cb, H, xt, dt, zt, gt, st, ct,
                HAS_SLOPE, G, C, NI, NS, S,
            )  # fmt: skip
        delta = load_steps(d_row + d_off, dt, step, left, 0.0, M, False)
        h = load_vectors(kept, C, NI)
        c_tile = read_tile(c_row, cb, ct, 0, left, S, NI, NS, G, C)
        x = load_steps(x_row + x_off, xt, step, left, 0.0, M, False)
        slope = load_steps(s_row + s_off, st, step, left, 0.0, M, False) if HAS_SLOPE else x
        c = reads(c_tile, S, NI, NS, G, C)
        E = decays(rate2, delta, 0, S, M, NI, NS)

        # Forward again: innovations, gains, states.
        e = x
        if INNOVATE:
            p, parts = predicted(h, E, S, NI), ()
            for s in tl.static_range(S):
                parts = parts + (weighed(c, s * NI, take_steps(p, s, NI), NI),)
            parts = shared_out(parts, lane, S, LOGNS)
            e = ()
            for k in tl.static_range(M):
                e = e + (x[k] - parts[k],)
        selected, bend = (), ()
        for k in tl.static_range(M):
            squashed, rest = saturation(e[k])
            selected, bend = selected + (squashed,), bend + (saturation_slope(e[k], rest),)
        store_steps(SELECTED + out + o_off, ot, step, left, selected, M)
        hidden = operand(hidden_layer(to_rows(selected, w1, G, C, NS, P, M), w1, b1, DOT), w2)
        store_hidden(HIDDEN + out, ob, ot, left, hidden, G, C, NS, P, M)
        z = load_steps(z_row + z_off, zt, step, left, -1e9, M, False)
        logits = from_rows(tl.dot(hidden, w2, input_precision=DOT), G, C, NS, P, M)
        K = ()
        for k in tl.static_range(M):
            K = K + (gain(OP, logits[k] + z[k]),)
        states, drives = walked(OP, h, E, rate, lead, x, delta, K, c, slope, HAS_SLOPE, HAS_LEAD, S, M, NI, NS)

        # And back.
        E = all_again(E, S * NI)
        gy = load_steps(g_row + g_off, gt, step, left, 0.0, M, False)
        x = load_steps(x_row + x_off, xt, step, left, 0.0, M, True)
        delta = load_steps(d_row + d_off, dt, step, left, 0.0, M, True) if OP == BUCY or OP == NEUMANN else x
        slope = load_steps(s_row + s_off, st, step, left, 0.0, M, True) if HAS_SLOPE else x
        lam, g_K, g_delta, g_x, g_slope, g_v, g_power, g_read = states_taken(
            OP, lam, states, drives, E, rate, lead, x, delta, all_again(K, M), c, slope, gy, HAS_SLOPE, HAS_LEAD, S, M,
            NI, NS,
        )  # fmt: skip
        g_K = shared_out(g_K, lane, S, LOGNS)
        gz = ()
        for k in tl.static_range(M):
            gz = gz + (g_K[k] * gain_slope(OP, K[k]),)
        store_steps(LOGIT + out + o_off, ot, step, left, gz, M)
        if TWICE:
            store_steps(GBIAS + out + o_off, ot, step, left, gz, M)
        d_hidden = tl.dot(to_rows(gz, w2, G, C, NS, P, M), tl.trans(w2), input_precision=DOT)
        d_hidden = operand(tl.where(hidden > 0.0, d_hidden, 0.0), w1)
        d_e = from_rows(tl.dot(d_hidden, tl.trans(w1), input_precision=DOT), G, C, NS, P, M)
        d_e = products(d_e, bend, M)
        if segment < count - 1:
            touch_rows(x_row, xb, xt, S, G, C, True)
            touch_rows(d_row, db, dt, S, G, C, True)
            touch_rows(z_row, zb, zt, S, G, C, True)
            touch_rows(g_row, gb, gt, S, G, C, True)
            touch_rows(c_row, cb, ct, S, G, NI * NS, True)
        g_v = shared_out(g_v, lane, S, LOGNS)
        if OP == BUCY:
            g_x = shared_out(g_x, lane, S, LOGNS)
        else:
            g_x = g_v
        store_steps(GX + out + o_off, ot, step, left, sums(g_x, d_e, M), M)
        if HAS_SLOPE:
            if OP == NEUMANN or OP == EXACT:
                g_slope = shared_out(g_slope, lane, S, LOGNS)
            else:
                g_slope = ()
                for k in tl.static_range(M):
                    g_slope = g_slope + (lead * g_v[k],)
                    if HAS_LEAD:
                        g_lead += g_v[k] * slope[k]
            store_steps(GSLOPE + out + o_off, ot, step, left, g_slope, M)
        delta = load_steps(d_row + d_off, dt, step, left, 0.0, M, True)
        if INNOVATE:
            E = decays(rate2, delta, 0, S, M, NI, NS)
            c = reads(again(c_tile), S, NI, NS, G, C)
            p = predicted(all_again(h, NI), E, S, NI)
            later, g_power, g_read = predictions_taken(p, E, c, d_e, g_power, g_read, S, M, NI, NS)
            lam = sums(lam, later, NI)
        g_rate, g_delta = powers_taken(OP, g_power, rate, g_rate, delta, g_delta, S, M, NI, NS)
        store_steps(GDELTA + out + o_off, ot, step, left, shared_out(g_delta, lane, S, LOGNS), M)
        store_read(read_at, rb, rt, left, g_read, S * NI, NI, NS, G, C)
        x_row, d_row, s_row, g_row = x_row - S * xt, d_row - S * dt, s_row - S * st, g_row - S * gt
        c_row, z_row = c_row - S * ct, z_row - S * zt
        out, read_at = out - S * ot, read_at - S * rt
        kept -= H * (NI * NS * C)
        left = tl.minimum(length, S)

    store_vectors(GSTART + h_off, hn, lam, NI)
    store_vectors(GRATE + h_off, hn, g_rate, NI)
    if HAS_LEAD:
        tl.store(GLEAD + (b + sequence) * H * C + head * C + channel, everywhere(g_lead, LOGNS))


def whole_fits(form: LoopForm, tiles: Tiling, C: int, NI: int) -> bool:
    """Whether a launch is of this module's form: asked for (U = S), a number a thread, few enough of them."""
    threads = tiles.G * C * tiles.NS
    lanes = tiles.NS & (tiles.NS - 1) == 0 and min(form.segment, 32) >= tiles.NS
    small = NI in (1, 2, 4) and form.segment * NI <= 32 and lanes
    known = form.operator in ("discrete", "kalman", "exact")
    return form.passes == 0 and form.segment <= tiles.U and small and known and 32 * tiles.warps == threads
