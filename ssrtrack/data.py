"""The tables everything speaks: Plots, Truth, Tracks and Radar, and Trajectories from outside.

Each is a frozen struct of arrays: one NumPy column per field, all of one length, read-only. A column's dtype, unit,
meaning and value for "absent" are declared once, beside the field; the log format, the documentation and the checks
read them from there. Units are SI; latitude and longitude alone are degrees, as CF metadata and every map expect.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import IntFlag
from math import nan, pi
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
TWO_PI = 2.0 * pi


class PlotFlag(IntFlag):
    """Validity and status bits of a plot (EUROCONTROL-SPEC-0149-4, I048/020, I048/070, I048/090)."""

    MODE3A_NOT_VALIDATED = 1
    MODE3A_GARBLED = 2
    MODE3A_FROM_SMOOTHER = 4
    ALTITUDE_NOT_VALIDATED = 8
    ALTITUDE_GARBLED = 16
    SPI = 32
    SIMULATED = 64
    TEST = 128
    FIXED_TRANSPONDER = 256
    CHAIN_2 = 512
    MILITARY_EMERGENCY = 1024
    MILITARY_IDENTIFICATION = 2048
    X_PULSE = 4096


class Phase(IntFlag):
    """What an aircraft is doing; 0 is straight, level flight at constant speed."""

    TURN = 1
    CLIMB = 2  # climbing or descending
    SPEED_CHANGE = 4


# I048/020 TYP, in the order of its codes.
PLOT_TYPES = (
    "no detection",
    "PSR",
    "SSR",
    "SSR + PSR",
    "Mode S all-call",
    "Mode S roll-call",
    "Mode S all-call + PSR",
    "Mode S roll-call + PSR",
)

FALSE_PLOT = -1  # truth_id of a plot that no aircraft caused (simulation)
NO_TRUTH = -2  # truth_id where the truth is not known (recordings)


@dataclass(frozen=True)
class Column:
    """What one column holds: `fill` stands for "absent" (None: required), `low` and `high` are inclusive."""

    dtype: str
    unit: str
    description: str
    fill: Any = None
    low: float | None = None
    high: float | None = None
    standard_name: str = ""
    flags: type[IntFlag] | None = None
    width: int = 0  # values per row; 0: one scalar


def _column(dtype: str, unit: str, description: str, **more: Any) -> Any:
    return field(default=None, metadata={"column": Column(dtype, unit, description, **more)})


@dataclass(frozen=True, eq=False)
class Table:
    """Common behaviour of the tables; holds no columns itself."""

    def __post_init__(self) -> None:
        given = {name: np.asarray(value) for name in self.specs() if (value := getattr(self, name)) is not None}
        lengths = {name: value.shape[0] if value.ndim else -1 for name, value in given.items()}
        kind = type(self).__name__
        if len(set(lengths.values())) > 1 or -1 in lengths.values():
            raise DataError(f"{kind}: columns have lengths {lengths}; give every column one value per row")
        rows = next(iter(lengths.values()), 0)
        for name, spec in self.specs().items():
            object.__setattr__(self, name, _prepared(kind, name, spec, given.get(name), rows))

    @classmethod
    def specs(cls) -> dict[str, Column]:
        """Column declarations by name, in table order."""
        return {f.name: f.metadata["column"] for f in fields(cls) if "column" in f.metadata}

    def __len__(self) -> int:
        return int(getattr(self, next(iter(self.specs()))).shape[0])

    def __getitem__(self, rows: slice | Array | Sequence[int]) -> Self:
        """Rows chosen by a slice, a boolean mask or indices, as a table of the same kind."""
        return self._with({name: getattr(self, name)[rows] for name in self.specs()})

    def columns(self) -> dict[str, Array]:
        """The columns by name (no copies)."""
        return {name: getattr(self, name) for name in self.specs()}

    def replace(self, **columns: Array) -> Self:
        """The same table with some columns replaced."""
        unknown = set(columns) - set(self.specs())
        if unknown:
            raise DataError(f"{type(self).__name__} has no columns {sorted(unknown)}; known: {list(self.specs())}")
        return self._with(self.columns() | columns)

    @classmethod
    def empty(cls) -> Self:
        """A table with no rows."""
        return cls(**{name: np.empty((0, s.width) if s.width else 0, s.dtype) for name, s in cls.specs().items()})

    @classmethod
    def concat(cls, tables: Sequence[Self]) -> Self:
        """Rows of several tables, one after the other."""
        if not tables:
            return cls.empty()
        return tables[0]._with({n: np.concatenate([getattr(t, n) for t in tables]) for n in cls.specs()})

    def validate(self) -> Self:
        """The table itself, if every value is in its column's range.

        Raises:
            DataError: names the column, the first offending row, its value and the range expected.
        """
        for name, spec in self.specs().items():
            _check_range(type(self).__name__, name, spec, getattr(self, name))
        return self

    def to_dataframe(self) -> "pd.DataFrame":
        """The table as a pandas DataFrame; absent values become NaN, callsigns become text.

        Raises:
            DataError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise DataError("to_dataframe needs pandas: pip install pandas") from error
        frame: dict[str, Array] = {}
        for name, spec in self.specs().items():
            values = getattr(self, name)
            if spec.width:
                frame |= {f"{name}_{i}": values[:, i] for i in range(spec.width)}
            elif values.dtype.kind == "S":
                frame[name] = np.char.decode(values, "ascii", "replace")
            else:
                frame[name] = values
        return pd.DataFrame(frame)

    def _with(self, columns: dict[str, Array]) -> Self:
        others = {f.name: getattr(self, f.name) for f in fields(self) if "column" not in f.metadata}
        return type(self)(**columns, **others)


