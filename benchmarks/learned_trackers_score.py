"""Scores of learned trackers and of the two IMMs on one log, as rows of the table of `learned_trackers.py`.

Everything is what `ssrtrack evaluate` computes: the same flights, updates, sums and resamples. The reference of each
measure is the IMM that is the better one there: the tuned four-model IMM with mixture noise, or with a gate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from learned_trackers_wanted import (
    ANY,
    AREA,
    LEAST_SHARE,
    NLL_LESS,
    Measure,
    row,
    wanted_of,
)

from ssrtrack.errors import ScoringError
from ssrtrack.io.hdf5 import LogReader
from ssrtrack.models.checkpoint import read_description
from ssrtrack.models.load import shipped
from ssrtrack.scoring.bands import Bands
from ssrtrack.scoring.gather import Asked, gather, nothing_yet, require_flights
from ssrtrack.scoring.gathered import Gathered
from ssrtrack.scoring.result import TrackerResult
from ssrtrack.scoring.summary import tracker_results
from ssrtrack.scoring.sweep import Sweeper

IMMS = {"imm": "imm (mixture noise)", "imm-gated": "imm-gated"}
RESAMPLES, SEED = 1000, 1
DIGITS = 16  # of a digest, as in the names of files of weights
CALIBRATION = ("coverage_95", "anees", "coverage_50", "coverage_90", "coverage_99", "nees_in_bounds")
EFFICIENCY = ("position_efficiency", "velocity_efficiency")


@dataclass(frozen=True)
class Judged:
    """Sums over one log. models: folder -> (name, seed)."""

    gathered: Gathered
    bands: Bands
    sweeper: Sweeper | None
    models: Mapping[str, tuple[str, str]]


def named(trackers: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name and training seed of every model: a shipped one's name, else its folder's, without a seed at its end.

    Raises:
        CheckpointError: a folder holds no model.
        ScoringError: two are called the same.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in trackers:
        seed = str(_seed(read_description(folder_of(text))["training"]))
        name = folder_of(text).resolve().name
        one = (name.removesuffix(f"-{seed}") or name, seed)
        if one in found.values():
            raise ScoringError(f"two models are called {one[0]!r} with seed {seed!r}; call their folders otherwise")
        found[text] = one
    return found


def folder_of(text: str) -> Path:
    """The folder of a learned tracker as `-t` takes it."""
    return shipped().get(text, Path(text))


def digest_of(text: str) -> str:
    """The first digits of the SHA-256 of a model's weights."""
    return str(read_description(folder_of(text))["weights"]["sha256"])[:DIGITS]


def _seed(training: Any) -> Any:
    """The seed in what a checkpoint says of its training, however deep."""
    if isinstance(training, dict):
        if "seed" in training:
            return training["seed"]
        for value in training.values():
            if (found := _seed(value)) != "":
                return found
    return ""


def judged(log: Path, models: Mapping[str, tuple[str, str]], sweep: Sequence[str] = ()) -> Judged:
    """IMMs and models over a log.

    Raises:
        ScoringError: no flight is long enough, or a model was trained on these flights.
        EstimatorError: a model gives NaN or a covariance that is not positive definite.
    """
    asked, bands = Asked([*IMMS, *models]), Bands()
    asked.check()
    sweeper = Sweeper(sweep, seed=SEED) if sweep else None
    with LogReader(log) as reader:
        asked.check_training(reader)
        gathered = nothing_yet(asked, reader)
        require_flights(log, gather(reader, asked, gathered, sweeper=sweeper, bands=bands), gathered)
    return Judged(gathered, bands, sweeper, models)


def results_of(found: Judged) -> dict[str, dict[str, TrackerResult]]:
    """Results by reference, then by tracker: ratios are to that reference, on the same resamples."""
    tallies, order = found.gathered.tallies, found.gathered.flight_order()
    results = {}
    for reference in IMMS:
        first = {reference: tallies[reference]} | {name: tallies[name] for name in found.models}
        rows = tracker_results(first, order, has_truth=found.gathered.has_truth, bootstrap=RESAMPLES, seed=SEED)
        results[reference] = {result.name: result for result in rows}
    return results


def score(result: TrackerResult, key: str) -> float:
    """One score, NaN where there is none."""
    value = getattr(result.scores, key)
    return nan if value is None else float(value)


def better(results: Mapping[str, Mapping[str, TrackerResult]], key: str) -> tuple[str, float]:
    """The IMM whose score is lower, and that score."""
    values = {name: score(results[name][name], key) for name in IMMS}
    name = min(values, key=lambda n: values[n] if isfinite(values[n]) else float("inf"))
    return name, values[name]


