"""UDP payloads out of packet captures: pcap (micro- and nanoseconds) and pcapng, both byte orders.

Formats: IETF draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types: tcpdump.org/linktypes. Captures are read in
place: a datagram is a range of octets of the file. Nothing in a packet is fatal: what carries no complete UDP payload
is counted, by reason. A broken packet or block header ends the reading, since where the next one starts is unknown.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from math import nan
from typing import Literal, NamedTuple

from ssrtrack.errors import AsterixError

CaptureKind = Literal["pcap", "pcapng"]
ByteOrder = Literal["<", ">"]


class Datagram(NamedTuple):
    """One UDP payload: octets `start` to `stop` of the file; `time_s` since 1970 UTC, NaN if the capture has none."""

    time_s: float
    start: int
    stop: int
    source: bytes  # 4 or 16 octets
    destination: bytes
    source_port: int
    destination_port: int


class _Packet(NamedTuple):
    time_s: float
    link: int
    start: int
    stop: int
    order: ByteOrder


class _Payload(NamedTuple):
    """What follows an IP header."""

    start: int
    stop: int
    source: bytes
    destination: bytes


# Magic numbers as they stand in the file: byte order and seconds per tick.
_PCAP_MAGIC: dict[bytes, tuple[ByteOrder, float]] = {
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
}
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_IPV4, _IPV6, _SNAP = 0x0800, 0x86DD, b"\xaa\xaa\x03"
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
_UDP, _FRAGMENT, _AUTHENTICATION = 17, 44, 51
_EXTENSIONS = (0, 43, 60, 135, 139, 140)  # IPv6 headers with a length in 8-octet units (RFC 7045)


def capture_kind(start: bytes) -> CaptureKind | None:
    """The kind of a capture file by its first four octets; None: no capture."""
    if start[:4] in _PCAP_MAGIC:
        return "pcap"
    return "pcapng" if start[:4] == b"\x0a\x0d\x0d\x0a" else None


def datagrams(data: memoryview, counts: Counter[str] | None = None) -> Iterator[Datagram]:
    """UDP datagrams of a capture, in file order.

    Args:
        data: the whole file (mapped or in memory).
        counts: is added to: "packets", "datagrams", and what was passed over: "not IP", "not UDP", "fragments",
            "truncated", "malformed", "unknown link type", "broken capture".

    Raises:
        AsterixError: `data` is no capture.
    """
    counts = counts if counts is not None else Counter()
    kind = capture_kind(bytes(data[:4]))
    if kind is None:
        raise AsterixError(f"not a packet capture: starts with {bytes(data[:4])!r}; expected a pcap or pcapng magic")
    packets = _pcap(data, counts) if kind == "pcap" else _pcapng(data, counts)
    for packet in packets:
        counts["packets"] += 1
        found = _datagram(data, packet)
        if isinstance(found, str):
            counts[found] += 1
        else:
            counts["datagrams"] += 1
            yield found


def address_text(address: bytes) -> str:
    """An IP address in its usual notation."""
    return str(ip_address(address))


def _pcap(data: memoryview, counts: Counter[str]) -> Iterator[_Packet]:
    order, tick_s = _PCAP_MAGIC[bytes(data[:4])]
    if len(data) < 24:
        counts["broken capture"] += 1
        return
    link = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF  # the upper half tells of frame check sequences
    header = struct.Struct(f"{order}IIII")
    pos = 24
    while pos < len(data):
        if pos + 16 > len(data):
            counts["broken capture"] += 1
            return
        seconds, fraction, captured, _ = header.unpack_from(data, pos)
        pos += 16
        if pos + captured > len(data):
            counts["broken capture"] += 1
            return
        yield _Packet(seconds + fraction * tick_s, link, pos, pos + captured, order)
        pos += captured


@dataclass(frozen=True)
class _Interface:
    link: int
    snap_length: int
    ticks_per_s: int
    offset_s: int


def _pcapng(data: memoryview, counts: Counter[str]) -> Iterator[_Packet]:
    order: ByteOrder = "<"
    interfaces: list[_Interface] = []
    pos = 0
    while pos < len(data):
        if bytes(data[pos : pos + 4]) == b"\x0a\x0d\x0d\x0a":
            order = ">" if bytes(data[pos + 8 : pos + 12]) == b"\x1a\x2b\x3c\x4d" else "<"
            interfaces = []
        if pos + 12 > len(data):
            counts["broken capture"] += 1
            return
        kind, length = struct.unpack_from(f"{order}II", data, pos)
        if length < 12 or length % 4 or pos + length > len(data):
            counts["broken capture"] += 1
            return
        body, stop = pos + 8, pos + length - 4
        if kind == _INTERFACE:
            interfaces.append(_interface(data, body, stop, order))
        elif kind in (_ENHANCED, _SIMPLE, _PACKET):
            packet = _pcapng_packet(data, kind, body, stop, order, interfaces)
            if packet is None:
                counts["malformed"] += 1
            else:
                yield packet
        pos += length


def _interface(data: memoryview, body: int, stop: int, order: ByteOrder) -> _Interface:
    """Link type, snap length and time resolution; a block too short for them gives an unknown link type."""
    if body + 8 > stop:
        return _Interface(-1, 0, 10**6, 0)
    link, _, snap_length = struct.unpack_from(f"{order}HHI", data, body)
    ticks, offset_s, pos = 10**6, 0, body + 8
    while pos + 4 <= stop:
        code, size = struct.unpack_from(f"{order}HH", data, pos)
        pos += 4
        if code == 9 and size >= 1 and pos < stop:
            exponent = data[pos] & 0x7F
            ticks = 2**exponent if data[pos] & 0x80 else 10**exponent
        elif code == 14 and size == 8 and pos + 8 <= stop:
            offset_s = struct.unpack_from(f"{order}q", data, pos)[0]
        elif code == 0:
            break
        pos += (size + 3) // 4 * 4
    return _Interface(link, snap_length, ticks, offset_s)


def _pcapng_packet(
    data: memoryview, kind: int, body: int, stop: int, order: ByteOrder, interfaces: list[_Interface]
) -> _Packet | None:
    """One packet block; None if it is shorter than its own header, or names an interface that was not described."""
    head = 4 if kind == _SIMPLE else 20
    if body + head > stop:
        return None
    number, high, low = 0, 0, 0
    if kind == _SIMPLE:
        (captured,) = struct.unpack_from(f"{order}I", data, body)
    elif kind == _ENHANCED:
        number, high, low, captured = struct.unpack_from(f"{order}IIII", data, body)
    else:
        number, _, high, low, captured = struct.unpack_from(f"{order}HHIII", data, body)
    if number >= len(interfaces):
        return None
    interface, start = interfaces[number], body + head
    time_s = nan
    if kind == _SIMPLE:
        captured = min(captured, interface.snap_length or captured, stop - start)
    else:
        time_s = (high << 32 | low) / interface.ticks_per_s + interface.offset_s
    return _Packet(time_s, interface.link, start, start + captured, order) if start + captured <= stop else None


def _datagram(data: memoryview, packet: _Packet) -> Datagram | str:
    """The UDP payload of a packet, or the reason why there is none."""
    reader = _LINKS.get(packet.link)
    if reader is None:
        return "unknown link type"
    data = data[: packet.stop]  # so that reading past the packet's end fails instead of finding the next one
    try:
        version, start = reader(data, packet)
        if version == _IPV4:
            inner = _ipv4(data, start, packet.stop)
        elif version == _IPV6:
            inner = _ipv6(data, start, packet.stop)
        else:
            return "not IP"
    except (struct.error, IndexError):
        return "malformed"
    return inner if isinstance(inner, str) else _udp(data, inner, packet)


def _udp(data: memoryview, inner: _Payload, packet: _Packet) -> Datagram | str:
    if inner.stop - inner.start < 8:
        return "malformed"
    if inner.start + 8 > packet.stop:
        return "truncated"
    source_port, destination_port, length = struct.unpack_from(">HHH", data, inner.start)
    if length < 8:
        return "malformed"
    stop = inner.start + length
    if stop > packet.stop:
        return "truncated"
    if stop > inner.stop:
        return "malformed"
    return Datagram(
        packet.time_s, inner.start + 8, stop, inner.source, inner.destination, source_port, destination_port
    )


def _ipv4(data: memoryview, at: int, end: int) -> _Payload | str:
    if at + 20 > end:
        return "malformed"
    first, _, length, _, fragment, _, protocol = struct.unpack_from(">BBHHHBB", data, at)
    head = (first & 15) * 4
    if first >> 4 != 4 or head < 20 or (length and length < head):
        return "malformed"
    if protocol != _UDP:
        return "not UDP"
    if fragment & 0x3FFF:
        return "fragments"
    stop = at + length if length else end  # 0: segmentation was left to the network card
    return _Payload(at + head, stop, bytes(data[at + 12 : at + 16]), bytes(data[at + 16 : at + 20]))


def _ipv6(data: memoryview, at: int, end: int) -> _Payload | str:
    if at + 40 > end or data[at] >> 4 != 6:
        return "malformed"
    length, following = struct.unpack_from(">HB", data, at + 4)
    stop, pos = at + 40 + length if length else end, at + 40
    while following != _UDP:
        if pos + 8 > end:
            return "malformed" if following in (*_EXTENSIONS, _FRAGMENT, _AUTHENTICATION) else "not UDP"
        if following == _FRAGMENT:
            if struct.unpack_from(">H", data, pos + 2)[0] & 0xFFF9:
                return "fragments"
            size = 8
        elif following in _EXTENSIONS:
            size = (data[pos + 1] + 1) * 8
        elif following == _AUTHENTICATION:
            size = (data[pos + 1] + 2) * 4
        else:
            return "not UDP"
        following, pos = data[pos], pos + size
    return _Payload(pos, stop, bytes(data[at + 8 : at + 24]), bytes(data[at + 24 : at + 40]))


def _ethernet(data: memoryview, packet: _Packet) -> tuple[int, int]:
    return _tagged(data, packet.start + 12, packet.stop)


def _tagged(data: memoryview, pos: int, end: int) -> tuple[int, int]:
    """Ethertype at `pos`, behind any VLAN tags and a SNAP header."""
    (kind,) = struct.unpack_from(">H", data, pos)
    while kind in _VLAN_TAGS and pos + 6 <= end:
        pos += 4
        (kind,) = struct.unpack_from(">H", data, pos)
    if kind <= 1500 and bytes(data[pos + 2 : pos + 5]) == _SNAP and pos + 10 <= end:
        pos += 8
        (kind,) = struct.unpack_from(">H", data, pos)
    return kind, pos + 2


def _cooked(data: memoryview, packet: _Packet) -> tuple[int, int]:
    return _tagged(data, packet.start + 14, packet.stop)


def _cooked_2(data: memoryview, packet: _Packet) -> tuple[int, int]:
    (kind,) = struct.unpack_from(">H", data, packet.start)
    if kind not in _VLAN_TAGS:
        return kind, packet.start + 20
    (kind,) = struct.unpack_from(">H", data, packet.start + 22)
    return kind, packet.start + 24


def _raw(data: memoryview, packet: _Packet) -> tuple[int, int]:
    return {4: _IPV4, 6: _IPV6}.get(data[packet.start] >> 4, 0), packet.start


def _loopback(data: memoryview, packet: _Packet) -> tuple[int, int]:
    """Address family in the byte order of the capturing host, which a small number gives away."""
    word = bytes(data[packet.start : packet.start + 4])
    family = min(int.from_bytes(word, "big"), int.from_bytes(word, "little"))
    return {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}.get(family, 0), packet.start + 4


_LINKS: dict[int, Callable[[memoryview, _Packet], tuple[int, int]]] = {
    0: _loopback,
    108: _loopback,
    1: _ethernet,
    12: _raw,
    14: _raw,
    101: _raw,
    228: _raw,
    229: _raw,
    113: _cooked,
    276: _cooked_2,
}
