"""What a scenario file may say of aircraft: every key with its type, unit, limits, default and source."""

from dataclasses import dataclass
from math import inf, nan

from ssrtrack.simulators.blocks import REQUIRED, key


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Random traffic: `number` aircraft in the air at any time inside a circle, manoeuvring at random."""

    name: str = key("text", "traffic", "", "for messages only", 1, 32)
    number: int = key("integer", REQUIRED, "1", "aircraft in the air at a time", 1, 20000)
    latitude_deg: float = key("float", nan, "deg", "centre; by default the first radar", -85, 85)
    longitude_deg: float = key("float", nan, "deg", "centre; by default the first radar", -180, 180)
    radius_nm: float = key("float", REQUIRED, "NM", "radius; at the edge aircraft turn back in", 1, 400)
    speed_kt: tuple[float, float] = key("pair", (200.0, 450.0), "kt", "ground speed", 40, 1200)
    flight_level: tuple[float, float] = key("pair", (50.0, 350.0), "FL", "level flown, in steps of 10", 0, 600)
    manoeuvres_per_hour: float = key("float", 12.0, "1/h", "3600 s over the mean straight time between them", 0, 360)
    turn_share: float = key("float", 0.6, "1", "share of manoeuvres with a turn", 0, 1)
    climb_share: float = key("float", 0.4, "1", "share of manoeuvres with a climb or descent", 0, 1)
    speed_share: float = key("float", 0.3, "1", "share of manoeuvres with a speed change", 0, 1)
    bank_deg: tuple[float, float] = key("pair", (15.0, 25.0), "deg", "bank angle", 1, 60, source="PANS-OPS: 25")
    turn_deg: tuple[float, float] = key("pair", (15.0, 120.0), "deg", "change of track, either way", 1, 360)
    max_turn_rate_dps: float = key("float", 3.0, "deg/s", "greatest rate of turn; limits the bank", 0.1, 20)
    climb_fpm: tuple[float, float] = key("pair", (1000.0, 2500.0), "ft/min", "rate of climb or descent", 100, 10000)
    acceleration_mps2: tuple[float, float] = key("pair", (0.2, 0.8), "m/s^2", "of a speed change", 0.01, 10)
    flight_time_s: tuple[float, float] = key("pair", (1200.0, 3600.0), "s", "time until another takes over", 60, 86400)
    mode_s_share: float = key("float", 1.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Part of a scripted flight; all that it asks starts at once and it ends when the last of that is done."""

    duration_s: float = key("float", 0.0, "s", "least duration", 0, 86400)
    turn_deg: float = key("float", 0.0, "deg", "change of track, right positive", -3600, 3600)
    bank_deg: float = key("float", 25.0, "deg", "bank of the turn", 1, 75)
    flight_level: float = key("float", nan, "FL", "level to climb or descend to", -10, 600)
    climb_fpm: float = key("float", 1500.0, "ft/min", "rate to get there", 50, 30000)
    speed_kt: float = key("float", nan, "kt", "ground speed to change to", 40, 1200)
    acceleration_mps2: float = key("float", 0.5, "m/s^2", "acceleration to get there", 0.01, 20)


@dataclass(frozen=True, kw_only=True)
class Aircraft:
    """One scripted aircraft."""

    callsign: str = key("text", "", "", "aircraft identification, A-Z 0-9; made up if empty", 0, 8)
    address: int = key("integer", -1, "1", "24-bit address; made up if absent", 0, 0xCFFFFF)
    mode3a: str = key("text", "", "", "Mode 3/A code, four octal digits; made up if empty", 0, 4)
    mode_s: bool = key("bool", True, "", "answers Mode S; false: Mode A/C only")
    start_s: float = key("float", 0.0, "s", "when it appears", 0, inf)
    end_s: float = key("float", inf, "s", "when it disappears; by default the end of the scenario", 0, inf)
    latitude_deg: float = key("float", REQUIRED, "deg", "WGS84 latitude at the start", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "WGS84 longitude at the start", -180, 180)
    flight_level: float = key("float", REQUIRED, "FL", "level at the start", -10, 600)
    speed_kt: float = key("float", REQUIRED, "kt", "ground speed at the start", 40, 1200)
    track_deg: float = key("float", REQUIRED, "deg", "track at the start, from true north", 0, 360)
    legs: tuple[Leg, ...] = key("blocks", (), "", "flown in order, then straight on", block=Leg)
