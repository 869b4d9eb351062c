"""Routes: from waypoints, with a speed at each, to schedules of bank and speed that fly them to the metre.

Legs are straight (geodesics at their height), turns are flown by: they begin before the waypoint, where a turn with
roll-in and roll-out joins the two legs. Speed changes on straight legs only, so that turns keep their shape. Lengths
and angles come from chords between the waypoints at the leg's height: within centimetres over 100 km.
"""

from dataclasses import dataclass

import numpy as np

from ssrtrack.errors import ScenarioError
from ssrtrack.geodesy import A_M, E2, ecef_to_geodetic, enu_rotation, enu_to_ecef, geodetic_to_ecef, wrapped_angle
from ssrtrack.simulators.legs import Floats, Pair, climb_profile, trapezium, turn_profile
from ssrtrack.units import DEG_RAD, FT_M, G_MPS2, NM_M

STANDARD_BANK_RAD = 25.0 * DEG_RAD  # Doc 8168: 25 degrees or rate one, the lesser
RATE_ONE_RADPS = 3.0 * DEG_RAD
SPEED_CHANGE_MPS2 = 0.4
_MOST_SPEED_CHANGE_MPS2 = 2.5
_MOST_CLIMB_MPS = 6000.0 * FT_M / 60.0
_GAUSS = np.polynomial.legendre.leggauss(12)


@dataclass(frozen=True)
class Route:
    """F flights over W waypoints: places (F, W), ground speed at each (F, W), height of the legs between (F, W − 1)."""

    latitude_rad: Floats
    longitude_rad: Floats
    speed_mps: Floats
    leg_height_m: Floats


@dataclass(frozen=True)
class Racetracks:
    """Circuits flown at waypoint `at`, on the course with which it is reached: speeds (F, C + 1), outbound (F, C)."""

    at: int
    right: bool
    speed_mps: Floats
    outbound_s: Floats


@dataclass(frozen=True)
class Flown:
    """Knots of bank and speed, times (F, W) at the waypoints, (F, C) at the starts of circuits, the track at first."""

    bank: list[Pair]
    speed: list[Pair]
    time_s: Floats
    circuit_s: Floats
    track_rad: Floats


def standard_bank(speed_mps: Floats) -> Floats:
    """Bank angle of a standard turn: rate one, but 25 degrees at most (Doc 8168)."""
    return np.minimum(STANDARD_BANK_RAD, np.arctan(RATE_ONE_RADPS * speed_mps / G_MPS2))


def true_airspeed(indicated_mps: Floats | float, height_m: Floats | float) -> Floats:
    """True airspeed of an equivalent one, up to 11 km (ICAO Doc 7488): v √(ρ₀/ρ)."""
    return np.asarray(indicated_mps * (1.0 - 0.0065 * np.asarray(height_m) / 288.15) ** (-0.5 * 4.255880))


def beside(latitude_rad: Floats, longitude_rad: Floats, east_m: Floats, north_m: Floats) -> Pair:
    """Latitude and longitude of places so far east and north, on the ground; exact in bearing, 3 m long in 100 km."""
    flat = east_m**2 + north_m**2
    site = (np.asarray(latitude_rad), np.asarray(longitude_rad), np.zeros_like(flat))
    enu = np.stack(np.broadcast_arrays(east_m, north_m, -flat / (2.0 * A_M)), -1)
    lat, lon, _ = ecef_to_geodetic(enu_to_ecef(enu, site))
    return lat, lon


def between(begin: Pair, end: Pair, height_m: Floats) -> tuple[Floats, Floats, Floats]:
    """Length, azimuth at the begin and at the end of straight legs at a height; places are latitude, longitude."""
    chord = geodetic_to_ecef(*end, height_m) - geodetic_to_ecef(*begin, height_m)
    at_begin, at_end = (np.einsum("...ij,...j->...i", enu_rotation(*p), chord) for p in (begin, end))
    out, arriving = (np.arctan2(v[..., 0], v[..., 1]) for v in (at_begin, at_end))
    w2 = 1.0 - E2 * np.sin(begin[0]) ** 2
    n = A_M / np.sqrt(w2)
    radius = 1.0 / (np.cos(out) ** 2 / (n * (1.0 - E2) / w2) + np.sin(out) ** 2 / n) + height_m
    length = np.linalg.norm(chord, axis=-1)
    return 2.0 * radius * np.arcsin(0.5 * length / radius), out, arriving


