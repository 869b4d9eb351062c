"""Forward kernels of `koss_scan` in Triton: the scan of pieces, and what links pieces of one sequence.

The work of a step is N exponentials for each channel, 16 a clock on a multiprocessor of an H100, beside six or seven
other instructions for each; so a step is kept at little else. Rows of the next U steps are under way while U are done.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: SIM102
# What Triton compiles has types of its own; a constant is asked alone, so that what depends on it is left out.

from typing import Any

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import CODES, LOG2E
from ssrtrack.kernels.koss_scan_form import Pieces, ScanInputs
from ssrtrack.kernels.koss_scan_rows import (
    FREE,
    SELECTIVE,
    before,
    both,
    both_tiles,
    by_row,
    by_step,
    gathered,
    gathered_tiles,
    multiplied,
    own_tile,
    row_at,
    rows,
    span,
    stepped,
    wide,
    within,
)

Tensor = torch.Tensor
# Channels of a program: one warp, one channel a thread.
BLOCK = 32
# Steps read at once: as many as registers hold, fewer where an operator needs more of its own.
UNROLL = {"neumann": 4, "bucy": 4, "selective": 4}
UNROLL_ELSE = 8
ENDS_UNROLL = 4


@triton.jit
def _last(
    h, rows, read, write, rate2, lead, y, y_t, read_t, write_t, t0, last, ch, n, inside, OP: tl.constexpr,
    N: tl.constexpr, NP: tl.constexpr, SLOPE: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """The state after the last steps, fewer than U; y written."""
    xs, ds, ks, ss = rows
    y = row_at(y, t0, y_t) + ch
    read, write, rest = row_at(read, t0, read_t), row_at(write, t0, write_t), last - t0
    for u in tl.static_range(U):
        c, b = both(read, write, u, rest, read_t, write_t, n, OP, N, NP)
        h = stepped(OP, SLOPE, h, rate2, wide(xs[u]), wide(ds[u]), wide(ks[u]), b, c, wide(ss[u]), lead)
        on = inside & before(t0 + u, last, ch)
        tl.store(y + u * y_t, tl.sum(c * h, 0).to(y.dtype.element_ty), mask=on)
    return h


@triton.jit
def _made(
    h, tiles, c, b, rate2, lead, y, y_t, inside, OP: tl.constexpr, NP: tl.constexpr, CB: tl.constexpr,
    SLOPE: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """The state after U steps, y written. tiles: of `gathered_tiles`; c and b: (NP, U)."""
    x, delta, gain, slope = tiles
    xs, ds, ks, ss = by_row(x, CB, U), by_row(delta, CB, U), by_row(gain, CB, U), by_row(slope, CB, U)
    cs, bs = by_step(c, b, OP, NP, U)
    for u in tl.static_range(U):
        h = stepped(OP, SLOPE, h, rate2, wide(xs[u]), wide(ds[u]), wide(ks[u]), bs[u], cs[u], wide(ss[u]), lead)
        tl.store(y + u * y_t, tl.sum(cs[u] * h, 0).to(y.dtype.element_ty), mask=inside)
    return h


@triton.jit(do_not_specialize=list(FREE))
def scan_kernel(
    x, delta, gain, write, read, slope, lead, rate, starts, offsets, y, final, kept,
    steps, channels, chunk, pieces, shift,
    x_b, x_t, delta_b, delta_t, gain_b, gain_t, write_b, write_t, read_b, read_t, slope_b, slope_t, y_b, y_t,
    OP: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, CB: tl.constexpr, U: tl.constexpr, EVERY: tl.constexpr,
    KEEP: tl.constexpr, SLOPE: tl.constexpr, LEAD: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """y (B, T, D) and the state after each piece; where KEEP, also the states before every EVERY-th step.

    Grid (blocks of CB channels, pieces). starts, final (pieces, N, D) by `tl.program_id(1)`; kept (rows, blocks of
    channels, NP, CB), rows as in `span`. EVERY is a multiple of U.
    """
    ch = tl.program_id(0) * CB + tl.arange(0, CB)
    n, inside = tl.arange(0, NP), within(ch, channels, EVEN)
    _row, batch, first, last, keep_at = span(offsets, steps, chunk, pieces, EVERY, VARLEN)
    tile = n[:, None] * channels + ch[None, :]
    on = (n < N)[:, None] & inside[None, :]
    states = tl.cast(tl.program_id(1), tl.int64) * N * channels
    rate2 = tl.load(rate + tile, mask=on, other=0.0) * LOG2E
    h = tl.load(starts + states + tile, mask=on, other=0.0)
    tau = tl.zeros([1, CB], tl.float32)
    if LEAD:
        tau = wide(tl.load(lead + ch, mask=inside, other=0.0))
    b = tl.cast(batch, tl.int64)
    x += b * x_b
    delta += b * delta_b
    gain += b * gain_b
    write += b * write_b
    read += b * read_b
    slope += b * slope_b
    y += b * y_b
    own = own_tile(shift, NP, CB)
    kept += (tl.cast(keep_at, tl.int64) * tl.num_programs(0) + tl.program_id(0)) * NP * CB
    full = first + (last - first) // U * U
    if full > first:
        now = gathered_tiles(x, delta, gain, slope, first, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, U)
        c, w = both_tiles(read, write, first, U, read_t, write_t, n, OP, N, NP, U)
        for t0 in range(first, full, U):
            if KEEP:
                if (t0 - first) % EVERY == 0:
                    tl.store(kept + own, h)
                    kept += tl.num_programs(0) * NP * CB
            # The last block is read twice: cheaper than a mask on every row.
            t1 = tl.minimum(t0 + U, full - U)
            ahead = gathered_tiles(x, delta, gain, slope, t1, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, U)
            c_ahead, w_ahead = both_tiles(read, write, t1, U, read_t, write_t, n, OP, N, NP, U)
            h = _made(h, now, c, w, rate2, tau, row_at(y, t0, y_t) + ch, y_t, inside, OP, NP, CB, SLOPE, U)
            now, c, w = ahead, c_ahead, w_ahead
    if full < last:
        if KEEP:
            if (full - first) % EVERY == 0:
                tl.store(kept + own, h)
        now = gathered(x, delta, gain, slope, full, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, U, True)
        h = _last(
            h, now, read, write, rate2, tau, y, y_t, read_t, write_t, full, last, ch, n, inside, OP, N, NP, SLOPE, U
        )
    tl.store(final + states + tile, h, mask=on)


@triton.jit(do_not_specialize=list(FREE))
def ends_kernel(
    x, delta, gain, write, read, slope, lead, rate, gy, offsets, product, end, steps, channels, chunk, pieces, shift,
    x_b, x_t, delta_b, delta_t, gain_b, gain_t, write_b, write_t, read_b, read_t, slope_b, slope_t, gy_b, gy_t,
    OP: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, CB: tl.constexpr, U: tl.constexpr,
    SLOPE: tl.constexpr, LEAD: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """What a chunk does to any state h before it: product · h + end, each (pieces, N, D).

    Where REVERSE only `end`, of the adjoint: ∂L/∂(state before the chunk) = product · ∂L/∂(state after it) + end.
    """
    ch = tl.program_id(0) * CB + tl.arange(0, CB)
    n, inside = tl.arange(0, NP), within(ch, channels, EVEN)
    _row, batch, first, last, _kept = span(offsets, steps, chunk, pieces, 1, False)
    tile = n[:, None] * channels + ch[None, :]
    on = (n < N)[:, None] & inside[None, :]
    rate2 = tl.load(rate + tile, mask=on, other=0.0) * LOG2E
    tau = tl.zeros([1, CB], tl.float32)
    if LEAD:
        tau = wide(tl.load(lead + ch, mask=inside, other=0.0))
    b = tl.cast(batch, tl.int64)
    x += b * x_b
    delta += b * delta_b
    gain += b * gain_b
    write += b * write_b
    read += b * read_b
    slope += b * slope_b
    gy += b * gy_b
    h = tl.zeros([NP, CB], tl.float32)
    P = h + 1.0
    blocks = tl.cdiv(last - first, U)
    t0 = first
    if REVERSE:
        t0 = first + (blocks - 1) * U
    now = gathered(x, delta, gain, slope, t0, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, U, True)
    c, w = both_tiles(read, write, t0, last - t0, read_t, write_t, n, OP, N, NP, U)
    gs = now[0]
    if REVERSE:
        gs = rows(gy, t0, last, gy_t, ch, inside, U, True)
    for i in range(0, blocks):
        # What the next block reads is asked for before this one is done.
        t1 = first + tl.minimum(i + 1, blocks - 1) * U
        if REVERSE:
            t1 = first + tl.maximum(blocks - 2 - i, 0) * U
        ahead = gathered(x, delta, gain, slope, t1, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, U, True)
        c_ahead, w_ahead = both_tiles(read, write, t1, last - t1, read_t, write_t, n, OP, N, NP, U)
        gs_ahead = ahead[0]
        if REVERSE:
            gs_ahead = rows(gy, t1, last, gy_t, ch, inside, U, True)
        xs, ds, ks, ss = now
        cs, bs = by_step(c, w, OP, NP, U)
        for u in tl.static_range(U):
            if REVERSE:
                d, K, g = wide(ds[U - 1 - u]), wide(ks[U - 1 - u]), wide(gs[U - 1 - u])
                h = multiplied(OP, h + cs[U - 1 - u] * g, rate2, d, K, cs[U - 1 - u])
            else:
                d, K = wide(ds[u]), wide(ks[u])
                h = stepped(OP, SLOPE, h, rate2, wide(xs[u]), d, K, bs[u], cs[u], wide(ss[u]), tau)
                P = multiplied(OP, P, rate2, d, K, cs[u])
        now, gs, c, w = ahead, gs_ahead, c_ahead, w_ahead
    states = tl.cast(tl.program_id(1), tl.int64) * N * channels
    tl.store(end + states + tile, h, mask=on)
    if not REVERSE:
        tl.store(product + states + tile, P, mask=on)


@triton.jit(do_not_specialize=["pieces", "size"])
def link_kernel(outer, product, end, linked, pieces, size, BLOCK: tl.constexpr, REVERSE: tl.constexpr):
    """linked (B, pieces, size): the state before each chunk, or where REVERSE the adjoint of the state after it.

    outer (B, size) is what stands before the first chunk (after the last), product and end are of `ends_kernel`.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = place < size
    row = tl.cast(tl.program_id(1), tl.int64)
    h = tl.load(outer + row * size + place, mask=on, other=0.0)
    for i in range(0, pieces):
        k = i
        if REVERSE:
            k = pieces - 1 - i
        at = (row * pieces + k) * size + place
        tl.store(linked + at, h, mask=on)
        h = tl.load(product + at, mask=on, other=0.0) * h + tl.load(end + at, mask=on, other=0.0)


