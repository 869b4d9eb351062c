"""What `learned_trackers.py` asks of a learned tracker, and what a row of its table says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log, nan, sqrt
from typing import Any

COLUMNS = (
    "part", "set", "model", "seed", "measure", "value", "low", "high", "unit", "reference", "reference_value", "must",
    "target", "met", "flights", "updates",
)  # fmt: skip
SUITE_ROW = "suite"  # the set of a row over all four scenarios
OVER_OWN = " over_set_tuned_imm"  # behind a part's name: the reference is the best IMM tuned on that set alone
LEAST_SHARE = 0.01  # of the updates: of less nothing is asked
BANDS = ("phase bands", "range bands", "speed bands")
GEOMETRIC = ("ratio", "gaussian", "efficiency")  # parts whose mean over sets is geometric
OF_SETS = (*GEOMETRIC, "calibration", *BANDS)  # parts of which a row over the suite is made
ABSENT, FAILED = "absent", "failed"  # parts: what was not judged in the time given, or could not be
ABOVE_OWN = "transfer less own set"  # part: a setting's ratio less that of the set it is made from


@dataclass(frozen=True)
class Wanted:
    """Bounds of a value, both inclusive: a `must`, and a better `target` where there is one."""

    must: tuple[float, float] = (-inf, inf)
    target: tuple[float, float] | None = None

    def met(self, value: float) -> str:
        """ "target", "must" or "no"; nothing where nothing is asked."""
        if self == ANY:
            return ""
        if self.target is not None and self.target[0] <= value <= self.target[1]:
            return "target"
        return "must" if self.must[0] <= value <= self.must[1] else "no"


ANY = Wanted()


def at_most(must: float, target: float | None = None) -> Wanted:
    """An upper bound."""
    return Wanted((-inf, must), None if target is None else (-inf, target))


@dataclass(frozen=True)
class Measure:
    """A score whose ratio to the better IMM's is taken, and what is asked of that ratio."""

    score: str  # key of ssrtrack.scoring.result.Scores
    wanted: Wanted = ANY


ACCURACY = {
    "all updates, position": Measure("position_rmse_m", at_most(0.88, 0.80)),
    "all updates, velocity": Measure("velocity_rmse_mps", at_most(0.87, 0.75)),
    "first three scans, position": Measure("position_rmse_onset_m"),
    "first three scans, velocity": Measure("velocity_rmse_onset_mps", at_most(0.92, 0.85)),
    "one scan ahead, position": Measure("predicted_position_rmse_m", at_most(0.90, 0.82)),
    "straight legs, position": Measure("position_rmse_straight_m", at_most(0.90, 0.82)),
    "straight legs, velocity": Measure("velocity_rmse_straight_mps"),
    "turns, position": Measure("position_rmse_turn_m"),
    "turns, velocity": Measure("velocity_rmse_turn_mps"),
    "heading": Measure("heading_rmse_deg"),
}
GAUSSIAN = {
    "all updates, position": Measure("position_rmse_m", at_most(0.93, 0.88)),
    "all updates, velocity": Measure("velocity_rmse_mps", at_most(0.90, 0.82)),
}
# Never worse than the IMM; where aircraft fly as in the suite, its ratios hold, to 0.05.
TRANSFER_ALIKE = {
    "all updates, position": Measure("position_rmse_m", at_most(0.93, 0.88)),
    "all updates, velocity": Measure("velocity_rmse_mps", at_most(0.92, 0.87)),
}
TRANSFER_OTHER = {
    "all updates, position": Measure("position_rmse_m", at_most(1.0, 0.93)),
    "all updates, velocity": Measure("velocity_rmse_mps", at_most(1.0, 0.92)),
}
# Plots without truth: predicted no worse, speed and direction nearer to what aircraft say themselves.
HOUR = {
    "next plot": Measure("next_plot_rmse_m", at_most(1.0)),
    "next plot, 95th percentile": Measure("next_plot_p95_m"),
    "BDS 5,0 ground speed": Measure("bds50_ground_speed_rms_mps", at_most(0.9999)),
    "BDS 5,0 track angle": Measure("bds50_track_angle_rms_deg", at_most(0.9999)),
}
# The ratio elsewhere less the ratio at home, where aircraft fly alike.
CLOSE = at_most(0.05)
COVERAGE_ALL, COVERAGE_PART = Wanted((0.94, 0.96)), Wanted((0.93, 0.97))
ANEES_ALL = Wanted((0.9, 1.1))
# Below the IMM's, by more than rounding.
NLL_LESS = at_most(-1e-4)
AREA = at_most(0.9999)
STEP_MS = at_most(10.0)
STATE_OCTETS = at_most(65536.0)
FILE_OCTETS = at_most(4e6)
NO_NAN = at_most(0.0)
SAME = at_most(1e-3)  # standard deviations between two ways to compute one estimate


def row(
    part: str,
    name: str,
    model: tuple[str, str],
    measure: str,
    value: float,
    *,
    wanted: Wanted = ANY,
    interval: tuple[float, float] | None = None,
    unit: str = "1",
    reference: str = "",
    reference_value: float = nan,
    flights: int = 0,
    updates: int = 0,
) -> dict[str, Any]:
    """A row of the table; `model` is name and seed."""
    low, high = interval or (nan, nan)
    return {
        "part": part, "set": name, "model": model[0], "seed": model[1], "measure": measure, "value": value,
        "low": low, "high": high, "unit": unit, "reference": reference, "reference_value": reference_value,
        "must": bounds(wanted.must), "target": bounds(wanted.target), "met": wanted.met(value), "flights": flights,
        "updates": updates,
    }  # fmt: skip


