"""What KOSS's gain is measured against: the Riccati equation, its steady state, and the loop with its gain frozen.

System ẋ = A x + w, z = C x + v with white w ~ Q, v ~ R (arXiv 2512.16723, the layer's estimation model). Letters: n
states, m measured values; A (n, n), C (m, n), Q (n, n), R (m, m), K (n, m).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import expm, solve_continuous_are

from ssrtrack.errors import EstimatorError

Array = NDArray[Any]
LONGEST = 4.0  # of a step of the linear flow, in units of its norm: e^8 between its solutions, eight digits to spare


def steady_gain(A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike) -> tuple[Array, Array]:
    """K∞ = P∞ Cᵀ R⁻¹ (n, m) and P∞ (n, n), where 0 = A P + P Aᵀ + Q − P Cᵀ R⁻¹ C P (Kalman and Bucy 1961).

    Exists where (A, C) is detectable and (A, Q^½) stabilisable. A C given as one row may be (n,), an R of one (,).

    Raises:
        EstimatorError: shapes that do not fit, a Q or R that is no covariance, an R that is singular, or no steady
            state.
    """
    a, c, q, r = _system(A, C, Q, R)
    try:
        P = solve_continuous_are(a.T, c.T, q, r)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise EstimatorError(
            f"the filter has no steady state ({error}); (A, C) has to be detectable and (A, Q^½) stabilisable"
        ) from error
    return filter_gain(P, c, r), P


def filter_gain(P: Array, C: ArrayLike, R: ArrayLike) -> Array:
    """K = P Cᵀ R⁻¹ (..., n, m) of covariances P (..., n, n)."""
    c, r = np.atleast_2d(np.asarray(C, float)), np.atleast_2d(np.asarray(R, float))
    return np.asarray(np.swapaxes(np.linalg.solve(r, c @ P), -1, -2))


def riccati_flow(
    A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike, start: ArrayLike, times: Sequence[float] | Array
) -> Array:
    """P(t) (T, n, n) at rising times (T,) from P(0) = `start`: dP/dt = A P + P Aᵀ + Q − P Cᵀ R⁻¹ C P.

    Exact between two times, by the linear flow [X; Y]' = [[−Aᵀ, Cᵀ R⁻¹ C], [Q, A]] [X; Y], P = Y X⁻¹ from X = I.
    X and Y grow with the fastest mode, so a long time is cut into steps short enough that no digits are lost.

    Raises:
        EstimatorError: shapes that do not fit, a Q or R that is no covariance, or times that fall or begin before 0.
    """
    a, c, q, r = _system(A, C, Q, R)
    P, when = np.asarray(start, float), np.asarray(times, float)
    if P.shape != a.shape:
        raise EstimatorError(f"start is {P.shape}, expected {a.shape}, as A")
    if when.ndim != 1 or not np.isfinite(when).all() or np.any(np.diff(when, prepend=0.0) < 0.0):
        raise EstimatorError(f"times are {when.tolist()}, expected one row that rises from 0")
    n, out = a.shape[0], []
    flow = np.block([[-a.T, c.T @ np.linalg.solve(r, c)], [q, a]])
    for dt in np.diff(when, prepend=0.0):
        parts = max(1, math.ceil(dt * np.linalg.norm(flow, 2) / LONGEST))
        step = expm(flow * (dt / parts))
        for _ in range(parts):
            both = step @ np.vstack([np.eye(n), P])
            P = np.linalg.solve(both[:n].T, both[n:].T).T
            P = 0.5 * (P + P.T)
        out.append(P)
    return np.stack(out)


def scalar_steady_gain(A: float, C: float, Q: float, R: float) -> float:
    """K∞ = (A + √(A² + C² Q/R))/C of one state; the loop A − K∞ C then is −√(A² + C² Q/R).

    Raises:
        EstimatorError: a state that is not measured, C = 0, or measured without noise, R = 0.
    """
    if C == 0.0 or not R > 0.0:
        raise EstimatorError(f"C is {C} and R {R}; a steady gain takes a C that is not 0 and an R above 0")
    return float((A + np.sqrt(A * A + C * C * Q / R)) / C)


def discrete_steady_gain(a: float, c: float, q: float, r: float) -> float:
    """K∞ of h_t = a h_{t−1} + w, x_t = c h_t + v, w ~ q, v ~ r, one state: what `discrete` would have to find.

    K = P c/(c² P + r) with the predicted variance P, the positive root of P = a² P r/(c² P + r) + q.
    """
    if c == 0.0 or r == 0.0:
        return 0.0 if c == 0.0 else 1.0 / c
    middle = r * (1.0 - a * a) - c * c * q
    P = (-middle + np.sqrt(middle * middle + 4.0 * c * c * q * r)) / (2.0 * c * c)
    return float(P * c / (c * c * P + r))


def frozen_transfer(
    operator: str, frequency: ArrayLike, *, gain: float, read: float, delta: float, rate: float
) -> Array:
    """x → h of one state with its gain frozen, complex, at frequencies in cycles a step; steps of length Δ = `delta`.

    ẋ is the backward difference, τ = 0, κ = K c, E = e^{ΔA}, q = e^{−i2πf}, φ1(z) = (e^z − 1)/z:

        discrete, kalman (one state, c = 1)   K/(1 − (1 − κ) E q)
        exact                                 K
        neumann   φ1 K ((1 − q) − (1 − κ) ΔA)/(1 − e^z q)         z = Δ (1 − κ²) A
        bucy      φ1 K Δ/(1 − e^z q)                              z = Δ (A − κ)

    `exact` passes K x and remembers nothing of x while its gain rests: (sI − A_K)⁻¹ (sK − A_K K) = K, and its step
    h = E (h − K x_{t−1}) + K x_t does so for every length of the steps.
    `neumann` tends to K (s − (1 − κ) A)/(s − (1 − κ²) A): a pole and a zero that nearly meet.

    Raises:
        EstimatorError: an operator that is not known.
    """
    q = np.exp(-2j * np.pi * np.asarray(frequency, float))
    kappa, E = gain * read, np.exp(delta * rate)
    if operator in ("discrete", "kalman"):
        return np.asarray(gain / (1.0 - (1.0 - kappa) * E * q))
    if operator == "exact":
        return np.full(q.shape, complex(gain))
    if operator not in ("neumann", "bucy"):
        raise EstimatorError(f"operator {operator!r} is not one of discrete, neumann, kalman, exact, bucy")
    z = delta * ((1.0 - kappa**2) * rate if operator == "neumann" else rate - kappa)
    phi = np.expm1(z) / z if z else 1.0
    driven = (1.0 - q) - (1.0 - kappa) * delta * rate if operator == "neumann" else delta
    return np.asarray(phi * gain * driven / (1.0 - np.exp(z) * q))


def _system(A: ArrayLike, C: ArrayLike, Q: ArrayLike, R: ArrayLike) -> tuple[Array, Array, Array, Array]:
    a, c, q, r = (np.atleast_2d(np.asarray(v, float)) for v in (A, C, Q, R))
    n, m = a.shape[0], c.shape[0]
    for name, v, shape in (("A", a, (n, n)), ("C", c, (m, n)), ("Q", q, (n, n)), ("R", r, (m, m))):
        if v.shape != shape:
            raise EstimatorError(f"{name} is {v.shape}, expected {shape} for {n} states and {m} measured values")
    for name, v in (("Q", q), ("R", r)):
        least = float(np.linalg.eigvalsh(v).min())
        if not np.allclose(v, v.T) or least < -1e-9 * np.abs(v).max():
            raise EstimatorError(f"{name} is no covariance: it has to be symmetric, without negative eigenvalues")
    if np.linalg.matrix_rank(r) < m:
        raise EstimatorError("R is singular; every measured value has to have noise")
    return a, c, q, r
