"""Every field that asterix-decoder knows too, over real recordings and over random records of ours.

asterix-decoder 0.7 knows CAT048 edition 1.21 and CAT034 edition 1.27. Where the two differ, the difference is named in
`DIFFER` with its reason; everything else has to be equal, and nothing it reads may be missing here.
"""

import gc
import random
from collections.abc import Iterator
from functools import cache
from math import isclose
from typing import Any

import numpy as np
import pytest

from ssrtrack.io.asterix import Record, decode, values
from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_encode import encode_block, encode_record
from ssrtrack.io.asterix_fast import bds, records, stream
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.asterix_items import Body, Extended, Item
from ssrtrack.io.asterix_items_034 import ITEMS
from ssrtrack.io.asterix_source import map_file, segments
from tests.asterix_fixture import ALL_ITEMS, item_value, record, recordings

asterix = pytest.importorskip("asterix", reason="asterix-decoder is not installed")

Path = tuple[str | int, ...]

# Our names of fields, and asterix-decoder's where they are others.
NAMES: dict[int, dict[tuple[str, str], str]] = {
    48: {
        ("140", "TOD"): "ToD", ("070", "MODE3A"): "Mode3A", ("050", "MODE2"): "Mode2", ("055", "MODE1"): "Mode1",
        ("100", "MODEC"): "ModeC", ("110", "3DH"): "3D_Height", ("161", "TRN"): "Tn", ("200", "GSP"): "CGS",
        ("200", "HDG"): "CHdg", ("210", "SIGX"): "SigmaX", ("210", "SIGY"): "SigmaY", ("210", "SIGV"): "SigmaV",
        ("210", "SIGH"): "SigmaH", ("220", "ADDRESS"): "ACAddr", ("230", "MSSC"): "ModeSSSC", ("230", "B1A"): "BDS16",
        ("230", "B1B"): "BDS37", ("240", "IDENT"): "TId", ("250", "MCP_ALT_S"): "MCP_ALT_STATUS",
        ("250", "FMS_ALT_S"): "FMS_ALT_STATUS", ("250", "BARO_S"): "BP_STATUS", ("250", "BARO"): "BP",
        ("250", "MODE_S"): "MODE_STATUS", ("250", "APPROACH"): "APP", ("250", "SOURCE_S"): "TARGET_ALT_STATUS",
        ("250", "SOURCE"): "TARGET_ALT_SOURCE", ("250", "ROLL_S"): "RA_STATUS", ("250", "ROLL"): "RA",
        ("250", "TRACK_S"): "TTA_STATUS", ("250", "TRACK"): "TTA", ("250", "GS_S"): "GS_STATUS",
        ("250", "TRACK_RATE_S"): "TAR_STATUS", ("250", "TRACK_RATE"): "TAR", ("250", "TAS_S"): "TAS_STATUS",
        ("250", "HEADING_S"): "HDG_STATUS", ("250", "HEADING"): "HDG", ("250", "IAS_S"): "IAS_STAT",
        ("250", "MACH_S"): "MACH_STATUS", ("250", "BARO_RATE_S"): "BAR_STATUS", ("250", "BARO_RATE"): "BAR",
        ("250", "IVV_S"): "IVV_STATUS",
    },
    34: {
        ("000", "TYP"): "MsgTyp", ("030", "TOD"): "ToD", ("020", "SECTOR"): "Azi", ("041", "PERIOD"): "RotS",
        ("070", "COUNT"): "counter", ("090", "RNG"): "RngErr", ("090", "AZM"): "AziErr", ("100", "RHOST"): "RhoS",
        ("100", "RHOEND"): "RhoE", ("100", "THETAST"): "ThetaS", ("100", "THETAEND"): "ThetaE",
        ("120", "HGT"): "Height", ("120", "LON"): "Lon",
    },
}  # fmt: skip

# (category, item, field): why the two differ, and asterix-decoder's value made comparable (None: it has none).
DIFFER: dict[tuple[int, str, str], tuple[str, Any]] = {
    (48, "200", "GSP"): ("it gives knots, the standard's LSB is 2^-14 NM/s", lambda v: v / 3600),
    (48, "210", "SIGV"): ("it gives knots, the standard's LSB is 2^-14 NM/s", lambda v: v / 3600),
    (48, "250", "BARO"): ("it leaves out the 800 hPa that Doc 9871 table A-2-64 adds", lambda v: v + 800),
    (48, "250", "TAS"): ("it takes true airspeed as signed; Doc 9871 table A-2-80 has no sign bit", lambda v: v % 2048),
    (48, "240", "IDENT"): ("it shows a blank for codes that stand for no character", lambda v: v),
    (48, "020", "ERR"): ("edition 1.21 had a spare bit here", None),
    (34, "120", "HGT"): ("it takes the height as unsigned; the standard has two's complement",
                         lambda v: v - 65536 if v > 32767 else v),
    (34, "120", "LAT"): ("it rounds 180/2^23 to seven figures", lambda v: v / 0.00002145767 * 180 / 2**23),
    (34, "120", "LON"): ("it rounds 180/2^23 to seven figures", lambda v: v / 0.00002145767 * 180 / 2**23),
}  # fmt: skip
# Whole items that cannot be compared field by field.
ADVISORY_BITS = ["ARA41", "ARA42", "ARA43", "ARA44", "ARA45", "ARA46", "ARA47"]
NOT_OPENED_HERE = ("44", "45")  # meteorological registers: raw here
RESERVED = ("spare", "FX", "fx", "res1", "res2")


