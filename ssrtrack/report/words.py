"""The words and numbers of a report: what a score is called, how it is printed, which wins, the result in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite, log

from ssrtrack.report.prepare import paired_flights
from ssrtrack.scoring.result import EvaluationResult, Scores, TrackerResult

MISSING = "–"
THIN = "\u202f"  # narrow no-break space: parts thousands, ISO 80000-1


@dataclass(frozen=True)
class Row:
    """One line of a score table.

    `ideal` is "low", a number the score should reach, or None where no value is better than another.
    `form` is "number" (three significant digits), "share" (printed in per cent) or "count".
    """

    key: str
    label: str
    short: str
    ideal: str | float | None = "low"
    form: str = "number"


_GROUPS: dict[str, tuple[Row, ...]] = {
    "Position at the update": (
        Row("position_rmse_m", "RMS, all updates", "position"),
        Row("position_rmse_straight_m", "RMS, straight and level", "straight"),
        Row("position_rmse_turn_m", "RMS, turning", "turn"),
        Row("position_rmse_climb_m", "RMS, climbing or descending", "climb"),
        Row("position_rmse_onset_m", "RMS, first scans of a manoeuvre", "onset"),
        Row("position_p50_m", "median", "p50"),
        Row("position_p95_m", "95th percentile", "p95"),
        Row("position_p99_m", "99th percentile", "p99"),
        Row("along_track_rmse_m", "RMS along track", "along"),
        Row("across_track_rmse_m", "RMS across track", "across"),
        Row("smoothed_difference_rmse_m", "RMS distance to the smoothed reference", "to smoothed"),
    ),
    "Prediction, one scan ahead": (
        Row("predicted_position_rmse_m", "predicted position, RMS", "predicted"),
        Row("predicted_position_p95_m", "predicted position, 95th percentile", "predicted p95"),
        Row("next_plot_rmse_m", "distance to the next plot, RMS", "next plot"),
        Row("next_plot_p50_m", "distance to the next plot, median", "p50"),
        Row("next_plot_p95_m", "distance to the next plot, 95th percentile", "p95"),
    ),
    "Velocity": (
        Row("velocity_rmse_mps", "RMS, all updates", "velocity"),
        Row("velocity_rmse_straight_mps", "RMS, straight and level", "velocity straight"),
        Row("velocity_rmse_turn_mps", "RMS, turning", "velocity turn"),
        Row("velocity_rmse_onset_mps", "RMS, first scans of a manoeuvre", "velocity onset"),
        Row("speed_rmse_mps", "ground speed, RMS", "speed"),
        Row("heading_rmse_deg", "track angle, RMS", "heading"),
        Row("altitude_rate_rmse_mps", "rate of climb, RMS", "climb rate"),
        Row("bds50_ground_speed_median_mps", "ground speed minus BDS 5,0, median", "BDS bias", 0.0),
        Row("bds50_ground_speed_rms_mps", "ground speed minus BDS 5,0, RMS", "BDS speed"),
        Row("bds50_ground_speed_p95_mps", "ground speed minus BDS 5,0, 95th percentile", "BDS speed p95"),
        Row("bds50_track_angle_rms_deg", "track angle minus BDS 5,0, RMS", "BDS angle"),
        Row("bds50_track_angle_p95_deg", "track angle minus BDS 5,0, 95th percentile", "BDS angle p95"),
    ),
    "Calibration": (
        Row("anees", "NEES, mean (1 is ideal)", "NEES", 1.0),
        Row("anees_position", "NEES of position, mean (1 is ideal)", "NEES pos.", 1.0),
        Row("anis", "NIS, mean (1 is ideal)", "NIS", 1.0),
        Row("anis_median_ratio", "NIS, median ratio (1 is ideal)", "NIS median", 1.0),
        Row("nees_in_bounds", "NEES inside its 95 % bounds", "NEES in", 0.95, "share"),
        Row("nis_in_bounds", "NIS inside its 95 % bounds", "NIS in", 0.95, "share"),
        Row("coverage_50", "truth inside the 50 % ellipse", "in 50 %", 0.5, "share"),
        Row("coverage_90", "truth inside the 90 % ellipse", "in 90 %", 0.9, "share"),
        Row("coverage_95", "truth inside the 95 % ellipse", "in 95 %", 0.95, "share"),
        Row("coverage_99", "truth inside the 99 % ellipse", "in 99 %", 0.99, "share"),
        Row("innovation_lag1", "innovations, lag-1 correlation (0 is ideal)", "lag 1", 0.0),
        Row("nll", "negative log-likelihood", "NLL"),
        Row("nll_next_plot", "negative log-likelihood of the next plot", "NLL plot"),
        Row("gated_share", "plots rejected by the gate", "gated", None, "share"),
    ),
    "Against the Cramér–Rao bound": (
        Row("position_bound_rms_m", "position bound, RMS", "bound", None),
        Row("position_efficiency", "position efficiency, bound ÷ RMSE", "efficiency", 1.0),
        Row("velocity_bound_rms_mps", "velocity bound, RMS", "vel. bound", None),
        Row("velocity_efficiency", "velocity efficiency, bound ÷ RMSE", "vel. efficiency", 1.0),
    ),
    "Volume": (
        Row("updates", "scored updates", "updates", None, "count"),
        Row("flights", "flights", "flights", None, "count"),
        Row("seconds", "time in the estimator", "time", "low"),
    ),
}
# A score that no group names yet still shows, under its meaning.
_NAMED = {row.key for rows in _GROUPS.values() for row in rows}
_FURTHER = tuple(Row(key, text, key) for key, text in Scores.meanings().items() if key not in _NAMED)
GROUPS = _GROUPS | ({"Further scores": _FURTHER} if _FURTHER else {})
ROWS: dict[str, Row] = {row.key: row for rows in GROUPS.values() for row in rows}


def unit(key: str, units: dict[str, str]) -> str:
    """Unit to print beside a score: "" for counts, "%" for shares."""
    if ROWS[key].form == "share":
        return "%"
    given = units.get(key, "1")
    return "" if given == "1" else given


def value_of(tracker: TrackerResult, key: str) -> float | None:
    """A score as a finite float, or None where it does not apply."""
    value = getattr(tracker.scores, key)
    return float(value) if value is not None and isfinite(value) else None


def interval_of(tracker: TrackerResult, key: str) -> tuple[float, float] | None:
    """The score's 95 % interval, or None where there is none or it is not finite."""
    interval = tracker.intervals.get(key)
    return interval if interval is not None and all(map(isfinite, interval)) else None


