"""Reference ASTERIX reader: plain loops over the item tables, one dictionary per record.

This is the specification that `ssrtrack.io.asterix_fast` has to match; use it to look into a file record by record.
A record is `{item: value}` with raw integers: `{"040": {"RHO": 12455, "THETA": 47668}, "250": [{"MBDATA": ..}, ..]}`.
Items with repetition are lists, explicit fields are bytes. `values` turns raw integers into engineering values.
Framing and error rules: `ssrtrack.io.asterix_frame`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import nan
from typing import Any

from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_frame import CHAIN, DECODED, HEADER, PUBLISHED, Cause, Summary
from ssrtrack.io.asterix_items import Body, Compound, Explicit, Extended, Field, Fixed, Repetitive, RepetitiveFx
from ssrtrack.io.asterix_items_034 import ITEMS

RawItem = Any  # dict of fields, list of such dicts, dict of sub-items, or bytes
RawRecord = dict[str, RawItem]
Octets = bytes | memoryview

# The six-bit alphabet of ICAO Annex 10 vol. IV table 3-9; unassigned codes read as "?".
CHARS6 = "?ABCDEFGHIJKLMNOPQRSTUVWXYZ????? ???????????????0123456789??????"


@dataclass(frozen=True)
class Record:
    """One record: `offset` in the file (or data), `time_s` of the capture packet since 1970 (NaN in a raw file)."""

    category: int
    offset: int
    items: RawRecord
    time_s: float = nan


class _BadRecordError(Exception):
    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


def decode(data: Octets, summary: Summary | None = None, offset: int = 0, time_s: float = nan) -> Iterator[Record]:
    """Records of whole ASTERIX data, in order.

    Args:
        data: blocks, one after the other.
        summary: is added to while records are taken.
        offset: where `data` starts in its file, for error offsets.
        time_s: receive time put on each record.
    """
    summary = summary if summary is not None else Summary()
    for start, stop in _blocks(data, summary, offset):
        category = data[start]
        yield from _records(data, start + HEADER, stop, category, summary, offset, time_s)


def _blocks(data: Octets, summary: Summary, offset: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each decodable block; other blocks and errors are counted."""
    pos, end = 0, len(data)
    while pos < end:
        cause, stop = _header(data, pos)
        if cause:
            summary.add_errors([(offset + pos, cause)])
            pos = _resume(data, pos + 1)
            continue
        summary.blocks += 1
        if data[pos] in DECODED:
            yield pos, stop
        else:
            summary.skipped_blocks[data[pos]] += 1
        pos = stop


def _header(data: Octets, pos: int) -> tuple[Cause, int]:
    """What is wrong with the block header at `pos`, and where its block stops."""
    if pos + HEADER > len(data):
        return Cause.TRUNCATED, pos
    category, length = data[pos], int.from_bytes(data[pos + 1 : pos + 3])
    stop = pos + length
    if length < HEADER:
        return Cause.LENGTH, pos
    if stop > len(data):
        return Cause.TRUNCATED, pos
    if category not in DECODED and not _believable(data, stop, category):
        return Cause.FOREIGN, pos
    return Cause.NONE, stop


def _believable(data: Octets, stop: int, category: int) -> bool:
    if stop == len(data):
        return True
    if stop + HEADER > len(data):
        return False
    known = data[stop] in PUBLISHED or data[stop] == category
    return known and int.from_bytes(data[stop + 1 : stop + 3]) >= HEADER


def _resume(data: Octets, pos: int) -> int:
    """The first octet from `pos` on where a chain of believable headers starts, or the end of the data."""
    return next((start for start in range(pos, len(data)) if _is_chain(data, start)), len(data))


def _is_chain(data: Octets, pos: int) -> bool:
    if data[pos] not in DECODED:
        return False
    for _ in range(CHAIN):
        if pos == len(data):
            return True
        if pos + HEADER > len(data) or data[pos] not in PUBLISHED:
            return False
        length = int.from_bytes(data[pos + 1 : pos + 3])
        if length <= HEADER:
            return False
        pos += length
    return pos <= len(data)


def _records(
    data: Octets, pos: int, stop: int, category: int, summary: Summary, offset: int, time_s: float
) -> Iterator[Record]:
    while pos < stop:
        start = pos
        try:
            items, pos = _record(data, pos, stop, category)
        except _BadRecordError as error:
            summary.add_errors([(offset + start, error.cause)])
            return
        source = items.get("010", {"SAC": -1, "SIC": -1})
        summary.records[category] += 1
        summary.sources[source["SAC"], source["SIC"]] += 1
        yield Record(category, offset + start, items, time_s)


def _record(data: Octets, pos: int, stop: int, category: int) -> tuple[RawRecord, int]:
    uap = ITEMS[category]
    bits, pos = _presence(data, pos, stop)
    named = [frn for frn, bit in enumerate(bits) if bit]
    if not named:
        raise _BadRecordError(Cause.NO_ITEM)
    if named[-1] >= len(uap):
        raise _BadRecordError(Cause.UNKNOWN_ITEM)
    items: RawRecord = {}
    for frn in named:
        items[uap[frn].id], pos = _body(uap[frn].body, data, pos, stop)
    return items, pos


def _presence(data: Octets, pos: int, stop: int) -> tuple[list[bool], int]:
    """Bits of octets chained by FX, without the FX bits."""
    bits: list[bool] = []
    while True:
        octet, pos = _take(data, pos, stop, 1)
        bits += [bool(octet[0] >> shift & 1) for shift in range(7, 0, -1)]
        if not octet[0] & 1:
            return bits, pos


