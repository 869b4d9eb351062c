"""What a scenario file may say of a radar: every key with its type, unit, limits, default and source."""

from dataclasses import dataclass
from math import inf

from ssrtrack.simulators.blocks import REQUIRED, key
from ssrtrack.simulators.schema_effects import (
    Bias,
    Blanking,
    Cartesian,
    Clock,
    Fading,
    Failures,
    Jumps,
    Lobing,
    NorthStamp,
    Outage,
    Shielding,
    Tails,
    Transponder,
    Wobble,
)
from ssrtrack.simulators.schema_replies import (
    FalsePlots,
    Fruit,
    Garble,
    Reflector,
    Replies,
    RingAround,
    Split,
)

_ET1 = "SUR.ET1.ST01 (limit)"
_DOC9871 = "ICAO Doc 9871"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """White Gaussian measurement noise; the sigmas are also what the plots state."""

    sigma_range_m: float = key("float", 70.0, "m", "standard deviation of slant range", 0, 1e4, source=_ET1)
    sigma_azimuth_deg: float = key("float", 0.08, "deg", "standard deviation of azimuth", 0, 10, source=_ET1)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Independent detection in every scan."""

    probability: float = key("float", 0.97, "1", "probability of detection at full signal", 0, 1, source=_ET1)
    half_range_nm: float = key("float", inf, "NM", "slant range that halves the probability", 1, 1000)
    fluctuation_db: float = key("float", 3.0, "dB", "sigma of the signal about its mean", 0.1, 20)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Where a target can be seen at all."""

    min_range_nm: float = key("float", 0.5, "NM", "least slant range", 0, 256)
    max_range_nm: float = key("float", 60.0, "NM", "greatest slant range", 1, 256, source="I048/040 limit")
    min_elevation_deg: float = key("float", -90.0, "deg", "least elevation; -90 turns it off", -90, 45)
    max_elevation_deg: float = key("float", 50.0, "deg", "cone of silence above it; 90 turns it off", 1, 90)
    horizon: bool = key("bool", True, "", "radio horizon of a smooth earth of 4/3 radius", source="ITU-R P.310")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Rounding to the ASTERIX category 048 resolution, each separately."""

    range: bool = key("bool", True, "", "slant range in 1/256 NM", source="I048/040")
    azimuth: bool = key("bool", True, "", "azimuth in 360/65536 deg", source="I048/040")
    time: bool = key("bool", True, "", "time of day in 1/128 s", source="I048/140")
    altitude: bool = key("bool", True, "", "25 ft from Mode S, 100 ft from Mode C", source="I048/090, Annex 10 IV")
    bds: bool = key("bool", True, "", "registers in their own resolution", source=_DOC9871)


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Some plots carry a larger error than they state."""

    fraction: float = key("float", 0.0, "1", "share of plots that are outliers", 0, 1)
    scale: float = key("float", 10.0, "1", "factor on both sigmas of an outlier", 1, 1000)


@dataclass(frozen=True, kw_only=True)
class Registers:
    """Mode S registers read with every roll-call reply."""

    bds50: bool = key("bool", False, "", "BDS 5,0 track and turn report", source=_DOC9871)
    bds60: bool = key("bool", False, "", "BDS 6,0 heading and speed report", source=_DOC9871)


@dataclass(frozen=True, kw_only=True)
class RadarSpec:
    """One rotating secondary radar, azimuth from true north."""

    name: str = key("text", REQUIRED, "", "name in the log", 1, 32)
    profile: str = key("text", "", "", "profile that gives all keys not written here", 0, 32)
    latitude_deg: float = key("float", REQUIRED, "deg", "WGS84 latitude of the antenna", -85, 85)
    longitude_deg: float = key("float", REQUIRED, "deg", "WGS84 longitude of the antenna", -180, 180)
    height_m: float = key("float", 0.0, "m", "antenna height above the WGS84 ellipsoid", -500, 9000)
    sac: int = key("integer", 0, "1", "system area code", 0, 255, source="I048/010")
    sic: int = key("integer", 0, "1", "system identification code", 0, 255, source="I048/010")
    mode_s: bool = key("bool", True, "", "interrogates in Mode S; false: all aircraft answer it in Mode A/C")
    rotation_period_s: float = key("float", REQUIRED, "s", "time of one rotation", 0.5, 60)
    north_time_s: float = key("float", 0.0, "s", "when the beam first points north", 0, 60)
    rotation_jitter: float = key("float", 0.0, "1", "sigma of a north crossing's time, in periods", 0, 0.01)
    wobble: Wobble = key("block", Wobble(), "", "uneven rotation", block=Wobble)
    noise: Noise = key("block", Noise(), "", "random measurement error", block=Noise)
    tails: Tails = key("block", Tails(), "", "heavy tails of that error", block=Tails)
    outliers: Outliers = key("block", Outliers(), "", "outliers", block=Outliers)
    jumps: Jumps = key("block", Jumps(), "", "jumps", block=Jumps)
    bias: Bias = key("block", Bias(), "", "systematic measurement error", block=Bias)
    transponder: Transponder = key("block", Transponder(), "", "reply delay", block=Transponder)
    cartesian: Cartesian = key("block", Cartesian(), "", "noise on x and y, no radar's", block=Cartesian)
    detection: Detection = key("block", Detection(), "", "detection", block=Detection)
    lobing: Lobing = key("block", Lobing(), "", "vertical lobes of the antenna", block=Lobing)
    shielding: Shielding = key("block", Shielding(), "", "antenna hidden by the aircraft", block=Shielding)
    fading: Fading = key("block", Fading(), "", "correlated misses", block=Fading)
    coverage: Coverage = key("block", Coverage(), "", "coverage", block=Coverage)
    blanking: tuple[Blanking, ...] = key("blocks", (), "", "sectors without plots", block=Blanking)
    outage: tuple[Outage, ...] = key("blocks", (), "", "scheduled outages", block=Outage)
    failures: Failures = key("block", Failures(), "", "random outages", block=Failures)
    clock: Clock = key("block", Clock(), "", "error of the time stamp", block=Clock)
    north_stamp: NorthStamp = key("block", NorthStamp(), "", "error of the time of north", block=NorthStamp)
    quantisation: Quantisation = key("block", Quantisation(), "", "resolution", block=Quantisation)
    replies: Replies = key("block", Replies(), "", "what is read of the replies", block=Replies)
    garble: Garble = key("block", Garble(), "", "synchronous garble", block=Garble)
    false_plots: FalsePlots = key("block", FalsePlots(), "", "false plots", block=FalsePlots)
    fruit: Fruit = key("block", Fruit(), "", "replies to other radars", block=Fruit)
    split: Split = key("block", Split(), "", "split plots", block=Split)
    ring_around: RingAround = key("block", RingAround(), "", "replies to side lobes", block=RingAround)
    reflector: tuple[Reflector, ...] = key("blocks", (), "", "walls that mirror the beam", block=Reflector)
    registers: Registers = key("block", Registers(), "", "Mode S registers", block=Registers)
