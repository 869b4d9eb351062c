"""Rounding to the resolution of the messages that carry plots."""

from typing import Any

import numpy as np

from ssrtrack.simulators.registers import BDS_LSB
from ssrtrack.simulators.schema_radar import Quantisation
from ssrtrack.simulators.timing import TWO_PI
from ssrtrack.units import AZIMUTH_LSB_RAD, DAY_S, FT_M, RANGE_LSB_M

TIME_LSB_S = 1.0 / 128.0  # I048/140
MODE_S_LSB_M, MODE_C_LSB_M = 25.0 * FT_M, 100.0 * FT_M  # Annex 10 IV
ROLL_CALLS = 5, 7  # I048/020 TYP, alone and with a primary plot


def rounded(value: Any, lsb: Any) -> Any:
    """The nearest multiple of a resolution."""
    return np.round(value / lsb) * lsb + 0.0  # no minus zero


def rounded_angle(angle_rad: Any, lsb: float) -> Any:
    """The nearest multiple of a resolution that divides the circle, in [0, 2π)."""
    steps, circle = np.round(angle_rad / lsb), round(TWO_PI / lsb)
    return (steps - circle * np.floor(steps / circle)) * lsb  # whole numbers: exact, and faster than a modulo


def quantised(q: Quantisation, midnight_s: float, columns: dict[str, Any]) -> dict[str, Any]:
    """Plot columns at the resolution of ASTERIX; `midnight_s` is the epoch's time of day."""
    out = dict(columns)
    if q.range:
        out["range_m"] = rounded(columns["range_m"], RANGE_LSB_M)
    if q.azimuth:
        out["azimuth_rad"] = rounded_angle(columns["azimuth_rad"], AZIMUTH_LSB_RAD)
    if q.time:
        # Time of day is what is rounded; a whole-second epoch keeps time_s a multiple as well.
        out["time_s"] = rounded(columns["time_s"] + midnight_s % DAY_S, TIME_LSB_S) - midnight_s % DAY_S
    if q.altitude:
        lsb = np.where(np.isin(columns["plot_type"], ROLL_CALLS), MODE_S_LSB_M, MODE_C_LSB_M)
        out["pressure_altitude_m"] = rounded(columns["pressure_altitude_m"], lsb)
    if q.bds:
        for name in BDS_LSB.keys() & columns.keys():
            step = rounded_angle if name in ("track_angle_rad", "magnetic_heading_rad") else rounded
            out[name] = step(columns[name], BDS_LSB[name])
    return out
