"""One step of a stack of KOSS blocks for many sequences whose memories lie in rows of numbers, compiled for a CPU.

The equations of `ssrtrack.models.koss.KossBlock` with the loop of `koss_form`, S = 1 and the operator `discrete`, in
float32. A sequence's state is read once, from the rows before, and written once, to those after; a tile of sequences
goes through all that a block computes while it lies in a core's cache, matrix products included. torch makes thirty
passes over all sequences of it a block, each of which fetches megabytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.koss_rows_weights import TAPS, Network, memory_size
from ssrtrack.kernels.lanes_numba import (
    LANES,
    ROWS,
    exp,
    load,
    load_some,
    product,
    revision,
    sigmoid,
    silu,
    softplus,
    splat,
    spread,
    store,
    store_some,
    total,
    wide,
)
from ssrtrack.kernels.sharing import shared_out

Array = NDArray[Any]
TILE = 6 * ROWS  # sequences whose numbers a core keeps in its cache at a time


def step(
    network: Network, told: Array, gap: Array, late: Array, before: Array, after: Array, *, threads: int
) -> tuple[Array, Array]:
    """Output y (B, D) = RMSNorm(x) g of the last block, and numbers (B, R) of the head on it.

    Args:
        told: (B, F or more), the features first. gap: (B,), what Δ is multiplied by. late: (B,), what gain_gap is.
        before, after: rows (B, M or more) of what the blocks remember, one after another, as `memory_size` says; of
            those after no other number is written. All float32 and contiguous.
        threads: at most so many.

    Raises:
        ValueError: arrays that do not fit, or are not contiguous float32.
    """
    sizes, count = network.sizes, len(told)
    shapes = {
        "told": (told, sizes.features),
        "before": (before, memory_size(sizes)),
        "after": (after, before.shape[-1]),
    }
    for name, (array, columns) in shapes.items():
        fits = array.ndim == 2 and len(array) == count and array.shape[1] >= columns
        if not (fits and array.dtype == np.float32 and array.flags.c_contiguous):
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, expected contiguous float32 ({count}, {columns} or more)"
            )
    if before.shape != after.shape or np.shares_memory(before, after):
        raise ValueError(f"rows are {before.shape} and {after.shape}, expected two arrays of one shape")
    for name, line in (("gap", gap), ("late", late)):
        if line.shape != (count,) or line.dtype != np.float32 or not line.flags.c_contiguous:
            raise ValueError(f"{name} is {line.dtype} {line.shape}, expected contiguous float32 ({count},)")
    y, raw = np.empty((count, sizes.width), np.float32), np.empty((count, sizes.head), np.float32)
    given = Given(
        told.ravel(), told.shape[1], gap, late, before.ravel(), after.ravel(), before.shape[1], y.ravel(), raw.ravel()
    )
    shared_out(lambda low, high: _run(*network, given, low, high), count, threads)
    return y, raw


class Given(NamedTuple):
    """Arrays of a call, flat, with the numbers from row to row: B sequences."""

    told: Array
    told_stride: int
    gap: Array
    late: Array
    before: Array
    after: Array
    stride: int
    y: Array
    raw: Array


class Tile(NamedTuple):
    """What a core works with: rows of TILE sequences, flat."""

    normed: Array
    both: Array
    x: Array
    side: Array
    gate: Array
    hidden: Array
    z: Array


set_, relu, add = product("set"), product("relu"), product("add")


@njit(nogil=True)
def _normed(x: Any, out: Any, rows: Any, sizes: Any, eps: Any) -> None:
    """Rows over their root mean square, without g."""
    W = sizes.wide
    for r in range(rows):
        squares = splat(np.float32(0.0))
        for i in range(r * W, r * W + W, LANES):
            v = load(x, i)
            squares = squares + v * v
        scale = splat(np.float32(1.0) / np.sqrt(total(squares) / np.float32(sizes.width) + eps))
        for i in range(r * W, r * W + W, LANES):
            store(out, i, scale * load(x, i))


@njit(nogil=True)
def _convolved(given: Any, tile: Any, first: Any, rows: Any, sizes: Any, places: Any, w: Any) -> None:
    """x = SiLU(conv(u)) of u, the left half of `both`; the convolution's last inputs move up."""
    D, W, before, after = sizes.width, sizes.wide, given.before, given.after
    taps, bias = places.taps, places.taps_bias
    for r in range(rows):
        oldest = first + r * given.stride + sizes.states * D
        for i in range(0, D, LANES):
            at, left, u = oldest + i, D - i, load(tile.both, r * 2 * W + i)
            second, newest = load_some(before, at + D, left), load_some(before, at + 2 * D, left)
            mixed = load(w, bias + i) + load(w, taps + i) * load_some(before, at, left)
            mixed = mixed + load(w, taps + W + i) * second + load(w, taps + 2 * W + i) * newest
            store_some(after, at, second, left)
            store_some(after, at + D, newest, left)
            store_some(after, at + 2 * D, u, left)
            store(tile.x, r * W + i, silu(mixed + load(w, taps + 3 * W + i) * u))


