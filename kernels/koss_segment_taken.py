"""A segment's stages with all its steps in registers, a straight line each: predictions, states, and both taken back.

Vectors [R] and lanes as in `koss_segment_walk`. What belongs to a step alone, x, Δ, K, the sums over a pair's states,
lies spread over its NS lanes, step s = k·NS + lane in M = S/NS vectors, so that neighbours in time are shared out as
soon as they are there. Formulas as at the head of `koss_segment_backward`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM108 (Triton knows no unpacking and no `in`; its conditions are branches)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import DISCRETE, EXACT, KALMAN
from ssrtrack.kernels.koss_segment_ahead import everywhere, exchange, power, spread
from ssrtrack.kernels.koss_segment_stages import undone, vectors
from ssrtrack.kernels.koss_segment_walk import driven, times, weighed


@triton.jit
def handed(values, lane, BIT: tl.constexpr, HALF: tl.constexpr):
    upper = (lane & BIT) != 0
    sums = ()
    for k in tl.static_range(HALF):
        mine = tl.where(upper, values[2 * k + 1], values[2 * k])
        other = tl.where(upper, values[2 * k], values[2 * k + 1])
        sums = sums + (mine + exchange(other, BIT),)
    return sums


@triton.jit
def own_share(values, lane, NS: tl.constexpr):
    """NS vectors summed over a pair's NS lanes → one: lane l's is the sum of values[l].

    `koss_segment_ahead.shared_out`, but for neighbours in time, which a walk has at hand together.
    """
    for level in tl.static_range(NS.bit_length() - 1):
        values = handed(values, lane, 1 << level, NS >> (level + 1))
    return values


@triton.jit
def less(a, b, COUNT: tl.constexpr):
    out = ()
    for k in tl.static_range(COUNT):
        out = out + (a[k] - b[k],)
    return out


@triton.jit
def unlike(values, left, SEED: tl.constexpr, COUNT: tl.constexpr):
    """The same numbers, of which no compiler knows that they are: what is made of them is made again, not kept.

    (left + SEED) >> 31 is 0. A bare move will not do, since the last compiler of all looks through it.
    """
    none = (left + SEED) >> 31
    out = ()
    for k in tl.static_range(COUNT):
        out = out + ((values[k].to(tl.int32, bitcast=True) | none).to(tl.float32, bitcast=True),)
    return out


@triton.jit
def store_hidden_near(
    pointer, apart, stride: tl.constexpr, left, hidden, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr,
    P: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """`koss_segment_vectors.store_hidden` where a lane's k-th step is k·NS + lane."""
    Q: tl.constexpr = P // NS
    row = tl.arange(0, P * G)[:, None]
    k = row // G % Q
    step = k * NS + row // (G * Q)
    place = row % G * apart + step * stride + tl.arange(0, C)[None, :]
    tl.store(pointer + place, hidden.to(pointer.dtype.element_ty), mask=(k < M) & (step < left))


