"""Compiled walk through ASTERIX bytes: where the blocks are, and where each item of each record is.

Nothing is decoded here; the walk only knows how long things are, from arrays made of the item tables. Rules and error
causes are those of `ssrtrack.io.asterix_frame`; the loops mirror `ssrtrack.io.asterix`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ssrtrack.io.asterix import octet_count
from ssrtrack.io.asterix_frame import CHAIN, DECODED, PUBLISHED, Cause
from ssrtrack.io.asterix_items import Body, Compound, Explicit, Extended, Fixed, Repetitive, RepetitiveFx
from ssrtrack.io.asterix_items_034 import ITEMS

FIXED, CHAINED, REPETITIVE, EXPLICIT, COMPOUND = 1, 2, 3, 4, 5
_KIND = {Fixed: FIXED, Extended: CHAINED, RepetitiveFx: CHAINED, Repetitive: REPETITIVE, Explicit: EXPLICIT}

_IS_PUBLISHED = np.zeros(256, np.bool_)
_IS_PUBLISHED[list(PUBLISHED)] = True
_IS_DECODED = np.zeros(256, np.bool_)
_IS_DECODED[list(DECODED)] = True

# Plain integers: numba turns module constants into literals, enumeration members it does not.
_LENGTH, _TRUNCATED, _FOREIGN, _OVERRUN = (
    int(c) for c in (Cause.LENGTH, Cause.TRUNCATED, Cause.FOREIGN, Cause.OVERRUN)
)
_UNKNOWN_ITEM, _NO_ITEM = int(Cause.UNKNOWN_ITEM), int(Cause.NO_ITEM)
_UNKNOWN_SUBITEM, _EXPLICIT_LENGTH = int(Cause.UNKNOWN_SUBITEM), int(Cause.EXPLICIT_LENGTH)


@dataclass(frozen=True)
class Layout:
    """One category's lengths as arrays, and the columns ("slots") of its offset matrix.

    `slots` names them: "040" for an item, "130/SRL" for a sub-item. `items` is (FRN, 3): kind, octets, slot;
    `subs` is (FRN, places, 3), kind 0 for an unassigned place.
    """

    slots: tuple[str, ...]
    items: NDArray[np.int32]
    subs: NDArray[np.int32]


@cache
def layout(category: int) -> Layout:
    """The walker's view of `ITEMS[category]`."""
    uap = ITEMS[category]
    compounds = {frn: item.body for frn, item in enumerate(uap) if isinstance(item.body, Compound)}
    places = max((len(body.subs) for body in compounds.values()), default=1)
    items = np.zeros((len(uap), 3), np.int32)
    subs = np.zeros((len(uap), places, 3), np.int32)
    slots = [item.id for item in uap]
    for frn, item in enumerate(uap):
        items[frn] = *_kind_size(item.body), frn
    for frn, body in compounds.items():
        for place, sub in enumerate(body.subs):
            if sub is not None:
                subs[frn, place] = *_kind_size(sub[1]), len(slots)
                slots.append(f"{uap[frn].id}/{sub[0]}")
    return Layout(tuple(slots), items, subs)


def _kind_size(body: Body) -> tuple[int, int]:
    if isinstance(body, Compound):
        return COMPOUND, 0
    size = octet_count(body.fields) if isinstance(body, Fixed | Repetitive) else 1
    return _KIND[type(body)], size


@njit(cache=True)
def _is_chain(buf: Any, pos: int, end: int) -> bool:
    if not _IS_DECODED[buf[pos]]:
        return False
    for _ in range(CHAIN):
        if pos == end:
            return True
        if pos + 3 > end or not _IS_PUBLISHED[buf[pos]]:
            return False
        length = buf[pos + 1] * 256 + buf[pos + 2]
        if length <= 3:
            return False
        pos += length
    return pos <= end


@njit(cache=True)
def _header(buf: Any, pos: int, end: int) -> tuple[int, int]:
    if pos + 3 > end:
        return _TRUNCATED, pos
    category = buf[pos]
    length = buf[pos + 1] * 256 + buf[pos + 2]
    stop = pos + length
    if length < 3:
        return _LENGTH, pos
    if stop > end:
        return _TRUNCATED, pos
    if not _IS_DECODED[category] and stop != end:
        if stop + 3 > end or not (_IS_PUBLISHED[buf[stop]] or buf[stop] == category):
            return _FOREIGN, pos
        if buf[stop + 1] * 256 + buf[stop + 2] < 3:
            return _FOREIGN, pos
    return 0, stop


