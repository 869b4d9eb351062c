"""Shape of a residual model: what its checkpoint has to say for it to be built again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from ssrtrack.errors import CheckpointError

LARGEST = 4_096  # of any count: a damaged file must not make us ask for all memory
LONGEST_GAP_S = 86_400.0
COUNTS = ("modes", "history", "width", "blocks", "states", "head", "rank", "hidden")
LATER = ("block", "options", "residual", "timed")  # what the first checkpoints did not say, for there was one answer


@dataclass(frozen=True)
class ResidualConfig:
    """Shape of the network and what it is told.

    modes: motion models of the base filter; 0 for a single one. history: past plots shown beside the newest.
    width, blocks: of the stream, and how many blocks it passes. block: what they are, a name of
    `ssrtrack.models.residual_blocks.BLOCKS`; options: that block's own, by name. states, head, rank: of a block that
    has such (`ssrtrack.models.koss.KossBlock`). nominal_gap_s: time between plots that is one step of the network's
    own time. hidden: of the head that predicts the next plot.

    Two are ablations. residual=False: what is corrected is not the base filter's estimate but that of the last two
    plots alone (`ssrtrack.models.residual_bare`), and nothing of the base is seen. timed=False: a block takes every
    step for a nominal one; the gap stays among the features.
    """

    modes: int = 4
    history: int = 4
    width: int = 64
    blocks: int = 2
    states: int = 4
    head: int = 64
    rank: int = 4
    hidden: int = 32
    nominal_gap_s: float = 5.0
    block: str = "koss"
    options: Mapping[str, Any] = field(default_factory=dict)
    residual: bool = True
    timed: bool = True

    def __post_init__(self) -> None:
        for name in COUNTS:
            value, least = getattr(self, name), 0 if name in ("modes", "history") else 1
            if not (isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST):
                raise CheckpointError(f"{name} is {value!r}, expected a whole number from {least} to {LARGEST}")
        gap_s = self.nominal_gap_s
        if not (isinstance(gap_s, int | float) and not isinstance(gap_s, bool) and 0.0 < gap_s <= LONGEST_GAP_S):
            raise CheckpointError(f"nominal_gap_s is {gap_s!r}, expected a positive number of seconds, at most a day")
        if self.block == "koss" and self.width % min(self.head, self.width):
            raise CheckpointError(f"width {self.width} is not a multiple of the head's {self.head} channels")
        if not isinstance(self.block, str) or not isinstance(self.options, Mapping):
            raise CheckpointError(f"block {self.block!r} must be a name, and options {self.options!r} a table")
        for name in ("residual", "timed"):
            if not isinstance(getattr(self, name), bool):
                raise CheckpointError(f"{name} is {getattr(self, name)!r}, expected true or false")
        for name, value in self.options.items():
            small = not isinstance(value, int | float) or abs(value) <= LARGEST  # NaN is not
            if not (isinstance(value, bool | int | float | str | None) and small):
                raise CheckpointError(f"option {name} is {value!r}, expected a word, true, false or a number")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From what JSON had.

        Raises:
            CheckpointError: no table, keys that are missing or unknown, values out of range.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not names - set(LATER) <= set(values) <= names:
            came = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise CheckpointError(f"the architecture names {came}, expected {sorted(names)}")
        return cls(**values)


SIZES = {
    "tiny": ResidualConfig(width=32, blocks=1, head=32),
    "small": ResidualConfig(width=64, blocks=2),
    "medium": ResidualConfig(width=128, blocks=4),
    "large": ResidualConfig(width=256, blocks=3, hidden=64),
}
