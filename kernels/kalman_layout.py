"""Tracks of unequal length in one array without padding: time-major, longest track first.

Column k holds the tracks that have a k-th plot, and these are always the first ones; so neighbouring tracks are
neighbours in memory at every step (what a GPU and SIMD units want), and nothing is stored for tracks that have ended.
The same idea as PyTorch's PackedSequence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which track and plot is where.

    order (N,): the track in each place. alive (T,): tracks with a k-th plot. offsets (T + 1,): where columns begin.
    """

    order: Array
    alive: Array
    offsets: Array

    @staticmethod
    def of(lengths: Array) -> "Layout":
        """The layout of tracks with these numbers of plots (N,)."""
        lengths = np.asarray(lengths, np.int64)
        order = np.argsort(-lengths, kind="stable")
        steps = int(lengths.max(initial=0))
        alive = np.searchsorted(-lengths[order], -np.arange(steps), side="left").astype(np.int64)
        return Layout(order, alive, np.concatenate([np.zeros(1, np.int64), np.cumsum(alive)]))

    @property
    def tracks(self) -> int:
        """Tracks with at least one plot."""
        return int(self.alive[0]) if self.alive.size else 0

    @property
    def steps(self) -> int:
        """Plots of the longest track."""
        return int(self.alive.size)

    @property
    def plots(self) -> int:
        """Plots of all tracks: the length of a packed row."""
        return int(self.offsets[-1])

    def rows(self, k: int) -> tuple[int, int]:
        """Where column k begins and ends."""
        return int(self.offsets[k]), int(self.offsets[k + 1])

    def part(self, begin: int, end: int) -> tuple["Layout", Array]:
        """The layout of the tracks begin … end − 1 alone, and the runs (T, 2) of packed places that they take here."""
        alive = np.clip(self.alive - begin, 0, end - begin)
        alive = alive[alive > 0]
        starts = self.offsets[: alive.size] + begin
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(alive)])
        return Layout(self.order[begin:end], alive, offsets), np.stack([starts, starts + alive], 1)

    def cells(self) -> tuple[Array, Array]:
        """Row (P,) and column (P,) of the table (N, T) behind every packed place."""
        column = np.repeat(np.arange(self.steps), self.alive)
        place = np.arange(self.plots) - np.repeat(self.offsets[:-1], self.alive)
        return self.order[place], column
