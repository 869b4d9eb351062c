"""The vectorised numpy peer of the batched engine: a CV Kalman filter and its smoother over many tracks at once.

Two ways to write it. `matrix_filter` is what one writes first: stacks of 4x4 matrices and `@`. `component_filter` is
as fast as numpy was found to go: one array per component, only the ten different ones of a covariance, nothing
multiplied by the zeros of F and H, and a block of tracks small enough for its arrays to stay in the cache.
The smoother is the modified Bryson-Frazier form of Rauch-Tung-Striebel (Bierman 1973, Automatica 9(5)), which needs no
inverse of a 4x4 matrix. Layout: time first, tracks last, components between.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
# Order of the packed covariance's components, x = 0, y = 1, vx = 2, vy = 3.
PACKED = ((0, 0), (0, 1), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))
BLOCK = 5000


@dataclass(frozen=True, eq=False)
class Problem:
    """Plots of N tracks at T times: dt_s (T, N), its row k the step that led to plot k (row 0 unused), position_m
    (T, 2, N), their covariance's xx, xy, yy in noise_m2 (T, 3, N); white acceleration q and the prior's speed sigma."""

    dt_s: Array
    position_m: Array
    noise_m2: Array
    q_m2s3: float
    speed_sigma_mps: float

    def tracks(self, key: Any) -> "Problem":
        """The same of some of the tracks."""
        arrays = self.dt_s[..., key], self.position_m[..., key], self.noise_m2[..., key]
        return Problem(*arrays, self.q_m2s3, self.speed_sigma_mps)


def problem_of(z: Any, q_m2s3: float, speed_sigma_mps: float) -> Problem:
    """The problem of (N, T) ssrtrack measurements."""
    steps = np.diff(z.time_s.T, axis=0, prepend=z.time_s.T[:1])
    noise = np.stack([z.covariance_m2[..., i, j].T for i, j in ((0, 0), (0, 1), (1, 1))], 1)
    return Problem(np.ascontiguousarray(steps), np.moveaxis(z.position_m, 0, -1).copy(), noise, q_m2s3, speed_sigma_mps)


def unpacked(packed: Array) -> Array:
    """Covariances (..., N, 4, 4) of packed ones (..., 10, N)."""
    out = np.empty((*packed.shape[:-2], packed.shape[-1], 4, 4), packed.dtype)
    for c, (i, j) in enumerate(PACKED):
        out[..., i, j] = out[..., j, i] = packed[..., c, :]
    return out


def component_filter(p: Problem, threads: int = 1, block: int = BLOCK) -> tuple[Array, Array]:
    """Posterior means (T, 4, N) and packed covariances (T, 10, N)."""
    mean, covariance = _outputs(p)
    _in_blocks(lambda key: _filter_block(p.tracks(key), mean[..., key], covariance[..., key]), p, threads, block)
    return mean, covariance


def component_smoother(p: Problem, threads: int = 1, block: int = BLOCK) -> tuple[Array, Array]:
    """Smoothed means (T, 4, N) and packed covariances (T, 10, N)."""
    mean, covariance = _outputs(p)

    def work(key: slice) -> None:
        part = p.tracks(key)
        kept = _filter_block(part, mean[..., key], covariance[..., key], keep=True)
        _smooth_block(part, mean[..., key], covariance[..., key], kept)

    _in_blocks(work, p, threads, block)
    return mean, covariance


def _outputs(p: Problem) -> tuple[Array, Array]:
    steps, count = p.dt_s.shape
    return np.empty((steps, 4, count), p.dt_s.dtype), np.empty((steps, 10, count), p.dt_s.dtype)


def _in_blocks(work: Callable[[slice], object], p: Problem, threads: int, block: int) -> None:
    keys = [slice(i, i + block) for i in range(0, p.dt_s.shape[1], block)]
    if threads == 1:
        for key in keys:
            work(key)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, keys))


def _filter_block(p: Problem, mean: Array, covariance: Array, keep: bool = False) -> list[tuple[Array, ...]]:
    """Fill the outputs; with `keep`, also S⁻¹ (3), S⁻¹y (2) and the gain's columns (4 and 4) of every step."""
    kept: list[tuple[Array, ...]] = [()]
    mean[0, :2], mean[0, 2:] = p.position_m[0], 0.0
    covariance[0], covariance[0, :3] = 0.0, p.noise_m2[0]
    covariance[0, [7, 9]] = p.speed_sigma_mps**2
    for k in range(1, mean.shape[0]):
        ahead = _predicted(mean[k - 1], covariance[k - 1], p.dt_s[k], p.q_m2s3)
        used = _updated(*ahead, p.position_m[k], p.noise_m2[k], mean[k], covariance[k])
        if keep:
            kept.append(used)
    return kept


