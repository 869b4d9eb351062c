"""What an evaluation yields: plain frozen values that the terminal table, scores.json and the report all read.

A score is None where it does not apply (no truth, no manoeuvre, a filter without covariance); its key is always there.
"""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from ssrtrack.scoring.sweep_curves import Sweep

Array = NDArray[Any]


def _score(unit: str, meaning: str, kind: str = "") -> Any:
    return field(default=None, metadata={"unit": unit, "meaning": meaning, "kind": kind})


def _count(start: float, meaning: str, unit: str = "1") -> Any:
    return field(default=start, metadata={"unit": unit, "meaning": meaning})


# A root of a mean square over updates, and a mean over updates: both are summed by flight and get intervals.
_rms, _mean = partial(_score, kind="rms"), partial(_score, kind="mean")


@dataclass(frozen=True)
class Scores:
    """One tracker's figures. These names are the keys of scores.json and stay stable within a major version."""

    position_rmse_m: float | None = _rms("m", "horizontal position error at the update, RMS")
    position_rmse_turn_m: float | None = _rms("m", "horizontal position error while the aircraft turns, RMS")
    position_rmse_straight_m: float | None = _rms(
        "m", "horizontal position error in straight, level flight at constant speed, RMS"
    )
    position_rmse_climb_m: float | None = _rms("m", "horizontal position error in climb or descent, not turning, RMS")
    position_rmse_onset_m: float | None = _rms(
        "m", "horizontal position error in the first three scans of a manoeuvre, RMS"
    )
    position_p50_m: float | None = _score("m", "median of the horizontal position error")
    position_p95_m: float | None = _score("m", "95th percentile of the horizontal position error")
    position_p99_m: float | None = _score("m", "99th percentile of the horizontal position error")
    along_track_rmse_m: float | None = _rms("m", "position error along the true track, RMS")
    across_track_rmse_m: float | None = _rms("m", "position error across the true track, RMS")
    predicted_position_rmse_m: float | None = _rms("m", "position predicted to the next plot's time, before it is used")
    predicted_position_p95_m: float | None = _score(
        "m", "95th percentile of the error of the position predicted to the next plot's time"
    )
    velocity_rmse_mps: float | None = _rms("m/s", "horizontal velocity error at the update, RMS")
    velocity_rmse_turn_mps: float | None = _rms("m/s", "horizontal velocity error while the aircraft turns, RMS")
    velocity_rmse_straight_mps: float | None = _rms(
        "m/s", "horizontal velocity error in straight, level flight at constant speed, RMS"
    )
    velocity_rmse_onset_mps: float | None = _rms(
        "m/s", "horizontal velocity error in the first three scans of a manoeuvre, RMS"
    )
    speed_rmse_mps: float | None = _rms("m/s", "error of the ground speed, RMS")
    heading_rmse_deg: float | None = _rms("deg", "error of the track angle, RMS, circular")
    altitude_rate_rmse_mps: float | None = _rms("m/s", "error of the rate of climb, RMS (common vertical filter)")
    anees: float | None = _mean("1", "mean normalised estimation error squared over 4 states, divided by 4: 1 is ideal")
    anees_position: float | None = _mean(
        "1", "mean normalised estimation error squared over position alone, divided by 2: 1 is ideal"
    )
    anis: float | None = _mean("1", "mean normalised innovation squared, divided by 2: 1 is ideal")
    anis_median_ratio: float | None = _score(
        "1", "median of the NIS over the median of chi-square(2): robust to outliers"
    )
    nees_in_bounds: float | None = _mean("1", "share of single NEES inside their two-sided 95 % chi-square bounds")
    nis_in_bounds: float | None = _mean("1", "share of single NIS inside their two-sided 95 % chi-square bounds")
    coverage_50: float | None = _mean("1", "share of true positions inside the 50 % ellipse")
    coverage_90: float | None = _mean("1", "share of true positions inside the 90 % ellipse")
    coverage_95: float | None = _mean("1", "share of true positions inside the 95 % ellipse")
    coverage_99: float | None = _mean("1", "share of true positions inside the 99 % ellipse")
    innovation_lag1: float | None = _mean("1", "lag-1 autocorrelation of the whitened innovations: 0 is ideal")
    nll: float | None = _mean(
        "nat", "mean negative log-likelihood of the true state (x, y, vx, vy); of the next plot without truth"
    )
    nll_next_plot: float | None = _mean("nat", "mean negative log-likelihood of the next plot's position (m)")
    next_plot_rmse_m: float | None = _rms("m", "distance from the predicted position to the next plot, RMS")
    next_plot_p50_m: float | None = _score("m", "median distance from the predicted position to the next plot")
    next_plot_p95_m: float | None = _score(
        "m", "95th percentile of the distance from the predicted position to the next plot"
    )
    smoothed_difference_rmse_m: float | None = _rms("m", "distance to the IMM-smoothed reference, RMS")
    bds50_ground_speed_median_mps: float | None = _score("m/s", "median of tracker minus BDS 5,0 ground speed")
    bds50_ground_speed_rms_mps: float | None = _rms("m/s", "RMS of tracker minus BDS 5,0 ground speed")
    bds50_ground_speed_p95_mps: float | None = _score(
        "m/s", "95th percentile of the absolute difference to the BDS 5,0 ground speed"
    )
    bds50_track_angle_rms_deg: float | None = _rms("deg", "RMS of tracker minus BDS 5,0 true track angle")
    bds50_track_angle_p95_deg: float | None = _score(
        "deg", "95th percentile of the absolute difference to the BDS 5,0 true track angle"
    )
    position_bound_rms_m: float | None = _rms("m", "posterior Cramér–Rao bound, mode known, RMS over the same updates")
    position_efficiency: float | None = _score(
        "1", "the position bound over the RMSE: 1 is perfect, above 1 a bug or leakage"
    )
    velocity_bound_rms_mps: float | None = _rms("m/s", "posterior Cramér–Rao bound of velocity, mode known")
    velocity_efficiency: float | None = _score("1", "the velocity bound over the velocity RMSE")
    gated_share: float | None = _mean("1", "share of plots the tracker rejected by its gate")
    updates: int = _count(0, "scored updates: received plots after each flight's warm-up")
    flights: int = _count(0, "flights with a scored update")
    seconds: float = _count(0.0, "wall-clock seconds in the estimator alone, all updates", "s")

    @classmethod
    def units(cls) -> dict[str, str]:
        """Unit of each score by key ("1": a ratio or count)."""
        return {f.name: f.metadata.get("unit", "1") for f in fields(cls)}

    @classmethod
    def of_kind(cls, kind: str) -> tuple[str, ...]:
        """Keys of the scores that are a root mean square ("rms") or a mean ("mean") over updates."""
        return tuple(f.name for f in fields(cls) if f.metadata.get("kind") == kind)

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """One sentence on each score by key."""
        return {f.name: f.metadata.get("meaning", "") for f in fields(cls)}


