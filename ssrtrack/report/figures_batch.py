"""The figure of many logs: each log's main score, worst to best."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ssrtrack.report.figures_base import draw, line, plain_log
from ssrtrack.report.looks import looks
from ssrtrack.scoring.overall import LogResult, main_score

FEW = 60  # logs up to which each one gets a mark


def logs_by_score(logs: Sequence[LogResult], trackers: Sequence[str], prefix: str) -> str | None:
    """Every tracker's score on every log, logs in the order given (worst first); None for fewer than two logs.

    Logs all have truth or all have none.
    """
    if len(logs) < 2:
        return None
    key, shown = main_score(logs[0].has_truth), looks(trackers)
    values = {name: np.array([log.score(name, key) or np.nan for log in logs]) for name in trackers}
    known = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    if not known.size:
        return None
    low, high = float(known.min()) / 1.15, float(known.max()) * 1.15
    what = "position error, RMS, m" if logs[0].has_truth else "distance to the next plot, p95, m"

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        place = np.arange(1, len(logs) + 1)
        for name, column in values.items():
            look = shown[name]
            if len(logs) <= FEW:
                line(axes, place, column, look, linewidth=1.0, marker=look.marker, markersize=4, markeredgewidth=0)
            else:
                line(axes, place, column, look, linewidth=1.2)
        plain_log(axes.yaxis, low, high, 7)
        axes.set(xlim=(0.5, len(logs) + 0.5), ylim=(low, high), xlabel="logs, worst first", ylabel=what)

    return draw(3.2, prefix, f"{what}, of every log, worst first", paint)
