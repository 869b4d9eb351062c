"""Which standard deviations the trackers are given, and what a reader is told about them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots, Radar
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.scoring.noise import FLOOR_AZIMUTH_RAD, FLOOR_RANGE_M, MeasuredNoise, measure_noise
from ssrtrack.scoring.result import RadarNoise
from ssrtrack.tracking.flights import COLUMNS, Cutting, flights

Array = NDArray[Any]

SAMPLE = 200_000  # plots from which a radar's noise is measured


@dataclass(frozen=True)
class Sigmas:
    """Per radar what plots without a stated sigma get (radars,), NaN unknown; and the measurement behind it."""

    range_m: Array
    azimuth_rad: Array
    measured: tuple[MeasuredNoise, ...]
    notes: tuple[str, ...]

    def radars(self, radars: Radar, plots: Array) -> list[RadarNoise]:
        """Rows for the report of radars with plots, given their number (radars,)."""
        return [self._row(radars, k, int(plots[k])) for k in range(len(radars)) if plots[k]]

    def _row(self, radars: Radar, k: int, plots: int) -> RadarNoise:
        noise = self.measured[k]
        stated_range = _first(noise.stated_range_m, radars.sigma_range_m[k])
        stated_azimuth = _first(noise.stated_azimuth_rad, radars.sigma_azimuth_rad[k])
        return RadarNoise(
            name=radars.name[k].decode("ascii", "replace"),
            plots=plots,
            stated_range_m=stated_range,
            stated_azimuth_deg=_degrees(stated_azimuth),
            measured_range_m=noise.sigma_range_m,
            measured_azimuth_deg=_degrees(noise.sigma_azimuth_rad),
            used_range_m=_first(noise.stated_range_m, self.range_m[k]) or np.nan,
            used_azimuth_deg=_degrees(_first(noise.stated_azimuth_rad, self.azimuth_rad[k])) or np.nan,
            range_p99_m=noise.range_p99_m,
            azimuth_p99_deg=_degrees(noise.azimuth_p99_rad),
            rotation_period_s=_first(radars.rotation_period_s[k], noise.period_s),
        )


def choose_sigmas(
    reader: LogReader, identity: str, cutting: Cutting, given_range_m: float | None, given_azimuth_rad: float | None
) -> Sigmas:
    """For plots that state no sigma: the one given, else the radar table's, else the radar's measured noise."""
    rule = replace(cutting, per_radar=True)
    sample = flights(_first_plots(reader.plots(columns=COLUMNS), SAMPLE), identity=identity, cutting=rule)
    measured = measure_noise(sample, len(reader.radars))
    table = reader.radars
    range_m, range_notes = _chosen(
        "range", given_range_m, table.sigma_range_m, [m.sigma_range_m for m in measured], FLOOR_RANGE_M
    )
    azimuth, azimuth_notes = _chosen(
        "azimuth",
        given_azimuth_rad,
        table.sigma_azimuth_rad,
        [m.sigma_azimuth_rad for m in measured],
        FLOOR_AZIMUTH_RAD,
    )
    return Sigmas(range_m, azimuth, tuple(measured), (*range_notes, *azimuth_notes))


def _first_plots(chunks: Iterable[Plots], count: int) -> Iterator[Plots]:
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _chosen(
    what: str, given: float | None, stated: Array, measured: list[float | None], floor: float
) -> tuple[Array, list[str]]:
    if given is not None:
        return np.full(stated.size, given), []
    found = np.array([np.nan if m is None else max(m, floor) for m in measured])
    return np.where(np.isfinite(stated), stated, found), []


def _first(*values: float | None) -> float | None:
    return next((float(v) for v in values if v is not None and np.isfinite(v)), None)


def _degrees(value_rad: float | None) -> float | None:
    return None if value_rad is None else float(np.degrees(value_rad))
