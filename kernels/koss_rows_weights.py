"""Weights of a stack of KOSS blocks in the order in which a step in rows of memory reads them (`koss_rows_numba`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssrtrack.kernels.lanes_numba import PANEL, panelled, wide

Array = NDArray[Any]
TAPS = 4


class Block(NamedTuple):
    """Weights of a block, arrays (inputs, outputs), with the letters of `koss_form`; D = H·C channels, N states.

    norm g (D,), of RMSNorm with eps. inward (D, 2D): to u₀ and to the gate. taps (4, D), the newest sample's last, and
    taps_bias (D,). project (D, rank + N): to the step's low rank, and to c before its bias read_bias (N,) and σ.
    step (rank, D), step_bias (D,): Δ = softplus. rate A (N, D). gain_input (D, D) or None, gain_bias, gain_gap (D,): z
    of the input, constant, and by log gap. skip (D,). w1 (H, C or 2C, C), b1 (H, C), w2 (H, C, C). outward (D, D).
    """

    norm: Array
    eps: float
    inward: Array
    taps: Array
    taps_bias: Array
    project: Array
    step: Array
    step_bias: Array
    rate: Array
    read_bias: Array
    gain_input: Array | None
    gain_bias: Array
    gain_gap: Array
    skip: Array
    w1: Array
    b1: Array
    w2: Array
    outward: Array


class Ends(NamedTuple):
    """Around the blocks: inward (F, D) with its bias, then RMSNorm's g (D,) with eps, and head (D, R) with its bias."""

    inward: Array
    inward_bias: Array
    norm: Array
    eps: float
    head: Array
    head_bias: Array


class Sizes(NamedTuple):
    """features F, width D, states N, rank, groups and their channels (heads, or one group where heads fill no
    registers), seen: rows of w1 a group, head R, blocks; and filled up to registers: wide D, and side, what comes of
    gain_input (wide), project's low rank and, `read` numbers behind that one's beginning, its N logits of c."""

    features: int
    width: int
    states: int
    rank: int
    groups: int
    channels: int
    seen: int
    head: int
    blocks: int
    wide: int
    side: int
    read: int


class Places(NamedTuple):
    """Where the parts of a block lie in its line of weights."""

    inward: int
    taps: int
    taps_bias: int
    side: int
    side_bias: int
    step: int
    step_bias: int
    rate: int
    gain_gap: int
    skip: int
    w1: int
    b1: int
    w2: int
    outward: int
    nothing: int
    end: int


class Network(NamedTuple):
    """What `packed` makes: all numbers as the step reads them."""

    sizes: Sizes
    places: Places
    blocks: Array
    ends: tuple[Array, Array, Array, Array, Array]
    eps: Array


def memory_size(sizes: Sizes) -> int:
    """Numbers that the blocks remember of a sequence: each the state (N, D), then the convolution's inputs (3, D)."""
    return sizes.blocks * (sizes.states + TAPS - 1) * sizes.width


def packed(blocks: Sequence[Block], ends: Ends) -> Network:
    """The weights in the order in which a step reads them; blocks are all of one shape.

    Raises:
        ValueError: no block, or one of another shape than the first.
    """
    if not blocks:
        raise ValueError("there are no blocks, expected one or more")
    shapes = [[None if part is None else np.shape(part) for part in block] for block in blocks]
    for k, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"block {k} has arrays of {shape}, block 0 of {shapes[0]}; a stack has blocks of one shape"
            )
    sizes = _sizes(blocks, ends)
    lines = [_line(block, sizes) for block in blocks]
    places = Places(*np.cumsum([0, *(len(part) for part in lines[0])]).tolist())
    head = panelled(ends.norm[:, None] * ends.head)
    filled = _filled(ends.head_bias, wide(sizes.head, PANEL))
    outer = (panelled(ends.inward), _filled(ends.inward_bias, sizes.wide), _filled(ends.norm, sizes.wide), head, filled)
    eps = np.array([*(block.eps for block in blocks), ends.eps], np.float32)
    return Network(sizes, places, np.stack([np.concatenate(line) for line in lines]), outer, eps)


def _sizes(blocks: Sequence[Block], ends: Ends) -> Sizes:
    first = blocks[0]
    D, (N, _), rank = len(first.norm), first.rate.shape, len(first.step)
    (heads, rows, channels), all_wide = first.w1.shape, wide(D, PANEL)
    groups, own = (heads, channels) if channels % PANEL == 0 else (1, all_wide)
    side = wide(all_wide + wide(rank) + wide(N), PANEL)
    seen, R = own * (rows // channels), ends.head.shape[1]
    return Sizes(len(ends.inward), D, N, rank, groups, own, seen, R, len(blocks), all_wide, side, wide(rank))


def _line(block: Block, sizes: Sizes) -> list[Array]:
    """The parts of a block in the order of `Places`, flat."""
    D, W, rank, N = sizes.width, sizes.wide, sizes.rank, sizes.states
    inward, side = np.zeros((D, 2 * W), np.float32), np.zeros((D, sizes.side), np.float32)
    scaled = block.norm[:, None] * block.inward
    inward[:, :D], inward[:, W : W + D] = scaled[:, :D], scaled[:, D:]
    if block.gain_input is not None:
        side[:, :D] = block.gain_input
    low, read = W, W + sizes.read
    side[:, low : low + rank], side[:, read : read + N] = block.project[:, :rank], block.project[:, rank:]
    side_bias = _filled(block.gain_bias, sizes.side)
    side_bias[read : read + N] = block.read_bias
    w1, w2 = _grouped(block.w1, sizes), _grouped(block.w2, sizes)
    rows = [block.taps_bias, block.step_bias, block.gain_gap, block.skip, block.b1.ravel()]
    taps_bias, step_bias, gain_gap, skip, b1 = (_filled(row, W) for row in rows)
    taps, step_, rate = (_filled(m, W).ravel() for m in (block.taps, block.step, block.rate))
    return [
        panelled(inward), taps, taps_bias, panelled(side), side_bias, step_, step_bias, rate, gain_gap, skip,
        np.concatenate([panelled(w) for w in w1]), b1, np.concatenate([panelled(w) for w in w2]),
        panelled(block.outward), np.zeros(2 * W, np.float32),
    ]  # fmt: skip


def _grouped(w: Array, sizes: Sizes) -> Array:
    """Weights (H, C or 2C, C) of heads as those of groups: of one group where heads are too small for registers."""
    heads, rows, channels = w.shape
    if sizes.groups == heads and sizes.channels == channels:
        return w
    parts, W = rows // channels, sizes.wide
    out = np.zeros((1, parts * W, W), np.float32)
    for h in range(heads):
        own = slice(h * channels, (h + 1) * channels)
        for part in range(parts):
            place = part * W + h * channels
            out[0, place : place + channels, own] = w[h, part * channels : (part + 1) * channels]
    return out


def _filled(rows: Array, count: int) -> Array:
    """Rows (…, n) with zeros behind, (…, count), float32."""
    out = np.zeros((*rows.shape[:-1], count), np.float32)
    out[..., : rows.shape[-1]] = rows
    return out
