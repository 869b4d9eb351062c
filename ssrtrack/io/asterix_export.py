"""Plots as CAT048 and the radar's rotation as CAT034, in blocks.

Carried: everything of Plots that the standard has an item for, rounded to the nearest LSB. Not carried, because there
is no item: sigma_range_m, sigma_azimuth_rad, truth_id. Flags of a Mode 3/A code or an altitude that is itself absent
have no item either. Reading what was written and writing it again gives the same octets.
"""

from collections.abc import Iterator
from itertools import groupby
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import PlotFlag, Plots, Radar
from ssrtrack.errors import AsterixError
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.io.asterix import CHARS6
from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_encode import encode_block, encode_record, pack, raw_range
from ssrtrack.io.asterix_items import Field
from ssrtrack.io.asterix_plots import (
    ALTITUDE_FLAGS,
    ALTITUDE_LSB_M,
    BDS_COLUMNS,
    DESCRIPTOR_FLAGS,
    MODE3A_FLAGS,
    NORTH_MARKER,
    SECTOR_CROSSING,
    Service,
)
from ssrtrack.io.asterix_time import DAY_TICKS, TICKS_PER_S
from ssrtrack.units import AZIMUTH_LSB_RAD, RANGE_LSB_M

Array = NDArray[Any]
SITE_LSB_DEG = 180 / 2**23
SHORTEST_TURN_S = 0.5  # the quickest antennas take about 1 s
MAX_SILENT_TURNS = 100  # without plots, that an antenna is taken to have turned on evenly
_FEW = 50  # longest run of records in one block: a datagram of about 3 kB


def encode(
    plots: Plots,
    radars: Radar,
    service: Service | None = None,
    epoch_time_of_day_s: float = 0.0,
    records_per_block: int = _FEW,
) -> Iterator[bytes]:
    """Blocks of CAT034 and CAT048, in time order; records of one radar and category that follow each other share one.

    Args:
        plots: in time order.
        radars: the table that `radar_id` points into; a radar with a known site puts it in its north markers.
        service: in time order, e.g. from `rotation_messages`.
        epoch_time_of_day_s: UTC time of day of the log's epoch.
        records_per_block: at most; 1 to 1000.

    Raises:
        AsterixError: a value does not fit its item (the column and row are named), or a radar_id has no radar.
    """
    if not 1 <= records_per_block <= 1000:
        raise AsterixError(f"records_per_block is {records_per_block}, expected 1 to 1000")
    service = service if service is not None else Service.empty()
    for name, table in (("Plots", plots), ("Service", service)):
        if len(table) and not 0 <= int(table.radar_id.min()) <= int(table.radar_id.max()) < len(radars):
            raise AsterixError(f"{name} name radars up to row {int(table.radar_id.max())}, there are {len(radars)}")
    rows = _merged(plots, service, epoch_time_of_day_s)
    writers = {34: _service_writer(service, radars), 48: _plot_writer(plots, radars)}
    for (category, _), run in groupby(rows, key=lambda row: (row[0], row[2])):
        records = [encode_record(category, writers[category](row, tod)) for _, row, _, tod in run]
        for first in range(0, len(records), records_per_block):
            yield encode_block(category, records[first : first + records_per_block])


def _merged(plots: Plots, service: Service, epoch_time_of_day_s: float) -> Iterator[tuple[int, int, int, int]]:
    """(category, row, radar, time of day) in order of the rounded time, service first, else as given."""
    category = np.repeat((34, 48), (len(service), len(plots)))
    row = np.concatenate([np.arange(len(service)), np.arange(len(plots))])
    radar = np.concatenate([service.radar_id, plots.radar_id])
    seconds = np.concatenate([service.time_s, plots.time_s]) + epoch_time_of_day_s
    if not np.isfinite(seconds).all():
        raise AsterixError("a plot or service message has no finite time_s; drop such rows first")
    ticks = np.rint(seconds * TICKS_PER_S).astype(np.int64)
    order = np.argsort(ticks, kind="stable")
    columns = (category, row, radar, ticks % DAY_TICKS)
    yield from zip(*(column[order].tolist() for column in columns), strict=True)


def _raw(column: str, values: Array, lsb: float, field: Field) -> list[int | None]:
    """Column values in LSBs, rounded; None where NaN.

    Raises:
        AsterixError: names the column, the row, the value and the range of the field.
    """
    known = np.isfinite(values)
    raw = np.rint(np.where(known, values, 0.0) / lsb - field.base / field.lsb)
    low, high = raw_range(field)
    bad = ((raw < low) | (raw > high)) & known | np.isinf(values)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        bounds = [(limit + field.base / field.lsb) * lsb for limit in (low, high)]
        raise AsterixError(
            f"Plots: column {column!r}, row {at} is {values[at]}: {field.name} holds {bounds[0]:.6g} to {bounds[1]:.6g}"
        )
    return [int(number) if ok else None for number, ok in zip(raw.tolist(), known.tolist(), strict=True)]


