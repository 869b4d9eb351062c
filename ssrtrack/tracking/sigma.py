"""Which standard deviations the trackers are given, and what a reader is told about them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.tracking.flights import COLUMNS, Cutting, flights
from ssrtrack.tracking.noise import FLOOR_AZIMUTH_RAD, FLOOR_RANGE_M, MeasuredNoise, measure_noise

Array = NDArray[Any]

SAMPLE = 200_000  # plots from which a radar's noise is measured
MIN_TAIL_SHARE, MAX_TAIL_SHARE = 0.002, 0.1  # below the first, manoeuvres alone make it; above, nothing is an outlier


@dataclass(frozen=True)
class Sigmas:
    """Per radar what plots without a stated sigma get (radars,), NaN unknown; and the measurement behind it."""

    range_m: Array
    azimuth_rad: Array
    measured: tuple[MeasuredNoise, ...]
    notes: tuple[str, ...]
    # Options of the trackers where a measured sigma is used: the heavy tail that was measured with it.
    tail: dict[str, float] = field(default_factory=dict)

    def longest_period_s(self, radars: Radar) -> float:
        """The slowest radar's rotation period, stated or measured; inf if none is known."""
        periods = [first_known(p, m.period_s) for p, m in zip(radars.rotation_period_s, self.measured, strict=True)]
        return max((p for p in periods if p is not None), default=np.inf)


def choose_sigmas(
    reader: LogReader, identity: str, cutting: Cutting, given_range_m: float | None, given_azimuth_rad: float | None
) -> Sigmas:
    """For plots that state no sigma: the one given, else the radar table's, else the radar's measured noise."""
    rule = replace(cutting, per_radar=True)
    sample = flights(_first_plots(reader.plots(SAMPLE, COLUMNS), SAMPLE), identity=identity, cutting=rule)
    measured = measure_noise(sample, len(reader.radars))
    table = reader.radars
    found = [m.sigma_range_m for m in measured]
    range_m, range_measured = _chosen(given_range_m, table.sigma_range_m, found, FLOOR_RANGE_M)
    found = [m.sigma_azimuth_rad for m in measured]
    azimuth, azimuth_measured = _chosen(given_azimuth_rad, table.sigma_azimuth_rad, found, FLOOR_AZIMUTH_RAD)
    # Radars all of whose plots state their own do not use what was measured.
    unstated = np.array([m.plots > 0 and m.stated_range_m is None for m in measured])
    used = unstated & (range_measured | azimuth_measured)
    tail = _tail([measured[k] for k in np.flatnonzero(used)])
    return Sigmas(range_m, azimuth, tuple(measured), _notes(used, unstated, given_range_m, tail), tail)


def tells_types_apart(reader: LogReader) -> bool:
    """Whether plot type 0 means "no detection" here; where every plot has it, types were not stated."""
    first = next(reader.plots(SAMPLE, ("plot_type",)), None)
    return first is not None and bool((first.plot_type > 0).any())


def _tail(measured: list[MeasuredNoise]) -> dict[str, float]:
    worst = max(measured, key=lambda m: m.tail_share, default=None)
    if worst is None or worst.tail_share < MIN_TAIL_SHARE:
        return {}
    return {"tail_weight": min(worst.tail_share, MAX_TAIL_SHARE), "tail_scale": worst.tail_scale}


def _notes(used: Array, unstated: Array, given: float | None, tail: dict[str, float]) -> tuple[str, ...]:
    notes = []
    if used.any():
        notes.append(
            "Plots state no standard deviation: the trackers were given the robust sigma measured on these plots "
            "(local cubic fits), without inflation. It holds what is quick, not biases, so it may be smaller than the "
            "radar's specified accuracy."
        )
    elif unstated.any():
        source = "those asked for" if given is not None else "those of the radars table"
        notes.append(f"Plots state no standard deviation: the trackers were given {source}.")
    if tail:
        notes.append(
            f"The measured noise has heavy tails: {100 * tail['tail_weight']:.1f} % of residuals are beyond 5 sigma. "
            f"Trackers allow for that share of plots with noise {tail['tail_scale']:.0f} times as large."
        )
    return tuple(notes)


def _first_plots(chunks: Iterable[Plots], count: int) -> Iterator[Plots]:
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _chosen(given: float | None, stated: Array, measured: list[float | None], floor: float) -> tuple[Array, Array]:
    """Sigma (radars,), and where it is the measured one; never under the rounding error of the ASTERIX item."""
    if given is not None:
        return np.full(stated.size, given), np.zeros(stated.size, bool)
    found = np.array([np.nan if m is None else max(m, floor) for m in measured])
    known = stated > 0.0  # zero is what a simulation without noise states
    return np.where(known, stated, found), ~known


def first_known(*values: float | None) -> float | None:
    """The first finite value."""
    return next((float(v) for v in values if v is not None and np.isfinite(v)), None)
