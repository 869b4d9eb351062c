"""Truth rows of flown paths."""

import numpy as np

from ssrtrack.data import Truth
from ssrtrack.geodesy import A_M, B_M, E2, EP2
from ssrtrack.simulators.legs import Floats, Ints
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
    numbers = np.arange(np.ceil(begin_s / step_s), np.floor(end_s / step_s) + 1)
    grid = numbers * step_s
    grid = grid[(grid >= begin_s) & ((grid < end_s) | (last & (grid <= end_s)))]
    owner = paths.pieces_of()
    # Read along the other axis, the rows of one time come together, in the order of flights.
    by_time = _on_grid(paths, owner, grid).T.ravel()
    rows = np.flatnonzero(by_time >= 0)
    piece, time_s = by_time[rows], grid[rows // max(len(paths.start_s), 1)]
    more, more_s = _between(paths, owner, grid, (begin_s, end_s, last))
    if len(more):
        at = np.searchsorted(time_s, more_s)
        piece, time_s = np.insert(piece, at, more), np.insert(time_s, at, more_s)
    return _truth(paths, fleet, owner[piece], piece, time_s)


def _on_grid(paths: Paths, owner: Ints, grid: Floats) -> Ints:
    """Piece that holds each grid time of each flight (F, G); −1 where it is not in the air."""
    # A piece holds the grid times from its own beginning to that of the next, the last one to the flight's end.
    low = np.searchsorted(grid, paths.time_s)
    high = np.append(low[1:], 0)
    high[paths.first[1:] - 1] = np.searchsorted(grid, paths.end_s, "right")
    some = np.flatnonzero(high > low)
    low, counts = low[some], (high - low)[some]
    begins = owner[some] * len(grid) + low - np.cumsum(counts) + counts
    out = np.full((len(paths.start_s), len(grid)), -1)
    out.ravel()[np.repeat(begins, counts) + np.arange(counts.sum())] = np.repeat(some, counts)
    return out


def _between(
    paths: Paths, owner: Ints, grid: Floats, span: tuple[float, float, bool]
) -> tuple[Ints, Floats]:  # fmt: skip
    """Pieces and times of the rows off the grid: where a law changes and where a flight ends; in order of time."""
    begin_s, end_s, last = span
    final = paths.first[1:] - 1
    piece = np.concatenate([np.flatnonzero(paths.row), final])
    time_s = np.concatenate([paths.time_s[paths.row], paths.end_s])
    inside = (time_s >= begin_s) & ((time_s < end_s) | (last & (time_s <= end_s)))
    if len(grid):
        right = np.minimum(np.searchsorted(grid, time_s), len(grid) - 1)
        nearest = np.minimum(np.abs(grid[right] - time_s), np.abs(grid[np.maximum(right - 1, 0)] - time_s))
        inside &= nearest > MERGE_S
    piece, time_s = piece[inside], time_s[inside]
    # A flight's pieces follow one another, so that this orders by flight and time, and an end after its last piece.
    order = np.lexsort((time_s, piece))
    piece, time_s = piece[order], time_s[order]
    flight = owner[piece]
    fresh = (np.diff(time_s, prepend=-1.0) > MERGE_S) | (np.diff(flight, prepend=-1) != 0)
    piece, time_s = piece[fresh], time_s[fresh]
    order = np.argsort(time_s, kind="stable")
    return piece[order], time_s[order]


def _truth(paths: Paths, fleet: Fleet, flight: Ints, piece: Ints, time_s: Floats) -> Truth:
    if len(piece) == 0:
        return Truth.empty()
    (x, y, z), (vx, vy, vz) = paths.motion(piece, time_s)
    # Bowring's formula (1976) once, with sines and cosines from ratios: below 1e-11 rad up to 40 km height.
    p = np.sqrt(x * x + y * y)
    sine, cosine = z * A_M, p * B_M
    both = np.sqrt(sine * sine + cosine * cosine)
    sine, cosine = sine / both, cosine / both
    up, out = z + (EP2 * B_M) * (sine * sine * sine), p - (E2 * A_M) * (cosine * cosine * cosine)
    norm = np.sqrt(up * up + out * out)
    s, c, sl, cl = up / norm, out / norm, y / p, x / p
    outward = cl * vx + sl * vy
    return Truth(
        time_s=time_s,
        truth_id=fleet.truth_id[flight].astype("i4"),
        latitude_deg=np.arctan2(up, out) / DEG_RAD,
        longitude_deg=np.arctan2(y, x) / DEG_RAD,
        height_m=p * c + z * s - A_M * np.sqrt(1.0 - E2 * s * s),
        v_east_mps=cl * vy - sl * vx,
        v_north_mps=c * vz - s * outward,
        v_up_mps=s * vz + c * outward,
        phase=paths.phase[piece],
    )
