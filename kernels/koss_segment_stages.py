"""Stages of a segment's way back: predictions, states, gate, and then the gradients of each.

Formulas as at the head of `koss_segment_backward`; vectors and tiles as in `koss_segment_walk` and
`koss_segment_parts`. `left` ≥ 1 is the number of the segment's steps; a stage walks through them U at a time and leaves
off after the last. Its inputs are pointers [R] to the segment's first step and strides the compiler knows, so that a
load is one instruction.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM109 (Triton knows no unpacking and no `in`)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import (
    BUCY,
    DISCRETE,
    EXACT,
    KALMAN,
    LOG2E,
    NEUMANN,
    gain_slope,
    retreat,
    saturation,
    saturation_slope,
)
from ssrtrack.kernels.koss_segment_walk import (
    across,
    advanced,
    driven,
    keep,
    kept,
    own_steps,
    powers,
    reads_of,
    steps_of,
    store_pair,
    store_step,
    times,
    weighed,
)


@triton.jit
def vectors(count: tl.constexpr, R: tl.constexpr):
    """`count` vectors [R] of zeros."""
    out = ()
    for _ in tl.static_range(count):
        out = out + (tl.zeros([R], tl.float32),)
    return out


@triton.jit
def slopes_of(pointer, stride: tl.constexpr, left, HAS_SLOPE: tl.constexpr, U: tl.constexpr, R: tl.constexpr):
    """ẋ of U steps, zeros where there is none."""
    if HAS_SLOPE:
        return steps_of(pointer, stride, left, U)
    else:
        return vectors(U, R)


@triton.jit
def load_vectors(pointer, stride, NI: tl.constexpr):
    """NI vectors, `stride` apart."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (tl.load(pointer + i * stride).to(tl.float32),)
    return out


@triton.jit
def store_vectors(pointer, stride, h, NI: tl.constexpr):
    for i in tl.static_range(NI):
        tl.store(pointer + i * stride, h[i])


@triton.jit
def innovate(e, selected, slope_own, u: tl.constexpr, now, ot: tl.constexpr, NS: tl.constexpr, PC: tl.constexpr):
    """What φ and its gradient need of an innovation: s, and ds/de for the thread that wrote it."""
    s, rest = saturation(e)
    store_step(selected + u * ot, s, u, now, NS)
    store_pair(slope_own + u * PC, saturation_slope(e, rest), NS)


@triton.jit
def predict(
    h, rate, x_at, d_at, c_at, selected, slope_own, p_own, left, INNOVATE: tl.constexpr, xt: tl.constexpr,
    dt: tl.constexpr, ct: tl.constexpr, ot: tl.constexpr, U: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
    PC: tl.constexpr,
):  # fmt: skip
    """Innovations e = x − c·p of the open-loop prediction p_t = E_t p_{t−1} from h, and p before every U steps."""
    R: tl.constexpr = PC * NS
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    p = h
    for k in range(tl.cdiv(left, U)):
        now = left - k * U
        x = steps_of(x_at + k * (U * xt), xt, now, U)
        if INNOVATE:
            delta = steps_of(d_at + k * (U * dt), dt, now, U)
            c = reads_of(c_at + k * (U * ct), ct, now, U, NI, R)
            keep(p_own + k * (R * EVEN), p, NI, R)
        for u in tl.static_range(U):
            e = x[u]
            if INNOVATE:
                p = times(powers(rate, delta[u], NI), p, NI)
                e -= across(weighed(c, u * NI, p, NI), PC, NS)
            innovate(e, selected + k * (U * ot), slope_own + k * (U * PC), u, now, ot, NS, PC)


