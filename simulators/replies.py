"""What a radar reads of the replies: codes and altitudes with their errors, and the kind of each plot."""

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import PlotFlag
from ssrtrack.simulators.legs import Ints
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.registers import BDS_LSB
from ssrtrack.simulators.replies_codes import altitude_code, code_altitude
from ssrtrack.simulators.replies_garble import garbled
from ssrtrack.simulators.replies_transponder import ALL_CALL, ROLL_CALL, SSR, answers
from ssrtrack.simulators.schema_replies import Garble, Identity, Replies

Bools = NDArray[np.bool_]
_OF_CODE = int(PlotFlag.MODE3A_NOT_VALIDATED | PlotFlag.MODE3A_GARBLED | PlotFlag.MODE3A_FROM_SMOOTHER)
_OF_ALTITUDE = int(PlotFlag.ALTITUDE_NOT_VALIDATED | PlotFlag.ALTITUDE_GARBLED)
# I048/020 TYP of a plot that a primary radar sees as well.
_WITH_PRIMARY = {SSR: 3, ALL_CALL: 6, ROLL_CALL: 7}


def replied(look: Look, met: Meetings, rows: Ints, columns: Columns) -> tuple[Ints, Columns]:
    """The plots' codes and altitudes as the radar decodes them, and which plots are left.

    Args:
        look: the radar, its rotations and the flights.
        met: everything that the beam meets inside the coverage, detected or not: all of these can garble.
        rows: (n,) the meetings that became plots, ascending.
        columns: the n plots with measured range and azimuth and exact identity, altitude and registers.

    Returns:
        Rows and columns (m ≤ n), of new arrays where anything changed.
    """
    spec = look.spec
    if look.identity == Identity() and spec.garble == Garble() and spec.replies == Replies():
        return rows, columns
    sent = answers(look, met)
    columns = columns | {name: value[rows] for name, value in sent.items()}
    if spec.garble.probability:
        rows, columns = garbled(look, met, sent, rows, columns)
    seen = met.take(rows)
    columns = wrong_pulses(look, seen, columns)
    columns = not_validated(look, seen, columns)
    columns = absent(look, seen, columns)
    columns = all_call_only(look, seen, columns)
    return rows, with_primary(look, seen, columns)


def wrong_pulses(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Mode A/C plots of which some have one of the twelve pulses wrong, in the code or in the altitude.

    A Mode S reply carries both under a parity of 24 bits (ICAO Annex 10 IV, 3.1.2.3.3): it is read right or not at all.
    """
    rules, out = look.spec.replies, dict(columns)
    mode_ac = ~look.mode_s[seen.flight]
    if rules.mode3a_error_share:
        wrong, flip, marked = _errors(look, seen, "wrong code", rules.mode3a_error_share)
        wrong &= mode_ac
        out["mode3a"] = np.where(wrong, out["mode3a"] ^ flip, out["mode3a"])
        out["flags"] = out["flags"] | np.where(wrong & marked, int(PlotFlag.MODE3A_GARBLED), 0)
    if rules.altitude_error_share:
        wrong, flip, marked = _errors(look, seen, "wrong altitude", rules.altitude_error_share)
        wrong &= mode_ac & np.isfinite(out["pressure_altitude_m"])
        read = code_altitude(altitude_code(out["pressure_altitude_m"]) ^ flip)
        out["pressure_altitude_m"] = np.where(wrong, read, out["pressure_altitude_m"])
        out["flags"] = out["flags"] | np.where(wrong & marked, int(PlotFlag.ALTITUDE_GARBLED), 0)
    return out


def _errors(look: Look, seen: Meetings, effect: str, share: float) -> tuple[Bools, Ints, Bools]:
    """Which plots (n,) are wrong, in what bit, and which of these are marked."""
    u, v = look.uniforms(effect, seen), look.uniforms(effect, seen, 1)
    return u[0] < share, np.asarray(1 << (12 * u[1]).astype(int)), v[0] >= look.spec.replies.unnoticed_share


def not_validated(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Plots of which some have the V bit of the code or of the altitude; the values are right all the same."""
    rules, out = look.spec.replies, dict(columns)
    if rules.mode3a_not_validated_share or rules.altitude_not_validated_share:
        u = look.uniforms("not validated", seen)
        code = np.where(u[0] < rules.mode3a_not_validated_share, int(PlotFlag.MODE3A_NOT_VALIDATED), 0)
        altitude = np.where(u[1] < rules.altitude_not_validated_share, int(PlotFlag.ALTITUDE_NOT_VALIDATED), 0)
        out["flags"] = out["flags"] | code | altitude
    return out


def absent(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Plots of which some lack the code or the altitude, and with it the bits that say how good it is."""
    rules, out = look.spec.replies, dict(columns)
    if rules.mode3a_absent_share or rules.altitude_absent_share:
        u = look.uniforms("absent", seen)
        no_code, no_altitude = u[0] < rules.mode3a_absent_share, u[1] < rules.altitude_absent_share
        out["mode3a"] = np.where(no_code, -1, out["mode3a"])
        out["pressure_altitude_m"] = np.where(no_altitude, np.nan, out["pressure_altitude_m"])
        out["flags"] = out["flags"] & ~np.where(no_code, _OF_CODE, 0) & ~np.where(no_altitude, _OF_ALTITUDE, 0)
    return out


def all_call_only(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Mode S plots of which some have but an all-call reply: the address and nothing else."""
    share = look.spec.replies.all_call_share
    if not share:
        return columns
    only = (look.uniforms("all-call", seen)[0] < share) & look.mode_s[seen.flight]
    out = dict(columns)
    unread: Columns = {"mode3a": -1, "pressure_altitude_m": np.nan, "callsign": b"", "plot_type": ALL_CALL, "flags": 0}
    for name, value in unread.items() | {(name, np.nan) for name in BDS_LSB.keys() & columns.keys()}:
        out[name] = np.where(only, value, columns[name])
    return out


def with_primary(look: Look, seen: Meetings, columns: Columns) -> Columns:
    """Plots of which some are combined with a primary radar's."""
    share = look.spec.replies.primary_share
    if not share:
        return columns
    combined = np.arange(8)
    combined[list(_WITH_PRIMARY)] = list(_WITH_PRIMARY.values())
    too = look.uniforms("primary", seen)[0] < share
    return columns | {"plot_type": np.where(too, combined[columns["plot_type"]], columns["plot_type"])}