def _plot_writer(plots: Plots, radars: Radar) -> Any:
    """The raw items of a plot, by row."""
    sources = _sources(radars)
    rho = _raw("range_m", plots.range_m, RANGE_LSB_M, Field("RHO", 16))
    theta = np.rint(plots.azimuth_rad / AZIMUTH_LSB_RAD).astype(np.int64) % 65536
    level = _raw("pressure_altitude_m", plots.pressure_altitude_m, ALTITUDE_LSB_M, Field("FL", 14, "signed"))
    address, mode3a = plots.address.tolist(), plots.mode3a.tolist()
    idents = _idents(plots.callsign)
    flags, kinds, radar = plots.flags.tolist(), plots.plot_type.tolist(), plots.radar_id.tolist()
    registers = _registers(plots)

    def items(row: int, time_of_day: int) -> dict[str, Any]:
        found = {
            "010": sources[radar[row]],
            "140": {"TOD": time_of_day},
            "020": _descriptor(kinds[row], flags[row]),
            "040": {"RHO": rho[row], "THETA": int(theta[row])},
        }
        if mode3a[row] >= 0:
            found["070"] = _flag_fields(flags[row], MODE3A_FLAGS) | {"MODE3A": mode3a[row]}
        if level[row] is not None:
            found["090"] = _flag_fields(flags[row], ALTITUDE_FLAGS) | {"FL": level[row]}
        if address[row] >= 0:
            found["220"] = {"ADDRESS": address[row]}
        if idents[row] is not None:
            found["240"] = {"IDENT": idents[row]}
        groups = [_group(register, values[row]) for register, values in registers.items() if row in values]
        if groups:
            found["250"] = groups
        return found

    return items


def _sources(radars: Radar) -> list[dict[str, int]]:
    return [{"SAC": sac, "SIC": sic} for sac, sic in zip(radars.sac.tolist(), radars.sic.tolist(), strict=True)]


def _flag_fields(flags: int, bits: dict[str, PlotFlag]) -> dict[str, int]:
    return {name: int(bool(flags & bit)) for name, bit in bits.items()}


def _descriptor(kind: int, flags: int) -> dict[str, int]:
    first = {"TYP": kind} | _flag_fields(flags, DESCRIPTOR_FLAGS["020.1"])
    second = _flag_fields(flags, DESCRIPTOR_FLAGS["020.2"])
    return first | ({"ERR": 0, "FOEFRI": 0} | second if any(second.values()) else {})


def _idents(callsigns: Array) -> list[int | None]:
    """48-bit words of callsigns, None where empty; "?", which stands for a code without character, becomes code 0."""
    words: dict[bytes, int | None] = {b"": None}
    for row, text in enumerate(callsigns.tolist()):
        if text not in words:
            codes = [CHARS6.find(chr(octet)) for octet in text.ljust(8)]
            if min(codes) < 0:
                raise AsterixError(
                    f"Plots: column 'callsign', row {row} is {text!r}: I048/240 holds A-Z, 0-9 and blank"
                )
            words[text] = sum(code << (42 - 6 * i) for i, code in enumerate(codes))
    return [words[text] for text in callsigns.tolist()]


def _registers(plots: Plots) -> dict[tuple[int, int], dict[int, dict[str, int]]]:
    """Raw fields of the BDS registers that have any, by register and row."""
    found: dict[tuple[int, int], dict[int, dict[str, int]]] = {register: {} for register in BDS}
    specs = {(register, f.name): f for register, fields in BDS.items() for f in fields}
    for column, where in BDS_COLUMNS.items():
        spec = specs[where.register, where.name]
        values = getattr(plots, column).astype(np.float64)
        if where.circular:
            values = wrapped_angle(values)
            values = np.where(np.rint(values / (spec.lsb * where.si)) > raw_range(spec)[1], values - 2 * pi, values)
        raw = _raw(column, values, spec.lsb * where.si, spec)
        for row in np.flatnonzero(~np.isnan(values)).tolist():
            found[where.register].setdefault(row, {})[where.name] = raw[row]  # type: ignore[assignment]
    return found


def _group(register: tuple[int, int], given: dict[str, int]) -> dict[str, int]:
    fields = BDS[register]
    zero = {f.name: 0 for f in fields if f.name}
    word = pack(fields, zero | given | {f"{name}_S": 1 for name in given}, f"BDS {register[0]},{register[1]}")
    return {"MBDATA": int.from_bytes(word), "BDS1": register[0], "BDS2": register[1]}


def _service_writer(service: Service, radars: Radar) -> Any:
    """The raw items of a service message, by row."""
    sources, sites = _sources(radars), _sites(radars)
    period = _raw("rotation_period_s", service.rotation_period_s, 1 / TICKS_PER_S, Field("PERIOD", 16))
    radar, kinds, sectors = service.radar_id.tolist(), service.message_type.tolist(), service.sector.tolist()

    def items(row: int, time_of_day: int) -> dict[str, Any]:
        found: dict[str, Any] = {"010": sources[radar[row]], "000": {"TYP": kinds[row]}, "030": {"TOD": time_of_day}}
        if sectors[row] >= 0:
            found["020"] = {"SECTOR": sectors[row]}
        if period[row] is not None:
            found["041"] = {"PERIOD": period[row]}
        if kinds[row] == NORTH_MARKER and sites[radar[row]]:
            found["120"] = sites[radar[row]]
        return found

    return items