def decimals(value: float) -> int:
    """Decimals that give three significant digits, at most three."""
    size = abs(value)
    return 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0


def number(value: float | None, places: int | None = None) -> str:
    """A number in three significant digits with thousands parted by a narrow space; a dash for None and non-finite."""
    if value is None or not isfinite(value):
        return MISSING
    if value != 0 and (abs(value) >= 1e7 or abs(value) < 5e-4):
        return f"{value:.2e}".replace("-", "−")
    places = decimals(value) if places is None else places
    return f"{value:,.{places}f}".replace(",", THIN).replace("-", "−")


def count(value: float) -> str:
    """A whole number with thousands parted by a narrow space."""
    return f"{int(value):,}".replace(",", THIN)


def written(row: Row, value: float | None) -> str:
    """A score as its row prints it, without the unit."""
    if value is None:
        return MISSING
    if row.form == "count":
        return count(value)
    return number(100 * value, 1) if row.form == "share" else number(value)


def scale_and_places(row: Row, value: float) -> tuple[float, int]:
    """Factor and decimals with which a score is printed; its interval is printed alike."""
    return (100.0, 1) if row.form == "share" else (1.0, decimals(value))


def written_interval(row: Row, value: float | None, interval: tuple[float, float] | None, joint: str = " … ") -> str:
    """The interval with the decimals of its score; "" where there is none."""
    if value is None or interval is None:
        return ""
    scale, places = scale_and_places(row, value)
    return joint.join(number(scale * bound, places) for bound in interval)