def operands(inputs: ScanInputs, operator: str, width: int) -> dict[str, Any]:
    """What every kernel of the scan is given, by its parameters' names; an absent tensor's place takes Δ, unread."""
    x, delta, gain, write, read, rate, _, slope, lead, offsets = inputs
    named: dict[str, Any] = {
        "x": x, "delta": delta, "gain": gain, "write": write, "read": read, "slope": slope, "lead": lead,
        "rate": rate.float().contiguous(), "offsets": offsets,
    }  # fmt: skip
    # As float32, rows that all channels share are read in vectors and need no conversion in each thread.
    named |= {name: None if named[name] is None else named[name].float() for name in ("write", "read")}
    given: dict[str, Any] = {name: delta if value is None else value for name, value in named.items()}
    for name in ("x", "delta", "gain", "write", "read", "slope"):
        value = given[name]
        given |= {f"{name}_b": value.stride(0), f"{name}_t": value.stride(1)}
    states = rate.shape[0]
    code = CODES.get(operator, SELECTIVE.value)
    sizes = {
        "N": states,
        "NP": triton.next_power_of_2(states),
        "CB": width,
        "OP": code,
        "EVEN": rate.shape[1] % width == 0,
    }
    return given | sizes | {"SLOPE": slope is not None, "LEAD": slope is not None and lead is not None}


