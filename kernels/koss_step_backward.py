"""KOSS's closed loop with an exact innovation at every step, in Triton: backward.

The same programs as forward, walking back in time. With G = ∂L/∂h after a step and p = E h the prediction from the
state h before it, the chain from step to step is

    dK = Σ_n …  →  dz = dK ∂K/∂z  →  dhid = (dz W2ᵀ) ⊙ [hid > 0]  →  ds = dhid W1ᵀ  →  de = ds · 2 e/(1 + e²)²
    carry_n = ∂h'/∂h_n G_n − E_n c_n de

and nothing else lies on it: states, gains and hidden layer come from forward, their own products are remade while the
chain waits. Where the gain sees the prediction there is dŷ⁻ = dhid W_pᵀ beside ds, and the carry has de − dŷ⁻ in the
place of de; x takes de alone. Gradients that many programs share (A, τ, W1, W2, b1) go into one partial sum for each
program, added up in a fixed order; those of the weights are products over all tokens, made by a second kernel.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM109 (Triton takes neither unpacking nor `in`)

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs, sees_prediction
from ssrtrack.kernels.koss_math import (
    BUCY,
    CODES,
    DISCRETE,
    EXACT,
    KALMAN,
    LOG2E,
    NEUMANN,
    advance,
    drive,
    gain_slope,
    retreat,
    saturation,
    saturation_slope,
)
from ssrtrack.kernels.koss_step_forward import (
    Tuning,
    choose,
    columns,
    halves,
    like,
    operand,
    readout,
    row_places,
    strides,
    take,
    tile,
    triton_type,
    weight,
)

Tensor = torch.Tensor
SPLITS = 256  # into how many partial sums it is cut at most


class LoopGradients(NamedTuple):
    """Gradients in the order of `LoopInputs`; None where the input was None."""

    x: Tensor
    delta: Tensor
    read: Tensor
    bias: Tensor
    rate: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    start: Tensor
    slope: Tensor | None
    lead: Tensor | None


@triton.jit
def total(parts, N: tl.constexpr):
    """Sum of N tiles as a balanced tree."""
    if N == 1:
        return parts[0]
    else:
        return total(parts[: N // 2], N // 2) + total(parts[N // 2 :], N - N // 2)


@triton.jit(do_not_specialize=["B", "T"])
def backward_kernel(
    x, delta, read, slope, rate, w1, wp, w2, lead, offsets, states, gains, hiddens, gy, g_final,
    gx, g_delta, g_read, g_bias, g_slope, g_start, g_shared, g_logit, selected,
    x_b, x_t, delta_b, delta_t, read_b, read_t, slope_b, slope_t, gy_b, gy_t,
    gx_b, gx_t, g_delta_b, g_delta_t, g_bias_b, g_bias_t, g_slope_b, g_slope_t, B, T, tokens,
    OP: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, AHEAD: tl.constexpr,
    INNOVATE: tl.constexpr, SLOPED: tl.constexpr, LED: tl.constexpr, VARLEN: tl.constexpr, ENDED: tl.constexpr,
    SEEN: tl.constexpr, OPERAND: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Gradients of each token, of the start, and this program's part of those of A and τ: (programs, N + 1, D).

    For the weights' gradient: dz and s, (tokens, D) in the products' precision, behind s as much of ŷ⁻ where SEEN.
    g_read is (heads, tokens, N).
    """
    head, heads = tl.program_id(1), tl.num_programs(1)
    D = heads * C
    row, inside, first, length, steps = row_places(offsets, B, T, ROWS, VARLEN)
    channel = head * C + tl.arange(0, C)
    pointers = (
        tile(x, row, first, x_b, x_t, channel, VARLEN),
        tile(delta, row, first, delta_b, delta_t, channel, VARLEN),
        tile(gy, row, first, gy_b, gy_t, channel, VARLEN),
        tile(gains, row, first, 0, D, channel, True),
        tile(hiddens, row, first, 0, D, channel, True),
    )
    moves = (x_t, delta_t, gy_t, D, D)
    for n in tl.static_range(N):
        pointers = pointers + (tile(states + n * D, row, first, 0, N * D, channel, True),)
        moves = moves + (N * D,)
    reads, read_moves = columns(read, row, first, read_b, read_t, N, VARLEN)
    pointers = pointers + reads
    moves = moves + read_moves
    if SLOPED:
        pointers = pointers + (tile(slope, row, first, slope_b, slope_t, channel, VARLEN),)
        moves = moves + (slope_t,)
        g_slope_place = tile(g_slope, row, first, g_slope_b, g_slope_t, channel, VARLEN)
    gx_place = tile(gx, row, first, gx_b, gx_t, channel, VARLEN)
    g_delta_place = tile(g_delta, row, first, g_delta_b, g_delta_t, channel, VARLEN)
    g_bias_place = tile(g_bias, row, first, g_bias_b, g_bias_t, channel, VARLEN)
    token_place = (first * D)[:, None] + channel[None, :]
    read_place = g_read + ((tl.cast(head, tl.int64) * tokens + first) * N)[:, None] + tl.arange(0, C)[None, :]
    state_place = (row * (N * D))[:, None] + channel[None, :]

    first_weight = weight(w1, head, C, OPERAND, True)
    second_weight = weight(w2, head, C, OPERAND, True)
    if SEEN:
        seen_weight = weight(wp, head, C, OPERAND, True)
    tau = tl.zeros([1, C], tl.float32)
    if LED:
        tau = tl.load(lead + channel).to(tl.float32)[None, :]
    carry = ()
    rates = ()
    g_rate = ()
    for n in tl.static_range(N):
        if ENDED:
            carry = carry + (tl.load(g_final + n * D + state_place, mask=inside[:, None], other=0.0).to(tl.float32),)
        else:
            carry = carry + (tl.zeros([ROWS, C], tl.float32),)
        rates = rates + (tl.load(rate + n * D + channel).to(tl.float32)[None, :],)
        g_rate = g_rate + (tl.zeros([ROWS, C], tl.float32),)
    g_lead = tl.zeros([ROWS, C], tl.float32)
    lanes = tl.zeros([ROWS, C], tl.int32) + tl.arange(0, C)[None, :]

    queue = ()
    for a in tl.static_range(AHEAD):
        queue = queue + (take(pointers, moves, steps - 1 - a, T, inside, length, VARLEN),)
    for k in tl.range(steps, loop_unroll_factor=UNROLL):
        t = steps - 1 - k
        now = queue[0]  # type: ignore[misc]
        queue = queue[1:] + (take(pointers, moves, t - AHEAD, T, inside, length, VARLEN),)
        t64 = tl.cast(t, tl.int64)
        live = (inside & (t < length))[:, None]
        X = now[0].to(tl.float32)
        step = now[1].to(tl.float32)
        GY = now[2].to(tl.float32)
        K = now[3]
        hidden = now[4]
        h = now[5 : 5 + N]
        c = ()
        E = ()
        p = ()
        G = ()
        for n in tl.static_range(N):
            c = c + (now[5 + N + n].to(tl.float32),)
            G = G + (carry[n] + c[n][:, None] * GY,)
            E = E + (tl.exp2(step * (rates[n] * LOG2E)),)
            p = p + (E[n] * h[n],)
        lean = tl.zeros_like(X)
        if SLOPED:
            lean = now[5 + 2 * N].to(tl.float32)
        predicted = readout(c, p, N)
        e = X
        if INNOVATE:
            e = X - predicted
        s, rest = saturation(e)
        v = drive(OP, X, lean, tau)
        g_residual = tl.zeros_like(X)
        if OP == KALMAN:
            v = v - predicted
            g_residual = K * readout(c, G, N)
        back = ()
        for n in tl.static_range(N):
            back = back + (
                retreat(OP, G[n], g_residual, h[n], p[n], E[n], rates[n], step, K, c[n][:, None], X, lean, v),
            )
        g_gain = ()
        for n in tl.static_range(N):
            g_gain = g_gain + (back[n][2],)
        dz = total(g_gain, N) * gain_slope(OP, K)
        dhid = tl.dot(dz.to(OPERAND), second_weight, input_precision="tf32x3")
        dhid = tl.where(hidden > 0, dhid, 0.0)
        ds = tl.dot(dhid.to(OPERAND), first_weight, input_precision="tf32x3")
        de = tl.gather(ds, lanes, 1) * saturation_slope(e, rest)
        fall = de
        if SEEN:
            fall -= tl.gather(tl.dot(dhid.to(OPERAND), seen_weight, input_precision="tf32x3"), lanes, 1)

        g_input = de
        g_lean = tl.zeros_like(X)
        g_step = tl.zeros_like(X)
        g_drive = tl.zeros_like(X)
        new = ()
        sums = ()
        columns_sum = tl.zeros_like(X)
        for n in tl.static_range(N):
            carried, q, _gK, g_column, g_direct, g_slant, g_driven, g_extra = back[n]
            after = advance(OP, h[n], p[n], rates[n], step, K, c[n][:, None], X, lean, v)
            g_column += GY * after
            if INNOVATE:
                carried -= (E[n] * c[n][:, None]) * fall
                q -= c[n][:, None] * fall * p[n]
                g_column -= p[n] * fall
            if OP == NEUMANN or OP == EXACT or OP == BUCY:
                g_input += g_direct
            if OP == NEUMANN or OP == EXACT:
                g_lean += g_slant
            else:
                g_drive += g_driven
            if OP == BUCY:
                g_step += g_extra
            g_step += q * rates[n]
            sums = sums + (g_rate[n] + q * step,)
            if VARLEN:
                carried = tl.where(live, carried, carry[n])
            new = new + (carried,)
            columns_sum = tl.where(lanes == n, tl.sum(g_column, 1)[:, None], columns_sum)
        tl.store(read_place + t64 * N, columns_sum.to(g_read.dtype.element_ty), mask=live & (lanes < N))
        carry = new
        g_rate = sums
        if OP == DISCRETE or OP == KALMAN:
            g_input += g_drive
        if LED:
            g_lean += tau * g_drive
            g_lead += lean * g_drive
        tl.store(gx_place + t64 * gx_t, g_input.to(gx.dtype.element_ty), mask=live)
        tl.store(g_delta_place + t64 * g_delta_t, g_step.to(g_delta.dtype.element_ty), mask=live)
        tl.store(g_bias_place + t64 * g_bias_t, dz.to(g_bias.dtype.element_ty), mask=live)
        if SLOPED:
            tl.store(g_slope_place + t64 * g_slope_t, g_lean.to(g_slope.dtype.element_ty), mask=live)
        tl.store(g_logit + t64 * D + token_place, dz.to(OPERAND), mask=live)
        tl.store(selected + t64 * D + token_place, s.to(OPERAND), mask=live)
        if SEEN:
            tl.store(selected + (tokens + t64) * D + token_place, predicted.to(OPERAND), mask=live)

    shared = g_shared + tl.cast(tl.program_id(0), tl.int64) * (N + 1) * D + channel
    for n in tl.static_range(N):
        tl.store(g_start + n * D + state_place, carry[n], mask=inside[:, None])
        tl.store(shared + n * D, tl.sum(tl.where(inside[:, None], g_rate[n], 0.0), 0))
    tl.store(shared + N * D, tl.sum(tl.where(inside[:, None], g_lead, 0.0), 0))


