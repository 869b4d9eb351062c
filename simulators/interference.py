"""Plots beside the aircraft's own: false plots and FRUIT, reflections, split plots, ring-around.

All of them have truth_id = -1, also those that carry an aircraft's identity: none is that aircraft's position.
"""

import numpy as np

from ssrtrack.data import FALSE_PLOT, PlotFlag
from ssrtrack.simulators.draws import NO_FLIGHT, uniforms
from ssrtrack.simulators.interference_counts import poisson, several
from ssrtrack.simulators.interference_images import reflections, ring_around
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.replies_codes import altitude_code
from ssrtrack.simulators.replies_transponder import SSR, answers
from ssrtrack.simulators.timing import TWO_PI
from ssrtrack.units import DEG_RAD, FT_M, NM_M


def extra_plots(look: Look, met: Meetings, rows: Ints, columns: Columns) -> list[Columns]:
    """Plots that come beside those of the aircraft, each a set of columns with exact times of detection.

    Columns that a set lacks are filled with the table's value for "absent". Clock, outages and rounding come later.

    Args:
        look: the radar, its rotations and the flights.
        met: everything that the beam meets inside the coverage, detected or not.
        rows: (n,) the meetings that became plots, ascending.
        columns: those n plots as they are measured and decoded.
    """
    spec = look.spec
    out = [false_plots(look)] if spec.false_plots.per_scan else []
    if spec.split.probability:
        out.append(split_plots(look, met.take(rows), columns))
    if len(met) and (spec.fruit.per_aircraft or spec.ring_around.per_plot or spec.reflector):
        sent = answers(look, met)
        out.append(fruit(look, met, sent))
        out.append(ring_around(look, met, sent))
        out += [reflections(look, met, sent, n) for n in range(len(spec.reflector))]
    return [part for part in out if len(part["time_s"])]


def false_plots(look: Look) -> Columns:
    """Plots that no aircraft caused: Mode A/C, uniform over the covered ring, Poisson in each rotation."""
    spec, effect = look.spec, "false plots"
    counts = poisson(spec.false_plots.per_scan, look.per_rotation(effect)[0])
    scan = np.repeat(np.arange(len(counts)), counts)
    # The n-th of a rotation is number one's n-th slot of nobody; number zero is the rotation's own.
    who = np.zeros((len(scan), 3), int)
    who[:, 0], who[:, 2] = NO_FLIGHT[0], 1
    who[:, 1] = np.arange(len(scan)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = 2 * (look.first_rotation + scan)
    u = np.concatenate([uniforms(look.seed, effect, look.radar_id, who, turn, lane) for lane in range(2)])
    low, high = (spec.coverage.min_range_nm * NM_M) ** 2, (spec.coverage.max_range_nm * NM_M) ** 2
    at = _placed(look, scan, np.sqrt(low + (high - low) * u[1]), TWO_PI * u[0])
    return at | {
        "mode3a": np.floor(4096 * u[2]).astype(int),
        "pressure_altitude_m": 45_000 * FT_M * u[3],
        "plot_type": np.full(len(u[0]), SSR),
    }


def fruit(look: Look, met: Meetings, sent: Columns) -> Columns:
    """Replies that aircraft gave to other radars: at the aircraft's azimuth or in a side lobe, at any range.

    The other radar's interrogation comes at any time, so that the delay is uniform between the range limits. Without a
    second reply there is no validation, and an altitude reply passes for a code.
    """
    rules, c = look.spec.fruit, look.spec.coverage
    source, _, u, v = several(look, met, "fruit", rules.per_aircraft)
    range_m = (c.min_range_nm + (c.max_range_nm - c.min_range_nm) * u[0]) * NM_M
    side = v[0] < rules.side_lobe_share
    beam = met.azimuth_rad[source] + (u[1] - 0.5) * rules.beamwidth_deg * DEG_RAD
    at = _placed(look, met.scan[source], range_m, np.where(side, TWO_PI * u[1], beam % TWO_PI))
    altitude = sent["pressure_altitude_m"][source]
    as_altitude = np.where(np.isfinite(altitude), altitude_code(altitude), 0)
    return at | {
        "mode3a": np.where(v[1] < rules.mode_c_share, as_altitude, sent["mode3a"][source]),
        "plot_type": np.full(len(source), SSR),
        "flags": np.full(len(source), int(PlotFlag.MODE3A_NOT_VALIDATED)),
    }


def split_plots(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Second plots of some of the aircraft's plots (n,): beside them in azimuth and range, and like them otherwise."""
    rules = look.spec.split
    u, v = look.uniforms("split", seen), look.uniforms("split", seen, 1)
    rows = np.flatnonzero(u[0] < rules.probability)
    low, high = (value * DEG_RAD for value in rules.azimuth_deg)
    beside = np.where(v[0, rows] < 0.5, -1.0, 1.0) * (low + (high - low) * u[1, rows])
    out = {name: value[rows] for name, value in columns.items()}
    deeper_m = rules.range_nm * NM_M * (2.0 * v[1, rows] - 1.0)
    return out | {
        "time_s": out["time_s"] + look.spec.rotation_period_s / TWO_PI * beside,
        "range_m": np.maximum(out["range_m"] + deeper_m, 0.0),
        "azimuth_rad": (out["azimuth_rad"] + beside) % TWO_PI,
        "truth_id": np.full(len(rows), FALSE_PLOT),
    }


def _placed(look: Look, scan: Ints, range_m: Floats, azimuth_rad: Floats) -> Columns:
    """Columns of false plots at places, met in the given rotations."""
    noise = look.spec.noise
    return {
        "time_s": look.beam_time(azimuth_rad, scan),
        "radar_id": np.full(len(scan), look.radar_id),
        "range_m": range_m,
        "azimuth_rad": azimuth_rad,
        "sigma_range_m": np.full(len(scan), noise.sigma_range_m),
        "sigma_azimuth_rad": np.full(len(scan), noise.sigma_azimuth_deg * DEG_RAD),
        "truth_id": np.full(len(scan), FALSE_PLOT),
    }
