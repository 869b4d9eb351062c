"""Motion models with true time steps: constant velocity, constant acceleration, Singer, coordinated turn.

A state begins with x, y (m), vx, vy (m/s); a model may add components of its own (acceleration, turn rate). Noise is
continuous in time, so that two short steps and one long one agree (of a turn, nearly). Source: Bar-Shalom, Li and
Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), ch. 6, 8 and 11; Singer 1970, IEEE T-AES
6(4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError

Array = NDArray[Any]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True, eq=False)
class Motion:
    """One motion model over n state components.

    matrices(dt (N,)) gives Q (N, n, n), and F (N, n, n) if the model is linear (else None). move(x (..., n), dt (...))
    and jacobian(x (N, n), dt (N,)) serve the nonlinear ones. A flight that enters the model, at the start of a track
    or from another model, draws the components after the fourth from N(entry_mean, diag(entry_variance)), (n − 4,).
    kind and parameters say the same to the batched engine (`ssrtrack.kernels.kalman_motion.KINDS`).
    """

    kind: str
    parameters: tuple[float, ...]
    name: str
    size: int
    matrices: Callable[[Array], tuple[Array | None, Array]]
    move: Callable[[Array, Array], Array]
    jacobian: Callable[[Array, Array], Array]
    entry_mean: Array
    entry_variance: Array


def constant_velocity(q_m2s3: float, name: str = "CV") -> Motion:
    """White acceleration of power spectral density q (m²/s³) on x and on y (Bar-Shalom section 6.2.2)."""
    _check_positive(name, q_m2s3=q_m2s3)

    def matrices(dt: Array) -> tuple[Array, Array]:
        F = _eye(dt, 4)
        F[:, 0, 2] = F[:, 1, 3] = dt
        return F, white_acceleration(q_m2s3, dt)

    return _linear("cv", (q_m2s3,), name, 4, matrices, 0.0)


def white_acceleration(q_m2s3: float, dt: Array) -> Array:
    """Covariance (N, 4, 4) that white acceleration of density q adds to x, y, vx, vy in dt (N,)."""
    Q = np.zeros((dt.size, 4, 4))
    for p, v in ((0, 2), (1, 3)):
        Q[:, p, p], Q[:, v, v] = q_m2s3 * dt**3 / 3.0, q_m2s3 * dt
        Q[:, p, v] = Q[:, v, p] = q_m2s3 * dt**2 / 2.0
    return Q


def singer(sigma_mps2: float, tau_s: float, name: str = "Singer") -> Motion:
    """Acceleration as a first-order Gauss-Markov process of standard deviation σ and time constant τ (Singer 1970).

    State x, y, vx, vy, ax, ay. Q = (2σ²/τ) ∫₀ᵀ g(s) g(s)ᵀ ds with g the response to a unit step of acceleration s
    ago, by Gauss-Legendre quadrature: exact to rounding for T ≤ 5 τ and positive semidefinite by construction, where
    the closed form cancels for T ≪ τ.
    """
    _check_positive(name, sigma_mps2=sigma_mps2, tau_s=tau_s)

    def response(s: Array) -> tuple[Array, Array, Array]:
        u = s / tau_s
        # (u − 1 + e^−u) loses all its digits for small u: its series takes over.
        position = tau_s**2 * np.where(u > 1e-2, u + np.expm1(-u), u**2 / 2.0 - u**3 / 6.0 + u**4 / 24.0 - u**5 / 120.0)
        return position, -tau_s * np.expm1(-u), np.exp(-u)

    def matrices(dt: Array) -> tuple[Array, Array]:
        F, Q = _eye(dt, 6), np.zeros((dt.size, 6, 6))
        p, v, a = response(dt)
        s = dt[:, None] * (_NODES + 1.0) / 2.0
        g = np.stack(response(s), -1)
        block = np.einsum("nk,nki,nkj->nij", dt[:, None] * _WEIGHTS * (sigma_mps2**2 / tau_s), g, g)
        for axis in (0, 1):
            F[:, axis, 2 + axis], F[:, axis, 4 + axis], F[:, 2 + axis, 4 + axis] = dt, p, v
            F[:, 4 + axis, 4 + axis] = a
            Q[:, axis::2, axis::2] = block
        return F, Q

    return _linear("singer", (sigma_mps2, tau_s), name, 6, matrices, sigma_mps2**2)


def constant_acceleration(q_m2s5: float, entry_sigma_mps2: float, name: str = "CA") -> Motion:
    """White jerk of power spectral density q (m²/s⁵) on x and on y (Bar-Shalom section 6.2.3); state as in `singer`."""
    _check_positive(name, q_m2s5=q_m2s5, entry_sigma_mps2=entry_sigma_mps2)

    def matrices(dt: Array) -> tuple[Array, Array]:
        F, Q = _eye(dt, 6), np.zeros((dt.size, 6, 6))
        powers = np.array([[20.0, 8.0, 6.0], [8.0, 3.0, 2.0], [6.0, 2.0, 1.0]])
        exponents = np.array([[5, 4, 3], [4, 3, 2], [3, 2, 1]])
        block = q_m2s5 * dt[:, None, None] ** exponents / powers
        for axis in (0, 1):
            F[:, axis, 2 + axis], F[:, axis, 4 + axis], F[:, 2 + axis, 4 + axis] = dt, dt**2 / 2.0, dt
            Q[:, axis::2, axis::2] = block
        return F, Q

    return _linear("ca", (q_m2s5, entry_sigma_mps2), name, 6, matrices, entry_sigma_mps2**2)


def coordinated_turn(
    rate_radps: float, rate_sigma_radps: float, tau_s: float, q_m2s3: float, name: str = "CT"
) -> Motion:
    """A turn whose rate ω (rad/s, positive to the left) is estimated: state x, y, vx, vy, ω.

    Position and velocity turn with ω over the step (Bar-Shalom section 11.7) and carry white acceleration q; ω
    returns to `rate_radps` with time constant τ and stationary deviation σ, which is also what a flight that starts
    to turn draws its rate from. So one model covers shallow and standard-rate turns, and left and right keep apart.

    Unlike the linear models, a step is not the sum of two halves: ω is held while it turns the velocity, so its noise
    reaches position and velocity one step late. At 1.5 °/s the velocity's variance is 5 % too small after 4 s, 20 %
    after 8 s and 33 % after 12 s (`tests/test_engine_turn.py`).
    """
    _check_positive(name, rate_sigma_radps=rate_sigma_radps, tau_s=tau_s, q_m2s3=q_m2s3)

    def matrices(dt: Array) -> tuple[None, Array]:
        Q = np.zeros((dt.size, 5, 5))
        Q[:, :4, :4] = straight.matrices(dt)[1]
        Q[:, 4, 4] = -(rate_sigma_radps**2) * np.expm1(-2.0 * dt / tau_s)
        return None, Q

    def move(x: Array, dt: Array) -> Array:
        s, c, sin, cos = _turn_terms(x[..., 4], dt)[:4]
        vx, vy, omega = x[..., 2], x[..., 3], x[..., 4]
        rate = rate_radps + np.exp(-dt / tau_s) * (omega - rate_radps)
        parts = (
            x[..., 0] + s * vx - c * vy,
            x[..., 1] + c * vx + s * vy,
            cos * vx - sin * vy,
            sin * vx + cos * vy,
            rate,
        )
        return np.stack(parts, -1)

    def jacobian(x: Array, dt: Array) -> Array:
        s, c, sin, cos, ds, dc = _turn_terms(x[:, 4], dt)
        vx, vy = x[:, 2], x[:, 3]
        F = _eye(dt, 5)
        F[:, 0, 2], F[:, 0, 3], F[:, 1, 2], F[:, 1, 3] = s, -c, c, s
        F[:, 2, 2], F[:, 2, 3], F[:, 3, 2], F[:, 3, 3] = cos, -sin, sin, cos
        F[:, 0, 4], F[:, 1, 4] = ds * vx - dc * vy, dc * vx + ds * vy
        F[:, 2, 4], F[:, 3, 4] = -dt * (sin * vx + cos * vy), dt * (cos * vx - sin * vy)
        F[:, 4, 4] = np.exp(-dt / tau_s)
        return F

    straight = constant_velocity(q_m2s3)
    parameters = (rate_radps, rate_sigma_radps, tau_s, q_m2s3)
    entry = np.array([rate_radps]), np.array([rate_sigma_radps**2])
    return Motion("ct", parameters, name, 5, matrices, move, jacobian, *entry)


def _check_positive(model: str, **values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0.0):
            raise EstimatorError(f"motion model {model}: {name}={value} must be a positive number")


def _turn_terms(omega: Array, dt: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
    """sin(ωT)/ω, (1 − cos ωT)/ω, sin ωT, cos ωT, and the first two's derivatives by ω; series near ω = 0."""
    u = omega * dt
    sin, cos = np.sin(u), np.cos(u)
    small = np.abs(u) < 1e-3
    safe = np.where(small, 1.0, u)
    s = np.where(small, 1.0 - u**2 / 6.0, sin / safe) * dt
    c = np.where(small, u / 2.0 - u**3 / 24.0, (1.0 - cos) / safe) * dt
    ds = np.where(small, -u / 3.0 + u**3 / 30.0, (u * cos - sin) / safe**2) * dt**2
    dc = np.where(small, 0.5 - u**2 / 8.0, (u * sin - 1.0 + cos) / safe**2) * dt**2
    return s, c, sin, cos, ds, dc


def _linear(
    kind: str,
    parameters: tuple[float, ...],
    name: str,
    size: int,
    matrices: Callable[[Array], tuple[Array, Array]],
    entry_variance: float,
) -> Motion:
    def move(x: Array, dt: Array) -> Array:
        step = np.broadcast_to(np.asarray(dt, np.float64), x.shape[:-1])
        F = matrices(step.reshape(-1))[0].reshape(*step.shape, size, size)
        moved: Array = np.einsum("...ij,...j->...i", F, x)
        return moved

    def jacobian(x: Array, dt: Array) -> Array:
        return matrices(dt)[0]

    extra = size - 4
    entry = np.zeros(extra), np.full(extra, entry_variance)
    return Motion(kind, parameters, name, size, matrices, move, jacobian, *entry)


def _eye(dt: Array, size: int) -> Array:
    F = np.zeros((dt.size, size, size))
    F[:, np.arange(size), np.arange(size)] = 1.0
    return F
