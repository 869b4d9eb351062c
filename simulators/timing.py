"""When a rotating beam meets a moving target.

The beam points north at the times n_k and turns evenly in between; a plot is made at the time t when the beam's azimuth
equals the target's own azimuth at that same t (the "time of detection" of I048/140).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.trajectory import Paths, horner, horner_slope

TWO_PI = 2.0 * np.pi
CONVERGED_S = 1e-7  # Newton's next step is then below 1e-12 s
JITTER_CLIP = 4.0
_PAGE = 1024


@dataclass(frozen=True)
class Crossings:
    """Meetings of beam and target, ordered by flight and time: each column (n,), `enu_m` (3, n) at the radar."""

    flight: Ints
    piece: Ints
    time_s: Floats
    enu_m: Floats


def north_times(
    period_s: float, north_time_s: float, jitter: float, page_rng: Callable[[int], np.random.Generator], numbers: Ints
) -> Floats:
    """Times at which the beam points north, for rotation numbers (n,); number 0 is at `north_time_s`.

    Each is off by a normal deviate of `jitter` periods, cut at 4 sigma so that time never runs back; a number's deviate
    comes from the generator of its page, so that it does not depend on which numbers are asked for.
    """
    nominal = north_time_s + period_s * numbers
    if jitter == 0.0 or len(numbers) == 0:
        return np.asarray(nominal, float)
    pages = numbers // _PAGE
    deviate = np.concatenate([page_rng(int(p)).standard_normal(_PAGE) for p in range(pages[0], pages[-1] + 1)])
    chosen = deviate[numbers - pages[0] * _PAGE]
    return np.asarray(nominal + jitter * period_s * np.clip(chosen, -JITTER_CLIP, JITTER_CLIP), float)


def beam_azimuth(time_s: Floats, north_s: Floats) -> Floats:
    """Azimuth of the beam in [0, 2π) at times inside the rotations bounded by `north_s` (ascending)."""
    k = np.clip(np.searchsorted(north_s, time_s, "right") - 1, 0, len(north_s) - 2)
    return TWO_PI * ((time_s - north_s[k]) / (north_s[k + 1] - north_s[k]) % 1.0)


def beam_time(azimuth_rad: Floats, scan: Ints, north_s: Floats) -> Floats:
    """Time at which the beam points to an azimuth during rotation `scan` of `north_s`."""
    return north_s[scan] + azimuth_rad / TWO_PI * (north_s[scan + 1] - north_s[scan])


def crossings(paths: Paths, enu: Floats, north_s: Floats, azimuth_before: Floats) -> tuple[Crossings, Floats]:
    """All meetings in (north_s[0], north_s[-1]] and each flight's unwrapped azimuth (F,) at the last of these.

    With A the target's azimuth, unwrapped, and B the beam's, a meeting is B − A = 2πm. B − A rises as long as the
    target turns about the radar slower than the beam, so each m is met once; counting the m's between successive north
    times gives none, one or two meetings per rotation, and none is lost or found twice at north. `azimuth_before` (F,)
    is what this function gave for the rotations before (NaN: none), so that this holds across calls.
    A target almost overhead, whose azimuth moves over half a turn in one rotation, may be missed.

    Args:
        paths: flights whose pieces reach over all of `north_s` that they are in the air for.
        enu: their position polynomials (6, 3, I) in the radar's east-north-up axes.
        north_s: times of north (S + 1,).
        azimuth_before: (F,), rad.
    """
    flights, scans = len(paths.start_s), len(north_s) - 1
    flight, when = np.repeat(np.arange(flights), scans + 1), np.tile(north_s, flights)
    piece = paths.locate(flight, when)
    east, north = horner(enu[:, :2].take(piece, 2), when - paths.time_s[piece])
    azimuth = np.unwrap(np.arctan2(east, north).reshape(flights, scans + 1), axis=1)
    known = np.isfinite(azimuth_before)
    shift = TWO_PI * np.round((azimuth_before - azimuth[:, 0]) / TWO_PI)
    azimuth += np.where(known, shift, 0.0)[:, None]
    azimuth[:, 0] = np.where(known, azimuth_before, azimuth[:, 0])
    turns = np.floor(-azimuth / TWO_PI)
    number = np.clip(1 + np.diff(turns, axis=1), 0, 2).astype(int).ravel()
    cell = np.repeat(np.arange(flights * scans), number)
    nth = np.arange(len(cell)) - np.repeat(np.cumsum(number) - number, number)
    flight, scan = cell // scans, cell % scans
    before, after = azimuth[flight, scan], azimuth[flight, scan + 1]
    gone = (TWO_PI * (turns[flight, scan] + 1 + nth) + before) / (TWO_PI - after + before)
    guess = north_s[scan] + gone * (north_s[scan + 1] - north_s[scan])
    return _solved(paths, enu, flight, scan, guess, north_s), azimuth[:, -1]


def _solved(paths: Paths, enu: Floats, flight: Ints, scan: Ints, guess: Floats, north_s: Floats) -> Crossings:
    """Newton's method on B(t) − A(t) = 0 (mod 2π), for as long as any is still moving."""
    time_s, position = guess.copy(), np.empty((3, len(guess)))
    piece = np.zeros(len(guess), int)
    north, turn_rate = north_s[scan], TWO_PI / (north_s[scan + 1] - north_s[scan])
    todo = np.arange(len(guess))
    for _ in range(10):
        if len(todo) == 0:
            break
        t, j = time_s[todo], paths.locate(flight[todo], time_s[todo])
        since, c = t - paths.time_s[j], enu.take(j, 2)
        p, v = horner(c, since), horner_slope(c, since)
        ground2 = np.maximum(p[0] ** 2 + p[1] ** 2, 1e-6)
        rate = (p[1] * v[0] - p[0] * v[1]) / ground2
        beam = turn_rate[todo]
        error = wrapped_angle(beam * (t - north[todo]) - np.arctan2(p[0], p[1]))
        step = -error / np.maximum(beam - rate, 0.1 * beam)
        time_s[todo], piece[todo] = t + step, j
        position[:, todo] = p + v * step
        todo = todo[np.abs(step) > CONVERGED_S]
    good = np.ones(len(guess), bool)
    good[todo] = False
    return Crossings(flight[good], piece[good], time_s[good], position[:, good])
