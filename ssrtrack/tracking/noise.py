"""A radar's noise measured from its own plots: residuals of local cubic fits to range and azimuth.

Nine plots in a row of one flight are fitted by a cubic in time, and the middle one is compared with the fit. What is
slow (bias, registration) does not show; what is quick does, and so do manoeuvres, which is why sigma is robust.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.tracking.flights import FlightBatch
from ssrtrack.units import AZIMUTH_LSB_RAD, NM_M, RANGE_LSB_M

Array = NDArray[Any]

WINDOW = 9
CENTRE = WINDOW // 2
MIN_RANGE_M = 5.0 * NM_M  # nearer, azimuth runs too fast for a cubic
MAX_GAP = 2.5  # longest step inside a window, in median steps
MIN_WINDOWS = 30
BLOCK = 20_000  # windows fitted at a time
TAIL_SIGMA = 5.0  # of a million Gaussian residuals 0.6 lie beyond
MAD_TO_SIGMA = 1.482602218505602  # 1 / (sqrt(2) erfinv(1/2))
FLOOR_RANGE_M, FLOOR_AZIMUTH_RAD = RANGE_LSB_M / sqrt(12.0), AZIMUTH_LSB_RAD / sqrt(12.0)


@dataclass(frozen=True)
class MeasuredNoise:
    """One radar's noise; sigma is None with fewer than 30 windows. `plots` are those of the sample."""

    plots: int
    windows: int
    sigma_range_m: float | None
    sigma_azimuth_rad: float | None
    range_p99_m: float | None
    azimuth_p99_rad: float | None
    period_s: float | None  # median time between plots of one flight
    stated_range_m: float | None  # median of what the plots state
    stated_azimuth_rad: float | None
    tail_share: float  # of residuals beyond 5 sigma, the larger of range and azimuth
    tail_scale: float  # how much wider a Gaussian has the median of those


def measure_noise(batches: Iterable[FlightBatch], radar_count: int) -> list[MeasuredNoise]:
    """Noise of each radar from flights that join no radars (`Cutting.per_radar`)."""
    residuals: list[list[tuple[Array, Array]]] = [[] for _ in range(radar_count)]
    steps: list[list[Array]] = [[] for _ in range(radar_count)]
    stated: list[list[tuple[Array, Array]]] = [[] for _ in range(radar_count)]
    for batch in batches:
        if len(batch):
            step = np.diff(batch.plots.time_s)[_same_flight(batch)]
            residuals[batch.radar_id].append(_residuals(batch, float(np.median(step))))
            steps[batch.radar_id].append(step)
            stated[batch.radar_id].append((batch.plots.sigma_range_m, batch.plots.sigma_azimuth_rad))
    return [_measured(residuals[k], steps[k], stated[k]) for k in range(radar_count)]


def _same_flight(batch: FlightBatch) -> Array:
    """For each pair of neighbouring rows, whether both belong to one flight."""
    same = np.ones(len(batch.plots), bool)
    same[batch.starts[:-1]] = False
    return same[1:]


def _residuals(batch: FlightBatch, step_s: float) -> tuple[Array, Array]:
    """Normalised residuals of range (m) and azimuth (rad) over all windows of a batch."""
    plots = batch.plots
    if len(plots) < WINDOW:
        return np.zeros(0), np.zeros(0)
    flight = np.repeat(np.arange(len(batch)), np.diff(batch.starts))
    time = np.lib.stride_tricks.sliding_window_view(plots.time_s, WINDOW)
    good = flight[: 1 - WINDOW] == flight[WINDOW - 1 :]
    good &= plots.range_m[CENTRE : CENTRE + time.shape[0]] > MIN_RANGE_M
    good &= np.diff(time, axis=1).max(1) < MAX_GAP * step_s
    rows = np.flatnonzero(good)
    parts = [_window_residuals(batch, rows[i : i + BLOCK]) for i in range(0, rows.size, BLOCK)]
    ranges, azimuths = (np.concatenate([part[i] for part in parts] or [np.zeros(0)]) for i in range(2))
    return ranges, azimuths


