"""Aircraft paths over the WGS84 ellipsoid, as smooth pieces.

With bank angle, ground speed V and rate of climb w given in time (legs.py), the motion
    φ' = V cos χ / (M + h),  λ' = V sin χ / ((N + h) cos φ),  h' = w,  χ' = g tan(bank) / V + V sin χ tan φ / (N + h)
is integrated in geodetic latitude φ, longitude λ, height h and track χ with M, N the radii of curvature (Groves 2013,
eq. 2.105, 2.106, 2.111). The last term makes a leg without bank a geodesic of the surface at height h, which is the
straight line that a tracker should see: constant track would bend. The result is quintic polynomials in ECEF.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.errors import ScenarioError
from ssrtrack.simulators.legs import Floats, Ints, Legs, Limits, Pair, Schedules, Start, schedules
from ssrtrack.simulators.trajectory_motion import SHARES, WEIGHTS, Motion, frames, motion, steps
from ssrtrack.simulators.trajectory_pieces import MERGE_S, cut
from ssrtrack.simulators.turbulence import gust_motion, white_push
from ssrtrack.units import G_MPS2

__all__ = ["MERGE_S", "Paths", "fly", "horner", "horner_slope"]

MIN_SPEED_MPS = 20.0  # what turbulence leaves of the ground speed
MAX_LATITUDE_RAD = np.radians(88.0)


@dataclass(frozen=True)
class Paths:
    """Flown paths of F flights as I pieces, ordered by flight and time; `first` (F + 1,) bounds each flight's pieces.

    `ecef` (6, 3, I) holds position polynomials in seconds since the piece began, lowest power first. `scalars` (10, I)
    holds h, w, w', V, V', bank, bank', χ, χ', χ'' at its beginning. A piece with `row` starts where a law changes, and
    has a truth row there; `phase` is the Phase bits.
    """

    start_s: Floats
    end_s: Floats
    first: Ints
    time_s: Floats
    length_s: Floats
    ecef: Floats
    scalars: Floats
    phase: NDArray[np.uint8]
    row: NDArray[np.bool_]

    def pieces_of(self) -> Ints:
        """Flight index of each piece (I,)."""
        return np.repeat(np.arange(len(self.start_s)), np.diff(self.first))

    def take(self, flights: Ints) -> Self:
        """Some of the flights, in the order given."""
        counts = np.diff(self.first)[flights]
        first = np.concatenate([[0], np.cumsum(counts)])
        pieces = np.repeat(self.first[flights] - first[:-1], counts) + np.arange(first[-1])
        return type(self)(
            self.start_s[flights], self.end_s[flights], first, *(a[..., pieces] for a in self._per_piece())
        )

    def near(self, flights: Ints, begin_s: float, end_s: float) -> Self:
        """Some flights (ascending) with only those pieces that touch a time window, which each flight must touch."""
        kept = np.zeros(len(self.start_s), bool)
        kept[flights] = True
        # One second more: a flight's last piece may end a hair before the flight does.
        mine = kept[self.pieces_of()] & (self.time_s <= end_s + 1.0)
        mine &= self.time_s + self.length_s >= begin_s - 1.0
        first, pieces = np.concatenate([[0], np.cumsum(mine)])[self.first], np.flatnonzero(mine)
        return type(self)(
            self.start_s[flights], self.end_s[flights], np.append(first[flights], len(pieces)),
            *(a.take(pieces, -1) for a in self._per_piece()),
        )  # fmt: skip

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Flights of several sets, one after the other."""
        offsets = np.cumsum([0] + [int(p.first[-1]) for p in parts])
        first = np.concatenate([[0]] + [p.first[1:] + o for p, o in zip(parts, offsets, strict=False)])
        names = [f.name for f in fields(cls) if f.name != "first"]
        columns = {n: np.concatenate([getattr(p, n) for p in parts], -1) for n in names}
        return cls(first=first, **columns)

    def _per_piece(self) -> tuple[Any, ...]:
        return self.time_s, self.length_s, self.ecef, self.scalars, self.phase, self.row

    def locate(self, flight: Ints, time_s: Floats) -> Ints:
        """Piece that holds each time of each flight; the first or last one for times outside the flight."""
        low = float(self.time_s.min())
        span = 2.0 ** np.ceil(np.log2(float((self.time_s + self.length_s).max()) - low + 120.0))
        key = self.pieces_of() * span + (self.time_s - low)
        found = np.searchsorted(key, flight * span + np.clip(time_s - low, 0.0, span - 1.0), "right") - 1
        return np.asarray(np.clip(found, self.first[flight], self.first[flight + 1] - 1))

    def motion(self, piece: Ints, time_s: Floats) -> Pair:
        """ECEF position in m and velocity in m/s, (3, n) each."""
        c, t = self.ecef.take(piece, 2), time_s - self.time_s[piece]
        return horner(c, t), horner_slope(c, t)

    def state(self, piece: Ints, time_s: Floats) -> dict[str, Floats]:
        """Height, rates, speed, bank and track at times, by name, in SI."""
        s, t = self.scalars.take(piece, 1), time_s - self.time_s[piece]
        return {
            "height_m": s[0] + t * (s[1] + 0.5 * t * s[2]),
            "climb_mps": s[1] + t * s[2],
            "speed_mps": s[3] + t * s[4],
            "bank_rad": s[5] + t * s[6],
            "track_rad": s[7] + t * (s[8] + 0.5 * t * s[9]),
            "track_rate_radps": s[8] + t * s[9],
        }


