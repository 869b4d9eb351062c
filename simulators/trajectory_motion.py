"""Motion over the ellipsoid, step by step, of a frame that moves with each aircraft.

The frame is n (up), f (forward along the track) and r (right), unit vectors in ECEF. A step turns it rigidly: by the
way flown forward and right over the radii of curvature N + h and M + h, then about n by the angle turned. n, f, r are
free of angles, so that a step needs neither sine nor cosine, and nothing fails at the poles but the coordinates.
"""

from dataclasses import dataclass

import numpy as np

from ssrtrack.geodesy import A_M, E2
from ssrtrack.simulators.legs import Floats, Ints, Start

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
SHARES: list[float] = (0.5 + 0.5 * _NODES).tolist()
WEIGHTS: list[float] = (0.5 * _WEIGHTS).tolist()


@dataclass(frozen=True)
class Steps:
    """I steps: way flown forward and right of the frame at the beginning (m), height on the way, angle turned."""

    forward_m: Floats
    right_m: Floats
    height_m: Floats
    turn_rad: Floats


def steps(length: Floats, height: Floats, climb: Floats, speed: Floats, turn: list[Floats]) -> Steps:
    """Way and angle of steps in which speed and climb (2, I) are linear, the turn rate quadratic; Gauss quadrature.

    Args:
        height: at the ends of each step (2, I).
        turn: rates of turn at the beginning, middle and end.
    """
    r0, rm, r1 = turn
    half, third = 0.5 * (4.0 * rm - 3.0 * r0 - r1), (2.0 / 3.0) * (r0 - 2.0 * rm + r1)
    dv, dw = speed[1] - speed[0], climb[1] - climb[0]
    forward, right, lifted, way = (np.zeros_like(length) for _ in range(4))
    for share, weight in zip(SHARES, WEIGHTS, strict=True):
        angle = share * length * (r0 + share * (half + share * third))
        flown = weight * (speed[0] + share * dv)
        forward += flown * np.cos(angle)
        right += flown * np.sin(angle)
        lifted += flown * (share * length) * (climb[0] + 0.5 * share * dw)
        way += flown
    total = length * (r0 + half + third)
    return Steps(length * forward, length * right, height[0] + lifted / way, total)


def frames(start: Start, counts: Ints, slot: tuple[Ints, Ints], s: Steps) -> tuple[Floats, Floats]:
    """Frames (3, 3, I) at both ends of every step: rows n, f, r, columns ECEF; all flights abreast."""
    shape = (int(counts.max()), len(counts))

    def padded(values: Floats, fill: float) -> Floats:
        out = np.full(shape, fill)
        out[slot] = values
        return out

    forward, right, height = padded(s.forward_m, 0.0), padded(s.right_m, 0.0), padded(s.height_m, 0.0)
    cosines, sines = padded(np.cos(s.turn_rad), 1.0), padded(np.sin(s.turn_rad), 0.0)
    x = np.empty((3, 3, shape[0] + 1, shape[1]))
    x[:, :, 0] = _first(start)
    for k in range(shape[0]):
        _move(x[:, :, k], forward[k], right[k], height[k], cosines[k], sines[k], x[:, :, k + 1])
    index, flight = slot
    flat, begin = x.reshape(3, 3, -1), index * shape[1] + flight
    return flat.take(begin, 2), flat.take(begin + shape[1], 2)


def _first(start: Start) -> Floats:
    """Frames (3, 3, F) where the flights begin."""
    s, c, sl, cl = (g(a) for a in (start.latitude_rad, start.longitude_rad) for g in (np.sin, np.cos))
    n = np.stack([c * cl, c * sl, s])
    east, north = np.stack([-sl, cl, 0.0 * sl]), np.stack([-s * cl, -s * sl, c])
    sx, cx = np.sin(start.track_rad), np.cos(start.track_rad)
    return np.stack([n, sx * east + cx * north, cx * east - sx * north])


def _move(x: Floats, forward: Floats, right: Floats, height: Floats, c: Floats, s: Floats, out: Floats) -> None:
    """Puts into `out` what a step makes of frames (3, 3, F); the radii of curvature are the means on the way."""
    nz, fz, rz = x[:, 2]
    # Half the way as an angle in latitude: with M to first order in the flattening.
    inverse = 0.5 / (height + A_M * (1.0 - E2) + (1.5 * A_M * E2) * (nz * nz))
    half_f, half_r = forward * inverse, right * inverse
    bend = half_f * half_f * (1.0 / 3.0)
    shrunk = 1.0 - 1.5 * bend
    nz, fz, rz = shrunk * nz + half_f * fz + half_r * rz, shrunk * fz - half_f * nz, rz - half_r * nz
    nn, ff = nz * nz, fz * fz
    # From half way to the mean on the way: squares of a sine and a cosine.
    bend *= ff - nn
    w2 = 1.0 - E2 * (nn + bend)
    n = A_M / np.sqrt(w2)
    across = 1.0 / (n + height)
    # How much more the way to the north turns the frame than the same way to the east.
    more = (E2 / w2) * n * across / ((1.0 - E2) / w2 * n + height)
    a = forward * across + more * (forward * (ff - bend) + right * (rz * fz))
    b = right * across + (more * rz) * (forward * fz + right * rz)
    square = a * a + b * b
    versine = 0.5 - square * (1.0 / 24.0)
    sine = 1.0 - square * (1.0 / 6.0 - square * (1.0 / 120.0))
    up, ahead, beside = x
    lean, tilt = sine * a, sine * b
    bow = versine * (a * ahead + b * beside)
    f = ahead - lean * up - a * bow
    r = beside - tilt * up - b * bow
    out[0] = up * (1.0 - versine * square) + lean * ahead + tilt * beside
    out[1] = c * f + s * r
    out[2] = c * r - s * f


@dataclass(frozen=True)
class Motion:
    """ECEF position, velocity, acceleration (3, n), and track angle with its rate (n,)."""

    position: Floats
    velocity: Floats
    acceleration: Floats
    track_rad: Floats
    track_rate_radps: Floats


def motion(x: Floats, h: Floats, v: Floats, w: Floats, turn: Floats, dv: Floats, dw: Floats) -> Motion:
    """Motion (n,) of frames (3, 3, n) at height h with speed v, climb w, their rates, and the rate of turn."""
    n, f, r = x
    nz, fz, rz = x[:, 2]
    w2 = 1.0 - E2 * (nz * nz)
    radius = A_M / np.sqrt(w2)
    across, along = 1.0 / (radius + h), 1.0 / ((1.0 - E2) / w2 * radius + h)
    more = v * fz * ((E2 / w2) * radius * across * along)
    a, b = v * across + more * fz, more * rz
    velocity = v * f + w * n
    acceleration = (dv + w * a) * f + (v * turn + w * b) * r + (dw - v * a) * n
    position = (radius + h) * n
    position[2] -= E2 * radius * nz
    meridian = -v * rz * nz * across / (1.0 - nz * nz)
    return Motion(position, velocity, acceleration, np.arctan2(-rz, fz), turn + meridian)
