"""The closed KOSS loop's way back with refining passes and a whole segment in registers: few states a thread.

`koss_segment_backward` says what is computed, `koss_segment_whole` does it likewise without refining passes. The passes
are unrolled. Of each there stay its gains, ds/de and hidden layer, which are spread over all threads; its states and
e^{ΔA} are made again on the way back, since they would take more registers than a thread has. gc grows in place.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005 (Triton knows no unpacking and no `in`; its conditions are branches)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm
from ssrtrack.kernels.koss_math import EXACT, LOG2E, gain, gain_slope, saturation, saturation_slope
from ssrtrack.kernels.koss_segment_ahead import everywhere, read_tile, reads
from ssrtrack.kernels.koss_segment_forward import Tiling
from ssrtrack.kernels.koss_segment_parts import bounds, hidden_layer, kept_row, operand
from ssrtrack.kernels.koss_segment_stages import load_vectors, store_vectors, vectors
from ssrtrack.kernels.koss_segment_taken import (
    decays_of,
    less,
    predicted,
    predictions_taken,
    states_taken,
    store_hidden_near,
    unlike,
    walked,
)
from ssrtrack.kernels.koss_segment_vectors import (
    again,
    from_rows,
    load_steps,
    products,
    store_read,
    store_steps,
    sums,
    to_rows,
)
from ssrtrack.kernels.koss_segment_walk import touch_next, touch_rows


@triton.jit
def backward_refined(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, KEPT, GY, GFINAL,
    GX, GDELTA, GREAD, GBIAS, GSLOPE, GRATE, GSTART, GLEAD, SELECTED, HIDDEN, LOGIT, T, H,
    xb, db, cb, zb, sb, gb, ob, op, rh, rb, rt, rn, hb, hn,
    xt: tl.constexpr, dt: tl.constexpr, ct: tl.constexpr, zt: tl.constexpr, st: tl.constexpr, gt: tl.constexpr,
    ot: tl.constexpr,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    J: tl.constexpr, TWICE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = G * C * NS
    M: tl.constexpr = S // NS
    LOGNS: tl.constexpr = NS.bit_length() - 1
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    r = tl.arange(0, R)
    pair, lane = r // NS, r % NS
    sequence, channel = pair // C if G > 1 else 0, pair % C
    count = tl.cdiv(length, S)
    last = tl.maximum(count - 1, 0) * S
    row = first + last
    x_row, d_row = X + b * xb + row * xt + head * C, DELTA + b * db + row * dt + head * C
    s_row, g_row = SLOPE + b * sb + row * st + head * C, GY + b * gb + row * gt + head * C
    c_row, z_row = READ + b * cb + row * ct, BIAS + b * zb + row * zt + head * C
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
    left, zero, none = length - last, tl.zeros([], tl.int64), tl.zeros([R], tl.int32)
    for segment in range(0, count):
        # The one before it in time, which is next: from afar first, into the near cache while the gate works.
        if segment < count - 1:
            touch_next(
                x_row, d_row, z_row, g_row, s_row, c_row, kept, xb, db, zb, gb, sb, cb, H, xt, dt, zt, gt, st, ct,
                HAS_SLOPE, G, C, NI, NS, S,
            )  # fmt: skip
        # Places are made again each time: they would fill a third of the registers.
        r = tl.arange(0, R) | (left >> 31)
        pair, lane = r // NS, r % NS
        sequence, channel, step = pair // C if G > 1 else 0, pair % C, lane
        x_off, d_off = sequence * xb + step * xt + channel, sequence * db + step * dt + channel
        s_off, g_off = sequence * sb + step * st + channel, sequence * gb + step * gt + channel
        z_off, o_off = sequence * zb + step * zt + channel, sequence * ob + step * ot + channel
        # A lane's k-th step is k·NS + lane, so that it has as many as there are such steps left.
        own = (left - lane + (NS - 1)) // NS
        delta = load_steps(d_row + d_off, dt * NS, none, own, 0.0, M, False)
        h = load_vectors(kept, C, NI)
        c_tile = read_tile(c_row, cb, ct, 0, left, S, NI, NS, G, C)
        x = load_steps(x_row + x_off, xt * NS, none, own, 0.0, M, False)
        slope = load_steps(s_row + s_off, st * NS, none, own, 0.0, M, False) if HAS_SLOPE else x
        z = load_steps(z_row + z_off, zt * NS, none, own, -1e9, M, False)
        c = reads(c_tile, S, NI, NS, G, C)
        E = decays_of(rate2, delta, S, NI, NS)

        # Forward again: innovations, hidden layers, gains of every pass.
        e = less(x, predicted(h, E, c, lane, S, NI, NS), M)
        bends, hiddens, Ks = (), (), ()
        for j in tl.static_range(J + 1):
            place = out + (zero + j) * op
            selected, bend = (), ()
            for k in tl.static_range(M):
                squashed, rest = saturation(e[k])
                selected, bend = selected + (squashed,), bend + (saturation_slope(e[k], rest),)
            store_steps(SELECTED + place + o_off, ot * NS, none, own, selected, M)
            hidden = operand(hidden_layer(to_rows(selected, w1, G, C, NS, P, M), w1, b1, DOT), w2)
            store_hidden_near(HIDDEN + place, ob, ot, left, hidden, G, C, NS, P, M)
            logits = from_rows(tl.dot(hidden, w2, input_precision=DOT), G, C, NS, P, M)
            K = ()
            for k in tl.static_range(M):
                K = K + (gain(OP, logits[k] + z[k]),)
            bends, hiddens, Ks = bends + (bend,), hiddens + (hidden,), Ks + (K,)
            if j < J:
                _, _, parts = walked(OP, h, E, lead, x, K, c, slope, lane, HAS_SLOPE, HAS_LEAD, S, NI, NS)
                e = less(x, parts, M)

        # And back, the last pass first.
        gy = load_steps(g_row + g_off, gt * NS, none, own, 0.0, M, False)
        source, carry, g_read = gy, lam, ()
        lam = vectors(NI, R)
        for j in tl.static_range(J, -1, -1):
            place, K = out + (zero + j) * op, unlike(Ks[j], left, 2 * j + 2, M)
            x = load_steps(x_row + x_off, xt * NS, none, own, 0.0, M, True)
            slope = load_steps(s_row + s_off, st * NS, none, own, 0.0, M, True) if HAS_SLOPE else x
            c = reads(again(c_tile), S, NI, NS, G, C)
            delta = load_steps(d_row + d_off, dt * NS, none, own, 0.0, M, True)
            if j < J:
                E = decays_of(rate2, delta, S, NI, NS)
            states, drives, _ = walked(OP, h, E, lead, x, K, c, slope, lane, HAS_SLOPE, HAS_LEAD, S, NI, NS)
            carry, g_rate, g_read, g_K, p_slope, p_v, p_delta = states_taken(
                OP, j == J, carry, states, drives, rate, rate2, g_rate, lead, x,
                unlike(delta, left, 2 * j + 3, M), K, c, slope, source, g_read, lane, HAS_SLOPE, HAS_LEAD, S, NI, NS,
            )  # fmt: skip
            lam, carry = sums(lam, carry, NI), vectors(NI, R)
            gz = ()
            for k in tl.static_range(M):
                gz = gz + (g_K[k] * gain_slope(OP, K[k]),)
            store_steps(LOGIT + place + o_off, ot * NS, none, own, gz, M)
            d_hidden = tl.dot(to_rows(gz, w2, G, C, NS, P, M), tl.trans(w2), input_precision=DOT)
            d_hidden = operand(tl.where(hiddens[j] > 0.0, d_hidden, 0.0), w1)
            d_e = from_rows(tl.dot(d_hidden, tl.trans(w1), input_precision=DOT), G, C, NS, P, M)
            source = products(d_e, bends[j], M)
            g_x = sums(p_v, source, M)
            if j == J:
                g_z, g_v, g_slope, all_x, g_delta = gz, p_v, p_slope, g_x, p_delta
            else:
                g_z, g_v, all_x = sums(g_z, gz, M), sums(g_v, p_v, M), sums(all_x, g_x, M)
                g_delta = sums(g_delta, p_delta, M)
                if OP == EXACT and HAS_SLOPE:
                    g_slope = sums(g_slope, p_slope, M)
        if segment < count - 1:
            touch_rows(x_row, xb, xt, S, G, C, True)
            touch_rows(d_row, db, dt, S, G, C, True)
            touch_rows(z_row, zb, zt, S, G, C, True)
            touch_rows(g_row, gb, gt, S, G, C, True)
            touch_rows(c_row, cb, ct, S, G, NI * NS, True)
        if TWICE:
            store_steps(GBIAS + out + o_off, ot * NS, none, own, g_z, M)
        store_steps(GX + out + o_off, ot * NS, none, own, all_x, M)
        if HAS_SLOPE:
            if OP != EXACT:
                slope = load_steps(s_row + s_off, st * NS, none, own, 0.0, M, True) if HAS_LEAD else slope
                g_slope = ()
                for k in tl.static_range(M):
                    g_slope = g_slope + (lead * g_v[k],)
                    if HAS_LEAD:
                        g_lead += g_v[k] * slope[k]
            store_steps(GSLOPE + out + o_off, ot * NS, none, own, g_slope, M)
        delta = load_steps(d_row + d_off, dt * NS, none, own, 0.0, M, True)
        c = reads(again(c_tile), S, NI, NS, G, C)
        later, g_rate, g_read, p_delta = predictions_taken(
            unlike(h, left, 0, NI), rate, rate2, g_rate, c, delta, source, g_read, lane, left, S, NI, NS
        )  # fmt: skip
        lam, g_delta = sums(lam, later, NI), sums(g_delta, p_delta, M)
        store_steps(GDELTA + out + o_off, ot * NS, none, own, g_delta, M)
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


def refined_fits(form: LoopForm, tiles: Tiling, C: int, NI: int) -> bool:
    """Whether a launch is of this module's form: asked for (U = S), a number a thread, few enough of them.

    Two passes of 32 numbers compile for a minute and a half, one for 20 s.
    """
    lanes = tiles.NS & (tiles.NS - 1) == 0 and form.segment >= tiles.NS
    small = NI in (1, 2) and form.segment <= 16 and lanes and form.passes >= 1 and form.passes * form.segment * NI <= 32
    known = form.operator in ("discrete", "kalman", "exact") and form.innovate
    return small and known and form.segment <= tiles.U and 32 * tiles.warps == tiles.G * C * tiles.NS
