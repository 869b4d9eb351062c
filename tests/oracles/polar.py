"""Extended, unscented and cubature filters of straight flight seen in range and azimuth, in plain centred loops.

One flight at a time, from the textbook formulas (Julier and Uhlmann 2004, Proc. IEEE 92(3); Arasaratnam and Haykin,
2009, IEEE T-AC 54(6)). Sigma points are centred before they are multiplied, so nothing cancels for a target far away.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.measurement import Measurements

Array = NDArray[Any]
KAPPA = {"ukf": 1.0, "ckf": 0.0}


def filtered(name: str, z: Measurements, n: int, q: float, speed_sigma: float) -> list[tuple[Array, Array]]:
    """Mean (4,) and covariance (4, 4) of flight n after each of its plots or misses; name is ekf, ukf or ckf."""
    x = np.r_[z.position_m[n, 0], 0.0, 0.0]
    P = np.diag([0.0, 0.0, speed_sigma**2, speed_sigma**2])
    P[:2, :2] = z.covariance_m2[n, 0]
    out = [(x, P)]
    for k in range(1, int(np.isfinite(z.time_s[n]).sum())):
        h = z.time_s[n, k] - z.time_s[n, k - 1]
        F = np.eye(4) + h * np.eye(4, k=2)
        G = q * np.array([[h**3 / 3.0, h**2 / 2.0], [h**2 / 2.0, h]])
        x, P = F @ x, F @ P @ F.T + np.kron(G, np.eye(2))
        if z.valid[n, k]:
            x, P = _updated(name, z, n, k, x, P)
        out.append((x, P))
    return out


def _updated(name: str, z: Measurements, n: int, k: int, x: Array, P: Array) -> tuple[Array, Array]:
    radar, up = z.radar_id[n, k], z.up_m[n, k]
    turn, place = z.frame.rotation[radar], z.frame.position_m[radar]

    def local(state: Array) -> Array:
        out: Array = turn @ (np.array([state[0], state[1], up]) - place)
        return out

    def seen(state: Array) -> Array:
        p = local(state)
        return np.array([np.linalg.norm(p), np.arctan2(p[0], p[1])])

    def minus(a: Array, b: Array) -> Array:
        return np.array([a[0] - b[0], (a[1] - b[1] + np.pi) % (2.0 * np.pi) - np.pi])

    here, p = seen(x), local(x)
    sigma_r = np.hypot(z.sigma_range_m[n, k], p[2] / here[0] * z.sigma_height_m[n, k])
    R = np.diag([sigma_r**2, z.sigma_azimuth_rad[n, k] ** 2])
    if name == "ekf":
        H = np.zeros((2, 4))
        ground = p[0] ** 2 + p[1] ** 2
        H[:, :2] = (np.array([p / here[0], [p[1] / ground, -p[0] / ground, 0.0]]) @ turn)[:, :2]
        cross, S, y = P @ H.T, H @ P @ H.T + R, minus(z_of(z, n, k), here)
    else:
        kappa = KAPPA[name]
        root = np.linalg.cholesky((4.0 + kappa) * P)
        points = [x] + [x + s * root[:, i] for s in (1.0, -1.0) for i in range(4)]
        weight = np.r_[kappa, np.full(8, 0.5)] / (4.0 + kappa)
        offsets = np.array([minus(seen(s), here) for s in points])
        mean = weight @ offsets
        spread, moved = offsets - mean, np.array(points) - x
        S = (weight[:, None] * spread).T @ spread + R
        cross = (weight[:, None] * moved).T @ spread
        y = minus(minus(z_of(z, n, k), here), mean)
    K = np.linalg.solve(S, cross.T).T
    return x + K @ y, P - K @ S @ K.T


def z_of(z: Measurements, n: int, k: int) -> Array:
    """Range and azimuth of a plot."""
    return np.array([z.range_m[n, k], z.azimuth_rad[n, k]])
