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
from ssrtrack.geodesy import A_M, E2, enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.legs import Floats, Ints, Legs, Limits, Pair, Schedules, Start, schedules
from ssrtrack.units import G_MPS2

MAX_STEP_S = 60.0
MAX_ROLLING_STEP_S = 2.5
MAX_TURN_STEP_RAD = 0.16  # the step then errs by about 4e-4 m at 250 m/s, 1 deg/s
MERGE_S = 1e-6  # knots nearer than this are one
_GAUSS = np.polynomial.legendre.leggauss(4)
_SHARES, _WEIGHTS = (0.5 + 0.5 * _GAUSS[0]).tolist(), (0.5 * _GAUSS[1]).tolist()
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

    def window(self, begin_s: float, end_s: float) -> Self:
        """The same flights with only those pieces that touch a time window; every flight must touch it."""
        # One second more: a flight's last piece may end a hair before the flight does.
        keep = (self.time_s <= end_s + 1.0) & (self.time_s + self.length_s >= begin_s - 1.0)
        first = np.concatenate([[0], np.cumsum(keep)])[self.first]
        return type(self)(self.start_s, self.end_s, first, *(a[..., keep] for a in self._per_piece()))

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
    flight, time, length, row, law = _pieces(plan, start, limits)
    key = _Key(plan, float((start.end_s - start.time_s).max()))
    ends = [key.values(flight, time), key.values(flight, time + length)]
    counts = np.bincount(flight, minlength=len(start.time_s))
    first = np.concatenate([[0], np.cumsum(counts)])
    push = _turbulence(limits, counts, first, length, law, rngs)
    gain = _running(push[0] * length, first, np.zeros(len(counts)))
    v0 = np.maximum(ends[0][1] + gain[0], MIN_SPEED_MPS)
    v1 = np.maximum(ends[1][1] + gain[1], MIN_SPEED_MPS)
    (b0, _, w0), (b1, _, w1) = ends
    h0, h1 = _running(0.5 * (w0 + w1) * length, first, start.height_m)
    vm, hm = 0.5 * (v0 + v1), h0 + length * (0.375 * w0 + 0.125 * w1)
    turn = _turn_rates(b0, b1, v0, v1, push[1])
    slot = (np.arange(len(time)) - first[flight], flight)
    at0, at1 = _integrate(start, counts, slot, length, [h0, hm, h1], [v0, vm, v1], turn)
    if np.abs(at1[0]).max() > MAX_LATITUDE_RAD:
        raise ScenarioError(
            f"an aircraft flies to latitude {np.degrees(np.abs(at1[0]).max()):.1f} deg; paths must stay within "
            "88 deg of the equator, as geodetic coordinates fail at the poles"
        )
    slopes = (v1 - v0) / length, (w1 - w0) / length
    begin = _motion(at0, h0, v0, w0, turn[0], *slopes)
    end = _motion(at1, h1, v1, w1, turn[2], *slopes)
    chi0, chi1 = begin[3], end[3]
    scalars = [h0, w0, slopes[1], v0, slopes[0], b0, (b1 - b0) / length, at0[2], chi0, (chi1 - chi0) / length]
    phase = (
        Phase.TURN * ((b0 != 0) | (b1 != 0))
        + Phase.CLIMB * ((w0 != 0) | (w1 != 0))
        + Phase.SPEED_CHANGE * (ends[0][1] != ends[1][1])
    )
    coefficients = _quintic(begin[:3], end[:3], length)
    absolute = start.time_s[flight] + time
    return Paths(
        start.time_s, start.end_s, first, absolute, length, coefficients, np.stack(scalars),
        phase.astype(np.uint8), row,
    )  # fmt: skip


class _Key:
    """Interpolates all flights' schedules at once: one np.interp over times shifted by a span per flight."""

    def __init__(self, plan: Schedules, longest_s: float) -> None:
        self.channels = (plan.bank, plan.speed, plan.climb)
        latest = max(float(times.max()) for times, _ in self.channels)
        self.span = 2.0 ** np.ceil(np.log2(max(latest, longest_s) + 1.0))

    def values(self, flight: Ints, time: Floats) -> list[Floats]:
        """Bank, speed and climb (n,) of flights at times since their start."""
        offsets = np.arange(len(self.channels[0][0]))[:, None] * self.span
        at = flight * self.span + time
        out = []
        for times, values in self.channels:
            # A last knot just before the next flight's first holds the final value until then.
            x = np.concatenate([times, np.full((len(times), 1), self.span * (1.0 - 1e-9))], 1) + offsets
            y = np.concatenate([values, values[:, -1:]], 1)
            out.append(np.interp(at, x.ravel(), y.ravel()))
        return out


