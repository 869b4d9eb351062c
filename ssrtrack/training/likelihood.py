"""How well an estimator predicts the plots of flights, and where truth is known how far off it is.

The likelihood of the plots is Σ log p(z_k | z_1 … z_{k−1}), what a filter says of every plot before it is used
(Schweppe 1965, IEEE T-IT 11(1)). It needs no truth, so it serves recordings as well, and its maximum is where the
filter's own spread fits what comes: calibration is part of it, not only accuracy.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.filters.bank import Bank
from ssrtrack.filters.batched import why_not
from ssrtrack.filters.gaussian import LOG_TWO_PI
from ssrtrack.filters.history import TrackHistory, flight_lengths
from ssrtrack.filters.packing import form_of, packed_measurements, parameters_of
from ssrtrack.filters.protocol import Estimator
from ssrtrack.filters.run import run
from ssrtrack.kernels.kalman_layout import Layout
from ssrtrack.training.tune_flights import Block, Group

Array = NDArray[Any]

WARM_UP = 8  # plots of each flight that are not counted, as in scoring
# The density of plots for estimators with a gate: a plot that is turned down must count against them, or turning
# everything down would be best, but not as if it were good noise, or one outlier would outweigh a flight.
OUTLIER_WEIGHT, OUTLIER_SCALE = 0.02, 8.0
WORST = -1e6  # nats per plot where an estimator breaks down


@dataclass(frozen=True)
class Figures:
    """Means over all counted plots; NaN where there is no truth.

    log_likelihood: nats per plot, by the moments that the estimator predicts and noise with the same heavy tail for
    every estimator, so that gated and mixture filters compare (`plot_log_likelihood`). anees and anees_position are
    over 4 and 2 degrees of freedom, 1 is ideal; nll is the mean negative log-density of the true x, y, vx, vy.
    """

    flights: int
    plots: int
    log_likelihood: float
    position_rmse_m: float = np.nan
    velocity_rmse_mps: float = np.nan
    anees: float = np.nan
    anees_position: float = np.nan
    nll: float = np.nan

    def to_dict(self) -> dict[str, float | int]:
        """Those that are known, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if np.isfinite(value)}


class Packed:
    """A group's plots as the batched engine takes them, packed once for every observation that is asked for."""

    def __init__(self, group: Group) -> None:
        self.group = group
        # Position and covariance xx, xy, yy (5, P) of the counted plots of each block.
        self.plots = [_measured(block, _cells(block)) for block in group.blocks]
        self._packed: dict[bool, list[tuple[Array, Any, Array]]] = {}

    def scanned(self, bank: Bank, output: str) -> list[Array]:
        """An output (rows, P) of the engine for the counted plots of each block."""
        from ssrtrack.kernels.kalman import scan

        form, numbers = form_of(bank), parameters_of(bank)
        polar = form.observation == "polar"
        if polar not in self._packed:
            self._packed[polar] = [_packed(block, polar) for block in self.group.blocks]
        found = []
        for columns, layout, places in self._packed[polar]:
            out = scan(form, numbers, columns, layout, (output,), backend="numba", final_state=False)[0]
            found.append(out[output][:, places])
        return found


class Likelihood:
    """The mean log-likelihood of a group's plots, as a function of the estimator."""

    def __init__(self, group: Group) -> None:
        self._packed = Packed(group)

    def __call__(self, estimator: Estimator) -> float:
        """Nats per counted plot; `WORST` where the estimator breaks down."""
        if isinstance(estimator, Bank) and estimator.options.gate is None and why_not(estimator) is None:
            # The bank's own likelihood: of a mixture over all models and both kinds of noise.
            logs = [rows[0] for rows in self._packed.scanned(estimator, "log_likelihood")]
        elif isinstance(estimator, Bank) and why_not(estimator) is None:
            moments = self._packed.scanned(estimator, "predicted")
            parts = zip(moments, self._packed.plots, strict=True)
            logs = [robust_log_density(z[:2] - m[:2], m[[4, 5, 8]], z[2:]) for m, z in parts]
        else:
            blocks = self._packed.group.blocks
            logs = [plot_log_likelihood(run(estimator, b.z), b) for b in blocks]
        return _mean(np.concatenate(logs), WORST)


class TruthLoss:
    """Root mean square position error (m), or mean NLL of the true state, as a function of the estimator."""

    def __init__(self, group: Group, what: str) -> None:
        self._packed, self._what = Packed(group), what
        self._truth = np.concatenate([b.truth[_cells(b)].T for b in group.blocks if b.truth is not None], axis=1)

    def __call__(self, estimator: Estimator) -> float:
        """The loss; −`WORST` where the estimator breaks down."""
        if not isinstance(estimator, Bank) or why_not(estimator) is not None:
            found = getattr(figures(estimator, self._packed.group), self._what)
            return float(found) if np.isfinite(found) else -WORST
        rows = np.concatenate(self._packed.scanned(estimator, "filtered"), axis=1)
        error = rows[:4] - self._truth
        if self._what == "position_rmse_m":
            return float(np.sqrt(_mean(error[0] ** 2 + error[1] ** 2, WORST**2)))
        nees, log_det = whitened(error, rows[4:])
        return _mean(0.5 * nees + log_det, -WORST) + 2.0 * LOG_TWO_PI


