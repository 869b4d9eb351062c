"""What a scenario file may say: every block and key with its type, unit, limits, default and source.

The blocks are frozen dataclasses; the declaration beside each field is the one place where its rules stand. The parser
in `parse_block` and the tables of docs/scenario.md both read them from here.
"""

import datetime as dt
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from math import inf, isfinite, nan
from typing import Any

from ssrtrack.errors import ScenarioError


@dataclass(frozen=True)
class Key:
    """Rules of one key: `kind` is float, integer, bool, text, utc, pair (ascending), block or blocks."""

    kind: str
    unit: str
    meaning: str
    low: float = -inf
    high: float = inf
    source: str = ""
    block: type[Any] | None = None


def _key(kind: str, default: Any, unit: str, meaning: str, low: float = -inf, high: float = inf, **more: Any) -> Any:
    metadata = {"key": Key(kind, unit, meaning, low, high, **more)}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


REQUIRED: Any = MISSING
_ET1 = "SUR.ET1.ST01 (limit)"
_DOC9871 = "ICAO Doc 9871"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """White Gaussian measurement noise; the sigmas are also what the plots state."""

    sigma_range_m: float = _key("float", 70.0, "m", "standard deviation of slant range", 0, 1e4, source=_ET1)
    sigma_azimuth_deg: float = _key("float", 0.08, "deg", "standard deviation of azimuth", 0, 10, source=_ET1)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Independent detection in every scan."""

    probability: float = _key("float", 0.97, "1", "probability of detection inside the coverage", 0, 1, source=_ET1)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Where a target can be seen at all."""

    min_range_nm: float = _key("float", 0.5, "NM", "least slant range", 0, 256)
    max_range_nm: float = _key("float", 60.0, "NM", "greatest slant range", 1, 256, source="I048/040 limit")
    max_elevation_deg: float = _key("float", 50.0, "deg", "cone of silence above it; 90 turns it off", 1, 90)
    horizon: bool = _key("bool", True, "", "radio horizon of a smooth earth of 4/3 radius", source="ITU-R P.310")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Rounding to the ASTERIX category 048 resolution, each separately."""

    range: bool = _key("bool", True, "", "slant range in 1/256 NM", source="I048/040")
    azimuth: bool = _key("bool", True, "", "azimuth in 360/65536 deg", source="I048/040")
    time: bool = _key("bool", True, "", "time of day in 1/128 s", source="I048/140")
    altitude: bool = _key("bool", True, "", "25 ft from Mode S, 100 ft from Mode C", source="I048/090, Annex 10 IV")
    bds: bool = _key("bool", True, "", "registers in their own resolution", source=_DOC9871)


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Some plots carry a larger error than they state."""

    fraction: float = _key("float", 0.0, "1", "share of plots that are outliers", 0, 1)
    scale: float = _key("float", 10.0, "1", "factor on both sigmas of an outlier", 1, 1000)


@dataclass(frozen=True, kw_only=True)
class FalsePlots:
    """Plots without an aircraft, uniform over azimuth and over the area between the range limits."""

    per_scan: float = _key("float", 0.0, "1", "mean number in one rotation (Poisson)", 0, 1e4)


@dataclass(frozen=True, kw_only=True)
class Registers:
    """Mode S registers read with every roll-call reply."""

    bds50: bool = _key("bool", False, "", "BDS 5,0 track and turn report", source=_DOC9871)
    bds60: bool = _key("bool", False, "", "BDS 6,0 heading and speed report", source=_DOC9871)


