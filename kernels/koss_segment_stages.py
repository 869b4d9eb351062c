"""Stages of a segment's way back: its states again, the states' gradients, the innovations' gradients.

Formulas as at the head of `koss_segment_backward`; tiles as in `koss_segment_parts`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM108, SIM109 (Triton knows no unpacking and no `in`)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import BUCY, EXACT, KALMAN, LOG2E, NEUMANN, drive, retreat
from ssrtrack.kernels.koss_rows import pile
from ssrtrack.kernels.koss_segment_parts import decayed, read_out, take, updated, zeros


@triton.jit
def history(
    OP: tl.constexpr, h, rate, delta, K, c, x, slope, lead, S: tl.constexpr, NI: tl.constexpr, EVEN: tl.constexpr
):
    """The states before each step and after the last: (S + 1)·NI tiles, that of step s and tile i at s·NI + i."""
    out = h
    for s in tl.static_range(S):
        h = updated(OP, h, rate, delta[s], K[s], c, s * EVEN, x[s], slope[s], lead, NI)
        out = out + h
    return out


@triton.jit
def over_channels(tiles, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr, M: tl.constexpr, LOGM: tl.constexpr):
    """M tiles [G·C, NS] → [NS, M] (one sequence) or [G, M], summed over a sequence's channels."""
    if G == 1:
        return tl.sum(pile(tiles, NS, C, M, LOGM), 0)
    else:
        return tl.sum(tl.reshape(pile(tiles, 1, G * C, M, LOGM), [G, C, M]), 1)


@triton.jit
def states_back(
    OP: tl.constexpr, states, source, carry, rate, g_rate, delta, K, c, x, slope, lead, gy, LAST: tl.constexpr,
    S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, EVEN: tl.constexpr, G: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr, LOGM: tl.constexpr,
):  # fmt: skip
    """One pass' states taken back. `source`: ∂L/∂h_t from beyond this pass, at s·NI + i; LAST: c gy, not given.

    gy is 0 in passes before the last, whose states are not read out.

    Returns carry to before the segment, ∂L/∂A so far, per step and still to be summed over lanes [G·C, NS] gK, gx,
    gΔ, gẋ and gv, and gc by blocks of BLOCK steps (`over_channels`).
    """
    PC: tl.constexpr = G * C
    gK, gx, g_delta, g_slope, gv, gc, reads = (), (), (), (), (), (), ()
    for s in tl.static_range(S - 1, -1, -1):
        before = take(states, s * NI, NI)
        p = decayed(before, rate, delta[s], NI)
        v = drive(OP, x[s], slope[s], lead)
        outer = ()
        gr = tl.zeros([PC, NS], tl.float32)
        for i in tl.static_range(NI):
            if LAST:
                outer = outer + (carry[i] + c[s * EVEN + i] * gy[s],)
            else:
                outer = outer + (carry[i] + source[s * NI + i],)
            if OP == KALMAN:
                gr += outer[i] * (K[s] * c[s * EVEN + i])
        total = tl.zeros([PC, 1], tl.float32)
        if OP == KALMAN:
            v = v - tl.sum(read_out(c, s * EVEN, p, NI), 1, keep_dims=True)
            total = tl.sum(gr, 1, keep_dims=True)
        back, rates, row = (), (), ()
        for i in tl.static_range(NI):
            cn = c[s * EVEN + i]
            E = tl.exp2(delta[s] * (rate[i] * LOG2E))
            a, q, b_K, b_c, b_x, b_slope, b_v, b_delta = retreat(
                OP, outer[i], total, before[i], p[i], E, rate[i], delta[s], K[s], cn, x[s], slope[s], v
            )
            back = back + (a,)
            rates = rates + (g_rate[i] + q * delta[s],)
            b_delta = b_delta + q * rate[i] if OP == BUCY else q * rate[i]
            read = states[(s + 1) * NI + i] * gy[s]
            b_c = read if OP == EXACT else b_c + read
            row = row + (b_c,)
            if i == 0:
                d_K, d_x, d_delta, d_slope, d_v = b_K, b_x, b_delta, b_slope, b_v
            else:
                d_K += b_K
                d_delta += b_delta
                if OP == NEUMANN or OP == BUCY or OP == EXACT:
                    d_x += b_x
                if OP == NEUMANN or OP == EXACT:
                    d_slope += b_slope
                if OP != NEUMANN and OP != EXACT:
                    d_v += b_v
        carry, g_rate = back, rates
        gK, gx, g_delta = (d_K,) + gK, (d_x,) + gx, (d_delta,) + g_delta
        g_slope, gv = (d_slope,) + g_slope, (d_v,) + gv
        reads = row + zeros(EVEN - NI, PC, NS) + reads
        if s % BLOCK == 0:
            gc = (over_channels(reads, G, C, NS, BLOCK * EVEN, LOGM),) + gc
            reads = ()
    return carry, g_rate, gK, gx, g_delta, g_slope, gv, gc


@triton.jit
def innovations_back(
    p, de, rate, g_rate, delta, c, g_delta, gc, first, S: tl.constexpr, NI: tl.constexpr,
    NS: tl.constexpr, EVEN: tl.constexpr, G: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, LOGM: tl.constexpr,
):  # fmt: skip
    """A pass' innovations taken back: p its predictions at s·NI + i, de their gradient.

    Returns ∂L/∂A, gΔ and gc with what is added here, and E dp of every step at s·NI + i: what step s − 1 of the pass
    before is handed (`first` is 1 in the first pass: Q, and only that of step 0 counts; else 0).
    """
    PC: tl.constexpr = G * C
    later = zeros(NI, PC, NS)
    onward, steps, reads, blocks = (), (), (), ()
    for s in tl.static_range(S - 1, -1, -1):
        row, rates, passed = (), (), ()
        total = g_delta[s]
        for i in tl.static_range(NI):
            dp = -c[s * EVEN + i] * de[s]
            dp += later[i] * first
            grown = dp * p[s * NI + i]
            total += grown * rate[i]
            rates = rates + (g_rate[i] + grown * delta[s],)
            passed = passed + (tl.exp2(delta[s] * (rate[i] * LOG2E)) * dp,)
            row = row + (p[s * NI + i] * -de[s],)
        g_rate, later = rates, passed
        onward, steps = passed + onward, (total,) + steps
        reads = row + zeros(EVEN - NI, PC, NS) + reads
        if s % BLOCK == 0:
            blocks = (gc[s // BLOCK] + over_channels(reads, G, C, NS, BLOCK * EVEN, LOGM),) + blocks
            reads = ()
    return g_rate, steps, blocks, onward
