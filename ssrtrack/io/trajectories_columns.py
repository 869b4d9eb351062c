"""Columns of trajectory files under their many names, as SI arrays; the unit belongs to the name, nothing is guessed
from the size of a value but the unit of a numeric time, which decides itself."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import DataError
from ssrtrack.units import DEG_RAD, FPM_MPS, FT_M, KT_MPS

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Columns = dict[str, Array]
# Our column: the names it may have in a file, with the factor to SI. The first one present is taken.
_NUMBERS: dict[str, dict[str, float]] = {
    "latitude_deg": {"latitude": 1.0, "lat": 1.0},
    "longitude_deg": {"longitude": 1.0, "lon": 1.0},
    "altitude_m": {"altitude": FT_M, "baroaltitude": 1.0},
    "ground_speed_mps": {"groundspeed": KT_MPS, "velocity": 1.0},
    "track_angle_rad": {"track": DEG_RAD, "heading": DEG_RAD},
    "vertical_rate_mps": {"vertical_rate": FPM_MPS, "vertrate": 1.0},
}
_TIMES = {"time_s": ("timestamp", "time"), "position_time_s": ("lastposupdate", "last_position")}
_GEOMETRIC = "geoaltitude"  # feet in a `traffic` file, metres in a state vector
TEXT_NAMES = ("icao24", "callsign", "squawk", "flight_id")
KNOWN_NAMES = frozenset(
    {name for names in (*_NUMBERS.values(), *_TIMES.values()) for name in names} | {*TEXT_NAMES, "onground", _GEOMETRIC}
)
_REQUIRED = {"time_s": "timestamp", "latitude_deg": "latitude", "longitude_deg": "longitude"}
_WORDS = {"true": True, "false": False, "t": True, "f": False, "1": True, "0": False, "": False}
# A number of seconds above the first bound lies after the year 5138: it is milliseconds; and so on.
_TIME_UNITS = ((1e11, 1.0), (1e14, 1e-3), (1e17, 1e-6), (np.inf, 1e-9))


def to_columns(frame: "pd.DataFrame", where: str) -> tuple[Columns, tuple[str, ...]]:
    """Columns (n,) by our names, in SI and seconds since 1970 (UTC), and notes on what stands for what.

    Always there: time_s, latitude_deg, longitude_deg, altitude_m, address, callsign, mode3a. Only if given: the
    reported motion, onground, position_time_s, flight.

    Raises:
        DataError: a required column is missing, or one holds what it cannot mean; `where` begins the message.
    """
    names = set(frame.columns)
    columns: Columns = {}
    for ours, choices in _TIMES.items():
        if name := next((c for c in choices if c in names), None):
            columns[ours] = _seconds(frame[name], f"{where}: column {name!r}")
    for ours, factors in _NUMBERS.items():
        if name := next((c for c in factors if c in names), None):
            columns[ours] = _numbers(frame[name], f"{where}: column {name!r}") * factors[name]
    missing = [f"{ours!r}" for key, ours in _REQUIRED.items() if key not in columns]
    missing += ["'icao24'"] if "icao24" not in names else []
    if missing:
        raise DataError(
            f"{where}: no column {' or '.join(missing)}; found {', '.join(map(str, sorted(names))) or 'none'} "
            "(docs/trajectories.md names the columns that are known)"
        )
    columns["altitude_m"], notes = _altitude(frame, columns, where)
    columns["address"] = _coded(frame["icao24"], _address, -1)
    columns["callsign"] = _coded(frame["callsign"], _callsign, b"") if "callsign" in names else _blank(frame, b"")
    columns["mode3a"] = _coded(frame["squawk"], _squawk, -1) if "squawk" in names else _blank(frame, -1)
    if "flight_id" in names:
        columns["flight"] = frame["flight_id"].factorize()[0]
    if "onground" in names:
        columns["onground"] = _truths(frame["onground"], f"{where}: column 'onground'")
    if "position_time_s" in columns:
        notes = (*notes, "times are those of the last position update")
    return columns, notes


def _altitude(frame: "pd.DataFrame", columns: Columns, where: str) -> tuple[Array, tuple[str, ...]]:
    """Pressure altitude, which is what a transponder reports; geometric altitude only if there is no other at all."""
    if "altitude_m" in columns:
        return columns["altitude_m"], ()
    if _GEOMETRIC not in frame.columns:
        raise DataError(f"{where}: no column 'altitude' (ft), 'baroaltitude' (m) or 'geoaltitude'")
    unit = FT_M if {"timestamp", "latitude", "groundspeed"} & set(frame.columns) else 1.0
    values = _numbers(frame[_GEOMETRIC], f"{where}: column {_GEOMETRIC!r}") * unit
    return values, ("no pressure altitude in the file: geometric altitude stands for it",)


def _numbers(series: "pd.Series[Any]", where: str) -> Array:
    import pandas as pd

    try:
        return np.asarray(pd.to_numeric(series).to_numpy("f8", na_value=np.nan))
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: expected numbers ({error})") from error


def _seconds(series: "pd.Series[Any]", where: str) -> Array:
    """Seconds since 1970 from numbers (s, ms, µs or ns), dates or ISO 8601 texts; NaN where there is none."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(series):
        values = _numbers(series, where)
        size = float(np.nanmedian(np.abs(values))) if np.isfinite(values).any() else 0.0
        return values * next(factor for bound, factor in _TIME_UNITS if size <= bound)
    try:
        if pd.api.types.is_datetime64_any_dtype(series):
            times = pd.to_datetime(series, utc=True)
        else:
            times = pd.to_datetime(series, utc=True, format="ISO8601")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: expected times as ISO 8601 (2025-06-01T10:00:00Z) or as numbers since 1970 "
            f"({str(error).split('. ')[0]})"  # pandas goes on about its own arguments
        ) from error
    since = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return np.asarray(since.to_numpy("f8", na_value=np.nan))


