"""One batch of flights as every tracker meets it, and the scores of one tracker on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssrtrack.data import Plots
from ssrtrack.errors import EstimatorError
from ssrtrack.filters.estimators import Estimator
from ssrtrack.filters.history import TrackHistory
from ssrtrack.filters.measurement import BAD_ALTITUDE, Measurements, TrackingFrame, make_measurements
from ssrtrack.filters.options import Options
from ssrtrack.filters.smoother import smooth
from ssrtrack.filters.vertical import smooth_altitude
from ssrtrack.scoring.accuracy import accuracy_values, squared_distance
from ssrtrack.scoring.bds import bds_differences
from ssrtrack.scoring.bound import bound_variances
from ssrtrack.scoring.consistency import (
    Innovations,
    StateConsistency,
    cholesky,
    consistency_values,
    innovations,
    lag_one,
    state_consistency,
)
from ssrtrack.scoring.tally import Tally
from ssrtrack.tracking.flights import FlightBatch
from ssrtrack.tracking.truth import TrueStates, TruthWindow

Array = NDArray[Any]


@dataclass(frozen=True)
class Setting:
    """What holds for all batches of one log."""

    frames: Mapping[int, TrackingFrame]  # by FlightBatch.radar_id
    sigma_range_m: Array  # (radars,) for plots that state none
    sigma_azimuth_rad: Array
    sigma_height_m: float
    warmup_plots: int
    max_silence_s: float  # a plot after a longer silence is tracked but not scored
    smoother: Estimator | None  # of the reference trajectory
    smoother_backend: str
    turbulence_psd_m2ps3: float


@dataclass(frozen=True)
class Scene:
    """A batch prepared: measurements, what is known of the truth, and which updates are scored, all (N, T)."""

    batch: FlightBatch
    index: Array
    z: Measurements
    scored: Array
    truth: TrueStates | None
    height_m: Array
    height_rate_mps: Array
    altitude_m: Array
    ground_speed_mps: Array  # BDS 5,0
    track_angle_rad: Array
    smoothed: Array | None  # (N, T, 4)
    common: dict[str, Array]  # values that are the same for every tracker

    @property
    def age_s(self) -> Array:
        """Time since each flight's first plot."""
        age: Array = self.z.time_s - self.z.time_s[:, :1]
        return age


def laid_out(column: Array, index: Array) -> Array:
    """A plot column over the (N, T) cells; NaN in the padding."""
    return np.where(index >= 0, column[index].astype(float), np.nan)


def make_scene(batch: FlightBatch, setting: Setting, window: TruthWindow | None) -> Scene:
    """Prepare a batch: everything here is computed once, whatever the number of trackers."""
    plots, index = batch.plots, batch.index()
    z = make_measurements(
        plots,
        index,
        setting.frames[batch.radar_id],
        sigma_range_m=setting.sigma_range_m,
        sigma_azimuth_rad=setting.sigma_azimuth_rad,
        sigma_height_m=setting.sigma_height_m,
    )
    truth = window.at(plots.truth_id, plots.time_s).grid(index) if window is not None else None
    scored = z.valid & (np.arange(index.shape[1]) >= setting.warmup_plots)
    scored[:, 1:] &= np.diff(z.time_s, axis=1) <= setting.max_silence_s
    if truth is not None:
        scored &= np.isfinite(truth.position_m[..., 0])
    altitude = np.where((plots.flags & int(BAD_ALTITUDE)) == 0, plots.pressure_altitude_m, np.nan)
    altitude = laid_out(altitude, index)
    height, rate = smooth_altitude(z.time_s, altitude, z.valid)
    smoothed = None
    if setting.smoother is not None:
        smoothed, _ = smooth(setting.smoother, z, backend=setting.smoother_backend)
    common = _common(z, truth, scored, rate, setting.turbulence_psd_m2ps3) if truth is not None else {}
    speed, angle = laid_out(plots.ground_speed_mps, index), laid_out(plots.track_angle_rad, index)
    return Scene(batch, index, z, scored, truth, height, rate, altitude, speed, angle, smoothed, common)


