"""The torch-kf peer of the batched engine, in every mode that its public functions allow.

torch-kf 0.4.3 (Raphael Reme, MIT licence; github.com/raphaelreme/torch-kf). Its `filter` and `rts_smooth` hold F, Q
and R fixed over time, so they serve only an easier problem: one step length, one covariance, all tracks alike.
Steps and covariances that differ take a loop of `predict` and `update` with F (N, 4, 4), Q and R of each step, as its
documentation says; without the check for NaN that `filter` makes the host wait for at every step, that loop is
also the faster one. What is tried: F and Q given (nothing timed but torch-kf) or built on the way, its three ways
to solve by S (`inverse`, its transpose, Cholesky), torch.compile around a step with or without the compiler's
pass that turns products of small matrices into pointwise arithmetic, and the tracks in blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from engine_numpy import Problem
from torch_kf import GaussianState, KalmanFilter

Tensor = torch.Tensor
Moments = tuple[Tensor, Tensor]  # mean (T, N, 4, 1), covariance (T, N, 4, 4)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A problem in torch-kf's layout: dt_s (T, N), measure (T, N, 2, 1), noise (T, N, 2, 2), and F and Q (T, N,
    4, 4) where they are given. mean and covariance are what a mode fills, their first step having been set."""

    q_m2s3: float
    dt_s: Tensor
    measure: Tensor
    noise: Tensor
    F: Tensor | None
    Q: Tensor | None
    mean: Tensor
    covariance: Tensor

    def tracks(self, key: slice) -> "Prepared":
        """The same of some of the tracks, as views."""
        names = ("dt_s", "measure", "noise", "F", "Q", "mean", "covariance")
        parts = {n: None if getattr(self, n) is None else getattr(self, n)[:, key] for n in names}
        return Prepared(self.q_m2s3, **parts)


def prepared(p: Problem, given: bool) -> Prepared:
    """The problem laid out for torch-kf; with `given`, F and Q of every step as well."""
    steps, count = p.dt_s.shape
    like = {"dtype": p.dt_s.dtype, "device": p.dt_s.device}
    noise = torch.empty(steps, count, 2, 2, **like)
    for i, j, c in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        noise[..., i, j] = p.noise_m2[:, c]
    measure = p.position_m.transpose(1, 2).contiguous()[..., None]
    mean, covariance = torch.empty(steps, count, 4, 1, **like), torch.empty(steps, count, 4, 4, **like)
    F, Q = matrices(p.dt_s, p.q_m2s3) if given else (None, None)
    return Prepared(p.q_m2s3, p.dt_s, measure, noise, F, Q, mean, covariance)


def begin(p: Prepared, speed_sigma_mps: float) -> None:
    """Set p's first moments: the first plot, and a velocity of 0 ± speed_sigma_mps."""
    p.mean[0], p.covariance[0] = 0.0, 0.0
    p.mean[0, :, :2], p.covariance[0, :, :2, :2] = p.measure[0], p.noise[0]
    p.covariance[0, :, 2, 2] = p.covariance[0, :, 3, 3] = speed_sigma_mps**2


def matrices(h: Tensor, q: float) -> Moments:
    """F and Q (..., 4, 4) of constant velocity for steps h (...)."""
    zero, one = torch.zeros_like(h), torch.ones_like(h)
    p, c, v = q * h**3 / 3.0, q * h**2 / 2.0, q * h
    F = (one, zero, h, zero, zero, one, zero, h, zero, zero, one, zero, zero, zero, zero, one)
    Q = (p, zero, c, zero, zero, p, zero, c, c, zero, v, zero, zero, c, zero, v)
    shape = (*h.shape, 4, 4)
    return torch.stack(F, -1).reshape(shape), torch.stack(Q, -1).reshape(shape)


def model(p: Prepared, inv_t: bool = False) -> KalmanFilter:
    """The filter; its own F, Q and R are those of the first track and step."""
    F, Q = matrices(p.dt_s[-1, 0], p.q_m2s3)
    H = torch.eye(2, 4, dtype=F.dtype, device=F.device)
    return KalmanFilter(F, H, Q, p.noise[-1, 0].contiguous(), inv_t=inv_t)


def step(
    kf: KalmanFilter, cholesky: bool, mean: Tensor, P: Tensor, F: Tensor, Q: Tensor, z: Tensor, R: Tensor
) -> Moments:
    """One predict and update."""
    ahead = kf.predict(GaussianState(mean, P), process_matrix=F, process_noise=Q)
    seen = kf.project(ahead, measurement_noise=R, precompute_precision=not cholesky)
    after = kf.update(ahead, z, projection=seen, measurement_noise=R)
    return after.mean, after.covariance


def step_building(
    kf: KalmanFilter, cholesky: bool, q: float, mean: Tensor, P: Tensor, h: Tensor, z: Tensor, R: Tensor
) -> Moments:
    """`step` that makes F and Q."""
    F, Q = matrices(h, q)
    return step(kf, cholesky, mean, P, F, Q, z, R)