def _truths(series: "pd.Series[Any]", where: str) -> Array:
    import pandas as pd

    if pd.api.types.is_bool_dtype(series):
        return np.asarray(series.fillna(False).to_numpy(bool))
    if pd.api.types.is_numeric_dtype(series):
        return np.asarray(series.fillna(0).to_numpy() != 0)
    words = series.astype(object).where(series.notna(), "").astype(str).str.strip().str.lower()
    values = words.map(_WORDS)
    if values.isna().any():
        raise DataError(f"{where}: found {words[values.isna()].iloc[0]!r}, expected true or false")
    return np.asarray(values.to_numpy(bool))


def _coded(series: "pd.Series[Any]", meaning: Any, absent: Any) -> Array:
    """Values of a text column by the meaning of each distinct text: there are few of them, whatever the rows."""
    codes, texts = series.factorize()
    values = np.array([meaning(text) for text in texts] + [absent])
    return np.asarray(values[codes])  # factorize gives -1, the last one, where there is none


def _blank(frame: "pd.DataFrame", absent: Any) -> Array:
    return np.full(len(frame), absent, "S8" if isinstance(absent, bytes) else "i8")


def _address(value: Any) -> int:
    """A 24-bit address from hexadecimal text, or from a number as it is; -1 if it is none."""
    try:
        number = int(value, 16) if isinstance(value, str) else int(value)
    except (ValueError, OverflowError):
        return -1
    return number if 0 < number <= 0xFFFFFF else -1


def _callsign(value: Any) -> bytes:
    text = str(value).strip().upper()
    return text.encode() if len(text) <= 8 and text.isascii() and text.replace(" ", "").isalnum() else b""


def _squawk(value: Any) -> int:
    """Four octal digits; numbers have lost their leading zeros and may have gained a decimal point."""
    text = str(value).strip().removesuffix(".0").zfill(4)
    return int(text, 8) if len(text) == 4 and all(c in "01234567" for c in text) else -1
