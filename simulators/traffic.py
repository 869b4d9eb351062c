"""Who flies when: random flows, patterns and scripted aircraft, made as time goes on: long scenarios fit in memory."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.flows import Seat, seat, seated_flights
from ssrtrack.simulators.legs import Ints, Legs, Limits, Schedules, Start, schedules
from ssrtrack.simulators.patterns import LOW_LEVEL, Planned, streams
from ssrtrack.simulators.patterns_low import low_flights
from ssrtrack.simulators.schema import Scenario
from ssrtrack.simulators.schema_traffic import Aircraft
from ssrtrack.simulators.trajectory import Paths, fly
from ssrtrack.units import DEG_RAD, FL_M, FPM_MPS, KT_MPS

SCRIPTED = 65535  # flow number of scripted aircraft in random streams
MIN_FLIGHT_S = 1.0
# What a random stream is for: the first word of its spawn key.
TRAFFIC, TURBULENCE = range(2)
# Emergency and conspicuity codes that no simulated flight is given.
SPECIAL_CODES = {0o0000, 0o1000, 0o2000, 0o7000, 0o7500, 0o7600, 0o7700, 0o7777}
_FIRST_ADDRESS, _ADDRESSES = 0xD00000, 1 << 20  # a block that ICAO has given to no State (Annex 10 III, table 9-1)


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream with a key: the same as nested SeedSequence.spawn, without making the others."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True)
class Fleet:
    """Identity of F flights, each column (F,); `who` (F, 3) is flow, slot and number in it, for random streams."""

    truth_id: Ints
    who: Ints
    mode_s: NDArray[np.bool_]
    address: Ints
    mode3a: Ints
    callsign: NDArray[np.bytes_]

    def take(self, flights: Ints) -> Self:
        """Some of the flights, in the order given."""
        return type(self)(*(getattr(self, f.name)[flights] for f in fields(self)))

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Flights of several fleets, one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class Traffic:
    """Flights of a scenario in order of their start; holds what has been made so far."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario, self._seed, self._end_s = scenario, seed, scenario.duration_s
        self._centre = (scenario.radar[0].latitude_deg, scenario.radar[0].longitude_deg)
        self._limits = Limits(
            scenario.roll_rate_dps * DEG_RAD,
            scenario.vertical_acceleration_mps2,
            scenario.turbulence_m2ps3,
            scenario.truth_step_s,
            scenario.gusts,
        )
        used = {int(a.mode3a, 8) for a in scenario.aircraft if a.mode3a} | SPECIAL_CODES
        # An odd multiplier permutes the codes, so that neighbours in number are not neighbours in code.
        self._codes = np.array(sorted((c for c in range(4096) if c not in used), key=lambda c: c * 1543 % 4096))
        self._scripts = list(range(len(scenario.aircraft)))
        self._flows: dict[int, Any] = dict(enumerate(scenario.traffic))
        self._low: dict[int, Any] = {LOW_LEVEL + n: block for n, block in enumerate(scenario.low_level)}
        self._slots = [(f, s, 0, 0.0) for f, b in (self._flows | self._low).items() for s in range(b.number)]
        self._streams = streams(scenario, self._limits)
        self._next_id = len(scenario.aircraft)

    def until(self, time_s: float) -> tuple[Paths, Fleet] | None:
        """The flights not given before that start before `time_s`, and perhaps some that start later, or None.

        Raises:
            ScenarioError: a pattern has no room for what it asks.
        """
        plans = [self._scripted(time_s)]
        seats = self._seats(time_s)
        made = self._random([s for s in seats if s.who[0] in self._flows])
        made += self._low_level([s for s in seats if s.who[0] in self._low])
        made += [planned for each in self._streams for planned in each.until(time_s, self._rng)]
        plans += [self._with_fleet(planned) for planned in made]
        made_up = [p for p in plans if p is not None and len(p[2].truth_id)]
        if not made_up:
            return None
        # Flown together: the integration costs as much for a hundred flights as for one.
        fleet = Fleet.concat([p[2] for p in made_up])
        turbulent = self._limits.turbulent
        rngs = [stream(self._seed, TURBULENCE, *map(int, who)) for who in fleet.who] if turbulent else []
        plan, start = Schedules.concat([p[0] for p in made_up]), Start.concat([p[1] for p in made_up])
        return fly(plan, start, self._limits, rngs), fleet

    def _rng(self, *key: int) -> np.random.Generator:
        return stream(self._seed, TRAFFIC, *key)

    def _scripted(self, time_s: float) -> tuple[Schedules, Start, Fleet] | None:
        due = [i for i in self._scripts if self._scenario.aircraft[i].start_s < time_s]
        if not due:
            return None
        self._scripts = [i for i in self._scripts if i not in due]
        crew = [self._scenario.aircraft[i] for i in due]
        who = np.array([(SCRIPTED, i, 0) for i in due])
        fleet = self._fleet(np.array(due), who, np.array([a.mode_s for a in crew]), crew)
        start = scripted_start(crew, self._end_s)
        return schedules(scripted_legs(crew), start, self._limits), start, fleet

    def _seats(self, time_s: float) -> list[Seat]:
        """The flights of slots that begin before a time, in rounds: who follows whom."""
        seats: list[Seat] = []
        last_s, blocks = self._end_s - MIN_FLIGHT_S, self._flows | self._low
        while due := [slot for slot in self._slots if slot[3] < time_s and slot[3] <= last_s]:
            later = [slot for slot in self._slots if slot[3] >= time_s or slot[3] > last_s]
            more = [
                seat((f, s, n), blocks[f].flight_time_s, begin, self._end_s, self._rng(f, s, n))
                for f, s, n, begin in due
            ]
            self._slots = later + [(*s.who[:2], s.who[2] + 1, s.end_s) for s in more]
            seats += more
        return seats

    def _random(self, seats: list[Seat]) -> list[Planned]:
        if not seats:
            return []
        legs, start, mode_s = seated_flights([self._flows[s.who[0]] for s in seats], self._centre, seats)
        return [Planned(schedules(legs, start, self._limits), start, np.array([s.who for s in seats]), mode_s)]

    def _low_level(self, seats: list[Seat]) -> list[Planned]:
        if not seats:
            return []
        ground = [self._rng(*s.who, 1) for s in seats]
        plan, start, mode_s = low_flights([self._low[s.who[0]] for s in seats], seats, self._limits, ground)
        return [Planned(plan, start, np.array([s.who for s in seats]), mode_s)]

    def _with_fleet(self, planned: Planned) -> tuple[Schedules, Start, Fleet]:
        ids = self._next_id + np.arange(len(planned.who))
        self._next_id += len(planned.who)
        return planned.plan, planned.start, self._fleet(ids, planned.who, planned.mode_s, None)

    def _fleet(self, ids: Ints, who: Ints, mode_s: NDArray[np.bool_], crew: list[Aircraft] | None) -> Fleet:
        # Odd multiplier: a permutation of the block, so that addresses are unique and do not run in sequence.
        address = _FIRST_ADDRESS + (ids * 516_979 + 4_321) % _ADDRESSES
        mode3a = self._codes[ids % len(self._codes)]
        callsign = np.array([made_up_callsign(int(i)) for i in ids], "S8")
        for n, a in enumerate(crew or []):
            address[n] = a.address if a.address >= 0 else address[n]
            mode3a[n] = int(a.mode3a, 8) if a.mode3a else mode3a[n]
            callsign[n] = a.callsign.encode() if a.callsign else callsign[n]
        return Fleet(ids, who, mode_s, np.where(mode_s, address, -1), mode3a, np.where(mode_s, callsign, b""))


