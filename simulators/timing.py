"""When a rotating beam meets a moving target.

The beam points north at the times n_k and turns evenly in between; a plot is made at the time t when the beam's azimuth
equals the target's own azimuth at that same t (the "time of detection" of I048/140).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssrtrack.geodesy import enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.draws import NO_FLIGHT, normals
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.schema_effects import Wobble
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.trajectory import Paths, horner, horner_slope
from ssrtrack.units import DEG_RAD

TWO_PI = 2.0 * np.pi
CONVERGED_S = 1e-9  # what may be left of the error of a time
MAX_ACCELERATION_MPS2 = 60.0
JITTER_CLIP = 4.0


def to_enu(ecef: Floats, site: tuple[float, float, float]) -> Floats:
    """Position polynomials (6, 3, I) in a site's east-north-up axes from those in ECEF."""
    shifted = ecef.copy()
    shifted[0] -= geodetic_to_ecef(*site)[:, None]
    return np.asarray(np.einsum("ij,kjn->kin", enu_rotation(site[0], site[1]), shifted))


def turned(angle_rad: Floats) -> Floats:
    """Angles in [0, 2π], where 2π is what a tiny negative one rounds to; three times as fast as a modulo."""
    return np.asarray(np.maximum(angle_rad - TWO_PI * np.floor(angle_rad / TWO_PI), 0.0))


@dataclass(frozen=True)
class Crossings:
    """Meetings of beam and target, ordered by flight and time: each column (n,), `enu_m` (3, n) at the radar.

    `scan` is the rotation, counted from the first; `second` tells a flight's second meeting in one rotation.
    """

    flight: Ints
    piece: Ints
    scan: Ints
    second: Ints
    time_s: Floats
    enu_m: Floats


def north_times(spec: RadarSpec, seed: int, radar_id: int, numbers: Ints) -> Floats:
    """Times at which the beam points north, for rotation numbers (n,); number 0 is at `north_time_s`.

    Each is off by a normal deviate of `rotation_jitter` periods, cut at 4 sigma so that time never runs back.
    """
    nominal = spec.north_time_s + spec.rotation_period_s * numbers
    if spec.rotation_jitter == 0.0:
        return np.asarray(nominal, float)
    who = np.broadcast_to(np.array(NO_FLIGHT), (len(numbers), 3))
    deviate = normals(seed, "rotation", radar_id, who, numbers)[0]
    spread = spec.rotation_jitter * spec.rotation_period_s
    return np.asarray(nominal + spread * np.clip(deviate, -JITTER_CLIP, JITTER_CLIP), float)


def rotations(spec: RadarSpec, seed: int, radar_id: int, begin_s: float, end_s: float) -> tuple[int, Floats]:
    """Number of the first rotation that begins in [begin_s, end_s), and the norths of all of them and of the next.

    The rotations are the same however time is cut. Empty if none begins there.
    """
    # Two rotations more on either side than without jitter, which moves a north by 4 % of a period at most.
    first, last = (int(np.floor((t - spec.north_time_s) / spec.rotation_period_s)) for t in (begin_s, end_s))
    numbers = np.arange(first - 2, last + 3)
    norths = north_times(spec, seed, radar_id, numbers)
    low, high = np.searchsorted(norths, [begin_s, end_s])
    return int(numbers[low]), norths[low : high + 1] if high > low else norths[:0]


def phase(wobble: Wobble, azimuth_rad: Floats) -> Floats:
    """2π times the share of a rotation that has passed when the beam points to an azimuth, unwrapped like it.

    The rate of turn is 2π / (T (1 − a cos(az − φ))), so this is az − a (sin(az − φ) + sin φ): north stays north.
    """
    if wobble.amplitude == 0.0:
        return azimuth_rad
    top = wobble.azimuth_deg * DEG_RAD
    return np.asarray(azimuth_rad - wobble.amplitude * (np.sin(azimuth_rad - top) + np.sin(top)))


def beam_time(azimuth_rad: Floats, scan: Ints, north_s: Floats, wobble: Wobble) -> Floats:
    """Time at which the beam points to an azimuth in [0, 2π) during rotation `scan` of `north_s`."""
    return np.asarray(north_s[scan] + phase(wobble, azimuth_rad) / TWO_PI * (north_s[scan + 1] - north_s[scan]))


def beam_azimuth(time_s: Floats, north_s: Floats, wobble: Wobble) -> Floats:
    """Azimuth of the beam in [0, 2π) at times inside the rotations bounded by `north_s` (ascending)."""
    k = np.clip(np.searchsorted(north_s, time_s, "right") - 1, 0, len(north_s) - 2)
    turned = TWO_PI * ((time_s - north_s[k]) / (north_s[k + 1] - north_s[k]) % 1.0)
    azimuth = turned.copy()
    for _ in range(12 if wobble.amplitude else 0):  # a fixed-point step gains a factor 1/amplitude
        azimuth += turned - phase(wobble, azimuth)
    return np.asarray(azimuth % TWO_PI)


