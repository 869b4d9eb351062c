"""Trackers on plots that are made worse step by step: what `ssrtrack evaluate --sweep` adds to an evaluation.

A level's plots lie on the scans of the log as it is: a plot that was taken away is a miss, over which the tracker
predicts. So every level is scored at the same instants of the same flights, and its first level is the plain
evaluation itself. docs/robustness.md defines every number.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Phase
from ssrtrack.errors import EstimatorError, ScoringError
from ssrtrack.filters.estimators import Estimator
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import Measurements, make_measurements
from ssrtrack.filters.run import run
from ssrtrack.scoring.accuracy import squared_distance
from ssrtrack.scoring.consistency import cholesky, inside, whiten
from ssrtrack.scoring.degrade import AXES, Degraded, Flown
from ssrtrack.scoring.scene import Scene, Setting, flight_label, laid_out
from ssrtrack.scoring.sweep_curves import LOST, Sweep, SweepSums, curves, keys_of
from ssrtrack.units import NM_M

Array = NDArray[Any]
Asked = Mapping[str, Sequence[float] | None] | Sequence[str]

LOST_M = 0.5 * NM_M  # 926 m: three position errors in a row beyond it, EUROCONTROL-SPEC-147 for 5 NM separation


def asked_levels(asked: Asked) -> dict[str, tuple[float, ...]]:
    """Levels of each axis asked for, none first, then from mild to bad.

    Args:
        asked: names of `AXES`, or levels (None: the default ones) by name.

    Raises:
        ScoringError: an unknown axis, one named twice, or levels that are none, repeated, out of range, or on both
            sides of the undegraded level.
    """
    if isinstance(asked, str):
        raise ScoringError(f"sweep is the text {asked!r}, expected a list of axes such as ['pd', 'sigma']")
    if not isinstance(asked, Mapping) and len(set(asked)) < len(asked):
        raise ScoringError(f"sweep {list(asked)} names an axis twice; name each once")
    wanted = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(asked)
    unknown = [name for name in wanted if name not in AXES]
    if unknown:
        raise ScoringError(f"no axis {unknown} to sweep; known: {', '.join(AXES)}")
    return {name: (AXES[name].none, *_checked(name, levels)) for name, levels in wanted.items()}


def _checked(name: str, levels: Sequence[float] | None) -> list[float]:
    axis = AXES[name]
    given = axis.levels if levels is None else [float(level) for level in levels]
    bad = [level for level in given if not (isfinite(level) and axis.low <= level <= axis.high)]
    bad += [level for level in given if level not in bad and axis.whole and level != int(level)]
    if bad:
        kind = "whole numbers" if axis.whole else "numbers"
        raise ScoringError(f"sweep {name}: levels {bad} are not {kind} from {axis.low:g} to {axis.high:g}")
    if len(set(given)) < len(given):
        raise ScoringError(f"sweep {name}: levels {list(given)} hold one twice; give each once")
    worse = sorted((level for level in given if level != axis.none), key=lambda level: abs(level - axis.none))
    if not worse:
        raise ScoringError(f"sweep {name}: no level but the undegraded {axis.none:g}; give at least one other")
    if min(worse) < axis.none < max(worse):
        raise ScoringError(f"sweep {name}: levels {list(given)} lie on both sides of {axis.none:g}; sweep one side")
    return worse


class Sweeper:
    """Collects, batch by batch, every tracker's sums per flight at every level of every axis."""

    def __init__(self, asked: Asked, *, seed: int) -> None:
        self.levels = asked_levels(asked)
        self._seed = seed
        self._sums: dict[str, SweepSums] = {name: SweepSums(levels) for name, levels in self.levels.items()}
        self._plain: dict[str, dict[str, Array]] = {}

    @property
    def stages(self) -> int:
        """How many steps `degraded` takes for one batch."""
        return sum(len(levels) - 1 for levels in self.levels.values())

    def undegraded(self, name: str, scene: Scene, history: TrackHistory) -> None:
        """Keep a tracker's errors on a batch as it is: every axis begins with them."""
        self._plain[name] = errors(scene, scene.z, history)

    def degraded(
        self, scene: Scene, setting: Setting, estimators: Mapping[str, Estimator], backend: str
    ) -> Iterator[str]:
        """Run and score every tracker at every level on a batch; yields what comes next before each level.

        Raises:
            EstimatorError: a tracker gives NaN on degraded plots.
        """
        for name, levels in self.levels.items():
            flown = flown_of(scene, setting, levels)
            for i, level in enumerate(levels):
                if i:
                    yield f"{name} {level:g}"
                made = AXES[name].apply(flown, level, self._seed)
                z = degraded_measurements(scene, setting, made) if i else scene.z
                counted = scene.scored if made.counted is None else scene.scored & _on_grid(made.counted, scene.index)
                updated = counted & z.valid
                for tracker, estimator in estimators.items():
                    found = errors(scene, z, run(estimator, z, backend=backend)) if i else self._plain[tracker]
                    _check(tracker, name, level, scene, found, counted)
                    self._sums[name].add(tracker, i, flight_sums(found, counted, updated))
        self._plain.clear()

    def merge(self, other: "Sweeper") -> None:
        """Add what another one holds: later flights, other trackers on the same flights, or other axes."""
        for name, sums in other._sums.items():
            if name not in self._sums:
                self.levels[name], self._sums[name] = other.levels[name], SweepSums(other.levels[name])
            self._sums[name].merge(sums)

    def results(
        self, order: Array, *, has_truth: bool, bootstrap: int, seed: int, reference: str | None = None
    ) -> tuple[Sweep, ...]:
        """Every axis's curves, break points and areas, see `sweep_curves.curves`."""
        return tuple(
            curves(name, sums, order, has_truth=has_truth, bootstrap=bootstrap, seed=seed, reference=reference)
            for name, sums in self._sums.items()
        )


