"""Captures built octet by octet: every file kind, link type and IP version, and what is passed over."""

import random
import struct
from collections import Counter
from math import isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssrtrack.errors import AsterixError
from ssrtrack.io.pcap import Datagram, address_text, capture_kind, datagrams

PAYLOAD = bytes(range(48, 90))
V4_A, V4_B = b"\x0a\x01\x02\x03", b"\xe0\x00\x00\x02"
V6_A, V6_B = bytes(15) + b"\x01", b"\xff\x02" + bytes(13) + b"\x05"
MACS = b"\x01\x00\x5e\x00\x00\x02\x00\x11\x22\x33\x44\x55"


def udp(payload: bytes = PAYLOAD, length: int | None = None) -> bytes:
    return struct.pack(">HHHH", 4001, 8600, 8 + len(payload) if length is None else length, 0) + payload


def ipv4(inner: bytes, protocol: int = 17, fragment: int = 0, options: bytes = b"", length: int | None = None) -> bytes:
    total = 20 + len(options) + len(inner) if length is None else length
    first = 0x40 | (5 + len(options) // 4)
    return struct.pack(">BBHHHBBH", first, 0, total, 7, fragment, 64, protocol, 0) + V4_A + V4_B + options + inner


def ipv6(inner: bytes, following: int = 17) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(inner), following, 64) + V6_A + V6_B + inner


