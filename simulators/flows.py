"""Random traffic: where aircraft of a flow start and what legs they fly.

Between manoeuvres an aircraft flies straight for 10 s and then for an exponential time; where it would leave its circle
it turns back in. The planning below follows it on a plane, which need not be exact: the path itself is flown elsewhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.legs import Floats, Legs, Start
from ssrtrack.simulators.schema_traffic import Flow
from ssrtrack.units import DEG_RAD, FL_M, FPM_MPS, G_MPS2, KT_MPS, NM_M

MIN_STRAIGHT_S = 10.0
LEVEL_STEP_M = 10.0 * FL_M
EARTH_M = 6371000.0  # mean radius, to place the starts
TWO_PI = 2.0 * np.pi
_PAGE, _DRAWS = 16, 12  # manoeuvres drawn at a time, uniform numbers for each
_MOST_LEGS = 100_000


@dataclass(frozen=True)
class _Plane:
    """Planned state of F flights on the plane of their circle: place (2, F) is east, north of its centre."""

    now_s: Floats
    place_m: Floats
    track_rad: Floats
    speed_mps: Floats
    height_m: Floats


class _Rules:
    """The keys of each flight's flow as columns in SI, (F,) or (2, F) for a pair."""

    def __init__(self, flows: list[Flow]) -> None:
        def column(name: str, unit: float) -> Any:
            return np.array([getattr(f, name) for f in flows]).T * unit

        self.radius_m = column("radius_nm", NM_M)
        self.speed_mps = column("speed_kt", KT_MPS)
        self.level_10 = column("flight_level", 0.1)
        self.gap_s = 3600.0 / np.maximum(column("manoeuvres_per_hour", 1.0), 1e-9)
        self.turn_share = column("turn_share", 1.0)
        self.climb_share = column("climb_share", 1.0)
        self.speed_share = column("speed_share", 1.0)
        self.bank_rad = column("bank_deg", DEG_RAD)
        self.turn_rad = column("turn_deg", DEG_RAD)
        self.turn_rate_radps = column("max_turn_rate_dps", DEG_RAD)
        self.climb_mps = column("climb_fpm", FPM_MPS)
        self.acceleration_mps2 = column("acceleration_mps2", 1.0)
        self.mode_s_share = column("mode_s_share", 1.0)


@dataclass(frozen=True)
class Seat:
    """One flight of a slot: its flow, slot and number, its time in the air, its random stream and the first draws."""

    who: tuple[int, int, int]
    begin_s: float
    end_s: float
    rng: np.random.Generator
    draws: Floats


def seat(who: tuple[int, int, int], life_s: tuple[float, float], begin_s: float, last_s: float, rng: Any) -> Seat:
    """The next flight of a slot; the first draw is its life, so that who follows it can be known without planning."""
    draws = rng.random(8)
    low, high = life_s
    return Seat(who, begin_s, min(begin_s + low + (high - low) * float(draws[0]), last_s), rng, draws)


def random_flights(
    flows: list[Flow], centre_deg: tuple[float, float], begin_s: Floats, last_s: float, rngs: list[np.random.Generator]
) -> tuple[Legs, Start, NDArray[np.bool_]]:
    """Legs, start and Mode S ability of F random flights: one flow, start time and random stream each.

    Args:
        centre_deg: latitude and longitude for flows that name no centre.
        last_s: end of the scenario, which ends every flight.
    """
    each = zip(flows, begin_s.tolist(), rngs, strict=True)
    seats = [seat((0, 0, 0), flow.flight_time_s, begin, last_s, rng) for flow, begin, rng in each]
    return seated_flights(flows, centre_deg, seats)


def seated_flights(
    flows: list[Flow], centre_deg: tuple[float, float], seats: list[Seat]
) -> tuple[Legs, Start, NDArray[np.bool_]]:
    """As random_flights, of flights whose times are known.

    Args:
        centre_deg: latitude and longitude for flows that name no centre.
    """
    rules, rngs = _Rules(flows), [s.rng for s in seats]
    u = np.stack([s.draws for s in seats], 1)
    begin_s, end_s = np.array([s.begin_s for s in seats]), np.array([s.end_s for s in seats])
    place = rules.radius_m * np.sqrt(u[1]) * _unit(TWO_PI * u[2])
    at = _Plane(begin_s, place, TWO_PI * u[3], _between(rules.speed_mps, u[4]), _level(rules, u[5]))
    start = Start(begin_s, end_s, *_placed(flows, centre_deg, place), at.height_m, at.speed_mps, at.track_rad)
    legs: list[Floats] = []
    page = np.empty((_PAGE, _DRAWS, len(flows)))
    while (at.now_s < end_s).any() and len(legs) < _MOST_LEGS:
        row = len(legs) // 2 % _PAGE
        if row == 0:
            page = np.stack([rng.random((_PAGE, _DRAWS)) for rng in rngs], 2)
        straight, inward, at = _straight(rules, at, page[row, 0])
        manoeuvre, at = _manoeuvre(rules, at, inward, page[row, 1:])
        legs += [straight, manoeuvre]
    return Legs(*np.stack(legs, 2)), start, u[6] < rules.mode_s_share


