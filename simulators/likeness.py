"""What plots alone tell of a radar: errors about local fits, time between scans, misses; to compare simulated and real.

All of it is by 24-bit address and needs no truth, so that a recording and a simulation are measured with one rule.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.units import DEG_RAD, NM_M

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]
Bools = NDArray[np.bool_]

WINDOW = 9  # plots of one local fit: a cubic leaves five degrees of freedom
LONGEST_RUN = 10  # missed scans; a longer silence is an aircraft that left
_CUBIC = 4
_QUIET_MPS2, _QUIET_MPS3 = 0.3, 0.05  # straight: acceleration and its change below these over the window
PROBABILITIES = np.linspace(0.005, 0.995, 199)  # quantiles kept of each distribution


@dataclass(frozen=True)
class Likeness:
    """Samples that describe a radar: of n local fits, m steps from plot to plot, and k plots in all."""

    range_residual_m: Floats  # (n,) of the middle plot of each fit, scaled to the deviation of the plot itself
    azimuth_residual_deg: Floats  # (n,)
    fit_range_nm: Floats  # (n,)
    straight: Bools  # (n,) fits whose other plots lie on a way that hardly bends
    step_s: Floats  # (m,) between plots in successive scans
    runs: Ints  # (LONGEST_RUN,) gaps of 1, 2, ... missed scans
    opportunities: int  # scans between the first and last plot of flights, long silences left out
    range_nm: Floats  # (k,)
    per_minute: Ints  # plots in each whole minute

    @property
    def miss_rate(self) -> float:
        """Share of scans in which a flight was missed."""
        return float(self.runs @ np.arange(1, LONGEST_RUN + 1)) / max(self.opportunities, 1)


def airborne(plots: Plots, min_range_nm: float = 5.0, min_altitude_m: float = 500.0) -> Plots:
    """Detected plots with an address and an altitude, not too near and not on the ground."""
    with np.errstate(invalid="ignore"):
        high = plots.pressure_altitude_m >= min_altitude_m
    return plots[(plots.address > 0) & (plots.plot_type != 0) & high & (plots.range_m > min_range_nm * NM_M)]


def likeness(plots: Plots, period_s: float) -> Likeness:
    """Measure airborne plots of one radar with a rotation period."""
    minutes = np.floor((plots.time_s - plots.time_s.min()) / 60.0).astype(int)
    per_minute = np.bincount(minutes)[:-1]
    range_nm = plots.range_m / NM_M
    plots = plots[np.lexsort((plots.time_s, plots.address))]
    same = np.diff(plots.address) == 0
    step = np.round(np.diff(plots.time_s), 6)  # stamps are multiples of 1/128 s, and so should their differences be
    scans = np.round(step / period_s).astype(int)
    near = same & (scans >= 1) & (scans <= LONGEST_RUN + 1)
    runs = np.bincount(scans[near] - 1, minlength=LONGEST_RUN + 1)[1 : LONGEST_RUN + 1]
    errors = _fitted(plots, same & (scans == 1))
    return Likeness(*errors, step[near & (scans == 1)], runs, int(scans[near].sum()), range_nm, per_minute)


def _fitted(plots: Plots, joined: Bools) -> tuple[Floats, Floats, Floats, Bools]:
    """Residuals of local cubics in range and azimuth; `joined` (n − 1,) says which plots are successive."""
    whole = np.convolve(joined, np.ones(WINDOW - 1), "valid") == WINDOW - 1
    rows = np.flatnonzero(whole)[:, None] + np.arange(WINDOW)
    middle = rows[:, WINDOW // 2]
    since = plots.time_s[rows] - plots.time_s[middle][:, None]
    azimuth = wrapped_angle(plots.azimuth_rad[rows] - plots.azimuth_rad[middle][:, None])
    range_m = plots.range_m[rows]
    along = range_m * np.sin(azimuth), range_m * np.cos(azimuth)
    bend = [cubic_middle(since, z) for z in along]
    quiet = np.hypot(*(b[1] for b in bend)) < _QUIET_MPS2
    quiet &= np.hypot(*(b[2] for b in bend)) < _QUIET_MPS3
    in_azimuth = cubic_middle(since, azimuth)[0] / DEG_RAD
    return cubic_middle(since, range_m)[0], in_azimuth, plots.range_m[middle] / NM_M, quiet


def cubic_middle(time_s: Floats, value: Floats) -> tuple[Floats, Floats, Floats]:
    """Cubic fits to rows (n, WINDOW) whose middle is at time zero.

    Returns:
        The middle's residual, divided by √(1 − leverage): for white errors its deviation is that of a single value.
        Second and third derivative at the middle of the cubic through the others alone: a gross error of the middle
        does not bend it.
    """
    scale = np.abs(time_s).max(axis=1, keepdims=True)
    powers = (time_s / scale)[:, :, None] ** np.arange(_CUBIC)
    q, r = np.linalg.qr(powers)
    at = q[:, WINDOW // 2]
    seen = np.einsum("nij,ni->nj", q, value)
    residual, own = value[:, WINDOW // 2] - np.sum(at * seen, axis=1), 1.0 - np.sum(at**2, axis=1)
    without = seen - at * (residual / own)[:, None]
    coefficient = np.linalg.solve(r, without[:, :, None])[:, :, 0]
    second, third = 2.0 * coefficient[:, 2] / scale[:, 0] ** 2, 6.0 * coefficient[:, 3] / scale[:, 0] ** 3
    return residual / np.sqrt(own), second, third


def distributions(found: Likeness) -> dict[str, Floats]:
    """The samples that are compared, by name with their unit."""
    return {
        "range residual [m]": found.range_residual_m,
        "azimuth residual [deg]": found.azimuth_residual_deg,
        "range residual, straight [m]": found.range_residual_m[found.straight],
        "azimuth residual, straight [deg]": found.azimuth_residual_deg[found.straight],
        "time between scans [s]": found.step_s,
        "slant range [NM]": found.range_nm,
    }


def quantiles(samples: Floats) -> Floats:
    """The samples' quantiles at PROBABILITIES."""
    return np.quantile(samples, PROBABILITIES)


def distance(samples: Floats, reference: Floats) -> float:
    """Greatest difference of two distribution functions (Kolmogorov-Smirnov), the second given by `quantiles`.

    It is taken at the reference's quantiles, before and after each value, so that rounded values count as they should;
    the quantiles' spacing makes it uncertain by half a per cent.
    """
    samples = np.sort(samples)
    below = np.searchsorted(samples, reference, "left") / len(samples)
    upto = np.searchsorted(samples, reference, "right") / len(samples)
    # Of equal quantiles the first and the last say where the reference's own step begins and ends.
    first = np.searchsorted(reference, reference, "left")
    last = np.searchsorted(reference, reference, "right") - 1
    return float(np.max(np.maximum(np.abs(upto - PROBABILITIES[last]), np.abs(below - PROBABILITIES[first]))))
