"""One step of Gated KalmaNet for many sequences whose memories lie in rows of numbers, compiled for a CPU's cores.

The equations of `gka_numba`, with the same iterations, for who keeps what a layer remembers of a sequence among other
numbers in one row: (H, U) are read from the rows before and written to those after, and no copy is made between. With
thousands of sequences that is what a step's time goes into. D and V are known to the compiler.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.gka_form import EMPTY, GkaForm, relaxations, shortest_step
from ssrtrack.kernels.gka_numba import FAST
from ssrtrack.kernels.sharing import shared_out

Array = NDArray[Any]
TOGETHER = 8  # rows of H that are summed at once


class Recalled(NamedTuple):
    """o (B, heads, V) and qᵀ(H + λ I)⁻¹q (B, heads), infinite where the memory is empty."""

    o: Array
    variance: Array


def step(
    q: Array, k: Array, v: Array, gamma: Array, alpha: Array, before: Array, after: Array, at: int, form: GkaForm,
    *, threads: int,
) -> Recalled:  # fmt: skip
    """q, k (B, heads, D), v (B, heads, V), γ and α (B, heads), float32 and contiguous.

    Args:
        before, after: rows (B, M) float32; of each, from number `at` on, are H (heads, D, D), symmetric, and then U
            (heads, D, V). Only these of `after` are written.
        form: ridge, iterations and scale. threads: at most so many.

    Raises:
        ValueError: rows that are too short.
    """
    count, heads, D = q.shape
    needed = bounds(at, heads, D, v.shape[2])[-1]
    if before.shape != after.shape or before.shape[0] != count or before.shape[1] < needed:
        raise ValueError(f"rows are {before.shape} and {after.shape}, expected twice ({count}, {needed} or more)")
    found = Recalled(np.empty_like(v), np.empty_like(gamma))
    short, rho = shortest_step(form.ridge)
    weights = np.array(relaxations(rho, form.steps), np.float32)
    numbers = (np.float32(short), np.float32(form.ridge), np.float32(form.scale), np.float32(EMPTY))
    run = _made(D, v.shape[2])

    def work(begin: int, end: int) -> None:
        run(q, k, v, gamma, alpha, before, after, at, *found, weights, *numbers, begin, end)

    shared_out(work, count, threads)
    return found


def bounds(at: int, heads: int, D: int, V: int) -> tuple[int, int, int]:
    """Where H begins in a row, where U does, and where it ends."""
    return at, at + heads * D * D, at + heads * D * (D + V)


@cache
def _made(D: int, V: int) -> Callable[..., None]:
    """The step for keys of D numbers and values of V."""
    whole = D // TOGETHER * TOGETHER

    @njit(cache=True, nogil=True, fastmath=FAST)
    def run(
        q: Any, k: Any, v: Any, gamma: Any, alpha: Any, before: Any, after: Any, at: Any, o: Any, variance: Any,
        weights: Any, short: Any, ridge: Any, scale: Any, empty: Any, low: Any, high: Any,
    ) -> None:  # fmt: skip
        zero, one = np.float32(0.0), np.float32(1.0)
        heads, stay = q.shape[1], one - short * ridge
        A, B = np.empty((D, D), np.float32), np.empty((D, D), np.float32)
        right, x = np.empty((2, D), np.float32), np.empty((2, D), np.float32)
        last, y = np.empty((2, D), np.float32), np.empty((2, D), np.float32)
        ra, rb, xa, xb, la, lb, ya, yb = right[0], right[1], x[0], x[1], last[0], last[1], y[0], y[1]
        shorter, F = np.empty(2, np.float32), np.empty(2, np.float32)
        # Two heads at a time: what one waits for, the other one computes. An odd one out goes beside itself.
        for n in range(low * heads, high * heads, 2):
            for s in range(2):
                b, head = divmod(min(n + s, high * heads - 1), heads)
                old, new, own, fade, key = before[b], after[b], at + head * D * D, gamma[b, head], k[b, head]
                copy = A if s == 0 else B
                square = zero
                for i in range(D):
                    row, kept, scaled = old[own + i * D : own + i * D + D], new[own + i * D : own + i * D + D], key[i]
                    for j in range(D):
                        h = fade * row[j] + scaled * key[j]
                        kept[j] = h
                        copy[i, j] = h
                        square += h * h
                F[s] = np.sqrt(square)
                # From nothing on the right, x stays nothing.
                shorter[s] = short / F[s] if empty < F[s] else zero
                for i in range(D):
                    right[s, i] = shorter[s] * q[b, head, i]
                    x[s, i] = right[s, i]
                    last[s, i] = zero
            sa, sb = shorter[0], shorter[1]
            for w in weights:
                for i in range(D):
                    ya[i] = ra[i] + stay * xa[i]
                    yb[i] = rb[i] + stay * xb[i]
                # H is symmetric: its rows, side by side in memory, go into all sums at once.
                for j in range(0, whole, TOGETHER):
                    a0, a1, a2, a3 = sa * xa[j], sa * xa[j + 1], sa * xa[j + 2], sa * xa[j + 3]
                    a4, a5, a6, a7 = sa * xa[j + 4], sa * xa[j + 5], sa * xa[j + 6], sa * xa[j + 7]
                    b0, b1, b2, b3 = sb * xb[j], sb * xb[j + 1], sb * xb[j + 2], sb * xb[j + 3]
                    b4, b5, b6, b7 = sb * xb[j + 4], sb * xb[j + 5], sb * xb[j + 6], sb * xb[j + 7]
                    for i in range(D):
                        ya[i] -= ((a0 * A[j, i] + a1 * A[j + 1, i]) + (a2 * A[j + 2, i] + a3 * A[j + 3, i])) + (
                            (a4 * A[j + 4, i] + a5 * A[j + 5, i]) + (a6 * A[j + 6, i] + a7 * A[j + 7, i])
                        )
                        yb[i] -= ((b0 * B[j, i] + b1 * B[j + 1, i]) + (b2 * B[j + 2, i] + b3 * B[j + 3, i])) + (
                            (b4 * B[j + 4, i] + b5 * B[j + 5, i]) + (b6 * B[j + 6, i] + b7 * B[j + 7, i])
                        )
                for j in range(whole, D):
                    for i in range(D):
                        ya[i] -= sa * xa[j] * A[j, i]
                        yb[i] -= sb * xb[j] * B[j, i]
                for i in range(D):
                    onward = la[i] + w * (ya[i] - la[i])
                    la[i] = xa[i]
                    xa[i] = onward
                    onward = lb[i] + w * (yb[i] - lb[i])
                    lb[i] = xb[i]
                    xb[i] = onward
            for s in range(2):
                b, head = divmod(min(n + s, high * heads - 1), heads)
                old, new, fade, key = before[b], after[b], gamma[b, head], k[b, head]
                own = at + heads * D * D + head * D * V
                query, value, mix, out, spread = q[b, head], v[b, head], alpha[b, head], o[b, head], zero
                out[:] = zero
                for i in range(D):
                    spread += query[i] * x[s, i]
                    mixed, scaled = query[i] + mix * (x[s, i] - query[i]), key[i]
                    row, kept = old[own + i * V : own + i * V + V], new[own + i * V : own + i * V + V]
                    for j in range(V):
                        u = fade * row[j] + scaled * value[j]
                        kept[j] = u
                        out[j] += u * mixed
                for j in range(V):
                    out[j] *= scale
                variance[b, head] = spread if empty < F[s] else np.inf

    made: Callable[..., None] = run
    return made