def _predicted(mean: Array, covariance: Array, h: Array, q: float) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    x, y, u, v = mean
    xx, xy, yy, xu, xv, yu, yv, uu, uv, vv = covariance
    noise1 = q * h
    noise2 = (0.5 * noise1) * h
    noise3 = (2.0 / 3.0) * noise2 * h
    turned = h * uv
    xu_, xv_, yu_, yv_ = xu + h * uu, xv + turned, yu + turned, yv + h * vv
    xx_ = xx + h * (xu + xu_) + noise3
    xy_ = xy + h * (xv + yu_)
    yy_ = yy + h * (yv + yv_) + noise3
    ahead = xx_, xy_, yy_, xu_ + noise2, xv_, yu_, yv_ + noise2, uu + noise1, uv, vv + noise1
    return (x + h * u, y + h * v, u, v), ahead


def _updated(
    mean: tuple[Array, ...], P: tuple[Array, ...], z: Array, R: Array, out_mean: Array, out: Array
) -> tuple[Array, ...]:
    xx, xy, yy, xu, xv, yu, yv = P[:7]
    s00, s01, s11 = xx + R[0], xy + R[1], yy + R[2]
    scale = 1.0 / (s00 * s11 - s01 * s01)
    i00, i01, i11 = s11 * scale, -s01 * scale, s00 * scale
    a, b = z[0] - mean[0], z[1] - mean[1]
    g0, g1 = i00 * a + i01 * b, i01 * a + i11 * b
    first, second = (xx, xy, xu, xv), (xy, yy, yu, yv)
    gain0 = [c * i00 + d * i01 for c, d in zip(first, second, strict=True)]
    gain1 = [c * i01 + d * i11 for c, d in zip(first, second, strict=True)]
    for i in range(4):
        np.add(mean[i], first[i] * g0 + second[i] * g1, out=out_mean[i])
    for c, (i, j) in enumerate(PACKED):
        np.subtract(P[c], gain0[i] * first[j] + gain1[i] * second[j], out=out[c])
    return i00, i01, i11, g0, g1, *gain0, *gain1


def _smooth_block(p: Problem, mean: Array, covariance: Array, kept: list[tuple[Array, ...]]) -> None:
    """Turn posterior moments into smoothed ones in place, by an adjoint state (4) and its L (4, 4)."""
    last = mean.shape[0] - 1
    adjoint, L = _at_plot(kept[last], None, None)
    for k in range(last - 1, -1, -1):
        adjoint, L = _back_over_step(adjoint, L, p.dt_s[k + 1])
        P = _square(covariance[k])
        # adjoint and L here speak of the plots after k alone, hence k's own gain has not entered yet.
        smoothed_mean = [mean[k, i] - _dot(P[i], adjoint) for i in range(4)]
        PL = [[_dot(P[i], L[j]) for j in range(4)] for i in range(4)]
        smoothed = [covariance[k, c] - _dot(PL[i], P[j]) for c, (i, j) in enumerate(PACKED)]
        if k:
            adjoint, L = _at_plot(kept[k], adjoint, L)
        for i in range(4):
            mean[k, i] = smoothed_mean[i]
        for c in range(10):
            covariance[k, c] = smoothed[c]


