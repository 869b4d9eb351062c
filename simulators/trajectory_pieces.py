"""Schedules of many flights cut into the steps in which they are flown.

Every number of a flight follows from its own schedule alone, bit for bit, whoever else is flown with it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssrtrack.simulators.legs import Floats, Ints, Limits, Pair, Schedules, Start
from ssrtrack.units import G_MPS2

MAX_STEP_S = 60.0
MAX_ROLLING_STEP_S = 2.5
MAX_TURN_STEP_RAD = 0.3  # the polynomial of a step then errs by 1e-4 m at 250 m/s, 1 deg/s
MERGE_S = 1e-6  # knots nearer than this are one


@dataclass(frozen=True)
class Pieces:
    """Steps (I,) of F flights, ordered by flight and time; a law is what lies between two knots of the schedule.

    `row` marks the first step of a law, `law` numbers them through. Bank, speed and climb (2, I) are those at the
    beginning and the end of each step, where they change linearly.
    """

    flight: Ints
    time_s: Floats
    length_s: Floats
    row: NDArray[np.bool_]
    law: Ints
    bank_rad: Floats
    speed_mps: Floats
    climb_mps: Floats


def cut(plan: Schedules, start: Start, limits: Limits) -> Pieces:
    """The steps of all flights, times since their starts."""
    span = (start.end_s - start.time_s)[:, None]
    parts = [plan.bank[0], plan.speed[0], plan.climb[0], np.zeros_like(span), span]
    if limits.turbulent:
        step = limits.truth_step_s
        lead = np.ceil(start.time_s / step)[:, None] * step - start.time_s[:, None]
        parts.append(lead + step * np.arange(int(span.max() / step) + 1))
    times = np.clip(np.concatenate(parts, 1), 0.0, span)
    order = np.argsort(times, axis=1, kind="stable")
    times = np.take_along_axis(times, order, 1)
    flight, column = np.nonzero(np.diff(times, axis=1, prepend=-1.0) > MERGE_S)
    knot = times[flight, column]
    same = flight[1:] == flight[:-1]
    flight, begin, end, last = flight[:-1][same], knot[:-1][same], knot[1:][same], column[1:][same] - 1
    ends, edge = [], 0
    for channel in (plan.bank, plan.speed, plan.climb):
        mine = (order >= edge) & (order < edge + channel[0].shape[1])
        # The knots of the channel up to the law's beginning say between which two of them it lies.
        passed = np.cumsum(mine, 1, dtype=np.int32)[flight, last] - 1
        ends.append(_between(channel, flight, passed, begin, end))
        edge += channel[0].shape[1]
    bank, speed, climb = ends
    length = end - begin
    turning = G_MPS2 * np.tan(np.abs(bank).max(0)) / speed.min(0)
    number = np.maximum(length / MAX_STEP_S, turning * length / MAX_TURN_STEP_RAD)
    rolling = np.where(bank[0] == bank[1], number, np.maximum(number, length / MAX_ROLLING_STEP_S))
    return _divided(flight, begin, length, np.ceil(rolling).astype(int), [bank, speed, climb])


def _between(channel: Pair, flight: Ints, passed: Ints, begin: Floats, end: Floats) -> Floats:
    """Values (2, n) of a channel at the ends of laws that lie behind its knots number `passed`."""
    times, values = channel
    width = times.shape[1]
    here = flight * width + np.maximum(passed, 0)
    there = np.where(passed + 1 < width, here + 1, here)
    x, y = times.ravel(), values.ravel()
    x0, y0, rise = x[here], y[here], y[there] - y[here]
    gap = x[there] - x0
    slope = np.where(gap > 0, 1.0 / np.where(gap > 0, gap, 1.0), 0.0)
    return np.stack([y0 + rise * np.clip((t - x0) * slope, 0.0, 1.0) for t in (begin, end)])


def _divided(flight: Ints, begin: Floats, length: Floats, number: Ints, ends: list[Floats]) -> Pieces:
    """Laws divided evenly into so many steps each."""
    law = np.repeat(np.arange(len(number)), number)
    nth = np.arange(len(law)) - np.repeat(np.cumsum(number) - number, number)
    step_s = (length / number)[law]
    low, high = nth / number[law], (nth + 1) / number[law]
    bank, speed, climb = (np.stack([e[0][law] + (e[1] - e[0])[law] * share for share in (low, high)]) for e in ends)
    return Pieces(flight[law], begin[law] + nth * step_s, step_s, nth == 0, law, bank, speed, climb)
