"""What the figures show, as plain arrays: where to look closer, how far an axis reaches, curves out of histograms."""

from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from ssrtrack.geodesy import wrapped_angle
from ssrtrack.scoring.result import EvaluationResult, FlightExample, Histogram
from ssrtrack.units import NM_M

Array = NDArray[np.float64]
FOCUS_SCANS = 9
# Without truth an aircraft turns where its smoothed course changes faster than this: a third of a rate-one turn, three
# times what the noise of a good radar makes of a straight path.
TURN_RADPS = np.deg2rad(1.0)


def ring_step_nm(reach_nm: float) -> float:
    """Distance between range rings that gives at most five within `reach_nm`."""
    return next((step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if reach_nm / step <= 5), 100.0)


def reach_nm(tracks_m: list[Array]) -> float:
    """Largest finite distance from the origin in NM; 1 where there is none."""
    far = [float(np.nanmax(np.hypot(*xy.T))) for xy in tracks_m if np.isfinite(xy).all(axis=1).any()]
    return max([1.0, *(metres / NM_M for metres in far)])


def _rolling_mean(values: Array, width: int) -> Array:
    total = np.concatenate(([0.0], np.cumsum(np.nan_to_num(values))))
    return np.asarray((total[width:] - total[:-width]) / width)


def turning(example: FlightExample) -> NDArray[np.bool_] | None:
    """Whether the aircraft turns at each scan: the truth's phase, else by the smoothed path; None without either.

    A turn by the smoothed path goes on for two scans at least: a single one is a displaced plot.
    """
    if example.turning is not None:
        return np.asarray(example.turning, dtype=bool)
    if example.smoothed_m is None:
        return None
    span_s = np.gradient(np.asarray(example.time_s, dtype=np.float64)) if len(example.time_s) > 1 else np.ones(1)
    fast = _turning(example) > TURN_RADPS * np.maximum(span_s, 1e-3)
    lasting = np.append(fast[1:], False) | np.insert(fast[:-1], 0, False)
    return np.asarray(fast & lasting)


def _turning(example: FlightExample) -> Array:
    """How much the aircraft turns at each scan: the truth's phase, else the smoothed path's change of course."""
    if example.turning is not None:
        return np.asarray(example.turning, dtype=np.float64)
    change = np.zeros(len(example.time_s))
    if example.smoothed_m is not None and len(change) > 2:
        step = np.diff(np.asarray(example.smoothed_m, dtype=np.float64), axis=0)
        course = np.arctan2(step[:, 0], step[:, 1])
        turned = np.abs(wrapped_angle(np.diff(course)))
        change[1:-1] = np.clip(np.nan_to_num(turned), 0.0, 0.5)  # a jump of a bad plot is no turn
    return change


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of every run of True, the last one step on so that a run of one scan has a width."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return [(int(a), int(min(b, len(flags) - 1))) for a, b in edges.reshape(-1, 2)]


def focus(example: FlightExample, warmup: int) -> slice:
    """The scans worth a closer look: the most turning ones, else those with the largest errors, after the warm-up."""
    total = len(example.time_s)
    width = min(FOCUS_SCANS, total)
    interest = 1e9 * _turning(example)  # turning decides, the error only breaks ties
    for error in example.error_m.values():
        interest += np.clip(np.nan_to_num(error), 0.0, 1e6)
    if total > warmup + width:
        interest[:warmup] = 0.0
    start = int(np.argmax(_rolling_mean(interest, width))) if width else 0
    return slice(start, start + width)


def square_box(points: Array, margin: float = 0.1, least: float = 200.0) -> tuple[float, float, float, float]:
    """(x low, x high, y low, y high): the square around finite `points` (N, 2), with a margin, `least` wide or more."""
    known = points[np.isfinite(points).all(axis=1)]
    if not len(known):
        return (-least, least, -least, least)
    low, high = known.min(axis=0), known.max(axis=0)
    half = max(float((high - low).max()) * (0.5 + margin), least / 2)
    x, y = (float(value) for value in (low + high) / 2)
    return (x - half, x + half, y - half, y + half)