@dataclass(frozen=True, kw_only=True)
class RadarSpec:
    """One rotating secondary radar, azimuth from true north."""

    name: str = _key("text", REQUIRED, "", "name in the log", 1, 32)
    latitude_deg: float = _key("float", REQUIRED, "deg", "WGS84 latitude of the antenna", -85, 85)
    longitude_deg: float = _key("float", REQUIRED, "deg", "WGS84 longitude of the antenna", -180, 180)
    height_m: float = _key("float", 0.0, "m", "antenna height above the WGS84 ellipsoid", -500, 9000)
    sac: int = _key("integer", 0, "1", "system area code", 0, 255, source="I048/010")
    sic: int = _key("integer", 0, "1", "system identification code", 0, 255, source="I048/010")
    rotation_period_s: float = _key("float", REQUIRED, "s", "time of one rotation", 0.5, 60)
    north_time_s: float = _key("float", 0.0, "s", "when the beam first points north", 0, 60)
    rotation_jitter: float = _key("float", 0.0, "1", "sigma of a north crossing's time, in periods", 0, 0.01)
    noise: Noise = _key("block", Noise(), "", "random measurement error", block=Noise)
    detection: Detection = _key("block", Detection(), "", "detection", block=Detection)
    coverage: Coverage = _key("block", Coverage(), "", "coverage", block=Coverage)
    quantisation: Quantisation = _key("block", Quantisation(), "", "resolution", block=Quantisation)
    outliers: Outliers = _key("block", Outliers(), "", "outliers", block=Outliers)
    false_plots: FalsePlots = _key("block", FalsePlots(), "", "false plots", block=FalsePlots)
    registers: Registers = _key("block", Registers(), "", "Mode S registers", block=Registers)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Random traffic: `number` aircraft in the air at any time inside a circle, manoeuvring at random."""

    name: str = _key("text", "traffic", "", "for messages only", 1, 32)
    number: int = _key("integer", REQUIRED, "1", "aircraft in the air at a time", 1, 20000)
    latitude_deg: float = _key("float", nan, "deg", "centre; by default the first radar", -85, 85)
    longitude_deg: float = _key("float", nan, "deg", "centre; by default the first radar", -180, 180)
    radius_nm: float = _key("float", REQUIRED, "NM", "radius; at the edge aircraft turn back in", 1, 400)
    speed_kt: tuple[float, float] = _key("pair", (200.0, 450.0), "kt", "ground speed", 40, 1200)
    flight_level: tuple[float, float] = _key("pair", (50.0, 350.0), "FL", "level flown, in steps of 10", 0, 600)
    manoeuvres_per_hour: float = _key("float", 12.0, "1/h", "3600 s over the mean straight time between them", 0, 360)
    turn_share: float = _key("float", 0.6, "1", "share of manoeuvres with a turn", 0, 1)
    climb_share: float = _key("float", 0.4, "1", "share of manoeuvres with a climb or descent", 0, 1)
    speed_share: float = _key("float", 0.3, "1", "share of manoeuvres with a speed change", 0, 1)
    bank_deg: tuple[float, float] = _key("pair", (15.0, 25.0), "deg", "bank angle", 1, 60, source="PANS-OPS: 25")
    turn_deg: tuple[float, float] = _key("pair", (15.0, 120.0), "deg", "change of track, either way", 1, 360)
    max_turn_rate_dps: float = _key("float", 3.0, "deg/s", "greatest rate of turn; limits the bank", 0.1, 20)
    climb_fpm: tuple[float, float] = _key("pair", (1000.0, 2500.0), "ft/min", "rate of climb or descent", 100, 10000)
    acceleration_mps2: tuple[float, float] = _key("pair", (0.2, 0.8), "m/s^2", "of a speed change", 0.01, 10)
    flight_time_s: tuple[float, float] = _key("pair", (1200.0, 3600.0), "s", "time until another takes over", 60, 86400)
    mode_s_share: float = _key("float", 1.0, "1", "share of aircraft with Mode S; others answer Mode A/C", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Leg:
    """Part of a scripted flight; all that it asks starts at once and it ends when the last of that is done."""

    duration_s: float = _key("float", 0.0, "s", "least duration", 0, 86400)
    turn_deg: float = _key("float", 0.0, "deg", "change of track, right positive", -3600, 3600)
    bank_deg: float = _key("float", 25.0, "deg", "bank of the turn", 1, 75)
    flight_level: float = _key("float", nan, "FL", "level to climb or descend to", -10, 600)
    climb_fpm: float = _key("float", 1500.0, "ft/min", "rate to get there", 50, 30000)
    speed_kt: float = _key("float", nan, "kt", "ground speed to change to", 40, 1200)
    acceleration_mps2: float = _key("float", 0.5, "m/s^2", "acceleration to get there", 0.01, 20)


@dataclass(frozen=True, kw_only=True)
class Aircraft:
    """One scripted aircraft."""

    callsign: str = _key("text", "", "", "aircraft identification, A-Z 0-9; made up if empty", 0, 8)
    address: int = _key("integer", -1, "1", "24-bit address; made up if absent", 0, 0xCFFFFF)
    mode3a: str = _key("text", "", "", "Mode 3/A code, four octal digits; made up if empty", 0, 4)
    mode_s: bool = _key("bool", True, "", "answers Mode S; false: Mode A/C only")
    start_s: float = _key("float", 0.0, "s", "when it appears", 0, inf)
    end_s: float = _key("float", inf, "s", "when it disappears; by default the end of the scenario", 0, inf)
    latitude_deg: float = _key("float", REQUIRED, "deg", "WGS84 latitude at the start", -85, 85)
    longitude_deg: float = _key("float", REQUIRED, "deg", "WGS84 longitude at the start", -180, 180)
    flight_level: float = _key("float", REQUIRED, "FL", "level at the start", -10, 600)
    speed_kt: float = _key("float", REQUIRED, "kt", "ground speed at the start", 40, 1200)
    track_deg: float = _key("float", REQUIRED, "deg", "track at the start, from true north", 0, 360)
    legs: tuple[Leg, ...] = _key("blocks", (), "", "flown in order, then straight on", block=Leg)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A whole scenario; `text` is the file it came from, kept for the log."""

    description: str = _key("text", "", "", "one line about the scenario", 0, 400)
    epoch: dt.datetime = _key("utc", REQUIRED, "", "UTC date and time of time_s = 0, whole seconds")
    duration_s: float = _key("float", REQUIRED, "s", "length", 1, 1e7)
    truth_step_s: float = _key("float", 2.0, "s", "grid of the truth rows", 0.1, 10)
    turbulence_m2ps3: float = _key("float", 0.0, "m^2/s^3", "PSD of white horizontal acceleration, per axis", 0, 100)
    roll_rate_dps: float = _key("float", 5.0, "deg/s", "of rolling into and out of turns", 0.5, 90)
    vertical_acceleration_mps2: float = _key("float", 0.5, "m/s^2", "of levelling off and starting a climb", 0.05, 20)
    magnetic_variation_deg: float = _key("float", 0.0, "deg", "east positive, for BDS 6,0", -180, 180)
    radar: tuple[RadarSpec, ...] = _key("blocks", REQUIRED, "", "radars, at least one", block=RadarSpec)
    traffic: tuple[Flow, ...] = _key("blocks", (), "", "random traffic", block=Flow)
    aircraft: tuple[Aircraft, ...] = _key("blocks", (), "", "scripted aircraft", block=Aircraft)
    name: str = ""
    text: str = ""


