"""Smoothed states as flown paths: quintic pieces with what the aircraft is doing on each."""

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.geodesy import A_M, E2, ecef_to_geodetic, enu_rotation, wrapped_angle
from ssrtrack.simulators.replay_smooth import Floats, Ints, States
from ssrtrack.simulators.trajectory import Paths, horner, horner_slope
from ssrtrack.units import DEG_RAD, FPM_MPS, G_MPS2

PIECE_S = 2.5  # longest piece: bank, speed and climb are taken as linear in it
# A run above the lower bound is a turn (climb, speed change) if it reaches the upper one somewhere.
TURN_BANK_RAD = (2.5 * DEG_RAD, 5.0 * DEG_RAD)
CLIMB_MPS = (150.0 * FPM_MPS, 300.0 * FPM_MPS)
ACCELERATION_MPS2 = (0.1, 0.2)
MIN_SPEED_MPS = 1.0  # below it there is no course to speak of

Bools = NDArray[np.bool_]


def to_paths(time_s: Floats, flight: Ints, states: States) -> Paths:
    """Paths through the states of rows (n,) by flight (0 to F − 1, at least two rows each) and time."""
    link = np.flatnonzero(flight[1:] == flight[:-1])
    length = np.diff(time_s)[link]
    whole = _quintics(states, link, length)
    number = np.ceil(length / PIECE_S).astype(int)
    owner = np.repeat(np.arange(len(link)), number)
    step = (length / number)[owner]
    into = (np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)) * step
    coefficients = _shifted(whole[:, :, owner], into)
    piece_flight = flight[link][owner]
    begin, end = _kinematics(coefficients, 0.0 * step), _kinematics(coefficients, step)
    first = np.searchsorted(piece_flight, np.arange(int(flight[-1]) + 2))
    phase = _phases(begin, end, step, piece_flight)
    row = (np.diff(phase, prepend=phase[:1]) != 0) | (np.diff(piece_flight, prepend=-1) != 0)
    bounds = np.searchsorted(flight, np.arange(int(flight[-1]) + 2))
    return Paths(
        start_s=time_s[bounds[:-1]],
        end_s=time_s[bounds[1:] - 1],
        first=first,
        time_s=time_s[link][owner] + into,
        length_s=step,
        ecef=coefficients,
        scalars=_scalars(begin, end, step),
        phase=phase,
        row=row,
    )


def _quintics(states: States, link: Ints, length: Floats) -> Floats:
    """Polynomials (6, 3, m) between rows `link` and the next, through position, velocity and acceleration of both."""
    t = length
    p, v, a = states.position_m, states.velocity_mps, states.acceleration_mps2
    p0, v0, a0 = p[:, link], v[:, link], a[:, link]
    gap = p[:, link + 1] - p0 - t * (v0 + 0.5 * t * a0)
    dv, da = (v[:, link + 1] - v0 - t * a0) * t, (a[:, link + 1] - a0) * t**2
    c3 = (10.0 * gap - 4.0 * dv + 0.5 * da) / t**3
    c4 = (-15.0 * gap + 7.0 * dv - da) / t**4
    c5 = (6.0 * gap - 3.0 * dv + 0.5 * da) / t**5
    return np.stack([p0, v0, 0.5 * a0, c3, c4, c5])


def _shifted(c: Floats, into: Floats) -> Floats:
    """The same polynomials (6, 3, n) counted from `into` (n,) seconds later (Taylor)."""
    out = c.copy()
    for k in range(5):
        for i in range(4, k - 1, -1):
            out[i] += into * out[i + 1]
    return out


def _kinematics(c: Floats, t: Floats) -> dict[str, Floats]:
    """Height, climb, speed, track and their rates (n,) of polynomials c (6, 3, n) at t (n,).

    Rates are of the components along east, north and up, which turn with the place: Groves 2013, eq. 5.37.
    """
    position, velocity = horner(c, t), horner_slope(c, t)
    force = 2.0 * c[2] + t * (6.0 * c[3] + t * (12.0 * c[4] + t * 20.0 * c[5]))
    lat, lon, height = ecef_to_geodetic(position.T)
    axes = enu_rotation(lat, lon)
    v, a = (np.einsum("nij,jn->in", axes, x) for x in (velocity, force))
    w2 = 1.0 - E2 * np.sin(lat) ** 2
    n = A_M / np.sqrt(w2)
    north_rate, east_rate = v[1] / (n * (1.0 - E2) / w2 + height), v[0] / (n + height)
    frame = np.stack([-north_rate, east_rate, east_rate * np.tan(lat)])
    change = a - np.cross(frame, v, axis=0)
    speed = np.maximum(np.hypot(v[0], v[1]), MIN_SPEED_MPS)
    track_rate = (v[1] * change[0] - v[0] * change[1]) / speed**2
    return {
        "height": height,
        "climb": v[2],
        "speed": speed,
        "acceleration": (v[0] * change[0] + v[1] * change[1]) / speed,
        "track": np.arctan2(v[0], v[1]),
        "track_rate": track_rate,
        # What remains of the turn when flight along a great circle turns by east_rate tan φ.
        "bank": np.arctan(speed * (track_rate - east_rate * np.tan(lat)) / G_MPS2),
    }


def _scalars(a: dict[str, Floats], b: dict[str, Floats], length: Floats) -> Floats:
    """The rows of Paths.scalars (10, n) from the kinematics at both ends of each piece."""
    # Differences over the piece, not rates at its start, so that neighbours meet.
    speed = (b["speed"] - a["speed"]) / length
    bank = (b["bank"] - a["bank"]) / length
    climb = (b["climb"] - a["climb"]) / length
    bend = (b["track_rate"] - a["track_rate"]) / length
    turning = wrapped_angle(b["track"] - a["track"]) / length - 0.5 * length * bend
    return np.stack(
        [a["height"], a["climb"], climb, a["speed"], speed, a["bank"], bank, a["track"], turning, bend]
    )  # fmt: skip


def _phases(a: dict[str, Floats], b: dict[str, Floats], length: Floats, flight: Ints) -> NDArray[np.uint8]:
    """Phase bits of each piece, from the greatest of its ends."""

    def during(name: str, bounds: tuple[float, float]) -> Bools:
        return hysteresis(np.maximum(np.abs(a[name]), np.abs(b[name])), bounds, flight)

    phase = (
        Phase.TURN * during("bank", TURN_BANK_RAD)
        + Phase.CLIMB * during("climb", CLIMB_MPS)
        + Phase.SPEED_CHANGE * during("acceleration", ACCELERATION_MPS2)
    )
    return np.asarray(phase, np.uint8)


def hysteresis(value: Floats, bounds: tuple[float, float], flight: Ints) -> Bools:
    """Runs (n,) of values above the lower bound, inside one flight, that go above the upper one somewhere."""
    above = value > bounds[0]
    fresh = above & ~(np.concatenate([[False], above[:-1]]) & (np.diff(flight, prepend=-1) == 0))
    run = np.cumsum(fresh) - 1
    reaches = np.zeros(int(run[-1]) + 2 if len(run) else 1, bool)
    reaches[run[above & (value > bounds[1])]] = True
    return np.asarray(above & reaches[run])