def _at_plot(kept: tuple[Array, ...], adjoint: list[Array] | None, L: list[list[Array]] | None) -> tuple[Any, Any]:
    """Cᵀl − HᵀS⁻¹y and CᵀLC + HᵀS⁻¹H with C = I − KH, of which only the first two columns are not the identity's."""
    i00, i01, i11, g0, g1 = kept[:5]
    if adjoint is None or L is None:
        none = np.zeros_like(g0)
        return [-g0, -g1, none, none], [[i00, i01, none, none], [i01, i11, none, none], [none] * 4, [none] * 4]
    gains = kept[5:9], kept[9:13]
    columns = [[L[i][c] - _dot(L[i], gains[c]) for i in range(4)] for c in (0, 1)]
    m00, m01, m11 = (columns[b][a] - _dot(gains[a], columns[b]) for a, b in ((0, 0), (0, 1), (1, 1)))
    a, b = columns
    square = [
        [m00 + i00, m01 + i01, a[2], a[3]],
        [m01 + i01, m11 + i11, b[2], b[3]],
        [a[2], b[2], L[2][2], L[2][3]],
        [a[3], b[3], L[2][3], L[3][3]],
    ]
    return [
        adjoint[0] - _dot(gains[0], adjoint) - g0,
        adjoint[1] - _dot(gains[1], adjoint) - g1,
        adjoint[2],
        adjoint[3],
    ], square


def _back_over_step(adjoint: list[Array], L: list[list[Array]], h: Array) -> tuple[list[Array], list[list[Array]]]:
    """Fᵀl and FᵀLF."""
    (xx, xy, xu, xv), (_, yy, yu, yv), (_, _, uu, uv), (_, _, _, vv) = L
    turned = h * xy
    xu_, xv_, yu_, yv_ = xu + h * xx, xv + turned, yu + turned, yv + h * yy
    uu_, uv_, vv_ = uu + h * (xu + xu_), uv + h * (yu + xv_), vv + h * (yv + yv_)
    square = [[xx, xy, xu_, xv_], [xy, yy, yu_, yv_], [xu_, yu_, uu_, uv_], [xv_, yv_, uv_, vv_]]
    return [adjoint[0], adjoint[1], adjoint[2] + h * adjoint[0], adjoint[3] + h * adjoint[1]], square


def _dot(a: Any, b: Any) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]


def _square(packed: Array) -> list[list[Array]]:
    xx, xy, yy, xu, xv, yu, yv, uu, uv, vv = packed
    return [[xx, xy, xu, xv], [xy, yy, yu, yv], [xu, yu, uu, uv], [xv, yv, uv, vv]]


def matrix_filter(p: Problem) -> tuple[Array, Array]:
    """Posterior means (T, N, 4) and covariances (T, N, 4, 4), by stacks of matrices."""
    steps, count = p.dt_s.shape
    mean, covariance = np.zeros((steps, count, 4)), np.zeros((steps, count, 4, 4))
    z, R = np.swapaxes(p.position_m, 1, 2), np.moveaxis(p.noise_m2[:, [[0, 1], [1, 2]]], -1, 1)
    mean[0, :, :2], covariance[0, :, :2, :2] = z[0], R[0]
    covariance[0, :, [2, 3], [2, 3]] = p.speed_sigma_mps**2
    F, Q = np.zeros((count, 4, 4)), np.zeros((count, 4, 4))
    F[:] = np.eye(4)
    for k in range(1, steps):
        h = p.dt_s[k]
        F[:, 0, 2] = F[:, 1, 3] = h
        Q[:, 0, 0] = Q[:, 1, 1] = p.q_m2s3 * h**3 / 3.0
        Q[:, 0, 2] = Q[:, 1, 3] = Q[:, 2, 0] = Q[:, 3, 1] = p.q_m2s3 * h**2 / 2.0
        Q[:, 2, 2] = Q[:, 3, 3] = p.q_m2s3 * h
        x = (F @ mean[k - 1, :, :, None])[..., 0]
        P = F @ covariance[k - 1] @ np.swapaxes(F, 1, 2) + Q
        S = P[:, :2, :2] + R[k]
        K = np.swapaxes(np.linalg.solve(S, P[:, :2]), 1, 2)
        mean[k] = x + (K @ (z[k] - x[:, :2])[..., None])[..., 0]
        covariance[k] = P - K @ P[:, :2]
    return mean, covariance
