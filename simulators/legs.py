"""What aircraft are asked to fly: legs, and the schedules of bank, speed and climb that carry them out.

A leg asks for a turn, a climb, a speed change or any of them together. Bank angle, ground speed V and rate of climb
become piecewise-linear functions of time: roll rate, acceleration and vertical acceleration are limited.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.units import G_MPS2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[Floats, Floats]

_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(12)


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

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Legs of several sets of flights, one after the other, padded to the longest with legs that ask nothing."""
        longest = max(p.turn_rad.shape[1] for p in parts)

        def padded(name: str) -> Floats:
            fill = np.nan if name in ("height_m", "speed_mps") else 0.0
            rows = [getattr(p, name) for p in parts]
            return np.concatenate([np.pad(r, ((0, 0), (0, longest - r.shape[1])), constant_values=fill) for r in rows])

        return cls(*(padded(f.name) for f in fields(cls)))


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

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Starts of several sets of flights, one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class Limits:
    """Limits common to all flights, and the turbulence: PSD of white acceleration along and across the track, or the
    intensity of gusts. Either is held over each interval between truth rows, so that cubic interpolation of the rows
    stays exact."""

    roll_rate_radps: float
    vertical_acceleration_mps2: float
    turbulence_psd: float = 0.0
    truth_step_s: float = 2.0
    gusts: str = "none"

    @property
    def turbulent(self) -> bool:
        """Whether the air moves, so that paths are cut at every truth row."""
        return self.turbulence_psd > 0 or self.gusts != "none"


@dataclass(frozen=True)
class Schedules:
    """Piecewise-linear bank, speed and climb of F flights: (times, values) each (F, n), times since the start.

    Times ascend, and the first is 0; after the last one its value stays.
    """

    bank: Pair
    speed: Pair
    climb: Pair

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """Schedules of several sets of flights, one after the other, the last knot repeated up to the longest."""

        def joined(name: str, which: int) -> Floats:
            tables = [getattr(p, name)[which] for p in parts]
            longest = max(t.shape[1] for t in tables)
            return np.concatenate([np.pad(t, ((0, 0), (0, longest - t.shape[1])), "edge") for t in tables])

        return cls(*((joined(name, 0), joined(name, 1)) for name in ("bank", "speed", "climb")))

    def take(self, flights: Any) -> Self:
        """Some of the flights: an index or mask (F,)."""
        return type(self)(*((t[flights], y[flights]) for t, y in (self.bank, self.speed, self.climb)))


def schedules(legs: Legs, start: Start, limits: Limits) -> Schedules:
    """The control schedules that fly the legs one after the other."""
    zero = np.zeros_like(start.time_s)
    now, speed, height = zero, start.speed_mps, start.height_m
    bank, climb, change = [(zero, zero)], [(zero, zero)], [(zero, speed)]
    for leg in range(legs.turn_rad.shape[1]):
        target = np.where(np.isnan(legs.speed_mps[:, leg]), speed, legs.speed_mps[:, leg])
        level = np.where(np.isnan(legs.height_m[:, leg]), height, legs.height_m[:, leg])
        acceleration = legs.acceleration_mps2[:, leg]
        changing = np.abs(target - speed) / np.where(target == speed, 1.0, acceleration)
        rise = climb_profile(level - height, legs.climb_mps[:, leg], limits.vertical_acceleration_mps2)
        turn = turn_profile(
            legs.turn_rad[:, leg], legs.bank_rad[:, leg], limits.roll_rate_radps, speed, target, changing
        )
        # Where a leg asks nothing the last knot stands again, and where it asks nothing of anybody none is needed.
        if (changing > 0).any():
            begin = np.where(changing > 0, now, change[-1][0])
            change += [(begin, speed), (begin + changing, target)]
        for knots, profile in ((bank, turn), (climb, rise)):
            if (profile[0] != 0).any():
                knots += trapezium(np.where(profile[0] != 0, now, knots[-1][0]), *profile)
        ends = [2.0 * rise[1] + rise[2], 2.0 * turn[1] + turn[2], changing, legs.duration_s[:, leg]]
        now, speed, height = now + np.max(ends, 0), target, level
    return Schedules(stacked(bank), stacked(change), stacked(climb))


def stacked(knots: list[Pair]) -> Pair:
    """Knots (F,) of one channel as times and values (F, n)."""
    return np.stack([k[0] for k in knots], 1), np.stack([k[1] for k in knots], 1)


def trapezium(now: Floats, peak: Floats, ramp: Floats, hold: Floats) -> list[Pair]:
    """Knots of a value that ramps to `peak`, stays for `hold` and ramps back to 0."""
    zero = np.zeros_like(peak)
    return [(now, zero), (now + ramp, peak), (now + ramp + hold, peak), (now + (2.0 * ramp + hold), zero)]


def climb_profile(rise_m: Floats, rate_mps: Floats, acceleration: float) -> tuple[Floats, Floats, Floats]:
    """Peak rate (signed), ramp and hold times; a small step never reaches the full rate."""
    peak = np.minimum(rate_mps, np.sqrt(np.abs(rise_m) * acceleration))
    ramp = peak / acceleration
    hold = np.abs(rise_m) / np.where(peak > 0, peak, 1.0) - ramp
    return np.sign(rise_m) * peak, ramp, np.maximum(np.where(peak > 0, hold, 0.0), 0.0)


def turn_profile(
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
    """Hold time of a turn in which the speed changes as well, by secant steps on the turned angle."""
    slope = (target - speed) / changing_s
    final = speed + slope * np.minimum(changing_s, 2.0 * ramp + hold)
    rate = G_MPS2 * np.tan(peak) / final
    before = None
    for _ in range(20):
        end = 2.0 * ramp + hold
        edges = np.sort(np.stack([0 * ramp, ramp, ramp + hold, np.minimum(changing_s, end), end], 1), 1)
        half = 0.5 * np.diff(edges, axis=1)[:, :, None]
        t = edges[:, :-1, None] + half * (1.0 + _GAUSS_X)
        outer = [x[:, None, None] for x in (peak, ramp, end, speed, slope, changing_s)]
        bank = outer[0] * np.clip(np.minimum(t, outer[2] - t) / outer[1], 0.0, 1.0)
        v = outer[3] + outer[4] * np.minimum(t, outer[5])
        turned = G_MPS2 * np.sum(half * _GAUSS_W * np.tan(bank) / v, (1, 2))
        # Each flight by itself: others that take longer must not change it.
        open_ = np.abs(wanted - turned) >= 1e-13
        if not open_.any():
            break
        if before is not None:
            step, gain = hold - before[0], turned - before[1]
            rate = np.where(step * gain > 0, gain / np.where(step != 0, step, 1.0), rate)
        before = hold, turned
        hold = np.where(open_, np.maximum(hold + (wanted - turned) / rate, 0.0), hold)
    return hold