def scan(p: Prepared, *, inv_t: bool = False, cholesky: bool = False, compiled: Any = None) -> None:
    """Fill p's mean and covariance; `compiled` wraps the step."""
    kf, wrap = model(p, inv_t), compiled or (lambda f: f)
    given, building = wrap(step), wrap(step_building)
    for k in range(1, p.dt_s.shape[0]):
        z, R = p.measure[k], p.noise[k]
        if p.F is not None and p.Q is not None:
            moments = given(kf, cholesky, p.mean[k - 1], p.covariance[k - 1], p.F[k], p.Q[k], z, R)
        else:
            moments = building(kf, cholesky, p.q_m2s3, p.mean[k - 1], p.covariance[k - 1], p.dt_s[k], z, R)
        p.mean[k], p.covariance[k] = moments


def back(kf: KalmanFilter, F: Tensor, Q: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """rts_smooth over two steps (2, N, ...) in place."""
    pair = KalmanFilter(F, kf.measurement_matrix, Q, kf.measurement_noise)
    pair.rts_smooth(GaussianState(mean, covariance), inplace=True)


def back_building(kf: KalmanFilter, q: float, h: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """`back` that makes F and Q."""
    back(kf, *matrices(h, q), mean, covariance)


def scan_and_smooth(p: Prepared, *, compiled: Any = None, **how: Any) -> None:
    """`scan`, then rts_smooth over two steps at a time, as F and Q change."""
    scan(p, compiled=compiled, **how)
    kf, wrap = model(p), compiled or (lambda f: f)
    given, building = wrap(back), wrap(back_building)
    for k in range(p.dt_s.shape[0] - 2, -1, -1):
        pair = p.mean[k : k + 2], p.covariance[k : k + 2]
        if p.F is not None and p.Q is not None:
            given(kf, p.F[k + 1], p.Q[k + 1], *pair)
        else:
            building(kf, p.q_m2s3, p.dt_s[k + 1], *pair)


def shared_filter(p: Prepared, smooth: bool = False) -> None:
    """torch-kf's own `filter` (and `rts_smooth`), for a problem whose steps and covariances are all the same."""
    kf = model(p)
    done = kf.filter(GaussianState(p.mean[0], p.covariance[0]), p.measure[1:], update_first=False, return_all=True)
    p.mean[1:], p.covariance[1:] = done.mean, done.covariance
    if smooth:
        kf.rts_smooth(GaussianState(p.mean, p.covariance), inplace=True)


def in_blocks(mode: Callable[[Prepared], None], p: Prepared, block: int) -> None:
    """A mode on so many tracks at a time."""
    for first in range(0, p.dt_s.shape[1], block):
        mode(p.tracks(slice(first, first + block)))


def moments(p: Prepared, key: Any) -> Moments:
    """Means (T, 4, n) and covariances (T, n, 4, 4) of some tracks."""
    return p.mean[:, key, :, 0].transpose(1, 2), p.covariance[:, key]


COMPILE = partial(torch.compile, dynamic=False)
# The pass takes products of which one side is at most this long; off by default.
DECOMPOSE = partial(COMPILE, options={"post_grad_fusion_options": {"decompose_mm_pass": {}}})
# Mode -> (F and Q given, what fills the moments).
MODES: dict[str, tuple[bool, Callable[[Prepared], None]]] = {
    "F and Q given": (True, scan),
    "F and Q given, inv_t": (True, partial(scan, inv_t=True)),
    "F and Q given, Cholesky": (True, partial(scan, cholesky=True)),
    "F and Q built": (False, scan),
    "compiled, F and Q given": (True, partial(scan, compiled=COMPILE)),
    "compiled, F and Q given, Cholesky": (True, partial(scan, cholesky=True, compiled=COMPILE)),
    "compiled, F and Q built": (False, partial(scan, compiled=COMPILE)),
    "compiled with small products taken apart": (False, partial(scan, compiled=DECOMPOSE)),
    "compiled with small products taken apart, Cholesky": (False, partial(scan, cholesky=True, compiled=DECOMPOSE)),
}
SHARED_MODES: dict[str, tuple[bool, Callable[[Prepared], None]]] = {"filter()": (False, shared_filter)}
SMOOTHER_MODES: dict[str, tuple[bool, Callable[[Prepared], None]]] = {
    "F and Q given": (True, scan_and_smooth),
    "F and Q built": (False, scan_and_smooth),
    "compiled, F and Q given": (True, partial(scan_and_smooth, compiled=COMPILE)),
    "compiled with small products taken apart": (False, partial(scan_and_smooth, compiled=DECOMPOSE)),
}
SHARED_SMOOTHER_MODES: dict[str, tuple[bool, Callable[[Prepared], None]]] = {
    "filter() and rts_smooth()": (False, partial(shared_filter, smooth=True))
}
