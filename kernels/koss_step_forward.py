"""KOSS's closed loop with an exact innovation at every step, in one Triton kernel: forward.

One program owns a few sequences of one head and walks through time: predict, e = x − c·p, φ on the tensor cores, gain,
update. States, weights and the next steps' inputs stay in registers, so that a step costs the latency of its own chain:
prediction, s, two small products with an exchange between warps before and after each, σ, update. A gain that sees the
prediction has a third product, of c·p, begun before s is there.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment, var-annotated"
# ruff: noqa: RUF005, SIM108 (Triton knows no unpacking; its conditions are branches)

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_form import LoopForm, LoopInputs, sees_prediction
from ssrtrack.kernels.koss_math import CODES, KALMAN, LOG2E, advance, drive, gain, saturation

Tensor = torch.Tensor
WIDTHS = (16, 32, 64, 128)
STATES = 16


class Tuning(NamedTuple):
    """rows: sequences of a program. warps: its warps. ahead: how many steps before their use inputs are loaded.

    unroll: how many steps follow one another in the loop's body. A row for each warp is what keeps every tile in one
    layout, so that a step waits for other warps only around its two products.
    """

    rows: int
    warps: int
    ahead: int
    unroll: int = 1


@triton.jit
def row_places(offsets, B, T, ROWS: tl.constexpr, VARLEN: tl.constexpr):
    """Of this program's rows: the sequence, whether there is one, its first token and its length; the most steps."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < B
    row64 = row.to(tl.int64)
    if VARLEN:
        first = tl.load(offsets + row, mask=inside, other=0)
        length = tl.load(offsets + row + 1, mask=inside, other=0) - first
        return row64, inside, first.to(tl.int64), length, tl.max(length, 0)
    else:
        return row64, inside, row64 * T, tl.where(inside, T, 0), T


@triton.jit
def tile(pointer, row, first, stride_b, stride_t, channel, VARLEN: tl.constexpr):
    """Pointers to the first step of a (B, T, D) tensor: a row for each sequence, a column for each channel."""
    if VARLEN:
        return pointer + (first * stride_t)[:, None] + channel[None, :]
    else:
        return pointer + (row * stride_b)[:, None] + channel[None, :]


@triton.jit
def column(pointer, row, first, stride_b, stride_t, VARLEN: tl.constexpr):
    """Pointers to the first step of a (B, T, N) tensor: one for each sequence."""
    if VARLEN:
        return pointer + first * stride_t
    else:
        return pointer + row * stride_b


@triton.jit
def take(pointers, strides, t, T, inside, length, VARLEN: tl.constexpr):
    """Tiles of step t in their own precision; behind a sequence's end zeros, or its last step if all are equal."""
    out = ()
    if VARLEN:
        now = tl.zeros_like(length) + t
        on = (now >= 0) & (now < length)
    else:
        t = tl.maximum(tl.minimum(t, T - 1), 0)
        on = inside
    t = tl.cast(t, tl.int64)
    for i in tl.static_range(len(pointers)):
        place = pointers[i] + t * strides[i]
        if len(pointers[i].shape) == 2:
            out = out + (tl.load(place, mask=on[:, None], other=0.0),)
        else:
            out = out + (tl.load(place, mask=on, other=0.0),)
    return out


@triton.jit
def weight(pointer, head, C: tl.constexpr, OPERAND: tl.constexpr, TURNED: tl.constexpr):
    """One head's (C, C) weight, or its transpose, as an operand of the tensor cores."""
    i = tl.arange(0, C)
    if TURNED:
        place = i[None, :] * C + i[:, None]
    else:
        place = i[:, None] * C + i[None, :]
    return tl.load(pointer + tl.cast(head, tl.int64) * C * C + place).to(OPERAND)


@triton.jit
def columns(pointer, row, first, stride_b, stride_t, N: tl.constexpr, VARLEN: tl.constexpr):
    """Pointers to the first step of each of N readouts, and their strides."""
    pointers = ()
    strides = ()
    for n in tl.static_range(N):
        pointers = pointers + (column(pointer + n, row, first, stride_b, stride_t, VARLEN),)
        strides = strides + (stride_t,)
    return pointers, strides


