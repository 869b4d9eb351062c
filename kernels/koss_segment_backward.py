"""The closed KOSS loop on a GPU, segments of S > 1 steps: backward. A program walks back through G sequences of a head.

Of the forward pass only the state before each segment is kept; a segment is computed again from it and then taken back
pass by pass, the last one first (λ = ∂L/∂h after the segment):

    states    G_t = source + carry, the rest by `koss_math.retreat`; carry starts at λ in the last pass, else at 0
    gate      dz = dK K′(z),  dhid = (dz W2ᵀ) ⊙ 1[hid > 0],  de = (dhid W1ᵀ) ⊙ 2e/(1 + e²)²
    weights   s, hid and dz are written down for the products over all rows (`koss_step_backward.weight_gradients`)
    innov.    gx += de,  dp = −c de,  gc −= p de; a refined pass hands E dp at t to the states at t − 1 of the pass
              before, the first one runs Q_t = dp_t + E_{t+1} Q_{t+1} back to λ of the segment before

Registers, not arithmetic, are what it runs out of, so a segment is walked through U steps at a time, in a loop
(`koss_segment_stages`): forward for e and for the states, of which every U-th is kept, back with U steps' states made
again. What stages hand to one another lies in the program's own kilobytes of memory, as do K and ds/de of each pass;
the weights' gradients, which would take as many registers as all else, are left to a kernel of their own.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM109 (Triton knows no unpacking and no `in`)

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs
from ssrtrack.kernels.koss_math import EXACT, NEUMANN, gain
from ssrtrack.kernels.koss_segment_forward import Tiling, pointers, settings, shape_of, tiling
from ssrtrack.kernels.koss_segment_parts import (
    bounds,
    hidden_layer,
    keep_tile,
    kept_row,
    load_rows,
    operand,
    store_rows,
)
from ssrtrack.kernels.koss_segment_refined import backward_refined, refined_fits
from ssrtrack.kernels.koss_segment_stages import (
    innovations_back,
    load_vectors,
    predict,
    reads_back,
    states_back,
    store_vectors,
    vectors,
    walk,
)
from ssrtrack.kernels.koss_segment_walk import own_at, touch_next, touch_rows
from ssrtrack.kernels.koss_segment_whole import backward_whole, whole_fits
from ssrtrack.kernels.koss_step_backward import weight_gradients

Tensor = torch.Tensor
LoopGradients = tuple[Tensor | None, ...]


@triton.jit
def plus(a, b, NI: tl.constexpr):
    out = ()
    for i in tl.static_range(NI):
        out = out + (a[i] + b[i],)
    return out


@triton.jit
def _backward(
    X, DELTA, READ, BIAS, RATE, W1, B1, W2, START, SLOPE, LEAD, OFFSETS, KEPT, GY, GFINAL,
    GX, GDELTA, GREAD, GBIAS, GSLOPE, GRATE, GSTART, GLEAD, SELECTED, HIDDEN, LOGIT, OWN, T, H,
    xb, db, cb, zb, sb, gb, ob, op, rh, rb, rt, rn, hb, hn,
    xt: tl.constexpr, dt: tl.constexpr, ct: tl.constexpr, zt: tl.constexpr, st: tl.constexpr, gt: tl.constexpr,
    ot: tl.constexpr,
    OP: tl.constexpr, HAS_SLOPE: tl.constexpr, HAS_LEAD: tl.constexpr, INNOVATE: tl.constexpr, VARLEN: tl.constexpr,
    G: tl.constexpr, C: tl.constexpr, NI: tl.constexpr, NS: tl.constexpr, S: tl.constexpr, P: tl.constexpr,
    U: tl.constexpr, W: tl.constexpr, J: tl.constexpr, TWICE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    PC: tl.constexpr = G * C
    R: tl.constexpr = PC * NS
    TILE: tl.constexpr = P * PC
    EVEN: tl.constexpr = 1 << (NI - 1).bit_length()
    head = tl.program_id(0) % H
    b = (tl.program_id(0) // H).to(tl.int64) * G
    first, length = bounds(OFFSETS, b, T, VARLEN)
    r = tl.arange(0, R)
    pair, lane = r // NS, r % NS
    sequence, channel = pair // C, pair % C
    count = tl.cdiv(length, S)
    row = first + tl.maximum(count - 1, 0) * S  # of the last segment: from there back
    x_row, d_row = X + b * xb + row * xt + head * C, DELTA + b * db + row * dt + head * C
    s_row, g_row = SLOPE + b * sb + row * st + head * C, GY + b * gb + row * gt + head * C
    c_row = READ + b * cb + row * ct
    x_off, d_off, s_off = sequence * xb + channel, sequence * db + channel, sequence * sb + channel
    g_off, c_off = sequence * gb + channel, sequence * cb + lane * NI
    z_at, out = BIAS + b * zb + row * zt + head * C, b * ob + row * ot + head * C
    o_off = sequence * ob + channel
    read_at = GREAD + head.to(tl.int64) * rh + b * rb + row * rt
    kept = KEPT + ((kept_row(first, b, T, S, VARLEN) + tl.maximum(count - 1, 0)) * H + head) * (NI * NS * C)
    kept += sequence * (tl.cdiv(T, S) * H * (NI * NS * C)) + lane * (NI * C) + channel
    h_off = b * hb + head * C + (sequence * hb + lane * (NI * hn) + channel)

    square = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    w1, w2 = tl.load(W1 + head * C * C + square), tl.load(W2 + head * C * C + square)
    b1 = tl.load(B1 + head * C + tl.arange(0, C)).to(tl.float32)
    rate = load_vectors(RATE + head * C + (lane * (NI * rn) + channel), rn, NI)
    lead = tl.load(LEAD + head * C + channel).to(tl.float32) if HAS_LEAD else tl.zeros([R], tl.float32)
    lam = load_vectors(GFINAL + h_off, hn, NI)
    g_rate, g_lead = vectors(NI, R), tl.zeros([R], tl.float32)
    zero = tl.zeros([], tl.int64)
    own = OWN + (zero + tl.program_id(0)) * own_at("end", S, P, U, J, NI, PC, R)
    slope_own = own + own_at("slope", S, P, U, J, NI, PC, R) + pair
    K_own = own + own_at("K", S, P, U, J, NI, PC, R)
    h_own = own + own_at("h", S, P, U, J, NI, PC, R) + r * EVEN
    p_own = own + own_at("p", S, P, U, J, NI, PC, R) + r * EVEN
    de_own = own + own_at("de", S, P, U, J, NI, PC, R)
    gx_own = own + own_at("gx", S, P, U, J, NI, PC, R) + pair
    gd_own = own + own_at("gd", S, P, U, J, NI, PC, R) + pair
    gs_own = own + own_at("gs", S, P, U, J, NI, PC, R) + pair
    gz_own = own + own_at("gz", S, P, U, J, NI, PC, R) + pair
    gc_own = own + own_at("gc", S, P, U, J, NI, PC, R) + r * EVEN
    ROWS: tl.constexpr = S * PC
    BLOCKS: tl.constexpr = S // U * EVEN * R
    KNOWN_SLOPE: tl.constexpr = HAS_LEAD or OP == NEUMANN or OP == EXACT
    left = length - tl.maximum(count - 1, 0) * S
    for segment in range(0, count):
        if segment < count - 1:
            # The one before it in time, which is next: it comes from afar while this one is worked on.
            touch_next(
                x_row, d_row, z_at, g_row, s_row, c_row, kept, xb, db, zb, gb, sb, cb, H, xt, dt, zt, gt, st, ct,
                HAS_SLOPE, G, C, NI, NS, S,
            )  # fmt: skip
        x_at, d_at, s_at, g_at, c_at = x_row + x_off, d_row + d_off, s_row + s_off, g_row + g_off, c_row + c_off
        # Forward again: innovations and gains of every pass, and the states between.
        h = load_vectors(kept, C, NI)
        predict(
            h, rate, x_at, d_at, c_at, SELECTED + out + o_off, slope_own, p_own, left, INNOVATE, xt, dt, ct, ot, U,
            NI, NS, PC,
        )  # fmt: skip
        z = load_rows(z_at, zb, zt, left, -1e9, G, C, P).to(tl.float32)
        for j in range(0, J + 1):
            place, after = out + (zero + j) * op, out + (zero + j + 1) * op
            tl.debug_barrier()
            s = load_rows(SELECTED + place, ob, ot, left, 0.0, G, C, P)
            hidden = operand(hidden_layer(s, w1, b1, DOT), w2)
            store_rows(HIDDEN + place, ob, ot, left, hidden, G, C, P)
            keep_tile(K_own + j * TILE, gain(OP, tl.dot(hidden, w2, input_precision=DOT) + z), G, C, P)
            tl.debug_barrier()
            walk(
                OP, h, rate, lead, x_at, d_at, c_at, s_at, K_own + j * TILE + pair, h_own + j * BLOCKS,
                SELECTED + after + o_off, slope_own + (j + 1) * ROWS, left, zero + j < J, HAS_SLOPE, HAS_LEAD, J,
                xt, dt, ct, st, ot, U, NI, NS, PC,
            )  # fmt: skip

        # And back, the last pass first, which has a code of its own.
        carry = lam
        lam = vectors(NI, R)
        for before in tl.static_range(min(J, 1) + 1):
            for j in range(J - before, -1 if before else J - 1, -1):
                place = out + (zero + j) * op
                carry, g_rate, g_lead = states_back(
                    OP, carry, rate, g_rate, lead, g_lead, x_at, d_at, c_at, s_at, g_at, K_own + j * TILE + pair,
                    h_own + j * BLOCKS, slope_own + (j + 1) * ROWS, de_own + pair, gx_own, gd_own, gs_own, gz_own,
                    gc_own, LOGIT + place + o_off, GBIAS + out + o_off, left, before == 0, HAS_SLOPE, HAS_LEAD, TWICE,
                    J, xt, dt, ct, st, gt, ot, U, NI, NS, PC,
                )  # fmt: skip
                lam, carry = plus(lam, carry, NI), vectors(NI, R)
                tl.debug_barrier()
                gz = load_rows(LOGIT + place, ob, ot, left, 0.0, G, C, P)
                d_hidden = tl.dot(gz, tl.trans(w2), input_precision=DOT)
                active = load_rows(HIDDEN + place, ob, ot, left, 0.0, G, C, P) > 0.0
                d_hidden = operand(tl.where(active, d_hidden, 0.0), w1)
                keep_tile(de_own, tl.dot(d_hidden, tl.trans(w1), input_precision=DOT), G, C, P)
                tl.debug_barrier()
        if segment < count - 1:
            touch_rows(x_row, xb, xt, S, G, C, True)
            touch_rows(d_row, db, dt, S, G, C, True)
            touch_rows(g_row, gb, gt, S, G, C, True)
            touch_rows(c_row, cb, ct, S, G, NI * NS, True)
        later, g_rate = innovations_back(
            rate, g_rate, d_at, c_at, p_own, slope_own, de_own + pair, gx_own, gd_own, gs_own, gz_own, gc_own,
            GX + out + o_off, GDELTA + out + o_off, GSLOPE + out + o_off, GBIAS + out + o_off, left, INNOVATE,
            HAS_SLOPE, KNOWN_SLOPE, J, dt, ct, ot, U, NI, NS, PC,
        )  # fmt: skip
        lam = plus(lam, later, NI)
        tl.debug_barrier()
        reads_back(own + own_at("gc", S, P, U, J, NI, PC, R), read_at, rb, rt, left, S, W, NI, NS, G, C)
        x_row, d_row, s_row, g_row = x_row - S * xt, d_row - S * dt, s_row - S * st, g_row - S * gt
        c_row -= S * ct
        z_at, out, read_at = z_at - S * zt, out - S * ot, read_at - S * rt
        kept -= H * (NI * NS * C)
        left = tl.minimum(length, S)

    store_vectors(GSTART + h_off, hn, lam, NI)
    store_vectors(GRATE + h_off, hn, g_rate, NI)
    if HAS_LEAD:
        tl.store(GLEAD + (b + sequence) * H * C + head * C + channel, g_lead)


def tiling_back(inputs: LoopInputs, form: LoopForm | None = None) -> Tiling:
    """A thread for every pair and lane; as many steps at a time as the registers hold states of.

    All steps of a segment at once where a lane for every state, or two lanes where there are refining passes, leave
    room for them.
    """
    size, tiles = shape_of(inputs), tiling(inputs)
    if form is not None and form.passes > 0 and size.N in (2, 4):
        refined = Tiling(1, 2, size.C // 16, 1, form.segment)
        if refined_fits(form, refined, size.C, size.N // 2):
            return refined
    whole = Tiling(1, size.N, size.C * size.N // 32, 1, 0 if form is None else form.segment)
    if form is not None and form.segment <= 16 and whole.warps <= 8 and whole_fits(form, whole, size.C, 1):
        return whole
    NS = tiles.NS
    while size.C * NS > 256 and NS > 1:
        NS //= 2
    NI = size.N // NS
    warps = max(1, tiles.G * size.C * NS // 32)
    return Tiling(tiles.G, NS, warps, 1, 4 if NI <= 4 else 2 if NI <= 8 else 1)


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
    tiles = tiling_back(inputs, form) if tiles is None else tiles
    given, strides = pointers(inputs)
    zero = 0 if inputs.offsets is not None else 1
    gy, g_final = gy if gy.stride(-1) == 1 else gy.contiguous(), g_final.contiguous()
    gx, g_delta, g_bias = (v.new_empty(inputs.x.shape) for v in (inputs.x, inputs.delta, inputs.bias))
    g_slope = None if inputs.slope is None else inputs.slope.new_empty(inputs.x.shape)
    g_read = g_final.new_empty((size.H, *inputs.x.shape[:2], size.N))
    g_start, g_rate = torch.empty_like(g_final), torch.empty_like(g_final)
    g_lead = g_final.new_empty((size.B, size.H * size.C))
    options = settings(inputs, form, tiles)
    del options["LOG"], options["LOGP"]
    passes, NI = options["J"] + 1, options["NI"]
    # Where one pass' dz is the gradient of z to the bit, it is written once.
    twice = passes > 1 or g_bias.dtype != given[5].dtype
    selected, hidden = (gx.new_empty((passes, *gx.shape), dtype=given[5].dtype) for _ in range(2))
    logit = torch.empty_like(selected) if twice else g_bias[None]
    programs = size.B // tiles.G * size.H
    xb, xt, db, dt, cb, ct, zb, zt, sb, st = strides
    outputs = (gx, g_delta, g_read, g_bias, gx if g_slope is None else g_slope, g_rate, g_start, g_lead)
    apart = (xb, db, cb, zb, sb, gy.stride(0) * zero, gx.stride(0) * zero)
    rest = (g_read.stride(0), g_read.stride(1) * zero, g_read.stride(2), given[4].stride(0), *g_final.stride()[:2])
    options |= {"xt": xt, "dt": dt, "ct": ct, "zt": zt, "st": st, "gt": gy.stride(1), "ot": gx.stride(1)}
    options["TWICE"] = twice
    if whole_fits(form, tiles, size.C, NI):
        del options["J"]
        backward_whole[(programs,)](
            *given, saved[0], gy, g_final, *outputs, selected, hidden, logit, size.T, size.H, *apart, *rest, **options
        )
    elif refined_fits(form, tiles, size.C, NI):
        backward_refined[(programs,)](
            *given, saved[0], gy, g_final, *outputs, selected, hidden, logit, size.T, size.H, *apart, gx.numel(),
            *rest, **options,
        )  # fmt: skip
    else:
        steps, pairs = min(tiles.U, form.segment), tiles.G * size.C
        sums = min(form.segment, max(1, 32 // (1 << (NI - 1).bit_length())))
        own = own_at("end", form.segment, options["P"], steps, options["J"], NI, pairs, pairs * tiles.NS)
        own = g_final.new_empty((programs, own))
        _backward[(programs,)](
            *given, saved[0], gy, g_final, *outputs, selected, hidden, logit, own, size.T, size.H, *apart, gx.numel(),
            *rest, U=steps, W=sums, **options,
        )  # fmt: skip
    lead = None
    if inputs.lead is not None:
        lead = g_lead.sum(0) if options["HAS_LEAD"] else torch.zeros_like(inputs.lead)
    read = (g_read[0] if size.H == 1 else g_read.sum(0)).to(inputs.read.dtype)
    selected, hidden, logit = (v.flatten(0, 2) for v in (selected, hidden, logit))
    w1, w2, b1 = weight_gradients(selected, (hidden, hidden), logit, inputs)
    weights = (w1, b1, w2)
    return gx, g_delta, read, g_bias, g_rate.sum(0), *weights, g_start, g_slope, lead