def crossings(paths: Paths, enu: Floats, north_s: Floats, wobble: Wobble) -> Crossings:
    """All meetings in (north_s[0], north_s[-1]].

    With A the target's azimuth (its `phase`), unwrapped, and B the beam's, a meeting is B − A = 2πm. B − A rises as
    long as the target turns about the radar slower than the beam, so each m is met once; counting the m's between
    successive north times gives none, one or two meetings per rotation. A is held as a principal value and a whole
    number of turns, so that the count at a north is the same in the call that ends there as in that which begins
    there: none is lost or found twice. A target almost overhead, whose azimuth moves over half a turn in one rotation,
    may be missed.

    Args:
        paths: flights whose pieces reach over all of `north_s` that they are in the air for.
        enu: their position polynomials (6, 3, I) in the radar's east-north-up axes.
        north_s: times of north (S + 1,).
        wobble: how unevenly the beam turns in between.
    """
    flights, scans = len(paths.start_s), len(north_s) - 1
    if flights == 0:
        none = np.empty(0, int)
        return Crossings(none, none, none, none, np.empty(0), np.empty((3, 0)))
    flight, when = np.repeat(np.arange(flights), scans + 1), np.tile(north_s, flights)
    piece = paths.locate(flight, when)
    east, north = horner(enu[:, :2].take(piece, 2), when - paths.time_s[piece])
    azimuth = phase(wobble, np.arctan2(east, north)).reshape(flights, scans + 1)
    before, after = azimuth[:, :-1], azimuth[:, 1:]
    wound = np.round((before - after) / TWO_PI)  # the turns to add to `after` for the way from `before` to be short
    passed = np.floor(-before / TWO_PI)
    number = np.clip(1 + np.floor(-after / TWO_PI) - wound - passed, 0, 2).astype(int).ravel()
    cell = np.repeat(np.arange(flights * scans), number)
    second = np.arange(len(cell)) - np.repeat(np.cumsum(number) - number, number)
    flight, scan = cell // scans, cell % scans
    low, high = before.ravel()[cell], (after + TWO_PI * wound).ravel()[cell]
    gone = (TWO_PI * (passed.ravel()[cell] + 1 + second) + low) / (TWO_PI - high + low)
    guess = north_s[scan] + gone * (north_s[scan + 1] - north_s[scan])
    return _solved(paths, enu, (flight, scan, second), guess, north_s, wobble)


def _solved(
    paths: Paths, enu: Floats, cell: tuple[Ints, Ints, Ints], guess: Floats, north_s: Floats, wobble: Wobble
) -> Crossings:
    """Newton's method on B(t) − A(t) = 0 (mod 2π), for as long as any may still be off."""
    flight, scan, second = cell
    time_s, piece, position = guess.copy(), np.zeros(len(guess), int), np.empty((3, len(guess)))
    north, turn_rate = north_s[scan], TWO_PI / (north_s[scan + 1] - north_s[scan])
    todo: Any = slice(None)
    for _ in range(10):
        t, beam = time_s[todo], turn_rate[todo]
        if len(t) == 0:
            break
        j = paths.locate(flight[todo], t)
        since, c = t - paths.time_s[j], enu.take(j, 2)
        p, v = horner(c, since), horner_slope(c, since)
        (east, north_m, _), (v_east, v_north, _) = p, v
        distance2 = np.maximum(east * east + north_m * north_m, 1e-6)
        azimuth, rate = np.arctan2(east, north_m), (north_m * v_east - east * v_north) / distance2
        # The azimuth's second derivative, with the aircraft's acceleration at its most, bounds what Newton leaves.
        speed2 = v_east * v_east + v_north * v_north
        bend = MAX_ACCELERATION_MPS2 / np.sqrt(distance2) + 2.0 * speed2 / distance2
        if wobble.amplitude:
            rate *= 1.0 - wobble.amplitude * np.cos(azimuth - wobble.azimuth_deg * DEG_RAD)
            bend = 1.1 * bend + wobble.amplitude * speed2 / distance2
        closing = np.maximum(beam - rate, 0.1 * beam)
        error = beam * (t - north[todo]) - phase(wobble, azimuth)
        step = (TWO_PI * np.round(error / TWO_PI) - error) / closing
        time_s[todo], piece[todo] = t + step, j
        position[:, todo] = p + v * step  # the rest is under a millimetre: half of acceleration times step squared
        moving = np.where(closing > beam - rate, np.abs(step), 0.5 * bend * step * step / closing) > CONVERGED_S
        todo = np.flatnonzero(moving) if isinstance(todo, slice) else todo[moving]
    good = np.ones(len(guess), bool)
    good[todo] = False
    rows = np.flatnonzero(good)
    return Crossings(
        flight.take(rows), piece.take(rows), scan.take(rows), second.take(rows), time_s.take(rows),
        position.take(rows, 1),
    )  # fmt: skip