def _take(data: Octets, pos: int, stop: int, count: int) -> tuple[bytes, int]:
    if pos + count > stop:
        raise _BadRecordError(Cause.OVERRUN)
    return bytes(data[pos : pos + count]), pos + count


def _body(body: Body, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    if isinstance(body, Fixed):
        octets, pos = _take(data, pos, stop, octet_count(body.fields))
        return unpack(body.fields, octets), pos
    if isinstance(body, Extended):
        return _extended(body, data, pos, stop)
    if isinstance(body, RepetitiveFx):
        return _repetitive_fx(body, data, pos, stop)
    if isinstance(body, Repetitive):
        return _repetitive(body, data, pos, stop)
    if isinstance(body, Compound):
        return _compound(body, data, pos, stop)
    return _explicit(body, data, pos, stop)


def _extended(body: Extended, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    """Octets beyond the known ones belong to a later edition: passed over."""
    values: dict[str, int] = {}
    for fields in chain(body.octets, repeat(())):
        octet, pos = _take(data, pos, stop, 1)
        values |= unpack(fields, bytes([octet[0] >> 1]), 7) if fields else {}
        if not octet[0] & 1:
            break
    return values, pos


def _repetitive_fx(body: RepetitiveFx, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    values = []
    while True:
        octet, pos = _take(data, pos, stop, 1)
        values.append(unpack(body.fields, bytes([octet[0] >> 1]), 7))
        if not octet[0] & 1:
            return values, pos


def _repetitive(body: Repetitive, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    (count,), pos = _take(data, pos, stop, 1)
    values = []
    for _ in range(count):
        octets, pos = _take(data, pos, stop, octet_count(body.fields))
        values.append(unpack(body.fields, octets))
    return values, pos


def _compound(body: Compound, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    bits, pos = _presence(data, pos, stop)
    values: dict[str, RawItem] = {}
    for place in (place for place, bit in enumerate(bits) if bit):
        sub = body.subs[place] if place < len(body.subs) else None
        if sub is None:
            raise _BadRecordError(Cause.UNKNOWN_SUBITEM)
        values[sub[0]], pos = _body(sub[1], data, pos, stop)
    return values, pos


def _explicit(_: Explicit, data: Octets, pos: int, stop: int) -> tuple[RawItem, int]:
    (length,), _after = _take(data, pos, stop, 1)
    if length == 0:
        raise _BadRecordError(Cause.EXPLICIT_LENGTH)
    octets, pos = _take(data, pos, stop, length)
    return octets[1:], pos


def octet_count(fields: Sequence[Field]) -> int:
    """Octets that whole-octet fields fill."""
    return sum(f.bits for f in fields) // 8


def unpack(fields: Sequence[Field], octets: bytes, bits: int | None = None) -> dict[str, int]:
    """Raw integers of consecutive fields, the first in the most significant of the low `bits` bits."""
    word = int.from_bytes(octets)
    left = len(octets) * 8 if bits is None else bits
    values = {}
    for f in fields:
        left -= f.bits
        raw = word >> left & ((1 << f.bits) - 1)
        if f.kind == "signed" and raw >> (f.bits - 1):
            raw -= 1 << f.bits
        if f.kind != "spare":
            values[f.name] = raw
    return values


def value(field: Field, raw: int) -> float | int | str:
    """Engineering value of one field: text for codes and characters, an integer for plain numbers and enumerations."""
    if field.kind == "octal":
        return f"{raw:0{-(-field.bits // 3)}o}"
    if field.kind == "hex":
        return f"{raw:0{field.bits // 4}X}"
    if field.kind == "chars6":
        return "".join(CHARS6[raw >> shift & 63] for shift in range(field.bits - 6, -1, -6))
    if field.lsb == 1.0 and field.base == 0.0:
        return raw
    return raw * field.lsb + field.base


def values(category: int, items: Mapping[str, RawItem]) -> dict[str, Any]:
    """The same record with engineering values, in the units of the item tables; BDS registers are opened."""
    bodies = {item.id: item.body for item in ITEMS[category]}
    return {name: _item_values(bodies[name], raw) for name, raw in items.items()}


def _item_values(body: Body, raw: RawItem) -> Any:
    if isinstance(body, Compound):
        subs = dict(sub for sub in body.subs if sub)
        return {name: _item_values(subs[name], sub) for name, sub in raw.items()}
    if isinstance(body, Explicit):
        return raw
    if isinstance(body, Repetitive | RepetitiveFx):
        return [_field_values(body.fields, group) | bds_values(group) for group in raw]
    fields = body.fields if isinstance(body, Fixed) else tuple(f for octet in body.octets for f in octet)
    return _field_values(fields, raw)


def _field_values(fields: Sequence[Field], raw: Mapping[str, int]) -> dict[str, Any]:
    return {f.name: value(f, raw[f.name]) for f in fields if f.name in raw}


def bds_values(group: Mapping[str, int]) -> dict[str, Any]:
    """Fields of one I048/250 group in engineering values; empty for registers other than 4,0, 5,0 and 6,0."""
    fields = BDS.get((group.get("BDS1", 0), group.get("BDS2", 0)))
    if fields is None:
        return {}
    return _field_values(fields, unpack(fields, group["MBDATA"].to_bytes(7)))