@triton.jit
def walk(
    OP: tl.constexpr, h, rate, lead, x_at, d_at, c_at, s_at, K_own, h_own, selected, slope_own, left, refine,
    HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, J: tl.constexpr, xt: tl.constexpr, dt: tl.constexpr,
    ct: tl.constexpr, st: tl.constexpr, ot: tl.constexpr, U: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
    PC: tl.constexpr,
):  # fmt: skip
    """States before every U steps, with a pass' gains; where it is to `refine`, the next pass' innovations too."""
    R: tl.constexpr = PC * NS
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    keep(h_own, h, NI, R)
    count = tl.cdiv(left, U)
    # What comes after the last of the kept states matters to a next pass alone.
    for k in range(tl.where(refine, count, count - 1)):
        now = left - k * U
        x = steps_of(x_at + k * (U * xt), xt, now, U)
        delta = steps_of(d_at + k * (U * dt), dt, now, U)
        c = reads_of(c_at + k * (U * ct), ct, now, U, NI, R)
        slope = slopes_of(s_at + k * (U * st), st, now, HAS_SLOPE, U, R)
        K = own_steps(K_own + k * (U * PC), PC, U)
        for u in tl.static_range(U):
            p = times(powers(rate, delta[u], NI), h, NI)
            if J > 0 and refine:
                e = x[u] - across(weighed(c, u * NI, p, NI), PC, NS)
                innovate(e, selected + k * (U * ot), slope_own + k * (U * PC), u, now, ot, NS, PC)
            v = driven(OP, x[u], slope[u], lead, HAS_LEAD)
            if OP == KALMAN:
                v = v - across(weighed(c, u * NI, p, NI), PC, NS)
            h = advanced(OP, h, p, rate, delta[u], K[u], c, u * NI, x[u], slope[u], v, NI)
        if J == 0 or k < count - 1:
            keep(h_own + k * (R * EVEN) + R * EVEN, h, NI, R)


@triton.jit
def undone(OP: tl.constexpr, G, gr, h, p, E, A, delta, K, c, x, slope, v):
    """`koss_math.retreat`; `discrete` with the products that p + K (v − c p) has in common with its gradients."""
    if OP == DISCRETE:
        gv = K * G
        gp = G - c * gv
        zero = tl.zeros_like(G)
        return gp * E, gp * p, G * (v - c * p), -p * gv, zero, zero, gv, zero
    else:
        return retreat(OP, G, gr, h, p, E, A, delta, K, c, x, slope, v)


@triton.jit
def sum_onto(pointer, value, LAST: tl.constexpr, NS: tl.constexpr):
    """A pass' part of what all passes give; the last pass, which comes first, begins the sum."""
    if not LAST:
        value += tl.load(pointer)
    store_pair(pointer, value, NS)