@triton.jit
def take_step(values, s: tl.constexpr, NI: tl.constexpr):
    """The NI vectors of step s."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (values[s * NI + i],)
    return out


@triton.jit
def decays_of(rate2, delta, S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr):
    """E = e^{ΔA} of all steps, S·NI vectors."""
    out = ()
    for s in tl.static_range(S):
        d = spread(delta[s // NS], s % NS, NS)
        for i in tl.static_range(NI):
            out = out + (power(d * rate2[i]),)
    return out


@triton.jit
def predicted(h, E, c, lane, S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr):
    """c·p of the open-loop prediction p_t = E_t p_{t−1} from h, shared out."""
    out, group = (), ()
    for s in tl.static_range(S):
        h = times(take_step(E, s, NI), h, NI)
        group = group + (weighed(c, s * NI, h, NI),)
        if s % NS == NS - 1:
            out, group = out + own_share(group, lane, NS), ()
    return out


@triton.jit
def residual(
    OP: tl.constexpr, x, slope, lead, c, at: tl.constexpr, p, HAS_LEAD: tl.constexpr, NI: tl.constexpr,
    LOGNS: tl.constexpr,
):  # fmt: skip
    """v as `advanced` takes it."""
    v = driven(OP, x, slope, lead, HAS_LEAD)
    if OP == KALMAN:
        v = v - everywhere(weighed(c, at, p, NI), LOGNS)
    return v


@triton.jit
def onward(OP: tl.constexpr, p, E, K, c, at: tl.constexpr, x, slope, v, NI: tl.constexpr):
    """`koss_math.advance` of all states of a lane, with E that is known already."""
    out = ()
    for i in tl.static_range(NI):
        if OP == DISCRETE:
            out = out + (p[i] + K * (v - c[at + i] * p[i]),)
        elif OP == KALMAN:
            out = out + (p[i] + K * c[at + i] * v,)
        else:
            out = out + (p[i] + K * (x - E[at + i] * (x - slope)),)
    return out


@triton.jit
def walked(
    OP: tl.constexpr, h, E, lead, x, K, c, slope, lane, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr,
    S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """States before the first step and after every one, (S + 1)·NI vectors; v of every step; c·p, shared out."""
    states, drives, parts, group = h, (), (), ()
    for s in tl.static_range(S):
        xs, ss = spread(x[s // NS], s % NS, NS), 0.0
        if HAS_SLOPE:
            ss = spread(slope[s // NS], s % NS, NS)
        p = times(take_step(E, s, NI), h, NI)
        v = residual(OP, xs, ss, lead, c, s * NI, p, HAS_LEAD, NI, NS.bit_length() - 1)
        h = onward(OP, p, E, spread(K[s // NS], s % NS, NS), c, s * NI, xs, ss, v, NI)
        states, drives, group = states + h, drives + (v,), group + (weighed(c, s * NI, p, NI),)
        if s % NS == NS - 1:
            parts, group = parts + own_share(group, lane, NS), ()
    return states, drives, parts


@triton.jit
def states_taken(
    OP: tl.constexpr, LAST: tl.constexpr, carry, states, drives, rate, rate2, g_rate, lead, x, delta, K, c, slope,
    source, g_read, lane, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, S: tl.constexpr, NI: tl.constexpr,
    NS: tl.constexpr,
):  # fmt: skip
    """A pass' states taken back: carry before the segment, gA so far, gc of every step; gK, gẋ, gv and gΔ, shared out.

    The LAST pass is read out, its source is gy. Every other one predicts for the pass after it, whose de is its source;
    to its gc those of the passes after it are added. E, which lies near, is made again, not kept.
    """
    g_K, g_slope, g_v, g_delta, rows = (), (), (), (), ()
    of_K, of_slope, of_v, of_delta = (), (), (), ()
    for s in tl.static_range(S - 1, -1, -1):
        Ks, gs = spread(K[s // NS], s % NS, NS), spread(source[s // NS], s % NS, NS)
        xs, ds, ss = spread(x[s // NS], s % NS, NS), spread(delta[s // NS], s % NS, NS), 0.0
        if HAS_SLOPE:
            ss = spread(slope[s // NS], s % NS, NS)
        v = drives[s] if OP == KALMAN else driven(OP, xs, ss, lead, HAS_LEAD)
        total, outer = 0.0, carry
        if LAST:
            outer = ()
            for i in tl.static_range(NI):
                outer = outer + (carry[i] + c[s * NI + i] * gs,)
        if OP == KALMAN:
            total = everywhere(Ks * weighed(c, s * NI, outer, NI), NS.bit_length() - 1)
        carry, rates, row = (), (), ()
        for i in tl.static_range(NI):
            before, Es, cs = states[s * NI + i], power(ds * rate2[i]), c[s * NI + i]
            p = Es * before
            a, q, b_K, b_c, b_x, b_slope, b_v, _ = undone(
                OP, outer[i], total, before, p, Es, rate[i], xs, Ks, cs, xs, ss, v
            )
            if LAST:
                b_c = b_c + states[(s + 1) * NI + i] * gs
            else:
                dp = cs * gs
                a, q, b_c = a - Es * dp, q - dp * p, b_c + (g_read[s * NI + i] - p * gs)
            carry, rates, row = carry + (a,), rates + (g_rate[i] + q * ds,), row + (b_c,)
            if OP == EXACT:
                b_v = b_x
            if i == 0:
                d_K, d_slope, d_v, d_delta = b_K, b_slope, b_v, q * rate[i]
            else:
                d_K, d_slope, d_v, d_delta = d_K + b_K, d_slope + b_slope, d_v + b_v, d_delta + q * rate[i]
        g_rate, rows = rates, row + rows
        of_K, of_slope, of_v, of_delta = (d_K,) + of_K, (d_slope,) + of_slope, (d_v,) + of_v, (d_delta,) + of_delta
        if s % NS == 0:
            g_K, g_v = own_share(of_K, lane, NS) + g_K, own_share(of_v, lane, NS) + g_v
            g_delta = own_share(of_delta, lane, NS) + g_delta
            if OP == EXACT and HAS_SLOPE:
                g_slope = own_share(of_slope, lane, NS) + g_slope
            of_K, of_slope, of_v, of_delta = (), (), (), ()
    return carry, g_rate, rows, g_K, g_slope, g_v, g_delta


@triton.jit
def predictions_taken(
    h, rate, rate2, g_rate, c, delta, d_e, g_read, lane, left, S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr,
):  # fmt: skip
    """The innovations taken back through the open-loop predictions: Q before the segment, gA, gc; gΔ, shared out."""
    E, p, grown = decays_of(rate2, delta, S, NI, NS), h, ()
    for s in tl.static_range(S):
        p = times(take_step(E, s, NI), p, NI)
        grown = grown + p
    later, delta = vectors(NI, d_e[0].shape[0]), unlike(delta, left, 1, S // NS)
    g_delta, group, rows = (), (), ()
    for s in tl.static_range(S - 1, -1, -1):
        d, ds = spread(d_e[s // NS], s % NS, NS), spread(delta[s // NS], s % NS, NS)
        before, rates, row = (), (), ()
        for i in tl.static_range(NI):
            dp = later[i] - c[s * NI + i] * d
            q = dp * grown[s * NI + i]
            rates = rates + (g_rate[i] + q * ds,)
            row = row + (g_read[s * NI + i] - grown[s * NI + i] * d,)
            before = before + (power(ds * rate2[i]) * dp,)
            if i == 0:
                d_delta = q * rate[i]
            else:
                d_delta = d_delta + q * rate[i]
        later, g_rate, rows, group = before, rates, row + rows, (d_delta,) + group
        if s % NS == 0:
            g_delta, group = own_share(group, lane, NS) + g_delta, ()
    return later, g_rate, rows, g_delta