def _on_grid(rows: Array, index: Array) -> Array:
    """A plot column of bool over the (N, T) cells; False in the padding."""
    grid: Array = (index >= 0) & rows[index]
    return grid


def flown_of(scene: Scene, setting: Setting, levels: Sequence[float] = (0.0,)) -> Flown:
    """A batch's flights as `degrade` takes them."""
    cells = scene.index >= 0
    rows = scene.index[cells]
    told_range, told_azimuth, turning = np.empty(rows.size), np.empty(rows.size), np.zeros(rows.size, bool)
    told_range[rows], told_azimuth[rows] = scene.z.sigma_range_m[cells], scene.z.sigma_azimuth_rad[cells]
    if scene.truth is not None:
        turning[rows] = (scene.truth.phase[cells] & int(Phase.TURN)) != 0
    batch, longest = scene.batch, int(max(levels))
    return Flown(batch.plots, batch.starts, told_range, told_azimuth, turning, setting.warmup_plots, longest)


def degraded_measurements(scene: Scene, setting: Setting, made: Degraded) -> Measurements:
    """The degraded plots over the same cells; one that was taken away leaves its time and nothing else."""
    kept = _on_grid(made.received, scene.index)
    z = make_measurements(
        made.plots,
        np.where(kept, scene.index, -1),
        scene.z.frame,
        sigma_range_m=setting.sigma_range_m,
        sigma_azimuth_rad=setting.sigma_azimuth_rad,
        sigma_height_m=setting.sigma_height_m,
    )
    return replace(z, time_s=laid_out(made.plots.time_s, scene.index))


def errors(scene: Scene, z: Measurements, history: TrackHistory) -> dict[str, Array]:
    """Squared errors (N, T) by score key ("_mean_": errors, "coverage_": 0 or 1) at the scans of the log as it is.

    A state whose time stamp is wrong is carried to the true time along its own velocity, as a user of its time stamp
    would see it. Without truth the state predicted to each scan is compared with the undegraded plot.
    """
    mean, predicted = history.mean, history.predicted_mean
    late_s = None if z.time_s is scene.z.time_s else scene.z.time_s - z.time_s
    if late_s is not None and np.any(late_s[scene.z.valid]):
        mean, predicted = _carried(mean, late_s), _carried(predicted, late_s)
    if scene.truth is None:
        # As `consistency.innovations` has it, to the last bit.
        apart = np.hypot(*(scene.z.position_m[..., i] - predicted[..., i] for i in range(2)))
        return {"next_plot_mean_m": apart, "next_plot_rmse_m": apart**2}
    truth = scene.truth
    factor = cholesky(history.covariance[..., :2, :2])
    white = whiten(factor, [mean[..., i] - truth.position_m[..., i] for i in range(2)])
    return {
        "scan_position_rmse_m": squared_distance(mean, truth.position_m),
        "predicted_position_rmse_m": squared_distance(predicted, truth.position_m),
        "velocity_rmse_mps": squared_distance(mean[..., 2:4], truth.velocity_mps),
        "coverage_95": inside(white[0] ** 2 + white[1] ** 2, 0.95, 2),
    }


def _carried(mean: Array, seconds: Array) -> Array:
    moved = mean.copy()
    moved[..., :2] += mean[..., 2:4] * seconds[..., None]
    return moved


def _check(tracker: str, axis: str, level: float, scene: Scene, found: Mapping[str, Array], counted: Array) -> None:
    for values in found.values():
        bad = counted & ~np.isfinite(values)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise EstimatorError(
                f"tracker {tracker!r} gave NaN or a covariance that is not positive definite on plots degraded by "
                f"{axis} {level:g}, at plot {column} of flight {flight_label(scene.batch, row)}; mend or leave it out"
            )


def flight_sums(found: Mapping[str, Array], counted: Array, updated: Array) -> Array:
    """Sums per flight (N, 2 K): numerators of the keys of `sweep_curves.keys_of`, then denominators.

    Args:
        found: as from `errors`.
        counted: (N, T) scans that are scored; updated: those of them with a plot.
    """
    truth = "scan_position_rmse_m" in found
    keys = keys_of(truth)
    squared = found["scan_position_rmse_m" if truth else "next_plot_rmse_m"]
    cells = {key: (found[key], counted) for key in keys if key in found}
    if truth:
        cells["position_rmse_m"] = squared, updated
    sums = np.zeros((counted.shape[0], 2 * len(keys)))
    for i, key in enumerate(keys):
        if key != LOST:
            values, use = cells[key]
            sums[:, i] = np.sum(values, axis=1, where=use)
            sums[:, len(keys) + i] = use.sum(1)
    lost = keys.index(LOST)
    sums[:, lost] = lost_flights(np.sqrt(np.where(counted, squared, np.nan)))
    sums[:, len(keys) + lost] = counted.any(1)
    return sums


def lost_flights(error_m: Array) -> Array:
    """Flights (N,) with three errors of (N, T) in a row beyond 926 m; NaN is not beyond."""
    with np.errstate(invalid="ignore"):
        far = error_m > LOST_M
    three = far[:, 2:] & far[:, 1:-1] & far[:, :-2]
    return np.asarray(three.any(1))
