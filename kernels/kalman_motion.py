"""Motion models over scalars (see `kalman_algebra`): prediction of mean and covariance over a step of dt seconds.

State x, y (m), vx, vy (m/s), then ax, ay (m/s²) or the turn rate ω (rad/s). Formulas and sources are those of
`ssrtrack.filters.motion`, which the tests compare with. All models are invariant under a shift of position, so
positions are moved relative to the mean: in float32 the digits then go to what changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt as root_of

import numpy as np

from ssrtrack.kernels.kalman_algebra import (
    Matrix,
    Scalar,
    Vector,
    cholesky,
    congruence,
    identity,
    minus,
    plus,
    solve_upper,
    times,
    times_vector,
    total,
    transposed,
    weighted_spread,
    where,
    zeros,
)

# Gauss-Legendre quadrature on [−1, 1], as in ssrtrack.filters.motion.singer.
NODES, WEIGHTS = (values.tolist() for values in np.polynomial.legendre.leggauss(12))

SERIES_BELOW = 0.1  # |ωT| under which series take over: above, float32 keeps five digits of the derivatives


@dataclass(frozen=True)
class Kind:
    """A model's number of components, and how many parameters it takes."""

    size: int
    parameters: int


# cv: q (m²/s³) · ca: q (m²/s⁵), σ_entry (m/s²) · singer: σ (m/s²), τ (s) · ct: ω₀, σ_ω (rad/s), τ (s), q (m²/s³)
KINDS = {"cv": Kind(4, 1), "ca": Kind(6, 2), "singer": Kind(6, 2), "ct": Kind(5, 4)}

Moved = tuple[Vector, Matrix, Matrix]


def entry(kind: str, p: Sequence[Scalar]) -> tuple[Vector, Vector]:
    """Mean and variance of the components after the fourth, for a flight that enters the model."""
    if kind == "cv":
        return [], []
    if kind == "ct":
        return [p[0]], [times(p[1], p[1])]
    sigma = p[1] if kind == "ca" else p[0]
    return [0.0, 0.0], [times(sigma, sigma)] * 2


def ahead(kind: str, p: Sequence[Scalar], engine: str, x: Vector, P: Matrix, dt: Scalar) -> Moved:
    """Predicted mean, covariance, and the F by which the predicted state depends on x.

    F is the transition matrix of a linear model; the Jacobian (extended), or the statistical linearisation by sigma
    points (Särkkä 2008), of a turn.
    """
    Q = process_noise(kind, p, dt)
    if kind == "ct" and engine != "extended":
        return _by_sigma_points(p, engine, x, P, Q, dt)
    if kind == "ct":
        F = _turn_jacobian(p, x, dt)
        return _turned(p, x, dt), congruence(F, P, Q), F
    F = transition(kind, p, dt)
    return times_vector(F, x), congruence(F, P, Q), F


def transition(kind: str, p: Sequence[Scalar], dt: Scalar) -> Matrix:
    """F of a linear model."""
    F = identity(KINDS[kind].size)
    if kind == "cv":
        F[0][2] = F[1][3] = dt
        return F
    position, velocity, acceleration = (dt * dt * 0.5, dt, 1.0) if kind == "ca" else _response(dt, p[1])
    for axis in (0, 1):
        F[axis][2 + axis], F[axis][4 + axis] = dt, position
        F[2 + axis][4 + axis], F[4 + axis][4 + axis] = velocity, acceleration
    return F


def process_noise(kind: str, p: Sequence[Scalar], dt: Scalar) -> Matrix:
    """Q of any model."""
    Q = zeros(KINDS[kind].size)
    if kind in ("cv", "ct"):
        _add_white_acceleration(Q, p[0] if kind == "cv" else p[3], dt)
    if kind == "ct":
        Q[4][4] = -(p[1] * p[1]) * (dt * (-2.0 / p[2])).expm1()
    if kind in ("ca", "singer"):
        block = _jerk_block(p[0], dt) if kind == "ca" else _singer_block(p[0], p[1], dt)
        for axis in (0, 1):
            for i in range(3):
                for j in range(3):
                    Q[axis + 2 * i][axis + 2 * j] = block[i][j]
    return Q