def bounds(pair: tuple[float, float] | None) -> str:
    """Bounds as a reader writes them; nothing for none."""
    if pair is None or pair == (-inf, inf):
        return ""
    low, high = (f"{end:.4g}" for end in pair)
    return f"<= {high}" if not isfinite(pair[0]) else f"{low} to {high}"


def base_of(part: str) -> str:
    """A part whatever its reference."""
    return part.removesuffix(OVER_OWN)


def over_suite(rows: Iterable[dict[str, Any]], sets: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row over all sets for each model and measure that has one in several: ratios on the suite, and calibration.

    Ratios and efficiencies: the geometric mean; the sets are independent, so the squares of their intervals' half
    widths (logarithmic) add. Shares and ANEES: the mean over all updates, its interval likewise.

    Args:
        sets: what a model must have been judged on for a part to have such rows; empty: whatever there is.
    """
    some = [r for r in rows if base_of(r["part"]) in OF_SETS and r["measure"] != "nll less IMM"]
    seen: dict[tuple[Any, ...], set[str]] = {}
    for one in some:
        seen.setdefault((one["part"], one["model"], one["seed"]), set()).add(one["set"])
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in some:
        if seen[one["part"], one["model"], one["seed"]] >= set(sets):
            groups.setdefault((one["part"], one["model"], one["seed"], one["measure"]), []).append(one)
    return [_joined(group) for group in groups.values() if len(group) > 1]


def above_own(rows: Sequence[dict[str, Any]], own: Mapping[str, str]) -> list[dict[str, Any]]:
    """How far a setting's ratio lies above that of the set that it is made from; own: setting -> set, flown alike."""
    home = {
        (r["set"], r["model"], r["seed"], r["measure"]): r["value"] for r in rows if r["part"] == "ratio"
    }  # fmt: skip
    found = []
    for r in rows:
        key = own.get(r["set"], ""), r["model"], r["seed"], r["measure"]
        if r["part"] == "transfer" and key in home:
            found.append(
                row(
                    ABOVE_OWN, r["set"], (r["model"], r["seed"]), r["measure"], r["value"] - home[key], wanted=CLOSE,
                    reference=f"ratio on {key[0]}", reference_value=home[key], flights=r["flights"],
                    updates=r["updates"],
                )
            )  # fmt: skip
    return found


def _joined(some: list[dict[str, Any]]) -> dict[str, Any]:
    first = some[0]
    geometric = base_of(first["part"]) in GEOMETRIC
    total = sum(one["updates"] for one in some)
    weights = [1.0 / len(some) if geometric else one["updates"] / total for one in some]
    value = mean(some, "value", weights, geometric)
    # A set with next to no updates in a band has no interval of its own, and would hardly change this one.
    counted = [(w, one) for w, one in zip(weights, some, strict=True) if geometric or w >= LEAST_SHARE]
    interval = None
    if all(isfinite(one["low"]) and one["low"] > 0.0 for _, one in counted):
        scale = log if geometric else float
        width = sqrt(sum((0.5 * w * (scale(one["high"]) - scale(one["low"]))) ** 2 for w, one in counted))
        interval = (value * exp(-width), value * exp(width)) if geometric else (value - width, value + width)
    # Of ratios the references are errors in metres, which have no mean over sets.
    told = base_of(first["part"]) not in ("ratio", "gaussian")
    reference_value = mean(some, "reference_value", weights, geometric) if told else nan
    wanted = wanted_of(first["part"], first["measure"], reference_value)
    names = {one["reference"] for one in some}
    return row(
        first["part"], SUITE_ROW, (first["model"], first["seed"]), first["measure"], value,
        wanted=wanted, interval=interval, unit=first["unit"],
        reference=names.pop() if len(names) == 1 else "better of each set",
        reference_value=reference_value,
        flights=sum(one["flights"] for one in some), updates=total,
    )  # fmt: skip


def wanted_of(part: str, measure: str, reference_value: float, whole: bool = True) -> Wanted:
    """What is asked of a row of a part that is told by set and over the suite (`whole`)."""
    if (part := base_of(part)) in ("ratio", "gaussian"):
        return {"ratio": ACCURACY, "gaussian": GAUSSIAN}[part][measure].wanted
    if part == "phase bands":
        return closer_to_one(reference_value) if measure.startswith("anees") else ANY
    if part in BANDS or not whole:
        return COVERAGE_PART if measure.startswith("coverage_95") else ANY
    return {"coverage_95": COVERAGE_ALL, "anees": ANEES_ALL}.get(measure, ANY)


def closer_to_one(theirs: float) -> Wanted:
    """Closer to 1 than a reference, by more than rounding."""
    off = abs(theirs - 1.0) * (1.0 - 1e-4)
    return Wanted((max(0.0, 1.0 - off), 1.0 + off))


def over_seeds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows over the suite: the mean over a model's seeds, with the least and greatest as its interval."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in rows:
        if one["set"] == SUITE_ROW:
            groups.setdefault((one["part"], one["model"], one["measure"]), []).append(one)
    found = []
    for some in groups.values():
        values = [one["value"] for one in some]
        if len(some) > 1:
            first, value = some[0], sum(values) / len(values)
            wanted = wanted_of(first["part"], first["measure"], first["reference_value"])
            more = {"value": value, "low": min(values), "high": max(values), "met": wanted.met(value)}
            found.append(first | more | {"seed": f"all {len(some)}"})
    return found


def mean(some: list[dict[str, Any]], key: str, weights: list[float], geometric: bool) -> float:
    """Weighted mean of a column."""
    pairs = [(w, float(one[key])) for w, one in zip(weights, some, strict=True)]
    return exp(sum(w * log(v) for w, v in pairs)) if geometric else sum(w * v for w, v in pairs)
