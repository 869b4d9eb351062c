"""The loop of KOSS with S = 1 and the operator `discrete`, and its gradient, compiled for a CPU's cores.

The formulas of `reference.koss_loop` over blocks of sequences: a block's state stays in a core's cache from step to
step, and blocks run on threads of their own; torch's small operations, one after the other, can use neither. Arrays
are time first and contiguous, all in one precision; heads H of C channels lie side by side in D = H·C. Where W1 has
R = 2C rows and not C, φ sees [s, ŷ⁻]: rows that are made one after the other in one array.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
ROWS = 32  # sequences of a block at most
# Sums may be reordered and products fused; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract"}


class Found(NamedTuple):
    """y (T, B, D), the states (T + 1, B, N, D) with the first one first, hidden (T, H, B, C) and K (T, B, D)."""

    y: Array
    states: Array
    hidden: Array
    gain: Array


def forward(
    x: Array,
    E: Array,
    read: Array,
    bias: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    start: Array,
    *,
    threads: int,
    keep: bool = True,
) -> Found:
    """x, bias z (T, B, D), E = e^{ΔA} (T, B, N, D), read c (T, B, N), start (B, N, D), weights as in `koss_form`.

    Without `keep` only the last state is there, as states[-1], and hidden and K are scratch space.
    """
    steps, size, _ = x.shape
    heads, channels = b1.shape
    history = np.empty((steps + 1 if keep else 2, *start.shape), x.dtype)
    history[0] = start
    kept = steps if keep else 1
    y = np.empty_like(x)
    hidden, gain = np.empty((kept, heads, size, channels), x.dtype), np.empty((kept, *x.shape[1:]), x.dtype)
    given = (x, E, read, bias, w1, b1, w2, history, hidden, gain, y)
    _in_blocks(lambda block, head, low, high: _forward(*given, head, low, high), heads, size, threads)
    if not keep and steps % 2 == 0:
        history = history[::-1]
    return Found(y, history, hidden, gain)


def backward(
    x: Array,
    delta: Array,
    E: Array,
    rate: Array,
    read: Array,
    w1: Array,
    w2: Array,
    history: Array,
    hidden: Array,
    gain: Array,
    gy: Array,
    g_final: Array,
    *,
    threads: int,
) -> tuple[Array, ...]:
    """∂L/∂x, Δ, A, c, z, then, for the weights, what φ saw (T, H, B, R) and ∂L/∂hidden (T, H, B, C), and ∂L/∂start.

    With the prediction seen, dŷ⁻ = dhid W_pᵀ: the state takes up c (dŷ⁻ − de), x only de.
    """
    steps, size, _ = x.shape
    heads, channels = hidden.shape[1], hidden.shape[3]
    gx, g_delta, g_bias = (np.empty_like(x) for _ in range(3))
    g_hidden, s = np.empty_like(hidden), np.empty((*hidden.shape[:3], w1.shape[1]), x.dtype)
    carry = g_final.copy()
    g_read = np.empty((steps, heads, size, read.shape[2]), x.dtype)
    blocks = -(-size // _rows(size, threads))
    g_rate = np.zeros((heads * blocks, rate.shape[0], channels), x.dtype)
    turned = np.ascontiguousarray(w1.transpose(0, 2, 1)), np.ascontiguousarray(w2.transpose(0, 2, 1))
    given = (x, delta, E, rate, read, *turned, history, hidden, gain, gy, carry)
    found = (gx, g_delta, g_bias, g_hidden, s, g_read)
    _in_blocks(
        lambda block, head, low, high: _backward(*given, *found, g_rate[block], head, low, high), heads, size, threads
    )
    g_rate = g_rate.reshape(heads, blocks, *g_rate.shape[1:]).sum(1).swapaxes(0, 1).reshape(rate.shape)
    return gx, g_delta, g_rate, g_read.sum(1), g_bias, s, g_hidden, carry


def _rows(size: int, threads: int) -> int:
    return max(1, min(ROWS, -(-size // threads)))


def _in_blocks(work: Callable[[int, int, int, int], None], heads: int, size: int, threads: int) -> None:
    """work(block, head, low, high) for blocks of sequences; numba lets go of Python's lock."""
    rows = _rows(size, threads)
    spans = [(head, low, min(low + rows, size)) for head in range(heads) for low in range(0, size, rows)]
    if threads < 2 or len(spans) < 2:
        for block, span in enumerate(spans):
            work(block, *span)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda item: work(item[0], *item[1]), enumerate(spans)))


