"""Every row of the item tables: written and read back by both readers; and records worked out by hand."""

import random

import pytest
from hypothesis import given, settings

from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix import CHARS6, decode, unpack, value, values
from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_encode import encode_block, encode_record, pack, raw_range
from ssrtrack.io.asterix_fast import bds, stream_bytes
from ssrtrack.io.asterix_items import Compound, Explicit, Extended, Field, Item, RepetitiveFx
from ssrtrack.io.asterix_items_034 import ITEMS
from tests.asterix_fixture import (
    ALL_ITEMS,
    by_fast,
    by_reference,
    fields,
    file_of,
    item_named,
    item_value,
    plain,
    seeds,
)

# User application profiles as printed in the standards: CAT048 edition 1.32, CAT034 edition 1.29.
UAP = {
    48: "010 140 020 040 070 090 130 220 240 250 161 042 200 170 210 030 080 100 110 120 230 260 055 050 065 060 SP RE",
    34: "010 000 030 020 041 050 060 070 100 110 120 090 RE SP",
}
FIXED_OCTETS = {
    48: {"010": 2, "140": 3, "040": 4, "070": 2, "090": 2, "220": 3, "240": 6, "161": 2, "042": 4, "200": 4, "210": 4,
         "080": 2, "100": 4, "110": 2, "230": 2, "260": 7, "055": 1, "050": 2, "065": 1, "060": 2},
    34: {"010": 2, "000": 1, "030": 3, "020": 1, "041": 2, "100": 8, "110": 1, "120": 8, "090": 2},
}  # fmt: skip


@pytest.mark.parametrize("category", [34, 48])
def test_tables_have_the_items_of_the_standard_in_its_order(category: int) -> None:
    assert [item.id for item in ITEMS[category]] == UAP[category].split()
    octets = {i.id: sum(f.bits for f in i.body.fields) / 8 for i in ITEMS[category] if type(i.body).__name__ == "Fixed"}
    assert octets == FIXED_OCTETS[category]


def test_octets_of_seven_bits_are_full_and_registers_have_56() -> None:
    for category in ITEMS:
        for item in ITEMS[category]:
            if isinstance(item.body, Extended):
                assert all(sum(f.bits for f in octet) == 7 for octet in item.body.octets), item.id
            if isinstance(item.body, RepetitiveFx):
                assert sum(f.bits for f in item.body.fields) == 7
            if isinstance(item.body, Compound):
                assert len(item.body.subs) <= 7
    assert all(sum(f.bits for f in register) == 56 for register in BDS.values())


@pytest.mark.parametrize(("category", "item"), ALL_ITEMS)
@settings(max_examples=25)
@given(rng=seeds())
def test_each_item_is_read_as_written_by_both_readers(category: int, item: Item, rng: random.Random) -> None:
    written = [{item.id: item_value(rng, item.body)} for _ in range(3)]
    data = encode_block(category, [encode_record(category, r) for r in written])
    reference, summary = by_reference(data)
    fast, fast_summary = by_fast(data)
    assert [r.items for r in reference] == written
    assert plain(fast) == plain(reference)
    assert fast_summary == summary
    assert summary.error_count == 0 and summary.records == {category: 3}


@settings(max_examples=40)
@given(rng=seeds())
def test_whole_files_are_read_as_written_in_windows_of_any_size(rng: random.Random) -> None:
    data, written = file_of(rng, blocks=12)
    reference, summary = by_reference(data)
    assert [(r.category, r.items) for r in reference] == written
    for window in (1, rng.randint(2, 3000), 1 << 22):
        fast, fast_summary = by_fast(data, window)
        assert plain(fast) == plain(reference)
        assert fast_summary == summary
    again = b"".join(encode_block(r.category, [encode_record(r.category, r.items)]) for r in reference)
    assert plain_items(again) == [r.items for r in reference]


def plain_items(data: bytes) -> list[dict[str, object]]:
    return [r.items for r in decode(data)]


def test_fields_of_a_record_laid_out_by_hand() -> None:
    items = "ff 8014 81384080a5903080c0002fff7ffce2 18 04 c9 804a08eb"
    body = bytes.fromhex(items)
    data = b"\x30" + (3 + len(body)).to_bytes(2) + body
    (found,) = decode(data)
    read = values(48, found.items)
    assert read["010"] == {"SAC": 20, "SIC": 129}
    assert read["140"] == {"TOD": 28801.0}
    assert read["020"] == {
        "TYP": 5, "SIM": 0, "RDP": 0, "SPI": 1, "RAB": 0,
        "TST": 1, "ERR": 0, "XPP": 0, "ME": 1, "MI": 0, "FOEFRI": 0,
    }  # fmt: skip
    assert read["040"] == {"RHO": 48.5, "THETA": 270.0}
    assert read["070"] == {"V": 0, "G": 0, "L": 1, "MODE3A": "7777"}
    assert read["090"] == {"V": 0, "G": 1, "FL": -1.0}
    assert read["130"] == {
        "SRL": {"SRL": 24 * 360 / 8192}, "SRR": {"SRR": 4}, "SAM": {"SAM": -55}, "APD": {"APD": -128 * 360 / 16384},
    }  # fmt: skip
    assert read["220"] == {"ADDRESS": "4A08EB"}