def _window_residuals(batch: FlightBatch, first: Array) -> tuple[Array, Array]:
    """Residuals of the windows that begin at rows `first`."""
    plots, at = batch.plots, first[:, None] + np.arange(WINDOW)
    azimuth = plots.azimuth_rad[at]
    azimuth = wrapped_angle(azimuth - azimuth[:, [CENTRE]])
    weights = _centre_weights(plots.time_s[at])
    return _normalised(plots.range_m[at], weights), _normalised(azimuth, weights)


def _centre_weights(time: Array) -> Array:
    """Weights (W, 9) whose sum with the data is the cubic least-squares fit at the centre of each window."""
    tau = time - time[:, [CENTRE]]
    tau = tau / np.abs(tau).max(1, keepdims=True)
    design = np.empty((*tau.shape, 4))
    design[..., 0], design[..., 1] = 1.0, tau
    design[..., 2:] = tau[..., None] ** np.arange(2, 4)  # a power costs as much as all the rest
    gram = np.swapaxes(design, 1, 2) @ design
    unit = np.zeros((time.shape[0], 4, 1))
    unit[:, 0] = 1.0  # at tau = 0 the cubic is its constant
    weights: Array = (design @ np.linalg.solve(gram, unit))[..., 0]
    return weights


def _normalised(values: Array, weights: Array) -> Array:
    """Residual at the centre over sqrt(1 - leverage): its variance is that of one plot."""
    centre = values[:, CENTRE]
    fitted = ((values - centre[:, None]) * weights).sum(1)
    scaled: Array = -fitted / np.sqrt(1.0 - weights[:, CENTRE])
    return scaled


def _measured(
    residuals: list[tuple[Array, Array]], steps: list[Array], stated: list[tuple[Array, Array]]
) -> MeasuredNoise:
    ranges, azimuths = (np.concatenate([r[i] for r in residuals] or [np.zeros(0)]) for i in range(2))
    step = np.concatenate(steps or [np.zeros(0)])
    own_range, own_azimuth = (np.concatenate([s[i] for s in stated] or [np.zeros(0)]) for i in range(2))
    enough = ranges.size >= MIN_WINDOWS
    tails = [_tail(r) if enough else (0.0, 1.0) for r in (ranges, azimuths)]
    return MeasuredNoise(
        plots=own_range.size,
        windows=ranges.size,
        sigma_range_m=robust_sigma(ranges) if enough else None,
        sigma_azimuth_rad=robust_sigma(azimuths) if enough else None,
        range_p99_m=float(np.quantile(np.abs(ranges), 0.99)) if enough else None,
        azimuth_p99_rad=float(np.quantile(np.abs(azimuths), 0.99)) if enough else None,
        period_s=float(np.median(step)) if step.size else None,
        stated_range_m=_median(own_range),
        stated_azimuth_rad=_median(own_azimuth),
        tail_share=max(tails)[0],
        tail_scale=max(tails)[1],
    )


def robust_sigma(residuals: Array) -> float:
    """1.4826 times the median absolute deviation: sigma of the Gaussian core, whatever the tails."""
    return MAD_TO_SIGMA * float(np.median(np.abs(residuals - np.median(residuals))))


def _tail(residuals: Array) -> tuple[float, float]:
    """Share of residuals beyond 5 robust sigma, and sigma of a Gaussian with their median, in those sigmas.

    A wrong plot also spoils the fits around it, so the share is rather too large than too small.
    """
    sigma = robust_sigma(residuals)
    far = np.abs(residuals) > TAIL_SIGMA * sigma
    if sigma <= 0.0 or not far.any():
        return 0.0, 1.0
    return float(far.mean()), MAD_TO_SIGMA * float(np.median(np.abs(residuals[far]))) / sigma


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None
