"""Sizes of a residual model: what its checkpoint has to say for it to be built again."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ssrtrack.errors import CheckpointError

LARGEST = 4_096  # of any count: a damaged file must not make us ask for all memory
LONGEST_GAP_S = 86_400.0


@dataclass(frozen=True)
class ResidualConfig:
    """Shape of the network and what it is told.

    modes: motion models of the base filter; 0 for a single one. history: past plots shown beside the newest.
    width, blocks, states, head, rank: as `ssrtrack.models.koss.KossBlock` has them. nominal_gap_s: time between plots
    that is one step of the network's own time. hidden: of the head that predicts the next plot.
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

    def __post_init__(self) -> None:
        whole = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "nominal_gap_s"}
        least = {name: 0 if name in ("modes", "history") else 1 for name in whole}
        for name, value in whole.items():
            if not (isinstance(value, int) and not isinstance(value, bool) and least[name] <= value <= LARGEST):
                raise CheckpointError(f"{name} is {value!r}, expected a whole number from {least[name]} to {LARGEST}")
        gap_s = self.nominal_gap_s
        if not (isinstance(gap_s, int | float) and not isinstance(gap_s, bool) and 0.0 < gap_s <= LONGEST_GAP_S):
            raise CheckpointError(f"nominal_gap_s is {gap_s!r}, expected a positive number of seconds, at most a day")
        if self.width % min(self.head, self.width):
            raise CheckpointError(f"width {self.width} is not a multiple of the head's {self.head} channels")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """From what JSON had.

        Raises:
            CheckpointError: no table, keys that are missing or unknown, values out of range.
        """
        names = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            came = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise CheckpointError(f"the architecture names {came}, expected {sorted(names)}")
        return cls(**values)


SIZES = {
    "tiny": ResidualConfig(width=32, blocks=1, head=32),
    "small": ResidualConfig(width=64, blocks=2),
    "medium": ResidualConfig(width=128, blocks=4),
}