@triton.jit
def readout(c, h, N: tl.constexpr):
    """Σ_n c_n h_n as a balanced tree: the sum lies on the chain of steps."""
    if N == 1:
        return c[0][:, None] * h[0]
    else:
        return readout(c[: N // 2], h[: N // 2], N // 2) + readout(c[N // 2 :], h[N // 2 :], N - N // 2)


@triton.jit(do_not_specialize=["B", "T"])
def forward_kernel(
    x, delta, read, bias, slope, rate, w1, wp, b1, w2, start, lead, offsets, y, final, states, gains, hiddens,
    x_b, x_t, delta_b, delta_t, read_b, read_t, bias_b, bias_t, slope_b, slope_t, y_b, y_t, B, T,
    OP: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, AHEAD: tl.constexpr,
    INNOVATE: tl.constexpr, SLOPED: tl.constexpr, LED: tl.constexpr, VARLEN: tl.constexpr, KEEP: tl.constexpr,
    SEEN: tl.constexpr, OPERAND: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y, the last states and, where KEEP, the states before each step, the gains and φ's hidden layer."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    D = heads * C
    row, inside, first, length, steps = row_places(offsets, B, T, ROWS, VARLEN)
    channel = head * C + tl.arange(0, C)
    pointers = (
        tile(x, row, first, x_b, x_t, channel, VARLEN),
        tile(delta, row, first, delta_b, delta_t, channel, VARLEN),
        tile(bias, row, first, bias_b, bias_t, channel, VARLEN),
    )
    strides = (x_t, delta_t, bias_t)
    if SLOPED:
        pointers = pointers + (tile(slope, row, first, slope_b, slope_t, channel, VARLEN),)
        strides = strides + (slope_t,)
    reads, read_strides = columns(read, row, first, read_b, read_t, N, VARLEN)
    pointers = pointers + reads
    strides = strides + read_strides
    y_place = tile(y, row, first, y_b, y_t, channel, VARLEN)
    state_place = (row * (N * D))[:, None] + channel[None, :]
    keep_place = (first * (N * D))[:, None] + channel[None, :]
    gain_place = (first * D)[:, None] + channel[None, :]

    # Float32 operands can only be loaded whole from memory that runs along the summed index.
    across: tl.constexpr = OPERAND == tl.float32  # noqa: SIM300
    first_weight = weight(w1, head, C, OPERAND, across)
    second_weight = weight(w2, head, C, OPERAND, across)
    if SEEN:
        seen_weight = weight(wp, head, C, OPERAND, across)
    offset = tl.zeros([ROWS, C], tl.float32) + tl.load(b1 + channel).to(tl.float32)[None, :]
    tau = tl.zeros([1, C], tl.float32)
    if LED:
        tau = tl.load(lead + channel).to(tl.float32)[None, :]
    h = ()
    rates = ()
    for n in tl.static_range(N):
        h = h + (tl.load(start + n * D + state_place, mask=inside[:, None], other=0.0).to(tl.float32),)
        rates = rates + (tl.load(rate + n * D + channel).to(tl.float32)[None, :],)

    lanes = tl.zeros([ROWS, C], tl.int32) + tl.arange(0, C)[None, :]
    queue = ()
    for a in tl.static_range(AHEAD):
        queue = queue + (take(pointers, strides, a, T, inside, length, VARLEN),)
    for t in tl.range(steps, loop_unroll_factor=UNROLL):
        now = queue[0]  # type: ignore[misc]
        queue = queue[1:] + (take(pointers, strides, t + AHEAD, T, inside, length, VARLEN),)
        t64 = tl.cast(t, tl.int64)
        live = (inside & (t < length))[:, None]
        X = now[0].to(tl.float32)
        step = now[1].to(tl.float32)
        z = now[2].to(tl.float32)
        c = ()
        p = ()
        for n in tl.static_range(N):
            c = c + (now[len(now) - N + n].to(tl.float32),)
            p = p + (tl.exp2(step * (rates[n] * LOG2E)) * h[n],)
        lean = tl.zeros_like(X)
        if SLOPED:
            lean = now[3].to(tl.float32)
        predicted = readout(c, p, N)
        e = X
        if INNOVATE:
            e = X - predicted
        s, _rest = saturation(e)
        rest = offset
        if SEEN:
            rest = tl.dot(predicted.to(OPERAND), seen_weight, offset, input_precision="tf32x3")
        hidden = tl.dot(s.to(OPERAND), first_weight, rest, input_precision="tf32x3")
        hidden = tl.maximum(hidden, 0.0).to(OPERAND)
        # A gather takes the products' result into the layout of the states; without it the states would take on that
        # of the products, and every input would be exchanged between warps.
        logit = tl.dot(hidden, second_weight, input_precision="tf32x3")
        K = gain(OP, tl.gather(logit, lanes, 1) + z)
        v = drive(OP, X, lean, tau)
        if OP == KALMAN:
            v = v - predicted
        after = ()
        for n in tl.static_range(N):
            new = advance(OP, h[n], p[n], rates[n], step, K, c[n][:, None], X, lean, v)
            if VARLEN:
                new = tl.where(live, new, h[n])
            after = after + (new,)
        tl.store(y_place + t64 * y_t, readout(c, after, N).to(y.dtype.element_ty), mask=live)
        if KEEP:
            for n in tl.static_range(N):
                tl.store(states + (t64 * N + n) * D + keep_place, h[n], mask=live)
            tl.store(gains + t64 * D + gain_place, K, mask=live)
            tl.store(hiddens + t64 * D + gain_place, hidden, mask=live)
        h = after
    for n in tl.static_range(N):
        tl.store(final + n * D + state_place, h[n], mask=inside[:, None])


def forward(inputs: LoopInputs, form: LoopForm, keep: bool, tuning: Tuning | None = None) -> tuple[Any, ...]:
    """y (B, T, D) in x's precision, the last state (B, N, D) float32, and what `backward` needs: () unless `keep`.

    Kept for each token: the N states before its step and its gains (…, D) in float32, φ's hidden layer in the products'
    precision (bfloat16 for bfloat16 x, else float32): 4 N + 6 or 4 N + 8 bytes a token and channel. The backward's
    chain then holds neither a forward product nor a σ.
    """
    x, offsets, start = inputs.x, inputs.offsets, inputs.start
    batch, states, width = start.shape
    heads, channels = inputs.b1.shape
    tuning = tuning or choose(channels, states)
    tokens = x.shape[0] * x.shape[1]
    y, final = like(x), torch.empty_like(start, dtype=torch.float32, memory_format=torch.contiguous_format)
    saved: tuple[Tensor, ...] = ()
    if keep:
        saved = (
            x.new_empty((tokens, states, width), dtype=torch.float32),
            x.new_empty((tokens, width), dtype=torch.float32),
            x.new_empty((tokens, width), dtype=operand(x)),
        )
    if not tokens or not batch:
        return y, final.copy_(start), saved
    slope = inputs.slope if inputs.slope is not None else x
    own, seen = halves(inputs.w1)
    read_last = inputs.read if inputs.read.stride(-1) == 1 else inputs.read.contiguous()
    forward_kernel[(triton.cdiv(batch, tuning.rows), heads)](
        x, inputs.delta, read_last, inputs.bias, slope,
        inputs.rate.contiguous(), turned(own, x), turned(seen, x), inputs.b1.contiguous(), turned(inputs.w2, x),
        start.contiguous(),
        x if inputs.lead is None else inputs.lead.contiguous(),
        x if offsets is None else offsets,
        y, final, *(saved or (x, x, x)),
        *strides(x), *strides(inputs.delta), *strides(read_last), *strides(inputs.bias), *strides(slope),
        *strides(y), batch, x.shape[1],
        OP=CODES[form.operator], N=states, C=channels, ROWS=tuning.rows, AHEAD=tuning.ahead,
        INNOVATE=form.innovate, SLOPED=inputs.slope is not None,
        LED=inputs.slope is not None and inputs.lead is not None,
        VARLEN=offsets is not None, KEEP=keep, SEEN=sees_prediction(inputs.w1), OPERAND=triton_type(operand(x)),
        UNROLL=tuning.unroll, num_warps=tuning.warps,
    )  # fmt: skip
    return y, final, saved


def supported(inputs: LoopInputs, form: LoopForm) -> bool:
    """Whether the kernels take these: S = 1, heads of 16 to 128 channels, N ≤ 16, no float64, channels side by side.

    Float32 heads end at 64 channels: their products need each weight in two parts, 256 KB at 128 channels, which is
    more than a multiprocessor's shared memory.
    """
    tensors = [part for part in inputs[:11] if part is not None]
    wide = [part for part in (inputs.x, inputs.delta, inputs.bias, inputs.slope) if part is not None]
    return (
        form.segment == 1
        and inputs.b1.shape[1] in (WIDTHS if inputs.x.dtype == torch.bfloat16 else WIDTHS[:-1])
        and inputs.start.shape[1] <= STATES
        and all(part.dtype in (torch.float32, torch.bfloat16, torch.float16) for part in tensors)
        and all(part.stride(-1) == 1 for part in wide)
    )


def choose(channels: int, states: int) -> Tuning:
    """How a batch is cut into programs."""
    return Tuning(rows=4, warps=2 if channels < 32 else 4, ahead=2 if states <= 4 else 1)


def operand(x: Tensor) -> torch.dtype:
    """The precision of φ's products: bfloat16 for bfloat16 x, else float32 (three TF32 products for one)."""
    # Triton's interpreter multiplies bfloat16 as if its bits were integers.
    rough = x.dtype == torch.bfloat16 and not triton.knobs.runtime.interpret
    return torch.bfloat16 if rough else torch.float32


def triton_type(dtype: torch.dtype) -> Any:
    """Triton's name of an operand's precision."""
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float32


def halves(w1: Tensor) -> tuple[Tensor, Tensor]:
    """W1 and W_p (H, C, C) of a w1 of 2C rows; of one of C rows it twice, the second for nobody to read."""
    if not sees_prediction(w1):
        return w1, w1
    own, seen = w1.chunk(2, 1)
    return own, seen


def turned(part: Tensor, x: Tensor) -> Tensor:
    """A weight as the kernel reads it: for float32 products its transpose."""
    return (part if operand(x) == torch.bfloat16 else part.transpose(1, 2)).contiguous()


def strides(tensor: Tensor) -> tuple[int, int]:
    """Strides of sequence and time."""
    return tensor.stride(0), tensor.stride(1)


def like(tensor: Tensor) -> Tensor:
    """An empty tensor of the same shape and, where channels still lie side by side in it, the same order in memory."""
    result = torch.empty_like(tensor)
    return result if result.stride(-1) == 1 else tensor.new_empty(tensor.shape)
