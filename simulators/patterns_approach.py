"""Arrivals: from an entry fix, by way of a holding stack if there is one, down the glide path to a threshold."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators import patterns_hold
from ssrtrack.simulators.legs import Floats, Limits, Pair, Schedules, Start, stacked, trapezium
from ssrtrack.simulators.patterns_route import (
    Flown,
    Route,
    beside,
    change_height,
    plan_route,
    standard_bank,
    true_airspeed,
)
from ssrtrack.simulators.schema_patterns import Approach
from ssrtrack.units import DEG_RAD, FL_M, FPM_MPS, FT_M, G_MPS2, KT_MPS, NM_M

THRESHOLD_M = 50.0 * FT_M  # height over the threshold (Doc 8168: reference datum height, 15 m)
SEPARATION_M = 1000.0 * FT_M
# Indicated airspeeds on the way in; no faster than 250 kt below FL100, then what controllers ask for.
ENTRY_KT, DOWNWIND_KT, BASE_KT, GLIDE_KT, FINAL_KT, MISSED_KT = 250.0, 210.0, 180.0, 170.0, 160.0, 185.0
LEVEL_S = 30.0  # flown level before the glide path at least
FINAL_M = 4.0 * NM_M  # from here on the landing speed
DESCENT_MPS = 1500.0 * FPM_MPS
MISSED_MPS = 2000.0 * FPM_MPS
MISSED_CLIMB_M = 3000.0 * FT_M
MISSED_PULL_MPS2 = 2.0  # a fifth of g, so that little height is lost
_MISSED_M = (7.0 * NM_M, 12.0 * NM_M)  # straight ahead, then across


@dataclass(frozen=True)
class _Runway:
    """Threshold and direction of landing, and how arrivals come to it; `across` points to the side they come from."""

    place: Pair
    ahead: Floats
    across: Floats
    entry_m: Floats
    intercept_m: float  # height above the threshold


class _Point(NamedTuple):
    """A waypoint east and north of the threshold, with indicated airspeed and height there, (F,) each."""

    place_m: Floats
    indicated_mps: Floats | float
    height_m: Floats


def plan_approach(
    a: Approach, slot: int, event_s: Floats, both: Floats, own: Floats, limits: Limits
) -> tuple[Schedules, Start]:
    """Schedules and starts of F arrivals that land at `event_s`, or are over the fix then for the first time.

    Args:
        slot: 0 for the only or left runway, 1 for the right one.
        both: uniform numbers (F, n) that the two aircraft of a pair share; `own` are each one's.

    Raises:
        ScenarioError: the route has no room for its turns or descents, or aircraft would meet in the hold.
    """
    flights, runway = len(event_s), _runway(a, slot)
    low = a.hold.flight_level[0] if a.hold else np.round(_between(a.flight_level, own[:, 0]))
    level = np.full(flights, low * FL_M) if a.hold else np.asarray(low * FL_M)
    landing = _between(a.landing_kt, both[:, 1]) * KT_MPS
    points = [_Point(runway.entry_m, ENTRY_KT * KT_MPS, level), *_inbound(a, runway, level, landing)]
    fix, circuits, first = 0, None, level
    if a.hold:
        before, behind = patterns_hold.around(a.hold, runway.entry_m, points[1].place_m)
        top = patterns_hold.levels(a.hold)[0]
        first, out = np.full(flights, top + SEPARATION_M), a.hold.speed_kt * KT_MPS
        # Inbound they are above the stack, already with the ground speed of its highest level.
        speed = out * true_airspeed(1.0, top) / true_airspeed(1.0, first)
        points[:1] = [
            _Point(before, speed, first), _Point(runway.entry_m, speed, first), _Point(behind, out, level),
        ]  # fmt: skip
        fix, circuits = 1, patterns_hold.racetracks(a.hold, flights, 1)
    route = _route(runway, points, level, fix)
    flown = plan_route(a.name, route, limits.roll_rate_radps, circuits)
    glide, threshold = len(points) - 5, len(points) - 3
    leave_s = flown.time_s[:, fix + 1] if a.hold else flown.time_s[:, 0]
    if a.hold:
        patterns_hold.check(a.hold, flown, leave_s, a.interval_s, a.name)
    climb = patterns_hold.descend(a.hold, flown, limits, a.name) if a.hold else []
    rise = a.height_m + runway.intercept_m - level
    climb += _descent(a.name, leave_s, flown.time_s[:, glide], rise, own[:, 1], limits)
    slope = np.tan(a.glide_deg * DEG_RAD)
    climb += _on_glide(flown, glide, threshold, slope, limits)
    missed, missed_s = _missed(flown.time_s[:, threshold], route.speed_mps[:, threshold] * slope)
    climb = [(climb[0][0] * 0.0, climb[0][0] * 0.0), *climb, *missed]
    landed_s = flown.time_s[:, threshold]
    anchor = flown.circuit_s[:, 0] if a.hold else landed_s
    begin = event_s - anchor + slot * _between(a.stagger_s, both[:, 2])
    away_s = np.maximum(flown.time_s[:, -1], missed_s)
    end = begin + np.where(own[:, 2] < a.go_around_share, away_s, landed_s)
    start = Start(
        begin, end, route.latitude_rad[:, 0], route.longitude_rad[:, 0], first, route.speed_mps[:, 0], flown.track_rad
    )
    return Schedules(stacked(flown.bank), stacked(flown.speed), stacked(climb)), start


def _runway(a: Approach, slot: int) -> _Runway:
    """The runway of a slot: of two, the left one is approached from the left and the right one from the right."""
    direction = a.runway_deg * DEG_RAD
    ahead, to_right = (np.array([np.sin(x), np.cos(x)]) for x in (direction, direction + 0.5 * np.pi))
    right, offset = a.side == "right", wrapped_angle(a.entry_deg * DEG_RAD - direction)
    if a.parallel_m > 0:
        right, offset = slot == 1, abs(offset) * (1.0 if slot == 1 else -1.0)
    bearing = direction + offset
    entry = a.entry_nm * NM_M * np.array([np.sin(bearing), np.cos(bearing)])
    corner = np.array(a.latitude_deg * DEG_RAD), np.array(a.longitude_deg * DEG_RAD)
    place = beside(*corner, *(slot * a.parallel_m * to_right))
    # Doc 9643: 1,000 ft apart until both are established on their centre lines.
    intercept = a.intercept_ft * FT_M + slot * SEPARATION_M
    return _Runway(place, ahead, to_right if right else -to_right, entry, intercept)


def _inbound(a: Approach, runway: _Runway, level_m: Floats, landing_mps: Floats) -> list[_Point]:
    """Waypoints behind the entry fix; the last five are glide path, 4 NM final, threshold, and the missed approach."""
    ahead, across = runway.ahead, runway.across
    slope, zero = np.tan(a.glide_deg * DEG_RAD), np.zeros_like(level_m)
    ground, intercept = zero + a.height_m, zero + a.height_m + runway.intercept_m
    glide_m = (runway.intercept_m - THRESHOLD_M) / slope
    base = true_airspeed(BASE_KT * KT_MPS, intercept[0])
    # Behind the turn onto the centre line there is intercept_nm left to settle.
    radius = base**2 / (G_MPS2 * np.tan(standard_bank(base)))
    corner = -(glide_m + a.intercept_nm * NM_M + radius + 3.0 * base) * ahead
    abeam, middle = a.width_nm * NM_M * across, 0.5 * (level_m + intercept)
    joins = {
        "downwind": [
            _Point(abeam - 2.0 * NM_M * ahead, DOWNWIND_KT * KT_MPS, 0.7 * level_m + 0.3 * intercept),
            _Point(abeam + corner, BASE_KT * KT_MPS, middle),
        ],
        "base": [_Point(abeam + corner, DOWNWIND_KT * KT_MPS, middle)],
        "straight": [],
    }
    final = min(FINAL_M, 0.6 * glide_m)
    return [
        *joins[a.join],
        _Point(corner, BASE_KT * KT_MPS, intercept),
        _Point(-glide_m * ahead, GLIDE_KT * KT_MPS, intercept),
        _Point(-final * ahead, FINAL_KT * KT_MPS, ground + THRESHOLD_M + slope * final),
        _Point(0.0 * ahead, landing_mps, ground + THRESHOLD_M),
        _Point(_MISSED_M[0] * ahead, MISSED_KT * KT_MPS, ground + MISSED_CLIMB_M),
        _Point(_MISSED_M[0] * ahead + _MISSED_M[1] * across, MISSED_KT * KT_MPS, ground + MISSED_CLIMB_M),
    ]


def _route(runway: _Runway, points: list[_Point], left_m: Floats, fix: int) -> Route:
    """Waypoints as a route; the leg behind the entry fix begins at `left_m`, where a hold leaves it."""
    rows = np.ones((len(left_m), 1))
    heights = np.stack([p.height_m for p in points], 1)
    speeds = [true_airspeed(p.indicated_mps, p.height_m) for p in points]
    lat, lon = beside(*runway.place, *np.array([p.place_m for p in points]).T)
    leaving = heights.copy()
    leaving[:, fix] = left_m
    return Route(lat * rows, lon * rows, np.stack(speeds, 1), 0.5 * (leaving[:, :-1] + heights[:, 1:]))


def _descent(name: str, begin_s: Floats, glide_s: Floats, rise_m: Floats, u: Floats, limits: Limits) -> list[Pair]:
    """From the entry level to that of the glide path, in two steps with a level part between them."""
    a, where = limits.vertical_acceleration_mps2, f"{name}: descent to the glide path"
    room = glide_s - LEVEL_S - begin_s
    share = 0.4 + 0.2 * u
    first = np.round(share * rise_m / SEPARATION_M) * SEPARATION_M
    upper, _ = change_height(begin_s + 0.05 * room, first, DESCENT_MPS, a, begin_s + 0.5 * room, where)
    lower, _ = change_height(begin_s + 0.55 * room, rise_m - first, DESCENT_MPS, a, begin_s + room, where)
    return upper + lower


def _on_glide(flown: Flown, glide: int, threshold: int, slope: float, limits: Limits) -> list[Pair]:
    """Rate of descent on the glide path: the slope times ground speed, pushed over evenly about where it begins."""
    begin_s, end_s = flown.time_s[:, glide], flown.time_s[:, threshold]
    times, values = stacked(flown.speed)

    def at(when: Floats) -> Floats:
        rows = zip(when, times, values, strict=True)
        return np.array([np.interp(t, x, y) for t, x, y in rows])

    ramp = slope * at(begin_s) / limits.vertical_acceleration_mps2
    pushed_s = begin_s + 0.5 * ramp
    knots = [(begin_s - 0.5 * ramp, np.zeros_like(ramp))]
    for column in (pushed_s, *times.T, end_s):
        when = np.clip(column, pushed_s, end_s)
        knots.append((when, -slope * at(when)))
    return knots


def _missed(landed_s: Floats, sink_mps: Floats) -> tuple[list[Pair], Floats]:
    """Climb away from the threshold by 3,000 ft, and its end; who lands has ended before it begins."""
    a = MISSED_PULL_MPS2
    level = landed_s + sink_mps / a
    lost = 0.5 * sink_mps**2 / a
    ramp = np.full_like(level, MISSED_MPS / a)
    hold = (MISSED_CLIMB_M + lost) / MISSED_MPS - ramp
    return trapezium(level, np.full_like(level, MISSED_MPS), ramp, hold), level + 2.0 * ramp + hold


def _between(pair: tuple[float, float], u: Floats) -> Floats:
    low, high = pair
    return np.asarray(low + (high - low) * u)