def plan_route(name: str, route: Route, roll_rate_radps: float, circuits: Racetracks | None = None) -> Flown:
    """Bank and speed over time of F flights along their waypoints.

    Raises:
        ScenarioError: a leg is too short for the turns at its ends, or for its change of speed; names the pattern.
    """
    lat, lon, v = route.latitude_rad, route.longitude_rad, route.speed_mps
    length, out, arriving = between((lat[:, :-1], lon[:, :-1]), (lat[:, 1:], lon[:, 1:]), route.leg_height_m)
    zero = np.zeros(len(lat))
    angle = np.zeros_like(lat)
    angle[:, 1:-1] = wrapped_angle(out[:, 1:] - arriving[:, :-1])
    bank, speed, times, circuit_s = [(zero, zero)], [(zero, v[:, 0])], [zero], [zero]
    profiles = [_turn(angle[:, i], v[:, i], roll_rate_radps) for i in range(lat.shape[1])]
    now, left = zero, v[:, 0]
    for i in range(lat.shape[1] - 1):
        straight = length[:, i] - _lead(*profiles[i], v[:, i]) - _lead(*profiles[i + 1], v[:, i + 1])
        _check_leg(name, i, straight, length[:, i])
        knots, now = change_speed(now, left, v[:, i + 1], straight, f"{name}: leg {i + 1}")
        speed += knots
        turn = profiles[i + 1][1]
        bank += trapezium(now, *turn)
        times.append(now + 0.5 * (2.0 * turn[1] + turn[2]))
        now, left = now + 2.0 * turn[1] + turn[2], v[:, i + 1]
        if circuits is not None and i + 1 == circuits.at:
            more_bank, more_speed, circuit_s, now = _racetracks(name, now, circuits, roll_rate_radps)
            bank, speed, left = bank + more_bank, speed + more_speed, circuits.speed_mps[:, -1]
    return Flown(bank, speed, np.stack(times, 1), np.stack(circuit_s, 1), out[:, 0])


def _racetracks(
    name: str, now: Floats, circuits: Racetracks, roll_rate_radps: float
) -> tuple[list[Pair], list[Pair], list[Floats], Floats]:
    """Knots of bank and speed of circuits from `now` on, their starts and the end of the last."""
    bank: list[Pair] = []
    speed: list[Pair] = []
    starts = []
    half_turn = np.full_like(now, np.pi if circuits.right else -np.pi)
    for k in range(circuits.outbound_s.shape[1]):
        v, after = circuits.speed_mps[:, k], circuits.speed_mps[:, k + 1]
        _, turn = _turn(half_turn, v, roll_rate_radps)
        turn_s = 2.0 * turn[1] + turn[2]
        starts.append(now)
        back = now + turn_s + circuits.outbound_s[:, k]
        bank += trapezium(now, *turn) + trapezium(back, *turn)
        # The inbound leg is as long as the outbound one, whatever speed it ends with: the fix is met again.
        inbound = v * circuits.outbound_s[:, k]
        knots, now = change_speed(back + turn_s, v, after, inbound, f"{name}: inbound leg of the hold")
        speed += knots
    return bank, speed, starts, now