@triton.jit(do_not_specialize=["tokens", "share"])
def weights_kernel(
    selected, hiddens, g_logit, w2, out, tokens, share,
    C: tl.constexpr, BLOCK: tl.constexpr, SEEN: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """This program's part of gW1 = sᵀ dhid, gW2 = hidᵀ dz and gb1 = Σ dhid, dhid = (dz W2ᵀ) ⊙ [hid > 0].

    Where SEEN, between the last two: gW_p = ŷ⁻ᵀ dhid.
    """
    split, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    channel = head * C + tl.arange(0, C)
    turned = weight(w2, head, C, OPERAND, True)
    g_w1 = tl.zeros([C, C], tl.float32)
    g_w2 = tl.zeros([C, C], tl.float32)
    g_b1 = tl.zeros([BLOCK, C], tl.float32)
    if SEEN:
        g_wp = tl.zeros([C, C], tl.float32)
    begin = tl.cast(split, tl.int64) * share
    for at in range(0, share, BLOCK):
        token = begin + at + tl.arange(0, BLOCK)
        place = (token * (heads * C))[:, None] + channel[None, :]
        on = (token < tokens)[:, None]
        s = tl.load(selected + place, mask=on, other=0.0)
        hidden = tl.load(hiddens + place, mask=on, other=0.0)
        dz = tl.load(g_logit + place, mask=on, other=0.0)
        dhid = tl.where(hidden > 0, tl.dot(dz, turned, input_precision="tf32x3"), 0.0)
        g_b1 += dhid
        g_w1 = tl.dot(tl.trans(s), dhid.to(OPERAND), g_w1, input_precision="tf32x3")
        g_w2 = tl.dot(tl.trans(hidden), dz, g_w2, input_precision="tf32x3")
        if SEEN:
            ahead = tl.load(selected + tl.cast(tokens, tl.int64) * (heads * C) + place, mask=on, other=0.0)
            g_wp = tl.dot(tl.trans(ahead), dhid.to(OPERAND), g_wp, input_precision="tf32x3")
    squares: tl.constexpr = 3 if SEEN else 2
    out += (tl.cast(split, tl.int64) * heads + head) * (squares * C * C + C)
    i = tl.arange(0, C)
    square = i[:, None] * C + i[None, :]
    tl.store(out + square, g_w1)
    tl.store(out + C * C + square, g_w2)
    if SEEN:
        tl.store(out + 2 * C * C + square, g_wp)
    tl.store(out + squares * C * C + i, tl.sum(g_b1, 0))


def backward(
    inputs: LoopInputs,
    form: LoopForm,
    saved: tuple[Tensor, ...],
    gy: Tensor,
    g_final: Tensor | None,
    tuning: Tuning | None = None,
) -> LoopGradients:
    """Gradients of the inputs, each in its input's precision, from gy (B, T, D) and g_final (B, N, D) or None (0).

    saved: what `forward(…, keep=True)` returned. For the time of the call it needs (ΣT, D) twice in the products'
    precision beside the gradients themselves, three times where the gain sees the prediction.
    """
    x, offsets, start = inputs.x, inputs.offsets, inputs.start
    batch, states, width = start.shape
    heads, channels = inputs.b1.shape
    tuning = tuning or choose(channels, states)._replace(ahead=1)
    tokens = x.shape[0] * x.shape[1]
    sloped, led = inputs.slope is not None, inputs.slope is not None and inputs.lead is not None
    programs = triton.cdiv(batch, tuning.rows)
    read = inputs.read if inputs.read.stride(-1) == 1 else inputs.read.contiguous()
    gx, g_delta, g_bias = like(x), like(inputs.delta), like(inputs.bias)
    g_slope = like(inputs.slope) if inputs.slope is not None else gx
    g_read = x.new_empty((heads, tokens, states), dtype=read.dtype if heads == 1 else torch.float32)
    g_start = start.new_empty(start.shape, dtype=torch.float32)
    g_shared = x.new_zeros if not tokens or not batch else x.new_empty
    shared = g_shared((programs, states + 1, width), dtype=torch.float32)
    products = operand(x)
    g_logit = x.new_empty((tokens, width), dtype=products)
    seen = sees_prediction(inputs.w1)
    selected = x.new_empty((2 if seen else 1, tokens, width), dtype=products)
    slope = inputs.slope if inputs.slope is not None else x
    gy = gy if gy.stride(-1) == 1 else gy.contiguous()
    if tokens and batch:
        backward_kernel[(programs, heads)](
            x, inputs.delta, read, slope,
            *(part.contiguous() for part in (inputs.rate, *halves(inputs.w1), inputs.w2)),
            x if inputs.lead is None else inputs.lead.contiguous(),
            x if offsets is None else offsets,
            *saved, gy, x if g_final is None else g_final.contiguous(),
            gx, g_delta, g_read, g_bias, g_slope, g_start, shared, g_logit, selected,
            *strides(x), *strides(inputs.delta), *strides(read), *strides(slope), *strides(gy),
            *strides(gx), *strides(g_delta), *strides(g_bias), *strides(g_slope), batch, x.shape[1], tokens,
            OP=CODES[form.operator], N=states, C=channels, ROWS=tuning.rows, AHEAD=tuning.ahead,
            INNOVATE=form.innovate, SLOPED=sloped, LED=led, VARLEN=offsets is not None, ENDED=g_final is not None,
            SEEN=seen, OPERAND=triton_type(products), UNROLL=tuning.unroll, num_warps=tuning.warps,
        )  # fmt: skip
    elif g_final is None:
        g_start.zero_()
    else:
        g_start.copy_(g_final)
    g_w1, g_w2, g_b1 = weight_gradients(selected, saved[1:], g_logit, inputs)
    sums = shared.sum(0)
    return LoopGradients(
        gx,
        g_delta,
        (g_read[0] if heads == 1 else g_read.sum(0)).view(inputs.read.shape).to(inputs.read.dtype),
        g_bias,
        sums[:states].to(inputs.rate.dtype),
        g_w1.to(inputs.w1.dtype),
        g_b1.to(inputs.b1.dtype),
        g_w2.to(inputs.w2.dtype),
        g_start.to(start.dtype),
        g_slope if sloped else None,
        None if inputs.lead is None else sums[states].to(inputs.lead.dtype),
    )


def weight_gradients(
    selected: Tensor, kept: tuple[Tensor, ...], g_logit: Tensor, inputs: LoopInputs
) -> tuple[Tensor, Tensor, Tensor]:
    """gW1 as w1 has it, gW2 (H, C, C) and gb1 (H, C) in float32 from s, (gains, hidden layer) and dz of all tokens.

    selected: s (ΣT, D) or (1, ΣT, D), where w1 has 2C rows s and ŷ⁻ (2, ΣT, D), in the products' precision as dz.
    """
    heads, channels = inputs.b1.shape
    tokens, seen = selected.shape[-2], sees_prediction(inputs.w1)
    # Tokens of one product: as many as leave both sums in registers.
    block = 16 if g_logit.dtype == torch.float32 else 32 if channels > 64 else 64
    share = triton.cdiv(triton.cdiv(max(tokens, 1), max(SPLITS // heads, 1)), block) * block
    splits = triton.cdiv(max(tokens, 1), share)
    squares = 3 if seen else 2
    parts = selected.new_empty((splits, heads, (squares * channels + 1) * channels), dtype=torch.float32)
    weights_kernel[(splits, heads)](
        selected, kept[1], g_logit, inputs.w2.contiguous(), parts, tokens, share,
        C=channels, BLOCK=block, SEEN=seen, OPERAND=triton_type(g_logit.dtype),
        num_warps=8 if squares * channels > 128 else 4,
    )  # fmt: skip
    flat = parts.sum(0)
    square = flat[:, : squares * channels * channels].reshape(heads, squares, channels, channels)
    first = torch.cat([square[:, 0], square[:, 2]], 1) if seen else square[:, 0]
    return first, square[:, 1], flat[:, squares * channels * channels :]