def _prepared(kind: str, name: str, spec: Column, value: Array | None, rows: int) -> Array:
    """One column in its declared dtype, read-only; an absent one costs no memory (a broadcast fill value)."""
    shape = (rows, spec.width) if spec.width else (rows,)
    if value is None:
        if spec.fill is None:
            raise DataError(f"{kind}: column {name!r} is required ({spec.description}, {spec.unit})")
        return np.broadcast_to(np.asarray(spec.fill, spec.dtype), shape)
    if value.shape != shape:
        raise DataError(f"{kind}: column {name!r} has shape {value.shape}, expected {shape}")
    if value.dtype != np.dtype(spec.dtype):
        value = _cast(kind, name, spec, value)
    view = value.view()
    view.flags.writeable = False
    return view


def _cast(kind: str, name: str, spec: Column, value: Array) -> Array:
    try:
        with np.errstate(invalid="raise", over="raise"):
            cast = value.astype(spec.dtype)
    except (ValueError, TypeError, FloatingPointError) as error:
        raise DataError(f"{kind}: column {name!r} cannot hold {value.dtype} values as {spec.dtype}: {error}") from error
    if cast.dtype.kind in "iu" and not np.array_equal(cast, value):
        raise DataError(f"{kind}: column {name!r} needs whole numbers that fit {spec.dtype}; round or mask them first")
    return cast


def _check_range(kind: str, name: str, spec: Column, value: Array) -> None:
    if value.dtype.kind == "S" or (value.size and value.strides[0] == 0):
        return
    bad = np.zeros(value.shape, bool)
    if value.dtype.kind == "f":
        bad |= np.isinf(value)
        if spec.fill is None:
            bad |= np.isnan(value)
    if spec.low is not None:
        bad |= value < spec.low
    if spec.high is not None:
        bad |= value > spec.high
    if spec.fill is not None and value.dtype.kind in "iu":
        bad &= value != spec.fill
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(
            f"{kind}: column {name!r}, row {row} is {value[row]}, expected "
            f"{'-inf' if spec.low is None else spec.low} to {'inf' if spec.high is None else spec.high} {spec.unit}"
        )