def error_limit(example: FlightExample, names: list[str], warmup: int) -> float:
    """Top of the error axis: nearly all errors and envelopes after the warm-up.

    Lone spikes are cut, and one tracker far worse than the others does not flatten them: its curve is cut instead.
    """
    tops = []
    for name in names:
        top = 1.0
        for values, share in ((example.error_m[name], 0.99), (2 * example.sigma_m[name], 0.9)):
            scored = values[warmup:] if len(values) > warmup else values
            scored = scored[np.isfinite(scored)]
            top = max(top, float(np.quantile(scored, share)) if len(scored) else 0.0)
        tops.append(top)
    return 1.15 * min(max(tops), 2.5 * float(np.median(tops)))


def inside_share(error: Array, sigma: Array, warmup: int) -> float | None:
    """Share of errors after the warm-up that lie within twice sigma; None when none are known."""
    error, sigma = error[warmup:], sigma[warmup:]
    known = np.isfinite(error) & np.isfinite(sigma)
    return float(np.mean(error[known] <= 2 * sigma[known])) if known.any() else None


def rms(values: Array) -> float | None:
    """Root mean square of the finite values; None when there are none."""
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else None


def cumulative(histogram: Histogram) -> tuple[Array, Array]:
    """(x, share): share of values below each finite inner edge, thinned to where it changes. Empty without counts."""
    total = float(histogram.counts.sum())
    if total <= 0:
        return np.empty(0), np.empty(0)
    below = np.cumsum(histogram.counts)[:-1] / total
    edge = np.asarray(histogram.edges, dtype=np.float64)[1:-1]
    change = np.diff(below, prepend=0.0) > 0
    keep = change | np.append(change[1:], False)  # the last edge before a step keeps the step upright
    return edge[keep], below[keep]


def distribution_limits(curves: list[tuple[Array, Array]]) -> tuple[float, float, float, float]:
    """(low, middle, high, floor) for non-empty (x, share) curves: x at 0.5 %, at 50 %, the last; least tail in %."""

    def reached(share: float) -> float:
        return min(float(x[min(int(np.searchsorted(below, share)), len(x) - 1)]) for x, below in curves)

    high = 1.1 * max(float(x[-1]) for x, _ in curves)
    tails = [1 - below[below < 1] for _, below in curves]
    least = min((float(tail[-1]) for tail in tails if len(tail)), default=0.1)
    return reached(0.005), reached(0.5), high, 100 * min(max(least, 1e-5), 0.1)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Value below which `share` of the counts lie, interpolated on a log scale; None when outside the finite edges."""
    x, below = cumulative(histogram)
    inner = (below > 0) & (x > 0)
    if not inner.any() or share > below[-1]:
        return None
    return float(np.exp(np.interp(share, below[inner], np.log(x[inner]))))


def ellipse_scale(share: Array) -> Array:
    """-2 ln(1 - share): the squared radius of the 2-D Gaussian ellipse holding `share`; capped at 99.95 %.

    On this scale a covariance too small by a factor c is a straight line of slope 1/c through the origin.
    """
    return np.asarray(-2.0 * np.log1p(-np.clip(share, 0.0, 0.9995)))


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round values between `low` and `high`: 1, 2, 5 × 10^k, only powers of ten where those would be too many."""
    if not 0 < low < high < inf:
        return [1.0]
    decades = range(int(np.floor(np.log10(low))), ceil(np.log10(high)) + 1)
    fine = [m * 10.0**k for k in decades for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    coarse = [10.0**k for k in decades if low <= 10.0**k <= high]
    if len(fine) < 4:
        fine = [m * 10.0**k for k in decades for m in (1, 1.5, 2, 3, 4, 5, 7) if low <= m * 10.0**k <= high]
    return fine if len(fine) <= most or not coarse else coarse


def paired_flights(result: EvaluationResult) -> dict[str, tuple[Array, Array]]:
    """Tracker name -> (first tracker's, this tracker's) RMS error of the flights both know; later trackers only."""
    first = np.asarray(result.trackers[0].per_flight_rmse_m, dtype=np.float64)
    pairs = {}
    for tracker in result.trackers[1:]:
        mine = np.asarray(tracker.per_flight_rmse_m, dtype=np.float64)
        if mine.shape == first.shape:
            both = np.isfinite(first) & np.isfinite(mine) & (first > 0) & (mine > 0)
            if both.sum() > 1:
                pairs[tracker.name] = (first[both], mine[both])
    return pairs
