"""Streams of patterned traffic: arrivals, departures and crossing pairs, event after event, as time goes on.

Event n of a stream (a landing, a first time over a fix, a take-off, a pair's closest approach) follows event n − 1 by a
random interval. All that an aircraft does depends on the seed, its stream and n alone, and streams start long before
the scenario does, so that at time 0 the approaches and stacks are as full as ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.legs import Floats, Ints, Limits, Schedules, Start
from ssrtrack.simulators.patterns_approach import plan_approach
from ssrtrack.simulators.patterns_crossing import plan_crossing
from ssrtrack.simulators.patterns_departure import plan_departure
from ssrtrack.simulators.schema import Scenario
from ssrtrack.units import DEG_RAD, NM_M

# Flow numbers in random streams; those of [[traffic]] count from 0, scripted aircraft have 65535.
APPROACH, DEPARTURE, CROSSING, LOW_LEVEL = 20_000, 21_000, 22_000, 23_000
LEAD_S = 5400.0  # the longest from an aircraft's start to its event
TAIL_S = 7200.0  # the longest from its event to its end
_DRAWS = 10
_BOTH = 0  # slot of the numbers that the aircraft of an event share; their own slots count from 1

Planner = Callable[[Any, int, Floats, Floats, Floats, Limits], tuple[Schedules, Start]]
Streams = Callable[..., np.random.Generator]


@dataclass(frozen=True)
class Planned:
    """Flights of a stream: their schedules and starts, `who` (F, 3) and Mode S ability (F,)."""

    plan: Schedules
    start: Start
    who: Ints
    mode_s: NDArray[np.bool_]


class Stream:
    """One stream as time goes on; it keeps the number and time of the next event."""

    def __init__(self, flow: int, block: Any, planner: Planner, slots: int, limits: Limits, end_s: float) -> None:
        self._flow, self._block, self._planner, self._slots = flow, block, planner, slots
        self._limits, self._end_s = limits, end_s
        self._number, self._next_s = 0, -TAIL_S

    def until(self, time_s: float, random: Streams) -> list[Planned]:
        """Flights not given before: all that start before `time_s`, and some that start later.

        Args:
            random: the random stream of (flow, slot, number).

        Raises:
            ScenarioError: the pattern has no room for what it asks.
        """
        numbers, times, both = [], [], []
        while self._next_s < min(time_s, self._end_s) + LEAD_S:
            u = random(self._flow, _BOTH, self._number).random(_DRAWS)
            numbers.append(self._number)
            times.append(self._next_s)
            both.append(u)
            low, high = self._block.interval_s
            self._next_s += low + (high - low) * u[0]
            self._number += 1
        if not numbers:
            return []
        return [self._planned(slot, np.array(numbers), np.array(times), np.array(both), random)
                for slot in range(self._slots)]  # fmt: skip

    def check(self) -> None:
        """Plans the aircraft for which all draws are least, and all are greatest."""
        draws = np.stack([np.zeros(_DRAWS), np.full(_DRAWS, 1.0)])
        for slot in range(self._slots):
            self._plan(slot, np.zeros(2), draws, draws)

    def _planned(self, slot: int, number: Ints, event_s: Floats, both: Floats, random: Streams) -> Planned:
        own = np.array([random(self._flow, slot + 1, int(n)).random(_DRAWS) for n in number])
        plan, start = self._plan(slot, event_s, both, own)
        start = Start(start.time_s, np.minimum(start.end_s, self._end_s), *_places(start))
        flies = (start.end_s > 1.0) & (start.end_s > start.time_s + 1.0)
        who = np.stack([np.full_like(number, self._flow), np.full_like(number, slot + 1), number], 1)
        kept = Start(*(getattr(start, name)[flies] for name in start.__dataclass_fields__))
        return Planned(plan.take(flies), kept, who[flies], own[flies, -1] < self._block.mode_s_share)

    def _plan(self, slot: int, event_s: Floats, both: Floats, own: Floats) -> tuple[Schedules, Start]:
        plan, start = self._planner(self._block, slot, event_s, both, own, self._limits)
        if (start.time_s < event_s - LEAD_S).any() or (start.end_s > event_s + TAIL_S).any():
            raise ScenarioError(
                f"{self._block.name}: an aircraft flies for {(start.end_s - start.time_s).max() / 3600:.1f} h, more "
                "than a pattern may take; shorten its way or its hold"
            )
        return plan, start


def _places(start: Start) -> tuple[Floats, ...]:
    return start.latitude_rad, start.longitude_rad, start.height_m, start.speed_mps, start.track_rad


def streams(scenario: Scenario, limits: Limits) -> list[Stream]:
    """The streams of a scenario."""
    end_s = scenario.duration_s
    return [
        *(Stream(APPROACH + n, b, plan_approach, 1 + (b.parallel_m > 0), limits, end_s)
          for n, b in enumerate(scenario.approach)),
        *(Stream(DEPARTURE + n, b, plan_departure, 1, limits, end_s) for n, b in enumerate(scenario.departure)),
        *(Stream(CROSSING + n, b, plan_crossing, 2, limits, end_s) for n, b in enumerate(scenario.crossing)),
    ]  # fmt: skip


def check_patterns(scenario: Scenario) -> None:
    """Raises ScenarioError for a pattern without room for what it asks, at either end of everything that is drawn."""
    limits = Limits(scenario.roll_rate_dps * DEG_RAD, scenario.vertical_acceleration_mps2)
    for stream in streams(scenario, limits):
        stream.check()


def expected_aircraft(scenario: Scenario) -> float:
    """About how many aircraft are in the air at a time, all kinds of traffic together."""
    flying = float(sum(f.number for f in scenario.traffic) + sum(b.number for b in scenario.low_level))
    for a in scenario.approach:
        levels = 0.0 if a.hold is None else (1 + (a.hold.flight_level[1] - a.hold.flight_level[0]) / 10.0)
        seconds = (a.entry_nm + 10.0) * 14.0 + levels * 270.0 * (a.hold.circuits if a.hold else 0)
        flying += (1 + (a.parallel_m > 0)) * seconds / float(np.mean(a.interval_s))
    for d in scenario.departure:
        flying += d.distance_nm * 12.0 / float(np.mean(d.interval_s))
    for c in scenario.crossing:
        speed = float(np.mean(c.speed_kt)) * NM_M / 3600.0
        flying += 2.0 * 2.0 * c.distance_nm * NM_M / speed / float(np.mean(c.interval_s))
    return flying + len(scenario.aircraft)