@dataclass(frozen=True, eq=False)
class Plots(Table):
    """Radar plots: one row per detection."""

    time_s: Array = _column("f8", "s", "time of detection since the log's epoch (UTC)", standard_name="time")
    radar_id: Array = _column("i2", "1", "row of the radar in the radars table", low=0)
    range_m: Array = _column("f8", "m", "slant range", low=0.0, high=1e6)
    azimuth_rad: Array = _column("f8", "rad", "azimuth at the radar, clockwise from true north", low=0.0, high=TWO_PI)
    mode3a: Array = _column("i2", "1", "Mode 3/A code (written in octal), -1 absent", fill=-1, low=0, high=0o7777)
    pressure_altitude_m: Array = _column(
        "f4", "m", "Mode C / flight level as pressure altitude, 30.48 m per FL", fill=nan, low=-4000.0, high=70000.0
    )
    address: Array = _column("i4", "1", "ICAO 24-bit aircraft address, -1 absent", fill=-1, low=0, high=0xFFFFFF)
    callsign: Array = _column("S8", "1", "aircraft identification, empty if absent", fill=b"")
    plot_type: Array = _column("u1", "1", "detection type, code of I048/020 TYP", fill=0, low=0, high=7)
    flags: Array = _column("u4", "1", "validity, garbling and status bits", fill=0, flags=PlotFlag)
    sigma_range_m: Array = _column("f4", "m", "standard deviation of slant range, NaN unknown", fill=nan, low=0.0)
    sigma_azimuth_rad: Array = _column("f4", "rad", "standard deviation of azimuth, NaN unknown", fill=nan, low=0.0)
    truth_id: Array = _column("i4", "1", "aircraft in the truth table, -1 false plot, -2 unknown", fill=-2, low=-2)
    mcp_altitude_m: Array = _column("f4", "m", "BDS 4,0 MCP/FCU selected altitude", fill=nan)
    fms_altitude_m: Array = _column("f4", "m", "BDS 4,0 FMS selected altitude", fill=nan)
    baro_setting_pa: Array = _column("f4", "Pa", "BDS 4,0 barometric pressure setting", fill=nan)
    roll_rad: Array = _column("f4", "rad", "BDS 5,0 roll angle, right wing down positive", fill=nan)
    track_angle_rad: Array = _column("f4", "rad", "BDS 5,0 true track angle, clockwise from north", fill=nan)
    ground_speed_mps: Array = _column("f4", "m s-1", "BDS 5,0 ground speed", fill=nan)
    track_angle_rate_radps: Array = _column("f4", "rad s-1", "BDS 5,0 track angle rate", fill=nan)
    true_airspeed_mps: Array = _column("f4", "m s-1", "BDS 5,0 true airspeed", fill=nan)
    magnetic_heading_rad: Array = _column("f4", "rad", "BDS 6,0 magnetic heading", fill=nan)
    indicated_airspeed_mps: Array = _column("f4", "m s-1", "BDS 6,0 indicated airspeed", fill=nan)
    mach: Array = _column("f4", "1", "BDS 6,0 Mach number", fill=nan)
    baro_altitude_rate_mps: Array = _column("f4", "m s-1", "BDS 6,0 barometric altitude rate", fill=nan)
    inertial_vertical_velocity_mps: Array = _column("f4", "m s-1", "BDS 6,0 inertial vertical velocity", fill=nan)


@dataclass(frozen=True, eq=False)
class Truth(Table):
    """True aircraft states, sampled finely enough for cubic interpolation (a few seconds)."""

    time_s: Array = _column("f8", "s", "time since the log's epoch (UTC)", standard_name="time")
    truth_id: Array = _column("i4", "1", "aircraft number, unique in the log", low=0)
    latitude_deg: Array = _column(
        "f8", "degrees_north", "WGS84 latitude", low=-90.0, high=90.0, standard_name="latitude"
    )
    longitude_deg: Array = _column(
        "f8", "degrees_east", "WGS84 longitude", low=-180.0, high=360.0, standard_name="longitude"
    )
    height_m: Array = _column(
        "f8", "m", "height above the WGS84 ellipsoid", standard_name="height_above_reference_ellipsoid"
    )
    v_east_mps: Array = _column("f8", "m s-1", "velocity east, in the local horizon at the aircraft")
    v_north_mps: Array = _column("f8", "m s-1", "velocity north, in the local horizon at the aircraft")
    v_up_mps: Array = _column("f8", "m s-1", "velocity up, in the local horizon at the aircraft")
    phase: Array = _column("u1", "1", "turning, climbing or descending, changing speed; 0 steady", fill=0, flags=Phase)


@dataclass(frozen=True)
class Origin:
    """Where a tracking frame's east-north-up axes start (WGS84); NaN: the radar's own frame, site unknown."""

    latitude_deg: float = nan
    longitude_deg: float = nan
    height_m: float = nan


