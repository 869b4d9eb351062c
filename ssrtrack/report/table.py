"""The scores in the terminal: one line per tracker, at most 100 columns wide."""

from rich.table import Table
from rich.text import Text

from ssrtrack.report import words
from ssrtrack.report.words import ROWS
from ssrtrack.scoring.result import EvaluationResult, Scores, TrackerResult

WITH_TRUTH = (
    "position_rmse_m", "position_rmse_straight_m", "position_rmse_turn_m", "predicted_position_rmse_m",
    "velocity_rmse_mps", "anees", "anis", "coverage_95", "nll", "seconds",
)  # fmt: skip
WITHOUT_TRUTH = (
    "next_plot_rmse_m", "next_plot_p50_m", "next_plot_p95_m", "smoothed_difference_rmse_m", "anis_median_ratio",
    "innovation_lag1", "bds50_ground_speed_rms_mps", "bds50_track_angle_rms_deg", "gated_share", "seconds",
)  # fmt: skip


def format_table(result: EvaluationResult) -> Table:
    """The ten main scores of every tracker, each with half the width of its 95 % interval where known.

    The best of each column is bold and starred, so that it also shows where the console prints no styles. All texts
    are literal: a tracker's name is never read as markup. Columns that do not apply are left out.
    """
    units = Scores.units()
    wanted = WITH_TRUTH if result.has_truth else WITHOUT_TRUTH
    keys = [key for key in wanted if any(words.value_of(tracker, key) is not None for tracker in result.trackers)]
    if not any(words.value_of(tracker, "gated_share") for tracker in result.trackers):
        keys = [key for key in keys if key != "gated_share"]  # no gate, or one that rejects nothing: no column
    table = Table(box=None, padding=(0, 0, 0, 1), header_style="", show_edge=False, width=None)
    table.add_column(Text("tracker", style="bold"), justify="left", overflow="fold", max_width=16)
    for key in keys:
        unit = words.unit(key, units)
        heading = Text(ROWS[key].short, style="bold", justify="right").append(f"\n{unit or '1'}", style="dim")
        table.add_column(heading, justify="right", overflow="fold", max_width=11)
    winners = {key: words.best(ROWS[key], [words.value_of(t, key) for t in result.trackers]) for key in keys}
    for i, tracker in enumerate(result.trackers):
        table.add_row(Text(tracker.name), *(_cell(tracker, key, i in winners[key]) for key in keys))
    table.caption = Text(_caption(result), style="dim")
    table.caption_justify = "left"
    return table


def _cell(tracker: TrackerResult, key: str, wins: bool) -> Text:
    row, value = ROWS[key], words.value_of(tracker, key)
    text = Text(("*" if wins else "") + _unparted(words.written(row, value)), style="bold" if wins else "")
    interval = words.interval_of(tracker, key)
    if value is None or interval is None:
        return text
    scale, places = words.scale_and_places(row, value)
    half = words.number(scale * (interval[1] - interval[0]) / 2, places)
    return text.append(f"\n±{_unparted(half)}", style="dim not bold")


def _unparted(text: str) -> str:
    """Without narrow spaces: a terminal may break a line at one."""
    return text.replace(words.THIN, "")


def _caption(result: EvaluationResult) -> str:
    updates = max((tracker.scores.updates for tracker in result.trackers), default=0)
    flights = max((tracker.scores.flights for tracker in result.trackers), default=0)
    against = "against the truth" if result.has_truth else "without truth"
    return (
        f"{words.count(updates)} updates of {words.count(flights)} flights {against}; * best, ± half the 95 % interval"
    )