def _common(z: Measurements, truth: TrueStates, scored: Array, rate: Array, turbulence: float) -> dict[str, Array]:
    position, velocity = bound_variances(
        z, truth, speed_sigma_mps=Options().speed_sigma_mps, turbulence_psd_m2ps3=turbulence
    )
    return {
        "altitude_rate_rmse_mps": np.where(scored, (rate - truth.height_rate_mps) ** 2, np.nan),
        "position_bound_rms_m": np.where(scored, position, np.nan),
        "velocity_bound_rms_mps": np.where(scored, velocity, np.nan),
    }


def add_scores(tally: Tally, name: str, scene: Scene, history: TrackHistory) -> dict[str, Array]:
    """Score one tracker's run over a batch into its tally; returns each score's values (N, T), NaN where not scored.

    Raises:
        EstimatorError: the tracker gave NaN or a covariance that is not positive definite; names flight and time.
    """
    factor = cholesky(history.covariance)
    plot = innovations(history.predicted_mean, history.predicted_covariance, scene.z.position_m, scene.z.covariance_m2)
    _check(name, scene, factor[3][3] + sum(history.mean[..., i] for i in range(4)), plot.nis)
    state = None
    if scene.truth is not None:
        state = state_consistency(history.mean, factor, scene.truth.position_m, scene.truth.velocity_mps)
    values = scene.common | consistency_values(state, plot, scene.scored) | _reference_values(scene, history)
    values["gated_share"] = np.where(scene.scored, (~history.used).astype(float), np.nan)
    if scene.truth is not None:
        values |= accuracy_values(history.mean, history.predicted_mean, scene.truth, scene.scored)
    _add_histograms(tally, values, plot, scene)
    speed, angle = _bds(scene, history)
    tally.histograms["speed"].add(speed)
    tally.histograms["speed_size"].add(np.abs(speed))
    tally.histograms["angle_size"].add(np.abs(angle))
    values |= {"bds50_ground_speed_rms_mps": speed**2, "bds50_track_angle_rms_deg": angle**2}
    tally.add(values, {"innovation_lag1": lag_one(plot.whitened, scene.scored)})
    _add_series(tally, scene, state, plot)
    tally.seconds += history.seconds
    return values


def _check(name: str, scene: Scene, state: Array, nis: Array) -> None:
    bad = scene.z.valid & ~np.isfinite(state)
    bad[:, 1:] |= scene.z.valid[:, 1:] & ~np.isfinite(nis[:, 1:])
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise EstimatorError(
            f"tracker {name!r} gave NaN or a covariance that is not positive definite at plot {column} of flight "
            f"{flight_label(scene.batch, row)}, {scene.z.time_s[row, column]:.3f} s; it cannot be scored, mend it or "
            "leave it out"
        )


def flight_label(batch: FlightBatch, row: int) -> str:
    """What a reader calls a flight: address in hexadecimal, or the true aircraft's number."""
    plots: Plots = batch.plots
    address = int(plots.address[batch.starts[row]])
    return f"{address:06X}" if address > 0 else f"aircraft {int(batch.keys[row])}"


def _reference_values(scene: Scene, history: TrackHistory) -> dict[str, Array]:
    if scene.smoothed is None:
        return {}
    apart = squared_distance(history.mean, scene.smoothed)
    return {"smoothed_difference_rmse_m": np.where(scene.scored, apart, np.nan)}


def _bds(scene: Scene, history: TrackHistory) -> tuple[Array, Array]:
    reported = scene.ground_speed_mps, scene.track_angle_rad
    return bds_differences(history.mean, scene.z.up_m, scene.height_rate_mps, *reported, scene.z.frame, scene.scored)


def _add_histograms(tally: Tally, values: Mapping[str, Array], plot: Innovations, scene: Scene) -> None:
    tally.histograms["next_plot"].add(np.where(scene.scored, plot.distance_m, np.nan))
    tally.histograms["nis"].add(np.where(scene.scored, plot.nis, np.nan))
    if scene.truth is not None:
        tally.histograms["position"].add(np.sqrt(values["position_rmse_m"]))
        tally.histograms["predicted"].add(np.sqrt(values["predicted_position_rmse_m"]))


def _add_series(tally: Tally, scene: Scene, state: StateConsistency | None, plot: Innovations) -> None:
    """Means over time include the warm-up: how a tracker settles is what a reader looks for there."""
    age = scene.age_s
    tally.nis.add(age, np.where(scene.z.valid, plot.nis, np.nan))
    if state is not None:
        tally.nees.add(age, np.where(scene.z.valid, state.nees, np.nan))
