"""Backward kernels of `koss_scan` in Triton: every gradient of the scan, piece by piece, last step first.

States come from those kept every EVERY steps: a group of EVERY steps is run forward once more, in blocks of L. The
blocks' first states go through a scratch of the program's own (it stays in the second-level cache), and those inside
the block at hand stay in registers. So a step costs 4 N / EVERY bytes of memory for each channel, and 2 − L / EVERY
forward steps.

∂L/∂c and ∂L/∂b are sums over channels, which lie across the threads. A program writes its sum over CB channels, and
those are added afterwards, always in the same order: no atomics.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
# ruff: noqa: RUF005
# What Triton compiles has types of its own, and knows no unpacking.

from typing import Any

import torch
import triton
import triton.language as tl

from ssrtrack.kernels.koss_math import DISCRETE, EXACT, KALMAN, LN2, LOG2E, NEUMANN, drive, retreat
from ssrtrack.kernels.koss_rows import pile
from ssrtrack.kernels.koss_scan_form import Pieces, ScanInputs
from ssrtrack.kernels.koss_scan_forward import BLOCK, ENDS_UNROLL, cut, ends_kernel, linked, operands
from ssrtrack.kernels.koss_scan_rows import (
    FREE,
    SELECTIVE,
    before,
    both_tiles,
    by_step,
    gathered,
    own_tile,
    row_at,
    rows,
    span,
    stepped,
    wide,
    within,
)

Tensor = torch.Tensor
# States that a thread keeps in registers: twice as many spill into memory.
STATES_KEPT = 32
SHUFFLE, ROUNDED, SPLIT = (tl.constexpr(i) for i in range(3))  # ways to add over channels, see `over_channels`
COLUMNS = tl.constexpr(8)  # of ones, the fewest that tensor cores take


@triton.jit
def retreated(OP: tl.constexpr, SLOPE: tl.constexpr, carry, h, after, gy, rate2, x, delta, K, b, c, slope, lead):
    """One step of the adjoint: from ∂L/∂h after it without this step's own y (carry), and h before and after it.

    Returns tiles (NP, CB): the carry, q = ∂L/∂(ΔA), what c's and b's gradients sum over the channels; then rows
    (1, CB): gx, what Δ gets beside Σ_n q A, gK, gẋ, and gv for v = x + τ ẋ (`bucy`: τ ẋ), already part of gx and gẋ.
    """
    E = tl.exp2(delta * rate2)
    p = E * h
    G = c * gy + carry
    if not SLOPE:
        slope = tl.zeros_like(delta)
    v = drive(OP, x, slope, lead)
    none = tl.zeros_like(delta)
    gb = G
    if OP == SELECTIVE:
        moved = delta * x
        gmoved = tl.sum(G * b, 0)[None, :]
        carry, q, gc, gb = E * G, G * p, gy * after, G * moved
        gx, gdelta, gK, gslope, gv = gmoved * delta, gmoved * x, none, none, none
    elif OP == DISCRETE:
        w, gp = G * p, (1.0 - K * c) * G
        total = tl.sum(G, 0)[None, :]
        gK = v * total - tl.sum(c * w, 0)[None, :]
        gv = K * total
        carry, q, gc = E * gp, gp * p, gy * after - K * w
        gx, gdelta, gslope = gv, none, lead * gv
    elif OP == EXACT:
        w, last = E * G, x - slope
        before = h - K * last
        total, moved = tl.sum(G, 0)[None, :], tl.sum(w, 0)[None, :]
        carry, q, gc = w, w * before, gy * (E * before + K * x)
        gx, gdelta, gK, gslope, gv = K * (total - moved), none, x * total - last * moved, K * moved, none
    else:
        gr = none
        if OP == KALMAN:
            v = v - tl.sum(c * p, 0)[None, :]
            gr = tl.sum(G * (K * c), 0)[None, :]
        carry, q, gKs, gcs, gxs, gslopes, gvs, gdeltas = retreat(
            OP, G, gr, h, p, E, rate2 * LN2, delta, K, c, x, slope, v
        )
        gc = gy * after + gcs
        gx, gdelta, gK, gslope, gv = none, none, tl.sum(gKs, 0)[None, :], none, none
        if OP == KALMAN:
            gv = gr
            gx, gslope = gv, lead * gv
        elif OP == NEUMANN:
            gx, gslope = tl.sum(gxs, 0)[None, :], tl.sum(gslopes, 0)[None, :]
        else:
            gv = tl.sum(gvs, 0)[None, :]
            gx, gdelta, gslope = tl.sum(gxs, 0)[None, :], tl.sum(gdeltas, 0)[None, :], lead * gv
    return carry, q, gc, gb, gx, gdelta, gK, gslope, gv


@triton.jit
def over_channels(
    tiles, out, left, N: tl.constexpr, NP: tl.constexpr, CB: tl.constexpr, EACH: tl.constexpr, WAY: tl.constexpr
):
    """Write sums over the channels of tiles, N numbers each, one after the other to `out`.

    tiles: a power of two, EACH to a step; only those of the first `left` steps are written. WAY: SHUFFLE adds in
    float32, five shuffles a state. ROUNDED lets the tensor cores multiply by ones, terms rounded to TF32 (2⁻¹⁰, less
    than the bfloat16 that the result is rounded to); SPLIT does so with what rounding left, too.
    """
    # One sum of them all: one way through shared memory.
    COUNT: tl.constexpr = len(tiles)
    ROWS: tl.constexpr = COUNT * NP
    together = tl.reshape(tl.permute(pile(tiles, CB, NP, COUNT, COUNT.bit_length() - 1), (2, 0, 1)), (ROWS, CB))
    m = tl.arange(0, ROWS)
    place = m // NP * N + m % NP
    on = (m % NP < N) & (m // NP // EACH < left)
    if WAY == SHUFFLE:
        tl.store(out + place, tl.sum(together, 1), mask=on)
    else:
        ones = tl.full([CB, COLUMNS], 1.0, tl.float32)
        if WAY == ROUNDED:
            sums = tl.dot(together, ones, input_precision="tf32")
        else:
            head = (together.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
            sums = tl.dot(head, ones, input_precision="tf32")
            sums = tl.dot(together - head, ones, sums, input_precision="tf32")
        column = tl.arange(0, COLUMNS)
        tl.store(out + place[:, None] + column[None, :] * 0, sums, mask=on[:, None] & (column == 0)[None, :])


@triton.jit(do_not_specialize=list(FREE))
def backward_kernel(
    x, delta, gain, write, read, slope, lead, rate, gy, offsets, kept, carries, scratch,
    gx, gdelta, ggain, gslope, gshared, grate, glead, gstart, steps, channels, chunk, pieces, shift, total,
    x_b, x_t, delta_b, delta_t, gain_b, gain_t, write_b, write_t, read_b, read_t, slope_b, slope_t, gy_b, gy_t,
    gx_b, gx_t, gdelta_b, gdelta_t, ggain_b, ggain_t, gslope_b, gslope_t,
    OP: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, CB: tl.constexpr, L: tl.constexpr, EVERY: tl.constexpr,
    SLOPE: tl.constexpr, LEAD: tl.constexpr, VARLEN: tl.constexpr, EVEN: tl.constexpr, WAY: tl.constexpr,
):  # fmt: skip
    """Gradients of one piece; carries (pieces, N, D) is ∂L/∂(state after the piece), gstart that of the one before it.

    gshared (blocks of channels, total, N) with total = B T rows, for c, or (…, 2, N) for c and b of the selective scan;
    grate (pieces, N, D), glead (pieces, D): this program's part. scratch (programs, EVERY / L, NP, CB). L is even.
    """
    ch = tl.program_id(0) * CB + tl.arange(0, CB)
    n, inside = tl.arange(0, NP), within(ch, channels, EVEN)
    _row, batch, first, last, keep_at = span(offsets, steps, chunk, pieces, EVERY, VARLEN)
    tile = n[:, None] * channels + ch[None, :]
    on = (n < N)[:, None] & inside[None, :]
    piece = tl.cast(tl.program_id(1), tl.int64)
    rate2 = tl.load(rate + tile, mask=on, other=0.0) * LOG2E
    carry = tl.load(carries + piece * N * channels + tile, mask=on, other=0.0)
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
    gx += b * gx_b
    gdelta += b * gdelta_b
    ggain += b * ggain_b
    gslope += b * gslope_b
    kept += (tl.cast(keep_at, tl.int64) * tl.num_programs(0) + tl.program_id(0)) * NP * CB
    SHARED: tl.constexpr = 2 * N if OP == SELECTIVE else N
    gshared += (tl.cast(tl.program_id(0), tl.int64) * total + b * steps) * SHARED
    own = own_tile(shift, NP, CB)
    scratch += (piece * tl.num_programs(0) + tl.program_id(0)) * (EVERY // L) * NP * CB
    grate_sum, glead_sum = tl.zeros([NP, CB], tl.float32), tl.zeros([1, CB], tl.float32)
    groups = tl.cdiv(last - first, EVERY)
    for i in range(0, groups):
        group = groups - 1 - i
        start_at = first + group * EVERY
        h = tl.load(kept + tl.cast(group, tl.int64) * tl.num_programs(0) * NP * CB + own)
        blocks = tl.cdiv(tl.minimum(last - start_at, EVERY), L)
        now = gathered(
            x, delta, gain, slope, start_at, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, L, True
        )
        c, w = both_tiles(read, write, start_at, last - start_at, read_t, write_t, n, OP, N, NP, L)
        gs = rows(gy, start_at + (blocks - 1) * L, last, gy_t, ch, inside, L, True)
        for j in range(0, blocks - 1):
            tl.store(scratch + j * NP * CB + own, h)
            t1 = start_at + (j + 1) * L
            # What the next block reads is asked for before this one is done; the last one's are the next loop's first.
            ahead = gathered(
                x, delta, gain, slope, t1, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, L, True
            )
            c_ahead, w_ahead = both_tiles(read, write, t1, last - t1, read_t, write_t, n, OP, N, NP, L)
            xs, ds, ks, ss = now
            cs, bs = by_step(c, w, OP, NP, L)
            for u in tl.static_range(L):
                h = stepped(OP, SLOPE, h, rate2, wide(xs[u]), wide(ds[u]), wide(ks[u]), bs[u], cs[u], wide(ss[u]), tau)
            now, c, w = ahead, c_ahead, w_ahead
        for j in range(0, blocks):
            block = blocks - 1 - j
            t0 = start_at + block * L
            t1 = tl.maximum(t0 - L, start_at)
            xs, ds, ks, ss = now
            ahead = gathered(
                x, delta, gain, slope, t1, last, x_t, delta_t, gain_t, slope_t, ch, inside, OP, SLOPE, L, True
            )
            gs_ahead = rows(gy, t1, last, gy_t, ch, inside, L, True)
            c_ahead, w_ahead = both_tiles(read, write, t1, last - t1, read_t, write_t, n, OP, N, NP, L)
            before_it = tl.load(scratch + tl.maximum(block - 1, 0) * NP * CB + own)
            cs, bs = by_step(c, w, OP, NP, L)
            hs = (h,)
            for u in tl.static_range(L):
                h = stepped(OP, SLOPE, h, rate2, wide(xs[u]), wide(ds[u]), wide(ks[u]), bs[u], cs[u], wide(ss[u]), tau)
                hs = hs + (h,)
            to_xs, to_deltas, to_gains = row_at(gx, t0, gx_t), row_at(gdelta, t0, gdelta_t), row_at(ggain, t0, ggain_t)
            to_slopes, to_shared, rest = row_at(gslope, t0, gslope_t), row_at(gshared, t0, SHARED), last - t0
            gcs = ()
            for u in tl.static_range(L - 1, -1, -1):
                d, sl = wide(ds[u]), wide(ss[u])
                carry, q, gc, gb, to_x, to_delta, to_gain, to_slope, to_v = retreated(
                    OP, SLOPE, carry, hs[u], hs[u + 1], wide(gs[u]), rate2, wide(xs[u]), d, wide(ks[u]), bs[u], cs[u],
                    sl, tau,
                )  # fmt: skip
                mask = inside & before(t0 + u, last, ch)
                grate_sum += q * d
                to_delta += tl.sum(q * rate2, 0)[None, :] * LN2
                write_row(to_xs + u * gx_t, to_x, ch, mask)
                write_row(to_deltas + u * gdelta_t, to_delta, ch, mask)
                if OP != SELECTIVE:
                    write_row(to_gains + u * ggain_t, to_gain, ch, mask)
                if SLOPE:
                    write_row(to_slopes + u * gslope_t, to_slope, ch, mask)
                if LEAD:
                    glead_sum += to_v * sl
                gcs = (gc, gb) + gcs if OP == SELECTIVE else (gc,) + gcs
            over_channels(gcs, to_shared, rest, N, NP, CB, SHARED // N, WAY)
            h, now, gs, c, w = before_it, ahead, gs_ahead, c_ahead, w_ahead
    tl.store(gstart + piece * N * channels + tile, carry, mask=on)
    tl.store(grate + piece * N * channels + tile, grate_sum, mask=on)
    if LEAD:
        tl.store(glead + piece * channels + ch[None, :], glead_sum, mask=inside[None, :])


@triton.jit
def write_row(out, value, ch, mask):
    """Store a (1, CB) row."""
    tl.store(out + ch[None, :], value.to(out.dtype.element_ty), mask=mask[None, :])


def backward(
    inputs: ScanInputs, operator: str, pieces: Pieces, kept: Tensor, product: Tensor | None, gy: Tensor,
    g_final: Tensor, *, block: int | None = None, width: int = BLOCK,
) -> ScanInputs:  # fmt: skip
    """Gradients of every tensor of `inputs` (None where it is None), from ∂L/∂y (B, T, D) and ∂L/∂final (B, N, D).

    For tuning: block is a power of two, the steps whose states stay in registers; width as in `forward`.
    """
    x, delta, gain, write, _, rate, _, slope, lead, offsets = inputs
    batch, steps, channels = x.shape
    states, device = rate.shape[0], x.device
    given = operands(inputs, operator, width)
    gy = gy if gy.stride(2) == 1 else gy.contiguous()
    given |= {"gy": gy, "gy_b": gy.stride(0), "gy_t": gy.stride(1)}
    grid, sizes = cut(pieces, channels, width)
    block = block or block_steps(given["NP"], pieces.every)
    carries = g_final.float().contiguous()
    if product is not None:
        carries = linked(carries, product, _ends(pieces, channels, given), pieces, reverse=True)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    gx, gdelta = torch.empty_like(x), torch.empty_like(delta)
    ggain, gslope = (gx if v is None else torch.empty_like(v) for v in (gain, slope))
    gshared = empty(grid[0], batch, steps, 1 if write is None else 2, states)
    grate, gstart = (empty(pieces.sequences, pieces.count, states, channels) for _ in range(2))
    glead = empty(grid[1], channels)
    written: dict[str, Any] = {"gx": gx, "gdelta": gdelta, "ggain": ggain, "gslope": gslope}
    for name, value in tuple(written.items()):
        written |= {f"{name}_b": value.stride(0), f"{name}_t": value.stride(1)}
    backward_kernel[grid](
        **given, **sizes, **written, kept=kept, carries=carries,
        scratch=empty(grid[0] * grid[1] * (pieces.every // block), given["NP"], width),
        gshared=gshared, grate=grate, glead=glead, gstart=gstart, total=batch * steps,
        L=block, EVERY=pieces.every, VARLEN=offsets is not None, WAY=way_to_add(inputs),
        num_warps=1, num_stages=1,
    )  # fmt: skip
    shared = gshared.sum(0).unbind(2)
    return ScanInputs(
        gx, gdelta, None if gain is None else ggain, None if write is None else shared[1], shared[0],
        grate.sum((0, 1)), gstart[:, 0], None if slope is None else gslope,
        None if lead is None else glead.sum(0), None,
    )  # fmt: skip


def block_steps(states: int, every: int) -> int:
    """Steps L of a block: as many as keep their states in registers, 2 to 8."""
    return min(max(STATES_KEPT // states, 2), 8, every)


def way_to_add(inputs: ScanInputs) -> int:
    """How sums over the channels are added: by tensor cores, whose tiles have 16 rows, where two tiles have as many."""
    if inputs.rate.shape[0] <= 4:
        return int(SHUFFLE.value)
    return int((ROUNDED if inputs.read.dtype in (torch.bfloat16, torch.float16) else SPLIT).value)


def _ends(pieces: Pieces, channels: int, given: dict[str, Any]) -> Tensor:
    grid, sizes = cut(pieces, channels, given["CB"])
    end = torch.empty(
        (pieces.sequences, pieces.count, given["N"], channels), dtype=torch.float32, device=given["x"].device
    )
    ends_kernel[grid](**given, **sizes, product=end, end=end, U=ENDS_UNROLL, REVERSE=True, num_warps=1, num_stages=1)
    return end