def has_traffic(scenario: Scenario) -> bool:
    """Whether a scenario says of anybody that they fly."""
    s = scenario
    return bool(s.traffic or s.aircraft or s.approach or s.departure or s.crossing or s.low_level)


def made_up_callsign(truth_id: int) -> str:
    """SIM00042, or S0123456 from a hundred thousand on."""
    return f"SIM{truth_id:05d}" if truth_id < 100_000 else f"S{truth_id:07d}"


def check_identities(crew: tuple[Aircraft, ...]) -> None:
    """Raises ScenarioError for an identity that is malformed, given twice, or kept for made-up ones."""
    seen: dict[str, int] = {}
    for n, a in enumerate(crew):
        where = f"aircraft[{n}]"
        if a.mode3a and (len(a.mode3a) != 4 or any(c not in "01234567" for c in a.mode3a)):
            raise ScenarioError(f"{where}.mode3a: found {a.mode3a!r}, expected four octal digits such as '4321'")
        if any(c not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" for c in a.callsign):
            raise ScenarioError(f"{where}.callsign: found {a.callsign!r}, expected A-Z and 0-9 only")
        made_up = a.callsign[:3] == "SIM" and a.callsign[3:].isdigit()
        if made_up or (a.callsign[:1] == "S" and len(a.callsign) == 8 and a.callsign[1:].isdigit()):
            raise ScenarioError(f"{where}.callsign: {a.callsign!r} is kept for made-up callsigns; choose another")
        given = {"mode3a": a.mode3a, "callsign": a.callsign, "address": a.address if a.address >= 0 else ""}
        for key, value in given.items():
            if value == "":
                continue
            if (name := f"{key} {value}") in seen:
                raise ScenarioError(f"{where}.{key}: {value!r} is aircraft[{seen[name]}]'s as well; give each its own")
            seen[name] = n


def scripted_start(crew: list[Aircraft], end_s: float) -> Start:
    """Where scripted aircraft begin."""
    rows = [
        (a.start_s, min(a.end_s, end_s), a.latitude_deg * DEG_RAD, a.longitude_deg * DEG_RAD, a.flight_level * FL_M,
         a.speed_kt * KT_MPS, a.track_deg * DEG_RAD)
        for a in crew
    ]  # fmt: skip
    return Start(*np.array(rows).T)


def scripted_legs(crew: list[Aircraft]) -> Legs:
    """Their legs, padded to the longest script."""
    length = max([1] + [len(a.legs) for a in crew])
    table = np.zeros((7, len(crew), length))
    table[[3, 5]] = np.nan
    for n, a in enumerate(crew):
        for i, leg in enumerate(a.legs):
            table[:, n, i] = (
                leg.duration_s, leg.turn_deg * DEG_RAD, leg.bank_deg * DEG_RAD, leg.flight_level * FL_M,
                leg.climb_fpm * FPM_MPS, leg.speed_kt * KT_MPS, leg.acceleration_mps2,
            )  # fmt: skip
    return Legs(*table)
