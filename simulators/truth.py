"""Truth rows of flown paths."""

from typing import Any

import numpy as np

from ssrtrack.data import Truth
from ssrtrack.geodesy import ecef_to_geodetic
from ssrtrack.simulators.legs import Floats
from ssrtrack.simulators.traffic import Fleet
from ssrtrack.simulators.trajectory import MERGE_S, Paths
from ssrtrack.units import DEG_RAD


def truth_rows(air: tuple[Paths, Fleet] | None, begin_s: float, end_s: float, step_s: float, last: bool) -> Truth:
    """Truth of [begin_s, end_s), with the end if it is the last: on the grid, and where a law of motion changes.

    The extra rows make acceleration smooth between neighbours, so that cubic interpolation holds to a centimetre.
    """
    if air is None:
        return Truth.empty()
    paths, fleet = air
    grid = np.arange(np.ceil(begin_s / step_s), np.floor(end_s / step_s) + 1) * step_s
    low = np.searchsorted(grid, paths.start_s)
    high = np.searchsorted(grid, paths.end_s, "right")
    counts = np.maximum(high - low, 0)
    flight = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(flight)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.flatnonzero(paths.row)
    owner = paths.pieces_of()
    flight = np.concatenate([flight, owner[rows], np.arange(len(counts))])
    time_s = np.concatenate([grid[low[flight[: len(nth)]] + nth], paths.time_s[rows], paths.end_s])
    inside = (time_s >= begin_s) & ((time_s < end_s) | (last & (time_s <= end_s)))
    flight, time_s = flight[inside], time_s[inside]
    order = np.lexsort((time_s, flight))
    flight, time_s = flight[order], time_s[order]
    fresh = (np.diff(time_s, prepend=-1.0) > MERGE_S) | (np.diff(flight, prepend=-1) != 0)
    flight, time_s = flight[fresh], time_s[fresh]
    order = np.lexsort((flight, time_s))
    return _truth(paths, fleet, flight[order], time_s[order])


def _truth(paths: Paths, fleet: Fleet, flight: Any, time_s: Floats) -> Truth:
    if len(flight) == 0:
        return Truth.empty()
    piece = paths.locate(flight, time_s)
    position, v = paths.motion(piece, time_s)
    latitude, longitude, height = ecef_to_geodetic(position.T)
    s, c, sl, cl = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    outward = cl * v[0] + sl * v[1]
    return Truth(
        time_s=time_s,
        truth_id=fleet.truth_id[flight].astype("i4"),
        latitude_deg=latitude / DEG_RAD,
        longitude_deg=longitude / DEG_RAD,
        height_m=height,
        v_east_mps=cl * v[1] - sl * v[0],
        v_north_mps=c * v[2] - s * outward,
        v_up_mps=s * v[2] + c * outward,
        phase=paths.phase[piece],
    )
