"""Synchronous garble: Mode A/C replies of aircraft in one beam whose delays differ by less than a reply's length.

Mode S aircraft are called one by one and are free of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import PlotFlag
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.replies_codes import LIGHT_MPS, altitude_code, code_altitude, code_of, pulses, shifted
from ssrtrack.simulators.timing import TWO_PI
from ssrtrack.units import DEG_RAD

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Pairs of meetings that garble each other (p,): the nearer to the radar, the farther, and what becomes of them.

    `part` is how far the azimuths approach, in differences of the two; with `lost` only the nearer one's plot is left;
    with `swapped` they exchange their replies, of which no mark tells.
    """

    near: Ints
    far: Ints
    part: Floats
    lost: Bools
    swapped: Bools


def overlaps(look: Look, met: Meetings) -> tuple[Ints, Ints]:
    """Pairs of meetings (p,) with Mode A/C aircraft inside one beamwidth and one window of delay, nearer one first."""
    rules = look.spec.garble
    width, window_m = rules.beamwidth_deg * DEG_RAD, 0.5e-6 * rules.window_us * LIGHT_MPS
    rows = np.flatnonzero(~look.mode_s[met.flight])
    # The angle that the beam has turned: it runs on at north.
    angle = TWO_PI * met.scan[rows] + met.azimuth_rad[rows]
    order = np.argsort(angle, kind="stable")
    rows, angle = rows[order], angle[order]
    found = [(rows[:0], rows[:0])]
    for lag in range(1, len(rows)):
        beside = np.flatnonzero(angle[lag:] - angle[:-lag] < width)
        if len(beside) == 0:
            break
        a, b = rows[beside], rows[beside + lag]
        close = (np.abs(met.range_m[a] - met.range_m[b]) < window_m) & (met.flight[a] != met.flight[b])
        found.append((a[close], b[close]))
    a, b = (np.concatenate(side) for side in zip(*found, strict=True))
    first = met.range_m[a] <= met.range_m[b]
    return np.where(first, a, b), np.where(first, b, a)


def pairs(look: Look, met: Meetings) -> Pairs:
    """The overlapping pairs that the radar does not tell apart."""
    rules, (near, far) = look.spec.garble, overlaps(look, met)

    def u(lane: int) -> Floats:
        # Of both aircraft, whichever comes first, and of no third.
        return (look.uniforms("garble", met.take(near), lane) + look.uniforms("garble", met.take(far), lane)) % 1.0

    u0, u1 = u(0), u(1)
    keep = u0[0] < rules.probability
    lost = u1[0] < rules.loss_share
    part = np.where(lost, 0.5, rules.drag * u0[1])
    swapped = ~lost & (u1[1] < rules.swap_share)
    return Pairs(near[keep], far[keep], part[keep], lost[keep], swapped[keep])


def garbled(look: Look, met: Meetings, sent: Columns, rows: Ints, columns: Columns) -> tuple[Ints, Columns]:
    """The plots (m ≤ n) with garbled codes and altitudes and dragged azimuths, and without those that are lost.

    Args:
        met: all meetings.
        sent: `answers` of all meetings.
        rows: the meetings that became plots (n,), ascending.
        columns: these plots.
    """
    p = pairs(look, met)
    if len(p.near) == 0:
        return rows, columns
    plot = np.full(len(met), -1)
    plot[rows] = np.arange(len(rows))
    out = dict(columns)
    for name, value in _read(met, sent, p).items():
        touched = np.zeros(len(met), bool)
        touched[p.near], touched[p.far] = True, True
        out[name] = np.where(touched[rows], value[rows], columns[name])
    shift = _dragged(met, p)[rows]
    turn_s = look.spec.rotation_period_s / TWO_PI
    out["azimuth_rad"] = (columns["azimuth_rad"] + shift) % TWO_PI
    out["time_s"] = columns["time_s"] + turn_s * shift
    gone = p.far[p.lost & (plot[p.near] >= 0)]
    keep = ~np.isin(rows, gone)
    return rows[keep], {name: value[keep] for name, value in out.items()}


def _dragged(met: Meetings, p: Pairs) -> Floats:
    """How far each meeting's azimuth (n,) is drawn towards the other's."""
    shift = np.zeros(len(met))
    apart = wrapped_angle(met.azimuth_rad[p.far] - met.azimuth_rad[p.near])
    np.add.at(shift, p.near, p.part * apart)
    np.add.at(shift, p.far, -p.part * apart)
    return shift


def _read(met: Meetings, sent: Columns, p: Pairs) -> dict[str, Any]:
    """Code, altitude and flags of all meetings (n,), as read with the pulses of others on top of them."""
    code, altitude = sent["mode3a"].copy(), sent["pressure_altitude_m"].copy()
    near, far = p.near[p.swapped], p.far[p.swapped]
    for value in (code, altitude):
        value[near], value[far] = value[far], value[near]
    code_read, code_hit = _mixed(met, code, p)
    altitude_read, altitude_hit = _mixed(met, altitude_code(altitude), p)
    altitude_hit &= np.isfinite(altitude)  # framing pulses alone stay what they are: no altitude
    flags = sent["flags"] | np.where(code_hit, int(PlotFlag.MODE3A_GARBLED), 0)
    return {
        "mode3a": np.where(code_hit, code_read, code),
        "pressure_altitude_m": np.where(altitude_hit, code_altitude(altitude_read), altitude),
        "flags": flags | np.where(altitude_hit, int(PlotFlag.ALTITUDE_GARBLED), 0),
    }


def _mixed(met: Meetings, code: Ints, p: Pairs) -> tuple[Ints, Bools]:
    """Codes (n,) that are read where replies lie on top of each other, and which codes were hit."""
    near, far = p.near[~p.swapped], p.far[~p.swapped]
    delay_s = 2.0 * (met.range_m[far] - met.range_m[near]) / LIGHT_MPS
    own = pulses(code)
    train, hit = own.copy(), np.zeros(len(code), bool)
    for target, other, delay in ((near, far, delay_s), (far, near, -delay_s)):
        moved, meets = shifted(own[other], delay)
        np.bitwise_or.at(train, target, moved)
        hit[target[meets]] = True
    return code_of(train), hit