def _pieces(plan: Schedules, start: Start, limits: Limits) -> tuple[Ints, Floats, Floats, NDArray[np.bool_], Ints]:
    """Flight, start and length of every integration step, whether it starts at a law's change, and which law it is."""
    span = (start.end_s - start.time_s)[:, None]
    parts = [plan.bank[0], plan.speed[0], plan.climb[0], np.zeros_like(span), span]
    if limits.turbulence_psd > 0:
        step = limits.truth_step_s
        lead = np.ceil(start.time_s / step)[:, None] * step - start.time_s[:, None]
        parts.append(lead + step * np.arange(int(span.max() / step) + 1))
    times = np.sort(np.clip(np.concatenate(parts, 1), 0.0, span), 1)
    keep = np.diff(times, axis=1, prepend=-1.0) > MERGE_S
    flight, column = np.nonzero(keep)
    knot = times[flight, column]
    same = flight[1:] == flight[:-1]
    flight, begin, length = flight[:-1][same], knot[:-1][same], np.diff(knot)[same]
    values = _Key(plan, float(span.max()))
    (b0, v0, _), (b1, v1, _) = values.values(flight, begin), values.values(flight, begin + length)
    turning = G_MPS2 * np.tan(np.maximum(abs(b0), abs(b1))) / np.minimum(v0, v1)
    number = np.maximum(length / MAX_STEP_S, turning * length / MAX_TURN_STEP_RAD)
    number = np.ceil(np.where(b0 == b1, number, np.maximum(number, length / MAX_ROLLING_STEP_S))).astype(int)
    law = np.repeat(np.arange(len(number)), number)
    nth = np.arange(len(law)) - np.repeat(np.cumsum(number) - number, number)
    step_s = (length / number)[law]
    return flight[law], begin[law] + nth * step_s, step_s, nth == 0, law


def _turbulence(
    limits: Limits, counts: Ints, first: Ints, length: Floats, law: Ints, rngs: list[np.random.Generator]
) -> Pair:
    """Acceleration along and across the track in each piece, constant within a law: variance PSD / duration."""
    if limits.turbulence_psd == 0:
        return np.zeros_like(length), np.zeros_like(length)
    starts = law[first[:-1]]
    laws = np.diff(np.append(starts, law[-1] + 1))
    normal = np.concatenate([rng.standard_normal((n, 2)) for rng, n in zip(rngs, laws, strict=True)])
    duration = np.bincount(law, length)
    push = (normal * np.sqrt(limits.turbulence_psd / duration)[:, None])[law]
    return push[:, 0], push[:, 1]


def _running(step: Floats, first: Ints, initial: Floats) -> Pair:
    """Running sums of `step` per flight, before and after each piece."""
    total = np.cumsum(step)
    before = np.where(first[:-1] > 0, total[np.maximum(first[:-1] - 1, 0)], 0.0)
    shift = np.repeat(initial - before, np.diff(first))
    after = total + shift
    return after - step, after


def _turn_rates(b0: Floats, b1: Floats, v0: Floats, v1: Floats, push: Floats) -> list[Floats]:
    """(g tan(bank) + push) / V at the beginning, middle and end of each piece.

    The middle is such that Simpson's rule, which Runge-Kutta uses, turns by the integral: an error of the track angle
    would grow into one of position for the rest of the flight.
    """

    def rate(share: float) -> Floats:
        bank, speed = b0 + share * (b1 - b0), v0 + share * (v1 - v0)
        return np.asarray((G_MPS2 * np.tan(bank) + push) / speed)

    mean = sum(weight * rate(share) for share, weight in zip(_SHARES, _WEIGHTS, strict=True))
    begin, end = rate(0.0), rate(1.0)
    return [begin, np.asarray((6.0 * mean - begin - end) / 4.0), end]