def theirs_flat(record: dict[str, Any]) -> dict[Path, Any]:
    """Path of each of asterix-decoder's fields, without reserved bits."""
    flat = {}
    for key, value in record.items():
        if key.startswith("I"):
            flat |= dict(_walk((key[1:],), value))
    return {path: value for path, value in flat.items() if path[-1] not in RESERVED}


def _walk(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, list):
        for i, group in enumerate(value):
            yield from _walk((*path, i), group)
    elif isinstance(value, dict) and "val" in value:
        yield path, value["val"]
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk((*path, name), inner)


def ours_flat(record: Record) -> dict[Path, Any]:
    """Our fields under asterix-decoder's paths."""
    flat: dict[Path, Any] = {}
    for item, value in values(record.category, record.items).items():
        if item == "250":
            for i, group in enumerate(value):
                flat |= {("250", i, name): inner for name, inner in _register(group).items()}
        elif item in ("SP", "RE"):
            flat |= {(item, i, item) if len(value) > 1 else (item, item): octet for i, octet in enumerate(value)}
        elif item == "260":
            flat |= _advisory(int(value["RA"], 16))
        else:
            flat |= dict(_leaves((item,), value))
    return {_renamed(record.category, path): value for path, value in flat.items()}


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, list):
        for i, group in enumerate(value):
            yield from _leaves((*path, i), group)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    else:
        yield path, value


def _register(group: dict[str, Any]) -> dict[str, Any]:
    address = f"{group['BDS1']:X}{group['BDS2']:X}"
    opened = {name: value for name, value in group.items() if name not in ("MBDATA", "BDS1", "BDS2")}
    return {"BDS": address} | (opened or {"VAL": group["MBDATA"]})


def _advisory(word: int) -> dict[Path, Any]:
    """asterix-decoder's fields of I048/260, taken from our 56 raw bits."""
    places = [("BDS30", 8), *((name, 1) for name in ADVISORY_BITS), ("ACAS3", 7), ("RAC55", 1), ("RAC56", 1),
              ("RAC57", 1), ("RAC58", 1), ("RAT", 1), ("MTE", 1), ("TTI", 2), ("TID", 26)]  # fmt: skip
    flat: dict[Path, Any] = {}
    left = 56
    for name, bits in places:
        left -= bits
        raw = word >> left & ((1 << bits) - 1)
        flat["260", name] = f"{raw:02X}" if name == "BDS30" else raw
    return flat


@cache
def _renamed(category: int, path: Path) -> Path:
    item, name = str(path[0]), str(path[-1])
    inner = list(path[1:-1])
    if category == 48 and item == "130":
        inner = [f"{sub}P" for sub in inner]
    if category == 34 and item in ("050", "060") and inner[0] != "COM" and name not in ("POL", "STC", "CLU"):
        name = f"{inner[0]}{name}"
    return (item, *inner, NAMES[category].get((item, name), name))


@cache
def original(category: int, item: str, name: str) -> tuple[int, str, str]:
    """The key of DIFFER for one of asterix-decoder's fields."""
    ours = next((k[1] for k, v in NAMES[category].items() if k[0] == item and v == name), name)
    return category, item, ours


def compare(record: Record, theirs: dict[str, Any]) -> int:
    """Number of fields compared."""
    ours, other = ours_flat(record), theirs_flat(theirs)
    if record.category == 48:
        ours = {path: value for path, value in ours.items() if path[0] != "RE" and not _skipped(path, other)}
        other = {path: value for path, value in other.items() if not _skipped(path, other)}
    compared = 0
    for path, value in ours.items():
        expected = other.get(path)
        if known := DIFFER.get(original(record.category, path[0], path[-1])):
            if known[1] is None:
                continue
            expected = known[1](expected)
        if value == expected:
            compared += 1
            continue
        if path[0] == "240":
            value = value.replace("?", " ")
        if isinstance(value, str):
            assert value == expected, (path, value, expected)
        else:
            assert expected is not None, (path, "is missing in", sorted(map(str, other)))
            assert isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9), (path, value, expected)
        compared += 1
    assert not set(other) - set(ours), f"asterix-decoder reads more: {set(other) - set(ours)}"
    return compared


