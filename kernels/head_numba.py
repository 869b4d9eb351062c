"""Two dense layers with SiLU between them, for many rows at once on a CPU: a learned tracker's head of predictions.

torch would take as long, and its threads, which go on waiting for more work, would hold up whoever comes next.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.kernels.lanes_numba import LANES, PANEL, ROWS, load, panelled, product, revision, silu, store, wide
from ssrtrack.kernels.sharing import shared_out

Array = NDArray[Any]
TILE = 12 * ROWS


class Head(NamedTuple):
    """Inputs and outputs, and the weights as `product` reads them."""

    inputs: int
    outputs: int
    inward: Array
    inward_bias: Array
    outward: Array
    outward_bias: Array


def packed_head(inward: Array, inward_bias: Array, outward: Array, outward_bias: Array) -> Head:
    """Of weights (K, hidden), (hidden,), (hidden, R), (R,).

    Raises:
        ValueError: shapes that do not fit.
    """
    hidden, outputs = outward.shape
    if inward.shape[1] != hidden or inward_bias.shape != (hidden,) or outward_bias.shape != (outputs,):
        shapes = [part.shape for part in (inward, inward_bias, outward, outward_bias)]
        raise ValueError(f"weights are {shapes}, expected (K, hidden), (hidden,), (hidden, R), (R,)")
    # What fills up the hidden layer is SiLU of 0, which is 0.
    filled = np.zeros((wide(hidden, PANEL), outputs), np.float32)
    filled[:hidden] = outward
    biases = [np.zeros(wide(len(bias), PANEL), np.float32) for bias in (inward_bias, outward_bias)]
    for whole, bias in zip(biases, (inward_bias, outward_bias), strict=True):
        whole[: len(bias)] = bias
    return Head(len(inward), outputs, panelled(inward), biases[0], panelled(filled), biases[1])


def head_numbers(head: Head, x: Array, *, threads: int) -> Array:
    """W₂ᵀ SiLU(W₁ᵀ x + b₁) + b₂ (N, R) of rows x (N, K), float32 and contiguous, on at most so many threads.

    Raises:
        ValueError: rows of another length, or not contiguous float32.
    """
    if x.ndim != 2 or x.shape[1] != head.inputs or x.dtype != np.float32 or not x.flags.c_contiguous:
        raise ValueError(f"x is {x.dtype} {x.shape}, expected contiguous float32 (N, {head.inputs})")
    out = np.empty((len(x), head.outputs), np.float32)
    flat, there = x.ravel(), out.ravel()
    shared_out(lambda begin, end: _run(head, flat, there, begin, end), len(x), threads)
    return out


_set = product("set")


def _made(source: int) -> Callable[..., None]:
    @njit(cache=True, nogil=True)
    def run(head: Any, x: Any, out: Any, begin: Any, end: Any) -> None:
        made_from = source  # noqa: F841  # so that numba compiles anew where it is another
        K, R, hidden, across = head.inputs, head.outputs, head.inward_bias.size, head.outward_bias.size
        told, between = np.zeros(TILE * K, np.float32), np.zeros(TILE * hidden, np.float32)
        said = np.zeros(TILE * across, np.float32)
        for low in range(begin, end, TILE):
            rows = min(TILE, end - low)
            told[: rows * K] = x[low * K : (low + rows) * K]
            _set(told, K, head.inward, K, head.inward_bias, between, hidden, wide(rows, ROWS), hidden)
            for i in range(0, rows * hidden, LANES):
                store(between, i, silu(load(between, i)))
            _set(between, hidden, head.outward, hidden, head.outward_bias, said, across, wide(rows, ROWS), across)
            for r in range(rows):
                for j in range(R):
                    out[(low + r) * R + j] = said[r * across + j]

    made: Callable[..., None] = run
    return made


_run = _made(revision())