def _integrate(
    start: Start, counts: Ints, slot: tuple[Ints, Ints], length: Floats, h: list[Floats], v: list[Floats],
    turn: list[Floats],
) -> Pair:  # fmt: skip
    """Latitude, longitude and track (3, n) at both ends of every piece: Runge-Kutta 4, all flights abreast."""
    shape = (int(counts.max()), len(counts))

    def padded(values: Floats) -> Floats:
        out = np.zeros(shape)
        out[slot] = values
        return out

    controls = [(padded(a), padded(b), padded(c)) for a, b, c in zip(h, v, turn, strict=True)]
    (h0, v0, r0), (hm, vm, rm), (h1, v1, r1) = controls
    steps = padded(length)
    states = np.empty((shape[0] + 1, 3, shape[1]))
    states[0] = start.latitude_rad, start.longitude_rad, start.track_rad
    for k in range(shape[0]):
        x, dt = states[k], steps[k]
        k1 = _rates(x, h0[k], v0[k], r0[k])
        k2 = _rates(x + (0.5 * dt) * k1, hm[k], vm[k], rm[k])
        k3 = _rates(x + (0.5 * dt) * k2, hm[k], vm[k], rm[k])
        k4 = _rates(x + dt * k3, h1[k], v1[k], r1[k])
        states[k + 1] = x + (dt / 6.0) * (k1 + 2.0 * (k2 + k3) + k4)
    index, flight = slot
    return states[index, :, flight].T, states[index + 1, :, flight].T


def _rates(x: Floats, h: Floats, v: Floats, turn: Floats) -> Floats:
    """Time derivatives (3, F) of latitude, longitude and track, with h, v and the turn rate (F,) given."""
    sines, cosines = np.sin(x), np.cos(x)
    w2 = 1.0 - E2 * sines[0] ** 2
    n = A_M / np.sqrt(w2)
    out = np.empty_like(x)
    out[0] = v * cosines[2] / (n * ((1.0 - E2) / w2) + h)
    out[1] = v * sines[2] / ((n + h) * cosines[0])
    out[2] = turn + out[1] * sines[0]
    return out


def _motion(
    place: Floats, h: Floats, v: Floats, w: Floats, turn: Floats, dv: Floats, dw: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """ECEF position, velocity and acceleration (3, n), and the rate of the track angle; `place` is φ, λ, χ (3, n)."""
    lat, lon, chi = place
    s, c, tan_lat = np.sin(chi), np.cos(chi), np.tan(lat)
    w2 = 1.0 - E2 * np.sin(lat) ** 2
    n = A_M / np.sqrt(w2)
    north_rate, east_rate = v * c / (n * (1.0 - E2) / w2 + h), v * s / (n + h)
    chi_rate = turn + east_rate * tan_lat
    velocity = np.stack([v * s, v * c, w])
    change = np.stack([dv * s + v * c * chi_rate, dv * c - v * s * chi_rate, dw])
    frame = np.stack([-north_rate, east_rate, east_rate * tan_lat])
    acceleration = change + np.cross(frame, velocity, axis=0)
    axes = enu_rotation(lat, lon)
    to_ecef = [np.einsum("nij,in->jn", axes, vector) for vector in (velocity, acceleration)]
    return geodetic_to_ecef(lat, lon, h).T, to_ecef[0], to_ecef[1], chi_rate


def _quintic(begin: tuple[Floats, ...], end: tuple[Floats, ...], length: Floats) -> Floats:
    """Polynomials (6, 3, n) with the given position, velocity and acceleration at both ends."""
    t = length
    (p0, v0, a0), (p1, v1, a1) = begin, end
    gap = p1 - p0 - v0 * t - 0.5 * a0 * t**2
    dv, da = (v1 - v0 - a0 * t) * t, (a1 - a0) * t**2
    c3 = (10.0 * gap - 4.0 * dv + 0.5 * da) / t**3
    c4 = (-15.0 * gap + 7.0 * dv - da) / t**4
    c5 = (6.0 * gap - 3.0 * dv + 0.5 * da) / t**5
    return np.stack([p0, v0, 0.5 * a0, c3, c4, c5])
