"""Flights worth drawing, chosen while the log streams by: those that turn most, and a thin set for the overview."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.filters.history import TrackHistory
from ssrtrack.geodesy import wrapped_angle
from ssrtrack.scoring.result import FlightExample
from ssrtrack.scoring.scene import Scene, flight_label

Array = NDArray[Any]

MAX_PLOTS = 3000  # of an example: more cannot be drawn
OVERVIEW_FLIGHTS, OVERVIEW_POINTS = 150, 200
MIN_SPEED_MPS = 50.0  # slower ones (vehicles, hovering) seem to turn all the time
MIN_TURN_RADPS = np.radians(0.5)


class Gallery:
    """The `count` flights that turn most so far, and an even sample of all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._best: list[tuple[float, float, str, FlightExample]] = []
        self._overview: list[Array] = []
        self._stride, self._seen = 1, 0

    def choose(self, scene: Scene) -> Array:
        """Rows of a batch that may become examples."""
        turned = turning_s(scene)
        lengths = scene.z.valid.sum(1)
        turned = np.where(lengths <= MAX_PLOTS, turned, -1.0)
        rows = np.argsort(-turned, kind="stable")[: self._count]
        worst = self._best[-1][0] if self._best and len(self._best) >= self._count else -1.0
        return rows[turned[rows] > worst]

    def add(self, scene: Scene, rows: Array, histories: Mapping[str, tuple[Array, Array]]) -> None:
        """Add chosen rows, given each tracker's mean (n, T, 4) and position variance (n, T) on them."""
        turned = turning_s(scene)
        for place, row in enumerate(rows):
            example = _example(scene, int(row), {n: (m[place], v[place]) for n, (m, v) in histories.items()})
            self._best.append((float(turned[row]), float(example.time_s[0]), example.label, example))
        self._best.sort(key=lambda item: (-item[0], item[1], item[2]))
        del self._best[self._count :]

    def add_overview(self, scene: Scene, mean: Array) -> None:
        """Add every stride-th flight; when there are too many, every second one is dropped and the stride doubles."""
        path = scene.truth.position_m if scene.truth is not None else mean[..., :2]
        first = -self._seen % self._stride
        for row in range(first, len(scene.batch), self._stride):
            points = path[row][np.isfinite(path[row][:, 0])]
            self._overview.append(points[:: max(1, -(-len(points) // OVERVIEW_POINTS))].copy())
        self._seen += len(scene.batch)
        while len(self._overview) > 2 * OVERVIEW_FLIGHTS:
            self._overview = self._overview[::2]
            self._stride *= 2

    def examples(self) -> tuple[FlightExample, ...]:
        """The chosen flights, most turning first."""
        return tuple(item[3] for item in self._best)

    def overview(self) -> tuple[Array, ...]:
        """At most 150 thinned flights, each (T, 2)."""
        step = max(1, -(-len(self._overview) // OVERVIEW_FLIGHTS))
        return tuple(path for path in self._overview[::step] if len(path) > 1)


def turning_s(scene: Scene) -> Array:
    """Time (n,) each flight spends turning: by the truth, else by the smoothed reference, else by its plots' steps."""
    dt = np.nan_to_num(np.diff(scene.z.time_s, axis=1))
    if scene.truth is not None:
        turn = (scene.truth.phase[:, 1:] & int(Phase.TURN)) != 0
        return np.asarray((dt * turn).sum(1))
    if scene.smoothed is None:
        return np.asarray(dt.sum(1))
    vx, vy = scene.smoothed[..., 2], scene.smoothed[..., 3]
    heading = np.arctan2(vx, vy)
    change = np.abs(wrapped_angle(np.diff(heading, axis=1)))
    with np.errstate(invalid="ignore"):
        turn = (np.hypot(vx, vy)[:, 1:] > MIN_SPEED_MPS) & (change > MIN_TURN_RADPS * dt)
    return np.asarray((dt * turn).sum(1))


def _example(scene: Scene, row: int, tracks: Mapping[str, tuple[Array, Array]]) -> FlightExample:
    n = int(scene.z.valid[row].sum())
    truth = scene.truth.position_m[row, :n] if scene.truth is not None else None
    smoothed = scene.smoothed[row, :n, :2] if scene.smoothed is not None else None
    reference = truth if truth is not None else smoothed if smoothed is not None else scene.z.position_m[row, :n]
    return FlightExample(
        label=flight_label(scene.batch, row),
        time_s=scene.z.time_s[row, :n],
        plots_m=scene.z.position_m[row, :n],
        truth_m=truth,
        turning=(scene.truth.phase[row, :n] & int(Phase.TURN)) != 0 if scene.truth is not None else None,
        tracks_m={name: mean[:n, :2] for name, (mean, _) in tracks.items()},
        error_m={name: np.hypot(*(mean[:n, :2] - reference).T) for name, (mean, _) in tracks.items()},
        sigma_m={name: np.sqrt(variance[:n]) for name, (_, variance) in tracks.items()},
        smoothed_m=smoothed,
        altitude_m=scene.altitude_m[row, :n],
    )


def kept(history: TrackHistory, rows: Array) -> tuple[Array, Array]:
    """What an example needs of a run: mean (n, T, 4) and the trace of the position covariance (n, T)."""
    covariance = history.covariance[rows]
    return history.mean[rows], covariance[..., 0, 0] + covariance[..., 1, 1]
