"""What the aircraft answer: code changes, emergencies, idents, missing altitudes, addresses that two of them carry."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import PlotFlag
from ssrtrack.simulators.draws import ANY_RADAR, uniforms
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.schema_replies import Identity
from ssrtrack.simulators.traffic import Fleet
from ssrtrack.simulators.trajectory import Paths

SSR, ALL_CALL, ROLL_CALL = 2, 4, 5  # I048/020 TYP
EMERGENCIES = np.array([0o7500, 0o7600, 0o7700])  # unlawful interference, radio failure, emergency
# Codes that a controller may give: none that ends in 00, as emergency, military and conspicuity codes do, nor 7777.
ORDINARY = np.array([c for c in range(4096) if c % 64 and c != 0o7777])


def identified(look: Look, met: Meetings) -> Columns:
    """Who and how high the aircraft of meetings (n,) are; address and callsign come by Mode S alone."""
    fleet, flight, mode_s = look.fleet, met.flight, look.mode_s
    return {
        "mode3a": fleet.mode3a[flight],
        "pressure_altitude_m": met.height_m,
        "address": np.where(mode_s, fleet.address, -1)[flight],
        "callsign": np.where(mode_s, fleet.callsign, b"")[flight],
        "plot_type": np.where(mode_s, ROLL_CALL, SSR)[flight],
        "truth_id": fleet.truth_id[flight],
    }


def answers(look: Look, met: Meetings) -> Columns:
    """Identity columns of all meetings (n,) as the transponders send them."""
    rules, flight = look.identity, met.flight
    columns = identified(look, met) | {"flags": np.zeros(len(met), int)}
    for effect, share, codes in (
        ("squawk change", rules.squawk_change_share, ORDINARY),
        ("emergency", rules.emergency_share, EMERGENCIES),
    ):
        if share:
            since_s = _once(look, effect, share)[flight]
            new = codes[(look.per_flight(effect, 1)[0] * len(codes)).astype(int)]
            columns["mode3a"] = np.where(met.time_s >= since_s, new[flight], columns["mode3a"])
    if rules.ident_share:
        since_s = _once(look, "ident", rules.ident_share)[flight]
        pressed = (met.time_s >= since_s) & (met.time_s < since_s + rules.ident_s)
        columns["flags"] = columns["flags"] | np.where(pressed, int(PlotFlag.SPI), 0)
    if rules.no_altitude_share:
        silent = (look.per_flight("no altitude")[0] < rules.no_altitude_share)[flight]
        silent &= ~look.fleet.mode_s[flight]  # the aircraft's own lack, at whatever radar
        columns["pressure_altitude_m"] = np.where(silent, np.nan, met.height_m)
    return columns


def _once(look: Look, effect: str, share: float) -> Floats:
    """When something happens to each flight (F,), at any time of its life: infinity for all but a share of them."""
    u = look.per_flight(effect)
    when = look.paths.start_s + u[1] * (look.paths.end_s - look.paths.start_s)
    return np.where(u[0] < share, when, np.inf)


def with_duplicates(rules: Identity, seed: int, new: tuple[Paths, Fleet] | None) -> tuple[Paths, Fleet] | None:
    """New flights, of which some carry the 24-bit address of another that is in the air at some time with them.

    The other is any of the new flights that have Mode S: those that were given before keep what they have.
    """
    if new is None or not rules.duplicate_address_share:
        return new
    paths, fleet = new
    u = uniforms(seed, "duplicate address", ANY_RADAR, fleet.who)
    address = fleet.address.copy()
    for n in np.flatnonzero(fleet.mode_s & (u[0] < rules.duplicate_address_share)):
        others = np.flatnonzero(fleet.mode_s & _together(paths, int(n)))
        if len(others):
            address[n] = fleet.address[others[int(u[1, n] * len(others))]]
    return paths, replace(fleet, address=address)


def _together(paths: Paths, flight: int) -> NDArray[np.bool_]:
    """Which other flights (F,) are in the air at some time with one."""
    both = (paths.start_s < paths.end_s[flight]) & (paths.end_s > paths.start_s[flight])
    both[flight] = False
    return np.asarray(both)
