"""Rows for what a network remembers of its tracks, filled again once nobody holds them.

With thousands of tracks these are tens of megabytes a step. The system hands such blocks out page by page, each one
zeroed, which takes longer than the network does; and every step drops as many as it takes.
"""

import sys
from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
KEPT = 4  # blocks at most; a tracker that steps has two in use
LEAST_OCTETS = 1 << 20  # below it an allocation costs nothing


def _counts(blocks: list[Array]) -> Iterator[tuple[Array, int]]:
    """Blocks, each with Python's count of the references to it."""
    for block in blocks:
        yield block, sys.getrefcount(block)


# The count of a block that nobody holds, measured: which references Python counts differs between its versions.
((_, NOT_HELD),) = _counts([np.empty(1, np.float32)])
_blocks: list[Array] = []
_lock = Lock()


def rows_for(count: int, size: int) -> Array:
    """(count, size) float32, its numbers whatever they are. No other array shares its memory, until it is dropped.

    A block is taken again only if neither it nor a view of it is left, which Python's count of references says: a view
    holds a reference to what it is a view of, and so does a tensor made from it.
    """
    if 4 * count * size < LEAST_OCTETS or sys.implementation.name != "cpython":
        return np.empty((count, size), np.float32)
    with _lock:
        for block, references in _counts(_blocks):
            if block.shape == (count, size) and references == NOT_HELD:
                return block
        made = np.empty((count, size), np.float32)
        _blocks.append(made)
        del _blocks[:-KEPT]
        return made
