"""Broken input: nothing raises, nothing hangs, both readers skip the same and say the same."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.io.asterix_encode import encode_block, encode_record
from ssrtrack.io.asterix_frame import Cause, Summary
from ssrtrack.io.asterix_source import read_records
from ssrtrack.io.asterix_stream import PlotStream
from tests.asterix_fixture import by_fast, by_reference, file_of, plain, recordings, seeds

SOURCE = encode_record(48, {"010": {"SAC": 20, "SIC": 129}})
GOOD = encode_block(48, [SOURCE])


def agree(data: bytes, window_bytes: int = 1 << 22) -> Summary:
    reference, summary = by_reference(data)
    fast, fast_summary = by_fast(data, window_bytes)
    assert plain(fast) == plain(reference)
    assert fast_summary == summary
    assert summary.error_count <= len(data) and len(summary.errors) <= summary.max_errors
    assert sum(summary.records.values()) * 2 <= len(data)  # FSPEC and an octet: no record is made of nothing
    return summary


def block(*octets: int, category: int = 48) -> bytes:
    return encode_block(category, [bytes(octets)])


# Data, the errors expected (offset, cause) and the whole records found in spite of them.
CASES = {
    "empty": (b"", [], 0),
    "one octet": (b"\x30", [(0, Cause.TRUNCATED)], 0),
    "no records": (GOOD + b"\x30\x00\x03" + GOOD, [], 2),
    "truncated last block": (GOOD + GOOD[:-1], [(6, Cause.TRUNCATED)], 1),
    "length 0": (GOOD + b"\x30\x00\x00" + GOOD * 3, [(6, Cause.LENGTH)], 4),
    "length 2": (b"\x30\x00\x02" + GOOD, [(0, Cause.LENGTH)], 1),
    "zero padding": (GOOD + bytes(1000) + GOOD * 3, [(6, Cause.LENGTH)], 4),
    "length beyond the end": (GOOD + b"\x30\xff\xff" + GOOD * 3, [(6, Cause.TRUNCATED)], 4),
    "noise between": (GOOD + b"\xee\x00\x09abcdef" + b"\xdd" + GOOD * 3, [(6, Cause.FOREIGN)], 4),
    "record overruns": (block(0x80, 1) + GOOD, [(3, Cause.OVERRUN)], 1),
    "good, then overruns": (encode_block(48, [SOURCE, b"\x80\x01"]) + GOOD, [(6, Cause.OVERRUN)], 2),
    "FSPEC overruns": (block(0x81) + GOOD, [(3, Cause.OVERRUN)], 1),
    "FSPEC without item": (block(0x01, 0x01, 0x00) + GOOD, [(3, Cause.NO_ITEM)], 1),
    "FSPEC beyond the UAP": (block(0x01, 0x01, 0x01, 0x01, 0x80, 1, 2) + GOOD, [(3, Cause.UNKNOWN_ITEM)], 1),
    "CAT034 FRN 15": (block(0x01, 0x01, 0x80, 1, category=34) + GOOD, [(3, Cause.UNKNOWN_ITEM)], 1),
    "unassigned sub-item": (block(0x01, 0x01, 0x04, 0x20, 1, 2) + GOOD, [(3, Cause.UNKNOWN_SUBITEM)], 1),
    "sub-items beyond the known": (block(0x02, 0x01, 0x80, 1, 2) + GOOD, [(3, Cause.UNKNOWN_SUBITEM)], 1),
    "explicit of length 0": (block(0x01, 0x01, 0x01, 0x04, 0x00) + GOOD, [(3, Cause.EXPLICIT_LENGTH)], 1),
    "FX without end": (block(0x20, *[0xFF] * 9) + GOOD, [(3, Cause.OVERRUN)], 1),
    "repetition overruns": (block(0x01, 0x20, 0xFF, *range(8)) + GOOD, [(3, Cause.OVERRUN)], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_errors_are_found_where_they_are_and_the_rest_is_read(case: str) -> None:
    data, errors, records = CASES[case]
    summary = agree(data)
    assert summary.errors == errors
    assert sum(summary.records.values()) == records
    for window in (1, 7):
        assert agree(data, window) == summary


def test_other_categories_are_skipped_and_counted() -> None:
    foreign = [encode_block(category, [bytes(9)]) for category in (62, 65, 21, 21)]
    summary = agree(GOOD + foreign[0] + foreign[1] + GOOD + foreign[2] + foreign[3])
    assert summary.skipped_blocks == {62: 1, 65: 1, 21: 2}
    assert (summary.blocks, summary.error_count, summary.records) == (6, 0, {48: 2})


def test_octets_of_later_editions_are_passed_over() -> None:
    """I048/170 with a third octet: the known two are read, the next record is found."""
    body = b"\x01\x02\x03\x05\x06" + SOURCE
    records, summary = by_reference(encode_block(48, [body]))
    assert agree(encode_block(48, [body])).error_count == 0
    assert len(records) == 2 and records[0].items["170"]["CNF"] == 0 and records[0].items["170"]["TRE"] == 0
    assert summary.error_count == 0


def test_only_the_first_errors_are_kept_but_all_are_counted() -> None:
    bad = block(0x80, 1)
    summary = agree(bad * 1500)
    assert len(summary.errors) == 1000 and summary.error_count == 1500
    assert summary.causes == {Cause.OVERRUN: 1500}


@settings(max_examples=300)
@given(data=st.binary(max_size=400), window=st.sampled_from((1, 50, 1 << 22)))
def test_random_octets(data: bytes, window: int) -> None:
    agree(data, window)


@settings(max_examples=200)
@given(body=st.binary(min_size=1, max_size=120), category=st.sampled_from((34, 48)))
def test_random_octets_inside_a_block(body: bytes, category: int) -> None:
    summary = agree(GOOD + encode_block(category, [body]) + GOOD)
    assert summary.blocks == 3
    assert summary.error_count <= 1


def mutate(rng: random.Random, data: bytes) -> bytes:
    octets = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(octets))
        kind = rng.randrange(5)
        if kind == 0:
            octets[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            octets[at] = rng.choice((0, 255, 1, rng.randrange(256)))
        elif kind == 2:
            del octets[at : at + rng.randint(1, 20)]
        elif kind == 3:
            octets[at:at] = rng.randbytes(rng.randint(1, 20))
        else:
            del octets[at:]
        if not octets:
            return b""
    return bytes(octets)


def test_thousands_of_mutations_of_valid_files() -> None:
    rng = random.Random(48)
    valid = [file_of(rng, blocks=8)[0] for _ in range(40)]
    for _ in range(2000):
        agree(mutate(rng, rng.choice(valid)), rng.choice((100, 1 << 22)))


@settings(max_examples=100)
@given(rng=seeds())
def test_a_wrong_octet_inside_a_block_spoils_that_block_only(rng: random.Random) -> None:
    data, _ = file_of(rng, blocks=12)
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + int.from_bytes(data[starts[-1] + 1 : starts[-1] + 3]))
    hit = rng.randrange(len(starts) - 1)
    octets = bytearray(data)
    octets[rng.randrange(starts[hit] + 3, starts[hit + 1])] ^= 1 << rng.randrange(8)
    agree(bytes(octets))
    before, _ = by_reference(data)
    after, _ = by_reference(bytes(octets))
    outside = [r for r in plain(before) if not starts[hit] <= r[1] < starts[hit + 1]]
    assert [r for r in plain(after) if not starts[hit] <= r[1] < starts[hit + 1]] == outside


@pytest.mark.parametrize("seed", range(6))
def test_noise_makes_plots_or_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = [rng.randbytes(200_000), mutate(rng, file_of(rng, 400, 0.6)[0]), file_of(rng, 400, 0.9)[0]]
    path = tmp_path / "noise.bin"
    path.write_bytes(rng.choice((b"", b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a")) + data[seed % 3])
    stream = PlotStream(path)
    for chunk in stream:
        chunk.plots.validate()
        chunk.service.validate()
    stream.radars().validate()


def test_mutations_of_a_real_recording(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = (recordings() / "barcelona_cat048_1h.ast").read_bytes()
    for _ in range(200):
        start = rng.randrange(len(whole) - 6000)
        agree(mutate(rng, whole[start : start + 6000]))
    capture = (recordings() / "cat_034_048.pcap").read_bytes()
    path = tmp_path / "broken.pcap"
    for _ in range(100):
        path.write_bytes(mutate(rng, capture))
        list(read_records(path))
        list(PlotStream(path))
