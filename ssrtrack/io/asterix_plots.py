"""ASTERIX fields as SI columns: CAT048 records become rows of Plots, CAT034 records rows of Service."""

from dataclasses import dataclass, field
from math import nan, pi
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Column, PlotFlag, Plots, Table
from ssrtrack.io.asterix import CHARS6
from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_fast import Columns, bds, part
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.asterix_walk import layout
from ssrtrack.units import AZIMUTH_LSB_RAD, DEG_RAD, FL_M, FPM_MPS, FT_M, HPA_PA, KT_MPS, RANGE_LSB_M

Array = NDArray[Any]

NORTH_MARKER, SECTOR_CROSSING = 1, 2
ALTITUDE_LSB_M = FL_M / 4

# I048/020, first and second octet, and I048/070, I048/090: the bit of PlotFlag that each field sets.
DESCRIPTOR_FLAGS = {
    "020.1": {
        "SIM": PlotFlag.SIMULATED,
        "RDP": PlotFlag.CHAIN_2,
        "SPI": PlotFlag.SPI,
        "RAB": PlotFlag.FIXED_TRANSPONDER,
    },
    "020.2": {
        "TST": PlotFlag.TEST,
        "XPP": PlotFlag.X_PULSE,
        "ME": PlotFlag.MILITARY_EMERGENCY,
        "MI": PlotFlag.MILITARY_IDENTIFICATION,
    },
}
MODE3A_FLAGS = {
    "V": PlotFlag.MODE3A_NOT_VALIDATED,
    "G": PlotFlag.MODE3A_GARBLED,
    "L": PlotFlag.MODE3A_FROM_SMOOTHER,
}
ALTITUDE_FLAGS = {"V": PlotFlag.ALTITUDE_NOT_VALIDATED, "G": PlotFlag.ALTITUDE_GARBLED}


class BdsColumn(NamedTuple):
    """Where a column of Plots comes from: register, field, and SI per the field's own unit."""

    register: tuple[int, int]
    name: str
    si: float
    circular: bool = False  # an angle from north: 0 to 2 pi in Plots, signed in the register


BDS_COLUMNS = {
    "mcp_altitude_m": BdsColumn((4, 0), "MCP_ALT", FT_M),
    "fms_altitude_m": BdsColumn((4, 0), "FMS_ALT", FT_M),
    "baro_setting_pa": BdsColumn((4, 0), "BARO", HPA_PA),
    "roll_rad": BdsColumn((5, 0), "ROLL", DEG_RAD),
    "track_angle_rad": BdsColumn((5, 0), "TRACK", DEG_RAD, True),
    "ground_speed_mps": BdsColumn((5, 0), "GS", KT_MPS),
    "track_angle_rate_radps": BdsColumn((5, 0), "TRACK_RATE", DEG_RAD),
    "true_airspeed_mps": BdsColumn((5, 0), "TAS", KT_MPS),
    "magnetic_heading_rad": BdsColumn((6, 0), "HEADING", DEG_RAD, True),
    "indicated_airspeed_mps": BdsColumn((6, 0), "IAS", KT_MPS),
    "mach": BdsColumn((6, 0), "MACH", 1.0),
    "baro_altitude_rate_mps": BdsColumn((6, 0), "BARO_RATE", FPM_MPS),
    "inertial_vertical_velocity_mps": BdsColumn((6, 0), "IVV", FPM_MPS),
}


def _column(dtype: str, unit: str, description: str, **more: Any) -> Any:
    return field(default=None, metadata={"column": Column(dtype, unit, description, **more)})


@dataclass(frozen=True, eq=False)
class Service(Table):
    """The radar's own messages (CAT034): one row each."""

    time_s: Array = _column("f8", "s", "time of the message since the log's epoch (UTC)")
    radar_id: Array = _column("i2", "1", "row of the radar in the radars table", low=0)
    message_type: Array = _column("u1", "1", "code of I034/000: 1 north marker, 2 sector crossing", fill=0)
    sector: Array = _column("i2", "1", "I034/020: azimuth in 1/256 of a turn, -1 absent", fill=-1, low=0, high=255)
    rotation_period_s: Array = _column("f8", "s", "I034/041, NaN absent", fill=nan, low=0.0)


def dense(columns: Columns, name: str, field_name: str, fill: int = -1) -> Array:
    """One field for every record, (n,) int64; `fill` where it is absent; the last one where it repeats."""
    found = part(columns, name)
    values = np.full(len(columns), fill, np.int64)
    values[found.rows] = found.fields[field_name]
    return values


def usable(columns: Columns, source: Array, time_of_day: Array, summary: Summary) -> Array:
    """Which CAT048 records are plots, (n,) bool: those with source, time and position; the others are counted.

    A record with the extended range bit (I048/020 ERR) has its range in the reserved expansion field, and only a
    placeholder in I048/040.
    """
    extended = dense(columns, "020.2", "ERR", 0) == 1
    reasons = {
        "no source": source < 0,
        "no time": time_of_day < 0,
        "no position": columns.item_offset[:, _slot(columns, "040")] < 0,
        "extended range": extended,
    }
    good = np.ones(len(columns), bool)
    for reason, bad in reasons.items():
        if count := int((bad & good).sum()):
            summary.dropped_plots[reason] += count
        good &= ~bad
    return good


