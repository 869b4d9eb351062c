"""ASTERIX writer: record dictionaries to octets, driven by the item tables that the readers use.

`encode_record` takes what `ssrtrack.io.asterix.decode` gives, and gives back the same octets, as long as extended items
end with a known octet and FSPEC and compound items carry no empty octets. Plots are written by
`ssrtrack.io.asterix_export`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix_frame import HEADER, MAX_BLOCK
from ssrtrack.io.asterix_items import Body, Compound, Explicit, Extended, Field, Fixed, Repetitive, RepetitiveFx
from ssrtrack.io.asterix_items_034 import ITEMS


def encode_block(category: int, records: Sequence[bytes]) -> bytes:
    """One block of encoded records.

    Raises:
        AsterixError: the block would be longer than its LEN can say.
    """
    body = b"".join(records)
    length = HEADER + len(body)
    if length > MAX_BLOCK:
        raise AsterixError(f"block of {length} octets, LEN holds {MAX_BLOCK}; put fewer records in a block")
    return bytes([category]) + length.to_bytes(2) + body


def encode_record(category: int, items: Mapping[str, Any]) -> bytes:
    """One record, FSPEC first.

    Args:
        category: 34 or 48.
        items: raw integers by item and field, as `ssrtrack.io.asterix.decode` gives them.

    Raises:
        AsterixError: an unknown item or field, a missing field, or a value that does not fit; names it.
    """
    uap = ITEMS.get(category)
    if uap is None:
        raise AsterixError(f"category {category} cannot be written; known: {sorted(ITEMS)}")
    unknown = set(items) - {item.id for item in uap}
    if unknown or not items:
        raise AsterixError(f"CAT{category:03d} record with items {sorted(items)}: unknown {sorted(unknown)} or none")
    present = [item.id in items for item in uap]
    bodies = [_body(item.body, items[item.id], f"I{category:03d}/{item.id}") for item in uap if item.id in items]
    return _presence(present) + b"".join(bodies)


def _presence(bits: Sequence[bool]) -> bytes:
    """Octets of seven bits with FX, up to the last bit set (one octet at least)."""
    last = max((place for place, bit in enumerate(bits) if bit), default=0)
    octets = []
    for first in range(0, last + 1, 7):
        seven = [*bits[first : first + 7], *[False] * 7][:7]
        more = first + 7 <= last
        octets.append(sum(bit << (7 - i) for i, bit in enumerate(seven)) | more)
    return bytes(octets)


def _body(body: Body, value: Any, where: str) -> bytes:
    if isinstance(body, Fixed):
        return pack(body.fields, value, where)
    if isinstance(body, Extended):
        return _extended(body, value, where)
    if isinstance(body, RepetitiveFx):
        return _repetitive_fx(body, value, where)
    if isinstance(body, Repetitive):
        return _repetitive(body, value, where)
    if isinstance(body, Compound):
        return _compound(body, value, where)
    return _explicit(body, value, where)


def _extended(body: Extended, value: Mapping[str, int], where: str) -> bytes:
    """As many octets as hold the given fields; a field left out of an octet before the last is an error."""
    given = [any(f.name in value for f in fields) for fields in body.octets]
    last = max((octet for octet, some in enumerate(given) if some), default=0)
    used = body.octets[: last + 1]
    octets = []
    names = {f.name for fields in used for f in fields}
    if set(value) - names:
        raise AsterixError(f"{where} has no field {sorted(set(value) - names)}; known: {sorted(names - {''})}")
    for i, fields in enumerate(used):
        mine = {f.name: value[f.name] for f in fields if f.name in value}
        octets.append(_word(fields, mine, where) << 1 | (i < last))
    return bytes(octets)


def _repetitive_fx(body: RepetitiveFx, value: Sequence[Mapping[str, int]], where: str) -> bytes:
    if not value:
        raise AsterixError(f"{where} needs one element at least; leave the item out instead")
    return bytes(_word(body.fields, group, where) << 1 | (i < len(value) - 1) for i, group in enumerate(value))


def _repetitive(body: Repetitive, value: Sequence[Mapping[str, int]], where: str) -> bytes:
    if len(value) > 255:
        raise AsterixError(f"{where} with {len(value)} groups; its count holds 255")
    return bytes([len(value)]) + b"".join(pack(body.fields, group, where) for group in value)


def _compound(body: Compound, value: Mapping[str, Any], where: str) -> bytes:
    known = {sub[0] for sub in body.subs if sub}
    if set(value) - known:
        raise AsterixError(f"{where} has no sub-item {sorted(set(value) - known)}; known: {sorted(known)}")
    present = [sub is not None and sub[0] in value for sub in body.subs]
    chosen = [sub for sub in body.subs if sub is not None and sub[0] in value]
    return _presence(present) + b"".join(_body(sub, value[name], f"{where}/{name}") for name, sub in chosen)


def _explicit(_: Explicit, value: bytes, where: str) -> bytes:
    if len(value) > 254:
        raise AsterixError(f"{where} with {len(value)} octets; it holds 254")
    return bytes([len(value) + 1]) + bytes(value)


def pack(fields: Sequence[Field], values: Mapping[str, int], where: str) -> bytes:
    """Whole octets of consecutive fields.

    Raises:
        AsterixError: a field is missing or unknown, or its value does not fit its bits; `where` is named.
    """
    return _word(fields, values, where).to_bytes(sum(f.bits for f in fields) // 8)


def _word(fields: Sequence[Field], values: Mapping[str, int], where: str) -> int:
    word, used = 0, 0
    for f in fields:
        word <<= f.bits
        if f.kind == "spare":
            continue
        if f.name not in values:
            raise AsterixError(f"{where}: field {f.name} is missing; give all of {[g.name for g in fields if g.name]}")
        raw = values[f.name]
        low, high = raw_range(f)
        if not low <= raw <= high:
            raise AsterixError(f"{where}: field {f.name} is {raw}, expected {low} to {high}")
        word |= raw & ((1 << f.bits) - 1)
        used += 1
    if used != len(values):
        raise AsterixError(f"{where}: unknown fields {sorted(set(values) - {f.name for f in fields})}")
    return word


def raw_range(f: Field) -> tuple[int, int]:
    """Smallest and largest raw integer of a field."""
    if f.kind == "signed":
        return -(1 << (f.bits - 1)), (1 << (f.bits - 1)) - 1
    return 0, (1 << f.bits) - 1
