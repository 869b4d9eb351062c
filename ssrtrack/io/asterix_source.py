"""Where ASTERIX octets are in a file: the whole of a raw recording, or the payloads of a packet capture."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.errors import AsterixError
from ssrtrack.io.asterix import Record, decode
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.pcap import capture_kind, datagrams


@dataclass(frozen=True)
class Segment:
    """Octets `start` to `stop` of the file, complete blocks; `time_s` since 1970 UTC when they were captured."""

    start: int
    stop: int
    time_s: float = nan


@dataclass(frozen=True, eq=False)
class Buffer:
    """A file's octets, read-only (n,) uint8; `map` is what they are mapped by, None if they are in memory."""

    octets: NDArray[np.uint8]
    map: Any = None


def map_file(path: Path) -> Buffer:
    """A file's octets, mapped.

    Raises:
        AsterixError: the file cannot be opened, or is no file.
    """
    try:
        with Path(path).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # mmap's word for an empty file
        return Buffer(np.frombuffer(b"", np.uint8))
    except OSError as error:
        raise AsterixError(f"cannot read {path}: {error.strerror}; give a raw ASTERIX, pcap or pcapng file") from error
    return Buffer(np.frombuffer(mapped, np.uint8), mapped)


def release(buffer: Buffer, position: int) -> None:
    """Give back the memory of what was read up to `position`; the octets stay readable."""
    if buffer.map is not None and hasattr(buffer.map, "madvise") and position >= mmap.PAGESIZE:
        buffer.map.madvise(mmap.MADV_DONTNEED, 0, position // mmap.PAGESIZE * mmap.PAGESIZE)


def segments(buffer: Buffer, summary: Summary) -> Iterator[Segment]:
    """Pieces of a file to decode, one after the other; packets that carry none are counted in `summary.packets`."""
    octets = buffer.octets
    if capture_kind(octets[:4].tobytes()) is None:
        if octets.size:
            yield Segment(0, octets.size)
        return
    for datagram in datagrams(octets.data, summary.packets):
        if datagram.stop > datagram.start:
            yield Segment(datagram.start, datagram.stop, datagram.time_s)


def read_records(path: Path, summary: Summary | None = None) -> Iterator[Record]:
    """Records of a raw ASTERIX file, pcap or pcapng by the reference reader, one by one.

    Raises:
        AsterixError: the file cannot be opened.
    """
    summary = summary if summary is not None else Summary()
    buffer = map_file(path)
    for piece in segments(buffer, summary):
        data = buffer.octets.data[piece.start : piece.stop]
        yield from decode(data, summary, piece.start, piece.time_s)
