"""Smoothing of recorded positions: the most probable smooth motion, given what a recording says and how well.

Between rows the jerk is white noise, so that the most probable motion between two states is the quintic through their
position, velocity and acceleration (Kimeldorf and Wahba 1970: a Bayesian smoother is a smoothing spline); position and
its derivative agree exactly. Rows measure position, and velocity where it is reported, each along the track, across it
and up: a wrong time stamp is an error along the track alone, often far larger than the position's own.

Both measurement and jerk have Student-t tails, by iterated reweighting (Aravkin et al. 2014, "Robust and
trend-following Student's t Kalman smoothers", SIAM J. Control Optim. 52): a stray row bends nothing, and flight is
straight until it is not. Each iteration solves the banded normal equations of many flights at once: no loop over rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Trajectories
from ssrtrack.geodesy import enu_rotation, geodetic_to_ecef
from ssrtrack.units import DEG_RAD

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TAU_S = 10.0  # unit of time inside the equations: keeps their entries of one size
_WIDTH = 18  # diagonals from the main one down: two adjoining states of nine numbers
STIFF = 100.0  # factor on the weight of the jerk at first
_AXES = 3  # along the track, across it to the right, up


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what a recording says, along, across and up, and of the motion."""

    position_m: tuple[float, float, float] = (30.0, 8.0, 8.0)
    velocity_mps: tuple[float, float, float] = (1.0, 1.0, 0.7)
    jerk_psd_m2ps5: tuple[float, float, float] = (0.03, 0.03, 0.0075)
    measurement_dof: float = 4.0
    jerk_dof: float = 2.0
    # Factor that the jerk's tails may raise its PSD by: enough for a hard roll-in, too little to bend to a stray row.
    loosest: float = 60.0
    iterations: int = 10


@dataclass(frozen=True)
class Rows:
    """Rows of a recording by flight and time: ECEF position (3, n), local axes (n, 3, 3) as rows of a matrix, velocity
    (n, 3) along these (NaN: not reported), and whether the height is known."""

    time_s: Floats
    flight: Ints
    place_m: Floats
    axes: Floats
    velocity_mps: Floats
    has_height: NDArray[np.bool_]


@dataclass(frozen=True)
class States:
    """Smoothed ECEF position, velocity and acceleration (3, n) of rows, and the weight each position had along, across
    and up (n, 3): about 1 for one that fits, near 0 for a stray one."""

    position_m: Floats
    velocity_mps: Floats
    acceleration_mps2: Floats
    weight: Floats


def rows_of(t: Trajectories) -> Rows:
    """The rows of a table in the form that smoothing works on."""
    lat, lon = t.latitude_deg * DEG_RAD, t.longitude_deg * DEG_RAD
    known = np.isfinite(t.altitude_m)
    height = _filled(t.altitude_m, t.time_s, t.flight_id, known)
    place = np.asarray(geodetic_to_ecef(lat, lon, height)).T
    enu = np.asarray(enu_rotation(lat, lon))
    course = np.where(np.isfinite(t.track_angle_rad), t.track_angle_rad, _course(place, enu, t.flight_id))
    s, c = np.sin(course)[:, None], np.cos(course)[:, None]
    east, north, up = enu[:, 0], enu[:, 1], enu[:, 2]
    axes = np.stack([s * east + c * north, c * east - s * north, up], 1)
    reported = np.isfinite(t.track_angle_rad) & np.isfinite(t.ground_speed_mps)
    velocity = np.stack(
        [
            np.where(reported, t.ground_speed_mps, np.nan),
            np.where(reported, 0.0, np.nan),
            t.vertical_rate_mps.astype("f8"),
        ],
        1,
    )
    return Rows(t.time_s, t.flight_id.astype(np.int64), place, axes, velocity, known)