@njit(nogil=True)
def _predicted(given: Any, tile: Any, low: Any, first: Any, rows: Any, sizes: Any, places: Any, w: Any) -> None:
    """p = e^{ΔA} h to the rows after, and what φ sees of e = x − Σ c p and Σ c p; c takes its logits' place.

    Three short loops, for what one register waits for others compute: as many of them as a core looks ahead.
    """
    D, W, C, seen, side = sizes.width, sizes.wide, sizes.channels, sizes.seen, tile.side
    one = splat(np.float32(1.0))
    for r in range(rows):
        state, rank, own = first + r * given.stride, r * sizes.side + W, r * W
        c = rank + sizes.read
        for n in range(0, sizes.states, LANES):
            store(side, c + n, sigmoid(load(side, c + n)))
        elapsed = spread(given.gap, low + r)
        for i in range(0, D, LANES):
            steps = load(w, places.step_bias + i)
            for j in range(sizes.rank):
                steps = steps + spread(side, rank + j) * load(w, places.step + j * W + i)
            store(tile.z, own + i, softplus(steps) * elapsed)
        for i in range(0, D, LANES):
            delta, prediction = load(tile.z, own + i), splat(np.float32(0.0))
            for n in range(sizes.states):
                at = state + n * D + i
                p = exp(delta * load(w, places.rate + n * W + i)) * load_some(given.before, at, D - i)
                store_some(given.after, at, p, D - i)
                prediction = prediction + spread(side, c + n) * p
            store(tile.z, own + i, prediction)
        for g in range(sizes.groups):
            place = (r * sizes.groups + g) * seen
            for i in range(0, min(C, D - g * C), LANES):
                prediction = load(tile.z, own + g * C + i)
                e = load(tile.x, own + g * C + i) - prediction
                square = e * e
                store(tile.gate, place + i, square / (one + square))
                if seen > C:
                    store(tile.gate, place + C + i, prediction)


@njit(nogil=True)
def _gated(tile: Any, rows: Any, sizes: Any, places: Any, w: Any) -> None:
    """z = φ of each group, without what x adds."""
    W, C, seen, across = sizes.wide, sizes.channels, sizes.seen, sizes.groups * sizes.seen
    for g in range(sizes.groups):
        w1, b1, w2 = w[places.w1 + g * seen * C :], w[places.b1 + g * C :], w[places.w2 + g * C * C :]
        relu(tile.gate[g * seen :], across, w1, seen, b1, tile.hidden, C, rows, C)
        set_(tile.hidden, C, w2, C, w[places.nothing :], tile.z[g * C :], W, rows, C)


@njit(nogil=True)
def _corrected(given: Any, tile: Any, low: Any, first: Any, rows: Any, sizes: Any, places: Any, w: Any) -> None:
    """h = p + K (x − c p), and (Σ c h + skip x) SiLU(gate) in the place of x."""
    D, W, after, side = sizes.width, sizes.wide, given.after, tile.side
    for r in range(rows):
        state, late, own = first + r * given.stride, spread(given.late, low + r), r * sizes.side
        c = own + W + sizes.read
        for i in range(0, D, LANES):
            bias, gate = load(side, own + i) + late * load(w, places.gain_gap + i), r * 2 * W + W + i
            store(tile.z, r * W + i, sigmoid(load(tile.z, r * W + i) + bias))
            store(tile.both, gate, silu(load(tile.both, gate)))
        for i in range(0, D, LANES):
            x, K = load(tile.x, r * W + i), load(tile.z, r * W + i)
            y = load(w, places.skip + i) * x
            for n in range(sizes.states):
                at = state + n * D + i
                p = load_some(after, at, D - i)
                h = p + K * (x - spread(side, c + n) * p)
                store_some(after, at, h, D - i)
                y = y + spread(side, c + n) * h
            store(tile.x, r * W + i, y * load(tile.both, r * 2 * W + W + i))


