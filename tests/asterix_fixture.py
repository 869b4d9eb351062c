"""Random ASTERIX records drawn from the item tables, and both readers side by side."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from ssrtrack.io import asterix_fast
from ssrtrack.io.asterix import Record, decode
from ssrtrack.io.asterix_encode import encode_block, encode_record, raw_range
from ssrtrack.io.asterix_frame import Summary
from ssrtrack.io.asterix_items import Body, Compound, Explicit, Extended, Field, Fixed, Item
from ssrtrack.io.asterix_items_034 import ITEMS

ALL_ITEMS = [
    pytest.param(category, item, id=f"{category:03d}/{item.id}") for category in ITEMS for item in ITEMS[category]
]


def recordings() -> Path:
    """The folder of real recordings, or a skip with its reason."""
    root = os.environ.get("SSRTRACK_DATA")
    if not root:
        pytest.skip("SSRTRACK_DATA is not set: no real recordings to read")
    return Path(root) / "recordings"


def fields(rng: random.Random, specs: tuple[Field, ...]) -> dict[str, int]:
    """Random raw values; the ends of the range as often as its inside."""
    values = {}
    for f in specs:
        low, high = raw_range(f)
        if f.kind != "spare":
            values[f.name] = rng.choice((low, high, rng.randint(low, high), rng.randint(low, high)))
    return values


def item_value(rng: random.Random, body: Body) -> Any:
    """A random value of an item, as the readers give it."""
    if isinstance(body, Fixed):
        return fields(rng, body.fields)
    if isinstance(body, Extended):
        octets = body.octets[: rng.randint(1, len(body.octets))]
        return {name: raw for octet in octets for name, raw in fields(rng, octet).items()}
    if isinstance(body, Compound):
        subs = [sub for sub in body.subs if sub and rng.random() < 0.6]
        return {name: item_value(rng, sub) for name, sub in subs}
    if isinstance(body, Explicit):
        return rng.randbytes(rng.choice((0, 1, 5, 254)))
    least = 1 if type(body).__name__ == "RepetitiveFx" else 0
    return [fields(rng, body.fields) for _ in range(rng.randint(least, 4))]


def record(rng: random.Random, category: int, share: float = 0.5) -> dict[str, Any]:
    """A random record with about `share` of the items."""
    chosen = [item for item in ITEMS[category] if rng.random() < share]
    return {item.id: item_value(rng, item.body) for item in chosen or ITEMS[category][:1]}


def file_of(rng: random.Random, blocks: int, share: float = 0.3) -> tuple[bytes, list[tuple[int, dict[str, Any]]]]:
    """Blocks of both categories with 1 to 4 records each, and the records in order."""
    data, records = [], []
    for _ in range(blocks):
        category = rng.choice((34, 48))
        mine = [record(rng, category, share) for _ in range(rng.randint(1, 4))]
        data.append(encode_block(category, [encode_record(category, r) for r in mine]))
        records += [(category, r) for r in mine]
    return b"".join(data), records


def seeds() -> st.SearchStrategy[random.Random]:
    """Random generators that shrink towards seed 0."""
    return st.integers(0, 2**32).map(random.Random)


def by_reference(data: bytes) -> tuple[list[Record], Summary]:
    summary = Summary()
    return list(decode(data, summary)), summary


def by_fast(data: bytes, window_bytes: int = 1 << 22) -> tuple[list[Record], Summary]:
    summary = Summary()
    windows = asterix_fast.stream_bytes(data, summary, window_bytes)
    found = [r for columns in windows for r in asterix_fast.records(columns)]
    return sorted(found, key=lambda r: r.offset), summary


def plain(records: list[Record]) -> list[tuple[int, int, dict[str, Any]]]:
    """Records without their NaN times, which never compare equal."""
    return [(r.category, r.offset, r.items) for r in records]


def item_named(category: int, name: str) -> Item:
    return next(item for item in ITEMS[category] if item.id == name)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, NaN where NaN."""
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