def change_speed(now: Floats, v0: Floats, v1: Floats, length_m: Floats, where: str) -> tuple[list[Pair], Floats]:
    """Knots of a speed change within a straight leg, and its end: slowing down late, speeding up early.

    Raises:
        ScenarioError: the leg is too short for it.
    """
    wanted = 0.5 * np.abs(v1**2 - v0**2)
    acceleration = np.maximum(SPEED_CHANGE_MPS2, wanted / np.maximum(length_m, 1e-3))
    if (acceleration > _MOST_SPEED_CHANGE_MPS2).any():
        k = int(np.argmax(acceleration))
        raise ScenarioError(
            f"{where} is {length_m[k] / NM_M:.1f} NM long, too short to go from {v0[k] * 3600 / NM_M:.0f} to "
            f"{v1[k] * 3600 / NM_M:.0f} kt; give it more room"
        )
    changing = np.abs(v1 - v0) / acceleration
    steady = (length_m - wanted / acceleration) / np.maximum(v0, v1)
    begin = now + np.where(v1 < v0, steady, 0.0)
    return [(begin, v0), (begin + changing, v1)], now + steady + changing


Turn = tuple[Floats, Floats, Floats]


def _turn(angle: Floats, speed: Floats, roll_rate_radps: float) -> tuple[Floats, Turn]:
    """A standard turn at constant speed: its angle, and its peak bank, ramp and hold times."""
    return angle, turn_profile(angle, standard_bank(speed), roll_rate_radps, speed, speed, np.zeros_like(speed))


def _lead(angle: Floats, turn: Turn, speed: Floats) -> Floats:
    """Distance before the waypoint at which its turn begins (and behind it, at which it ends)."""
    peak, ramp, hold = np.abs(turn[0]), turn[1], turn[2]
    half = 0.5 * np.abs(angle)
    busy = peak > 0
    p = np.where(busy, peak / np.where(busy, ramp, 1.0), 1.0)
    t = 0.5 * ramp[:, None] * (1.0 + _GAUSS[0])
    rolled = -G_MPS2 / (speed * p)[:, None] * np.log(np.cos(p[:, None] * t))
    rolling = 0.5 * ramp * np.sum(_GAUSS[1] * np.cos(half[:, None] - rolled), 1)
    rate = np.where(busy, G_MPS2 * np.tan(peak) / speed, 1.0)
    steady = np.sin(0.5 * rate * hold) / rate
    # Half the way along the bisected direction; the two halves meet in the waypoint's bisector.
    return np.where(busy, speed * (rolling + steady) / np.cos(np.minimum(half, 0.49 * np.pi)), 0.0)


def _check_leg(name: str, leg: int, straight: Floats, length: Floats) -> None:
    if (straight < 0).any():
        k = int(np.argmin(straight))
        raise ScenarioError(
            f"{name}: leg {leg + 1} is {length[k] / NM_M:.1f} NM long, but the turns at its ends take "
            f"{(length[k] - straight[k]) / NM_M:.1f} NM; move the points apart or make the turns smaller"
        )


def change_height(
    now: Floats, rise_m: Floats, rate_mps: float, acceleration_mps2: float, until_s: Floats, where: str
) -> tuple[list[Pair], Floats]:
    """Knots of a climb or descent from `now` that is done by `until_s`, if need be steeper than asked, and its end.

    Raises:
        ScenarioError: it would take more than 6,000 ft/min.
    """
    room = until_s - now
    inside = room**2 - 4.0 * np.abs(rise_m) / acceleration_mps2
    needed = 0.5 * acceleration_mps2 * (room - np.sqrt(np.maximum(inside, 0.0)))
    if ((needed > _MOST_CLIMB_MPS) | ((inside < 0) | (room < 0)) & (np.abs(rise_m) > 1.0)).any():
        k = int(np.argmax(np.abs(rise_m) / np.maximum(room, 1e-3)))
        raise ScenarioError(
            f"{where}: {abs(rise_m[k]) / FT_M:.0f} ft to climb or descend in {room[k]:.0f} s, more than 6000 ft/min; "
            "give it more room"
        )
    peak, ramp, hold = climb_profile(rise_m, np.maximum(rate_mps, needed), acceleration_mps2)
    return trapezium(now, peak, ramp, hold), now + 2.0 * ramp + hold
