"""What a secondary radar reports of the targets its beam meets: the effects in their order."""

from typing import Any

import numpy as np

from ssrtrack.data import Plots
from ssrtrack.simulators.effects_detection import covered, detected, working
from ssrtrack.simulators.effects_measurement import measured
from ssrtrack.simulators.effects_north import north_delay
from ssrtrack.simulators.effects_time import stamped
from ssrtrack.simulators.interference import extra_plots
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.registers import bds50, bds60
from ssrtrack.simulators.replies import replied
from ssrtrack.simulators.replies_transponder import identified
from ssrtrack.simulators.resolution import quantised
from ssrtrack.simulators.schema_effects import NorthStamp
from ssrtrack.simulators.schema_radar import Quantisation
from ssrtrack.simulators.timing import crossings, to_enu, turned
from ssrtrack.simulators.trajectory import Paths
from ssrtrack.units import DEG_RAD


def observe(look: Look) -> list[Columns]:
    """Columns of all plots of some rotations: exact except for the radar's errors, stamped, not rounded nor sorted.

    The order is that of the signal: meetings of beam and aircraft, detection, range and azimuth, the replies' content,
    plots beside the aircraft's own; then outages and the clock, which concern all plots.
    """
    met = meetings(look)
    rows = detected(look, met)
    seen = met.take(rows)
    detection: Columns = {"time_s": seen.time_s, "radar_id": np.full(len(seen), look.radar_id)}
    detection |= identified(look, seen) | measured(look, seen) | _reports(look, seen)
    rows, columns = replied(look, met, rows, detection)
    sets = [columns, *extra_plots(look, met, rows, columns)]
    return [_stamped(look, s) for s in sets if len(s["time_s"])]


def meetings(look: Look) -> Meetings:
    """Every meeting of the beam with an aircraft in the air and inside the coverage, ordered by flight and time."""
    spec, paths = look.spec, look.paths
    site = (spec.latitude_deg * DEG_RAD, spec.longitude_deg * DEG_RAD, spec.height_m)
    met = crossings(paths, to_enu(paths.ecef, site), look.north_s, spec.wobble)
    slant, azimuth, elevation = polar(met.enu_m)
    height = height_m(paths, met.piece, met.time_s)
    inside = (met.time_s >= paths.start_s[met.flight]) & (met.time_s < paths.end_s[met.flight])
    inside &= covered(spec.coverage, spec.height_m, slant, elevation, height)
    turn = 2 * (look.first_rotation + met.scan) + met.second
    every = Meetings(
        met.flight, met.piece, met.scan, turn, met.time_s, met.enu_m, slant, azimuth, elevation, height
    )  # fmt: skip
    return every.take(inside)


def height_m(paths: Paths, piece: Any, time_s: Floats) -> Floats:
    """Height (n,) at times in pieces: as in `Paths.state`, but alone."""
    h, climb, change = paths.scalars[:3].take(piece, 1)
    t = time_s - paths.time_s[piece]
    return np.asarray(h + t * (climb + 0.5 * t * change))


def polar(enu_m: Floats) -> tuple[Floats, Floats, Floats]:
    """Slant range, azimuth in [0, 2π) and elevation (n,) of positions (3, n)."""
    east, north, up = enu_m
    ground2 = east**2 + north**2
    return np.sqrt(ground2 + up**2), turned(np.arctan2(east, north)), np.arctan2(up, np.sqrt(ground2))


def _reports(look: Look, seen: Meetings) -> Columns:
    """What is read from the registers of aircraft that answer in Mode S, NaN for others."""
    registers = look.spec.registers
    if not (registers.bds50 or registers.bds60):
        return {}
    state = look.paths.state(seen.piece, seen.time_s)
    reports = bds50(state) if registers.bds50 else {}
    if registers.bds60:
        reports |= bds60(state, look.variation_rad)
    without = ~look.mode_s[seen.flight]
    for values in reports.values():
        values[without] = np.nan
    return dict(reports)


def _stamped(look: Look, columns: Columns) -> Columns:
    """Plots of the times at which the radar works, with the time stamps of its clock."""
    spec, time_s = look.spec, columns["time_s"]
    if spec.outage or spec.failures.per_hour:
        works = working(spec, look.seed, look.radar_id, time_s)
        columns = {name: value[works] for name, value in columns.items()}
    stamps = stamped(spec.clock, look.seed, look.radar_id, columns["time_s"])
    if spec.north_stamp != NorthStamp():
        stamps = stamps + north_delay(look, columns["time_s"])
    return columns | {"time_s": stamps}


def plots_table(q: Quantisation, midnight_s: float, sets: list[Columns]) -> Plots:
    """One time-ordered, rounded table of some sets of columns."""
    specs = Plots.specs()
    columns = {}
    for name in set().union(*sets):
        pieces = [s[name] if name in s else np.full(len(s["time_s"]), specs[name].fill) for s in sets]
        columns[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if not columns:
        return Plots.empty()
    order = np.argsort(columns["time_s"], kind="stable")
    columns = quantised(q, midnight_s, {name: value.take(order) for name, value in columns.items()})
    # Cast here, knowingly: some columns are float32, and a table refuses what it would have to change.
    return Plots(**{name: np.asarray(value, specs[name].dtype) for name, value in columns.items()})