@triton.jit
def states_back(
    OP: tl.constexpr, carry, rate, g_rate, lead, g_lead, x_at, d_at, c_at, s_at, g_at, K_own, h_own, slope_own, de_own,
    gx_own, gd_own, gs_own, gz_own, gc_own, LOGIT, GBIAS, left, LAST: tl.constexpr, HAS_SLOPE: tl.constexpr,
    HAS_LEAD: tl.constexpr, TWICE: tl.constexpr, J: tl.constexpr, xt: tl.constexpr, dt: tl.constexpr, ct: tl.constexpr,
    st: tl.constexpr, gt: tl.constexpr, ot: tl.constexpr, U: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
    PC: tl.constexpr,
):  # fmt: skip
    """A pass' states taken back, from ∂L/∂h after the segment to that before it.

    The LAST pass is the one read out. Every other one made the innovations of the pass after it from its own
    predictions, and de there is the product of `slope_own` and `de_own`. Left in memory: dz (`TWICE`: as the
    weights' products take it and as the gradient of z), and the passes' sums of gx, gΔ, gẋ, dz and gc.
    """
    R: tl.constexpr = PC * NS
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    count = tl.cdiv(left, U)
    for back in range(count):
        k = count - 1 - back
        now = left - k * U
        rows = k * (U * PC)
        x = steps_of(x_at + k * (U * xt), xt, now, U)
        delta = steps_of(d_at + k * (U * dt), dt, now, U)
        c = reads_of(c_at + k * (U * ct), ct, now, U, NI, R)
        slope = slopes_of(s_at + k * (U * st), st, now, HAS_SLOPE, U, R)
        K = own_steps(K_own + rows, PC, U)
        if LAST:
            gy = steps_of(g_at + k * (U * gt), gt, now, U)
        else:
            g_read = reads_of(gc_own + k * (U * R * EVEN), R * EVEN, U, U, NI, R)
            bend, de = own_steps(slope_own + rows, PC, U), own_steps(de_own + rows, PC, U)
        h = kept(h_own + k * (R * EVEN), 0, 1, NI, R)
        states, grown, drives = h, (), ()
        for u in tl.static_range(U):
            p = times(powers(rate, delta[u], NI), h, NI)
            v = driven(OP, x[u], slope[u], lead, HAS_LEAD)
            if OP == KALMAN:
                v = v - across(weighed(c, u * NI, p, NI), PC, NS)
            h = advanced(OP, h, p, rate, delta[u], K[u], c, u * NI, x[u], slope[u], v, NI)
            states, grown, drives = states + h, grown + p, drives + (v,)
        for u in tl.static_range(U - 1, -1, -1):
            total = vectors(1, R)[0]
            outer = ()
            for i in tl.static_range(NI):
                outer = outer + (carry[i] + c[u * NI + i] * gy[u] if LAST else carry[i],)
                if OP == KALMAN:
                    total += outer[i] * (K[u] * c[u * NI + i])
            if OP == KALMAN:
                total = across(total, PC, NS)
            if not LAST:
                d_e = de[u] * bend[u]
            onward, rates, row = (), (), ()
            for i in tl.static_range(NI):
                cn = c[u * NI + i]
                before, p = states[u * NI + i], grown[u * NI + i]
                E = tl.exp2(delta[u] * (rate[i] * LOG2E))
                a, q, b_K, b_c, b_x, b_slope, b_v, b_delta = undone(
                    OP, outer[i], total, before, p, E, rate[i], delta[u], K[u], cn, x[u], slope[u], drives[u]
                )
                if LAST:
                    b_c += states[(u + 1) * NI + i] * gy[u]
                else:
                    dp = -cn * d_e
                    a += E * dp
                    q += dp * p
                    b_c += g_read[u * NI + i] - p * d_e
                row = row + (b_c,)
                onward, rates = onward + (a,), rates + (g_rate[i] + q * delta[u],)
                b_delta = b_delta + q * rate[i] if OP == BUCY else q * rate[i]
                if OP == NEUMANN or OP == EXACT:
                    b_v = b_x
                if i == 0:
                    d_K, d_x, d_delta, d_slope, d_v = b_K, b_x, b_delta, b_slope, b_v
                else:
                    d_K, d_x, d_delta = d_K + b_K, d_x + b_x, d_delta + b_delta
                    d_slope, d_v = d_slope + b_slope, d_v + b_v
            keep(gc_own + k * (U * R * EVEN) + u * (R * EVEN), row, NI, R)
            carry, g_rate = onward, rates
            gz = across(d_K, PC, NS) * gain_slope(OP, K[u])
            store_step(LOGIT + k * (U * ot) + u * ot, gz, u, now, NS)
            if J > 0:
                sum_onto(gz_own + rows + u * PC, gz, LAST, NS)
            elif TWICE:
                store_step(GBIAS + k * (U * ot) + u * ot, gz, u, now, NS)
            sum_onto(gd_own + rows + u * PC, across(d_delta, PC, NS), LAST, NS)
            gv = vectors(1, R)[0]
            if OP != BUCY or HAS_LEAD:
                gv = across(d_v, PC, NS)
            gx = across(d_x, PC, NS) if OP == BUCY else gv
            if not LAST:
                gx += d_e
            sum_onto(gx_own + rows + u * PC, gx, LAST, NS)
            if OP == NEUMANN or OP == EXACT:
                if HAS_SLOPE:
                    sum_onto(gs_own + rows + u * PC, across(d_slope, PC, NS), LAST, NS)
            elif HAS_LEAD:
                sum_onto(gs_own + rows + u * PC, lead * gv, LAST, NS)
                g_lead += gv * slope[u]
    return carry, g_rate, g_lead


