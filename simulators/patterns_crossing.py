"""Pairs of aircraft whose straight tracks come closest at a given point, at a given time and distance."""

import numpy as np

from ssrtrack.geodesy import A_M
from ssrtrack.simulators.legs import Floats, Limits, Schedules, Start
from ssrtrack.simulators.patterns_route import beside, between
from ssrtrack.simulators.schema_patterns import Crossing
from ssrtrack.units import DEG_RAD, FL_M, FT_M, KT_MPS, NM_M


def plan_crossing(
    c: Crossing, slot: int, event_s: Floats, both: Floats, own: Floats, limits: Limits
) -> tuple[Schedules, Start]:
    """Schedules and starts of F aircraft; the pair comes closest at `event_s`, the first one over the point then.

    The second passes beside the point, square to the velocity of one relative to the other: that distance is the least,
    whatever the angle between their tracks. `both` are uniform numbers (F, n) that the two aircraft of a pair share.
    """
    level = np.round(_between(c.flight_level, both[:, 1]) / 10.0) * 10.0 * FL_M
    level = level + slot * _between(c.level_step_ft, both[:, 2]) * FT_M
    tracks = _between(c.track_deg, both[:, 3]) * DEG_RAD
    others = tracks + _between(c.angle_deg, both[:, 4]) * DEG_RAD
    speeds = [_between(c.speed_kt, both[:, k]) * KT_MPS for k in (5, 6)]
    miss = _between(c.miss_nm, both[:, 7]) * NM_M / (1.0 + level / A_M)
    v = [s * np.stack([np.sin(x), np.cos(x)]) for s, x in zip(speeds, (tracks, others), strict=True)]
    relative = v[0] - v[1]
    side = np.where(both[:, 8] < 0.5, -1.0, 1.0) * miss / np.linalg.norm(relative, axis=0)
    offset = slot * side * np.stack([-relative[1], relative[0]])
    point = np.full_like(level, c.latitude_deg * DEG_RAD), np.full_like(level, c.longitude_deg * DEG_RAD)
    over = beside(*point, *offset)
    track, speed = (others if slot else tracks), speeds[slot]
    back = -c.distance_nm * NM_M
    begin = beside(*over, back * np.sin(track), back * np.cos(track))
    length, azimuth, _ = between(begin, over, level)
    zero = np.zeros((len(level), 1))
    start_s = event_s - length / speed
    start = Start(start_s, event_s + length / speed, *begin, level, speed, azimuth)
    return Schedules((zero, zero), (zero, speed[:, None]), (zero, zero)), start


def _between(pair: tuple[float, float], u: Floats) -> Floats:
    low, high = pair
    return np.asarray(low + (high - low) * u)
