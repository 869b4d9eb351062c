"""Which motion model a flight is in, as a Markov chain in continuous time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import EstimatorError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Chain:
    """Stay in model i for `sojourn_s[i]` seconds on average (M,), then jump to j with probability jump[i, j] (M, M).

    The transition matrix over a step is Π(T) = exp(Λ T) with Λ = diag(1/τ) (jump − I), so Π(T₁ + T₂) = Π(T₁) Π(T₂):
    a late or missed plot is as likely to hide a manoeuvre as its time says, which a fixed matrix per scan gets wrong.
    """

    sojourn_s: Array
    jump: Array

    def __post_init__(self) -> None:
        tau, jump = np.asarray(self.sojourn_s, np.float64), np.asarray(self.jump, np.float64)
        if jump.shape != (tau.size, tau.size) or not (tau > 0.0).all():
            raise EstimatorError(f"a chain of {tau.size} models needs positive sojourn times and a square jump matrix")
        off = jump.sum(1) if tau.size > 1 else np.ones(1)
        if (jump < 0.0).any() or np.diag(jump).any() or not np.allclose(off, 1.0):
            raise EstimatorError(
                f"jump probabilities must be positive, sum to 1 and have a zero diagonal: {jump.tolist()}"
            )
        object.__setattr__(self, "sojourn_s", tau)
        object.__setattr__(self, "jump", jump)

    def matrix(self, dt_s: Array) -> Array:
        """Π (N, M, M): probability of model j at the end of dt_s (N,) given model i at its start.

        By uniformisation, Π = Σ_k Poisson(k; λT) Bᵏ with λ the largest rate and B = I + Λ/λ a stochastic matrix
        (Jensen 1953): all terms are positive, so small probabilities keep their digits. Steps of more than 16 mean
        jumps are halved and squared.
        """
        models = self.sojourn_s.size
        if models == 1:
            return np.ones((*dt_s.shape, 1, 1))
        rate = float((1.0 / self.sojourn_s).max())
        kernel = np.eye(models) + (self.jump - np.eye(models)) / (self.sojourn_s * rate)[:, None]
        longest = float(dt_s.max(initial=0.0)) * rate
        halvings = max(0, int(np.ceil(np.log2(longest / 16.0)))) if longest > 16.0 else 0
        mean = dt_s * rate / 2.0**halvings
        top = float(mean.max(initial=0.0))
        weight, power = np.exp(-mean), np.eye(models)
        out = weight[:, None, None] * power
        for k in range(1, int(np.ceil(top + 10.0 * np.sqrt(top) + 16.0))):
            weight, power = weight * mean / k, power @ kernel
            out += weight[:, None, None] * power
        for _ in range(halvings):
            out = out @ out
        normalised: Array = out / out.sum(-1, keepdims=True)
        return normalised

    def log_matrix(self, dt_s: Array) -> Array:
        """log Π (N, M, M); −inf where a model cannot be reached (a step of 0 s)."""
        with np.errstate(divide="ignore"):
            out: Array = np.log(self.matrix(dt_s))
        return out

    def log_start(self) -> Array:
        """Log of the chain's stationary distribution (M,): what is known of a flight seen for the first time."""
        models = self.sojourn_s.size
        if models == 1:
            return np.zeros(1)
        # Visits v solve v (jump − I) = 0, Σ v = 1; time spent is visits times sojourn.
        equations = np.vstack([(self.jump - np.eye(models)).T, np.ones(models)])
        visits = np.linalg.lstsq(equations, np.eye(models + 1)[-1], rcond=None)[0]
        share = np.maximum(visits * self.sojourn_s, 1e-12)
        out: Array = np.log(share / share.sum())
        return out

    def spectrum(self) -> tuple[Array, Array]:
        """λ (M − 1,) and A (M − 1, M, M) with Π(T) = I + Σ_k A_k (e^(λ_k T) − 1), the eigenvalue 0 left out.

        Three exponentials a step in place of a matrix series, for the batched engine.

        Raises:
            EstimatorError: the chain has complex rates (it goes round in circles) or lacks eigenvectors.
        """
        models = self.sojourn_s.size
        rates, vectors = np.linalg.eig((self.jump - np.eye(models)) / self.sojourn_s[:, None])
        # Newer numpy gives complex arrays whatever the values; a complex chain fails the comparison below.
        rates, vectors = np.real(rates), np.real(vectors)
        order = np.argsort(np.abs(rates))[1:]
        rows = np.linalg.lstsq(vectors, np.eye(models), rcond=None)[0]
        shares = np.array([np.outer(vectors[:, k], rows[k]) for k in order]).reshape(-1, models, models)
        steps = np.outer([0.1, 1.0, 5.0], self.sojourn_s).ravel()
        again = np.eye(models) + np.einsum("sk,kij->sij", np.expm1(np.outer(steps, rates[order])), shares)
        if not np.abs(again - self.matrix(steps)).max() < 1e-12:
            raise EstimatorError(
                f"a chain with jumps {self.jump.tolist()} has no real spectrum, so the batched engine cannot run it; "
                "use backend='filterpy', or let models that leave to one another be symmetric"
            )
        return rates[order], shares
