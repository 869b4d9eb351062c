"""Plots beside the aircraft's own."""

import numpy as np

from ssrtrack.data import FALSE_PLOT
from ssrtrack.simulators.draws import generator
from ssrtrack.simulators.legs import Ints
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.timing import TWO_PI, beam_time
from ssrtrack.units import DEG_RAD, FT_M, NM_M

SSR = 2  # I048/020 TYP


def extra_plots(look: Look, met: Meetings, rows: Ints, columns: Columns) -> list[Columns]:
    """Plots that come beside those of the aircraft, each a set of columns with exact times of detection.

    Columns that a set lacks are filled with the table's value for "absent". Clock, outages and rounding come later.

    Args:
        look: the radar, its rotations and the flights.
        met: everything that the beam meets inside the coverage, detected or not.
        rows: (n,) the meetings that became plots, ascending.
        columns: those n plots as they are measured and decoded.
    """
    return [false_plots(look)]


def false_plots(look: Look) -> Columns:
    """Plots that no aircraft caused: Mode A/C, uniform over the covered ring, Poisson in each rotation."""
    spec, scans = look.spec, range(len(look.north_s) - 1)
    if spec.false_plots.per_scan == 0.0:
        scans = range(0)
    u, counts = [np.empty((0, 4))], np.zeros(len(look.north_s) - 1, int)
    for s in scans:
        rng = generator(look.seed, "false plots", look.radar_id, look.first_rotation + s)
        counts[s] = rng.poisson(spec.false_plots.per_scan)
        u.append(rng.random((counts[s], 4)))
    place, scan = np.concatenate(u), np.repeat(np.arange(len(counts)), counts)
    low, high = (spec.coverage.min_range_nm * NM_M) ** 2, (spec.coverage.max_range_nm * NM_M) ** 2
    azimuth = TWO_PI * place[:, 0]
    return {
        "time_s": beam_time(azimuth, scan, look.north_s),
        "radar_id": np.full(len(scan), look.radar_id),
        "range_m": np.sqrt(low + (high - low) * place[:, 1]),
        "azimuth_rad": azimuth,
        "sigma_range_m": np.full(len(scan), spec.noise.sigma_range_m),
        "sigma_azimuth_rad": np.full(len(scan), spec.noise.sigma_azimuth_deg * DEG_RAD),
        "mode3a": np.floor(4096 * place[:, 2]).astype(int),
        "pressure_altitude_m": 45_000 * FT_M * place[:, 3],
        "plot_type": np.full(len(scan), SSR),
        "truth_id": np.full(len(scan), FALSE_PLOT),
    }