def _add_white_acceleration(Q: Matrix, q: Scalar, dt: Scalar) -> None:
    v = q * dt
    pv = v * dt * 0.5
    pp = pv * dt * (2.0 / 3.0)
    for axis in (0, 1):
        Q[axis][axis], Q[2 + axis][2 + axis] = pp, v
        Q[axis][2 + axis] = Q[2 + axis][axis] = pv


def _jerk_block(q: Scalar, dt: Scalar) -> Matrix:
    dt2 = dt * dt
    dt3 = dt2 * dt
    pp, pv, pa = q * dt2 * dt3 * 0.05, q * dt2 * dt2 * 0.125, q * dt3 * (1.0 / 6.0)
    vv, va, aa = q * dt3 * (1.0 / 3.0), q * dt2 * 0.5, q * dt
    return [[pp, pv, pa], [pv, vv, va], [pa, va, aa]]


def _singer_block(sigma: Scalar, tau: Scalar, dt: Scalar) -> Matrix:
    weights, responses = [], []
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        responses.append(list(_response(dt * (0.5 * (1.0 + node)), tau)))
        weights.append(dt * weight * (sigma * sigma / tau))
    return weighted_spread(weights, responses, zeros(3))


def _response(dt: Scalar, tau: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Position, velocity and acceleration dt after a unit step of a decaying acceleration (Singer 1970)."""
    u = dt * (1.0 / tau)
    raised = (-u).expm1()
    # u − 1 + e^−u loses all its digits for small u: its series takes over.
    series = u * u * (1.0 / 2.0 - u * (1.0 / 6.0 - u * (1.0 / 24.0 - u * (1.0 / 120.0 - u * (1.0 / 720.0)))))
    position = tau * tau * where(u > 1e-2, u + raised, series)
    return position, -tau * raised, raised + 1.0


def _turned(p: Sequence[Scalar], x: Vector, dt: Scalar) -> Vector:
    shift, velocity = _turned_velocity(x[2], x[3], x[4], dt)
    rate = p[0] + (dt * (-1.0 / p[2])).exp() * (x[4] - p[0])
    return [x[0] + shift[0], x[1] + shift[1], *velocity, rate]


def _turned_velocity(vx: Scalar, vy: Scalar, omega: Scalar, dt: Scalar) -> tuple[Vector, Vector]:
    """Change of position and velocity after dt at turn rate ω."""
    s, c, sin, cos, _, _ = _turn_terms(omega, dt)
    return [s * vx - c * vy, c * vx + s * vy], [cos * vx - sin * vy, sin * vx + cos * vy]


def _turn_jacobian(p: Sequence[Scalar], x: Vector, dt: Scalar) -> Matrix:
    s, c, sin, cos, ds, dc = _turn_terms(x[4], dt)
    vx, vy = x[2], x[3]
    turned_x, turned_y = cos * vx - sin * vy, sin * vx + cos * vy
    F = identity(5)
    F[0][2], F[0][3], F[0][4] = s, -c, ds * vx - dc * vy
    F[1][2], F[1][3], F[1][4] = c, s, dc * vx + ds * vy
    F[2][2], F[2][3], F[2][4] = cos, -sin, -dt * turned_y
    F[3][2], F[3][3], F[3][4] = sin, cos, dt * turned_x
    F[4][4] = (dt * (-1.0 / p[2])).exp()
    return F


def _turn_terms(omega: Scalar, dt: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar, Scalar, Scalar]:
    """sin(ωT)/ω, (1 − cos ωT)/ω, sin ωT, cos ωT, and the first two's derivatives by ω; all from the half angle."""
    u = omega * dt
    h = u * 0.5
    sine, cosine = h.sin(), h.cos()
    small = u * u < SERIES_BELOW**2
    h2, per_h = h * h, 1.0 / where(small, 1.0, h)
    # sin(h)/h; then sin u / u and (1 − cos u)/u without a difference.
    ratio = where(small, _series(h2, lambda k: 1.0 / _factorial(2 * k + 1)), sine * per_h)
    s, c = ratio * cosine, ratio * sine
    sin, cos = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    u2, per_u = u * u, per_h * 0.5
    ds = where(small, -u * _series(u2, lambda k: (2.0 * k + 2.0) / _factorial(2 * k + 3)), (cos - s) * per_u)
    dc = where(small, _series(u2, lambda k: (2.0 * k + 1.0) / _factorial(2 * k + 2)), (sin - c) * per_u)
    return s * dt, c * dt, sin, cos, ds * dt * dt, dc * dt * dt


def _series(u2: Scalar, size: Callable[[int], float]) -> Scalar:
    """Σ (−1)ᵏ size(k) u²ᵏ to the last digit of float64 for |u| < SERIES_BELOW."""
    out: Scalar = size(5)
    for k in range(4, -1, -1):
        out = size(k) - u2 * out
    return out


def _factorial(n: int) -> float:
    return 1.0 if n < 2 else n * _factorial(n - 1)


def sigma_points(engine: str, P: Matrix) -> tuple[list[Vector], list[float]]:
    """Offsets from the mean and weights: Julier's points with κ = 1 (unscented), or cubature points (no centre)."""
    n = len(P)
    kappa = 1.0 if engine == "unscented" else 0.0
    scale = root_of(n + kappa)
    columns = [[times(v, scale) for v in column] for column in transposed(cholesky(P))]
    offsets = columns + [[minus(0.0, v) for v in column] for column in columns]
    weights = [0.5 / (n + kappa)] * (2 * n)
    if kappa:
        offsets.insert(0, [0.0] * n)
        weights.insert(0, kappa / (n + kappa))
    return offsets, weights


def _by_sigma_points(p: Sequence[Scalar], engine: str, x: Vector, P: Matrix, Q: Matrix, dt: Scalar) -> Moved:
    offsets, weights = sigma_points(engine, P)
    decay = (dt * (-1.0 / p[2])).exp()
    moved = []
    for o in offsets:
        shift, velocity = _turned_velocity(plus(x[2], o[2]), plus(x[3], o[3]), plus(x[4], o[4]), dt)
        rate = p[0] + decay * (plus(x[4], o[4]) - p[0])
        moved.append([plus(shift[0], o[0]), plus(shift[1], o[1]), *velocity, rate])
    centre = [total([times(w, m[i]) for w, m in zip(weights, moved, strict=True)]) for i in range(5)]
    spread = [[minus(m[i], centre[i]) for i in range(5)] for m in moved]
    covariance = weighted_spread(weights, spread, Q)
    mean = [x[0] + centre[0], x[1] + centre[1], *centre[2:]]
    return mean, covariance, _regression(engine, P, spread)


def _regression(engine: str, P: Matrix, spread: list[Vector]) -> Matrix:
    """F = (cross-covariance)ᵀ P⁻¹; with points ± √c L_k of equal weight that is F L = D, D_k = (m₊ − m₋)_k / 2√c."""
    n = len(P)
    scale = root_of(n + (1.0 if engine == "unscented" else 0.0))
    pairs = spread[-2 * n :]
    columns = [[(a - b) * (0.5 / scale) for a, b in zip(pairs[k], pairs[n + k], strict=True)] for k in range(n)]
    L = cholesky(P)
    # Lᵀ Fᵀ = Dᵀ: each row of F solves Lᵀ f = d.
    return [solve_upper(L, row) for row in transposed(columns)]