def keys_of(block: type[Any]) -> dict[str, tuple[Key, Any]]:
    """Rules and default (REQUIRED if it has none) of each key of a block, in file order."""
    return {f.name: (f.metadata["key"], f.default) for f in fields(block) if "key" in f.metadata}


def parse_block(block: type[Any], table: Any, where: str, **extra: Any) -> Any:
    """A block from its TOML table.

    Raises:
        ScenarioError: unknown or missing key, wrong type, value out of range; names `where`, the key and the remedy.
    """
    if not isinstance(table, dict):
        raise ScenarioError(f"{where}: found {_shown(table)}, expected a table of keys")
    known = keys_of(block)
    for name in table:
        if name not in known:
            raise ScenarioError(f"{where}: unknown key {name!r}{_suggestion(name, list(known))}")
    missing = [name for name, (_, default) in known.items() if default is REQUIRED and name not in table]
    if missing:
        rule = known[missing[0]][0]
        raise ScenarioError(f"{where}: key {missing[0]!r} is missing; give {_expected(rule)} ({rule.meaning})")
    values = {name: _value(known[name][0], value, f"{where}.{name}") for name, value in table.items()}
    return block(**values, **extra)


def _value(rule: Key, value: Any, where: str) -> Any:
    if rule.kind == "block":
        return parse_block(_block(rule), value, where)
    if rule.kind == "blocks":
        if not isinstance(value, list):
            block = where.split(".")[-1]
            raise ScenarioError(f"{where}: found {_shown(value)}, expected a list of tables ([[{block}]])")
        return tuple(parse_block(_block(rule), v, f"{where}[{i}]") for i, v in enumerate(value))
    if rule.kind == "pair":
        return _pair(rule, value, where)
    checks = {"float": _is_number, "integer": _is_integer, "bool": _is_bool, "text": _is_text, "utc": _is_utc}
    if not checks[rule.kind](value):
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    size = len(value) if rule.kind == "text" else value
    if rule.kind in ("float", "integer", "text") and not rule.low <= size <= rule.high:
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    return float(value) if rule.kind == "float" else value


def _block(rule: Key) -> type[Any]:
    return rule.block or object


def _pair(rule: Key, value: Any, where: str) -> tuple[float, float]:
    good = isinstance(value, list) and len(value) == 2 and all(_is_number(v) for v in value)
    if not good or not rule.low <= value[0] <= value[1] <= rule.high:
        raise ScenarioError(f"{where}: found {_shown(value)}, expected {_expected(rule)}")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_utc(value: Any) -> bool:
    return (
        isinstance(value, dt.datetime)
        and value.tzinfo is not None
        and value.utcoffset() == dt.timedelta(0)
        and value.microsecond == 0
    )


def allowed(rule: Key) -> str:
    """The values a key may take, in words."""
    unit = f" {rule.unit}" if rule.unit not in ("", "1") else ""
    limits = f"{rule.low:g} to {rule.high:g}{unit}"
    return {
        "float": limits,
        "integer": limits,
        "bool": "true or false",
        "text": f"{rule.low:g} to {rule.high:g} characters",
        "utc": "in whole seconds, such as 2025-06-01T10:00:00Z",
        "pair": f"[low, high], {limits}",
        "block": "a table",
        "blocks": "a list of tables",
    }[rule.kind]


def _expected(rule: Key) -> str:
    noun = {"float": "a number, ", "integer": "an integer, ", "text": "a text of ", "utc": "a UTC time, "}
    return noun.get(rule.kind, "") + allowed(rule)


def _suggestion(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({type(value).__name__})"
