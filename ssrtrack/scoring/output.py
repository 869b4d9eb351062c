"""Tracks on their way into a log: histories to rows, in time order although flights come out flight by flight."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Tracks
from ssrtrack.filters.history import TrackHistory
from ssrtrack.scoring.scene import Scene

Array = NDArray[Any]
TracksWriter = Callable[[str, Tracks], None]
UPPER = np.triu_indices(4)


def group_names(trackers: Iterable[str]) -> dict[str, str]:
    """Names for trackers' groups in a log, by tracker: their texts, but for paths, which have "_" for "/"."""
    texts = list(trackers)
    names = {text: text for text in texts if "/" not in text and not text.startswith(".")}
    for text in texts:
        if text not in names:
            plain = text.strip("/. ").replace("/", "_") or "tracker"
            further = (plain, *(f"{plain}-{n}" for n in range(2, len(texts) + 2)))
            names[text] = next(name for name in further if name not in names.values())
    return names


def tracks_of(scene: Scene, history: TrackHistory) -> Tracks:
    """One tracker's states after each plot of a batch, in time order."""
    cells = scene.z.valid
    row, column = np.nonzero(cells)
    rows = scene.index[row, column]
    order = np.argsort(scene.z.time_s[cells], kind="stable")
    row, column, rows = row[order], column[order], rows[order]
    plots, mean = scene.batch.plots, history.mean[row, column]
    return Tracks(
        time_s=plots.time_s[rows],
        track_id=scene.batch.flight_ids[row],
        x_m=mean[:, 0],
        y_m=mean[:, 1],
        vx_mps=mean[:, 2],
        vy_mps=mean[:, 3],
        covariance=history.covariance[row, column][:, UPPER[0], UPPER[1]],
        height_m=scene.height_m[row, column],
        height_rate_mps=scene.height_rate_mps[row, column],
        coasted=~history.used[row, column],
        address=plots.address[rows],
        mode3a=plots.mode3a[rows],
        truth_id=plots.truth_id[rows],
        origin=scene.z.frame.origin,
    )


class TracksInOrder:
    """Holds tracks back until no later batch can bring older ones, then writes them in time order.

    `write` is told each tracker by its name of `group_names`.
    """

    def __init__(self, write: TracksWriter, trackers: Iterable[str]) -> None:
        self._write = write
        self._names = group_names(trackers)
        self._held: dict[str, list[Tracks]] = {}

    def add(self, name: str, tracks: Tracks) -> None:
        """Take one batch's tracks."""
        self._held.setdefault(name, []).append(tracks)

    def flush(self, before_s: float) -> None:
        """Write what is older than `before_s`: the first plot of any flight still to come."""
        for name, parts in self._held.items():
            table = replace(Tracks.concat(parts), origin=parts[0].origin)
            table = table[np.argsort(table.time_s, kind="stable")]
            ready = int(np.searchsorted(table.time_s, before_s))
            if ready:
                self._write(self._names[name], table[:ready])
            self._held[name] = [table[ready:]]