def _badness(row: Row, value: float) -> float:
    if row.ideal == "low":
        return value
    if row.ideal == 1.0:  # a ratio: twice too large is as bad as twice too small
        return abs(log(value)) if value > 0 else float("inf")
    return abs(value - float(row.ideal or 0.0))


def best(row: Row, values: Sequence[float | None]) -> set[int]:
    """Positions of the best values: those that read the same as the best; none when nobody differs."""
    known = {i: _badness(row, value) for i, value in enumerate(values) if value is not None}
    if row.ideal is None or len(known) < 2:
        return set()
    winner = values[min(known, key=lambda i: known[i])]
    winners = {i for i in known if written(row, values[i]) == written(row, winner)}
    return set() if len(winners) == len(known) else winners


def main_key(result: EvaluationResult) -> str:
    """The score that ranks the trackers: RMS position error with truth, else the 95th percentile to the next plot.

    Plots of a real radar hold false and displaced ones. A handful of them decides an RMS, but not the 95th percentile.
    """
    if result.has_truth:
        return "position_rmse_m"
    known = any(value_of(tracker, "next_plot_p95_m") is not None for tracker in result.trackers)
    return "next_plot_p95_m" if known else "next_plot_rmse_m"


def _lead(result: EvaluationResult, key: str, winner: TrackerResult, others: list[TrackerResult]) -> str:
    """How far the winner leads the first tracker, or the first tracker the next one, with the paired interval."""
    first = result.trackers[0]
    leads = winner is first
    other = min(others, key=lambda tracker: value_of(tracker, key) or 0.0) if leads else winner
    paired = other.ratio.get(key)
    if paired is not None and not all(map(isfinite, paired)):
        paired = None
    ratio = paired[0] if paired else (value_of(other, key) or 0.0) / (value_of(first, key) or 1.0)
    change = number(100 * abs(ratio - 1), 0 if abs(ratio - 1) >= 0.1 else 1)
    text = f"; the next, {other.name}, has {change} % more" if leads else f", {change} % less than {first.name}"
    if paired is None:
        return text + _flights_won(result, other, leads)
    low, high = sorted((100 * (bound - 1) if leads else 100 * (1 - bound)) for bound in paired[1:])
    chance = ", so the difference may be chance" if low <= 0 <= high else ""
    return f"{text} (95 % interval {number(low, 1)} to {number(high, 1)} %{chance})"


def _flights_won(result: EvaluationResult, other: TrackerResult, leads: bool) -> str:
    """On how many flights the winner (the first tracker if it `leads`) beats the other of the two."""
    pair = paired_flights(result).get(other.name)
    if pair is None:
        return ""
    first, mine = pair
    won = int((first < mine).sum() if leads else (mine < first).sum())
    subject = f"{result.trackers[0].name} is" if leads else "is"
    return f", and {subject} the closer one on {count(won)} of {count(len(mine))} flights"


def winner_of(result: EvaluationResult) -> TrackerResult | None:
    """The tracker with the smallest main score (`main_key`); None when no update could be scored."""
    key = main_key(result)
    scored = [tracker for tracker in result.trackers if value_of(tracker, key) is not None]
    return min(scored, key=lambda tracker: value_of(tracker, key) or 0.0, default=None)


