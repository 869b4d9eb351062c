"""filterpy's filters as the numerics of one predict or update, one track at a time (the only file that imports it).

Each call makes its own filterpy object and sets x, P, F, Q, R for each track, so nothing is shared between tracks or
remembered between calls. What filterpy does not do well is done around it: innovations stay angles (see
`observation`), sigma points are drawn afresh from the predicted state before every update (filterpy 1.4.5 reuses
those from before Q was added, 2.x redraws them: ours do not depend on the version), and likelihoods are taken from y
and S in log space.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from filterpy.kalman import (
    CubatureKalmanFilter,
    ExtendedKalmanFilter,
    KalmanFilter,
    MerweScaledSigmaPoints,
    UnscentedKalmanFilter,
)
from filterpy.kalman.CubatureKalmanFilter import spherical_radial_sigmas
from numpy.typing import NDArray

from ssrtrack.filters.gaussian import symmetric
from ssrtrack.filters.motion import Motion
from ssrtrack.filters.observation import Observation

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Updated:
    """Posterior mean (N, n), covariance (N, n, n), innovation (N, 2) and its covariance (N, 2, 2)."""

    mean: Array
    covariance: Array
    innovation: Array
    innovation_covariance: Array


def predict_extended(motion: Motion, mean: Array, covariance: Array, dt_s: Array) -> tuple[Array, Array]:
    """Kalman prediction (N, n); a nonlinear motion is linearised at the mean (extended Kalman filter)."""
    F, Q = motion.matrices(dt_s)
    moved = None
    if F is None:
        F, moved = motion.jacobian(mean, dt_s), motion.move(mean, dt_s)
    out_mean, out_covariance = np.empty_like(mean), np.empty_like(covariance)
    kf = KalmanFilter(motion.size, 2)
    for i in range(mean.shape[0]):
        kf.x, kf.P = mean[i], covariance[i]
        kf.predict(F=F[i], Q=Q[i])
        out_mean[i], out_covariance[i] = kf.x, kf.P
    return (out_mean if moved is None else moved), symmetric(out_covariance)


def update_extended(mean: Array, covariance: Array, seen: Observation) -> Updated:
    """Kalman update (N, n) of a linear observation, or the extended one at the predicted mean. Joseph form."""
    if seen.jacobian is None:
        return _update_linear(mean, covariance, seen)
    expected, H = seen.expect(mean), seen.jacobian(mean)
    out = _blank(mean, covariance)
    ekf = ExtendedKalmanFilter(mean.shape[1], 2)
    for i in range(mean.shape[0]):
        ekf.x, ekf.P = mean[i], covariance[i]
        ekf.update(seen.z[i], _constant(H[i]), _constant(expected[i]), R=seen.R[i], residual=seen.residual)
        _store(out, i, ekf)
    return _finished(out)


def _update_linear(mean: Array, covariance: Array, seen: Observation) -> Updated:
    out = _blank(mean, covariance)
    kf = KalmanFilter(mean.shape[1], 2)
    kf.H = np.eye(2, mean.shape[1])
    for i in range(mean.shape[0]):
        kf.x, kf.P = mean[i], covariance[i]
        kf.update(seen.z[i], R=seen.R[i])
        _store(out, i, kf)
    return _finished(out)


class _Unscented(UnscentedKalmanFilter):  # type: ignore[misc]
    """filterpy's UKF, moving all its sigma points in one call."""

    def compute_process_sigmas(self, dt: float, fx: Any = None, **fx_args: Any) -> None:
        self.sigmas_f = self.fx(self.points_fn.sigma_points(self.x, self.P), dt)


def _unscented(size: int, fx: Any, hx: Any) -> _Unscented:
    # Julier's points with κ = 1: all weights positive, so no covariance can lose its positive definiteness.
    return _Unscented(size, 2, 1.0, hx, fx, MerweScaledSigmaPoints(size, alpha=1.0, beta=0.0, kappa=1.0))