@njit(cache=True, nogil=True, fastmath=FAST)
def _forward(
    x: Any,
    E: Any,
    read: Any,
    bias: Any,
    w1: Any,
    b1: Any,
    w2: Any,
    history: Any,
    hidden: Any,
    gain: Any,
    y: Any,
    head: Any,
    low: Any,
    high: Any,
) -> None:
    steps, states, rows, channels = x.shape[0], E.shape[2], high - low, b1.shape[1]
    first, last = head * channels, (head + 1) * channels
    one = x.dtype.type(1.0)
    s, z = np.empty((rows, w1.shape[1]), x.dtype), np.empty((rows, channels), x.dtype)
    seen = w1.shape[1] > channels
    inner, outer = np.ascontiguousarray(w1[head]), np.ascontiguousarray(w2[head])
    sums = np.empty(channels, x.dtype)
    for t in range(steps):
        # Arrays that keep less than all steps are filled round and round.
        now, after, slot = t % history.shape[0], (t + 1) % history.shape[0], t % hidden.shape[0]
        for r in range(rows):
            b = low + r
            sums[:] = 0.0
            for n in range(states):
                c, here, decay = read[t, b, n], history[now, b, n, first:last], E[t, b, n, first:last]
                for d in range(channels):
                    sums[d] += c * decay[d] * here[d]
            row = x[t, b, first:last]
            for d in range(channels):
                e = row[d] - sums[d]
                s[r, d] = e * e / (one + e * e)
            if seen:
                for d in range(channels):
                    s[r, channels + d] = sums[d]
        unit = hidden[slot, head, low:high]
        np.dot(s, inner, unit)
        for r in range(rows):
            for d in range(channels):
                unit[r, d] = max(unit[r, d] + b1[head, d], x.dtype.type(0.0))
        np.dot(unit, outer, z)
        for r in range(rows):
            b = low + r
            K, row, out = gain[slot, b, first:last], x[t, b, first:last], y[t, b, first:last]
            offset = bias[t, b, first:last]
            for d in range(channels):
                K[d] = one / (one + np.exp(-(z[r, d] + offset[d])))
            out[:] = 0.0
            for n in range(states):
                c, here, decay = read[t, b, n], history[now, b, n, first:last], E[t, b, n, first:last]
                then = history[after, b, n, first:last]
                for d in range(channels):
                    p = decay[d] * here[d]
                    h = p + K[d] * (row[d] - c * p)
                    then[d] = h
                    out[d] += c * h


@njit(cache=True, nogil=True, fastmath=FAST)
def _backward(
    x: Any,
    delta: Any,
    E: Any,
    rate: Any,
    read: Any,
    w1t: Any,
    w2t: Any,
    history: Any,
    hidden: Any,
    gain: Any,
    gy: Any,
    carry: Any,
    gx: Any,
    g_delta: Any,
    g_bias: Any,
    g_hidden: Any,
    s: Any,
    g_read: Any,
    g_rate: Any,
    head: Any,
    low: Any,
    high: Any,
) -> None:
    steps, states, rows, channels = x.shape[0], E.shape[2], high - low, hidden.shape[3]
    first, last = head * channels, (head + 1) * channels
    one, two, zero = x.dtype.type(1.0), x.dtype.type(2.0), x.dtype.type(0.0)
    p, G = np.empty((states, rows, channels), x.dtype), np.empty((states, rows, channels), x.dtype)
    slope, de = np.empty((rows, channels), x.dtype), np.empty((rows, channels), x.dtype)
    to_seen, seen = np.empty((rows, w1t.shape[2]), x.dtype), w1t.shape[2] > channels
    inner, outer = np.ascontiguousarray(w1t[head]), np.ascontiguousarray(w2t[head])
    sums, gK = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for t in range(steps - 1, -1, -1):
        for r in range(rows):
            b = low + r
            row, K, g = x[t, b, first:last], gain[t, b, first:last], gy[t, b, first:last]
            to_x, to_bias = gx[t, b, first:last], g_bias[t, b, first:last]
            sums[:] = 0.0
            gK[:] = 0.0
            to_x[:] = 0.0
            for n in range(states):
                c, here, decay = read[t, b, n], history[t, b, n, first:last], E[t, b, n, first:last]
                later = carry[b, n, first:last]
                for d in range(channels):
                    ahead = decay[d] * here[d]
                    p[n, r, d] = ahead
                    sums[d] += c * ahead
                    total = later[d] + c * g[d]
                    G[n, r, d] = total
                    to_x[d] += total
                    gK[d] += total * (row[d] - c * ahead)
            for d in range(channels):
                e = row[d] - sums[d]
                q = one + e * e
                s[t, head, b, d] = e * e / q
                slope[r, d] = two * e / (q * q)
                to_x[d] *= K[d]
                to_bias[d] = gK[d] * K[d] * (one - K[d])
                de[r, d] = to_bias[d]
            if seen:
                for d in range(channels):
                    s[t, head, b, channels + d] = sums[d]
        unit = g_hidden[t, head, low:high]
        np.dot(de, outer, unit)
        for r in range(rows):
            for d in range(channels):
                if not hidden[t, head, low + r, d] > zero:
                    unit[r, d] = zero
        np.dot(unit, inner, to_seen)
        for r in range(rows):
            b = low + r
            K, g, to_x = gain[t, b, first:last], gy[t, b, first:last], gx[t, b, first:last]
            to_delta, step = g_delta[t, b, first:last], delta[t, b, first:last]
            to_delta[:] = 0.0
            for d in range(channels):
                de[r, d] = to_seen[r, d] * slope[r, d]
                to_x[d] += de[r, d]
            if seen:
                for d in range(channels):
                    de[r, d] -= to_seen[r, channels + d]
            for n in range(states):
                c, decay, then = read[t, b, n], E[t, b, n, first:last], history[t + 1, b, n, first:last]
                later, fall = carry[b, n, first:last], rate[n, first:last]
                to_read = zero
                for d in range(channels):
                    pull = G[n, r, d] * K[d] + de[r, d]
                    to_read += g[d] * then[d] - p[n, r, d] * pull
                    left = G[n, r, d] - c * pull
                    later[d] = left * decay[d]
                    rise = left * p[n, r, d]
                    to_delta[d] += fall[d] * rise
                    g_rate[n, d] += rise * step[d]
                g_read[t, head, b, n] = to_read
