"""Does the claimed covariance fit the errors: NEES, NIS, coverage, log-likelihood, whiteness.

All functions work on whole (N, T) tables; cells that are NaN in (padding, unknown truth) are NaN out.
Sources: Bar-Shalom, Li, Kirubarajan 2001, section 5.4 (NEES, NIS, whiteness); Li, Zhao 2006 (ANEES over n).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

Array = NDArray[Any]
LOG_2PI = log(2.0 * pi)
LEVELS = (50, 90, 95, 99)  # coverage of the position ellipse, percent


@dataclass(frozen=True)
class StateConsistency:
    """Normalised errors (N, T) of x, y, vx, vy; `nees_position` over x, y; `nll` in nats."""

    nees: Array
    nees_position: Array
    nll: Array


@dataclass(frozen=True)
class Innovations:
    """Of each plot against the state predicted to its time: `whitened` is two (N, T) tables, unit variance ideally."""

    distance_m: Array
    whitened: tuple[Array, Array]
    nis: Array
    nll: Array


def cholesky(matrix: Array) -> list[list[Array]]:
    """Lower factor of symmetric (..., n, n) matrices, as a list of rows of (...) entries; NaN where not positive.

    For n of 2 or 4 and many matrices this is some ten times faster than LAPACK's call per matrix.
    """
    return _factor(lambda i, j: matrix[..., i, j], matrix.shape[-1])


def _factor(entry: Callable[[int, int], Array], n: int) -> list[list[Array]]:
    factor: list[list[Array]] = [[] for _ in range(n)]
    with np.errstate(invalid="ignore"):
        for i in range(n):
            for j in range(i + 1):
                rest = entry(i, i) if i == j else 0.5 * (entry(i, j) + entry(j, i))
                for k in range(j):
                    rest = rest - factor[i][k] * factor[j][k]
                factor[i].append(np.sqrt(np.where(rest > 0.0, rest, np.nan)) if i == j else rest / factor[j][j])
    return factor


def whiten(factor: list[list[Array]], error: list[Array]) -> list[Array]:
    """L^-1 e by forward substitution, entry by entry."""
    white: list[Array] = []
    for i, row in enumerate(factor):
        rest = error[i]
        for k in range(i):
            rest = rest - row[k] * white[k]
        white.append(rest / row[i])
    return white


def log_determinant(factor: list[list[Array]]) -> Array:
    """log |L L^T| (...)."""
    total = np.log(factor[0][0])
    for i, row in enumerate(factor[1:], start=1):
        total = total + np.log(row[i])
    return np.asarray(2.0 * total)


def state_consistency(
    mean: Array, factor: list[list[Array]], true_position_m: Array, true_velocity_mps: Array
) -> StateConsistency:
    """NEES and negative log-likelihood of true states (N, T, 2) + (N, T, 2).

    Args:
        mean: (N, T, 4) x, y, vx, vy.
        factor: `cholesky` of its covariance; its leading block is the position's own factor.
    """
    truth = (true_position_m[..., 0], true_position_m[..., 1], true_velocity_mps[..., 0], true_velocity_mps[..., 1])
    white = whiten(factor, [mean[..., i] - truth[i] for i in range(4)])
    position: Array = white[0] ** 2 + white[1] ** 2
    nees: Array = position + white[2] ** 2 + white[3] ** 2
    return StateConsistency(nees, position, 0.5 * (nees + log_determinant(factor) + 4 * LOG_2PI))


def innovations(
    predicted_mean: Array, predicted_covariance: Array, position_m: Array, covariance_m2: Array
) -> Innovations:
    """Innovations of converted plots (N, T, 2) with covariance (N, T, 2, 2): S = H P H' + R, H = [I 0]."""
    factor = _factor(lambda i, j: predicted_covariance[..., i, j] + covariance_m2[..., i, j], 2)
    error = [position_m[..., i] - predicted_mean[..., i] for i in range(2)]
    white = whiten(factor, error)
    nis: Array = white[0] ** 2 + white[1] ** 2
    nll = 0.5 * (nis + log_determinant(factor) + 2 * LOG_2PI)
    return Innovations(np.hypot(error[0], error[1]), (white[0], white[1]), nis, nll)


def lag_one(whitened: tuple[Array, Array], scored: Array) -> tuple[Array, Array]:
    """Numerator and denominator (N, T) of the lag-1 autocorrelation of whitened innovations.

    sum w_k . w_(k-1) over sum (|w_k|^2 + |w_(k-1)|^2) / 2, both over pairs of scored neighbours in one flight; by the
    arithmetic-geometric inequality the ratio lies in [-1, 1].
    """
    numerator, denominator = np.full(scored.shape, np.nan), np.full(scored.shape, np.nan)
    now = [w[:, 1:] for w in whitened]
    before = [w[:, :-1] for w in whitened]
    pair = scored[:, 1:] & scored[:, :-1]
    numerator[:, 1:] = np.where(pair, now[0] * before[0] + now[1] * before[1], np.nan)
    power = 0.5 * (now[0] ** 2 + now[1] ** 2 + before[0] ** 2 + before[1] ** 2)
    denominator[:, 1:] = np.where(pair, power, np.nan)
    return numerator, denominator


def chi2_quantile(probability: float, dof: Any) -> Any:
    """The value below which a chi-square variable of `dof` (number or array) degrees of freedom lies.

    By scipy.special: importing scipy.stats takes a third of a second at every start.
    """
    return 2.0 * gammaincinv(np.asarray(dof, float) / 2.0, probability)


def inside(squared_distance: Array, level: float, dof: int) -> Array:
    """1 where a normalised squared error lies inside the `level` (0..1) ellipsoid, 0 outside, NaN where unknown."""
    return np.where(np.isnan(squared_distance), np.nan, (squared_distance <= chi2_quantile(level, dof)).astype(float))


def in_two_sided_bounds(squared_distance: Array, dof: int) -> Array:
    """1 where one NEES or NIS lies between the 2.5 % and 97.5 % points of chi-square(dof), 0 outside, NaN unknown."""
    low, high = chi2_quantile(0.025, dof), chi2_quantile(0.975, dof)
    within = (squared_distance >= low) & (squared_distance <= high)
    return np.where(np.isnan(squared_distance), np.nan, within.astype(float))


def mean_bounds(count: Array, dof: int) -> tuple[Array, Array]:
    """Two-sided 95 % bounds of the mean of `count` independent chi-square(dof) values, divided by dof."""
    total = np.maximum(np.asarray(count, float), 1.0) * dof
    return chi2_quantile(0.025, total) / total, chi2_quantile(0.975, total) / total


def consistency_values(state: StateConsistency | None, plot: Innovations, scored: Array) -> dict[str, Array]:
    """Per-cell values by score key; their mean over scored cells is the score."""
    nis = np.where(scored, plot.nis, np.nan)
    values = {
        "anis": nis / 2.0,
        "nis_in_bounds": in_two_sided_bounds(nis, 2),
        "nll_next_plot": np.where(scored, plot.nll, np.nan),
        "next_plot_rmse_m": np.where(scored, plot.distance_m**2, np.nan),
    }
    if state is None:
        return values | {"nll": values["nll_next_plot"]}
    nees = np.where(scored, state.nees, np.nan)
    position = np.where(scored, state.nees_position, np.nan)
    values |= {
        "anees": nees / 4.0,
        "anees_position": position / 2.0,
        "nees_in_bounds": in_two_sided_bounds(nees, 4),
        "nll": np.where(scored, state.nll, np.nan),
    }
    return values | {f"coverage_{level}": inside(position, level / 100.0, 2) for level in LEVELS}