def predict_unscented(motion: Motion, mean: Array, covariance: Array, dt_s: Array) -> tuple[Array, Array]:
    """Unscented prediction (N, n)."""
    F, Q = motion.matrices(dt_s)
    out_mean, out_covariance = np.empty_like(mean), np.empty_like(covariance)
    ukf = _unscented(motion.size, motion.move, None)
    for i in range(mean.shape[0]):
        ukf.x, ukf.P, ukf.Q = mean[i], covariance[i], Q[i]
        ukf.fx = motion.move if F is None else _times(F[i])
        ukf.predict(dt=dt_s[i])
        out_mean[i], out_covariance[i] = ukf.x, ukf.P
    return out_mean, symmetric(out_covariance)


def update_unscented(mean: Array, covariance: Array, seen: Observation) -> Updated:
    """Unscented update (N, n) with points drawn from the predicted state."""
    out = _blank(mean, covariance)
    ukf = _unscented(mean.shape[1], None, None)
    points = [ukf.points_fn.sigma_points(x, P) for x, P in zip(mean, covariance, strict=True)]
    expected = seen.expect_points(np.stack(points)) if points else np.empty((0, 0, 2))
    for i, sigmas in enumerate(points):
        ukf.x, ukf.P, ukf.sigmas_f = mean[i], covariance[i], sigmas
        ukf.update(seen.z[i], R=seen.R[i], hx=_in_turn(expected[i]))
        _store(out, i, ukf)
    return _finished(out)


def predict_cubature(motion: Motion, mean: Array, covariance: Array, dt_s: Array) -> tuple[Array, Array]:
    """Cubature prediction (N, n)."""
    F, Q = motion.matrices(dt_s)
    out_mean, out_covariance = np.empty_like(mean), np.empty_like(covariance)
    ckf = CubatureKalmanFilter(motion.size, 2, 1.0, None, motion.move)
    for i in range(mean.shape[0]):
        ckf.x, ckf.P, ckf.Q = mean[i], covariance[i], Q[i]
        ckf.fx = motion.move if F is None else _times(F[i])
        ckf.predict(dt=dt_s[i])
        out_mean[i], out_covariance[i] = ckf.x[:, 0], ckf.P
    return out_mean, symmetric(out_covariance)


def update_cubature(mean: Array, covariance: Array, seen: Observation) -> Updated:
    """Cubature update (N, n), points drawn from the predicted state (Arasaratnam and Haykin 2009)."""
    out = _blank(mean, covariance)
    ckf = CubatureKalmanFilter(mean.shape[1], 2, 1.0, None, None)
    points = [spherical_radial_sigmas(x, P) for x, P in zip(mean, covariance, strict=True)]
    expected = seen.expect_points(np.stack(points)) if points else np.empty((0, 0, 2))
    for i, sigmas in enumerate(points):
        # Columns throughout: with a flat x filterpy's x + K y broadcasts to (n, n).
        ckf.x, ckf.P, ckf.sigmas_f = mean[i][:, None], covariance[i], sigmas
        ckf.hx = _in_turn(expected[i])
        ckf.update(seen.z[i][:, None], R=seen.R[i])
        _store(out, i, ckf)
    return _finished(out)


# How to step a track: name -> (predict, update).
ENGINES = {
    "extended": (predict_extended, update_extended),
    "unscented": (predict_unscented, update_unscented),
    "cubature": (predict_cubature, update_cubature),
}


def _constant(value: Array) -> Any:
    return lambda x: value


def _times(F: Array) -> Any:
    """x (n,) or (K, n) moved by F."""
    return lambda x, dt: x @ F.T


def _in_turn(values: Array) -> Any:
    """What filterpy's loop over sigma points asks for, one after the other, already computed."""
    rows = iter(values)
    return lambda x: next(rows)


def _blank(mean: Array, covariance: Array) -> Updated:
    count = mean.shape[0]
    return Updated(np.empty_like(mean), np.empty_like(covariance), np.empty((count, 2)), np.empty((count, 2, 2)))


def _store(out: Updated, i: int, engine: Any) -> None:
    out.mean[i], out.covariance[i] = engine.x.reshape(-1), engine.P
    out.innovation[i], out.innovation_covariance[i] = engine.y.reshape(-1), engine.S


def _finished(out: Updated) -> Updated:
    return Updated(out.mean, symmetric(out.covariance), out.innovation, symmetric(out.innovation_covariance))
