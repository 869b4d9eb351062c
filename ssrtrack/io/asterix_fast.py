"""Fast ASTERIX reader: whole windows of records as columns, with the same result as `ssrtrack.io.asterix`.

A compiled walk finds every item of every record (`ssrtrack.io.asterix_walk`); each field is then gathered for all
records at once. A file of any size is read in windows: it is mapped, never loaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.io.asterix import RawRecord, Record
from ssrtrack.io.asterix_bds import BDS
from ssrtrack.io.asterix_frame import DECODED, Cause, Summary
from ssrtrack.io.asterix_items import Body, Compound, Explicit, Extended, Field, Fixed, Repetitive, RepetitiveFx
from ssrtrack.io.asterix_items_034 import ITEMS
from ssrtrack.io.asterix_source import Buffer, Segment, map_file, release, segments
from ssrtrack.io.asterix_walk import chain_lengths, count_records, frame, layout, place_items

WINDOW_BYTES = 4 << 20
GROUP_RECORDS = 1 << 16  # rows of one offset matrix: bounds memory when a window holds very short records
_BLOCKS = 1 << 17
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Columns:
    """Records of one category, in file order, as found: fields are taken out by `part`.

    Attributes:
        category: 34 or 48.
        offset: (n,) position of each record in the file.
        time_s: (n,) receive time of the capture packet, seconds since 1970 UTC; NaN in a raw file.
        buffer: the window's octets.
        item_offset: (n, slots) position of each item in `buffer`, -1 absent; slots as in `asterix_walk.Layout`.
    """

    category: int
    offset: Array
    time_s: Array
    buffer: Array
    item_offset: Array

    def __len__(self) -> int:
        return int(self.offset.size)


@dataclass(frozen=True, eq=False)
class Part:
    """Fields of one item (or one octet of an extended item, or one sub-item), for the records that have it.

    `rows` (m,) are rows of the Columns, not decreasing, repeated where the item repeats; `fields` are raw integers
    (m,). An explicit field has OFFSET and LENGTH of its content in the window's buffer.
    """

    rows: Array
    fields: dict[str, Array]


@dataclass(frozen=True)
class _Plan:
    slot: int
    octet: int  # of an extended item
    body: Body


def stream(path: Path, summary: Summary | None = None, window_bytes: int = WINDOW_BYTES) -> Iterator[Columns]:
    """Columns of a raw ASTERIX file, pcap or pcapng, window by window, in file order within each category.

    Args:
        path: the file; its kind is told from its first octets.
        summary: is added to while windows are taken.
        window_bytes: octets of input per window.

    Raises:
        AsterixError: the file cannot be opened. Content is never an error, it is counted in the summary.
    """
    summary = summary if summary is not None else Summary()
    buffer = map_file(path)
    yield from stream_segments(buffer, segments(buffer, summary), summary, window_bytes)


def stream_bytes(data: bytes, summary: Summary | None = None, window_bytes: int = WINDOW_BYTES) -> Iterator[Columns]:
    """Columns of ASTERIX octets in memory (blocks one after the other, no capture headers)."""
    buffer = Buffer(np.frombuffer(data, np.uint8))
    summary = summary if summary is not None else Summary()
    yield from stream_segments(buffer, iter([Segment(0, len(data))]), summary, window_bytes)


def stream_segments(
    buffer: Buffer, pieces: Iterator[Segment], summary: Summary, window_bytes: int
) -> Iterator[Columns]:
    """Columns of chosen pieces of a buffer."""
    blocks, errors = np.empty((_BLOCKS, 4), np.int64), np.empty((_BLOCKS, 2), np.int64)
    for batch in _batches(pieces, window_bytes):
        start = np.array([s.start for s in batch], np.int64)
        stop = np.array([s.stop for s in batch], np.int64)
        times = np.array([s.time_s for s in batch], np.float64)
        seg, pos = 0, int(start[0])
        while seg < len(batch):
            n_blocks, n_errors, seg, pos = frame(buffer.octets, start, stop, seg, pos, window_bytes, blocks, errors)
            yield from _window(buffer.octets, blocks[:n_blocks], errors[:n_errors], times, summary)
            release(buffer, pos)


def _batches(pieces: Iterator[Segment], window_bytes: int) -> Iterator[list[Segment]]:
    """Datagrams that together span about a window; a raw file is one batch."""
    batch: list[Segment] = []
    for piece in pieces:
        if batch and (piece.stop - batch[0].start > window_bytes or len(batch) >= _BLOCKS):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _window(octets: Array, blocks: Array, errors: Array, times: Array, summary: Summary) -> Iterator[Columns]:
    found: list[tuple[int, int]] = [tuple(error) for error in errors.tolist()]
    columns = []
    for category in DECODED:
        mine = np.ascontiguousarray(blocks[blocks[:, 2] == category])
        counts, bad = np.empty(len(mine), np.int64), np.empty((len(mine), 2), np.int64)
        plan = layout(category)
        count_records(octets, mine, plan.items, plan.subs, counts, bad)
        found += [tuple(error) for error in bad[bad[:, 1] > 0].tolist()]
        columns.append((category, mine, counts))
    _count(blocks, found, summary)
    for category, mine, counts in columns:
        for group in _groups(counts):
            yield _place(octets, category, mine[group], counts[group], times, summary)


def _count(blocks: Array, errors: list[tuple[int, int]], summary: Summary) -> None:
    summary.blocks += len(blocks)
    for category, count in zip(*np.unique(blocks[:, 2], return_counts=True), strict=True):
        if category not in DECODED:
            summary.skipped_blocks[int(category)] += int(count)
    summary.add_errors((pos, Cause(cause)) for pos, cause in sorted(errors))


def _groups(counts: Array) -> Iterator[slice]:
    """Runs of blocks with at most about GROUP_RECORDS records; blocks without records make no run."""
    if not counts.any():
        return
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(0, int(total[-1]), GROUP_RECORDS))
    bounds = [*np.unique(cuts).tolist(), len(counts)]
    yield from (slice(a, b) for a, b in pairwise(bounds) if counts[a:b].any())


def _place(octets: Array, category: int, blocks: Array, counts: Array, times: Array, summary: Summary) -> Columns:
    n, plan, base = int(counts.sum()), layout(category), int(blocks[0, 0])
    starts, block = np.empty(n, np.int64), np.empty(n, np.int64)
    offsets = np.full((n, len(plan.slots)), -1, np.int32)
    place_items(octets, blocks, counts, plan.items, plan.subs, base, starts, block, offsets)
    window = octets[base : int(blocks[:, 1].max())]
    columns = Columns(category, starts, times[blocks[block, 3]], window, offsets)
    summary.records[category] += n
    for source, count in zip(*np.unique(source_of(columns), return_counts=True), strict=True):
        sac_sic = divmod(int(source), 256) if source >= 0 else (-1, -1)
        summary.sources[sac_sic] += int(count)
    return columns


def source_of(columns: Columns) -> Array:
    """SAC * 256 + SIC of each record, (n,) int32; -1 where it has none."""
    found = part(columns, "010")
    source = np.full(len(columns), -1, np.int32)
    source[found.rows] = found.fields["SAC"] * 256 + found.fields["SIC"]
    return source


@cache
def part_plans(category: int) -> dict[str, _Plan]:
    """Every part of a category by name: "040", "130/SRL", "020.1" (first octet of an extended item)."""
    slot_of = {name: slot for slot, name in enumerate(layout(category).slots)}
    plans = {}
    for item in ITEMS[category]:
        if isinstance(item.body, Extended):
            for octet in range(len(item.body.octets)):
                plans[f"{item.id}.{octet + 1}"] = _Plan(slot_of[item.id], octet, item.body)
        elif isinstance(item.body, Compound):
            for name, body in (sub for sub in item.body.subs if sub):
                plans[f"{item.id}/{name}"] = _Plan(slot_of[f"{item.id}/{name}"], 0, body)
        else:
            plans[item.id] = _Plan(slot_of[item.id], 0, item.body)
    return plans


def part(columns: Columns, name: str) -> Part:
    """One part of all records (see `part_plans` for names).

    Raises:
        KeyError: the category has no such part.
    """
    plan = part_plans(columns.category)[name]
    at = columns.item_offset[:, plan.slot]
    rows = np.flatnonzero(at >= 0)
    at = at[rows]
    buf = columns.buffer
    body = plan.body
    if isinstance(body, Extended):
        for _ in range(plan.octet):
            more = (buf[at] & 1) == 1
            rows, at = rows[more], at[more] + 1
        return Part(rows, fields_at(buf, at, body.octets[plan.octet]))
    if isinstance(body, Explicit):
        return Part(rows, {"OFFSET": at + 1, "LENGTH": buf[at].astype(np.int32) - 1})
    if isinstance(body, RepetitiveFx):
        counts = np.empty(at.size, np.int64)
        chain_lengths(buf, at, counts)
        rows, at = _repeat(rows, at, counts, 1)
    if isinstance(body, Repetitive):
        rows, at = _repeat(rows, at + 1, buf[at].astype(np.int64), sum(f.bits for f in body.fields) // 8)
    return Part(rows, fields_at(buf, at, getattr(body, "fields", ())))


def _repeat(rows: Array, at: Array, counts: Array, size: int) -> tuple[Array, Array]:
    first = np.repeat(np.cumsum(counts) - counts, counts)
    within = np.arange(first.size) - first
    return np.repeat(rows, counts), (np.repeat(at, counts) + within * size).astype(np.int32)


def fields_at(buf: Array, at: Array, fields: Sequence[Field]) -> dict[str, Array]:
    """Raw integers of consecutive fields that start at each octet of `at`: int32, or int64 beyond 31 bits."""
    octets: dict[int, Array] = {}
    values, bit = {}, 0
    for f in fields:
        if f.kind != "spare":
            first, last = bit // 8, (bit + f.bits - 1) // 8
            for i in range(first, last + 1):
                if i not in octets:
                    octets[i] = buf[at + i]
            run = [octets[i] for i in range(first, last + 1)]
            values[f.name] = _bits(run, (last + 1) * 8 - bit - f.bits, f)
        bit += f.bits
    return values


def _bits(octets: list[Array], shift: int, f: Field) -> Array:
    """The field's bits out of the octets that hold it, `shift` bits above their end."""
    # A whole register (int64) comes as one "octet".
    dtype = np.int32 if len(octets) * octets[0].itemsize * 8 <= 31 else np.int64
    word: Array = octets[0].astype(dtype)
    for octet in octets[1:]:
        word = (word << 8) | octet
    value: Array = (word >> shift) & ((1 << f.bits) - 1)
    if f.kind == "signed":
        value = value - ((value >> (f.bits - 1)) << f.bits)
    return value.astype(np.int32) if f.bits <= 31 else value