def headline(result: EvaluationResult) -> str:
    """One plain sentence: the best tracker, by how much, with its interval."""
    key, winner = main_key(result), winner_of(result)
    if winner is None:
        return "No update could be scored: every flight is shorter than its warm-up."
    value = value_of(winner, key)
    interval = written_interval(ROWS[key], value, interval_of(winner, key), " to ")
    known = f" (95 % interval {interval} m)" if interval else ""
    others = [tracker for tracker in result.trackers if tracker is not winner and value_of(tracker, key) is not None]
    lead = _lead(result, key, winner, others) if others else ""
    size = f"{number(value)} m"
    if result.has_truth:
        claim = f"has the smallest horizontal position error: {size}" if others else f"has a position error of {size}"
        return f"{winner.name} {claim} RMS{known}{lead}."
    claim = "predicts the next plot best" if others else "predicts the next plot one scan ahead"
    share = "95 % of its predictions lie within" if key == "next_plot_p95_m" else "the RMS distance is"
    return f"{winner.name} {claim}: {share} {size}{known}{lead}."


def outliers(result: EvaluationResult) -> str:
    """A warning where a few plots far off decide the RMS distance to the next plot; "" otherwise."""
    winner = winner_of(result)
    if winner is None or result.has_truth:
        return ""
    rms, p95 = value_of(winner, "next_plot_rmse_m"), value_of(winner, "next_plot_p95_m")
    if rms is None or p95 is None or rms <= p95:
        return ""
    return (
        f"Fewer than one update in twenty decides the RMS distance to the next plot, {number(rms)} m: displaced or "
        "false plots, and flights hard to follow. Compare percentiles here, not the RMS."
    )


def calibration(result: EvaluationResult) -> str:
    """One plain sentence on whether the best tracker's own uncertainty can be believed; "" where unknown."""
    winner = winner_of(result)
    if winner is None:
        return ""
    share = value_of(winner, "coverage_95")
    if share is not None:
        verdict = "is honest" if 0.93 <= share <= 0.97 else "is too small" if share < 0.93 else "is wider than needed"
        kept = f"its 95 % ellipse holds the true position {number(100 * share, 1)} % of the time"
        return f"The position uncertainty it states {verdict}: {kept}.{_velocity_verdict(winner)}"
    anis = value_of(winner, "anis_median_ratio")
    if anis is None:
        return ""
    fits, small = "fits most plots", "is too small for most plots"
    verdict = fits if 0.8 <= anis <= 1.25 else small if anis > 1 else "is wider than most plots need"
    mean = value_of(winner, "anis")
    tail = (
        f"; the mean, {number(mean)} of the ideal, is higher: some plots lie far outside" if _tailed(anis, mean) else ""
    )
    return f"The uncertainty it states {verdict}: its median NIS is {number(anis)} of the ideal χ²(2) value{tail}."


def _tailed(median: float, mean: float | None) -> bool:
    return mean is not None and mean > 1.0 and mean > 1.5 * median


def _velocity_verdict(winner: TrackerResult) -> str:
    """A word on NEES over position and velocity where it tells another story than the position ellipse; else ""."""
    anees = value_of(winner, "anees")
    if anees is None or 0.8 <= anees <= 1.25:
        return ""
    side = "too small" if anees > 1 else "wider than needed"
    return f" Over position and velocity together it is {side}: mean NEES {number(anees)}, ideal 1."


def span(result: EvaluationResult) -> str:
    """Start, end and length of the evaluated time in UTC; the length alone where the epoch cannot be read."""
    start, end = result.span_s
    if not (isfinite(start) and isfinite(end)):
        return MISSING
    length = str(timedelta(seconds=round(max(end - start, 0.0))))
    try:
        epoch = datetime.fromisoformat(result.epoch)
        epoch = epoch.replace(tzinfo=UTC) if epoch.tzinfo is None else epoch.astimezone(UTC)
        first, last = (epoch + timedelta(seconds=moment) for moment in (start, end))
    except (ValueError, OverflowError):
        return length
    style = "%H:%M:%S" if first.date() == last.date() else "%Y-%m-%d %H:%M:%S"
    return f"{first:%Y-%m-%d %H:%M:%S} to {last.strftime(style)} UTC ({length})"