@njit(cache=True)
def frame(
    buf: Any, seg_start: Any, seg_stop: Any, seg: int, pos: int, budget: int, blocks: Any, errors: Any
) -> tuple[int, int, int, int]:
    """Blocks of some segments (a raw file is one, each datagram is one), from `pos` in segment `seg` on.

    Fills `blocks` (m, 4: start, stop, category, segment) and `errors` (k, 2: position, cause); returns how many of
    each, and where to go on: segment and position. Stops when an array is full or `budget` octets are done.
    """
    n_blocks, n_errors, done = 0, 0, 0
    while seg < seg_start.size:
        end = seg_stop[seg]
        while pos < end:
            if n_blocks == blocks.shape[0] or n_errors == errors.shape[0] or done >= budget:
                return n_blocks, n_errors, seg, pos
            cause, stop = _header(buf, pos, end)
            if cause != 0:
                errors[n_errors, 0] = pos
                errors[n_errors, 1] = cause
                n_errors += 1
                stop = pos + 1
                while stop < end and not _is_chain(buf, stop, end):
                    stop += 1
            else:
                blocks[n_blocks, 0] = pos
                blocks[n_blocks, 1] = stop
                blocks[n_blocks, 2] = buf[pos]
                blocks[n_blocks, 3] = seg
                n_blocks += 1
            done += stop - pos
            pos = stop
        seg += 1
        if seg < seg_start.size:
            pos = seg_start[seg]
    return n_blocks, n_errors, seg, pos


@njit(cache=True)
def _skip(buf: Any, pos: int, stop: int, kind: int, size: int) -> tuple[int, int]:
    """Position after one item that is not compound, and the cause if there is none."""
    if kind == FIXED:
        pos += size
    elif kind == CHAINED:
        while pos < stop and buf[pos] & 1:
            pos += 1
        pos += 1
    elif pos >= stop:
        return pos, _OVERRUN
    elif kind == REPETITIVE:
        pos += 1 + size * buf[pos]
    else:
        if buf[pos] == 0:
            return pos, _EXPLICIT_LENGTH
        pos += buf[pos]
    return pos, _OVERRUN if pos > stop else 0


@njit(cache=True)
def _compound(buf: Any, pos: int, stop: int, subs: Any, offsets: Any, row: int, base: int) -> tuple[int, int]:
    first = pos
    pos, cause = _skip(buf, pos, stop, CHAINED, 1)
    last = pos
    if cause != 0:
        return pos, cause
    for at in range(first, last):
        for bit in range(7):
            if not buf[at] >> (7 - bit) & 1:
                continue
            place = (at - first) * 7 + bit
            if place >= subs.shape[0] or subs[place, 0] == 0:
                return pos, _UNKNOWN_SUBITEM
            if row >= 0:
                offsets[row, subs[place, 2]] = pos - base
            pos, cause = _skip(buf, pos, stop, subs[place, 0], subs[place, 1])
            if cause != 0:
                return pos, cause
    return pos, 0


@njit(cache=True)
def _record(buf: Any, pos: int, stop: int, items: Any, subs: Any, offsets: Any, row: int, base: int) -> tuple[int, int]:
    first = pos
    pos, cause = _skip(buf, pos, stop, CHAINED, 1)
    if cause != 0:
        return pos, cause
    last, named = pos, -1
    for at in range(first, last):
        for bit in range(7):
            if buf[at] >> (7 - bit) & 1:
                named = (at - first) * 7 + bit
    if named < 0:
        return pos, _NO_ITEM
    if named >= items.shape[0]:
        return pos, _UNKNOWN_ITEM
    for frn in range(named + 1):
        if not buf[first + frn // 7] >> (7 - frn % 7) & 1:
            continue
        if row >= 0:
            offsets[row, items[frn, 2]] = pos - base
        if items[frn, 0] == COMPOUND:
            pos, cause = _compound(buf, pos, stop, subs[frn], offsets, row, base)
        else:
            pos, cause = _skip(buf, pos, stop, items[frn, 0], items[frn, 1])
        if cause != 0:
            return pos, cause
    return pos, 0


@njit(cache=True)
def count_records(buf: Any, blocks: Any, items: Any, subs: Any, counts: Any, errors: Any) -> None:
    """Whole records in each block: `counts` (m,), and `errors` (m, 2: position, cause 0 for none)."""
    nowhere = np.empty((0, 0), np.int32)
    for b in range(blocks.shape[0]):
        pos, stop = blocks[b, 0] + 3, blocks[b, 1]
        counts[b] = 0
        errors[b, 1] = 0
        while pos < stop:
            after, cause = _record(buf, pos, stop, items, subs, nowhere, -1, 0)
            if cause != 0:
                errors[b, 0] = pos
                errors[b, 1] = cause
                break
            counts[b] += 1
            pos = after


@njit(cache=True)
def place_items(
    buf: Any, blocks: Any, counts: Any, items: Any, subs: Any, base: int, starts: Any, block: Any, offsets: Any
) -> None:
    """Where all is: `starts` (n,) of the records, `block` (n,) they are in, `offsets` (n, slots) from `base`."""
    row = 0
    for b in range(blocks.shape[0]):
        pos = blocks[b, 0] + 3
        for _ in range(counts[b]):
            starts[row] = pos
            block[row] = b
            pos, _cause = _record(buf, pos, blocks[b, 1], items, subs, offsets, row, base)
            row += 1


@njit(cache=True)
def chain_lengths(buf: Any, offsets: Any, lengths: Any) -> None:
    """Octets of FX chains that start at `offsets`."""
    for i in range(offsets.size):
        pos = offsets[i]
        while buf[pos] & 1:
            pos += 1
        lengths[i] = pos - offsets[i] + 1