def _slot(columns: Columns, name: str) -> int:
    return layout(columns.category).slots.index(name)


def plots_from(columns: Columns, time_s: Array, radar_id: Array, good: Array) -> Plots:
    """Plots of the records chosen by `good` (n,) bool, in file order; see `usable`.

    Args:
        columns: CAT048 records.
        time_s: (n,) since the epoch.
        radar_id: (n,).
    """
    table: dict[str, Array] = {"time_s": time_s, "radar_id": radar_id.astype(np.int16)}
    position = part(columns, "040")
    table["range_m"] = _spread(columns, position.rows, position.fields["RHO"] * RANGE_LSB_M)
    table["azimuth_rad"] = _spread(columns, position.rows, position.fields["THETA"] * AZIMUTH_LSB_RAD)
    flags = np.zeros(len(columns), np.uint32)
    for name, bits in DESCRIPTOR_FLAGS.items():
        _set_flags(flags, columns, name, bits)
    table["plot_type"] = dense(columns, "020.1", "TYP", 0).astype(np.uint8)
    _set_flags(flags, columns, "070", MODE3A_FLAGS)
    _set_flags(flags, columns, "090", ALTITUDE_FLAGS)
    table["flags"] = flags
    table["mode3a"] = dense(columns, "070", "MODE3A").astype(np.int16)
    table["pressure_altitude_m"] = _altitude(columns)
    table["address"] = dense(columns, "220", "ADDRESS").astype(np.int32)
    table["callsign"] = _callsigns(columns)
    table |= _bds_columns(columns)
    return Plots(**{name: values[good] for name, values in table.items()})


def _spread(columns: Columns, rows: Array, values: Array, dtype: str = "f8") -> Array:
    column = np.full(len(columns), nan, dtype)
    column[rows] = values
    return column


def _set_flags(flags: Array, columns: Columns, name: str, bits: dict[str, PlotFlag]) -> None:
    found = part(columns, name)
    word = np.zeros(found.rows.size, np.uint32)
    for field_name, bit in bits.items():
        word |= found.fields[field_name].astype(np.uint32) * np.uint32(bit)
    flags[found.rows] |= word


def _altitude(columns: Columns) -> Array:
    """Pressure altitude (n,), NaN where absent, or beyond what the table (and any aircraft) can hold."""
    found = part(columns, "090")
    spec = Plots.specs()["pressure_altitude_m"]
    value = found.fields["FL"] * ALTITUDE_LSB_M
    possible = (value >= (spec.low or 0.0)) & (value <= (spec.high or 0.0))
    return _spread(columns, found.rows, np.where(possible, value, nan), "f4")


_ALPHABET = np.frombuffer(CHARS6.encode(), np.uint8)


def _callsigns(columns: Columns) -> Array:
    """(n,) S8 without trailing blanks; "?" for codes that stand for no character, empty if none of them does."""
    found = part(columns, "240")
    shifts = np.arange(42, -1, -6)
    characters = _ALPHABET[(found.fields["IDENT"][:, None] >> shifts) & 63]
    trailing = np.logical_and.accumulate(characters[:, ::-1] == ord(" "), axis=1)[:, ::-1]
    trailing |= np.isin(characters, (ord("?"), ord(" "))).all(axis=1, keepdims=True)
    column = np.zeros(len(columns), "S8")
    column[found.rows] = np.ascontiguousarray(np.where(trailing, 0, characters).astype(np.uint8)).view("S8")[:, 0]
    return column


def _bds_columns(columns: Columns) -> dict[str, Array]:
    groups = part(columns, "250")
    registers = {register: bds(columns, register, groups) for register in BDS}
    specs = {(register, f.name): f for register, fields in BDS.items() for f in fields}
    table = {}
    for name, where in BDS_COLUMNS.items():
        found, spec = registers[where.register], specs[where.register, where.name]
        valid = found.fields[f"{where.name}_S"] == 1
        value = (found.fields[where.name][valid] * spec.lsb + spec.base) * where.si
        table[name] = _spread(columns, found.rows[valid], np.mod(value, 2 * pi) if where.circular else value, "f4")
    return table


def service_from(columns: Columns, time_s: Array, radar_id: Array, good: Array) -> Service:
    """Service rows of the CAT034 records chosen by `good` (n,) bool."""
    period = part(columns, "041")
    table = {
        "time_s": time_s,
        "radar_id": radar_id.astype(np.int16),
        "message_type": dense(columns, "000", "TYP", 0).astype(np.uint8),
        "sector": dense(columns, "020", "SECTOR").astype(np.int16),
        "rotation_period_s": _spread(columns, period.rows, period.fields["PERIOD"] / 128),
    }
    return Service(**{name: values[good] for name, values in table.items()})