def _straight(rules: _Rules, at: _Plane, u: Floats) -> tuple[Floats, NDArray[np.bool_], _Plane]:
    """A straight leg, whether it ended at the edge of the circle, and the state after it."""
    wanted = MIN_STRAIGHT_S - rules.gap_s * np.log1p(-u)
    edge = _time_to_edge(at, rules.radius_m)
    seconds = np.maximum(np.minimum(wanted, edge), MIN_STRAIGHT_S)
    place = at.place_m + at.speed_mps * seconds * _unit(at.track_rad)
    after = _Plane(at.now_s + seconds, place, at.track_rad, at.speed_mps, at.height_m)
    none, zero = np.full_like(seconds, np.nan), np.zeros_like(seconds)
    return np.stack([seconds, zero, zero, none, zero, none, zero]), wanted > edge, after


def _manoeuvre(rules: _Rules, at: _Plane, inward: NDArray[np.bool_], u: Floats) -> tuple[Floats, _Plane]:
    """A turn, climb or speed change, or several at once, and the state after it."""
    climbing, changing = u[0] < rules.climb_share, u[1] < rules.speed_share
    turning = inward | (u[2] < rules.turn_share) | ~(climbing | changing)
    sign = np.where(u[3] < 0.5, -1.0, 1.0)
    home = np.arctan2(-at.place_m[0], -at.place_m[1]) + (u[4] - 0.5) * np.pi / 2
    back = wrapped_angle(home - at.track_rad)
    turn = np.where(inward, back, sign * _between(rules.turn_rad, u[5])) * turning
    steepest = np.arctan(rules.turn_rate_radps * at.speed_mps / G_MPS2)
    bank = np.minimum(_between(rules.bank_rad, u[6]), steepest)
    turn_s = np.abs(turn) * at.speed_mps / (G_MPS2 * np.tan(bank))
    chord = at.speed_mps * turn_s * np.sinc(0.5 * turn / np.pi)
    place, track = at.place_m + chord * _unit(at.track_rad + 0.5 * turn), at.track_rad + turn
    # A climb or speed change goes on straight after the turn: only as far as there is room for.
    turned = _Plane(at.now_s + turn_s, place, track, at.speed_mps, at.height_m)
    room_s = turn_s + np.maximum(_time_to_edge(turned, rules.radius_m), 0.0)
    climb, acceleration = _between(rules.climb_mps, u[9]), _between(rules.acceleration_mps2, u[10])
    rise = np.where(climbing, _level(rules, u[7]) - at.height_m, 0.0)
    rise = np.trunc(np.clip(rise, -climb * room_s, climb * room_s) / LEVEL_STEP_M) * LEVEL_STEP_M
    gain = np.where(changing, _between(rules.speed_mps, u[8]) - at.speed_mps, 0.0)
    gain = np.clip(gain, -acceleration * room_s, acceleration * room_s)
    height, speed = at.height_m + rise, at.speed_mps + gain
    seconds = np.maximum(np.maximum(turn_s, np.abs(rise) / climb), np.abs(gain) / acceleration)
    place = place + speed * (seconds - turn_s) * _unit(track)
    after = _Plane(at.now_s + seconds, place, track, speed, height)
    return np.stack([0.0 * seconds, turn, bank, height, climb, speed, acceleration]), after


def _time_to_edge(at: _Plane, radius_m: Floats) -> Floats:
    """Time until a flight on its track leaves its circle; none if it is outside and does not come back."""
    along = np.sum(at.place_m * _unit(at.track_rad), 0)
    root = along**2 - np.sum(at.place_m**2, 0) + radius_m**2
    return np.where(root > 0, np.sqrt(np.maximum(root, 0.0)) - along, 0.0) / at.speed_mps


def _placed(flows: list[Flow], centre_deg: tuple[float, float], place_m: Floats) -> tuple[Floats, Floats]:
    """Latitude and longitude of places east and north of each flow's centre (direct problem on the sphere)."""
    given = np.array([(f.latitude_deg, f.longitude_deg) for f in flows])
    lat0, lon0 = (np.where(np.isnan(given), centre_deg, given) * DEG_RAD).T
    arc, bearing = np.hypot(*place_m) / EARTH_M, np.arctan2(*place_m)
    lat = np.arcsin(np.sin(lat0) * np.cos(arc) + np.cos(lat0) * np.sin(arc) * np.cos(bearing))
    east = np.sin(bearing) * np.sin(arc) * np.cos(lat0)
    return lat, lon0 + np.arctan2(east, np.cos(arc) - np.sin(lat0) * np.sin(lat))


def _between(pair: Floats, u: Floats) -> Floats:
    low, high = pair
    return np.asarray(low + (high - low) * u)


def _level(rules: _Rules, u: Floats) -> Floats:
    """A flight level, in steps of 10, as metres."""
    return np.round(_between(rules.level_10, u)) * LEVEL_STEP_M


def _unit(angle_rad: Floats) -> Floats:
    return np.stack([np.sin(angle_rad), np.cos(angle_rad)])
