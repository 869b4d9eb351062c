"""A bank of M motion models mixed by an interacting-multiple-model filter; with M = 1, that one filter.

Source: Blom and Bar-Shalom 1988, IEEE T-AC 33(8); Bar-Shalom, Li and Kirubarajan 2001, section 11.6. What is done with
care here: model probabilities stay logarithms; a missed plot is prediction only, so the probabilities then advance
by the Markov chain alone; the chain is one in continuous time, so its matrix fits the true time step; models may have
components of their own, which a flight entering the model draws from the model's prior.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.chain import Chain
from ssrtrack.filters.gaussian import gate_threshold, innovation_likelihood, log_sum_exp, mixture_moments
from ssrtrack.filters.measurement import Measurements
from ssrtrack.filters.motion import Motion
from ssrtrack.filters.observation import OBSERVATIONS, Observation
from ssrtrack.filters.options import Options
from ssrtrack.filters.protocol import checked_dt, put, take

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class BankState:
    """N flights under M models, states padded to the largest model's n components.

    mean (N, M, n), covariance (N, M, n, n), log_probability (N, M); gated (N,): plots turned down in a row;
    restarted (N,) bool: the last plot began the track anew.
    """

    mean: Array
    covariance: Array
    log_probability: Array
    gated: Array
    restarted: Array


@dataclass(frozen=True, eq=False)
class Bank:
    """The estimator. Engines and observations are names in classical.ENGINES and observation.OBSERVATIONS."""

    motions: tuple[Motion, ...]
    chain: Chain
    engine: str
    observation: str
    options: Options

    @property
    def size(self) -> int:
        """Components n of the largest model."""
        return max(m.size for m in self.motions)

    def init(self, first: Measurements) -> BankState:
        """Position from the plot, velocity 0 ± options.speed_sigma_mps per axis, the rest from each model's prior."""
        count, models, size = len(first), len(self.motions), self.size
        mean, covariance = np.zeros((count, models, size)), np.zeros((count, models, size, size))
        for j, motion in enumerate(self.motions):
            mean[:, j, :2] = first.position_m
            covariance[:, j, :2, :2] = first.covariance_m2
            covariance[:, j, [2, 3], [2, 3]] = self.options.speed_sigma_mps**2
            enter(motion, mean[:, j], covariance[:, j])
        log_probability = np.broadcast_to(self.chain.log_start(), (count, models)).copy()
        return BankState(mean, covariance, log_probability, np.zeros(count, np.int64), np.zeros(count, bool))

    def predict(self, state: BankState, dt_s: Array) -> BankState:
        """Mix, then move every model; probabilities advance by the chain (IMM steps 1 to 3)."""
        dt = checked_dt(dt_s, state.gated.size)
        log_probability, mean, covariance = state.log_probability, state.mean, state.covariance
        if len(self.motions) > 1:
            joint = log_probability[:, :, None] + self.chain.log_matrix(dt)
            log_probability = log_sum_exp(joint, 1)
            with np.errstate(invalid="ignore"):
                weight = np.nan_to_num(np.exp(joint - log_probability[:, None, :]))
            mean, covariance = self._mixed(weight, mean, covariance)
        step, out_mean, out_covariance = _engine(self.engine)[0], np.zeros_like(mean), np.zeros_like(covariance)
        for j, motion in enumerate(self.motions):
            n = motion.size
            moved = step(motion, mean[:, j, :n], covariance[:, j, :n, :n], dt)
            out_mean[:, j, :n], out_covariance[:, j, :n, :n] = moved
        return BankState(out_mean, out_covariance, log_probability, state.gated, np.zeros_like(state.restarted))

    def update(self, state: BankState, z: Measurements, valid: Array) -> BankState:
        """Every model takes the plot; probabilities follow the likelihoods (IMM steps 4 and 5).

        A plot outside the gates of all models counts as a miss; after options.reopen_after of them in a row the next
        one turned down begins the track anew, so that a gate never loses a flight for good.
        """
        rows = np.flatnonzero(valid)
        if rows.size == 0:
            return state
        before, plots = (state, z) if rows.size == valid.size else (take(state, rows), z.select(rows))
        after, distance = self._updated(before, plots)
        far = distance > gate_threshold(self.options.gate)
        if far.any():
            gated = np.where(far, before.gated + 1, 0)
            held = BankState(before.mean, before.covariance, before.log_probability, gated, before.restarted)
            after = put(after, far, take(held, far))
            again = gated > self.options.reopen_after
            if again.any():
                anew = self.init(plots.select(again))
                after = put(
                    after,
                    again,
                    BankState(anew.mean, anew.covariance, anew.log_probability, anew.gated, ~anew.restarted),
                )
        return after if rows.size == valid.size else put(state, rows, after)

    def estimate(self, state: BankState) -> tuple[Array, Array]:
        """Mean (N, 4) and covariance (N, 4, 4) of the mixture of all models."""
        mean, covariance = state.mean[:, :, :4], state.covariance[:, :, :4, :4]
        if len(self.motions) == 1:
            return mean[:, 0], covariance[:, 0]
        return mixture_moments(np.exp(state.log_probability), mean, covariance)

    def mode_probability(self, state: BankState) -> Array | None:
        """Probability (N, M) of each model, None for a single one."""
        return np.exp(state.log_probability) if len(self.motions) > 1 else None

    def _mixed(self, weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
        """Moments (N, M, n) with which each model j starts, from weights (N, i, j) of coming from model i."""
        out_mean, out_covariance = np.empty_like(mean), np.empty_like(covariance)
        for j, motion in enumerate(self.motions):
            from_mean, from_covariance = mean, covariance
            if self.size > 4:
                from_mean, from_covariance = mean.copy(), covariance.copy()
                for i in range(len(self.motions)):
                    if i != j:
                        enter(motion, from_mean[:, i], from_covariance[:, i])
            out_mean[:, j], out_covariance[:, j] = mixture_moments(weight[:, :, j], from_mean, from_covariance)
        return out_mean, out_covariance

    def _updated(self, state: BankState, z: Measurements) -> tuple[BankState, Array]:
        """The state after every row's plot, and the plot's smallest distance yᵀ S⁻¹ y (N,) from any model."""
        mean, covariance = state.mean.copy(), state.covariance.copy()
        likelihood, distance = np.empty(mean.shape[:2]), np.empty(mean.shape[:2])
        for j, motion in enumerate(self.motions):
            n = motion.size
            model = state.mean[:, j, :n], state.covariance[:, j, :n, :n]
            seen = OBSERVATIONS[self.observation](z, model[0])
            posterior = self._one_model(*model, seen)
            mean[:, j, :n], covariance[:, j, :n, :n], likelihood[:, j], distance[:, j] = posterior
        log_probability = state.log_probability + likelihood
        log_probability -= log_sum_exp(log_probability)[:, None]
        fresh = np.zeros_like(state.gated)
        return BankState(mean, covariance, log_probability, fresh, np.zeros_like(state.restarted)), distance.min(1)

    def _one_model(self, mean: Array, covariance: Array, seen: Observation) -> tuple[Array, Array, Array, Array]:
        """Posterior mean, covariance, log-likelihood and distance of one model's plots."""
        update, options = _engine(self.engine)[1], self.options
        core = update(mean, covariance, seen)
        log_core, distance = innovation_likelihood(core.innovation, core.innovation_covariance)
        if options.tail_weight == 0.0:
            return core.mean, core.covariance, log_core, distance
        # The plot's noise is (1 − ε) N(0, R) + ε N(0, κ²R): two updates, weighed by what each made of the plot.
        wide = update(mean, covariance, seen.scaled(options.tail_scale**2))
        log_wide, distance = innovation_likelihood(wide.innovation, wide.innovation_covariance)
        logs = np.stack([np.log1p(-options.tail_weight) + log_core, np.log(options.tail_weight) + log_wide], -1)
        total = log_sum_exp(logs)
        both_mean = np.stack([core.mean, wide.mean], 1)
        both_covariance = np.stack([core.covariance, wide.covariance], 1)
        return *mixture_moments(np.exp(logs - total[:, None]), both_mean, both_covariance), total, distance


def _engine(name: str) -> Any:
    """How filterpy steps a track: (predict, update). Loaded here, as the batched engine does without filterpy."""
    from ssrtrack.filters.classical import ENGINES

    return ENGINES[name]


def enter(motion: Motion, mean: Array, covariance: Array) -> None:
    """Give states (N, n) the components that a flight entering `motion` has, in place: its prior, uncorrelated."""
    mean[:, 4:], covariance[:, 4:, :], covariance[:, :, 4:] = 0.0, 0.0, 0.0
    own = np.arange(4, motion.size)
    mean[:, own] = motion.entry_mean
    covariance[:, own, own] = motion.entry_variance
