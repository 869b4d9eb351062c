"""What can go wrong in ASTERIX bytes, where reading resumes, and the count of it all.

A file (or the payload of one datagram) is a chain of blocks: category (1 octet), LEN (2 octets, the header included),
records. The rules, shared by both readers:

* Blocks of CAT034 and CAT048 are decoded; blocks of other categories are skipped by LEN and counted.
* A foreign block is believed only if it ends where the data end, or where a header follows that has a published
  category, or its own, and a LEN of at least 3. Otherwise a wrong LEN would let the reader jump through a file in
  random steps without a word.
* A header with LEN < 3, with LEN beyond the end of the data, or not believed, is one error. Reading resumes at the
  first later octet where a chain of headers starts with CAT034 or CAT048, goes on with published categories and
  LEN > 3, and spans `CHAIN` blocks or reaches exactly the end of the data.
* A record that cannot be walked (it overruns its block, names an item outside the UAP, names none, names an
  unassigned sub-item, or carries an explicit field of length 0) is one error, with the record's offset; what is left of
  its block is skipped.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

DECODED = (34, 48)
# Categories with a published EUROCONTROL specification.
PUBLISHED = frozenset(
    (
        *range(1, 5),
        *range(7, 12),
        *range(15, 22),
        23,
        25,
        30,
        31,
        32,
        34,
        48,
        62,
        63,
        65,
        129,
        150,
        204,
        205,
        240,
        247,
        252,
    )
)
CHAIN = 3
HEADER = 3
MAX_BLOCK = 65535


class Cause(IntEnum):
    """Why octets were skipped."""

    NONE = 0
    LENGTH = 1
    TRUNCATED = 2
    FOREIGN = 3
    OVERRUN = 4
    UNKNOWN_ITEM = 5
    NO_ITEM = 6
    UNKNOWN_SUBITEM = 7
    EXPLICIT_LENGTH = 8

    def __str__(self) -> str:
        return _TEXT[self]


_TEXT = {
    Cause.NONE: "no error",
    Cause.LENGTH: "block length below 3",
    Cause.TRUNCATED: "block runs past the end of the data",
    Cause.FOREIGN: "not a believable block header",
    Cause.OVERRUN: "record runs past the end of its block",
    Cause.UNKNOWN_ITEM: "record names an item outside the user application profile",
    Cause.NO_ITEM: "record names no item",
    Cause.UNKNOWN_SUBITEM: "compound item names an unassigned sub-item",
    Cause.EXPLICIT_LENGTH: "explicit field of length 0",
}


@dataclass
class Summary:
    """What was read so far; readers add to it as they go, so it is complete when they are exhausted.

    `errors` keeps the first `max_errors` pairs (offset in the file, cause); `error_count` counts them all.
    """

    blocks: int = 0
    records: Counter[int] = field(default_factory=Counter)  # by category
    sources: Counter[tuple[int, int]] = field(default_factory=Counter)  # records by (SAC, SIC); (-1, -1) none given
    skipped_blocks: Counter[int] = field(default_factory=Counter)  # by category not decoded
    errors: list[tuple[int, Cause]] = field(default_factory=list)
    error_count: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)
    packets: Counter[str] = field(default_factory=Counter)  # captures: see `ssrtrack.io.pcap`
    dropped_plots: Counter[str] = field(default_factory=Counter)  # records that gave no plot, by reason
    late_plots: int = 0  # out of time order by more than the reader could mend
    max_errors: int = 1000

    def add_errors(self, errors: Iterable[tuple[int, Cause]]) -> None:
        """Count errors and keep the first ones."""
        for offset, cause in errors:
            self.error_count += 1
            self.causes[cause] += 1
            if len(self.errors) < self.max_errors:
                self.errors.append((offset, cause))
