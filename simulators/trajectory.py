"""Aircraft paths over the WGS84 ellipsoid: legs → schedules of bank, speed and climb → exact motion → smooth pieces.

A leg asks for a turn, a climb, a speed change or any of them together. Bank angle, ground speed V and rate of climb w
become piecewise-linear functions of time (roll rate and accelerations are limited), and the motion
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
from ssrtrack.geodesy import A_M, E2, enu_rotation, geodetic_to_ecef
from ssrtrack.units import G_MPS2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[Floats, Floats]

MAX_STEP_S = 60.0
MAX_ROLLING_STEP_S = 2.0
MAX_TURN_STEP_RAD = 0.08  # Simpson's rule then errs by 4e-5 m a step at 250 m/s, 1 deg/s
MERGE_S = 1e-6  # knots nearer than this are one
MIN_SPEED_MPS = 20.0
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True)
class Legs:
    """Legs of F flights, each column (F, L); a row of zeros (NaN targets) is a leg that asks nothing."""

    duration_s: Floats
    turn_rad: Floats
    bank_rad: Floats
    height_m: Floats  # target, NaN: hold
    climb_mps: Floats
    speed_mps: Floats  # target, NaN: hold
    acceleration_mps2: Floats


@dataclass(frozen=True)
class Start:
    """Where F flights begin and how long they last, each column (F,)."""

    time_s: Floats
    end_s: Floats
    latitude_rad: Floats
    longitude_rad: Floats
    height_m: Floats
    speed_mps: Floats
    track_rad: Floats


@dataclass(frozen=True)
class Limits:
    """Limits common to all flights, and the turbulence: PSD of white acceleration along and across the track, held
    over each interval between truth rows so that cubic interpolation of the rows stays exact."""

    roll_rate_radps: float
    vertical_acceleration_mps2: float
    turbulence_psd: float = 0.0
    truth_step_s: float = 2.0


@dataclass(frozen=True)
class Paths:
    """Flown paths of F flights as I pieces, ordered by flight and time; `first` (F + 1,) bounds each flight's pieces.

    `ecef` (I, 6, 3) holds position polynomials in seconds since the piece began, lowest power first. `scalars` (I, 10)
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
        return type(self)(self.start_s[flights], self.end_s[flights], first, *(a[pieces] for a in self._per_piece()))

    def window(self, begin_s: float, end_s: float) -> Self:
        """The same flights with only those pieces that touch a time window; every flight must touch it."""
        keep = (self.time_s <= end_s) & (self.time_s + self.length_s >= begin_s)
        first = np.concatenate([[0], np.cumsum(keep)])[self.first]
        return type(self)(self.start_s, self.end_s, first, *(a[keep] for a in self._per_piece()))

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Flights of several sets, one after the other."""
        offsets = np.cumsum([0] + [int(p.first[-1]) for p in parts])
        first = np.concatenate([[0]] + [p.first[1:] + o for p, o in zip(parts, offsets, strict=False)])
        names = [f.name for f in fields(cls) if f.name != "first"]
        columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
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

    def position(self, piece: Ints, time_s: Floats) -> Floats:
        """ECEF position (..., 3) in m."""
        return horner(self.ecef[piece], time_s - self.time_s[piece])

    def velocity(self, piece: Ints, time_s: Floats) -> Floats:
        """ECEF velocity (..., 3) in m/s."""
        return horner_slope(self.ecef[piece], time_s - self.time_s[piece])

    def state(self, piece: Ints, time_s: Floats) -> dict[str, Floats]:
        """Height, rates, speed, bank and track at times, by name, in SI."""
        s, t = self.scalars[piece], time_s - self.time_s[piece]
        return {
            "height_m": s[:, 0] + t * (s[:, 1] + 0.5 * t * s[:, 2]),
            "climb_mps": s[:, 1] + t * s[:, 2],
            "speed_mps": s[:, 3] + t * s[:, 4],
            "bank_rad": s[:, 5] + t * s[:, 6],
            "track_rad": s[:, 7] + t * (s[:, 8] + 0.5 * t * s[:, 9]),
            "track_rate_radps": s[:, 8] + t * s[:, 9],
        }


def horner(c: Floats, t: Floats) -> Floats:
    """Polynomials c (n, 6, 3) at t (n,)."""
    u = t[:, None]
    value = c[:, 5]
    for i in (4, 3, 2, 1, 0):
        value = value * u + c[:, i]
    return value


def horner_slope(c: Floats, t: Floats) -> Floats:
    """Derivatives of polynomials c (n, 6, 3) at t (n,)."""
    u = t[:, None]
    value = 5.0 * c[:, 5]
    for i in (4, 3, 2, 1):
        value = value * u + i * c[:, i]
    return value


@dataclass(frozen=True)
class Schedules:
    """Piecewise-linear bank, speed and climb of F flights: (times, values) each (F, n), times since the start."""

    bank: Pair
    speed: Pair
    climb: Pair


def schedules(legs: Legs, start: Start, limits: Limits) -> Schedules:
    """The control schedules that fly the legs one after the other."""
    zero = np.zeros_like(start.time_s)
    now, speed, height = zero, start.speed_mps, start.height_m
    knots: dict[str, list[Pair]] = {"bank": [(now, zero)], "speed": [(now, speed)], "climb": [(now, zero)]}
    for leg in range(legs.turn_rad.shape[1]):
        target = np.where(np.isnan(legs.speed_mps[:, leg]), speed, legs.speed_mps[:, leg])
        level = np.where(np.isnan(legs.height_m[:, leg]), height, legs.height_m[:, leg])
        acceleration = legs.acceleration_mps2[:, leg]
        changing = np.abs(target - speed) / np.where(target == speed, 1.0, acceleration)
        climb = _climb(level - height, legs.climb_mps[:, leg], limits.vertical_acceleration_mps2)
        turn = _turn(legs.turn_rad[:, leg], legs.bank_rad[:, leg], limits.roll_rate_radps, speed, target, changing)
        knots["speed"] += [(now, speed), (now + changing, target)]
        knots["climb"] += _trapezium(now, *climb)
        knots["bank"] += _trapezium(now, *turn)
        ends = [2 * climb[1] + climb[2], 2 * turn[1] + turn[2], changing, legs.duration_s[:, leg]]
        now, speed, height = now + np.max(ends, 0), target, level
    return Schedules(*(_stacked(knots[name]) for name in ("bank", "speed", "climb")))


def _stacked(knots: list[Pair]) -> Pair:
    return np.stack([k[0] for k in knots], 1), np.stack([k[1] for k in knots], 1)


def _trapezium(now: Floats, peak: Floats, ramp: Floats, hold: Floats) -> list[Pair]:
    zero = np.zeros_like(peak)
    return [(now, zero), (now + ramp, peak), (now + ramp + hold, peak), (now + 2 * ramp + hold, zero)]


def _climb(rise_m: Floats, rate_mps: Floats, acceleration: float) -> tuple[Floats, Floats, Floats]:
    """Peak rate (signed), ramp and hold times; a small step never reaches the full rate."""
    peak = np.minimum(rate_mps, np.sqrt(np.abs(rise_m) * acceleration))
    ramp = peak / acceleration
    hold = np.abs(rise_m) / np.where(peak > 0, peak, 1.0) - ramp
    return np.sign(rise_m) * peak, ramp, np.maximum(np.where(peak > 0, hold, 0.0), 0.0)


def _turn(
    angle: Floats, bank: Floats, roll_rate: float, speed: Floats, target: Floats, changing_s: Floats
) -> tuple[Floats, Floats, Floats]:
    """Peak bank (signed), ramp and hold times of a turn through `angle`, with ∫ g tan(bank)/V dt = angle.

    Rolling in and out alone turns 2 g ln(sec φ) / (p V); a small turn lowers the bank so that this is not too much.
    """
    wanted = np.abs(angle)
    slowest = np.minimum(speed, target)
    enough = np.arccos(np.exp(-roll_rate * slowest * wanted / (2.0 * G_MPS2)))
    peak = np.minimum(bank, enough)
    ramp = peak / roll_rate
    rate = G_MPS2 * np.tan(peak) / speed
    rolling = -2.0 * G_MPS2 * np.log(np.cos(peak)) / (roll_rate * speed)
    hold = np.where(peak > 0, (wanted - rolling) / np.where(peak > 0, rate, 1.0), 0.0)
    mixed = (peak > 0) & (changing_s > 0)
    if mixed.any():
        m = mixed
        hold[m] = _hold_while_changing(wanted[m], peak[m], ramp[m], hold[m], speed[m], target[m], changing_s[m])
    return np.sign(angle) * peak, ramp, np.maximum(hold, 0.0)


def _hold_while_changing(
    wanted: Floats, peak: Floats, ramp: Floats, hold: Floats, speed: Floats, target: Floats, changing_s: Floats
) -> Floats:
    """Hold time of a turn in which the speed changes as well, by fixed-point steps on the turned angle."""
    slope = (target - speed) / changing_s
    for _ in range(20):
        end = 2.0 * ramp + hold
        edges = np.sort(np.stack([0 * ramp, ramp, ramp + hold, np.minimum(changing_s, end), end], 1), 1)
        half = 0.5 * np.diff(edges, axis=1)[:, :, None]
        t = edges[:, :-1, None] + half * (1.0 + _GAUSS_X)
        outer = [x[:, None, None] for x in (peak, ramp, end, speed, slope, changing_s)]
        bank = outer[0] * np.clip(np.minimum(t, outer[2] - t) / outer[1], 0.0, 1.0)
        v = outer[3] + outer[4] * np.minimum(t, outer[5])
        turned = G_MPS2 * np.sum(half * _GAUSS_W * np.tan(bank) / v, (1, 2))
        final = speed + slope * np.minimum(changing_s, end)
        hold = np.maximum(hold + (wanted - turned) * final / (G_MPS2 * np.tan(peak)), 0.0)
    return hold


def fly(legs: Legs, start: Start, limits: Limits, rngs: list[np.random.Generator]) -> Paths:
    """Paths of F flights; `rngs` (one per flight) are used only where there is turbulence."""
    plan = schedules(legs, start, limits)
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
    bm, vm, hm = 0.5 * (b0 + b1), 0.5 * (v0 + v1), h0 + length * (0.375 * w0 + 0.125 * w1)
    turn = [(G_MPS2 * np.tan(b) + push[1]) / v for b, v in ((b0, v0), (bm, vm), (b1, v1))]
    slot = (np.arange(len(time)) - first[flight], flight)
    at0, at1 = _integrate(start, counts, slot, length, [h0, hm, h1], [v0, vm, v1], turn)
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
        start.time_s, start.end_s, first, absolute, length, coefficients, np.stack(scalars, 1),
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
    sines, cosines = np.sin(x[::2]), np.cos(x[::2])
    w2 = 1.0 - E2 * sines[0] ** 2
    n = A_M / np.sqrt(w2)
    east = v * sines[1] / ((n + h) * cosines[0])
    return np.stack([v * cosines[1] / (n * ((1.0 - E2) / w2) + h), east, turn + east * sines[0]])


def _motion(
    place: Floats, h: Floats, v: Floats, w: Floats, turn: Floats, dv: Floats, dw: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """ECEF position, velocity and acceleration (n, 3), and the rate of the track angle; `place` is φ, λ, χ (3, n)."""
    lat, lon, chi = place
    s, c, tan_lat = np.sin(chi), np.cos(chi), np.tan(lat)
    w2 = 1.0 - E2 * np.sin(lat) ** 2
    n = A_M / np.sqrt(w2)
    north_rate, east_rate = v * c / (n * (1.0 - E2) / w2 + h), v * s / (n + h)
    chi_rate = turn + east_rate * tan_lat
    velocity = np.stack([v * s, v * c, w], 1)
    change = np.stack([dv * s + v * c * chi_rate, dv * c - v * s * chi_rate, dw], 1)
    frame = np.stack([-north_rate, east_rate, east_rate * tan_lat], 1)
    acceleration = change + np.cross(frame, velocity)
    axes = enu_rotation(lat, lon)
    to_ecef = [np.einsum("nij,ni->nj", axes, vector) for vector in (velocity, acceleration)]
    return geodetic_to_ecef(lat, lon, h), to_ecef[0], to_ecef[1], chi_rate


def _quintic(begin: tuple[Floats, ...], end: tuple[Floats, ...], length: Floats) -> Floats:
    """Polynomials (n, 6, 3) with the given position, velocity and acceleration at both ends."""
    t = length[:, None]
    (p0, v0, a0), (p1, v1, a1) = begin, end
    gap = p1 - p0 - v0 * t - 0.5 * a0 * t**2
    dv, da = (v1 - v0 - a0 * t) * t, (a1 - a0) * t**2
    c3 = (10.0 * gap - 4.0 * dv + 0.5 * da) / t**3
    c4 = (-15.0 * gap + 7.0 * dv - da) / t**4
    c5 = (6.0 * gap - 3.0 * dv + 0.5 * da) / t**5
    return np.stack([p0, v0, 0.5 * a0, c3, c4, c5], 1)
