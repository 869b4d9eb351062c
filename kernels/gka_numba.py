"""One step of Gated KalmaNet for many sequences, compiled for a CPU's cores.

The equations of `gka.gka_step`, one head of one sequence after another: its H stays in a core's cache through all
iterations, where torch's batched products would fetch every H of all sequences once an iteration. Arrays are contiguous
and all in one precision, float32 or float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.gka_form import EMPTY, GkaForm, relaxations, shortest_step
from ssrtrack.kernels.sharing import shared_out

Array = NDArray[Any]
# Sums may be reordered and products fused; infinities and NaN keep their meaning.
FAST = {"reassoc", "contract"}


class Stepped(NamedTuple):
    """o (n, V), H (n, D, D), U (n, D, V), and qᵀ(H + λ I)⁻¹q (n,), infinite where the memory is empty."""

    o: Array
    H: Array
    U: Array
    variance: Array


def step(
    q: Array, k: Array, v: Array, gamma: Array, alpha: Array, H: Array, U: Array, form: GkaForm, *, threads: int
) -> Stepped:
    """q, k (n, D), v (n, V), γ and α (n,), the state before (n, D, D) and (n, D, V): n heads of sequences.

    H is averaged with its transpose. Nothing given is written to.
    """
    found = Stepped(np.empty_like(v), np.empty_like(H), np.empty_like(U), np.empty_like(gamma))
    short, rho = shortest_step(form.ridge)
    numbers = _as(q.dtype, short, form.ridge, form.scale, EMPTY)
    weights = np.array(relaxations(rho, form.steps), q.dtype)
    compiled: Any = _step

    def work(begin: int, end: int) -> None:
        compiled(q, k, v, gamma, alpha, H, U, *found, weights, *numbers, begin, end)

    shared_out(work, len(q), threads)
    return found


def _as(dtype: Any, *numbers: float) -> Sequence[Any]:
    """Numbers in the arrays' precision, so that nothing is computed in another."""
    return [dtype.type(number) for number in numbers]


@njit(cache=True, nogil=True, fastmath=FAST)
def _step(
    q: Any,
    k: Any,
    v: Any,
    gamma: Any,
    alpha: Any,
    H: Any,
    U: Any,
    o: Any,
    new_H: Any,
    new_U: Any,
    variance: Any,
    weights: Any,
    short: Any,
    ridge: Any,
    scale: Any,
    empty: Any,
    low: Any,
    high: Any,
) -> None:
    D, V = q.shape[1], v.shape[1]
    D4 = D // 4 * 4
    zero, one, half = q.dtype.type(0.0), q.dtype.type(1.0), q.dtype.type(0.5)
    A = np.empty((D, D), q.dtype)
    right, x, before, y = np.empty(D, q.dtype), np.empty(D, q.dtype), np.empty(D, q.dtype), np.empty(D, q.dtype)
    for n in range(low, high):
        square = zero
        for i in range(D):
            for j in range(D):
                h = gamma[n] * (half * (H[n, i, j] + H[n, j, i])) + k[n, i] * k[n, j]
                new_H[n, i, j] = h
                square += h * h
            for j in range(V):
                new_U[n, i, j] = gamma[n] * U[n, i, j] + k[n, i] * v[n, j]
        F = np.sqrt(square)
        x[:] = zero
        if empty < F:
            shorter = short / F
            for i in range(D):
                for j in range(D):
                    A[i, j] = -shorter * new_H[n, i, j]
                A[i, i] += one - short * ridge
                right[i] = shorter * q[n, i]
            x[:] = right
            before[:] = zero
            for w in weights:
                y[:] = right
                # A is symmetric: four of its rows at a time, side by side in memory, into all sums at once.
                for j in range(0, D4, 4):
                    a, b, c, d = x[j], x[j + 1], x[j + 2], x[j + 3]
                    for i in range(D):
                        y[i] += a * A[j, i] + b * A[j + 1, i] + c * A[j + 2, i] + d * A[j + 3, i]
                for j in range(D4, D):
                    for i in range(D):
                        y[i] += x[j] * A[j, i]
                for i in range(D):
                    onward = before[i] + w * (y[i] - before[i])
                    before[i] = x[i]
                    x[i] = onward
        spread = zero
        o[n] = zero
        for i in range(D):
            spread += q[n, i] * x[i]
            mixed = q[n, i] + alpha[n] * (x[i] - q[n, i])
            for j in range(V):
                o[n, j] += new_U[n, i, j] * mixed
        for j in range(V):
            o[n, j] *= scale
        variance[n] = spread if empty < F else np.inf
