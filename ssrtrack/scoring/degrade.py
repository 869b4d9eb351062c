"""Plots made worse along one axis, by a level: pure functions of the plots, the level and a seed.

What is random belongs to the plot (`degrade_draws`), so levels are nested and every tracker meets the same plots.
Numbers are made worse from a flight's first plot on; plots are taken away only after its warm-up (`spared`), so that
every tracker starts every flight alike and what a level tells is how tracks are kept. docs/robustness.md defines all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ssrtrack.data import TWO_PI, Plots
from ssrtrack.scoring.degrade_draws import hashes, normal, uniform
from ssrtrack.units import DEG_RAD

Array = NDArray[Any]

RUN_CORRELATION = 0.7  # from plot to plot, of the Gaussian process behind misses in runs
OUTLIER_SIGMAS = 10.0
RECOVERY_SCANS = 5  # scored after a gap
GAP_INTO_TURN = 3  # scans from a turn's beginning to the first plot after a gap
MIN_STEP_S = 1.0 / 128.0  # LSB of an ASTERIX time of day


@dataclass(frozen=True, eq=False)
class Flown:
    """Whole flights before degradation: `plots` (P,) sorted by flight, then time; flight i is rows starts[i]:[i + 1].

    sigma_range_m, sigma_azimuth_rad (P,): the standard deviations that trackers are told. turning (P,): the aircraft
    turns, False where that is not known. spared: plots at each flight's start that are never taken away.
    largest_gap: the longest gap asked for, in scans.
    """

    plots: Plots
    starts: Array
    sigma_range_m: Array
    sigma_azimuth_rad: Array
    turning: Array
    spared: int
    largest_gap: int = 0

    def flight(self) -> Array:
        """Number of each plot's flight (P,)."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))

    def column(self) -> Array:
        """Number of each plot in its flight (P,)."""
        column: Array = np.arange(len(self.plots)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        return column

    def grid(self, values: Array) -> Array:
        """Values of the plots (P,) with a row for each flight, (N, T); 0 after a flight's end."""
        lengths = np.diff(self.starts)
        grid = np.zeros((lengths.size, int(lengths.max(initial=0))))
        grid[self.flight(), self.column()] = values
        return grid


@dataclass(frozen=True, eq=False)
class Degraded:
    """The plots after degradation, row by row those before. received (P,): the plot is still there. counted (P,):
    the scan is scored, None for all."""

    plots: Plots
    received: Array
    counted: Array | None = None


def _all(flown: Flown) -> Array:
    return np.ones(len(flown.plots), bool)


def detection(flown: Flown, level: float, seed: int) -> Degraded:
    """Every plot stays with probability `level`, each by itself."""
    return Degraded(flown.plots, (uniform(flown.plots, seed, "pd") < level) | (flown.column() < flown.spared))


def detection_in_runs(flown: Flown, level: float, seed: int) -> Degraded:
    """Every plot stays with probability `level`, misses in runs.

    A plot is missed where a stationary Gaussian process with correlation 0.7 from plot to plot is above the level's
    quantile: the marginal probability is the level's, and levels are nested.
    """
    from scipy.signal import lfilter  # takes a quarter of a second to load

    row, column = flown.flight(), flown.column()
    own = normal(flown.plots, seed, "pd-runs")
    innovation = flown.grid(np.where(column == 0, own, np.sqrt(1.0 - RUN_CORRELATION**2) * own))
    process = lfilter([1.0], [1.0, -RUN_CORRELATION], innovation, axis=1)[row, column]
    return Degraded(flown.plots, (ndtr(process) < level) | (column < flown.spared))


def _displaced(plots: Plots, range_m: Array, azimuth_rad: Array) -> Plots:
    return plots.replace(
        range_m=np.maximum(plots.range_m + range_m, 0.0), azimuth_rad=(plots.azimuth_rad + azimuth_rad) % TWO_PI
    )


def noise(flown: Flown, level: float, seed: int) -> Degraded:
    """White noise added so that the standard deviation is `level` times what the trackers are told."""
    added = np.sqrt(level**2 - 1.0)
    range_m = added * flown.sigma_range_m * normal(flown.plots, seed, "range")
    azimuth_rad = added * flown.sigma_azimuth_rad * normal(flown.plots, seed, "azimuth")
    return Degraded(_displaced(flown.plots, range_m, azimuth_rad), _all(flown))


def noise_told(flown: Flown, level: float, seed: int) -> Degraded:
    """The same noise, with the plots' stated standard deviations `level` times as large: the trackers are told."""
    plots = noise(flown, level, seed).plots
    told = {"sigma_range_m": level * flown.sigma_range_m, "sigma_azimuth_rad": level * flown.sigma_azimuth_rad}
    return Degraded(plots.replace(**{name: value.astype(np.float32) for name, value in told.items()}), _all(flown))


def jitter(flown: Flown, level: float, seed: int) -> Degraded:
    """Gaussian error of standard deviation `level` seconds in every time stamp; range and azimuth stay.

    A stamp that would not come after its predecessor's in the flight is set 1/128 s after it: trackers take plots in
    the order in which they were measured.
    """
    time = flown.plots.time_s + level * normal(flown.plots, seed, "time")
    row, column = flown.flight(), flown.column()
    grid = flown.grid(time - column * MIN_STEP_S)
    earliest = np.maximum.accumulate(grid, axis=1)
    late = (earliest > grid)[row, column]
    return Degraded(
        flown.plots.replace(time_s=np.where(late, earliest[row, column] + column * MIN_STEP_S, time)), _all(flown)
    )


def azimuth_bias(flown: Flown, level: float, seed: int) -> Degraded:
    """`level` degrees added to every azimuth of every radar."""
    return Degraded(_displaced(flown.plots, np.zeros(len(flown.plots)), np.array(level * DEG_RAD)), _all(flown))


def range_bias(flown: Flown, level: float, seed: int) -> Degraded:
    """`level` metres added to every slant range of every radar."""
    return Degraded(_displaced(flown.plots, np.full(len(flown.plots), level), np.array(0.0)), _all(flown))


def outliers(flown: Flown, level: float, seed: int) -> Degraded:
    """The share `level` of all plots displaced by Gaussian errors of 10 times the standard deviation told."""
    chosen = uniform(flown.plots, seed, "outlier") < level
    size = np.where(chosen, OUTLIER_SIGMAS, 0.0)
    range_m = size * flown.sigma_range_m * normal(flown.plots, seed, "far")
    azimuth_rad = size * flown.sigma_azimuth_rad * normal(flown.plots, seed, "aside")
    return Degraded(_displaced(flown.plots, range_m, azimuth_rad), _all(flown))


def gap(flown: Flown, level: float, seed: int) -> Degraded:
    """`level` plots in a row cut out of every flight; what is counted are the 5 scans after the gap.

    At every level the gap ends at the same scan, so levels are nested and the same scans are counted. It ends 3 scans
    after one of the flight's turns began, if one leaves room for the longest gap after the warm-up and 5 scans after
    it; else, and without truth, anywhere there is room; chosen by the hash of the plots. A flight too short for that
    counts no scan.
    """
    column, flight = flown.column(), flown.flight()
    lengths = np.diff(flown.starts)[flight]
    possible = (column >= flown.spared + flown.largest_gap) & (column <= lengths - RECOVERY_SCANS)
    begins = flown.turning & (column > 0) & ~np.append(False, flown.turning[:-1])
    into_turn = np.append(np.zeros(GAP_INTO_TURN, bool), begins[:-GAP_INTO_TURN]) & (column >= GAP_INTO_TURN)
    rank = (hashes(flown.plots, seed, "gap") >> np.uint64(2)).astype(np.int64)
    rank = np.where(possible & into_turn, rank + 2**62, np.where(possible, rank, -1))  # a turn before any other place
    best = np.maximum.reduceat(rank, flown.starts[:-1])[flight] if rank.size else rank
    end = np.full(flown.starts.size - 1, np.iinfo(np.int64).max // 2)
    chosen = (rank == best) & (rank >= 0)
    end[flight[chosen]] = column[chosen]
    after = column - end[flight]
    return Degraded(flown.plots, ~((after < 0) & (after >= -level)), (after >= 0) & (after < RECOVERY_SCANS))


def period(flown: Flown, level: float, seed: int) -> Degraded:
    """Of each radar's plots of a flight every `level`-th stays: the rotation period times `level`."""
    key = flown.flight() * (int(flown.plots.radar_id.max(initial=0)) + 1) + flown.plots.radar_id
    order = np.argsort(key, kind="stable")
    begins = np.flatnonzero(np.diff(key[order], prepend=-1))
    number = np.empty(key.size, np.int64)
    number[order] = np.arange(key.size) - np.repeat(begins, np.diff(begins, append=key.size))
    return Degraded(flown.plots, (number % int(level) == 0) | (flown.column() < flown.spared))


@dataclass(frozen=True)
class Axis:
    """One way to make plots worse. none: the level that changes nothing; levels: the default ones, from mild to bad;
    low, high: what a level may be; whole: only whole numbers. main: with truth, the score that decides break points."""

    apply: Callable[[Flown, float, int], Degraded]
    title: str
    label: str  # of an axis of a figure
    unit: str
    text: str  # one sentence: what is done to the plots
    none: float
    levels: tuple[float, ...]
    low: float
    high: float
    whole: bool = False
    main: str = "scan_position_rmse_m"


_SIGMAS, _SHARES = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0), (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
AXES: dict[str, Axis] = {
    "pd": Axis(
        detection, "Detection probability", "share of the plots that are left", "1",
        "Plots are taken away at random, each by itself.", 1.0, _SHARES, 0.01, 1.0,
    ),
    "pd-runs": Axis(
        detection_in_runs, "Detection probability, misses in runs", "share of the plots that are left", "1",
        "Plots are taken away in runs, by a process with a correlation of 0.7 from scan to scan.",
        1.0, _SHARES, 0.01, 1.0,
    ),
    "sigma": Axis(
        noise, "Noise the trackers are not told of", "true σ ÷ stated σ", "1",
        "White noise is added to range and azimuth; the stated σ stays.", 1.0, _SIGMAS, 1.0, 100.0,
    ),
    "sigma-told": Axis(
        noise_told, "Noise the trackers are told of", "σ ÷ the log's σ", "1",
        "White noise is added to range and azimuth, and the stated σ grows with it.", 1.0, _SIGMAS, 1.0, 100.0,
    ),
    "jitter": Axis(
        jitter, "Time-stamp error", "σ of the time stamps, s", "s",
        "Time stamps get an independent Gaussian error.", 0.0, (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), 0.0, 60.0,
    ),
    "bias": Axis(
        azimuth_bias, "Azimuth bias", "azimuth bias, °", "deg",
        "A constant is added to every azimuth.", 0.0, (0.02, 0.05, 0.1, 0.2, 0.3, 0.5), -10.0, 10.0,
    ),
    "bias-range": Axis(
        range_bias, "Range bias", "range bias, m", "m",
        "A constant is added to every slant range.", 0.0, (25.0, 50.0, 100.0, 200.0, 300.0, 500.0), -1e5, 1e5,
    ),
    "outliers": Axis(
        outliers, "Outliers", "share of displaced plots", "1",
        "Some plots are displaced by Gaussian errors of ten times the stated σ.",
        0.0, (0.01, 0.02, 0.05, 0.1, 0.15, 0.2), 0.0, 1.0,
    ),
    "gap": Axis(
        gap, "Gap", "length of the gap, scans", "scans",
        "One gap is cut out of every flight, over the beginning of a turn; the five scans after it are scored.",
        0.0, (1.0, 2.0, 3.0, 5.0, 8.0, 12.0), 0.0, 1000.0, True,
        "predicted_position_rmse_m",
    ),
    "period": Axis(
        period, "Rotation period", "rotation period ÷ the radar's", "1",
        "Only every k-th scan's plots are left.", 1.0, (2.0, 3.0, 4.0, 5.0, 6.0), 1.0, 1000.0, True,
    ),
}  # fmt: skip