@dataclass(frozen=True, eq=False)
class Tracks(Table):
    """Estimated states of one tracker in an east-north-up frame with the given origin."""

    time_s: Array = _column("f8", "s", "time the state applies to, since the log's epoch (UTC)", standard_name="time")
    track_id: Array = _column("i4", "1", "track number", low=0)
    x_m: Array = _column("f8", "m", "position east of the frame's origin")
    y_m: Array = _column("f8", "m", "position north of the frame's origin")
    vx_mps: Array = _column("f8", "m s-1", "velocity east in the frame")
    vy_mps: Array = _column("f8", "m s-1", "velocity north in the frame")
    covariance: Array = _column("f4", "1", "covariance of x, y, vx, vy: upper triangle by rows, in m and m/s", width=10)
    height_m: Array = _column("f4", "m", "smoothed pressure altitude", fill=nan)
    height_rate_mps: Array = _column("f4", "m s-1", "rate of climb", fill=nan)
    coasted: Array = _column("u1", "1", "1: prediction only, no plot was used", fill=0, high=1)
    address: Array = _column("i4", "1", "ICAO 24-bit aircraft address, -1 absent", fill=-1, low=0, high=0xFFFFFF)
    mode3a: Array = _column("i2", "1", "Mode 3/A code (written in octal), -1 absent", fill=-1, low=0, high=0o7777)
    truth_id: Array = _column("i4", "1", "aircraft in the truth table, -1 none, -2 unknown", fill=-2, low=-2)
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, eq=False)
class Radar(Table):
    """Radars of a log: one row each; a plot's radar_id is the row."""

    name: Array = _column("S32", "1", "name of the radar")
    sac: Array = _column("u1", "1", "ASTERIX system area code", fill=0)
    sic: Array = _column("u1", "1", "ASTERIX system identification code", fill=0)
    latitude_deg: Array = _column("f8", "degrees_north", "WGS84 latitude, NaN unknown", fill=nan, low=-90.0, high=90.0)
    longitude_deg: Array = _column(
        "f8", "degrees_east", "WGS84 longitude, NaN unknown", fill=nan, low=-180.0, high=360.0
    )
    height_m: Array = _column("f8", "m", "antenna height above the WGS84 ellipsoid, NaN unknown", fill=nan)
    rotation_period_s: Array = _column("f8", "s", "antenna rotation period, NaN unknown", fill=nan, low=0.0)
    max_range_m: Array = _column("f8", "m", "instrumented range, NaN unknown", fill=nan, low=0.0)
    sigma_range_m: Array = _column("f8", "m", "stated standard deviation of slant range, NaN", fill=nan, low=0.0)
    sigma_azimuth_rad: Array = _column("f8", "rad", "stated standard deviation of azimuth, NaN", fill=nan, low=0.0)

    def has_site(self) -> Array:
        """Which radars have a known position, (n,) bool."""
        return np.isfinite(self.latitude_deg) & np.isfinite(self.longitude_deg) & np.isfinite(self.height_m)


@dataclass(frozen=True, eq=False)
class Trajectories(Table):
    """Recorded positions of aircraft, ordered by flight and time; `epoch` is the UTC instant of time_s = 0."""

    time_s: Array = _column("f8", "s", "time of the position since the epoch (UTC)", standard_name="time")
    flight_id: Array = _column("i4", "1", "flight, numbered from 0 in order of the first position", low=0)
    latitude_deg: Array = _column("f8", "degrees_north", "WGS84 latitude", low=-90.0, high=90.0)
    longitude_deg: Array = _column("f8", "degrees_east", "WGS84 longitude", low=-180.0, high=360.0)
    altitude_m: Array = _column("f8", "m", "pressure altitude, NaN unknown", fill=nan, low=-4000.0, high=70000.0)
    address: Array = _column("i4", "1", "ICAO 24-bit aircraft address, -1 absent", fill=-1, low=0, high=0xFFFFFF)
    callsign: Array = _column("S8", "1", "aircraft identification, empty if absent", fill=b"")
    mode3a: Array = _column("i2", "1", "Mode 3/A code (written in octal), -1 absent", fill=-1, low=0, high=0o7777)
    ground_speed_mps: Array = _column("f4", "m s-1", "reported ground speed, NaN absent", fill=nan, low=0.0)
    track_angle_rad: Array = _column("f4", "rad", "reported track, clockwise from true north, NaN absent", fill=nan)
    vertical_rate_mps: Array = _column("f4", "m s-1", "reported rate of climb, NaN absent", fill=nan)
    epoch: datetime = field(default=datetime(1970, 1, 1, tzinfo=UTC))