@njit(nogil=True)
def _block(
    given: Any, tile: Any, stream: Any, low: Any, first: Any, rows: Any, sizes: Any, places: Any, w: Any, eps: Any
) -> None:
    """A block's share is added to the stream of a tile's sequences, whose memories of it begin at `first`."""
    D, W, none = sizes.width, sizes.wide, w[places.nothing :]
    whole = wide(rows, ROWS)
    _normed(stream, tile.normed, rows, sizes, eps)
    set_(tile.normed, W, w[places.inward :], D, none, tile.both, 2 * W, whole, 2 * W)
    _convolved(given, tile, first, rows, sizes, places, w)
    set_(tile.x, W, w[places.side :], D, w[places.side_bias :], tile.side, sizes.side, whole, sizes.side)
    _predicted(given, tile, low, first, rows, sizes, places, w)
    _gated(tile, whole, sizes, places, w)
    _corrected(given, tile, low, first, rows, sizes, places, w)
    add(tile.x, W, w[places.outward :], D, none, stream, W, whole, W)


def _made(source: int) -> Callable[..., None]:
    @njit(cache=True, nogil=True)
    def run(sizes: Any, places: Any, blocks: Any, ends: Any, eps: Any, given: Any, begin: Any, end: Any) -> None:
        """Sequences begin … end. What a tile's row holds that no sequence stands for is nobody's, and stays there."""
        made_from = source  # noqa: F841  # so that numba compiles anew where it is another
        D, W, F = sizes.width, sizes.wide, sizes.features
        inward, inward_bias, norm, head, head_bias = ends
        own, across = (sizes.states + TAPS - 1) * D, head_bias.size
        stream = np.zeros(wide(end - begin, TILE) * W, np.float32)
        features, said = np.zeros(TILE * F, np.float32), np.zeros(TILE * across, np.float32)
        tile = Tile(
            np.zeros(TILE * W, np.float32), np.zeros(TILE * 2 * W, np.float32), np.zeros(TILE * W, np.float32),
            np.zeros(TILE * sizes.side, np.float32), np.zeros(TILE * sizes.groups * sizes.seen, np.float32),
            np.zeros(TILE * sizes.channels, np.float32), np.zeros(TILE * W, np.float32),
        )  # fmt: skip
        for low in range(begin, end, TILE):
            rows = min(TILE, end - low)
            for r in range(rows):
                for j in range(F):
                    features[r * F + j] = given.told[(low + r) * given.told_stride + j]
            set_(features, F, inward, F, inward_bias, stream[(low - begin) * W :], W, wide(rows, ROWS), W)
        # One block after another, each with all sequences: its weights stay in a core's cache.
        for k in range(sizes.blocks):
            for low in range(begin, end, TILE):
                rows, first = min(TILE, end - low), low * given.stride + k * own
                _block(given, tile, stream[(low - begin) * W :], low, first, rows, sizes, places, blocks[k], eps[k])
        for low in range(begin, end, TILE):
            rows = min(TILE, end - low)
            _normed(stream[(low - begin) * W :], tile.normed, rows, sizes, eps[sizes.blocks])
            set_(tile.normed, W, head, D, head_bias, said, across, wide(rows, ROWS), across)
            for r in range(rows):
                for i in range(D):
                    given.y[(low + r) * D + i] = norm[i] * tile.normed[r * W + i]
                for j in range(sizes.head):
                    given.raw[(low + r) * sizes.head + j] = said[r * across + j]

    made: Callable[..., None] = run
    return made


_run = _made(revision(Path(__file__).with_name("koss_rows_weights.py")))
