"""The closed KOSS loop's segments, forward, in vectors: every number of a segment in the registers of one thread.

A vector [R], R = G·C·NS = 32 × warps, holds one number a thread: pair = r // NS of sequence and channel, lane = r % NS
of the states, n = lane·NI + i in NI such vectors. Lanes of a pair are neighbours in a warp. What belongs to a step
alone, x, Δ, z, K, the sums Σ_n c h, lies spread over the lanes, step s = lane·M + k in M = S/NS vectors: it is loaded,
squashed and stored once a pair, and a step that wants it takes it from its lane in one exchange. E = e^{ΔA} of all
steps is kept from the prediction to the last update. Only φ's two products ask for barriers.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM109 (Triton knows no unpacking and no `in`; its conditions are branches)

import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import (
    BUCY,
    DISCRETE,
    EXACT,
    INTERPRETED,
    KALMAN,
    LOG2E,
    NEUMANN,
    advance,
    gain,
    saturation,
)
from ssrtrack.kernels.koss_rows import pile, unstack
from ssrtrack.kernels.koss_segment_parts import bounds, by_pair, by_row, hidden_layer, kept_row, operand


@triton.constexpr_function
def exchange_code(bit):
    return f"shfl.sync.bfly.b32 $0, $1, {bit}, 0x1f, 0xffffffff;"


@triton.constexpr_function
def spread_code(lane, NS):
    return f"shfl.sync.idx.b32 $0, $1, {lane}, {(32 - NS) << 8 | 31}, 0xffffffff;"


@triton.jit
def power(z):
    """2^z in one instruction: results below 1e-38 are 0, whose own digits would take three more."""
    if INTERPRETED:
        return tl.exp2(z)
    else:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [z], tl.float32, True, 1)


@triton.jit
def exchange(v, BIT: tl.constexpr):
    """v of the thread whose number differs in one binary digit, that of value BIT < 32."""
    if INTERPRETED:
        R: tl.constexpr = v.shape[0]
        low, high = tl.split(tl.trans(tl.reshape(v, [R // (2 * BIT), 2, BIT]), 0, 2, 1))
        return tl.reshape(tl.trans(tl.join(high, low), 0, 2, 1), [R])
    else:
        return tl.inline_asm_elementwise(exchange_code(BIT), "=f,f", [v], tl.float32, True, 1)


@triton.jit
def spread(v, LANE: tl.constexpr, NS: tl.constexpr):
    """What one lane of each pair holds, on all of them."""
    if NS == 1:
        return v
    elif INTERPRETED:
        R: tl.constexpr = v.shape[0]
        pairs = tl.reshape(v, [R // NS, NS])
        mine = tl.sum(tl.where(tl.arange(0, NS)[None, :] == LANE, pairs, 0.0), 1, keep_dims=True)
        return tl.reshape(tl.broadcast_to(mine, [R // NS, NS]), [R])
    else:
        return tl.inline_asm_elementwise(spread_code(LANE, NS), "=f,f", [v], tl.float32, True, 1)


@triton.jit
def everywhere(v, LOGNS: tl.constexpr):
    """The sum over a pair's lanes, known to all of them."""
    for level in tl.static_range(LOGNS):
        v += exchange(v, 1 << level)
    return v


@triton.jit
def halved(values, lane, BIT: tl.constexpr, HALF: tl.constexpr):
    upper = (lane & BIT) != 0
    sums = ()
    for k in tl.static_range(HALF):
        mine = tl.where(upper, values[HALF + k], values[k])
        other = tl.where(upper, values[k], values[HALF + k])
        sums = sums + (mine + exchange(other, BIT),)
    return sums


@triton.jit
def shared_out(values, lane, S: tl.constexpr, LOGNS: tl.constexpr):
    """S vectors summed over a pair's NS lanes → M = S/NS vectors: lane's k-th is the sum of values[lane·M + k].

    Each exchange hands over the half that the other thread will own: S (1 − 1/NS) exchanges, not S log2 NS.
    """
    for level in tl.static_range(LOGNS):
        values = halved(values, lane, 1 << (LOGNS - 1 - level), S >> (level + 1))
    return values


@triton.jit
def rows_of(pointer, stride: tl.constexpr, step, left, other, M: tl.constexpr):
    """M vectors of a step each, from step [R] on; `other` where there is none."""
    out = ()
    for k in tl.static_range(M):
        out = out + (tl.load(pointer + k * stride, mask=step + k < left, other=other).to(tl.float32),)
    return out


