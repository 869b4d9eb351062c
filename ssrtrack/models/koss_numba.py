"""The KOSS scan and its gradient compiled for a CPU's cores: the formulas of `koss_scan` over blocks of sequences.

A block's state stays in a core's cache from step to step, and blocks run on threads of their own; torch's small
operations, one after the other, can use neither.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
ROWS = 32  # sequences of a block at most
# Sums may be reordered and products fused; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract"}


def forward(
    x: Array, E: Array, read: Array, bias: Array, w1: Array, b1: Array, w2: Array, start: Array, *, threads: int
) -> tuple[Array, Array, Array, Array]:
    """y, the states (T + 1, N, H, B, C) with `start` first, hidden and K (T, H, B, C), for E = exp(Δ A)."""
    history = np.empty((x.shape[0] + 1, *start.shape), x.dtype)
    history[0] = start
    y, hidden, gain = (np.empty_like(x) for _ in range(3))
    given = (x, E, read, bias, w1, b1, w2, history, hidden, gain, y)
    _in_blocks(lambda block, head, low, high: _forward(*given, head, low, high), x.shape, threads)
    return y, history, hidden, gain


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
    """∂L/∂x, Δ, A, c, z, then s and ∂L/∂hidden (T, H, B, C) for the weights' gradients, and ∂L/∂start."""
    heads, size = x.shape[1], x.shape[2]
    gx, g_delta, g_bias, g_hidden, s = (np.empty_like(x) for _ in range(5))
    carry = g_final.copy()
    g_read = np.empty((*read.shape[:2], heads, size), x.dtype)
    g_rate = np.zeros((heads * -(-size // _rows(size, threads)), rate.shape[0], x.shape[3]), x.dtype)
    turned = np.ascontiguousarray(w1.transpose(0, 2, 1)), np.ascontiguousarray(w2.transpose(0, 2, 1))
    given = (x, delta, E, rate, read, *turned, history, hidden, gain, gy, carry)
    found = (gx, g_delta, g_bias, g_hidden, s, g_read)
    _in_blocks(
        lambda block, head, low, high: _backward(*given, *found, g_rate[block], head, low, high), x.shape, threads
    )
    g_rate = g_rate.reshape(heads, -1, *g_rate.shape[1:]).sum(1).swapaxes(0, 1)
    return gx, g_delta, g_rate, g_read.sum(2), g_bias, s, g_hidden, carry


def _rows(size: int, threads: int) -> int:
    return max(1, min(ROWS, -(-size // threads)))


def _in_blocks(work: Callable[[int, int, int, int], None], shape: tuple[int, ...], threads: int) -> None:
    """work(block, head, low, high) for blocks of sequences; numba lets go of Python's lock."""
    rows = _rows(shape[2], threads)
    spans = [(head, low, min(low + rows, shape[2])) for head in range(shape[1]) for low in range(0, shape[2], rows)]
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
    steps, states, rows, channels = x.shape[0], E.shape[1], high - low, x.shape[3]
    one = x.dtype.type(1.0)
    s, z = np.empty((rows, channels), x.dtype), np.empty((rows, channels), x.dtype)
    inner, outer = np.ascontiguousarray(w1[head]), np.ascontiguousarray(w2[head])
    sums = np.empty(channels, x.dtype)
    for t in range(steps):
        for r in range(rows):
            b = low + r
            sums[:] = 0.0
            for n in range(states):
                c, here, decay = read[t, n, b], history[t, n, head, b], E[t, n, head, b]
                for d in range(channels):
                    sums[d] += c * decay[d] * here[d]
            row = x[t, head, b]
            for d in range(channels):
                e = row[d] - sums[d]
                s[r, d] = e * e / (one + e * e)
        unit = hidden[t, head, low:high]
        np.dot(s, inner, unit)
        for r in range(rows):
            for d in range(channels):
                unit[r, d] = max(unit[r, d] + b1[head, d], x.dtype.type(0.0))
        np.dot(unit, outer, z)
        for r in range(rows):
            b = low + r
            K, row, out, offset = gain[t, head, b], x[t, head, b], y[t, head, b], bias[t, head, b]
            for d in range(channels):
                K[d] = one / (one + np.exp(-(z[r, d] + offset[d])))
            out[:] = 0.0
            for n in range(states):
                c, here, decay = read[t, n, b], history[t, n, head, b], E[t, n, head, b]
                then = history[t + 1, n, head, b]
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
    steps, states, rows, channels = x.shape[0], E.shape[1], high - low, x.shape[3]
    one, two, zero = x.dtype.type(1.0), x.dtype.type(2.0), x.dtype.type(0.0)
    p, G = np.empty((states, rows, channels), x.dtype), np.empty((states, rows, channels), x.dtype)
    slope, de = np.empty((rows, channels), x.dtype), np.empty((rows, channels), x.dtype)
    inner, outer = np.ascontiguousarray(w1t[head]), np.ascontiguousarray(w2t[head])
    sums, gK = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for t in range(steps - 1, -1, -1):
        for r in range(rows):
            b = low + r
            row, K, g, to_x = x[t, head, b], gain[t, head, b], gy[t, head, b], gx[t, head, b]
            sums[:] = 0.0
            gK[:] = 0.0
            to_x[:] = 0.0
            for n in range(states):
                c, here, decay, later = read[t, n, b], history[t, n, head, b], E[t, n, head, b], carry[n, head, b]
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
                g_bias[t, head, b, d] = gK[d] * K[d] * (one - K[d])
        unit = g_hidden[t, head, low:high]
        np.dot(g_bias[t, head, low:high], outer, unit)
        for r in range(rows):
            for d in range(channels):
                if not hidden[t, head, low + r, d] > zero:
                    unit[r, d] = zero
        np.dot(unit, inner, de)
        for r in range(rows):
            b = low + r
            K, g, to_x, to_delta = gain[t, head, b], gy[t, head, b], gx[t, head, b], g_delta[t, head, b]
            step = delta[t, head, b]
            to_delta[:] = 0.0
            for d in range(channels):
                de[r, d] *= slope[r, d]
                to_x[d] += de[r, d]
            for n in range(states):
                c, decay, then, later = read[t, n, b], E[t, n, head, b], history[t + 1, n, head, b], carry[n, head, b]
                to_read = zero
                for d in range(channels):
                    pull = G[n, r, d] * K[d] + de[r, d]
                    to_read += g[d] * then[d] - p[n, r, d] * pull
                    left = G[n, r, d] - c * pull
                    later[d] = left * decay[d]
                    rise = left * p[n, r, d]
                    to_delta[d] += rate[n, head, d] * rise
                    g_rate[n, d] += rise * step[d]
                g_read[t, n, head, b] = to_read