@dataclass(frozen=True)
class Histogram:
    """Counts over logarithmic bins: `edges` (B+1,), `counts` (B,); the first bin starts at 0, the last ends at inf."""

    edges: Array
    counts: Array


@dataclass(frozen=True)
class Series:
    """A mean over all flights by time since each flight's first plot, with its two-sided 95 % chi-square bounds."""

    time_s: Array  # (B,) bin centres
    mean: Array  # (B,), divided by the degrees of freedom
    low: Array  # (B,)
    high: Array  # (B,)


@dataclass(frozen=True)
class TrackerResult:
    """One tracker's scores and what the figures need."""

    name: str
    scores: Scores
    intervals: dict[str, tuple[float, float]]  # score key -> 95 % bootstrap interval over flights
    ratio: dict[
        str, tuple[float, float, float]
    ]  # score key -> (ratio to the first tracker, low, high), paired by flight
    position_error: Histogram  # with truth: error at the update; without: distance to the next plot
    nees: Series | None
    nis: Series
    per_flight_rmse_m: Array  # (flights,) position error, or next-plot error without truth


@dataclass(frozen=True)
class FlightExample:
    """One flight drawn in the report; positions in m in the tracking frame, (T, 2); tracks by tracker name."""

    label: str
    time_s: Array  # (T,)
    plots_m: Array
    truth_m: Array | None
    turning: Array | None  # (T,) bool, from the truth's phase
    tracks_m: dict[str, Array]
    error_m: dict[str, Array]  # (T,) distance to truth (or to the smoothed reference without truth)
    sigma_m: dict[str, Array]  # (T,) the tracker's own position sigma: sqrt of the covariance's trace
    smoothed_m: Array | None
    altitude_m: Array  # (T,) pressure altitude


@dataclass(frozen=True)
class RadarNoise:
    """Noise of one radar as stated in the log and as measured by local cubic fits to its plots."""

    name: str
    plots: int
    stated_range_m: float | None
    stated_azimuth_deg: float | None
    measured_range_m: float | None  # robust sigma (1.4826 MAD) corrected for the fit's degrees of freedom
    measured_azimuth_deg: float | None
    used_range_m: float  # median of what the trackers were given
    used_azimuth_deg: float
    range_p99_m: float | None  # 99th percentile of the absolute residual
    azimuth_p99_deg: float | None
    rotation_period_s: float | None


@dataclass(frozen=True)
class EvaluationResult:
    """Everything `evaluate` found out."""

    logs: tuple[str, ...]
    has_truth: bool
    identity: str  # how plots were grouped into flights: "truth" or "address"
    warmup_plots: int  # plots at the start of each flight that are not scored
    plots: int  # plots read
    plots_used: int  # plots that belong to a flight long enough to score
    span_s: tuple[float, float]
    epoch: str
    trackers: tuple[TrackerResult, ...]
    radars: tuple[RadarNoise, ...]
    examples: tuple[FlightExample, ...]
    overview_tracks_m: tuple[Array, ...]  # a thinned set of flights for the overview map, each (T, 2)
    notes: tuple[str, ...]  # what a reader must know: assumed heights, unknown site, plots without identity
    sweeps: "tuple[Sweep, ...]" = ()  # curves over degraded plots, one for each axis asked for
