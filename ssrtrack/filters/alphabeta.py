"""The alpha-beta tracker, vectorised over flights, with an honest covariance.

Gains from the tracking index (P. R. Kalata, "The tracking index: a generalized parameter for α-β and α-β-γ target
trackers", IEEE T-AES 20(2), 1984): Λ² = q T³ / σ², r = (4 + Λ − √(8Λ + Λ²))/4, α = 1 − r² and
β = 2(2 − α) − 4√(1 − α), with T the true time since the last plot used and σ² the mean of the plot's two variances.
(Kalata's Λ = σ_w T²/σ has an acceleration constant over each step; σ_w² = q/T gives it the same velocity noise.)
While the track is young the gains are those of a growing-memory line fit if larger, α = 2(2k − 1)/(k(k + 1)) and
β = 6/(k(k + 1)) at its k-th plot (Brookner, "Tracking and Kalman Filtering Made Easy", 1998, ch. 1). The covariance
is propagated with the gains used (Joseph form), so it is right though the gains are not optimal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.gaussian import gate_threshold, innovation_likelihood
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.options import Options
from ssrtrack.filters.protocol import checked_dt, put, take

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class AlphaBetaState:
    """Position and velocity (N, 2), covariance blocks (N, 2, 2), plots used (N,), s since the last one, gated (N,)."""

    position: Array
    velocity: Array
    pp: Array
    pv: Array
    vv: Array
    count: Array
    since_s: Array
    gated: Array


@dataclass(frozen=True, eq=False)
class AlphaBeta:
    """The estimator: q_m2s3 is the acceleration noise the tracking index assumes (m²/s³)."""

    q_m2s3: float
    options: Options

    def init(self, first: Measurements) -> AlphaBetaState:
        """Position from the plot, velocity 0 ± options.speed_sigma_mps per axis."""
        count = len(first)
        vv = np.zeros((count, 2, 2))
        vv[:, [0, 1], [0, 1]] = self.options.speed_sigma_mps**2
        zero = np.zeros((count, 2, 2))
        numbers = np.ones(count, np.int64), np.zeros(count), np.zeros(count, np.int64)
        return AlphaBetaState(first.position_m, np.zeros((count, 2)), first.covariance_m2, zero, vv, *numbers)

    def predict(self, state: AlphaBetaState, dt_s: Array) -> AlphaBetaState:
        """Constant velocity over dt_s (N,)."""
        step = checked_dt(dt_s, state.count.size)
        dt, block = step[:, None], step[:, None, None]
        noise = self.q_m2s3 * block * np.eye(2)
        pv_moved = block * state.vv
        pp = state.pp + block * (state.pv + np.swapaxes(state.pv, 1, 2) + pv_moved) + noise * block**2 / 3.0
        pv = state.pv + pv_moved + noise * block / 2.0
        position, since = state.position + dt * state.velocity, state.since_s + step
        return AlphaBetaState(position, state.velocity, pp, pv, state.vv + noise, state.count, since, state.gated)

    def update(self, state: AlphaBetaState, z: Measurements, valid: Array) -> AlphaBetaState:
        """One plot per flight; gate and tail as in `Options`."""
        if not valid.any():
            return state
        after, distance = self._updated(state, z)
        far = distance > gate_threshold(self.options.gate)
        if not far.any() and valid.all():
            return after
        skipped = ~valid | far
        after = put(after, skipped, take(state, skipped))
        turned_down = valid & far
        after.gated[turned_down] += 1
        again = turned_down & (after.gated > self.options.reopen_after)
        return put(after, again, self.init(z.select(again))) if again.any() else after

    def estimate(self, state: AlphaBetaState) -> tuple[Array, Array]:
        """Mean (N, 4) and covariance (N, 4, 4)."""
        covariance = np.empty((state.count.size, 4, 4))
        covariance[:, :2, :2], covariance[:, 2:, 2:] = state.pp, state.vv
        covariance[:, :2, 2:], covariance[:, 2:, :2] = state.pv, np.swapaxes(state.pv, 1, 2)
        return np.concatenate([state.position, state.velocity], 1), covariance

    def mode_probability(self, state: AlphaBetaState) -> None:
        """One model only."""

    def gains(self, state: AlphaBetaState, R: Array) -> tuple[Array, Array]:
        """α and β/T (N,) for plots of covariance R (N, 2, 2)."""
        T, k = state.since_s, state.count + 1.0
        index = np.sqrt(self.q_m2s3 * T**3 / (0.5 * (R[:, 0, 0] + R[:, 1, 1])))
        root = (4.0 + index - np.sqrt(8.0 * index + index**2)) / 4.0
        alpha = np.maximum(1.0 - root**2, 2.0 * (2.0 * k - 1.0) / (k * (k + 1.0)))
        # 2(2 − α) − 4√(1 − α) = 2(1 − √(1 − α))², without the cancellation.
        beta = np.maximum(2.0 * (1.0 - root) ** 2, 6.0 / (k * (k + 1.0)))
        beta = np.where(k == 2.0, 1.0, beta)
        return alpha, np.where(T > 0.0, beta / np.where(T > 0.0, T, 1.0), 0.0)

    def _updated(self, state: AlphaBetaState, z: Measurements) -> tuple[AlphaBetaState, Array]:
        y, R = z.position_m - state.position, z.covariance_m2
        alpha, b = self.gains(state, R)
        core = _component(state, y, R, alpha, b)
        log_core, distance = innovation_likelihood(y, state.pp + R)
        parts: tuple[Array, ...] = core
        if self.options.tail_weight > 0.0:
            scale = self.options.tail_scale**2
            # The wide component's gains shrink as a Kalman gain P (P + R)⁻¹ does, the young track's fit included.
            tp, tr = _trace(state.pp), _trace(R)
            shrink = (tp + tr) / (tp + scale * tr)
            wide = _component(state, y, scale * R, shrink * alpha, shrink * b)
            log_wide, distance = innovation_likelihood(y, state.pp + scale * R)
            log_tail = np.log(self.options.tail_weight) + log_wide
            with np.errstate(invalid="ignore"):  # a miss may be NaN: its row is put back as it was
                total = np.logaddexp(log_tail, np.log1p(-self.options.tail_weight) + log_core)
            parts = _merged(np.exp(log_tail - total), core, wide)
        position, velocity, pp, pv, vv = parts
        since, none = np.zeros_like(state.since_s), np.zeros_like(state.gated)
        return AlphaBetaState(position, velocity, pp, pv, vv, state.count + 1, since, none), distance


def _component(state: AlphaBetaState, y: Array, R: Array, alpha: Array, beta_t: Array) -> tuple[Array, ...]:
    """Position, velocity and covariance blocks after an update with gains K = [α I; β/T I], each (N,)."""
    a1, b1 = alpha[:, None], beta_t[:, None]
    a, b = a1[:, :, None], b1[:, :, None]
    left = 1.0 - a
    pp = left**2 * state.pp + a**2 * R
    pv = left * (state.pv - b * state.pp) + a * b * R
    vv = state.vv - b * (state.pv + np.swapaxes(state.pv, 1, 2)) + b**2 * (state.pp + R)
    return state.position + a1 * y, state.velocity + b1 * y, pp, pv, vv


def _trace(blocks: Array) -> Array:
    out: Array = blocks[:, 0, 0] + blocks[:, 1, 1]
    return out


def _merged(weight: Array, core: tuple[Array, ...], wide: tuple[Array, ...]) -> tuple[Array, ...]:
    """Moments of the mixture of two components, the second with `weight` (N,)."""
    w, block = weight[:, None], weight[:, None, None]
    dp, dv = wide[0] - core[0], wide[1] - core[1]
    spread = block * (1.0 - block)
    outer = dp[:, :, None] * dp[:, None, :], dp[:, :, None] * dv[:, None, :], dv[:, :, None] * dv[:, None, :]
    means = core[0] + w * dp, core[1] + w * dv
    return *means, *(c + block * (v - c) + spread * o for c, v, o in zip(core[2:], wide[2:], outer, strict=True))