@triton.jit
def as_it_is(v):
    """v, made float32 here: the compiler would hand bfloat16 to every thread, and each would make it float32 twice."""
    if INTERPRETED:
        return v
    else:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [v], tl.float32, True, 1)


@triton.jit
def read_tile(
    pointer, apart, stride, first, left, S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, G: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """c of S steps from `first` on, [G·AGAIN·NS, S·EVEN], EVEN ≥ NI a power of two; small tiles AGAIN and again.

    That is a number for each thread: of fewer the compiler would have every thread fetch all.
    Past the last of `left` steps that one again: K and Δ are 0 there. Of an empty sequence nothing is read.
    """
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    AGAIN: tl.constexpr = max(1, C // (S * EVEN))
    row, place = tl.arange(0, G * AGAIN * NS)[:, None], tl.arange(0, S * EVEN)[None, :]
    t = tl.minimum(first + place // EVEN, left - 1)
    i = tl.minimum(place % EVEN, NI - 1)
    place = row // (AGAIN * NS) * apart + t * stride + (row % NS * NI + i)
    numbers = tl.load(pointer + place, mask=t >= 0, other=0.0)
    return as_it_is(numbers.to(tl.float32))


@triton.jit
def reads(tile, S: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, G: tl.constexpr, C: tl.constexpr):
    """`read_tile` for all pairs, in float32: that of step s and state i at s·NI + i."""
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    AGAIN: tl.constexpr = max(1, C // (S * EVEN))
    columns = unstack(tile, G * AGAIN * NS, S * EVEN, (S * EVEN).bit_length() - 1)
    out = ()
    for s in tl.static_range(S):
        for i in tl.static_range(NI):
            column = tl.reshape(columns[s * EVEN + i], [G * AGAIN, 1, NS])
            out = out + (tl.reshape(tl.broadcast_to(column, [G * AGAIN, C // AGAIN, NS]), [G * C * NS]),)
    return out


@triton.jit
def weighed(c, at: tl.constexpr, h, first: tl.constexpr, NI: tl.constexpr):
    """Σ_i c_i h_i of one lane."""
    total = c[at] * h[first]
    for i in tl.static_range(1, NI):
        total += c[at + i] * h[first + i]
    return total


@triton.jit
def decays(rate2, delta, begin: tl.constexpr, end: tl.constexpr, M: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr):
    """E = e^{ΔA} of steps begin … end."""
    out = ()
    for s in tl.static_range(begin, end):
        d = spread(delta[s % M], s // M, NS)
        for i in tl.static_range(NI):
            out = out + (power(d * rate2[i]),)
    return out


@triton.constexpr_function
def after_code(count):
    lines = ["{ .reg .b32 t;", "mov.b32 t, $2;"]
    lines += [f"or.b32 t, t, ${k};" for k in range(3, 2 + count)]
    return " ".join([*lines, "shr.s32 t, t, 31;", "or.b32 $0, $1, t; }"])


@triton.constexpr_function
def after_constraints(count):
    return "=f,f" + ",f" * count


@triton.jit
def after(v, E, begin: tl.constexpr, count: tl.constexpr):
    """v, known only when E[begin … begin + count] ≥ 0 are: their signs, which are 0, are laid over it.

    The compiler puts off what is not wanted until the next segment, and then waits for all of it at once.
    """
    if INTERPRETED or count == 0:
        return v
    else:
        known = (v,)
        for k in tl.static_range(count):
            known = known + (E[begin + k],)
        return tl.inline_asm_elementwise(after_code(count), after_constraints(count), known, tl.float32, True, 1)


@triton.jit
def step(
    OP: tl.constexpr, h, E, rate, c, at: tl.constexpr, K, x, delta, slope, lead, NI: tl.constexpr, LOGNS: tl.constexpr,
    HAS_LEAD: tl.constexpr,
):  # fmt: skip
    """The state after a step and its prediction p = E h, `koss_math.advance` with what is known already."""
    p, out = (), ()
    for i in tl.static_range(NI):
        p = p + (E[at + i] * h[i],)
    if OP == BUCY:
        v = lead * slope
    elif HAS_LEAD:
        v = x + lead * slope
    else:
        v = x
    if OP == KALMAN:
        v = v - everywhere(weighed(c, at, p, 0, NI), LOGNS)
    for i in tl.static_range(NI):
        if OP == DISCRETE:
            out = out + (p[i] + K * (v - c[at + i] * p[i]),)
        elif OP == EXACT:
            out = out + (p[i] + K * (x - E[at + i] * (x - slope)),)
        else:
            out = out + (advance(OP, h[i], p[i], rate[i], delta, K, c[at + i], x, slope, v),)
    return out, p


@triton.jit
def gains(
    OP: tl.constexpr, e, z, w1, b1, w2, G: tl.constexpr, C: tl.constexpr, NS: tl.constexpr, P: tl.constexpr,
    M: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """K from the innovations, both spread over the lanes. φ's rows lie in an order of their own: lane, k, sequence."""
    R: tl.constexpr = G * C * NS
    Q: tl.constexpr = P // NS
    LOGQ: tl.constexpr = Q.bit_length() - 1
    columns = ()
    for k in tl.static_range(Q):
        if k < M:
            squashed, _ = saturation(e[k])
            columns = columns + (tl.reshape(squashed, [R, 1]),)
        else:
            columns = columns + (tl.zeros([R, 1], tl.float32),)
    s = by_row(tl.reshape(pile(columns, 1, R, Q, LOGQ), [G * C, P]), G, C, P)
    hidden = hidden_layer(s, w1, b1, DOT)
    logits = by_pair(tl.dot(operand(hidden, w2), w2, input_precision=DOT), G, C, P)
    columns = unstack(tl.reshape(logits, [R, Q]), R, Q, LOGQ)
    K = ()
    for k in tl.static_range(M):
        K = K + (gain(OP, tl.reshape(columns[k], [R]) + z[k]),)
    return K


@triton.jit
def ask(pointer, wanted):
    """Asks for lines that will be wanted soon into the second-level cache."""
    if not INTERPRETED:
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.u32 $0, 0; }",
            "=r,l,r", [pointer, wanted.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def ask_rows(pointer, apart, stride, first, left, S: tl.constexpr, G: tl.constexpr, C: tl.constexpr):
    """The same for the rows of C channels, 32 bytes each, of steps first … first + S as far as there are `left`."""
    PER: tl.constexpr = min(C, 256 // pointer.dtype.element_ty.primitive_bitwidth)
    line = tl.arange(0, S * G * (C // PER))
    row, part = line // (C // PER), line % (C // PER)
    t = first + row // G
    ask(pointer + (row % G * apart + t * stride + part * PER), t < left)


@triton.jit
def forward_ahead(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, Y, FINAL, KEPT, T, H,
    xb, xt: tl.constexpr, db, dt: tl.constexpr, cb, ct: tl.constexpr, zb, zt: tl.constexpr, sb, st: tl.constexpr,
    yb, yt: tl.constexpr, rn: tl.constexpr, hb, hn: tl.constexpr,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    KEEP: tl.constexpr, G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr,
    LOGNS: tl.constexpr, P: tl.constexpr, J: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = G * C * NS
    M: tl.constexpr = S // NS
    AHEAD: tl.constexpr = S // 2
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    lane, pair = tl.arange(0, R) % NS, tl.arange(0, R) // NS
    sequence, channel = pair // C, pair % C
    from_step = lane * M
    x_row, d_row = X + b * xb + first * xt + head * C, DELTA + b * db + first * dt + head * C
    z_row, s_row = BIAS + b * zb + first * zt + head * C, SLOPE + b * sb + first * st + head * C
    c_row = READ + b * cb + first * ct
    x_at, d_at = x_row + (sequence * xb + from_step * xt + channel), d_row + (sequence * db + from_step * dt + channel)
    z_at, s_at = z_row + (sequence * zb + from_step * zt + channel), s_row + (sequence * sb + from_step * st + channel)
    y_at = Y + b * yb + first * yt + head * C + (sequence * yb + from_step * yt + channel)
    kept = KEPT + (kept_row(first, b, T, S, VARLEN) * H + head) * (NI * NS * C)
    kept_at = kept + (sequence * (tl.cdiv(T, S) * H * (NI * NS * C)) + lane * (NI * C) + channel)

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    lead = tl.load(LEAD + head * C + channel).to(tl.float32) if HAS_LEAD else tl.zeros([R], tl.float32)
    rate, rate2, h = (), (), ()
    for i in tl.static_range(NI):
        A = tl.load(RATE + head * C + (lane * NI + i) * rn + channel).to(tl.float32)
        rate, rate2 = rate + (A,), rate2 + (A * LOG2E,)
        state = tl.load(START + b * hb + head * C + (sequence * hb + (lane * NI + i) * hn + channel))
        h = h + (state.to(tl.float32),)
    delta = rows_of(d_at, dt, from_step, length, 0.0, M)
    E_first = decays(rate2, delta, 0, AHEAD, M, NI, NS)
    c_tile = read_tile(c_row, cb, ct, 0, length, S, NI, NS, G, C)
    for at in range(0, length, S):
        left = length - at
        if KEEP:
            for i in tl.static_range(NI):
                tl.store(kept_at + i * C, h[i])
            kept_at += H * (NI * NS * C)
        c = reads(c_tile, S, NI, NS, G, C)
        x = rows_of(x_at, xt, from_step, left, 0.0, M)
        z = rows_of(z_at, zt, from_step, left, -1e9, M)
        if HAS_SLOPE:
            slope = rows_of(s_at, st, from_step, left, 0.0, M)
        # What the next segment begins with, and lines of the one after it, come while this one is worked on.
        c_tile = read_tile(c_row + at * ct, cb, ct, S, left, S, NI, NS, G, C)
        later = rows_of(d_at + S * dt, dt, from_step, left - S, 0.0, M)
        ask_rows(d_row + at * dt, db, dt, 2 * S, left, S, G, C)
        ask_rows(x_row + at * xt, xb, xt, S, left, S, G, C)
        ask_rows(z_row + at * zt, zb, zt, S, left, S, G, C)
        ask_rows(c_row + at * ct, cb, ct, 2 * S, left, S, G, NI * NS)
        if HAS_SLOPE:
            ask_rows(s_row + at * st, sb, st, S, left, S, G, C)
        E = E_first + decays(rate2, delta, AHEAD, S, M, NI, NS)
        e = x
        if INNOVATE:
            p, predicted = h, ()
            for s in tl.static_range(S):
                onward = ()
                for i in tl.static_range(NI):
                    onward = onward + (E[s * NI + i] * p[i],)
                p = onward
                predicted = predicted + (weighed(c, s * NI, p, 0, NI),)
            predicted = shared_out(predicted, lane, S, LOGNS)
            e = ()
            for k in tl.static_range(M):
                e = e + (x[k] - predicted[k],)
        for j in tl.static_range(J + 1):
            K = gains(OP, e, z, w1, b1, w2, G, C, NS, P, M, DOT)
            g, sums = h, ()
            if j == J:
                E_later = decays(rate2, later, 0, AHEAD, M, NI, NS)
                late = ()
                for k in tl.static_range(M):
                    late = late + (after(K[k], E_later, k * (AHEAD * NI // M), AHEAD * NI // M),)
                K = late
            for s in tl.static_range(S):
                xs, ds, ss = spread(x[s % M], s // M, NS), 0.0, 0.0
                if OP == NEUMANN or OP == BUCY:
                    ds = spread(delta[s % M], s // M, NS)
                if HAS_SLOPE:
                    ss = spread(slope[s % M], s // M, NS)
                g, p = step(
                    OP, g, take_steps(E, s, NI), rate, take_steps(c, s, NI), 0, spread(K[s % M], s // M, NS), xs, ds,
                    ss, lead, NI, LOGNS, HAS_LEAD,
                )  # fmt: skip
                sums = sums + (weighed(c, s * NI, p if j < J else g, 0, NI),)
            sums = shared_out(sums, lane, S, LOGNS)
            if j < J:
                e = ()
                for k in tl.static_range(M):
                    e = e + (x[k] - sums[k],)
        h, delta, E_first = g, later, E_later
        for k in tl.static_range(M):
            tl.store(y_at + k * yt, sums[k].to(y_at.dtype.element_ty), mask=from_step + k < left)
        x_at, d_at, z_at, s_at = x_at + S * xt, d_at + S * dt, z_at + S * zt, s_at + S * st
        y_at += S * yt
    for i in tl.static_range(NI):
        tl.store(FINAL + b * hb + head * C + (sequence * hb + (lane * NI + i) * hn + channel), h[i])


@triton.jit
def take_steps(values, s: tl.constexpr, NI: tl.constexpr):
    """The NI vectors of step s."""
    out = ()
    for i in tl.static_range(NI):
        out = out + (values[s * NI + i],)
    return out


def fits(G: int, C: int, NS: int, S: int, warps: int) -> bool:
    """Whether a launch is of this module's form: lanes, one number a thread, steps that divide among the lanes."""
    return NS > 1 and 32 * warps == G * C * NS and NS <= S <= 16
