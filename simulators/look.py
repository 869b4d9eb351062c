"""What the effects of a radar work on: one radar during some rotations, and the aircraft that its beam meets."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.simulators.draws import ANY_RADAR, NO_FLIGHT, normals, uniforms
from ssrtrack.simulators.legs import Floats, Ints
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.schema_replies import Identity
from ssrtrack.simulators.timing import beam_time
from ssrtrack.simulators.traffic import Fleet
from ssrtrack.simulators.trajectory import Paths

Columns = dict[str, Any]  # columns of the Plots table by name, all of one length, before they are rounded


@dataclass(frozen=True)
class Look:
    """One radar during the rotations bounded by `north_s` (S + 1,), and the F flights in the air meanwhile.

    Rotation s of these has number `first_rotation` + s, whatever the blocks of work are.
    """

    seed: int
    radar_id: int
    spec: RadarSpec
    first_rotation: int
    north_s: Floats
    paths: Paths
    fleet: Fleet
    variation_rad: float
    identity: Identity = Identity()
    coordinate_rms_m: Floats | None = None  # (2, F), where the scenario asks for noise on x and y

    @property
    def mode_s(self) -> NDArray[np.bool_]:
        """Which flights (F,) answer this radar in Mode S."""
        return np.asarray(self.fleet.mode_s & self.spec.mode_s)

    def beam_time(self, azimuth_rad: Floats, scan: Ints) -> Floats:
        """Time at which the beam points to azimuths (n,) in [0, 2π) during rotations `scan` (n,) of these."""
        return beam_time(azimuth_rad, scan, self.north_s, self.spec.wobble)

    def uniforms(self, effect: str, met: "Meetings", lane: int = 0) -> Floats:
        """Two uniform numbers in [0, 1) for each meeting, (2, n)."""
        return uniforms(self.seed, effect, self.radar_id, self.fleet.who[met.flight], met.turn, lane)

    def normals(self, effect: str, met: "Meetings", lane: int = 0) -> Floats:
        """Two standard normal numbers for each meeting, (2, n)."""
        return normals(self.seed, effect, self.radar_id, self.fleet.who[met.flight], met.turn, lane)

    def per_flight(self, effect: str, lane: int = 0) -> Floats:
        """Two uniform numbers for each flight of the fleet, (2, F): the same all its life and at every radar."""
        return uniforms(self.seed, effect, ANY_RADAR, self.fleet.who, 0, lane)

    def per_rotation(self, effect: str, lane: int = 0) -> Floats:
        """Two uniform numbers for each rotation, (2, S)."""
        turns = 2 * (self.first_rotation + np.arange(len(self.north_s) - 1))
        who = np.broadcast_to(np.array(NO_FLIGHT), (len(turns), 3))
        return uniforms(self.seed, effect, self.radar_id, who, turns, lane)


@dataclass(frozen=True)
class Meetings:
    """Meetings of the beam with n aircraft inside the coverage, each column (n,), `enu_m` (3, n) at the radar.

    `flight` is the row in Look.fleet and Look.paths, `piece` that in the paths' pieces, `scan` the rotation counted
    from Look.north_s[0]; `turn` is twice the rotation's number, plus one if it is the flight's second meeting in that
    rotation. The values are exact: neither noise nor bias nor latency is in them.
    """

    flight: Ints
    piece: Ints
    scan: Ints
    turn: Ints
    time_s: Floats
    enu_m: Floats
    range_m: Floats
    azimuth_rad: Floats
    elevation_rad: Floats
    height_m: Floats

    def __len__(self) -> int:
        return len(self.flight)

    def take(self, rows: Any) -> Self:
        """Some of the meetings: a mask or indices."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return type(self)(*(getattr(self, f.name).take(rows, -1) for f in fields(self)))