def _mean(values: Array, otherwise: float) -> float:
    value = float(values.mean()) if values.size else otherwise
    return value if np.isfinite(value) else otherwise


def whitened(error: Array, upper: Array) -> tuple[Array, Array]:
    """eᵀ P⁻¹ e and log √|P|, (P,) each, of errors (n, P) and the upper triangles (n (n + 1) / 2, P) of covariances.

    By Cholesky factors, entry by entry over all plots at once; NaN where a covariance is not positive definite.
    """
    n = error.shape[0]
    place = {pair: k for k, pair in enumerate((i, j) for i in range(n) for j in range(i, n))}
    L: dict[tuple[int, int], Array] = {}
    nees, log_det = np.zeros(error.shape[1]), np.zeros(error.shape[1])
    white: list[Array] = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(n):
            L[j, j] = np.sqrt(upper[place[j, j]] - sum(L[j, k] ** 2 for k in range(j)))
            for i in range(j + 1, n):
                L[i, j] = (upper[place[j, i]] - sum(L[i, k] * L[j, k] for k in range(j))) / L[j, j]
            white.append((error[j] - sum(L[j, k] * white[k] for k in range(j))) / L[j, j])
            nees, log_det = nees + white[j] ** 2, log_det + np.log(L[j, j])
    return nees, log_det


def counted(block: Block) -> Array:
    """Which plots (N, T) count: received after the warm-up, with known truth if any is known."""
    mask = block.z.valid & (np.arange(block.z.valid.shape[1]) >= WARM_UP)
    if block.truth is not None:
        mask &= np.isfinite(block.truth[..., 0])
    return mask


def _cells(block: Block) -> tuple[Array, Array]:
    """Row and column of the counted plots, in packed order."""
    row, column = Layout.of(flight_lengths(block.z)).cells()
    places = counted(block)[row, column]
    return row[places], column[places]


def _packed(block: Block, polar: bool) -> tuple[Array, Any, Array]:
    columns, layout = packed_measurements(block.z, polar)
    return columns, layout, counted(block)[layout.cells()]


def _measured(block: Block, cells: Any) -> Array:
    noise = block.z.covariance_m2[cells]
    return np.concatenate([block.z.position_m[cells].T, noise[:, [0, 0, 1], [0, 1, 1]].T])


def plot_log_likelihood(history: TrackHistory, block: Block) -> Array:
    """Log-density (P,) of each counted plot given those before, by the moments predicted and noise with a tail."""
    mask = counted(block)
    z, spread = _measured(block, mask), history.predicted_covariance[mask]
    upper = spread[:, [0, 0, 1], [0, 1, 1]].T
    return robust_log_density(z[:2] - history.predicted_mean[mask][:, :2].T, upper, z[2:])


def robust_log_density(y: Array, spread: Array, noise: Array) -> Array:
    """log((1 − ε) N(y; 0, P + R) + ε N(y; 0, P + κ²R)) (P,) for y (2, P) and upper triangles P and R (3, P)."""
    logs = []
    for weight, scale in ((1.0 - OUTLIER_WEIGHT, 1.0), (OUTLIER_WEIGHT, OUTLIER_SCALE)):
        distance, log_det = whitened(y, spread + scale**2 * noise)
        logs.append(np.log(weight) - 0.5 * distance - log_det - LOG_TWO_PI)
    out: Array = np.logaddexp(*logs)
    return out


def figures(estimator: Estimator, group: Group) -> Figures:
    """Everything there is to say about an estimator on a group's flights."""
    logs, errors, uppers = [], [], []
    for block in group.blocks:
        history, mask = run(estimator, block.z), counted(block)
        logs.append(plot_log_likelihood(history, block))
        if block.truth is not None:
            errors.append((history.mean[mask] - block.truth[mask]).T)
            uppers.append(history.covariance[mask][:, *np.triu_indices(4)].T)
    every = np.concatenate(logs)
    plain = Figures(group.flights, every.size, _mean(every, np.nan))
    if not group.has_truth or not every.size:
        return plain
    error, upper = np.concatenate(errors, axis=1), np.concatenate(uppers, axis=1)
    (nees, log_det), (nees_position, _) = whitened(error, upper), whitened(error[:2], upper[[0, 1, 4]])
    square = (error**2).mean(1)
    return replace(
        plain,
        position_rmse_m=float(np.sqrt(square[0] + square[1])),
        velocity_rmse_mps=float(np.sqrt(square[2] + square[3])),
        anees=float(nees.mean()) / 4.0,
        anees_position=float(nees_position.mean()) / 2.0,
        nll=float((0.5 * nees + log_det).mean() + 2.0 * LOG_TWO_PI),
    )
