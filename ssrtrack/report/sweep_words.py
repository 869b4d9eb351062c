"""The words and numbers of a sweep: break points, areas, which tracker holds out longest."""

import numpy as np

from ssrtrack.report.words import number
from ssrtrack.scoring.degrade import AXES, RECOVERY_SCANS
from ssrtrack.scoring.sweep_curves import BREAK_FACTOR, LOST, Curve, Sweep

_UNITS = {"1": "", "deg": "°"}
_FORMS = {
    "scan_position_rmse_m": "position error at every scan, RMS, m",
    "predicted_position_rmse_m": f"predicted position error, {RECOVERY_SCANS} scans after, RMS, m",
    "next_plot_mean_m": "distance to the undegraded plot, mean, m",
    "velocity_rmse_mps": "velocity error at every scan, RMS, m/s",
    LOST: "flights lost, %",
}


def score_label(key: str) -> str:
    """What an axis of a figure calls a score."""
    return _FORMS[key]


def level(sweep: Sweep, value: float) -> str:
    """A level as it was asked for, with its unit."""
    return f"{value:g}{_unit(sweep)}".replace("-", "−")


def _unit(sweep: Sweep) -> str:
    unit = AXES[sweep.axis].unit
    return _UNITS.get(unit, f" {unit}")


def broken(sweep: Sweep, curve: Curve) -> str:
    """Where a tracker breaks, in three digits, or that it does not."""
    if curve.break_level is None:
        return f"not up to {level(sweep, float(sweep.levels[-1]))}"
    return f"{number(curve.break_level)}{_unit(sweep)}"


def break_interval(sweep: Sweep, curve: Curve, parted: str = " … ") -> str:
    """The 95 % interval of the break point, low end first, an open end beyond the last level; "" without intervals."""
    if curve.break_interval is None or curve.break_interval == (None, None):
        return ""
    falling = sweep.levels[-1] < sweep.levels[0]
    beyond = f"{'under' if falling else 'over'} {sweep.levels[-1]:g}"
    ends = [beyond if end is None else number(end) for end in curve.break_interval]
    return parted.join(reversed(ends) if falling else ends)


def area(curve: Curve) -> str:
    """Area over the reference's."""
    return number(curve.area_ratio)


def area_interval(curve: Curve, reference: str) -> str:
    """Its 95 % interval; "" for the reference itself."""
    if curve.area_interval is None or curve.tracker == reference:
        return ""
    low, high = curve.area_interval
    return f"{number(low)} … {number(high)}"


def value(curve: Curve, key: str, place: int) -> float | None:
    """A score at a level by its number, None where it is not known."""
    found = float(curve.scores[key][place])
    return found if np.isfinite(found) else None


def lost(curve: Curve, place: int = -1) -> str:
    """Share of flights lost at a level."""
    share = value(curve, LOST, place)
    return "–" if share is None else f"{100 * share:.0f} %"


def _inside(curve: Curve, last: Curve, none: float) -> bool:
    """Whether a tracker breaks within the interval of the last one to break: these flights do not part the two."""
    if curve is last or curve.break_level is None or last.break_interval is None:
        return False
    low, high = (np.inf if end is None else abs(end - none) for end in last.break_interval)
    return bool(low <= abs(curve.break_level - none) <= high)


def verdict(sweep: Sweep) -> str:
    """One plain sentence: who holds out longest, or that nobody breaks."""
    none = float(sweep.levels[0])
    standing = [curve.tracker for curve in sweep.curves if curve.break_level is None]
    limit = f"{BREAK_FACTOR:g} times {sweep.reference}'s undegraded error ({number(sweep.limit)} m)"
    if len(standing) == len(sweep.curves):
        return f"No tracker reaches {limit} up to {level(sweep, float(sweep.levels[-1]))}."
    if standing:
        stay = "stays" if len(standing) == 1 else "stay"
        return f"{', '.join(standing)} {stay} below {limit} up to {level(sweep, float(sweep.levels[-1]))}."
    last = max(sweep.curves, key=lambda curve: abs((curve.break_level or none) - none))
    known, equal = (
        break_interval(sweep, last, " to "),
        [curve.tracker for curve in sweep.curves if _inside(curve, last, none)],
    )
    names = " and ".join([last.tracker, *equal])
    lead = f"{names} hold out longest: {last.tracker}" if equal else f"{last.tracker} holds out longest: it"
    return f"{lead} reaches {limit} at {broken(sweep, last)}{f' (95 % interval {known})' if known else ''}."
