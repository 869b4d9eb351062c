"""Rows of the report about each radar's noise: stated, measured, and used."""

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Radar
from ssrtrack.scoring.result import RadarNoise
from ssrtrack.tracking.sigma import Sigmas, first_known


def radar_rows(sigmas: Sigmas, radars: Radar, plots: NDArray[np.int64]) -> list[RadarNoise]:
    """Rows for the report of radars with plots, given their number (radars,)."""
    return [_row(sigmas, radars, k, int(plots[k])) for k in range(len(radars)) if plots[k]]


def _row(sigmas: Sigmas, radars: Radar, k: int, plots: int) -> RadarNoise:
    noise = sigmas.measured[k]
    stated_range = first_known(noise.stated_range_m, radars.sigma_range_m[k])
    stated_azimuth = first_known(noise.stated_azimuth_rad, radars.sigma_azimuth_rad[k])
    return RadarNoise(
        name=radars.name[k].decode("ascii", "replace"),
        plots=plots,
        stated_range_m=stated_range,
        stated_azimuth_deg=_degrees(stated_azimuth),
        measured_range_m=noise.sigma_range_m,
        measured_azimuth_deg=_degrees(noise.sigma_azimuth_rad),
        used_range_m=first_known(noise.stated_range_m, sigmas.range_m[k]) or np.nan,
        used_azimuth_deg=_degrees(first_known(noise.stated_azimuth_rad, sigmas.azimuth_rad[k])) or np.nan,
        range_p99_m=noise.range_p99_m,
        azimuth_p99_deg=_degrees(noise.azimuth_p99_rad),
        rotation_period_s=first_known(radars.rotation_period_s[k], noise.period_s),
    )


def _degrees(value_rad: float | None) -> float | None:
    return None if value_rad is None else float(np.degrees(value_rad))
