"""Small Triton kernels around the pieces of `koss_math`, so that tests can call them on rows of numbers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import torch
import triton
import triton.language as tl

from ssrtrack.kernels import koss_math as pieces

Tensor = torch.Tensor


@triton.jit
def _gate(given, out, OP: tl.constexpr, M: tl.constexpr):
    i = tl.arange(0, M)
    e = tl.load(given + i)
    s, rest = pieces.saturation(e)
    K = pieces.gain(OP, e)
    tl.store(out + i, s)
    tl.store(out + M + i, pieces.saturation_slope(e, rest))
    tl.store(out + 2 * M + i, K)
    tl.store(out + 3 * M + i, pieces.gain_slope(OP, K))


@triton.jit
def _step(given, out, OP: tl.constexpr, M: tl.constexpr):
    i = tl.arange(0, M)
    h = tl.load(given + i)
    A = tl.load(given + M + i)
    delta = tl.load(given + 2 * M + i)
    K = tl.load(given + 3 * M + i)
    c = tl.load(given + 4 * M + i)
    x = tl.load(given + 5 * M + i)
    slope = tl.load(given + 6 * M + i)
    lead = tl.load(given + 7 * M + i)
    G = tl.load(given + 8 * M + i)
    E = tl.exp2(delta * (A * pieces.LOG2E))
    p = E * h
    v = pieces.drive(OP, x, slope, lead)
    if OP == pieces.KALMAN:
        v = v - c * p
    carry, q, gK, gc, gx, g_slope, gv, g_delta = pieces.retreat(OP, G, G * K * c, h, p, E, A, delta, K, c, x, slope, v)
    if OP == pieces.DISCRETE or OP == pieces.KALMAN:
        gx = gx + gv
    tl.store(out + i, pieces.advance(OP, h, p, A, delta, K, c, x, slope, v))
    tl.store(out + M + i, carry)
    tl.store(out + 2 * M + i, q * delta)
    tl.store(out + 3 * M + i, g_delta + q * A)
    tl.store(out + 4 * M + i, gK)
    tl.store(out + 5 * M + i, gc)
    tl.store(out + 6 * M + i, gx)
    tl.store(out + 7 * M + i, g_slope + lead * gv)
    tl.store(out + 8 * M + i, gv * slope)


def gate(operator: str, e: Tensor) -> Tensor:
    """Rows s, ds/de, K(z = e), dK/dz for e (M,), M a power of two."""
    out = torch.full((4, e.shape[0]), float("nan"), device=e.device)
    _gate[(1,)](e, out, pieces.CODES[operator], e.shape[0])
    return out


def step(operator: str, given: Tensor) -> Tensor:
    """The state after a step of one state a channel: rows h, A, Δ, K, c, x, ẋ, τ, G (9, M)."""
    return _both(operator, given)[0]


def step_gradients(operator: str, given: Tensor) -> Tensor:
    """Gradients of the first eight rows (8, M) from G."""
    return _both(operator, given)[1:]


def _both(operator: str, given: Tensor) -> Tensor:
    out = torch.full((9, given.shape[1]), float("nan"), device=given.device)
    _step[(1,)](given.contiguous(), out, pieces.CODES[operator], given.shape[1])
    return out