def _filled(height_m: Floats, time_s: Floats, flight: Ints, known: NDArray[np.bool_]) -> Floats:
    """Heights with unknown ones on the line between those of the same flight (level beyond its first and last)."""
    if known.all():
        return np.asarray(height_m, float)
    span = 2.0 * (float(time_s.max() - time_s.min()) + 1.0)
    at = flight * span + time_s
    # Nearest known rows on either side; one of another flight does not count.
    index = np.flatnonzero(known)
    before = np.clip(np.searchsorted(index, np.arange(len(at)), "right") - 1, 0, len(index) - 1)
    after = np.minimum(before + 1, len(index) - 1)
    left, right = index[before], index[after]
    left = np.where(flight[left] == flight, left, right)
    right = np.where(flight[right] == flight, right, left)
    share = np.clip((at - at[left]) / np.where(right > left, at[right] - at[left], 1.0), 0.0, 1.0)
    return np.asarray(np.where(known, height_m, height_m[left] + share * (height_m[right] - height_m[left])))


def _course(place_m: Floats, enu: Floats, flight: Ints) -> Floats:
    """Track angle from the neighbouring positions of the same flight."""
    n = len(flight)
    before, after = np.maximum(np.arange(n) - 1, 0), np.minimum(np.arange(n) + 1, n - 1)
    before = np.where(flight[before] == flight, before, np.arange(n))
    after = np.where(flight[after] == flight, after, np.arange(n))
    step = (place_m[:, after] - place_m[:, before]).T
    return np.asarray(np.arctan2(np.einsum("ni,ni->n", enu[:, 0], step), np.einsum("ni,ni->n", enu[:, 1], step)))


def smooth(rows: Rows, noise: Noise) -> States:
    """The most probable motion, at the rows.

    Raises:
        numpy.linalg.LinAlgError: rows of a flight are nearer than some 0.05 s.
    """
    n = len(rows.time_s)
    begins = np.concatenate([[True], rows.flight[1:] != rows.flight[:-1]])
    centre = rows.place_m[:, np.flatnonzero(begins)][:, np.cumsum(begins) - 1]
    z = np.einsum("nij,jn->ni", rows.axes, rows.place_m - centre)  # along the axes of each row
    link = np.flatnonzero(~begins)  # rows with one before them in the flight
    motion = _motion_blocks(np.diff(rows.time_s)[link - 1] / TAU_S)
    between = rows.axes[link - 1]
    place_w, velocity_w = np.ones((n, _AXES)), np.ones((n, _AXES))
    # Stiff at first: whoever starts loose bends to stray rows and never learns that they are.
    jerk_w = np.full((len(link), _AXES), STIFF)
    scale = _Scales(rows, noise)
    state = np.zeros((n, 3, 3))
    for _ in range(noise.iterations):
        state = _solved(rows, z, scale, place_w, velocity_w, jerk_w, link, motion, between)
        place_w = _place_weight(scale.place * (z - np.einsum("nij,nj->ni", rows.axes, state[:, 0])) ** 2, noise)
        off = scale.reported - np.einsum("nij,nj->ni", rows.axes, state[:, 1]) / TAU_S
        velocity_w = _t_weight(scale.velocity * off**2, noise.measurement_dof, 1)
        misfit = _jerk_misfit(state, link, motion, between) * scale.jerk
        jerk_w = np.maximum(_t_weight(misfit, noise.jerk_dof, 3), 1.0 / noise.loosest)
    position = state[:, 0].T + centre
    return States(position, state[:, 1].T / TAU_S, state[:, 2].T / TAU_S**2, place_w)


class _Scales:
    """Inverse variances (n, 3) of position and velocity along the axes, zero where nothing is measured, and of jerk."""

    def __init__(self, rows: Rows, noise: Noise) -> None:
        self.place = np.tile(1.0 / np.square(noise.position_m), (len(rows.time_s), 1))
        self.place[:, 2] *= rows.has_height
        known = np.isfinite(rows.velocity_mps)
        self.velocity = known / np.square(noise.velocity_mps)
        self.reported = np.where(known, rows.velocity_mps, 0.0)
        self.jerk = 1.0 / (np.array(noise.jerk_psd_m2ps5) * TAU_S**5)


def _t_weight(misfit: Floats, dof: float, dimensions: int) -> Floats:
    """Weight of a squared, normalised residual under a Student-t law."""
    return np.asarray((dof + dimensions) / (dof + misfit))