def horner(c: Floats, t: Floats) -> Floats:
    """Values (m, n) of polynomials c (6, m, n) at t (n,)."""
    value: Floats = c[5] * t
    for i in (4, 3, 2, 1):
        value += c[i]
        value *= t
    value += c[0]
    return value


def horner_slope(c: Floats, t: Floats) -> Floats:
    """Derivatives (m, n) of polynomials c (6, m, n) at t (n,)."""
    value: Floats = 5.0 * c[5]
    for i in (4, 3, 2, 1):
        value *= t
        value += i * c[i]
    return value


def fly(legs: Legs | Schedules, start: Start, limits: Limits, rngs: list[np.random.Generator]) -> Paths:
    """Paths of F flights that fly legs, or schedules; `rngs` (one per flight) are used only where there is turbulence.

    Raises:
        ScenarioError: a path comes within 2 degrees of a pole.
    """
    plan = legs if isinstance(legs, Schedules) else schedules(legs, start, limits)
    p = cut(plan, start, limits)
    counts = np.bincount(p.flight, minlength=len(start.time_s))
    first = np.concatenate([[0], np.cumsum(counts)])
    slot = (np.arange(len(p.flight)) - first[p.flight], p.flight)
    length, (b0, b1), (w0, w1) = p.length_s, p.bank_rad, p.climb_mps
    height = _running(0.5 * (w0 + w1) * length, counts, slot, start.height_m)
    push: tuple[Floats | float, Floats | float] = (0.0, 0.0)
    if limits.gusts == "none" and limits.turbulent:
        push = white_push(limits, counts, p, rngs)
    gain = _running(push[0] * length, counts, slot, np.zeros(len(counts)))
    drift: Floats | float = 0.0
    if limits.gusts != "none":
        planned = length * _mean(_turn_rates(p.bank_rad, p.speed_mps, p.speed_mps, 0.0, 0.0))
        gain, drift = gust_motion(limits, counts, p, height[0], planned, rngs)
    speed = np.maximum(p.speed_mps + gain, MIN_SPEED_MPS)
    # In gusts a turn is flown at the rate that was planned: the pilot corrects the bank for the gust's speed.
    turn = _turn_rates(p.bank_rad, p.speed_mps if limits.gusts != "none" else speed, speed, push[1], drift)
    ends = frames(start, counts, slot, steps(length, height, p.climb_mps, speed, turn))
    if np.abs(ends[1][0, 2]).max() > np.sin(MAX_LATITUDE_RAD):
        raise ScenarioError(
            f"an aircraft flies to latitude {np.degrees(np.arcsin(np.abs(ends[1][0, 2]).max())):.1f} deg; paths must "
            "stay within 88 deg of the equator, as geodetic coordinates fail at the poles"
        )
    slopes = (speed[1] - speed[0]) / length, (w1 - w0) / length
    begin, end = (motion(ends[k], height[k], speed[k], p.climb_mps[k], turn[2 * k], *slopes) for k in (0, 1))
    chi = begin.track_rate_radps
    scalars = [
        height[0], w0, slopes[1], speed[0], slopes[0], b0, (b1 - b0) / length, begin.track_rad, chi,
        (end.track_rate_radps - chi) / length,
    ]  # fmt: skip
    phase = (
        Phase.TURN * ((b0 != 0) | (b1 != 0))
        + Phase.CLIMB * ((w0 != 0) | (w1 != 0))
        + Phase.SPEED_CHANGE * (p.speed_mps[0] != p.speed_mps[1])
    )
    return Paths(
        start.time_s, start.end_s, first, start.time_s[p.flight] + p.time_s, length, _quintic(begin, end, length),
        np.stack(scalars), phase.astype(np.uint8), p.row,
    )  # fmt: skip


