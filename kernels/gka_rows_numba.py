"""One step of Gated KalmaNet for many sequences whose memories lie in rows of numbers, compiled for a CPU's cores.

The equations of `gka_numba`, with the same iterations, for who keeps what a layer remembers of a sequence among other
numbers in one row: (H, U) are read from the rows before and written to those after, and no copy is made between. With
thousands of sequences that is what a step's time goes into. D and V are known to the compiler.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.gka_form import EMPTY, GkaForm, relaxations, shortest_step
from ssrtrack.kernels.gka_numba import FAST

Array = NDArray[Any]
LEAST = 64  # sequences worth a thread of their own
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
    parts = max(1, min(threads, count // LEAST))
    ends = [count * part // parts for part in range(parts + 1)]

    def work(part: int) -> None:
        run(q, k, v, gamma, alpha, before, after, at, *found, weights, *numbers, ends[part], ends[part + 1])

    if parts == 1:
        work(0)
    else:
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(work, range(parts)))
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
        A = np.empty((D, D), np.float32)
        right, x = np.empty(D, np.float32), np.empty(D, np.float32)
        last, y = np.empty(D, np.float32), np.empty(D, np.float32)
        stay = one - short * ridge
        for b in range(low, high):
            old, new = before[b], after[b]
            for head in range(q.shape[1]):
                own, fade, mix = at + head * D * D, gamma[b, head], alpha[b, head]
                key, query, value = k[b, head], q[b, head], v[b, head]
                square = zero
                for i in range(D):
                    row, kept, scaled = old[own + i * D : own + i * D + D], new[own + i * D : own + i * D + D], key[i]
                    for j in range(D):
                        h = fade * row[j] + scaled * key[j]
                        kept[j] = h
                        A[i, j] = h
                        square += h * h
                F = np.sqrt(square)
                x[:] = zero
                if empty < F:
                    shorter = short / F
                    for i in range(D):
                        right[i] = shorter * query[i]
                        x[i] = right[i]
                        last[i] = zero
                    for w in weights:
                        for i in range(D):
                            y[i] = right[i] + stay * x[i]
                        # H is symmetric: its rows, side by side in memory, go into all sums at once.
                        for j in range(0, whole, TOGETHER):
                            c0, c1, c2, c3 = x[j], x[j + 1], x[j + 2], x[j + 3]
                            c4, c5, c6, c7 = x[j + 4], x[j + 5], x[j + 6], x[j + 7]
                            for i in range(D):
                                y[i] -= shorter * (
                                    ((c0 * A[j, i] + c1 * A[j + 1, i]) + (c2 * A[j + 2, i] + c3 * A[j + 3, i]))
                                    + ((c4 * A[j + 4, i] + c5 * A[j + 5, i]) + (c6 * A[j + 6, i] + c7 * A[j + 7, i]))
                                )
                        for j in range(whole, D):
                            for i in range(D):
                                y[i] -= shorter * (x[j] * A[j, i])
                        for i in range(D):
                            onward = last[i] + w * (y[i] - last[i])
                            last[i] = x[i]
                            x[i] = onward
                out = o[b, head]
                out[:] = zero
                spread, own = zero, at + q.shape[1] * D * D + head * D * V
                for i in range(D):
                    spread += query[i] * x[i]
                    mixed, scaled = query[i] + mix * (x[i] - query[i]), key[i]
                    row, kept = old[own + i * V : own + i * V + V], new[own + i * V : own + i * V + V]
                    for j in range(V):
                        u = fade * row[j] + scaled * value[j]
                        kept[j] = u
                        out[j] += u * mixed
                for j in range(V):
                    out[j] *= scale
                variance[b, head] = spread if empty < F else np.inf

    made: Callable[..., None] = run
    return made
