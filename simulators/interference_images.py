"""Plots of an aircraft where it is not, though at its range or further: reflections and ring-around.

They are measured like any other plot, with the radar's bias, the transponder's delay and noise of their own.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import FALSE_PLOT
from ssrtrack.geodesy import enu_rotation, geodetic_to_ecef
from ssrtrack.simulators.effects_measurement import measured
from ssrtrack.simulators.interference_counts import several
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.look import Columns, Look, Meetings
from ssrtrack.simulators.schema_replies import Reflector
from ssrtrack.simulators.timing import TWO_PI
from ssrtrack.units import DEG_RAD, NM_M

Bools = NDArray[np.bool_]
_ROUNDS = 6  # the azimuth of an image moves by a fraction of a per cent of the beam's: each round gains two digits
_SETTLED_S = 1e-6
FASTEST_MPS = 1000.0
_MOST_AROUND = 200  # images of one meeting by ring-around
_IMAGES = 1 << 24  # turns below it (a year of 4 s scans) are direct; an image has draws of its own


def ring_around(look: Look, met: Meetings, sent: Columns) -> Columns:
    """Replies of near aircraft to the antenna's side lobes: their range and identity, at any azimuth."""
    rules = look.spec.ring_around
    near = np.flatnonzero(met.range_m <= rules.max_range_nm * NM_M)
    source, nth, u, _ = several(look, met.take(near), "ring-around", rules.per_plot)
    rows = near[source]
    azimuth, scan = TWO_PI * u[0], met.scan[rows]
    time_s = look.beam_time(azimuth, scan)
    place = position(look, met.flight[rows], time_s)
    image = _image(met.take(rows), time_s, place, azimuth, 1 + nth % (_MOST_AROUND - 1))
    return _plots(look, image, {name: value[rows] for name, value in sent.items()}, _flying(look, image))


def reflections(look: Look, met: Meetings, sent: Columns, number: int) -> Columns:
    """Replies that come by way of a wall: the aircraft mirrored in it, at the mirror image's azimuth and slant range.

    Interrogation and reply both go by the wall, so the range measured is the length of the broken way: exactly the
    distance of the mirror image. The wall's edges bound where the beam can meet it.
    """
    wall = look.spec.reflector[number]
    chance = look.uniforms("reflection", met, number)[0] < wall.probability
    # Within a rotation of the direct meeting the beam comes to the wall, and the aircraft has flown on.
    rows = np.flatnonzero(chance & mirrored(wall, met.enu_m, FASTEST_MPS * 1.1 * look.spec.rotation_period_s)[1])
    seen = met.take(rows)
    time_s, settled = seen.time_s, np.zeros(len(rows), bool)
    for _ in range(_ROUNDS):
        place, _ = mirrored(wall, position(look, seen.flight, time_s))
        azimuth = np.arctan2(place[0], place[1]) % TWO_PI
        later = look.beam_time(azimuth, seen.scan)
        settled, time_s = np.abs(later - time_s) < _SETTLED_S, later
    image = _image(seen, time_s, place, azimuth, _MOST_AROUND + number)
    keep = settled & mirrored(wall, position(look, seen.flight, time_s))[1] & _flying(look, image)
    return _plots(look, image, {name: value[rows] for name, value in sent.items()}, keep)


def mirrored(wall: Reflector, enu_m: Floats, slack_m: float = 0.0) -> tuple[Floats, Bools]:
    """Mirror images (3, n) of positions (3, n), and which of them the radar at the origin sees in the wall.

    With `slack_m`: which it may see after a flight of that length.
    """
    normal = _direction(wall.facing_deg)
    foot = wall.distance_m * _direction(wall.bearing_deg)
    along = np.array([normal[1], -normal[0]])
    radar = -float(normal @ foot)  # how far in front of the wall the radar is
    front = normal @ (enu_m[:2] - foot[:, None])
    image = enu_m.copy()
    image[:2] -= 2.0 * front * normal[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        way = radar / (radar + front)  # share of the way to the image at which the beam meets the wall
        across = along @ (way * image[:2] - foot[:, None])
        height = way * image[2]
        spare = way * slack_m
    hit = np.abs(across) <= 0.5 * wall.width_m + spare
    hit &= (height >= wall.bottom_m - spare) & (height <= wall.top_m + spare)
    return image, hit & (front > -slack_m) & (radar > 0.0)


def position(look: Look, flight: Ints, time_s: Floats) -> Floats:
    """Positions (3, n) of flights at times, in the radar's east-north-up axes."""
    spec = look.spec
    latitude, longitude = spec.latitude_deg * DEG_RAD, spec.longitude_deg * DEG_RAD
    ecef, _ = look.paths.motion(look.paths.locate(flight, time_s), time_s)
    site = np.asarray(geodetic_to_ecef(latitude, longitude, spec.height_m))
    return np.asarray(enu_rotation(latitude, longitude) @ (ecef - site[:, None]))


def _image(met: Meetings, time_s: Floats, enu_m: Floats, azimuth_rad: Floats, number: Ints | int) -> Meetings:
    """Meetings with what is seen elsewhere and at another time."""
    ground = np.hypot(enu_m[0], enu_m[1])
    return replace(
        met,
        turn=met.turn + number * _IMAGES,
        time_s=time_s,
        enu_m=enu_m,
        range_m=np.sqrt(np.sum(enu_m**2, axis=0)),
        azimuth_rad=azimuth_rad,
        elevation_rad=np.arctan2(enu_m[2], ground),
    )


def _flying(look: Look, met: Meetings) -> Bools:
    start_s, end_s = look.paths.start_s[met.flight], look.paths.end_s[met.flight]
    return np.asarray((met.time_s >= start_s) & (met.time_s < end_s))


def _plots(look: Look, image: Meetings, identity: Columns, keep: Bools) -> Columns:
    """Columns of the images that are kept, as far as the radar's greatest range."""
    keep = keep & (image.range_m <= look.spec.coverage.max_range_nm * NM_M)
    image = image.take(keep)
    identity = {name: value[keep] for name, value in identity.items()}
    return (
        identity
        | measured(look, image)
        | {
            "time_s": image.time_s,
            "radar_id": np.full(len(image), look.radar_id),
            "truth_id": np.full(len(image), FALSE_PLOT),
        }
    )


def _direction(azimuth_deg: float) -> Floats:
    """Unit vector (2,), east and north, of an azimuth."""
    return np.array([np.sin(azimuth_deg * DEG_RAD), np.cos(azimuth_deg * DEG_RAD)])
