"""A radar's look at a crowd of aircraft anywhere, so that an effect can be tried on its own without flying."""

import numpy as np

from ssrtrack.simulators.blocks import parse_block
from ssrtrack.simulators.look import Look, Meetings
from ssrtrack.simulators.schema_radar import RadarSpec
from ssrtrack.simulators.traffic import Fleet
from ssrtrack.simulators.trajectory import Paths
from ssrtrack.units import NM_M

SURE = 1e-5  # chance that a right simulator fails a check; the seeds are fixed, so it does so always or never
OFF = {"noise": {"sigma_range_m": 0.0, "sigma_azimuth_deg": 0.0}, "detection": {"probability": 1.0}}
PERIOD_S = 4.0


def spec_with(**blocks) -> RadarSpec:
    """A radar without any effect but those given, each block as a table."""
    place = {"name": "R", "latitude_deg": 50.0, "longitude_deg": 10.0, "rotation_period_s": PERIOD_S}
    return parse_block(RadarSpec, place | OFF | blocks, "test")


def look_with(flights=200, rotations=200, seed=1, radar_id=0, first=0, mode_s=True, bank=0.0, **blocks) -> Look:
    """A look at flights that all fly north with a bank angle, through rotations from number `first` on."""
    none = np.zeros(flights)
    scalars = np.zeros((10, flights))
    scalars[5] = bank
    paths = Paths(
        none, none + 1e7, np.arange(flights + 1), none, none + 1e7, np.zeros((6, 3, flights)), scalars,
        np.zeros(flights, np.uint8), np.ones(flights, bool),
    )  # fmt: skip
    ids = np.arange(flights)
    fleet = Fleet(
        ids, np.stack([0 * ids, ids % 20, ids // 20], 1), np.broadcast_to(mode_s, flights).copy(), ids, ids,
        np.full(flights, b"X", "S8"),
    )  # fmt: skip
    north_s = PERIOD_S * (first + np.arange(rotations + 1.0))
    return Look(seed, radar_id, spec_with(**blocks), first, north_s, paths, fleet, 0.0)


def meetings_of(look: Look, elevation_rad=0.02, azimuth_rad=None) -> Meetings:
    """One meeting of every flight in every rotation, at places spread evenly over 1 to 200 NM and all azimuths."""
    rotations, flights = len(look.north_s) - 1, len(look.fleet.truth_id)
    flight, scan = (x.ravel() for x in np.mgrid[:flights, :rotations])
    rng = np.random.default_rng(99)
    slant = NM_M * rng.uniform(1.0, 200.0, len(flight))
    azimuth = rng.uniform(0.0, 2 * np.pi, len(flight)) if azimuth_rad is None else np.full(len(flight), azimuth_rad)
    elevation = np.broadcast_to(elevation_rad, len(flight)) + 0.0
    ground = slant * np.cos(elevation)
    enu = np.stack([ground * np.sin(azimuth), ground * np.cos(azimuth), slant * np.sin(elevation)])
    time_s = look.north_s[scan] + azimuth / (2 * np.pi) * PERIOD_S
    turn = 2 * (look.first_rotation + scan)
    return Meetings(flight, flight, scan, turn, time_s, enu, slant, azimuth, elevation, slant * 0.0 + 9000.0)
