"""Fast low flying: hard turns inside a circle, and a height that follows the ground whatever the turns do."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssrtrack.simulators.flows import Seat, seated_flights
from ssrtrack.simulators.legs import Limits, Schedules, Start, climb_profile, schedules, stacked, trapezium
from ssrtrack.simulators.schema_patterns import LowLevel
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.units import DEG_RAD, FPM_MPS, FT_M

ROLL_RADPS = 40.0 * DEG_RAD  # fighters roll faster than the scenario's `roll_rate_dps`
PULL_MPS2 = 2.5  # vertical acceleration over ridges: a quarter of g
MIN_STEP_S, MORE_STEP_S = 8.0, 12.0  # between changes of height: at least, and the mean of what is added


def as_flow(low: LowLevel) -> Flow:
    """The random flow that turns and changes speed in the same way, at one level."""
    return Flow(
        name=low.name, number=low.number, latitude_deg=low.latitude_deg, longitude_deg=low.longitude_deg,
        radius_nm=low.radius_nm, speed_kt=low.speed_kt, flight_level=(0.0, 0.0),
        manoeuvres_per_hour=low.turns_per_hour, turn_share=1.0, climb_share=0.0, speed_share=low.speed_share,
        bank_deg=low.bank_deg, turn_deg=low.turn_deg, max_turn_rate_dps=20.0, acceleration_mps2=(0.5, 2.0),
        flight_time_s=low.flight_time_s, mode_s_share=low.mode_s_share,
    )  # fmt: skip


def low_flights(
    lows: list[LowLevel], seats: list[Seat], limits: Limits, ground: list[np.random.Generator]
) -> tuple[Schedules, Start, NDArray[np.bool_]]:  # fmt: skip
    """Schedules, starts and Mode S ability of F flights: one block, seat and further random stream each."""
    legs, start, mode_s = seated_flights([as_flow(b) for b in lows], (0.0, 0.0), seats)
    plan = schedules(legs, start, replace(limits, roll_rate_radps=max(limits.roll_rate_radps, ROLL_RADPS)))
    base = np.array([b.ground_m for b in lows])
    heights = np.array([b.height_ft for b in lows]).T * FT_M
    rates = np.array([b.climb_fpm for b in lows]).T * FPM_MPS
    span = start.end_s - start.time_s
    steps = int(span.max() / MIN_STEP_S) + 1
    u = np.stack([rng.random((steps, 3)) for rng in ground], 2)
    now, height = np.zeros_like(span), heights[0] + (heights[1] - heights[0]) * u[0, 0]
    start = replace(start, height_m=base + height)
    knots = [(now, np.zeros_like(now))]
    for row in u:
        if (now >= span).all():
            break
        now = now + MIN_STEP_S - MORE_STEP_S * np.log1p(-row[0])
        target = heights[0] + (heights[1] - heights[0]) * row[1]
        profile = climb_profile(target - height, rates[0] + (rates[1] - rates[0]) * row[2], PULL_MPS2)
        knots += trapezium(now, *profile)
        now, height = now + 2.0 * profile[1] + profile[2], target
    return Schedules(plan.bank, plan.speed, stacked(knots)), start, mode_s