@triton.jit
def innovations_back(
    rate, g_rate, d_at, c_at, p_own, slope_own, de_own, gx_own, gd_own, gs_own, gz_own, gc_own, GX, GDELTA, GSLOPE,
    GBIAS, left, INNOVATE: tl.constexpr, HAS_SLOPE: tl.constexpr, KNOWN_SLOPE: tl.constexpr, J: tl.constexpr,
    dt: tl.constexpr, ct: tl.constexpr, ot: tl.constexpr, U: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
    PC: tl.constexpr,
):  # fmt: skip
    """The first pass' innovations taken back through the open-loop prediction; what is whole now is written out.

    Returns Q handed to the state before the segment, and ∂L/∂A so far.
    """
    R: tl.constexpr = PC * NS
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    count = tl.cdiv(left, U)
    later = vectors(NI, R)
    for back in range(count):
        k = count - 1 - back
        now = left - k * U
        rows, place = k * (U * PC), k * (U * ot)
        de, bend = own_steps(de_own + rows, PC, U), own_steps(slope_own + rows, PC, U)
        gx, g_delta = own_steps(gx_own + rows, PC, U), own_steps(gd_own + rows, PC, U)
        if J > 0:
            gz = own_steps(gz_own + rows, PC, U)
        if HAS_SLOPE:
            g_slope = own_steps(gs_own + rows, PC, U) if KNOWN_SLOPE else vectors(U, R)
        if INNOVATE:
            delta = steps_of(d_at + k * (U * dt), dt, now, U)
            c = reads_of(c_at + k * (U * ct), ct, now, U, NI, R)
            g_read = ()
            for u in tl.static_range(U):
                g_read = g_read + kept(gc_own + k * (U * R * EVEN) + u * (R * EVEN), 0, 1, NI, R)
            p = kept(p_own + k * (R * EVEN), 0, 1, NI, R)
            grown = ()
            for u in tl.static_range(U):
                p = times(powers(rate, delta[u], NI), p, NI)
                grown = grown + p
        for u in tl.static_range(U - 1, -1, -1):
            d_e, total = de[u] * bend[u], g_delta[u]
            if INNOVATE:
                onward, rates, row = (), (), ()
                part = vectors(1, R)[0]
                for i in tl.static_range(NI):
                    p = grown[u * NI + i]
                    dp = later[i] - c[u * NI + i] * d_e
                    q = dp * p
                    row = row + (g_read[u * NI + i] - p * d_e,)
                    onward = onward + (tl.exp2(delta[u] * (rate[i] * LOG2E)) * dp,)
                    rates = rates + (g_rate[i] + q * delta[u],)
                    part += q * rate[i]
                keep(gc_own + k * (U * R * EVEN) + u * (R * EVEN), row, NI, R)
                later, g_rate = onward, rates
                total += across(part, PC, NS)
            store_step(GX + place + u * ot, gx[u] + d_e, u, now, NS)
            store_step(GDELTA + place + u * ot, total, u, now, NS)
            if J > 0:
                store_step(GBIAS + place + u * ot, gz[u], u, now, NS)
            if HAS_SLOPE:
                store_step(GSLOPE + place + u * ot, g_slope[u], u, now, NS)
    return later, g_rate


@triton.jit
def reads_back(
    gc_own, GREAD, apart, rt, left, S: tl.constexpr, W: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
    G: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """gc summed over the channels of each sequence, W steps at a time, and written out.

    The channels' numbers come as [rows, channels, 8 neighbours in memory], so that a thread holds a row's whole second
    axis, and most of the sum is its own. The neighbours are V channels of Q numbers each, or a part of one's.
    """
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    Q: tl.constexpr = NS * EVEN
    V: tl.constexpr = max(1, 8 // Q)
    PARTS: tl.constexpr = max(1, Q // 8)
    M: tl.constexpr = W * G * PARTS
    m = tl.arange(0, M)
    part, g, t = m % PARTS, m // PARTS % G, m // (PARTS * G)
    place = ((t * G + g) * (C * Q) + part * 8)[:, None, None]
    place = place + tl.arange(0, C // V)[None, :, None] * (V * Q) + tl.arange(0, 8)[None, None, :]
    q = part[:, None] * 8 + tl.arange(0, 8 // V)[None, :]
    n = q // EVEN * NI + q % EVEN
    for k in range(tl.cdiv(left, W)):
        inside = k * W + t < left
        numbers = tl.load(gc_own + k * (W * G * C * Q) + place, mask=inside[:, None, None], other=0.0)
        total = tl.sum(tl.reshape(tl.sum(numbers, 1), [M, V, 8 // V]), 1)
        row = g[:, None] * apart + (k * W + t)[:, None] * rt
        tl.store(GREAD + row + n, total, mask=inside[:, None] & (q % EVEN < NI))
