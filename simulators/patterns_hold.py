"""Holding stacks: levels flown from the top down, a number of racetracks on each, every aircraft alike.

So two aircraft whose first times over the fix are a circuit apart or more never share a level.
"""

from typing import Any

import numpy as np

from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.legs import Floats, Limits, Pair
from ssrtrack.simulators.patterns_route import Flown, Racetracks, change_height, standard_bank, true_airspeed
from ssrtrack.simulators.schema_patterns import Hold
from ssrtrack.units import DEG_RAD, FL_M, FPM_MPS, FT_M, G_MPS2, KT_MPS, NM_M

LEVEL_M = 1000.0 * FT_M
LONG_M = 140.0 * FL_M  # above it an outbound leg takes 1.5 minutes instead of 1 (Doc 8168)
DESCENT_MPS = 1000.0 * FPM_MPS
BEFORE_M = 12.0 * NM_M  # flown on the inbound course before the fix
_SHARPEST_RAD = 120.0 * DEG_RAD


def levels(hold: Hold) -> Floats:
    """Height of every circuit (C,) from the top down, in m."""
    low, high = hold.flight_level
    each = np.arange(high, low - 1.0, -10.0) * FL_M
    return np.repeat(each, hold.circuits)


def racetracks(hold: Hold, flights: int, at: int) -> Racetracks:
    """The circuits of all levels for F flights at waypoint `at`; the last one ends with the lowest level's speed."""
    heights = levels(hold)
    speed = true_airspeed(hold.speed_kt * KT_MPS, np.append(heights, heights[-1]))
    outbound = np.where(heights > LONG_M, 90.0, 60.0)
    rows = np.ones((flights, 1))
    return Racetracks(at, hold.turns == "right", rows * speed, rows * outbound)


def around(hold: Hold, fix_m: Floats, onward_m: Floats) -> tuple[Floats, Floats]:
    """Places (2,) east and north before the fix on the inbound course, and behind it where the turn onward is made.

    Raises:
        ScenarioError: the way onward turns back by more than 120 degrees.
    """
    course = hold.inbound_deg * DEG_RAD
    ahead = np.array([np.sin(course), np.cos(course)])
    speed = true_airspeed(hold.speed_kt * KT_MPS, hold.flight_level[0] * FL_M)
    radius = speed**2 / (G_MPS2 * np.tan(standard_bank(speed)))
    leave = fix_m + radius * ahead
    for _ in range(8):
        east, north = onward_m - leave
        angle = abs(wrapped_angle(np.arctan2(east, north) - course))
        # Rolling in and out takes a few seconds more than half the turn's tangent.
        leave = fix_m + (radius * np.tan(0.5 * min(angle, _SHARPEST_RAD)) + 6.0 * speed) * ahead
    if angle > _SHARPEST_RAD:
        raise ScenarioError(
            f"hold.inbound_deg: found {hold.inbound_deg:g}, but the way onward turns by {angle / DEG_RAD:.0f} deg from "
            "there, expected 120 at most; choose a course that leads more towards the final"
        )
    return fix_m - BEFORE_M * ahead, leave


def descend(hold: Hold, flown: Flown, limits: Limits, name: str) -> list[Pair]:
    """Knots of the rate of climb from level to level, from 1,000 ft above the highest, each as a circuit begins."""
    knots = []
    for k in range(0, flown.circuit_s.shape[1], hold.circuits):
        rise = np.full(len(flown.circuit_s), -LEVEL_M)
        begin = flown.circuit_s[:, k]
        knots += change_height(
            begin, rise, DESCENT_MPS, limits.vertical_acceleration_mps2, begin + 150.0, f"{name}: hold"
        )[0]
    return knots


def check(hold: Hold, flown: Flown, fix_s: Any, interval_s: tuple[float, float], name: str) -> None:
    """Raises ScenarioError if an aircraft could come to a level that the one before has not left."""
    starts = np.column_stack([flown.circuit_s, fix_s])[0]
    longest = float(np.diff(starts[:: hold.circuits]).max())
    if interval_s[0] < longest:
        raise ScenarioError(
            f"{name}: interval_s begins at {interval_s[0]:g}, but an aircraft stays {longest:.0f} s on a level of the "
            f"hold and the next would come too near; give at least {np.ceil(longest):.0f}"
        )