def _running(step: Floats, counts: Ints, slot: tuple[Ints, Ints], initial: Floats) -> Floats:
    """Running sums of `step` (I,) per flight, before and after each piece, as (2, I).

    Flights are summed beside one another, not on from one to the next, so that none changes another's last bits.
    """
    table = np.zeros((int(counts.max()) + 1, len(counts)))
    table[0] = initial
    table[slot[0] + 1, slot[1]] = step
    table = np.cumsum(table, 0)
    return np.stack([table[slot], table[slot[0] + 1, slot[1]]])


def _turn_rates(
    bank: Floats, planned: Floats, speed: Floats, push: Floats | float, drift: Floats | float
) -> list[Floats]:
    """g tan(bank) / V planned + push / V + drift at the beginning, middle and end of each piece.

    Bank and speeds are those at its ends (2, I).

    The middle is such that the quadratic through the three turns by the integral: an error of the track angle would
    grow into one of position for the rest of the flight.
    """

    def rate(share: float) -> Floats:
        b, planned_v, v = (ends[0] + share * (ends[1] - ends[0]) for ends in (bank, planned, speed))
        return np.asarray(G_MPS2 * np.tan(b) / planned_v + push / v + drift)

    mean = sum(weight * rate(share) for share, weight in zip(SHARES, WEIGHTS, strict=True))
    begin, end = rate(0.0), rate(1.0)
    return [begin, np.asarray((6.0 * mean - begin - end) / 4.0), end]


def _mean(rates: list[Floats]) -> Floats:
    """Mean over each piece of the quadratic through the three rates: Simpson's rule."""
    begin, middle, end = rates
    return (begin + 4.0 * middle + end) / 6.0


def _quintic(begin: Motion, end: Motion, length: Floats) -> Floats:
    """Polynomials (6, 3, n) with the given position, velocity and acceleration at both ends."""
    t = length
    (p0, v0, a0), (p1, v1, a1) = ((m.position, m.velocity, m.acceleration) for m in (begin, end))
    gap = p1 - p0 - v0 * t - 0.5 * a0 * t**2
    dv, da = (v1 - v0 - a0 * t) * t, (a1 - a0) * t**2
    c3 = (10.0 * gap - 4.0 * dv + 0.5 * da) / t**3
    c4 = (-15.0 * gap + 7.0 * dv - da) / t**4
    c5 = (6.0 * gap - 3.0 * dv + 0.5 * da) / t**5
    return np.stack([p0, v0, 0.5 * a0, c3, c4, c5])
