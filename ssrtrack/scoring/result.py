"""What an evaluation yields: plain frozen values that the terminal table, scores.json and the report all read.

A score is None where it does not apply (no truth, no manoeuvre, a filter without covariance); its key is always there.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def _score(unit: str, meaning: str) -> Any:
    return field(default=None, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class Scores:
    """One tracker's figures. These names are the keys of scores.json and stay stable within a major version."""

    position_rmse_m: float | None = _score("m", "horizontal position error at the update, RMS")
    position_rmse_turn_m: float | None = _score("m", "the same while the aircraft turns")
    position_rmse_straight_m: float | None = _score("m", "the same in straight, level flight at constant speed")
    position_rmse_climb_m: float | None = _score("m", "the same in climb or descent, not turning")
    position_rmse_onset_m: float | None = _score("m", "the same in the first three scans of a manoeuvre")
    position_p50_m: float | None = _score("m", "median of the horizontal position error")
    position_p95_m: float | None = _score("m", "95th percentile")
    position_p99_m: float | None = _score("m", "99th percentile")
    along_track_rmse_m: float | None = _score("m", "position error along the true track, RMS")
    across_track_rmse_m: float | None = _score("m", "position error across the true track, RMS")
    predicted_position_rmse_m: float | None = _score(
        "m", "position predicted to the next plot's time, before it is used"
    )
    predicted_position_p95_m: float | None = _score("m", "95th percentile of the same")
    velocity_rmse_mps: float | None = _score("m/s", "horizontal velocity error at the update, RMS")
    velocity_rmse_turn_mps: float | None = _score("m/s", "the same while the aircraft turns")
    velocity_rmse_straight_mps: float | None = _score("m/s", "the same in straight, level flight at constant speed")
    speed_rmse_mps: float | None = _score("m/s", "error of the ground speed, RMS")
    heading_rmse_deg: float | None = _score("deg", "error of the track angle, RMS, circular")
    altitude_rate_rmse_mps: float | None = _score("m/s", "error of the rate of climb, RMS (common vertical filter)")
    anees: float | None = _score(
        "1", "mean normalised estimation error squared over 4 states, divided by 4: 1 is ideal"
    )
    anees_position: float | None = _score("1", "the same over position alone, divided by 2")
    anis: float | None = _score("1", "mean normalised innovation squared, divided by 2: 1 is ideal")
    anis_median_ratio: float | None = _score(
        "1", "median of the NIS over the median of chi-square(2): robust to outliers"
    )
    nees_in_bounds: float | None = _score("1", "share of single NEES inside their two-sided 95 % chi-square bounds")
    nis_in_bounds: float | None = _score("1", "share of single NIS inside their two-sided 95 % chi-square bounds")
    coverage_50: float | None = _score("1", "share of true positions inside the 50 % ellipse")
    coverage_90: float | None = _score("1", "share inside the 90 % ellipse")
    coverage_95: float | None = _score("1", "share inside the 95 % ellipse")
    coverage_99: float | None = _score("1", "share inside the 99 % ellipse")
    innovation_lag1: float | None = _score("1", "lag-1 autocorrelation of the whitened innovations: 0 is ideal")
    nll: float | None = _score(
        "nat", "mean negative log-likelihood of the true state (x, y, vx, vy); of the next plot without truth"
    )
    nll_next_plot: float | None = _score("nat", "mean negative log-likelihood of the next plot's position (m)")
    next_plot_rmse_m: float | None = _score("m", "distance from the predicted position to the next plot, RMS")
    next_plot_p50_m: float | None = _score("m", "median of the same")
    next_plot_p95_m: float | None = _score("m", "95th percentile of the same")
    smoothed_difference_rmse_m: float | None = _score("m", "distance to the IMM-smoothed reference, RMS")
    bds50_ground_speed_median_mps: float | None = _score("m/s", "median of tracker minus BDS 5,0 ground speed")
    bds50_ground_speed_rms_mps: float | None = _score("m/s", "RMS of tracker minus BDS 5,0 ground speed")
    bds50_ground_speed_p95_mps: float | None = _score("m/s", "95th percentile of the absolute difference")
    bds50_track_angle_rms_deg: float | None = _score("deg", "RMS of tracker minus BDS 5,0 true track angle")
    bds50_track_angle_p95_deg: float | None = _score("deg", "95th percentile of the absolute difference")
    position_bound_rms_m: float | None = _score(
        "m", "posterior Cramér–Rao bound, mode known, RMS over the same updates"
    )
    position_efficiency: float | None = _score("1", "the bound over the RMSE: 1 is perfect, above 1 a bug or leakage")
    velocity_bound_rms_mps: float | None = _score("m/s", "posterior Cramér–Rao bound of velocity, mode known")
    velocity_efficiency: float | None = _score("1", "the bound over the velocity RMSE")
    gated_share: float | None = _score("1", "share of plots the tracker rejected by its gate")
    updates: int = 0  # scored updates: received plots after each flight's warm-up
    flights: int = 0
    seconds: float = 0.0  # time in the estimator alone

    @classmethod
    def units(cls) -> dict[str, str]:
        """Unit of each score by key ("1": a ratio or count)."""
        return {f.name: f.metadata.get("unit", "1") for f in fields(cls)}

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
