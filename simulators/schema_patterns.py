"""What a scenario file may say of patterned traffic: arrivals, departures, crossing streams, low flying.

Speeds of arrivals and departures are indicated: ground speed grows with height, as the air thins (still air).
"""

from dataclasses import dataclass

from ssrtrack.simulators.blocks import REQUIRED, key

SIDES = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A holding stack over the fix where arrivals enter."""

    inbound_deg: float = key("float", REQUIRED, "deg", "course towards the fix", 0, 360)
    turns: str = key("choice", "right", "", "side of the racetrack", choices=SIDES, source="Doc 8168: right")
    flight_level: tuple[float, float] = key("pair", (70.0, 110.0), "FL", "lowest and highest, 1,000 ft apart", 10, 300)
    circuits: int = key("integer", 1, "1", "racetracks on each level", 1, 20)
    speed_kt: float = key("float", 220.0, "kt", "indicated airspeed", 120, 265, source="Doc 8168: 230 to FL140")


@dataclass(frozen=True, kw_only=True)
class Approach:
    """A stream of arrivals to one runway, or in pairs to two parallel ones."""

    name: str = key("text", "approach", "", "for messages only", 1, 32)
    latitude_deg: float = key("float", REQUIRED, "deg", "landing threshold", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "landing threshold", -180, 180)
    height_m: float = key("float", 0.0, "m", "of the threshold", -500, 5000)
    runway_deg: float = key("float", REQUIRED, "deg", "direction of landing, from true north", 0, 360)
    interval_s: tuple[float, float] = key("pair", (90.0, 150.0), "s", "between landings, or into the hold", 20, 7200)
    entry_deg: float = key("float", REQUIRED, "deg", "bearing of the entry fix from the threshold", 0, 360)
    entry_nm: float = key("float", 40.0, "NM", "distance of the entry fix from the threshold", 10, 150)
    flight_level: tuple[float, float] = key("pair", (90.0, 130.0), "FL", "at the entry, without a hold", 40, 300)
    join: str = key("choice", "base", "", "how the final is reached", choices=("downwind", "base", "straight"))
    side: str = key("choice", "left", "", "of downwind and base, seen when landing", choices=SIDES)
    width_nm: float = key("float", 5.0, "NM", "downwind from the centre line", 3, 20)
    intercept_ft: float = key("float", 3000.0, "ft", "above the threshold where the glide path is met", 1500, 8000)
    intercept_nm: float = key("float", 3.0, "NM", "straight before that, on the centre line", 2, 30)
    glide_deg: float = key("float", 3.0, "deg", "of the glide path", 2, 6, source="Annex 10 I: 3")
    landing_kt: tuple[float, float] = key("pair", (128.0, 145.0), "kt", "indicated airspeed at the threshold", 50, 200)
    go_around_share: float = key("float", 0.0, "1", "share that climbs away; others end at 50 ft", 0, 1)
    parallel_m: float = key(
        "float", 0.0, "m", "a second runway this far right; arrivals then come in pairs; 0: none", 0, 5000,
        source="Doc 9643: 1035, 915, 1525",
    )  # fmt: skip
    stagger_s: tuple[float, float] = key("pair", (0.0, 0.0), "s", "by which the right one lands after the left", 0, 60)
    hold: Hold | None = key("block", None, "", "all pass a holding stack at the entry fix", block=Hold)
    mode_s_share: float = key("float", 1.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A stream of departures from one runway."""

    name: str = key("text", "departure", "", "for messages only", 1, 32)
    latitude_deg: float = key("float", REQUIRED, "deg", "lift-off", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "lift-off", -180, 180)
    height_m: float = key("float", 0.0, "m", "of the runway", -500, 5000)
    runway_deg: float = key("float", REQUIRED, "deg", "direction of take-off, from true north", 0, 360)
    interval_s: tuple[float, float] = key("pair", (90.0, 150.0), "s", "between take-offs", 20, 7200)
    turn_ft: tuple[float, float] = key(
        "pair", (1000.0, 3000.0), "ft", "above the runway where the turn begins", 400, 9000
    )
    exit_deg: tuple[float, float] = key("pair", REQUIRED, "deg", "track after the turn", 0, 720)
    level_off: tuple[float, float] = key("pair", (50.0, 90.0), "FL", "flown level for a while, in steps of 10", 20, 200)
    level_s: tuple[float, float] = key("pair", (0.0, 120.0), "s", "time on that level", 0, 1200)
    bend_deg: tuple[float, float] = key("pair", (-40.0, 40.0), "deg", "turn after that, right positive", -120, 120)
    flight_level: tuple[float, float] = key("pair", (160.0, 280.0), "FL", "then climbed to, in steps of 10", 40, 360)
    climb_fpm: tuple[float, float] = key("pair", (1500.0, 3000.0), "ft/min", "rate of climb", 300, 6000)
    distance_nm: float = key("float", 60.0, "NM", "flown until it leaves", 10, 300)
    mode_s_share: float = key("float", 1.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Pairs of aircraft on straight tracks that come closest at a point: the test case of association."""

    name: str = key("text", "crossing", "", "for messages only", 1, 32)
    latitude_deg: float = key("float", REQUIRED, "deg", "where the first of a pair passes", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "where the first of a pair passes", -180, 180)
    interval_s: tuple[float, float] = key("pair", (100.0, 200.0), "s", "between pairs", 10, 7200)
    track_deg: tuple[float, float] = key("pair", (0.0, 360.0), "deg", "of the first at the point", 0, 720)
    angle_deg: tuple[float, float] = key("pair", (20.0, 160.0), "deg", "from its track to the other's", 5, 180)
    miss_nm: tuple[float, float] = key("pair", (0.0, 1.0), "NM", "least horizontal distance, either side", 0, 20)
    flight_level: tuple[float, float] = key("pair", (280.0, 360.0), "FL", "of the first, in steps of 10", 10, 500)
    level_step_ft: tuple[float, float] = key("pair", (0.0, 0.0), "ft", "that the other is above it", -5000, 5000)
    speed_kt: tuple[float, float] = key("pair", (380.0, 500.0), "kt", "ground speed of either", 40, 1200)
    distance_nm: float = key("float", 60.0, "NM", "flown before the point and after it", 5, 200)
    mode_s_share: float = key("float", 1.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)


@dataclass(frozen=True, kw_only=True)
class LowLevel:
    """Fast low flying that follows the ground: `number` aircraft in the air at any time inside a circle."""

    name: str = key("text", "low level", "", "for messages only", 1, 32)
    number: int = key("integer", REQUIRED, "1", "aircraft in the air at a time", 1, 20000)
    latitude_deg: float = key("float", REQUIRED, "deg", "centre", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "centre", -180, 180)
    radius_nm: float = key("float", 30.0, "NM", "radius; at the edge aircraft turn back in", 5, 400)
    ground_m: float = key("float", 0.0, "m", "height of the lowest ground", -500, 5000)
    height_ft: tuple[float, float] = key("pair", (500.0, 2000.0), "ft", "above that, as the ground rises", 100, 10000)
    climb_fpm: tuple[float, float] = key("pair", (1500.0, 6000.0), "ft/min", "to follow the ground", 100, 20000)
    speed_kt: tuple[float, float] = key("pair", (420.0, 480.0), "kt", "ground speed", 100, 1200)
    bank_deg: tuple[float, float] = key("pair", (45.0, 60.0), "deg", "bank angle", 5, 75)
    turn_deg: tuple[float, float] = key("pair", (30.0, 150.0), "deg", "change of track, either way", 1, 360)
    turns_per_hour: float = key("float", 60.0, "1/h", "3600 s over the mean straight time between them", 0, 360)
    speed_share: float = key("float", 0.2, "1", "share of turns with a speed change", 0, 1)
    flight_time_s: tuple[float, float] = key("pair", (600.0, 1800.0), "s", "time until another takes over", 60, 86400)
    mode_s_share: float = key("float", 0.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)