def ethernet(inner: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    return MACS + tags + struct.pack(">H", kind) + inner


def extension(following: int, octets: int, inner: bytes) -> bytes:
    return bytes([following, octets // 8 - 1]) + bytes(octets - 2) + inner


def pcap(packets: list[bytes], order: str = "<", link: int = 1, nano: bool = False, at: float = 1e9 + 0.25) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for packet in packets:
        fraction = round(at % 1 * (1e9 if nano else 1e6))
        data += struct.pack(f"{order}IIII", int(at), fraction, len(packet), len(packet)) + packet
    return data


def ng_block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}II", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def ng_section(order: str) -> bytes:
    return ng_block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def ng_interface(order: str, link: int = 1, options: bytes = b"", snap: int = 0) -> bytes:
    return ng_block(order, 1, struct.pack(f"{order}HHI", link, 0, snap) + options)


def ng_option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def ng_enhanced(order: str, packet: bytes, ticks: int, interface: int = 0) -> bytes:
    head = struct.pack(f"{order}IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet))
    return ng_block(order, 6, head + packet)


def ng_simple(order: str, packet: bytes) -> bytes:
    return ng_block(order, 3, struct.pack(f"{order}I", len(packet)) + packet)


def read(data: bytes) -> tuple[list[Datagram], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(datagrams(memoryview(data), counts)), counts


def only(data: bytes) -> Datagram:
    found, counts = read(data)
    assert len(found) == 1 and counts["datagrams"] == 1, counts
    assert data[found[0].start : found[0].stop] == PAYLOAD
    assert (found[0].source_port, found[0].destination_port) == (4001, 8600)
    return found[0]


FRAME = ethernet(ipv4(udp()))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_both_orders_and_resolutions(order: str, nano: bool) -> None:
    data = pcap([FRAME, FRAME], order, nano=nano, at=1_600_000_000.125)
    found, counts = read(data)
    assert [d.time_s for d in found] == [1_600_000_000.125] * 2
    assert [data[d.start : d.stop] for d in found] == [PAYLOAD] * 2
    assert counts == {"packets": 2, "datagrams": 2}
    assert (address_text(found[0].source), address_text(found[0].destination)) == ("10.1.2.3", "224.0.0.2")


# Packets that carry PAYLOAD, by link type.
LINKS = {
    "Ethernet": (1, FRAME),
    "Ethernet with padding": (1, FRAME + bytes(9)),
    "VLAN": (1, ethernet(ipv4(udp()), tags=b"\x81\x00\x00\x2a")),
    "QinQ": (1, ethernet(ipv4(udp()), tags=b"\x88\xa8\x00\x2a\x81\x00\x00\x07")),
    "VLAN with IPv6": (1, ethernet(ipv6(udp()), 0x86DD, tags=b"\x81\x00\x00\x2a")),
    "SNAP": (1, MACS + struct.pack(">H", 8 + len(ipv4(udp()))) + b"\xaa\xaa\x03\0\0\0\x08\x00" + ipv4(udp())),
    "IPv4 options": (1, ethernet(ipv4(udp(), options=b"\x94\x04\0\0" * 3))),
    "IPv4 of length 0": (1, ethernet(ipv4(udp(), length=0))),
    "IPv6": (1, ethernet(ipv6(udp()), 0x86DD)),
    "IPv6 hop by hop": (1, ethernet(ipv6(extension(17, 8, udp()), 0), 0x86DD)),
    "IPv6 three extensions": (
        1,
        ethernet(ipv6(extension(43, 16, extension(60, 8, extension(17, 24, udp()))), 0), 0x86DD),
    ),
    "IPv6 authentication": (1, ethernet(ipv6(bytes([17, 4]) + bytes(22) + udp(), 51), 0x86DD)),
    "IPv6 atomic fragment": (1, ethernet(ipv6(b"\x11\0\0\0\0\0\0\x07" + udp(), 44), 0x86DD)),
    "Linux cooked": (113, struct.pack(">HHH8sH", 0, 1, 6, b"", 0x0800) + ipv4(udp())),
    "Linux cooked 2": (276, struct.pack(">HHIHBB8s", 0x86DD, 0, 1, 1, 0, 6, b"") + ipv6(udp())),
    "raw IPv4": (101, ipv4(udp())),
    "raw IPv6": (101, ipv6(udp())),
    "IPv4 link": (228, ipv4(udp())),
    "null, little endian": (0, b"\x02\0\0\0" + ipv4(udp())),
    "null, big endian": (0, b"\0\0\0\x1e" + ipv6(udp())),
    "loop": (108, b"\0\0\0\x02" + ipv4(udp())),
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_link_types_and_ip_headers(link: str, order: str) -> None:
    number, packet = LINKS[link]
    found = only(pcap([packet], order, number))
    v6 = len(found.source) == 16
    assert (found.source, found.destination) == ((V6_A, V6_B) if v6 else (V4_A, V4_B))
    only(ng_section(order) + ng_interface(order, number) + ng_enhanced(order, packet, 5))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_times(order: str) -> None:
    options = {
        b"": (1_600_000_000_125_000, 1_600_000_000.125),
        ng_option(order, 9, b"\x09"): (1_600_000_000_125_000_000, 1_600_000_000.125),
        ng_option(order, 9, b"\x8a"): (1_600_000_000 * 1024 + 128, 1_600_000_000.125),
        ng_option(order, 2, b"eth0") + ng_option(order, 14, struct.pack(f"{order}q", 100)): (5_000_000, 105.0),
    }
    for option, (ticks, expected_s) in options.items():
        data = ng_section(order) + ng_interface(order, 1, option) + ng_enhanced(order, FRAME, ticks)
        assert only(data).time_s == expected_s


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks(order: str) -> None:
    """Unknown blocks are passed over; a new section starts its own interfaces, in its own byte order."""
    other = ">" if order == "<" else "<"
    old = struct.pack(f"{other}HHIIII", 0, 0, 0, 7, len(FRAME), len(FRAME)) + FRAME
    data = (
        ng_section(order) + ng_interface(order) + ng_interface(order, 101) + ng_block(order, 5, bytes(20))
        + ng_enhanced(order, ipv4(udp()), 1, interface=1) + ng_simple(order, FRAME)
        + ng_section(other) + ng_interface(other) + ng_block(other, 2, old) + ng_enhanced(other, FRAME, 9, interface=1)
    )  # fmt: skip
    found, counts = read(data)
    assert counts == {"packets": 3, "datagrams": 3, "malformed": 1}
    assert found[0].time_s == 1e-6 and isnan(found[1].time_s) and found[2].time_s == 7e-6


def test_a_snap_length_cuts_simple_packets() -> None:
    data = ng_section("<") + ng_interface("<", snap=40) + ng_simple("<", FRAME)
    assert read(data)[1] == {"packets": 1, "truncated": 1}


# Packets without a whole UDP payload, and what they are counted as.
PASSED_OVER = {
    "ARP": (1, ethernet(bytes(28), 0x0806), "not IP"),
    "TCP": (1, ethernet(ipv4(bytes(20), protocol=6)), "not UDP"),
    "IPv6 ICMP": (1, ethernet(ipv6(bytes(16), 58), 0x86DD), "not UDP"),
    "IPv6 nothing follows": (1, ethernet(ipv6(b"", 59), 0x86DD), "not UDP"),
    "first fragment": (1, ethernet(ipv4(udp(), fragment=0x2000)), "fragments"),
    "last fragment": (1, ethernet(ipv4(udp(), fragment=0x0010)), "fragments"),
    "IPv6 fragment": (1, ethernet(ipv6(b"\x11\0\0\x01\0\0\0\x07" + udp(), 44), 0x86DD), "fragments"),
    "cut by the capture": (1, FRAME[:-5], "truncated"),
    "UDP length too short": (1, ethernet(ipv4(udp(length=7))), "malformed"),
    "UDP longer than its IP packet": (1, ethernet(ipv4(udp(length=60), length=50) + bytes(40)), "malformed"),
    "IPv4 header too short": (1, ethernet(b"\x44" + ipv4(udp())[1:]), "malformed"),
    "IPv4 cut": (1, FRAME[:25], "malformed"),
    "IPv6 cut": (1, ethernet(ipv6(udp())[:30], 0x86DD), "malformed"),
    "IPv6 extension beyond the end": (1, ethernet(ipv6(b"\x00\xff" + bytes(6), 0), 0x86DD), "malformed"),
    "not version 4": (1, ethernet(b"\x65" + ipv4(udp())[1:]), "malformed"),
    "Ethernet cut": (1, MACS, "malformed"),
    "VLAN tag cut": (1, MACS + b"\x81\x00\x00", "not IP"),
    "nothing": (1, b"", "malformed"),
    "cooked cut": (113, bytes(3), "malformed"),
    "raw of no version": (101, b"\x00" * 40, "not IP"),
    "null of another family": (0, b"\x07\0\0\0" + ipv4(udp()), "not IP"),
    "802.11": (105, bytes(60), "unknown link type"),
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_other_packets_are_counted_and_do_not_stop_the_reading(case: str) -> None:
    link, packet, reason = PASSED_OVER[case]
    found, counts = read(ng_section("<") + ng_interface("<", link) + ng_interface("<") + ng_enhanced("<", packet, 1)
                         + ng_enhanced("<", FRAME, 2, interface=1))  # fmt: skip
    assert counts == {"packets": 2, reason: 1, "datagrams": 1}
    assert found[0].time_s == 2e-6


BROKEN = {
    "pcap header": pcap([])[:20],
    "pcap packet header": pcap([FRAME]) + bytes(7),
    "pcap packet": pcap([FRAME, FRAME])[:-1],
    "pcapng block header": ng_section("<") + bytes(5),
    "pcapng block of length 0": ng_section("<") + bytes(16),
    "pcapng block beyond the end": (ng_section("<") + ng_interface("<") + ng_enhanced("<", FRAME, 1))[:-4],
    "pcapng odd length": ng_section("<") + struct.pack("<II", 5, 13) + bytes(20),
    "pcapng magic alone": b"\x0a\x0d\x0d\x0a",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_capture_ends_where_it_breaks(case: str) -> None:
    assert read(BROKEN[case])[1]["broken capture"] == 1


def test_kinds_are_told_by_content() -> None:
    assert capture_kind(pcap([])) == "pcap" and capture_kind(pcap([], ">", nano=True)) == "pcap"
    assert capture_kind(ng_section(">")) == "pcapng"
    assert capture_kind(b"\x30\x00\x0a\xff") is None and capture_kind(b"") is None
    with pytest.raises(AsterixError, match="not a packet capture"):
        list(datagrams(memoryview(b"\x30\x00\x0a\xff")))


@settings(max_examples=300)
@given(
    tail=st.binary(max_size=300),
    head=st.sampled_from([pcap([]), pcap([], ">", 101), pcap([], "<", 0), ng_section("<") + ng_interface("<")]),
)
def test_random_octets_never_raise(head: bytes, tail: bytes) -> None:
    found, counts = read(head + tail)
    assert counts["datagrams"] == len(found) <= counts["packets"]


@settings(max_examples=200)
@given(packet=st.binary(max_size=120), link=st.sampled_from([0, 1, 101, 113, 276, 228]))
def test_random_packets_never_raise(packet: bytes, link: int) -> None:
    data = pcap([packet, ethernet(ipv4(packet)), ethernet(ipv6(packet, 0), 0x86DD)], "<", link)
    assert read(data)[1]["packets"] == 3


def test_mutations_of_a_valid_capture() -> None:
    rng = random.Random(7)
    packets = [packet for link, packet in LINKS.values() if link == 1]
    ng = ng_section("<") + ng_interface("<") + b"".join(ng_enhanced("<", p, 1) for p in packets)
    for whole in (pcap(packets), ng):
        for _ in range(1500):
            octets = bytearray(whole)
            for _ in range(rng.randint(1, 5)):
                octets[rng.randrange(4, len(octets))] = rng.randrange(256)
            found, counts = read(bytes(octets[: rng.choice((len(octets), rng.randrange(4, len(octets))))]))
            assert all(0 <= d.start <= d.stop <= len(octets) for d in found)
            assert counts["packets"] <= len(octets) // 12