def _skipped(path: Path, known: dict[Path, Any]) -> bool:
    return path[0] == "250" and path[-1] != "BDS" and known[path[0], path[1], "BDS"] in NOT_OPENED_HERE


def parsed(data: bytes) -> list[dict[str, Any]]:
    """What asterix-decoder reads: millions of tables, among which Python would look for cycles again and again."""
    gc.disable()
    try:
        found: list[dict[str, Any]] = asterix.parse(data, verbose=False)
    finally:
        gc.enable()
    return found


def test_the_real_hour_is_equal_in_every_field() -> None:
    file = recordings() / "barcelona_cat048_1h.ast"
    ours = [r for columns in stream(file) for r in records(columns)]
    theirs = parsed(file.read_bytes())
    assert len(ours) == len(theirs) == 44085
    compared = sum(compare(a, b) for a, b in zip(ours, theirs, strict=True))
    assert compared > 2_800_000


def test_registers_of_the_real_hour_are_equal_as_columns() -> None:
    file = recordings() / "barcelona_cat048_1h.ast"
    theirs = parsed(file.read_bytes())
    first = 0
    for columns in stream(file):
        for register, specs in BDS.items():
            found = bds(columns, register)
            address = f"{register[0]}{register[1]}"
            groups = [(i, g) for i, r in enumerate(theirs[first : first + len(columns)]) for g in r.get("I250", [])
                      if g["BDS"]["val"] == address]  # fmt: skip
            assert found.rows.tolist() == [i for i, _ in groups]
            for spec in (s for s in specs if s.name):
                name = NAMES[48].get(("250", spec.name), spec.name)
                values = np.array([group[name]["val"] for _, group in groups])
                known = DIFFER.get((48, "250", spec.name))
                expected = known[1](values) if known else values
                np.testing.assert_allclose(found.fields[spec.name] * spec.lsb + spec.base, expected, rtol=1e-12)
        first += len(columns)
    assert first == len(theirs)


def test_the_multi_radar_capture_is_equal_in_every_field() -> None:
    buffer = map_file(recordings() / "cat_034_048.pcap")
    count = 0
    for piece in segments(buffer, Summary()):
        data = buffer.octets[piece.start : piece.stop].tobytes()
        ours, theirs = list(decode(data)), asterix.parse(data, verbose=False)
        count += sum(compare(a, b) > 0 for a, b in zip(ours, theirs, strict=True))
    assert count == 162


def known_to_both(items: dict[str, Any]) -> dict[str, Any]:
    """Without the parts that edition 1.21 lacks: octets 3 to 6 of I048/020."""
    found = dict(items)
    if "020" in found and "ADSB_EP" in found["020"]:
        known = {f.name for octet in _octets("020")[:2] for f in octet}
        found["020"] = {name: raw for name, raw in found["020"].items() if name in known}
    return found


def _octets(name: str) -> tuple[Any, ...]:
    body: Body = next(item.body for item in ITEMS[48] if item.id == name)
    assert isinstance(body, Extended)
    return body.octets


def check(category: int, items: dict[str, Any]) -> None:
    data = encode_block(category, [encode_record(category, items)])
    (ours,), (theirs,) = decode(data), asterix.parse(data, verbose=False)
    assert compare(ours, theirs) > 0


def test_its_table_lacks_the_reserved_expansion_field_of_cat048() -> None:
    """Why CAT048 RE is not compared: asterix-decoder takes its content for further records."""
    data = encode_block(48, [encode_record(48, {"010": {"SAC": 7, "SIC": 8}, "RE": b"abc"})])
    assert len(asterix.parse(data, verbose=False)) > len(list(decode(data)))


@pytest.mark.parametrize(("category", "item"), [p for p in ALL_ITEMS if p.id != "048/RE"])
def test_our_own_records_of_each_item_are_equal(category: int, item: Item) -> None:
    rng = random.Random(item.id)
    source = {"010": {"SAC": 7, "SIC": 8}}
    for _ in range(30):
        value = item_value(rng, item.body)
        if item.id in ("SP", "RE") and not value:
            continue  # a field of its length octet alone: asterix-decoder reports an error, the standard allows it
        check(category, known_to_both(source | {item.id: value}))


@pytest.mark.parametrize("category", [34, 48])
def test_our_own_records_of_many_items_are_equal(category: int) -> None:
    rng = random.Random(category)
    for _ in range(300):
        items = record(rng, category) | {"010": {"SAC": 7, "SIC": 8}}
        check(category, known_to_both({name: value for name, value in items.items() if name not in ("SP", "RE")}))