def _place_weight(misfit: Floats, noise: Noise) -> Floats:
    """Weights (n, 3) of positions: one for both horizontal axes, as a latitude of one time and a longitude of another
    are wrong in both; one for the height."""
    level = _t_weight(misfit[:, 0] + misfit[:, 1], noise.measurement_dof, 2)
    return np.stack([level, level, _t_weight(misfit[:, 2], noise.measurement_dof, 1)], 1)


def _motion_blocks(h: Floats) -> tuple[Floats, Floats]:
    """Transition F and inverse covariance W (m, 3, 3) of position, velocity and acceleration over times h, for a jerk
    of unit PSD: the inverse of ∫ F B Bᵀ Fᵀ, in closed form."""
    one, zero = np.ones_like(h), np.zeros_like(h)
    f = np.array([[one, h, 0.5 * h**2], [zero, one, h], [zero, zero, one]])
    w = np.array(
        [
            [720 / h**5, -360 / h**4, 60 / h**3],
            [-360 / h**4, 192 / h**3, -36 / h**2],
            [60 / h**3, -36 / h**2, 9 / h],
        ]
    )
    return np.moveaxis(f, 2, 0), np.moveaxis(w, 2, 0)


def _jerk_misfit(state: Floats, link: Ints, motion: tuple[Floats, Floats], axes: Floats) -> Floats:
    """eᵀ W e along each axis (m, 3), where e is what the state does beyond its prediction from the one before."""
    f, w = motion
    off = state[link] - np.einsum("nij,njk->nik", f, state[link - 1])
    along = np.einsum("nax,ndx->nda", axes, off)
    return np.asarray(np.einsum("nda,nde,nea->na", along, w, along))


def _solved(
    rows: Rows, z: Floats, scale: _Scales, place_w: Floats, velocity_w: Floats, jerk_w: Floats, link: Ints,
    motion: tuple[Floats, Floats], between: Floats,
) -> Floats:  # fmt: skip
    """States (n, 3, 3): derivative by axis in ECEF, in units of TAU_S, that fit best under the weights given."""
    from scipy.linalg import solveh_banded

    f, w = motion
    n = len(z)
    diagonal = np.zeros((n, 3, 3, 3, 3))  # row, derivative, axis, derivative, axis
    right = np.zeros((n, 3, 3))
    for order, info, value in (
        (0, place_w * scale.place, z),
        (1, velocity_w * scale.velocity / TAU_S**2, scale.reported * TAU_S),
    ):
        diagonal[:, order, :, order, :] += np.einsum("na,nax,nay->nxy", info, rows.axes, rows.axes)
        right[:, order] += np.einsum("na,nax->nx", info * value, rows.axes)
    # A weak prior on acceleration at both ends, so that a flight of few rows has an answer.
    ends = np.setdiff1d(np.arange(n), np.intersect1d(link, link - 1), assume_unique=True)
    for axis in range(3):
        diagonal[ends, 2, axis, 2, axis] += 1.0 / (5.0 * TAU_S**2) ** 2
    spread = np.einsum("na,nax,nay->nxy", jerk_w * scale.jerk, between, between)
    wf = w @ f
    diagonal[link - 1] += np.einsum("nde,nxy->ndxey", np.swapaxes(f, 1, 2) @ wf, spread)
    diagonal[link] += np.einsum("nde,nxy->ndxey", w, spread)
    below = np.zeros((n, 9, 9))  # of row k + 1 with row k, kept at k
    below[link - 1] = -np.einsum("nde,nxy->ndxey", wf, spread).reshape(-1, 9, 9)
    band = _band(diagonal.reshape(n, 9, 9), below)
    solution: Any = solveh_banded(band, right.reshape(-1), lower=True, overwrite_ab=True, check_finite=False)
    return np.asarray(solution).reshape(n, 3, 3)


def _band(diagonal: Floats, below: Floats) -> Floats:
    """Lower diagonals (18, 9 n) of the block-tridiagonal matrix with these blocks (n, 9, 9)."""
    n = len(diagonal)
    band = np.zeros((_WIDTH, n, 9))
    for column in range(9):
        for row in range(column, 9):
            band[row - column, :, column] = diagonal[:, row, column]
        for row in range(9):
            band[9 + row - column, :, column] = below[:, row, column]
    return band.reshape(_WIDTH, 9 * n)