def _sites(radars: Radar) -> list[dict[str, int] | None]:
    known = radars.has_site().tolist()
    rows = zip(known, radars.height_m, radars.latitude_deg, radars.longitude_deg, strict=True)
    return [
        {"HGT": round(height), "LAT": _angle(latitude), "LON": _angle((longitude + 180.0) % 360.0 - 180.0)}
        if has
        else None
        for has, height, latitude, longitude in rows
    ]


def _angle(degrees: float) -> int:
    """Raw I034/120 angle; +180 degrees, which the item cannot hold, becomes -180."""
    raw = round(float(degrees) / SITE_LSB_DEG)
    return raw if raw < 2**23 else -(2**23)


def rotation_period_s(plots: Plots) -> float:
    """Antenna rotation period told by the plots of one radar: median over pairs of plots of one aircraft.

    Between two looks at an aircraft the antenna turns once and by the aircraft's own change of azimuth, so that
    dt = T (1 + d_azimuth / 2 pi). Longer gaps and missed scans are in the minority and do not move the median.

    Returns:
        Seconds, NaN if no aircraft was seen twice.
    """
    rows = np.flatnonzero((plots.address >= 0) & (plots.plot_type > 0))
    rows = rows[np.argsort(plots.address[rows], kind="stable")]
    same = np.diff(plots.address[rows]) == 0
    dt = np.diff(plots.time_s[rows])[same]
    turn = wrapped_angle(np.diff(plots.azimuth_rad[rows])[same])
    usable = dt > SHORTEST_TURN_S  # shorter steps are double reports
    return float(np.median((dt / (1 + turn / (2 * pi)))[usable])) if usable.any() else float("nan")


def rotation_messages(plots: Plots, radars: Radar, sectors: int = 32) -> Service:
    """North markers and sector crossings that fit the plots: when the beam of each radar passed those azimuths.

    Each plot tells when its scan passed north, t - T azimuth / 2 pi; a scan's north time is the mean of these, and is
    interpolated where up to `MAX_SILENT_TURNS` scans have no plots; a longer silence has no messages. T is the radar's
    rotation period, or is told by the plots themselves.
    A radar without a period and without repeated plots gets no messages.

    Args:
        plots: in time order.
        radars: the table that `radar_id` points into.
        sectors: crossings in one turn; divides 256.

    Raises:
        AsterixError: `sectors` does not divide 256.
    """
    if sectors < 1 or 256 % sectors:
        raise AsterixError(f"sectors is {sectors}, expected a divisor of 256: I034/020 counts 1/256 of a turn")
    tables = []
    for radar in range(len(radars)):
        mine = plots[plots.radar_id == radar]
        period = float(radars.rotation_period_s[radar])
        period = period if period >= SHORTEST_TURN_S else rotation_period_s(mine)
        if len(mine) and period > 0:
            tables.append(_one_rotation(*_turns(mine, period), radar, period, sectors))
    service = Service.concat(tables)
    return service[np.argsort(service.time_s, kind="stable")]


def _turns(plots: Plots, period: float) -> tuple[Array, Array]:
    """When each turn of the antenna starts and ends at north."""
    north = plots.time_s - plots.azimuth_rad / (2 * pi) * period
    scan = np.concatenate([[0], np.cumsum(np.rint(np.diff(north) / period).astype(np.int64))])
    seen, inverse, counts = np.unique(scan, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, north - north[0]) / counts + north[0]
    starts, ends = [], []
    for run in np.split(np.arange(seen.size), np.flatnonzero(np.diff(seen) > MAX_SILENT_TURNS) + 1):
        every = np.interp(np.arange(seen[run[0]], seen[run[-1]] + 1), seen[run], mean[run])
        starts.append(every)
        ends.append(np.append(every[1:], every[-1] + period))
    return np.concatenate(starts), np.concatenate(ends)


def _one_rotation(start: Array, end: Array, radar: int, period: float, sectors: int) -> Service:
    turns = start.size
    fraction = np.arange(sectors) / sectors
    crossings = (start[:, None] + (end - start)[:, None] * fraction).ravel()
    markers = Service(
        time_s=start,
        radar_id=np.full(turns, radar, np.int16),
        message_type=np.full(turns, NORTH_MARKER, np.uint8),
        rotation_period_s=np.full(turns, period),
    )
    passed = Service(
        time_s=crossings,
        radar_id=np.full(crossings.size, radar, np.int16),
        message_type=np.full(crossings.size, SECTOR_CROSSING, np.uint8),
        sector=np.tile(np.arange(sectors) * (256 // sectors), turns).astype(np.int16),
    )
    both = Service.concat([markers, passed])
    return both[np.argsort(both.time_s, kind="stable")]