def bds(columns: Columns, register: tuple[int, int], groups: Part | None = None) -> Part:
    """Fields of one BDS register (`ssrtrack.io.asterix_bds.BDS`) in I048/250.

    Args:
        groups: `part(columns, "250")`, if it is at hand already.
    """
    groups = groups or part(columns, "250")
    f = groups.fields
    mine = (f["BDS1"] == register[0]) & (f["BDS2"] == register[1])
    word, bit, values = f["MBDATA"][mine], 56, {}
    for spec in BDS[register]:
        bit -= spec.bits
        if spec.kind != "spare":
            values[spec.name] = _bits([word], bit, spec)
    return Part(groups.rows[mine], values)


def parts(columns: Columns) -> dict[str, Part]:
    """Every part of every record; the BDS registers of I048/250 are "BDS40", "BDS50" and "BDS60"."""
    found = {name: part(columns, name) for name in part_plans(columns.category)}
    if columns.category == 48:
        found |= {f"BDS{a}{b}": bds(columns, (a, b), found["250"]) for a, b in BDS}
    return found


def records(columns: Columns) -> list[Record]:
    """The same records as dictionaries, as `ssrtrack.io.asterix.decode` gives them (slow: for looking and checking)."""
    items: list[dict[str, Any]] = [{} for _ in range(len(columns))]
    plans = part_plans(columns.category)
    slots = {name: slot for slot, name in enumerate(layout(columns.category).slots)}
    for item in ITEMS[columns.category]:
        for row in np.flatnonzero(columns.item_offset[:, slots[item.id]] >= 0).tolist():
            items[row][item.id] = [] if isinstance(item.body, Repetitive | RepetitiveFx) else {}
    for name in plans:
        _fill(items, name, plans[name].body, part(columns, name), columns)
    found = zip(items, columns.offset.tolist(), columns.time_s.tolist(), strict=True)
    return [Record(columns.category, offset, raw, time_s) for raw, offset, time_s in found]


def _fill(items: list[RawRecord], name: str, body: Body, found: Part, columns: Columns) -> None:
    item, _, sub = name.partition("/")
    item = item.partition(".")[0]
    lists = [values.tolist() for values in found.fields.values()]
    for row, *raw in zip(found.rows.tolist(), *lists, strict=True):
        group = dict(zip(found.fields, raw, strict=True))
        if isinstance(body, Explicit):
            items[row][item] = columns.buffer[group["OFFSET"] :][: group["LENGTH"]].tobytes()
        elif sub and isinstance(body, Repetitive):
            items[row][item].setdefault(sub, []).append(group)
        elif sub:
            items[row][item][sub] = group
        elif isinstance(body, Fixed | Extended):
            items[row][item] |= group
        else:
            items[row][item].append(group)
    if sub and isinstance(body, Repetitive):
        _fill_empty(items, item, sub, columns)


def _fill_empty(items: list[RawRecord], item: str, sub: str, columns: Columns) -> None:
    """A repetitive sub-item that is present with a count of 0."""
    slot = layout(columns.category).slots.index(f"{item}/{sub}")
    for row in np.flatnonzero(columns.item_offset[:, slot] >= 0).tolist():
        items[row][item].setdefault(sub, [])