def test_a_north_marker_laid_out_by_hand() -> None:
    body = bytes.fromhex("e9 101401013840800200001b 1d5e90 017eab")
    (found,) = decode(b"\x22" + (3 + len(body)).to_bytes(2) + body)
    read = values(34, found.items)
    assert read["000"] == {"TYP": 1} and read["041"] == {"PERIOD": 4.0}
    assert read["120"]["HGT"] == 27
    assert read["120"]["LAT"] == pytest.approx(41.30070, abs=3e-5)
    assert read["120"]["LON"] == pytest.approx(2.10206, abs=3e-5)


# Engineering values at the ends of their ranges, from the standards' "range" notes.
EXTREMES = [
    (48, "040", "RHO", 65535, 255.99609375),
    (48, "042", "X", -32768, -256.0),
    (48, "110", "3DH", -8192, -204800.0),
    (48, "200", "GSP", 16384, 1.0),
    (48, "210", "SIGH", 255, 22.412109375),
    (48, "090", "FL", 6000, 1500.0),
    (34, "020", "SECTOR", 64, 90.0),
    (34, "090", "AZM", 127, 2.79052734375),
    (34, "100", "THETAEND", 49152, 270.0),
]


@pytest.mark.parametrize(("category", "name", "field_name", "raw", "expected"), EXTREMES)
def test_scale_factors(category: int, name: str, field_name: str, raw: int, expected: float) -> None:
    body = item_named(category, name).body
    assert not isinstance(body, Compound | Explicit | Extended)
    spec = next(f for f in body.fields if f.name == field_name)
    assert value(spec, raw) == expected


# Registers as downlinked, with readings worked out from ICAO Doc 9871 by hand.
REGISTERS = [
    ((4, 0), "c84e4270a80000", {"MCP_ALT": 37008.0, "FMS_ALT": 37008.0, "BARO": 1013.2, "BARO_S": 1, "MODE_S": 0}),
    ((5, 0), "801b97332004d6", {"ROLL": 0.0, "TRACK": -99.31640625, "GS": 408.0, "TRACK_RATE": 0.0, "TAS": 428.0}),
    ((6, 0), "df49e72f201401", {"HEADING": -92.109375, "IAS": 243, "MACH": 0.752, "BARO_RATE": 64.0, "IVV": 32.0}),
]


@pytest.mark.parametrize(("register", "octets", "expected"), REGISTERS)
def test_bds_registers(register: tuple[int, int], octets: str, expected: dict[str, float]) -> None:
    group = {"MBDATA": int(octets, 16), "BDS1": register[0], "BDS2": register[1]}
    data = encode_block(48, [encode_record(48, {"250": [group]})])
    read = values(48, next(decode(data)).items)["250"][0]
    assert {name: read[name] for name in expected} == pytest.approx(expected)


@settings(max_examples=50)
@given(rng=seeds())
def test_bds_registers_are_read_as_written(rng: random.Random) -> None:
    for register, specs in BDS.items():
        raw = fields(rng, specs)
        word = pack(specs, raw, "register")
        assert unpack(specs, word) == raw
        group = {"MBDATA": int.from_bytes(word), "BDS1": register[0], "BDS2": register[1]}
        (columns,) = stream_bytes(encode_block(48, [encode_record(48, {"250": [group]})]))
        assert {name: int(values[0]) for name, values in bds(columns, register).fields.items()} == raw


def test_six_bit_characters() -> None:
    spec = Field("IDENT", 48, "chars6")
    assert len(CHARS6) == 64
    assert value(spec, int("000001011010110000111001100000000000111111000010", 2)) == "AZ09 ??B"


BAD_RECORDS = [
    (99, {"010": {"SAC": 1, "SIC": 1}}, "category 99"),
    (48, {}, "none"),
    (48, {"011": {}}, "011"),
    (48, {"010": {"SAC": 1}}, "SIC is missing"),
    (48, {"010": {"SAC": 1, "SIC": 256}}, "I048/010: field SIC is 256, expected 0 to 255"),
    (48, {"090": {"V": 0, "G": 0, "FL": 8192}}, "expected -8192 to 8191"),
    (48, {"010": {"SAC": 1, "SIC": 2, "FOO": 3}}, "FOO"),
    (48, {"020": {"TYP": 1, "FOO": 3}}, "FOO"),
    (48, {"020": {"TYP": 1}}, "SIM is missing"),
    (48, {"130": {"XYZ": {}}}, "XYZ"),
    (48, {"030": []}, "one element"),
    (48, {"250": [{"MBDATA": 0, "BDS1": 0, "BDS2": 0}] * 256}, "256 groups"),
    (48, {"SP": bytes(255)}, "255 octets"),
]


@pytest.mark.parametrize(("category", "items", "said"), BAD_RECORDS)
def test_what_cannot_be_written_is_named(category: int, items: dict[str, object], said: str) -> None:
    with pytest.raises(AsterixError, match=said):
        encode_record(category, items)


def test_a_block_longer_than_its_length_field_is_refused() -> None:
    with pytest.raises(AsterixError, match="65538 octets"):
        encode_block(48, [bytes(65535)])


def test_raw_ranges_are_those_of_the_bits() -> None:
    assert raw_range(Field("A", 8, "signed")) == (-128, 127)
    assert raw_range(Field("A", 8)) == (0, 255)
