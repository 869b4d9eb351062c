"""Departures: climb ahead, turn at a height, level off for a while, bend, and climb on with more speed."""

import numpy as np

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.legs import (
    Floats,
    Limits,
    Pair,
    Schedules,
    Start,
    climb_profile,
    stacked,
    trapezium,
    turn_profile,
)
from ssrtrack.simulators.patterns_route import SPEED_CHANGE_MPS2, standard_bank, true_airspeed
from ssrtrack.simulators.schema_patterns import Departure
from ssrtrack.units import DEG_RAD, FL_M, FPM_MPS, FT_M, KT_MPS, NM_M

LIFT_OFF_M = 35.0 * FT_M  # screen height
# Indicated airspeeds: until the turn is done, then up to FL100, then above.
INITIAL_KT, LOW_KT, HIGH_KT = 170.0, 250.0, 300.0
LIMIT_M = 100.0 * FL_M


def plan_departure(
    d: Departure, slot: int, event_s: Floats, both: Floats, own: Floats, limits: Limits
) -> tuple[Schedules, Start]:
    """Schedules and starts of F departures that lift off at `event_s`; `own` are uniform numbers (F, n)."""
    flights = len(event_s)
    turn_m = d.height_m + _between(d.turn_ft, own[:, 0]) * FT_M
    rate = _between(d.climb_fpm, own[:, 1]) * FPM_MPS
    level = np.maximum(_level(d.level_off, own[:, 2]), turn_m + 300.0)
    wait_s = _between(d.level_s, own[:, 3])
    goal = np.maximum(_level(d.flight_level, own[:, 4]), level)
    exit_rad = _between(d.exit_deg, own[:, 5]) * DEG_RAD
    bend = _between(d.bend_deg, own[:, 6]) * DEG_RAD
    zero, a = np.zeros(flights), limits.vertical_acceleration_mps2
    initial = true_airspeed(INITIAL_KT * KT_MPS, np.full(flights, d.height_m + 600.0))
    first = climb_profile(level - d.height_m - LIFT_OFF_M, rate, a)
    second = climb_profile(goal - level, rate, a)
    levelled_s = 2.0 * first[1] + first[2]
    again_s = levelled_s + wait_s
    # Every 35 ft from half the ramp on at a steady rate: when the height of the turn is passed.
    turn_s = (turn_m - d.height_m - LIFT_OFF_M) / first[0] + 0.5 * first[1]
    turn = _turn(wrapped_angle(exit_rad - d.runway_deg * DEG_RAD), initial, limits)
    fast = true_airspeed(LOW_KT * KT_MPS, turn_m)
    knots, fast_s = _faster(turn_s + _length(turn), initial, fast)
    bend_s = np.maximum(fast_s, again_s)
    bending = _turn(bend, fast, limits)
    # The limit of 250 kt below FL100 ends where that level is passed, if it is.
    above_s = again_s + np.maximum(LIMIT_M - level, 0.0) / rate + second[1]
    faster = np.where(goal > LIMIT_M, true_airspeed(HIGH_KT * KT_MPS, np.minimum(goal, 8500.0)), fast)
    more, steady_s = _faster(np.maximum(bend_s + _length(bending), above_s), fast, np.maximum(faster, fast))
    bank = [(zero, zero), *trapezium(turn_s, *turn), *trapezium(bend_s, *bending)]
    speed = [(zero, initial), *knots, *more]
    climb = [*trapezium(zero, *first), *trapezium(again_s, *second)]
    end_s = _when(speed, steady_s, d.distance_nm * NM_M)
    start = Start(
        event_s, event_s + end_s, zero + d.latitude_deg * DEG_RAD, zero + d.longitude_deg * DEG_RAD,
        zero + d.height_m + LIFT_OFF_M, initial, zero + d.runway_deg * DEG_RAD,
    )  # fmt: skip
    return Schedules(stacked(bank), stacked(speed), stacked(climb)), start


def _turn(angle: Floats, speed: Floats, limits: Limits) -> tuple[Floats, Floats, Floats]:
    return turn_profile(angle, standard_bank(speed), limits.roll_rate_radps, speed, speed, np.zeros_like(speed))


def _length(turn: tuple[Floats, Floats, Floats]) -> Floats:
    return 2.0 * turn[1] + turn[2]


def _faster(now: Floats, v0: Floats, v1: Floats) -> tuple[list[Pair], Floats]:
    end = now + (v1 - v0) / SPEED_CHANGE_MPS2
    return [(now, v0), (end, v1)], end


def _when(speed: list[Pair], steady_s: Floats, distance_m: float) -> Floats:
    """When a distance has been flown; at the last speed once that is reached."""
    times, values = stacked(speed)
    flown = np.cumsum(np.diff(times, axis=1) * 0.5 * (values[:, 1:] + values[:, :-1]), 1)
    rest = (distance_m - flown[:, -1]) / values[:, -1]
    early = np.array([np.interp(distance_m, np.append(0.0, f), t) for f, t in zip(flown, times, strict=True)])
    return np.where(rest > 0, steady_s + rest, early)


def _between(pair: tuple[float, float], u: Floats) -> Floats:
    low, high = pair
    return np.asarray(low + (high - low) * u)


def _level(pair: tuple[float, float], u: Floats) -> Floats:
    """A flight level, in steps of 10, as metres."""
    return np.asarray(np.round(_between(pair, u) / 10.0) * 10.0 * FL_M)