def ratio_rows(part: str, where: str, found: Judged, measures: Mapping[str, Measure]) -> list[dict[str, Any]]:
    """Ratios to the better IMM of each measure, with paired intervals over flights."""
    results, rows = results_of(found), []
    for measure, asked in measures.items():
        name, best = better(results, asked.score)
        for folder, model in found.models.items():
            result = results[name][folder]
            value = score(result, asked.score) / best
            if isfinite(value):  # no manoeuvre, for example: nothing to say
                given = result.ratio.get(asked.score)
                rows.append(
                    row(
                        part, where, model, measure, value, wanted=asked.wanted,
                        interval=given[1:] if given else None, reference=IMMS[name], reference_value=best,
                        flights=result.scores.flights, updates=result.scores.updates,
                    )
                )  # fmt: skip
    return rows


def calibration_rows(where: str, found: Judged) -> list[dict[str, Any]]:
    """Coverage, ANEES and likelihood as a whole, by what the aircraft does, by range and by speed; efficiency."""
    results, rows = results_of(found), []
    named_by = better(results, "position_rmse_m")[0]
    least_nll = better(results, "nll")
    for folder, model in found.models.items():
        result = results[named_by][folder]
        counts = {"flights": result.scores.flights, "updates": result.scores.updates}
        for key in (*CALIBRATION, *EFFICIENCY):
            part = "efficiency" if key in EFFICIENCY else "calibration"
            wanted = wanted_of(part, key, nan, whole=False)
            rows.append(
                row(
                    part, where, model, key, score(result, key), wanted=wanted, interval=result.intervals.get(key),
                    reference=IMMS[named_by], reference_value=score(results[named_by][named_by], key), **counts,
                )
            )  # fmt: skip
        rows.append(
            row(
                "calibration", where, model, "nll less IMM", score(result, "nll") - least_nll[1], wanted=NLL_LESS,
                unit="nat", reference=IMMS[least_nll[0]], reference_value=least_nll[1], **counts,
            )
        )  # fmt: skip
    return rows + band_rows(where, found, named_by)


def band_rows(where: str, found: Judged, reference: str) -> list[dict[str, Any]]:
    """Coverage in every band, and ANEES in every phase beside the reference's."""
    scores, rows = found.bands.scores(bootstrap=RESAMPLES, seed=SEED), []
    for folder, model in found.models.items():
        updates = sum(
            own.updates for (kind, _, key), own in scores[folder].items() if (kind, key) == ("range", "anees")
        )
        for (kind, band, key), own in scores[folder].items():
            if key not in ("coverage_95", "anees"):
                continue
            theirs = scores[reference][kind, band, key]
            wanted = wanted_of(f"{kind} bands", key, theirs.value)
            if own.updates < LEAST_SHARE * updates:
                wanted = ANY
            rows.append(
                row(
                    f"{kind} bands", where, model, f"{key}, {band}", own.value, wanted=wanted, interval=own.interval,
                    reference=IMMS[reference], reference_value=theirs.value, flights=own.flights, updates=own.updates,
                )
            )  # fmt: skip
    return rows


def sweep_rows(where: str, found: Judged) -> list[dict[str, Any]]:
    """Area under every axis's curve over the IMM's, the one of the two with the smaller area."""
    assert found.sweeper is not None
    rows, order = [], found.gathered.flight_order()
    by_reference = {
        name: found.sweeper.results(order, has_truth=True, bootstrap=RESAMPLES, seed=SEED, reference=name)
        for name in IMMS
    }
    for number, sweep in enumerate(by_reference["imm"]):
        curves = {name: {c.tracker: c for c in by_reference[name][number].curves} for name in IMMS}
        # The ratio of one area to the other says whose is smaller.
        gated = curves["imm"]["imm-gated"].area_ratio
        reference = "imm-gated" if gated is not None and gated < 1.0 else "imm"
        for folder, model in found.models.items():
            curve = curves[reference][folder]
            rows.append(
                row(
                    "sweep", where, model, sweep.axis, nan if curve.area_ratio is None else curve.area_ratio,
                    wanted=AREA, interval=curve.area_interval, reference=IMMS[reference], flights=sweep.flights,
                )
            )  # fmt: skip
    return rows


def file_octets(text: str) -> int:
    """Size of a model's weights on disk."""
    return (folder_of(text) / read_description(folder_of(text))["weights"]["file"]).stat().st_size