def cut(pieces: Pieces, channels: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """A kernel's grid and the sizes it cuts the work by."""
    grid = (triton.cdiv(channels, width), pieces.sequences * pieces.count)
    return grid, {
        "steps": pieces.steps,
        "channels": channels,
        "chunk": pieces.chunk,
        "pieces": pieces.count,
        "shift": 0,
    }


def forward(
    inputs: ScanInputs, operator: str, pieces: Pieces, keep: bool, *, unroll: int | None = None, width: int = BLOCK
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """y (B, T, D), the final state (B, N, D), kept states (rows, blocks, NP, width), the chunks' products or None.

    float32 inside. Kept states cost 4 N / `pieces.every` bytes for each step and channel. For tuning: unroll is a power
    of two, the steps read at once, at most `pieces.every`; width is that of a program in channels, 16 or 32 (with 16
    two threads share a channel's states), and the gradient's kernel needs the same.
    """
    x, start = inputs.x, inputs.start
    states, channels = inputs.rate.shape
    given = operands(inputs, operator, width)
    grid, sizes = cut(pieces, channels, width)
    starts, product = start.float().contiguous(), None
    if pieces.count > 1:
        product, end = _ends(inputs, pieces, given)
        starts = linked(starts, product, end, pieces, reverse=False)
    y = torch.empty_like(x)
    final = starts.new_empty((pieces.sequences, pieces.count, states, channels))
    kept = starts.new_empty((pieces.kept_rows if keep else 0, grid[0], given["NP"], width))
    scan_kernel[grid](
        **given, **sizes, starts=starts, y=y, final=final, kept=kept, y_b=y.stride(0), y_t=y.stride(1),
        U=unroll or UNROLL.get(operator, UNROLL_ELSE), EVERY=pieces.every, KEEP=keep, VARLEN=inputs.offsets is not None,
        num_warps=1, num_stages=1,
    )  # fmt: skip
    return y, final[:, -1], kept, product


def _ends(inputs: ScanInputs, pieces: Pieces, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    states, channels = inputs.rate.shape
    grid, sizes = cut(pieces, channels, given["CB"])
    shape = (pieces.sequences, pieces.count, states, channels)
    product, end = (inputs.start.new_empty(shape, dtype=torch.float32) for _ in range(2))
    ends_kernel[grid](
        **given,
        **sizes,
        gy=given["x"],
        gy_b=0,
        gy_t=0,
        product=product,
        end=end,
        U=ENDS_UNROLL,
        REVERSE=False,
        num_warps=1,
        num_stages=1,
    )
    return product, end


def linked(outer: Tensor, product: Tensor, end: Tensor, pieces: Pieces, *, reverse: bool) -> Tensor:
    """States before all chunks (B, count, N, D) from the first, or adjoints after all of them from the last."""
    out, size = torch.empty_like(end), outer[0].numel()
    grid = (triton.cdiv(size, 128), pieces.sequences)
    link_kernel[grid](outer, product, end, out, pieces.count, size, BLOCK=128, REVERSE=reverse, num_warps=4)
    return out
