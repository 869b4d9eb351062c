"""What the flights of a device-made batch are asked to fly: the simulator's own plans, without its integration.

Planning is a few hundred numbers a flight and stays on the CPU; it is `random_flights` and `schedules` themselves, so
that manoeuvres have the same distribution. What costs, flying and observing, is done on the device.
"""

from dataclasses import dataclass, replace

import numpy as np

from ssrtrack.simulators.flows import random_flights
from ssrtrack.simulators.legs import Floats, Limits, Pair, Start, schedules
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.units import DEG_RAD

AGE_S = 300.0  # a window begins at a random age up to this: flights are seen in the middle of their way as well


@dataclass(frozen=True)
class Plans:
    """N flights: where they start (SI), (times, values) (N, K) of bank, speed and climb since then, Mode S (N,)."""

    start: Start
    bank: Pair
    speed: Pair
    climb: Pair
    mode_s: Floats
    age_s: Floats  # of the flight when its window begins

    def rows(self, part: slice) -> "Plans":
        """Some of the flights."""
        start = Start(*(getattr(self.start, name)[part] for name in Start.__dataclass_fields__))
        bank, speed, climb = ((p[0][part], p[1][part]) for p in (self.bank, self.speed, self.climb))
        return Plans(start, bank, speed, climb, self.mode_s[part], self.age_s[part])


def planned(scenario: Scenario, seed: int, key: tuple[int, ...], count: int, span_s: float) -> Plans:
    """`count` flights of the scenario's random traffic, each drawn in proportion to how many of a flow are in the air.

    Args:
        seed, key: of the random stream; the plans are a function of these alone.
        span_s: how long every flight is to be observed, beyond its age at the beginning.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
    numbers = np.array([flow.number for flow in scenario.traffic], float)
    which = rng.choice(len(numbers), count, p=numbers / numbers.sum())
    life_s = AGE_S + span_s
    # Every flight lasts as long as it is looked at; the flow's own flight time has no part in how it manoeuvres.
    flows = [replace(scenario.traffic[f], flight_time_s=(life_s, life_s)) for f in which]
    centre = (scenario.radar[0].latitude_deg, scenario.radar[0].longitude_deg)
    limits = Limits(scenario.roll_rate_dps * DEG_RAD, scenario.vertical_acceleration_mps2)
    return planned_flights(flows, centre, life_s, limits, rng)


def planned_flights(
    flows: list[Flow], centre_deg: tuple[float, float], life_s: float, limits: Limits, rng: np.random.Generator
) -> Plans:
    """A flight of each flow (one flow for each flight), about a centre where the flow names none."""
    # One stream for all: the flights of a plan are only ever made together.
    count = len(flows)
    legs, start, mode_s = random_flights(flows, centre_deg, np.zeros(count), life_s, [rng] * count)
    plan = schedules(legs, start, limits)
    return Plans(start, plan.bank, plan.speed, plan.climb, mode_s.astype(float), AGE_S * rng.random(count))
